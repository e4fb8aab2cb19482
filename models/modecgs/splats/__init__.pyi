from .baking import bake as bake
from .files import FORMATS as FORMATS
from .files import read_splats as read_splats
from .files import splat_format as splat_format
from .files import write_splats as write_splats
