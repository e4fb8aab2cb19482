from .generation import Chunk as Chunk
from .generation import Generation as Generation
from .options import GenerateOptions as GenerateOptions
from .pipeline import GeneratedVideo as GeneratedVideo
from .pipeline import SlowFastVGenPipeline as SlowFastVGenPipeline
