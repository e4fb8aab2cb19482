from .call import Segment as Segment
from .diffusion import VisionZooAttnProcessor as VisionZooAttnProcessor
from .functional import attention as attention
from .functional import attention_with_lse as attention_with_lse
from .functional import merge_attention as merge_attention
from .segments import segment_attention as segment_attention
from .select import attention_backend as attention_backend
