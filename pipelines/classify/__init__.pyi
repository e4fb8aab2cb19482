from .pipeline import ClassificationResult as ClassificationResult
from .pipeline import ClassifyPipeline as ClassifyPipeline
from .pipeline import Prediction as Prediction
