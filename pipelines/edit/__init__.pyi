from .options import EditOptions as EditOptions
from .pipeline import EditResult as EditResult
from .pipeline import LOVEConPipeline as LOVEConPipeline
from .presets import load_preset as load_preset
from .presets import preset_names as preset_names
