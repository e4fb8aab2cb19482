"""The classes of images and videos, the most probable first, with their probabilities.

pipe = visionzoo.pipeline("classify")
result = pipe("photo.jpg", top=5)
print(result.predictions[0].label, result.predictions[0].probability)
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionzoo.batching import Batches, ahead
from visionzoo.errors import InputError
from visionzoo.export.exporters import exporter_of, exporter_of_network
from visionzoo.io.extensions import is_video
from visionzoo.io.image import load_image
from visionzoo.jobs import Engine, Progress, silent
from visionzoo.labels import class_names, read_labels
from visionzoo.preprocess import Preprocess
from visionzoo.registry import weight_source
from visionzoo.stored import Stored
from visionzoo.task_pipeline import CUSTOM, Opened, TaskPipeline
from visionzoo.weights import locate

from ...models.efficientnet_lite import EfficientNetLite, FusedEfficientNetLite
from ...models.shvit import FusedSHViT, SHViT
from .files import classify_files
from .frames import count_shots, shots
from .results import ClassificationResult, FrameClasses, Prediction
from .runtimes import Runner, pick_runtime

log = logging.getLogger(__name__)

BUNDLED_MODEL = "efficientnet_lite0"
"""The model that is used if none is named and the weights of the default model are not in the cache."""
MAX_IMAGE_SIZE = 4096
"""Largest side in pixels of the network's input; a larger number is probably a mistake."""

ImageInput = str | Path | bytes | np.ndarray | Tensor | Image.Image
Network = SHViT | FusedSHViT | EfficientNetLite | FusedEfficientNetLite


@dataclass(frozen=True)
class _Seen:
    """An image's pooled vector (C,) and probabilities (classes,), or the error that says why there are none."""

    source: str
    vector: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str | None = None


class ClassifyPipeline(TaskPipeline):
    """Image classification with SHViT (arXiv 2401.16456) or EfficientNet-Lite (arXiv 1905.11946).

    Args:
        model: the network; it stays unchanged, as a fused copy runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what precision the network runs.
        image_size: side in pixels of the network's input; None is what the model `name` was trained for.
        labels: names of the classes: a file (one name a line, or a JSON list) or a sequence; None uses ImageNet's for
            1000 classes, else "class 0", …
        checkpoint: the weights file that was loaded, recorded with results.
        compile: compile the network for this machine when it is first needed (half a minute or more), and keep the result;
            it then runs faster, most of all for single images.
        runtime: runtime of the network: "torch"; "compiled" (the same as `compile`); or "onnxruntime", on a CPU in float32 usually the
            fastest. Both are prepared when first needed, and kept.

    Raises:
        InputError: the network has no head or is not for RGB, the number of labels is wrong, or the size is impossible.
    """

    task = "classify"
    kind = "classification"
    default_model = "shvit_s4"
    networks = (SHViT, FusedSHViT, EfficientNetLite, FusedEfficientNetLite)

    def __init__(
        self,
        model: Network,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        image_size: int | None = None,
        labels: str | Path | Sequence[str] | None = None,
        checkpoint: str | Path | None = None,
        compile: bool = False,
        runtime: str = "torch",
    ):
        channels = getattr(model.config, "in_chans", 3)
        if not model.config.heads or channels != 3:
            raise InputError(
                f"classification needs a network for RGB with a head, but this one has {channels} input channels "
                f"and {'a head' if model.config.heads else 'none'}"
            )
        super().__init__(model, name, device, dtype, checkpoint)
        check_image_size(image_size)
        exporter: Any = exporter_of_network(model) if name == CUSTOM else exporter_of(self.variant(name))
        usual: Preprocess = exporter.preprocess(name)
        self.preprocess = usual if image_size is None else replace(usual, size=image_size)
        self.classes = class_names(labels, self.config.num_classes)
        self.runtime = pick_runtime(runtime, compile, self.device, self.dtype)
        pad_to = 8 if self.device.type == "cuda" else 1
        runs = model.fuse(pad_to=pad_to) if isinstance(model, SHViT | EfficientNetLite) else copy.deepcopy(model)
        self.model = runs.to(self.device, self.dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._run = self._runner()

    def _runner(self) -> Runner:
        name = f"{self.fingerprint}-{str(self.dtype).removeprefix('torch.')}"
        return Runner(self.model, self.runtime, self.device, name)

    @property
    def image_size(self) -> int:
        """Side in pixels of the network's input."""
        return self.preprocess.size

    @classmethod
    def default(cls) -> str:
        """The default model if its weights are in the cache, else the one whose weights come with visionzoo."""
        return BUNDLED_MODEL if locate(weight_source(cls.default_model)) is None else cls.default_model

    @classmethod
    def about_default(cls) -> str:
        """A line that says which model is used if none is named, and which one is better."""
        if cls.default() == cls.default_model:
            return f"model: {cls.default_model}"
        size = weight_source(cls.default_model).size_mb
        return (
            f"model: {BUNDLED_MODEL}, which comes with visionzoo; {cls.default_model} is more accurate: "
            f"visionzoo weights fetch {cls.default_model} ({size:.0f} MB)"
        )

    @classmethod
    def base_of(cls, config: dict[str, Any]) -> str:
        return cls.default_model if "embed_dim" in config else BUNDLED_MODEL

    @classmethod
    def check_settings(cls, device: torch.device, dtype: torch.dtype, settings: dict[str, Any]) -> None:
        pick_runtime(settings.get("runtime", "torch"), settings.get("compile", False), device, dtype)
        check_image_size(settings.get("image_size"))
        labels = settings.get("labels")
        if isinstance(labels, str | Path):
            read_labels(Path(labels))

    @classmethod
    def open(cls, model: str | nn.Module | None, checkpoint: str | Path | None, overrides: dict[str, Any]) -> Opened:
        if model is None and checkpoint is None:
            log.info(cls.about_default())
        return super().open(model, checkpoint, overrides)

    @classmethod
    def stored_settings(cls, stored: Stored) -> dict[str, Any]:
        return {"image_size": stored.image_size, "labels": stored.classes}

    @classmethod
    def load(cls, name: str, path: Path, config: dict[str, Any]) -> nn.Module:
        exporter: Any = exporter_of(cls.variant(name))
        return exporter.load(path, cls.variant(name), config)

    def settings(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "classes": list(self.classes)}

    def arguments(self) -> dict[str, Any]:
        return {
            **super().arguments(),
            "image_size": self.image_size,
            "labels": list(self.classes),
            "runtime": self.runtime,
        }

    def to(self, device: str | torch.device) -> ClassifyPipeline:
        super().to(device)
        pick_runtime(self.runtime, False, self.device, self.dtype)
        self._run = self._runner()
        return self

    # Classification

    def __call__(
        self,
        images: ImageInput | list[Any] | tuple[Any, ...],
        top: int = 5,
        batch_size: int = 32,
        every: float = 1.0,
    ) -> ClassificationResult | list[ClassificationResult]:
        """The `top` most probable classes of an image or video, or of each of a list of them.

        Args:
            images: the path of an image or video, a PIL image, an (H, W, 3) uint8 array, whatever
                `visionzoo.io.image.load_image` takes; or a list.
            top: number of classes to return; all of them if there are fewer.
            batch_size: images that go through the network at once.
            every: seconds between two frames of a video.

        Raises:
            InputError: an image or video cannot be read.
        """
        many = isinstance(images, (list, tuple))
        results = []
        for result in self.classify(images if many else [images], top, batch_size, every):
            if result.error is not None:
                raise InputError(result.error)
            results.append(result)
        return results if many else results[0]

    def classify(
        self,
        sources: Iterable[ImageInput],
        top: int = 5,
        batch_size: int = 32,
        every: float = 1.0,
        progress: Progress = silent,
    ) -> Iterator[ClassificationResult]:
        """Classify many images: results in order as they become ready, with `error` set where one cannot be read.

        Images are taken from `sources` as needed and decoded in threads, a bounded number ahead. `progress` is called for each frame
        of a video.
        """
        return (result for result, _ in self.classify_with_vectors(sources, top, batch_size, every, progress))

    def classify_with_vectors(
        self,
        sources: Iterable[ImageInput],
        top: int = 5,
        batch_size: int = 32,
        every: float = 1.0,
        progress: Progress = silent,
    ) -> Iterator[tuple[ClassificationResult, np.ndarray | None]]:
        """Like `classify`, with each image's pooled vector (C,) float32, or None if it cannot be read.

        The vector of a video is the mean over its frames.
        """
        self.check_inputs(top, batch_size, every)
        return self._classify(sources, top, batch_size, every, progress)

    def features(self, sources: Iterable[ImageInput], batch_size: int = 32, every: float = 1.0) -> np.ndarray:
        """Pooled vectors of images, before the head: (N, C) float32, in order. Raises `InputError` like `__call__`."""
        vectors = []
        for result, vector in self.classify_with_vectors(sources, 1, batch_size, every):
            if vector is None:
                raise InputError(result.error)
            vectors.append(vector)
        return np.stack(vectors) if vectors else np.empty((0, self.model.num_features), np.float32)

    @staticmethod
    def check_inputs(top: int, batch_size: int, every: float = 1.0) -> None:
        """Raise `InputError` for invalid numbers."""
        if top < 1:
            raise InputError(f"top must be at least 1, got {top}")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if not 0.001 <= every < float("inf"):
            raise InputError(f"every must be at least 0.001 seconds, got {every:g}")

    def _classify(
        self, sources: Iterable[ImageInput], top: int, batch_size: int, every: float, progress: Progress
    ) -> Iterator[tuple[ClassificationResult, np.ndarray | None]]:
        named = ((_name(source, number), source) for number, source in enumerate(sources, 1))
        for videos, group in groupby(named, lambda one: isinstance(one[1], (str, Path)) and is_video(one[1])):
            if videos:
                yield from (self._video(name, batch_size, top, every, progress) for name, _ in group)
                continue
            workers = min(8, os.cpu_count() or 2)
            prepared = ahead(self._prepare, group, workers, depth=2 * workers + batch_size)
            pixels = ((name, outcome) for (name, _), outcome in prepared)
            for seen in self._see(pixels, batch_size):
                if seen.probabilities is None:
                    yield ClassificationResult(seen.source, (), seen.error), None
                else:
                    yield ClassificationResult(seen.source, self._best(seen.probabilities, top)), seen.vector

    def _video(
        self, name: str, batch_size: int, top: int, every: float, progress: Progress
    ) -> tuple[ClassificationResult, np.ndarray | None]:
        """Classify a video: its frames, and the mean of their probabilities and vectors."""
        taken = []
        count = 1 if progress is silent else count_shots(Path(name), every)

        def pixels() -> Iterator[tuple[str, Tensor | InputError]]:
            for shot in shots(Path(name), every, self.preprocess):
                taken.append((shot.time_s, shot.thumbnail))
                progress(f"{Path(name).name}: frames", len(taken), max(count, len(taken)))
                yield name, shot.pixels

        try:
            seen = list(self._see(pixels(), batch_size))
        except InputError as error:
            return ClassificationResult(name, (), str(error)), None
        wrong = next((one.error for one in seen if one.error is not None), None)
        if wrong is not None:
            return ClassificationResult(name, (), wrong), None
        probabilities = [one.probabilities for one in seen if one.probabilities is not None]
        vectors = [one.vector for one in seen if one.vector is not None]
        frames = tuple(
            FrameClasses(time_s, self._best(shares, top), thumbnail)
            for (time_s, thumbnail), shares in zip(taken, probabilities, strict=True)
        )
        best = self._best(np.mean(probabilities, 0), top)
        return ClassificationResult(name, best, frames=frames), np.stack(vectors).mean(0)

    def _see(self, prepared: Iterable[tuple[str, Tensor | InputError]], batch_size: int) -> Iterator[_Seen]:
        """Run prepared images through the network, in order; if the device runs out of memory, batches are halved."""
        batches = Batches(self.device, batch_size)
        waiting = iter(prepared)

        def forward(part: list[Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
            return list(zip(*self._run(torch.stack(part), batches.size), strict=True))

        while group := list(islice(waiting, batch_size)):
            tensors = [outcome for _, outcome in group if isinstance(outcome, Tensor)]
            try:
                following = chain.from_iterable(batches.run(forward, tensors))
            except torch.OutOfMemoryError:
                raise InputError(
                    f"an image of {self.image_size} x {self.image_size} pixels does not fit into the memory of "
                    f"{self.device}; lower --image-size"
                ) from None
            for name, outcome in group:
                if isinstance(outcome, InputError):
                    yield _Seen(name, error=str(outcome))
                else:
                    yield _checked(name, *next(following))

    def _prepare(self, named: tuple[str, ImageInput]) -> Tensor:
        name, source = named
        try:
            # the published protocol decodes the whole image: a JPEG decoded at a reduced size gives other results
            return self.preprocess(load_image(source))
        except InputError as error:
            if isinstance(source, (str, Path)):
                raise
            raise InputError(f"{name}: {error}") from error

    def _best(self, probabilities: np.ndarray, top: int) -> tuple[Prediction, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top].tolist()
        return tuple(
            Prediction(rank, self.classes[index], index, round(float(probabilities[index]), 6))
            for rank, index in enumerate(order, 1)
        )

    # Files

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        path_in: str | Path | Sequence[str | Path],
        path_out: str | Path | None = None,
        progress: bool = True,
        *,
        top: int = 5,
        batch_size: int = 32,
        every: float = 1.0,
        features: str | Path | None = None,
        overwrite: bool = False,
        engine: Engine = "local",
        on_result: Callable[[ClassificationResult], None] | None = None,
    ) -> list[ClassificationResult]:
        """Classify an image or video, or all of a folder, and write the results.

        Outputs are written at the end, in one step each. If the run is interrupted, the results so far are kept in
        `<output>.part`, and the same call resumes.

        Args:
            path_in: a file, a folder, a glob pattern, or several of them.
            path_out: by its extension a contact sheet (`.html`, `.jpg`, `.png`, `.webp`), a table (`.csv`), `.json`, or `.npz`
                with the pooled vectors; the results are also written to the sidecar `<path_out>.json`. None writes nothing.
            progress: show a progress bar if there are more than a few images.
            top, batch_size, every: as in `__call__`.
            features: an `.npz` file for the pooled vectors, in addition to `path_out`: `features` (N, C) float32, and `paths`.
            overwrite: replace existing files.
            engine: "local", or "ray" to spread the images over a cluster.
            on_result: called with each result, in order, as soon as it is ready.

        Returns:
            A result for every file, in order; files that cannot be read cause a warning and have their `error` set.

        Raises:
            InputError: nothing found, none readable, or an output that cannot be written.
            Interrupted: by Ctrl-C; the message says how to resume.
        """
        self.check_inputs(top, batch_size, every)
        return classify_files(
            self, path_in, path_out, progress, top=top, batch_size=batch_size, every=every, features=features,
            overwrite=overwrite, engine=engine, on_result=on_result,
        )  # fmt: skip


def check_image_size(size: int | None) -> None:
    """Raise `InputError` unless `size` can be the side of the network's input; None is the default size."""
    if size is not None and size < 1:
        raise InputError(f"image_size must be at least 1, got {size}")
    if size is not None and size > MAX_IMAGE_SIZE:
        raise InputError(f"image_size must be at most {MAX_IMAGE_SIZE}, got {size}")


def _name(source: ImageInput, number: int) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"image {number}"


def _checked(name: str, vector: np.ndarray, probabilities: np.ndarray) -> _Seen:
    if np.isfinite(probabilities).all() and np.isfinite(vector).all():
        return _Seen(name, vector, probabilities)
    return _Seen(name, error=f"{name}: the network gives no finite numbers; use --dtype float32, or other weights")


__all__ = ["ClassificationResult", "ClassifyPipeline", "Prediction"]
