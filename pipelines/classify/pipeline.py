"""Say what pictures show: the classes that a network knows, best first, with their probabilities.

pipe = visionzoo.pipeline("classify")
result = pipe("photo.jpg", top=5)
print(result.predictions[0].label, result.predictions[0].probability)
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionzoo import __version__, onnx_runtime
from visionzoo.batching import Batches, ahead
from visionzoo.compiled import Compiled, compile_ahead, load_compiled, machine
from visionzoo.devices import pick_device
from visionzoo.errors import InputError, unknown
from visionzoo.io.image import load_image
from visionzoo.jobs import Engine
from visionzoo.labels import class_names
from visionzoo.task_pipeline import CUSTOM, Opened, TaskPipeline
from visionzoo.weights import weights_dir

from ...models.shvit import FusedSHViT, Preprocess, SHViT, load_classifier
from .files import classify_files
from .results import ClassificationResult, Prediction

RUNTIMES = ("torch", "compiled", "onnxruntime")
MAX_IMAGE_SIZE = 4096
"""Largest side in pixels of the network's input; more is a mistake rather than a wish."""

Picture = str | Path | bytes | np.ndarray | Tensor | Image.Image


@dataclass(frozen=True)
class _Seen:
    """A picture's pooled vector (C,) and probabilities (classes,), or the error that says why there are none."""

    source: str
    vector: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str | None = None


class _PooledAndLogits(nn.Module):
    """Images (B, 3, S, S) -> (pooled vectors (B, C), logits (B, classes))."""

    def __init__(self, network: FusedSHViT):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.network.forward_features(images)[0]
        return pooled, self.network.forward_head(pooled)


class ClassifyPipeline(TaskPipeline):
    """Image classification with SHViT (arXiv 2401.16456).

    Args:
        model: the network; it stays unchanged, its fused form runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what the network runs.
        image_size: side in pixels of the network's input; None is what the model `name` was trained for.
        labels: names of the classes: a file (one name a line, or a JSON list) or a sequence; None are ImageNet's for
            1000 classes, else "class 0", …
        checkpoint: the weights file that was loaded, recorded beside results.
        compile: compile the network for this machine when it is first needed, which takes half a minute or more, and keep
            that for the next time; it then runs faster, most of all for single pictures.
        runtime: what runs the network: "torch"; "compiled" (the same as `compile`); or "onnxruntime", on a CPU in float32 usually the
            fastest. Both are prepared when first needed, and kept.

    Raises:
        InputError: a network without a head or not for RGB, a wrong number of labels, an absurd size.
    """

    task = "classify"
    kind = "classification"
    default_model = "shvit_s4"
    networks = (SHViT, FusedSHViT)

    def __init__(
        self,
        model: SHViT | FusedSHViT,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        image_size: int | None = None,
        labels: str | Path | Sequence[str] | None = None,
        checkpoint: str | Path | None = None,
        compile: bool = False,
        runtime: str = "torch",
    ):
        if not model.config.heads or model.config.in_chans != 3:
            raise InputError(
                f"classifying needs a network for RGB with a head, this one has {model.config.in_chans} input channels "
                f"and {'a head' if model.config.heads else 'none'}"
            )
        super().__init__(model, name, device, dtype, checkpoint)
        self.preprocess = Preprocess.of(name) if image_size is None else Preprocess(image_size)
        if self.image_size > MAX_IMAGE_SIZE:
            raise InputError(
                f"image_size is the side of the network's input, at most {MAX_IMAGE_SIZE}; got {image_size}"
            )
        self.classes = class_names(labels, self.config.num_classes)
        pad_to = 8 if self.device.type == "cuda" else 1
        runs = model.fuse(pad_to=pad_to) if isinstance(model, SHViT) else copy.deepcopy(model)
        self.model = runs.to(self.device, self.dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.runtime = "compiled" if compile and runtime == "torch" else runtime
        if self.runtime not in RUNTIMES:
            raise unknown("runtime", runtime, RUNTIMES)
        if compile and self.runtime != "compiled":
            raise InputError(f"compile is the runtime compiled, which goes with no other; got {runtime!r}")
        if self.runtime == "onnxruntime":
            onnx_runtime.check(self.device, self.dtype)
        self._compiled: dict[int, Compiled] = {}

    @property
    def image_size(self) -> int:
        """Side in pixels of the network's input."""
        return self.preprocess.size

    @classmethod
    def create(
        cls,
        model: str | nn.Module | None = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        image_size: int | None = None,
        labels: str | Path | Sequence[str] | None = None,
        compile: bool = False,
        runtime: str = "torch",
        **config_overrides: Any,
    ) -> ClassifyPipeline:
        """A pipeline for `model`, with the weights of `checkpoint` or else the model's published ones.

        A file that `visionzoo fit` wrote says which model it is for, its classes and its image size; of other files the
        number of classes is found out. What is given here wins.

        Args:
            model: a registered name, with or without a tag of weights ("shvit_s1.official"), or a `SHViT`; None is the
                checkpoint's, or the default.
            checkpoint: published or own key names, as trained or fused, any precision.
            **config_overrides: fields of `SHViTConfig`.

        Raises:
            InputError: a name, file or setting that cannot be used, or a file of another model than `model`.
        """
        pick_device(device)  # before anything is downloaded
        opened = cls.open(model, checkpoint, config_overrides)
        return cls._made(opened, device, dtype, image_size, labels, compile, runtime)

    @classmethod
    def _made(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        opened: Opened,
        device: str | torch.device,
        dtype: str | torch.dtype,
        image_size: int | None = None,
        labels: str | Path | Sequence[str] | None = None,
        compile: bool = False,
        runtime: str = "torch",
    ) -> ClassifyPipeline:
        return cls(
            opened.network,
            opened.name,
            device,
            dtype,
            opened.stored.image_size if image_size is None else image_size,
            opened.stored.classes if labels is None else labels,
            opened.checkpoint,
            compile,
            runtime,
        )

    @classmethod
    def load(cls, name: str, path: Path, config: dict[str, Any]) -> nn.Module:
        return load_classifier(path, cls.variant(name), config)

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
        if self.runtime == "onnxruntime":
            onnx_runtime.check(self.device, self.dtype)
        self._compiled = {}
        return self

    # Classifying

    def __call__(
        self, pictures: Picture | list[Any] | tuple[Any, ...], top: int = 5, batch_size: int = 32
    ) -> ClassificationResult | list[ClassificationResult]:
        """The `top` most probable classes of a picture, or of each of a list of pictures.

        Args:
            pictures: a path, a PIL image, an (H, W, 3) uint8 array, whatever `visionzoo.io.image.load_image` takes; or a list.
            top: how many classes to return; all of them if there are fewer.
            batch_size: pictures that go through the network at once.

        Raises:
            InputError: a picture cannot be read.
        """
        many = isinstance(pictures, (list, tuple))
        results = []
        for result in self.classify(pictures if many else [pictures], top, batch_size):
            if result.error is not None:
                raise InputError(result.error)
            results.append(result)
        return results if many else results[0]

    def classify(
        self, sources: Iterable[Picture], top: int = 5, batch_size: int = 32
    ) -> Iterator[ClassificationResult]:
        """Classify many pictures: results in order as they become ready, with `error` set where one cannot be read.

        Pictures are taken from `sources` as needed and decoded in threads, a bounded number ahead.
        """
        return (result for result, _ in self.classify_with_vectors(sources, top, batch_size))

    def classify_with_vectors(
        self, sources: Iterable[Picture], top: int = 5, batch_size: int = 32
    ) -> Iterator[tuple[ClassificationResult, np.ndarray | None]]:
        """As `classify`, each result with the image's pooled vector (C,) float32, or None where it cannot be read."""
        self.check_inputs(top, batch_size)
        return ((self._result(seen, top), seen.vector) for seen in self._see(sources, batch_size))

    def features(self, sources: Iterable[Picture], batch_size: int = 32) -> np.ndarray:
        """Pooled vectors of pictures, before the head: (N, C) float32, in order. Raises `InputError` as `__call__` does."""
        self.check_inputs(1, batch_size)
        vectors = []
        for seen in self._see(sources, batch_size):
            if seen.vector is None:
                raise InputError(seen.error)
            vectors.append(seen.vector)
        return np.stack(vectors) if vectors else np.empty((0, self.model.num_features), np.float32)

    def check_inputs(self, top: int, batch_size: int) -> None:
        """Raise `InputError` for numbers that make no sense."""
        if top < 1:
            raise InputError(f"top is the number of classes to return, at least 1; got {top}")
        if batch_size < 1:
            raise InputError(f"batch_size is the number of pictures at once, at least 1; got {batch_size}")

    def _see(self, sources: Iterable[Picture], batch_size: int) -> Iterator[_Seen]:
        """Pictures through the network, in order; when the device runs out of memory it continues with half a batch."""
        named = ((_name(source, number), source) for number, source in enumerate(sources, 1))
        workers = min(8, os.cpu_count() or 2)
        prepared = ahead(self._prepare, named, workers, depth=2 * workers + batch_size)
        batches = Batches(self.device, batch_size)

        def forward(part: list[Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
            return list(zip(*self._forward(torch.stack(part), batches.size), strict=True))

        while group := list(islice(prepared, batch_size)):
            tensors = [outcome for _, outcome in group if isinstance(outcome, Tensor)]
            try:
                following = chain.from_iterable(batches.run(forward, tensors))
            except torch.OutOfMemoryError:
                raise InputError(
                    f"an image of {self.image_size} x {self.image_size} pixels does not fit into the memory of "
                    f"{self.device}; lower --image-size"
                ) from None
            for (name, _), outcome in group:
                if isinstance(outcome, InputError):
                    yield _Seen(name, error=str(outcome))
                else:
                    yield _checked(name, *next(following))

    def _prepare(self, named: tuple[str, Picture]) -> Tensor:
        name, source = named
        try:
            # the published protocol decodes the whole image: a JPEG at a fraction of its size gives other numbers
            return self.preprocess(load_image(source))
        except InputError as error:
            if isinstance(source, (str, Path)):
                raise
            raise InputError(f"{name}: {error}") from error

    @torch.inference_mode()
    def _forward(self, batch: Tensor, full: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, 3, S, S) -> pooled vectors (B, C) and probabilities (B, classes), float32. `full` is the usual B."""
        count = len(batch)
        if self.runtime != "torch" and 1 < count < full:
            batch = torch.cat([batch, batch.new_zeros(full - count, *batch.shape[1:])])
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        pooled, logits = (self._compiled_for(batch) if self.runtime != "torch" else _PooledAndLogits(self.model))(batch)
        return pooled[:count].float().cpu().numpy(), logits[:count].float().softmax(-1).cpu().numpy()

    def _compiled_for(self, batch: Tensor) -> Compiled:
        """The network for batches like this one: made before, kept from another run, or compiled now."""
        count = len(batch)
        if count not in self._compiled:
            kind = f"{self.fingerprint}-{str(self.dtype).removeprefix('torch.')}-{count}x{self.image_size}"
            place = weights_dir().parent / "compiled" / f"{kind}-{__version__}-{machine()}-{self.device.type}"
            # no with_suffix: versions have dots
            path = Path(f"{place}.{'onnx' if self.runtime == 'onnxruntime' else 'pt2'}")
            path.parent.mkdir(parents=True, exist_ok=True)
            make, load = (
                (onnx_runtime.convert, onnx_runtime.load)
                if self.runtime == "onnxruntime"
                else (compile_ahead, load_compiled)
            )
            self._compiled[count] = load(path) if path.is_file() else make(_PooledAndLogits(self.model), batch, path)
        return self._compiled[count]

    def _result(self, seen: _Seen, top: int) -> ClassificationResult:
        if seen.probabilities is None:
            return ClassificationResult(seen.source, (), seen.error)
        order = np.argsort(-seen.probabilities, kind="stable")[:top].tolist()
        return ClassificationResult(
            seen.source,
            tuple(
                Prediction(rank, self.classes[index], index, round(float(seen.probabilities[index]), 6))
                for rank, index in enumerate(order, 1)
            ),
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
        features: str | Path | None = None,
        overwrite: bool = False,
        engine: Engine = "local",
        on_result: Callable[[ClassificationResult], None] | None = None,
    ) -> list[ClassificationResult]:
        """Classify an image, or every image of a folder, and write the results.

        Outputs are written at the end, in one step each. If the run is interrupted, what was found so far is kept in
        `<output>.part`, and the same call resumes.

        Args:
            path_in: a file, a folder, a glob pattern, or several of them.
            path_out: by its extension a contact sheet (`.html`, `.jpg`, `.png`, `.webp`), a table (`.csv`), `.json`, or `.npz`
                with the pooled vectors; the results are also written to the sidecar `<path_out>.json`. None writes nothing.
            progress: show a progress bar if there are more than a few images.
            top, batch_size: as for `__call__`.
            features: an `.npz` file for the pooled vectors, beside `path_out`: `features` (N, C) float32, and `paths`.
            overwrite: replace existing files.
            engine: "local", or "ray" to spread the images over a cluster.
            on_result: called with each result, in order, as soon as it is ready.

        Returns:
            A result for every file, in order; those that cannot be read are warned of, and have their `error` set.

        Raises:
            InputError: nothing found, none readable, or an output that cannot be written.
            Interrupted: by Ctrl-C; the message says how to resume.
        """
        self.check_inputs(top, batch_size)
        return classify_files(
            self, path_in, path_out, progress, top=top, batch_size=batch_size, features=features, overwrite=overwrite,
            engine=engine, on_result=on_result,
        )  # fmt: skip


def _name(source: Picture, number: int) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"image {number}"


def _checked(name: str, vector: np.ndarray, probabilities: np.ndarray) -> _Seen:
    if np.isfinite(probabilities).all() and np.isfinite(vector).all():
        return _Seen(name, vector, probabilities)
    return _Seen(name, error=f"{name}: the network gives no finite numbers; use --dtype float32, or other weights")


__all__ = ["ClassificationResult", "ClassifyPipeline", "Prediction"]
