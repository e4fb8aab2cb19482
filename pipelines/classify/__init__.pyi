from .pipeline import ClassifyPipeline as ClassifyPipeline
from .results import ClassificationResult as ClassificationResult
from .results import FrameClasses as FrameClasses
from .results import Prediction as Prediction
