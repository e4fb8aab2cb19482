"""SuperGlobal: image retrieval and reranking with global features only (arXiv 2308.06954)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach
from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.model:build")
register_converter(f"{__name__}.checkpoint", networks=[f"{__name__}.model:SuperGlobal"])

_names = {
    "SuperGlobal": f"{__name__}.model:SuperGlobal",
    "SuperGlobalConfig": f"{__name__}.model:SuperGlobalConfig",
    "SuperGlobalTraining": f"{__name__}.training:SuperGlobalTraining",
    "SuperGlobalData": f"{__name__}.data:SuperGlobalData",
    "RevisitedData": f"{__name__}.data:RevisitedData",
    "Evaluation": f"{__name__}.evaluation:Evaluation",
    "evaluate_descriptors": f"{__name__}.evaluation:evaluate_descriptors",
    "read_benchmark": f"{__name__}.revisited:read_benchmark",
    "convert_ground_truth": f"{__name__}.revisited:convert_ground_truth",
    "Preprocess": f"{__name__}.preprocess:Preprocess",
    "from_classifier": f"{__name__}.model:from_classifier",
    "from_timm": f"{__name__}.model:from_timm",
    "rerank": f"{__name__}.reranking:rerank",
    "RerankResult": f"{__name__}.reranking:RerankResult",
}
__getattr__, __dir__ = attach(__name__, _names)

if TYPE_CHECKING:
    from .data import RevisitedData as RevisitedData
    from .data import SuperGlobalData as SuperGlobalData
    from .evaluation import Evaluation as Evaluation
    from .evaluation import evaluate_descriptors as evaluate_descriptors
    from .model import SuperGlobal as SuperGlobal
    from .model import SuperGlobalConfig as SuperGlobalConfig
    from .model import from_classifier as from_classifier
    from .model import from_timm as from_timm
    from .preprocess import Preprocess as Preprocess
    from .reranking import RerankResult as RerankResult
    from .reranking import rerank as rerank
    from .revisited import convert_ground_truth as convert_ground_truth
    from .revisited import read_benchmark as read_benchmark
    from .training import SuperGlobalTraining as SuperGlobalTraining
