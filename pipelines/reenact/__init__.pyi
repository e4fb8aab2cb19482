from .live import Live as Live
from .motion import Motion as Motion
from .pipeline import Portrait as Portrait
from .pipeline import ReenactPipeline as ReenactPipeline
from .pipeline import ReenactResult as ReenactResult
