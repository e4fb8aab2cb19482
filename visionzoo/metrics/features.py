"""Networks that describe images or clips by features, for measures such as SRC, FID and FVD.

Values from different extractors cannot be compared, so every result has the name of its extractor. Nothing is downloaded: weights
come from files of the user, and a file that holds a program (TorchScript) is opened only on request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.errors import InputError, WeightsError, described
from visionzoo.preprocess import IMAGENET_MEAN, IMAGENET_STD
from visionzoo.weights import find_state_dict, misfit, read_checkpoint
from visionzoo.weights.torchscript import load_torchscript, short

from .frames import Pixels, video_planes


class FeatureExtractor(Protocol):
    """Maps images, or clips, to features. Any such callable will do; its attribute `name` is reported, else its Python name."""

    def __call__(self, pixels: Tensor, /) -> Tensor:
        """(N, H, W, 3) for images or (N, T, H, W, 3) for clips, float32 in [0, 1] on the CPU -> (N, D)."""
        ...


class NetworkFeatures:
    """Features of images from a network.

    Args:
        name: what is reported as the extractor.
        network: maps (N, 3, h, w) to (N, D); it is used in evaluation mode.
        prepare: (N, 3, H, W) float32 in [0, 1] -> the input of the network.
        device: where the network runs.
    """

    def __init__(
        self, name: str, network: nn.Module, prepare: Callable[[Tensor], Tensor], device: torch.device | str = "cpu"
    ) -> None:
        self.name, self._prepare, self._device = name, prepare, torch.device(device)
        self._network = network.to(self._device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.ndim != 4:
            raise InputError(f"{self.name} describes images (N, H, W, 3), got shape {tuple(pixels.shape)}")
        return self._network(self._prepare(pixels.to(self._device).movedim(-1, 1)))


def resnet18_features(
    path: str | PathLike[str], *, size: int | None = 224, device: torch.device | str = "cpu"
) -> NetworkFeatures:
    """512 features of torchvision's ResNet-18 after its global pooling, as scene-return consistency uses them.

    Args:
        path: file with a state dict, such as torchvision's resnet18-f37072fd.pth.
        size: frames are resized to size x size (bilinear, antialiased), whatever their aspect; None keeps their size.
        device: where the network runs.

    Raises:
        WeightsError: the file is missing, does not fit, or would run code.
    """
    network = _load(
        path,
        "resnet18",
        lambda: _torchvision().resnet18(weights=None),
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    )
    resized = "unresized" if size is None else f"{size} x {size}"
    return NetworkFeatures(f"ResNet-18, {Path(path).name}, {resized}", network, partial(_imagenet, size=size), device)


def inception_features(path: str | PathLike[str], *, device: torch.device | str = "cpu") -> NetworkFeatures:
    """2048 features of Inception-v3 after its global pooling, as FID uses them.

    Images are resized to 299 x 299 without antialiasing and scaled to [-1, 1], as the package pytorch-fid does. With its weights, of
    1008 classes, the network has the poolings of the published FID; with torchvision's, the values are not those of papers. The
    name tells which.

    Args:
        path: file with a state dict: pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or torchvision's
            inception_v3_google-0cc3c7bd.pth.
        device: where the network runs.

    Raises:
        WeightsError: the file is missing, does not fit, or would run code.
    """
    published = "fc.weight" in (state := _read(path)) and len(state["fc.weight"]) == 1008

    def build() -> nn.Module:
        return _torchvision().inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)

    network = _load(
        path, "inception_v3", build, "pt_inception-2015-12-05-6726825d.pth from the releases of pytorch-fid", state
    )
    if published:
        _pool_as_published(network)
    kind = "Inception-v3 of FID" if published else "Inception-v3 of torchvision"
    return NetworkFeatures(f"{kind}, {Path(path).name}", network, _inception_input, device)


class TorchScriptFeatures:
    """Features from a TorchScript network, such as the I3D with which FVD is usually computed. The file is a program.

    Args:
        path: file whose network maps (N, 3, H, W) images or (N, 3, T, H, W) clips to (N, D).
        unsafe: allow the file to run its code. Use this only for files from authors you trust.
        value_range: of the network's input; frames in [0, 1] are scaled to it.
        size: frames are resized to size x size (bilinear, antialiased); None keeps their size.
        device: where the network runs.
        options: further arguments for the network, e.g. `rescale=False, resize=True, return_features=True` for the
            i3d_torchscript.pt of StyleGAN-V.

    Raises:
        WeightsError: `unsafe` is not set, or the file is missing, truncated or not TorchScript.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        unsafe: bool = False,
        value_range: tuple[float, float] = (-1.0, 1.0),
        size: int | None = None,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        if not unsafe:
            raise WeightsError(
                f"{path}: a TorchScript network is a program and runs its own code; if you trust its author, pass unsafe=True"
            )
        self._network = load_torchscript(path, "a network that describes images or clips", device)
        self._low, self._high = value_range
        self._size, self._device, self._options = size, torch.device(device), options
        self.name = f"TorchScript, {Path(path).name}"

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        frames = pixels.to(self._device).movedim(-1, -3)  # (N, 3, H, W) or (N, T, 3, H, W)
        if self._size is not None:
            frames = _resized(frames.flatten(0, -4), self._size).unflatten(0, frames.shape[:-3])
        if frames.ndim == 5:
            frames = frames.transpose(1, 2)
        try:
            return self._network(self._low + (self._high - self._low) * frames, **self._options)
        except (RuntimeError, TypeError) as error:
            raise InputError(
                f"{self.name} does not take an input of shape {tuple(frames.shape)} ({short(error)})"
            ) from error


class RandomFeatures:
    """64 features of images or clips from an untrained network with random weights, which needs no file.

    They see colour, texture and motion, and tell equal distributions from different ones. The values are not those of FID or FVD and
    compare only with others of the same seed. Weights depend on the seed alone.

    Args:
        seed: of the weights, at least 0.
    """

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise InputError(f"the seed must be at least 0, got {seed}")
        self.name = f"random convolutions, seed {seed}"
        random = np.random.RandomState(seed)  # its stream never changes, unlike torch's
        widths = (3, 16, 32, 32)
        self._kernels = [
            torch.from_numpy(random.standard_normal((after, before, 3, 3, 3)) * (2 / (27 * before)) ** 0.5).float()
            for before, after in pairwise(widths)
        ]

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        clips = pixels if pixels.ndim == 5 else pixels[:, None]
        values = clips.movedim(-1, 1) * 2 - 1
        for kernel in self._kernels:
            # replicated borders: an image is a clip in which nothing moves, and its border is no edge
            values = F.leaky_relu(F.conv3d(F.pad(values, (1,) * 6, mode="replicate"), kernel, stride=(1, 2, 2)), 0.2)
        values = values.flatten(2)
        return torch.cat([values.mean(2), values.std(2, correction=0)], dim=1)


def extractor_name(extractor: FeatureExtractor) -> str:
    """What reports call an extractor."""
    name = getattr(extractor, "name", None) or getattr(extractor, "__qualname__", None)
    return str(name or type(extractor).__name__)


def image_features(frames: Iterable[Pixels], extractor: FeatureExtractor, *, batch: int = 16) -> Tensor:
    """Features (N, D) float64 of images of one size; `batch` images are in memory at a time.

    Args:
        frames: N images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        extractor: see `FeatureExtractor`.
        batch: number of images per call of the extractor.

    Raises:
        InputError: no images, features of a wrong shape or not finite, or wrong shapes, types or values of images.
    """
    return extract(video_planes(frames), extractor, batch=batch)


def clip_features(
    frames: Iterable[Pixels], extractor: FeatureExtractor, *, length: int = 16, stride: int = 8, batch: int = 4
) -> Tensor:
    """Features (N, D) float64 of the clips of one video; `batch` clips are in memory at a time.

    Args:
        frames: as for `image_features`. Frames at the end that do not fill a clip are left out.
        extractor: see `FeatureExtractor`; it gets (n, length, H, W, 3).
        length: frames of a clip.
        stride: frames from the beginning of one clip to that of the next.
        batch: number of clips per call of the extractor.

    Raises:
        InputError: the video is shorter than a clip; else as for `image_features`.
    """
    if length < 1 or stride < 1:
        raise InputError(f"length and stride must be at least 1, got {length} and {stride}")
    return extract(_clips(video_planes(frames), length, stride), extractor, batch=batch)


def extract(items: Iterable[Tensor], extractor: FeatureExtractor, *, batch: int) -> Tensor:
    """Features (N, D) float64 on the CPU of images (3, H, W) or clips (T, 3, H, W) in [0, 1]."""
    if not callable(extractor):
        raise InputError(
            f"the extractor must be a function of images, such as resnet18_features(path), got {described(extractor)}"
        )
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    found: list[Tensor] = []
    pending: list[Tensor] = []

    def flush() -> None:
        features = extractor(torch.stack(pending))
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(pending):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InputError(f"{extractor_name(extractor)} returned {shape} for {len(pending)} inputs, expected (N, D)")
        if not bool(torch.isfinite(features).all()):
            raise InputError(f"{extractor_name(extractor)} returned features that are not finite")
        found.append(features.detach().cpu().double())
        pending.clear()

    for item in items:
        pending.append(item.movedim(-3, -1).float().cpu())
        if len(pending) == batch:
            flush()
    if pending:
        flush()
    if not found:
        raise InputError("there are no images to describe")
    return torch.cat(found)


def _clips(frames: Iterable[Tensor], length: int, stride: int) -> Iterator[Tensor]:
    window: deque[Tensor] = deque(maxlen=length)
    count = 0
    for count, frame in enumerate(frames, start=1):
        window.append(frame.float())
        if count >= length and (count - length) % stride == 0:
            yield torch.stack(list(window))
    if count < length:
        raise InputError(f"the video has {count} frames, fewer than a clip of {length}; pass a smaller length")


# Networks by path


def _torchvision() -> Any:
    import torchvision.models

    return torchvision.models


def _read(path: str | PathLike[str]) -> dict[str, Tensor]:
    return find_state_dict(read_checkpoint(path), str(path))


def _load(
    path: str | PathLike[str],
    name: str,
    build: Callable[[], nn.Module],
    origin: str,
    state: dict[str, Tensor] | None = None,
) -> nn.Module:
    """torchvision's network without its classifier, with the weights of a file."""
    found = _read(path) if state is None else state
    with torch.device("meta"):
        network = build()
    network.fc = nn.Identity()
    own = network.state_dict()
    # counters of batches, which older files lack, have no effect
    counters = {key: torch.zeros((), dtype=torch.long) for key in own if key.endswith("num_batches_tracked")}
    found = {**counters, **{key: value for key, value in found.items() if key in own}}
    if problem := misfit(own, found):
        raise WeightsError(f"{path} does not fit torchvision's {name}: {problem}; expected {origin}")
    network.load_state_dict(found, assign=True)
    return network


def _imagenet(images: Tensor, size: int | None) -> Tensor:
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (_resized(images, size) - mean) / std


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None or images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def _inception_input(images: Tensor) -> Tensor:
    return 2 * F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=False) - 1


def _pool_as_published(network: Any) -> None:
    """Give torchvision's Inception-v3 the pooling branches of the network with which FID was published.

    Means of 3 x 3 leave out pixels beyond the border, where torchvision counts zeros; the last block takes maxima. Both are done on
    the input of the convolution behind the pooling.
    """
    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
        getattr(network, f"Mixed_{name}").branch_pool.register_forward_pre_hook(_without_border)
    last = network.Mixed_7c
    inputs: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    last.branch_pool.register_forward_pre_hook(lambda _, __: (F.max_pool2d(inputs.pop(), 3, 1, 1),))


def _without_border(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    (means,) = args
    counted = F.avg_pool2d(torch.ones_like(means[:1, :1]), 3, 1, 1)  # the share of each window inside
    return (means / counted,)


__all__ = [
    "FeatureExtractor",
    "NetworkFeatures",
    "RandomFeatures",
    "TorchScriptFeatures",
    "clip_features",
    "extract",
    "extractor_name",
    "image_features",
    "inception_features",
    "resnet18_features",
]
