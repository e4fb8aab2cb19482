"""Reading the source of an edit once: latents, embeddings of the control frames, and the mask of the user, one row per frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from visionzoo.diffusion import check_frame_size, encode_frames
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_float
from visionzoo.io.tensor_file import TensorFile
from visionzoo.jobs import Progress

from .denoiser import embed_control
from .work import MASKS, WorkFolder

if TYPE_CHECKING:
    from .pipeline import LOVEConPipeline

__all__ = ["Control", "Mask", "Source", "prepare", "resized"]

Pixels = NDArray[np.uint8]
Control = Callable[[Pixels], Pixels]
"""Makes the control frame of a frame, both (H, W, 3) uint8."""
Mask = Callable[[Pixels], NDArray[Any]] | Iterable[NDArray[Any]]
"""Makes the mask (H, W) of a frame, or is one for each frame."""

LATENTS, CONTROLS = "source.rows", "controls.rows"


@dataclass(frozen=True)
class Source:
    """The source on disk.

    Attributes:
        latents: (N, C, h, w).
        controls: (N, C', h, w) embeddings of the control frames.
        masks: (N, 1, h, w) in [0, 1], if the user gave one.
    """

    latents: TensorFile
    controls: TensorFile
    masks: TensorFile | None

    def __len__(self) -> int:
        return len(self.latents)


def prepare(
    pipe: LOVEConPipeline,
    frames: Iterable[Pixels],
    control: str | Control | Iterable[Pixels],
    mask: Mask | None,
    work: WorkFolder,
    identity: dict[str, Any],
    *,
    batch_size: int,
    progress: Progress | None,
) -> Source:
    """Encode frames, control frames and masks to the work folder; what an interrupted edit has left is not encoded again.

    Raises:
        InputError: no frames, sizes that do not fit, or another number of control frames or masks than of frames.
    """
    facts = {**identity, "control": control if isinstance(control, str) else "given"}
    names = [LATENTS, CONTROLS, *([MASKS] if mask is not None else [])]
    found = {name: work.finished(name, {**facts, "file": name}) for name in names}
    if all(file is not None for file in found.values()):
        return Source(found[LATENTS], found[CONTROLS], found.get(MASKS))  # pyright: ignore[reportArgumentType]
    rows = _rows(pipe, frames, _controls(control), mask, batch_size)
    first = next(rows, None)
    if first is None:
        raise InputError("the video has no frames")
    for name in names:
        (work.path / name).unlink(missing_ok=True)
    half = pipe.controlnet.dtype != torch.float32
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(
                work.writer(
                    name,
                    row.shape[1:],
                    {**facts, "file": name},
                    "float16" if half and name == CONTROLS else "float32",
                )
            )
            for name, row in zip(names, first, strict=True)
        }
        done = min(len(file) for file in files.values()) // batch_size * batch_size
        for file in files.values():
            file.cut(done)
        read = 0
        for batch in _chain(first, rows):
            read += len(batch[0])
            if read > done:
                for name, values in zip(names, batch, strict=True):
                    files[name].append(values)
            if progress is not None:
                progress("reading", read, 0)
    opened = {name: TensorFile(work.path / name) for name in names}
    return Source(opened[LATENTS], opened[CONTROLS], opened.get(MASKS))


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _controls(control: str | Control | Iterable[Pixels]) -> Control | Iterable[Pixels]:
    if not isinstance(control, str):
        return control
    from visionzoo.models.lovecon.controls import control as named

    return named(control)


@torch.no_grad()
def _rows(
    pipe: LOVEConPipeline,
    frames: Iterable[Pixels],
    control: Control | Iterable[Pixels],
    mask: Mask | None,
    batch_size: int,
) -> Iterator[tuple[Tensor, ...]]:
    """Batches of latents, embeddings and masks."""
    controls = _Beside(control, "control frame")
    masks = None if mask is None else _Beside(mask, "mask")
    stream = _checked(frames, pipe)
    while batch := list(islice(stream, batch_size)):
        latents = encode_frames(pipe.vae, np.stack(batch)).cpu()
        shown = np.stack([_control_frame(controls.of(frame), frame) for frame in batch])
        embedded = embed_control(pipe.controlnet, to_float(shown).contiguous()).float().cpu()
        if masks is None:
            yield latents, embedded
        else:
            yield latents, embedded, torch.stack([_small_mask(masks.of(frame), latents) for frame in batch])
    for each in (controls, masks):
        if each is not None:
            each.check_end()


class _Beside:
    """What belongs to each frame: made by a function, or given one by one."""

    def __init__(self, given: Any, what: str):
        self.what, self.count = what, 0
        if not (callable(given) or isinstance(given, Iterable)):
            raise InputError(
                f"{what}s must be a function of a frame, or one for each frame, got {type(given).__name__}"
            )
        self._make = given if callable(given) else None
        self._items = None if callable(given) else iter(given)

    def of(self, frame: Pixels) -> NDArray[Any]:
        self.count += 1
        if self._make is not None:
            return np.asarray(self._make(frame))
        assert self._items is not None
        found = next(self._items, None)
        if found is None:
            raise InputError(
                f"the video has more frames than there are {self.what}s ({self.count - 1}); give one for each frame"
            )
        return np.asarray(found)

    def check_end(self) -> None:
        """Raise `InputError` if there are more than there were frames."""
        if self._items is not None and next(self._items, None) is not None:
            raise InputError(
                f"there are more {self.what}s than the video has frames ({self.count}); give one for each frame"
            )


def _checked(frames: Iterable[Any], pipe: LOVEConPipeline) -> Iterator[Pixels]:
    if not isinstance(frames, Iterable):
        raise InputError(f"expected frames (H, W, 3) uint8 or the path of a video, got {type(frames).__name__}")
    first = None
    for number, frame in enumerate(frames):
        if isinstance(frame, Image.Image):
            frame = np.asarray(frame.convert("RGB"))
        if not isinstance(frame, np.ndarray):
            raise InputError(
                f"frame {number} is of type {type(frame).__name__}, expected an array (H, W, 3) uint8 or a PIL image"
            )
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(f"frame {number} is {frame.shape} {frame.dtype}, expected (H, W, 3) uint8")
        if first is None:
            first = frame.shape
            check_frame_size(pipe.vae, *first[:2])
            if first[0] % pipe.unit or first[1] % pipe.unit:
                height, width = pipe.working_size(*first[:2], short_side=max(pipe.unit, min(first[:2])))
                raise InputError(
                    f"frames of {first[1]} x {first[0]} pixels do not fit the model: both sides must be multiples of {pipe.unit}; "
                    f"resize them, e.g. to {width} x {height}"
                )
        if frame.shape != first:
            raise InputError(
                f"frame {number} is {frame.shape[1]} x {frame.shape[0]}, and frame 0 {first[1]} x {first[0]}; "
                "resize them to one size"
            )
        yield frame


def resized(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """A frame in another size (height, width)."""
    if frame.shape[:2] == tuple(size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _control_frame(control: NDArray[Any], frame: Pixels) -> Pixels:
    if control.ndim == 2:
        control = np.repeat(control[..., None], 3, 2)
    if control.ndim != 3 or control.shape[2] != 3 or control.dtype != np.uint8:
        raise InputError(f"a control frame is {control.shape} {control.dtype}, expected (H, W, 3) uint8")
    return resized(control, frame.shape[:2])


def _small_mask(mask: NDArray[Any], latents: Tensor) -> Tensor:
    """(H, W) as (1, h, w) float32 in [0, 1]: the covered share of each place of the latents."""
    if mask.ndim != 2:
        raise InputError(f"a mask is {mask.shape}, expected (H, W)")
    scale = 255 if mask.dtype == np.uint8 else 1
    values = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32) / scale)
    if not (values.isfinite().all() and values.min() >= 0 and values.max() <= 1):
        raise InputError("a mask must be bool, 0 to 255 in uint8, or floats from 0 to 1")
    return F.interpolate(values[None, None], size=latents.shape[-2:], mode="area")[0]
