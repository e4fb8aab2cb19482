"""Frames beside texts by a CLIP model (Radford et al., arXiv 2103.00020) that the user has as a folder; nothing is downloaded.

The measures are those usual for edited videos, as in FateZero (arXiv 2303.09535): frame consistency, textual alignment and frame
accuracy. Values of different CLIP models cannot be compared, so every result has the name of its model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError, WeightsError, check_kind, described, require
from visionzoo.io.pixels import to_uint8

from .features import extract
from .frames import Pixels, video_planes

ORIGIN = "e.g. a copy of openai/clip-vit-large-patch14"
FILES = {
    "config.json": ("config.json",),
    "the settings of the images": ("preprocessor_config.json", "processor_config.json"),
    "the vocabulary": ("tokenizer.json", "vocab.json"),
}
"""What a folder must hold, and the files of which one is enough. transformers replaces a missing vocabulary by an empty one."""


class ClipModel:
    """A CLIP model in the folder format of transformers: `CLIPModel`, image processor and tokenizer.

    It is a `FeatureExtractor` of images, too: `fid` and `scene_return_consistency` take it.

    Args:
        path: folder with config.json, weights, preprocessor_config.json and the tokenizer's files.
        device: where the model runs.

    Raises:
        WeightsError: the folder is incomplete, holds another model, or does not fit.
        MissingDependencyError: transformers is not installed.
    """

    def __init__(self, path: str | PathLike[str], *, device: torch.device | str = "cpu") -> None:
        folder = _checked(path)
        require("transformers", extra="diffusion", purpose="a CLIP model")
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        from visionzoo.diffusion.folders import load_part

        self.name = f"CLIP, {folder.name}"
        self.device = torch.device(device)
        try:
            model: Any = load_part(folder, CLIPModel)
            self._images: Any = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except WeightsError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:160]
            raise WeightsError(f"{folder}: cannot be read ({reason}); copy the folder again") from error
        self._model = model.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Image embeddings (N, D) of images (N, H, W, 3), float in [0, 1], resized and cropped as the folder says."""
        if pixels.ndim != 4:
            raise InputError(f"{self.name} describes images (N, H, W, 3), got shape {tuple(pixels.shape)}")
        images = list(to_uint8(pixels.movedim(-1, 1)))
        inputs = self._images(images=images, input_data_format="channels_last", return_tensors="pt")
        return _pooled(self._model.get_image_features(pixel_values=inputs["pixel_values"].to(self.device)))

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings (N, D); a text that is too long is cut off at the end, with a warning."""
        limit = self._model.config.text_config.max_position_embeddings
        for text in texts:
            if len(self._tokenizer(text).input_ids) > limit:
                warnings.warn(
                    f"the prompt has more than {limit - 2} tokens, so its end is ignored: {text}", stacklevel=3
                )
        inputs = self._tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        ids, mask = (inputs[name].to(self.device) for name in ("input_ids", "attention_mask"))
        return _pooled(self._model.get_text_features(input_ids=ids, attention_mask=mask))


@dataclass(frozen=True)
class ClipScores:
    """What a CLIP model sees in the T frames of a video.

    Attributes:
        model: name of the model.
        steps: (T - 1,), cosine of the image embeddings of each frame and the next.
        target: (T,), cosine of each frame and the target prompt; empty without one.
        source: (T,), the same for the source prompt.
    """

    model: str
    steps: NDArray[np.float64]
    target: NDArray[np.float64]
    source: NDArray[np.float64]

    @property
    def frame_consistency(self) -> float | None:
        """Mean cosine of consecutive frames, at most 1; None for one frame."""
        return float(self.steps.mean()) if len(self.steps) else None

    @property
    def textual_alignment(self) -> float | None:
        """Mean cosine of frames and target prompt; None without one."""
        return float(self.target.mean()) if len(self.target) else None

    @property
    def frame_accuracy(self) -> float | None:
        """Share of the frames that are nearer to the target prompt than to the source prompt; None without both."""
        return float((self.target > self.source).mean()) if len(self.target) and len(self.source) else None


def clip_scores(
    frames: Iterable[Pixels],
    clip: ClipModel,
    *,
    prompt: str | None = None,
    source_prompt: str | None = None,
    batch: int = 16,
) -> ClipScores:
    """Frame consistency, and with prompts textual alignment and frame accuracy; `batch` frames are in memory at a time.

    Args:
        frames: images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        clip: see `ClipModel`.
        prompt: what the frames should show, the target prompt.
        source_prompt: what the frames showed before the edit.

    Raises:
        InputError: no frames, no CLIP model, or wrong shapes, types or values.
    """
    stream = ClipStream(clip, prompt, source_prompt, batch)
    for planes in video_planes(frames):
        stream.add(planes)
    return stream.scores()


@dataclass
class ClipStream:
    """`clip_scores` for frames (3, H, W) in [0, 1] that are added one after another."""

    clip: ClipModel
    prompt: str | None = None
    source_prompt: str | None = None
    batch: int = 16
    _pending: list[Tensor] = field(default_factory=list)
    _last: Tensor | None = None
    _found: dict[str, list[float]] = field(default_factory=lambda: {"steps": [], "target": [], "source": []})
    _count: int = 0

    def __post_init__(self) -> None:
        check_kind("the CLIP model", self.clip, "a visionzoo.metrics.ClipModel", "text", "name")
        self._texts: dict[str, Tensor] = {}
        for name, prompt in (("target", self.prompt), ("source", self.source_prompt)):
            if prompt is None:
                continue
            if not isinstance(prompt, str) or not prompt.strip():
                raise InputError(f"the {name} prompt must be a text that says what is visible, got {described(prompt)}")
            self._texts[name] = F.normalize(self.clip.text([prompt]).cpu().double(), dim=1)[0]

    def add(self, planes: Tensor) -> None:
        self._pending.append(planes.float())
        if len(self._pending) == self.batch:
            self._flush()

    def _flush(self) -> None:
        features = extract(self._pending, self.clip, batch=len(self._pending))
        lengths = features.norm(dim=1)
        if not bool(lengths.all()):
            raise InputError(
                f"the features of frame {self._count + int(lengths.argmin())} are all 0 and have no direction"
            )
        unit = features / lengths[:, None]
        joined = unit if self._last is None else torch.cat([self._last[None], unit])
        self._found["steps"] += (joined[1:] * joined[:-1]).sum(1).tolist()
        for name, text in self._texts.items():
            self._found[name] += (unit @ text).tolist()
        self._last, self._count = unit[-1], self._count + len(unit)
        self._pending.clear()

    def scores(self) -> ClipScores:
        if self._pending:
            self._flush()
        if not self._count:
            raise InputError("the video has no frames")
        return ClipScores(self.clip.name, **{name: np.array(values) for name, values in self._found.items()})


def _checked(path: str | PathLike[str]) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise WeightsError(f"{folder}: is not a folder; expected one with a CLIP model of transformers, {ORIGIN}")
    for what, names in FILES.items():
        if not any((folder / name).is_file() for name in names):
            raise WeightsError(
                f"{folder}: has not {what} ({' or '.join(names)}); expected a CLIP model of transformers, {ORIGIN}"
            )
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{folder / 'config.json'}: is damaged ({error}); copy it again") from error
    if kind != "clip":
        raise WeightsError(f"{folder}: holds a model of the type {kind!r}, expected 'clip', {ORIGIN}")
    return folder


def _pooled(output: Any) -> Tensor:
    """Embeddings (N, D), which transformers 4 returns alone and 5 beside others."""
    return output if isinstance(output, Tensor) else output.pooler_output


__all__ = ["ClipModel", "ClipScores", "ClipStream", "clip_scores"]
