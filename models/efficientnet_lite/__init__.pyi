from .fused import FusedEfficientNetLite as FusedEfficientNetLite
from .model import EfficientNetLite as EfficientNetLite
from .model import EfficientNetLiteConfig as EfficientNetLiteConfig
