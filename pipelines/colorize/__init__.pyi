from .coloring import ColoredSegment as ColoredSegment
from .coloring import Coloring as Coloring
from .coloring import MemoryFacts as MemoryFacts
from .options import ColorizeOptions as ColorizeOptions
from .pipeline import ColorizedVideo as ColorizedVideo
from .pipeline import LongAnimationPipeline as LongAnimationPipeline
from .saved_coloring import is_coloring as is_coloring
