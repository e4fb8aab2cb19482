from .camera import ACTIONS as ACTIONS
from .captions import vocabulary as vocabulary
from .characters import Character as Character
from .clip import Clip as Clip
from .clip import Frame as Frame
from .clip import Region as Region
from .colors import COLORS as COLORS
from .world import ToyWorld as ToyWorld
