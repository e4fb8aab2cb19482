from .pipeline import InterpolatePipeline as InterpolatePipeline
from .pipeline import InterpolateResult as InterpolateResult
