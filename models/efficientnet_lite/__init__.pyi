from .cards import PACKAGE_FILE as PACKAGE_FILE
from .cards import PACKAGE_SHA256 as PACKAGE_SHA256
from .fused import FusedEfficientNetLite as FusedEfficientNetLite
from .model import EfficientNetLite as EfficientNetLite
from .model import EfficientNetLiteConfig as EfficientNetLiteConfig
