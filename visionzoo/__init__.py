"""visionzoo: eight published vision and video systems on current PyTorch.

Names below are imported on first use: `import visionzoo` itself loads neither torch nor anything heavy.
"""

from __future__ import annotations

from pathlib import Path as _Path
from typing import TYPE_CHECKING

from .lazy import attach as _attach

__version__ = "0.1.0"

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "models" / "__init__.py").is_file():
    __path__.append(str(_root))  # a source checkout: visionzoo.models is <root>/models

_names = {
    "attention": "visionzoo.attention",  # a package that is also the function
    "create_model": "visionzoo.registry:create_model",
    "list_models": "visionzoo.registry:list_models",
    "list_pipelines": "visionzoo.registry:list_pipelines",
    "model_card": "visionzoo.registry:model_card",
    "pipeline": "visionzoo.registry:pipeline",
    "load_checkpoint": "visionzoo.weights:load_checkpoint",
    "MemoryBank": "visionzoo.memory.bank:MemoryBank",
    "ModelCard": "visionzoo.cards:ModelCard",
    "VisionZooError": "visionzoo.errors:VisionZooError",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = ["__version__", *_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .attention import attention as attention
    from .cards import ModelCard as ModelCard
    from .errors import VisionZooError as VisionZooError
    from .memory.bank import MemoryBank as MemoryBank
    from .registry import (
        create_model as create_model,
    )
    from .registry import (
        list_models as list_models,
    )
    from .registry import (
        list_pipelines as list_pipelines,
    )
    from .registry import (
        model_card as model_card,
    )
    from .registry import (
        pipeline as pipeline,
    )
    from .weights import load_checkpoint as load_checkpoint
