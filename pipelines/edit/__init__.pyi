from .options import EditOptions as EditOptions
from .pipeline import EditResult as EditResult
from .pipeline import LOVEConPipeline as LOVEConPipeline
