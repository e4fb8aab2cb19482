from .pipeline import DehazePipeline as DehazePipeline
from .pipeline import DehazeResult as DehazeResult
