from .attention import attention as attention
from .cards import ModelCard as ModelCard
from .errors import VisionZooError as VisionZooError
from .memory.bank import MemoryBank as MemoryBank
from .registry import create_model as create_model
from .registry import list_models as list_models
from .registry import list_pipelines as list_pipelines
from .registry import model_card as model_card
from .registry import pipeline as pipeline
from .weights.loading import load_checkpoint as load_checkpoint

__version__: str
