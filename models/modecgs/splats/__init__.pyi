from .baking import bake as bake
from .files import read_splats as read_splats
from .files import write_splats as write_splats
from .formats import FORMATS as FORMATS
from .formats import splat_format as splat_format
