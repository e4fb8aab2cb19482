from .harmonics import spherical_harmonics as spherical_harmonics
from .projecting import project as project
from .projection import Projection as Projection
from .projection import rotation_matrices as rotation_matrices
from .rendering import render as render
from .result import Render as Render
from .rules import RULES as RULES
from .rules import Rules as Rules
