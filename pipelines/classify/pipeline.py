"""Say what pictures show: the classes that a network knows, best first, with their probabilities.

pipe = visionzoo.pipeline("classify")
result = pipe("photo.jpg", top=5)
print(result.predictions[0].label, result.predictions[0].probability)
"""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from visionzoo import __version__
from visionzoo.compiled import Compiled, compile_ahead, load_compiled, machine
from visionzoo.config import as_dict
from visionzoo.devices import pick_device, pick_dtype
from visionzoo.errors import InputError
from visionzoo.io.ahead import ahead
from visionzoo.io.bar_sheet import Bar, Card, check_size, save_bar_sheet
from visionzoo.io.extensions import SHEETS_WRITTEN
from visionzoo.io.files import atomic_path, check_output, record, write_json, write_text
from visionzoo.io.image import list_images, load_image
from visionzoo.labels import class_names
from visionzoo.registry import list_models, model_card, model_entry, weight_source
from visionzoo.stored import read_stored
from visionzoo.weights import (
    WeightsError,
    fetch,
    fingerprint,
    save_safetensors,
    weights_dir,
)

from ...models.shvit import FusedSHViT, Preprocess, SHViT, load_classifier

DEFAULT_MODEL = "shvit_s4"
MAX_IMAGE_SIZE = 4096
"""Largest side in pixels of the network's input; more is a mistake rather than a wish."""

Picture = str | Path | bytes | np.ndarray | Tensor | Image.Image
ENDINGS = (*SHEETS_WRITTEN, ".json", ".csv", ".npz")


@dataclass(frozen=True)
class Prediction:
    """A class that a picture may show.

    Attributes:
        rank: place among the picture's classes, from 1.
        label: name of the class.
        index: its number in the network's output, from 0.
        probability: in [0, 1]; those of all classes add up to 1.
    """

    rank: int
    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class ClassificationResult:
    """What one picture shows, the most probable class first; or, with no predictions, the error that says why not."""

    source: str
    predictions: tuple[Prediction, ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "predictions": [asdict(p) for p in self.predictions], "error": self.error}


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


class ClassifyPipeline:
    """Image classification with SHViT (arXiv 2401.16456).

    Args:
        model: the network; it stays as it is, its fused form runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what the network runs.
        image_size: side in pixels of the network's input; None is what the model `name` was trained for.
        labels: names of the classes: a file (one name a line, or a JSON list) or a sequence; None are ImageNet's for
            1000 classes, else "class 0", …
        checkpoint: the weights file that was loaded, recorded beside results.
        compile: compile the network for this machine when it is first needed, which takes half a minute or more, and keep
            that for the next time; it then runs faster, most of all for single pictures.

    Raises:
        InputError: a network without a head or not for RGB, a wrong number of labels, an absurd size.
    """

    def __init__(
        self,
        model: SHViT | FusedSHViT,
        name: str = "custom",
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        image_size: int | None = None,
        labels: str | Path | Sequence[str] | None = None,
        checkpoint: str | Path | None = None,
        compile: bool = False,
    ):
        self.config = model.config
        if not self.config.heads or self.config.in_chans != 3:
            raise InputError(
                f"classifying needs a network for RGB with a head, this one has {self.config.in_chans} input channels "
                f"and {'a head' if self.config.heads else 'none'}"
            )
        self.name = name
        self.checkpoint = None if checkpoint is None else str(Path(checkpoint).absolute())
        self.preprocess = Preprocess.of(name) if image_size is None else Preprocess(image_size)
        if self.image_size > MAX_IMAGE_SIZE:
            raise InputError(
                f"image_size is the side of the network's input, at most {MAX_IMAGE_SIZE}; got {image_size}"
            )
        self.classes = class_names(labels, self.config.num_classes)
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.fingerprint = fingerprint(model)
        self._weights = {
            key: value.to("cpu", torch.float32, copy=True) if value.is_floating_point() else value.cpu().clone()
            for key, value in model.state_dict().items()
        }
        if isinstance(model, SHViT):
            model = model.fuse(pad_to=8 if self.device.type == "cuda" else 1)
        self.model = model.to(self.device, self.dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.compile = compile
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
        device_here = pick_device(device)  # before anything is downloaded
        if isinstance(model, nn.Module):
            if not isinstance(model, (SHViT, FusedSHViT)):
                raise InputError(f"expected a SHViT network or a name, got {type(model).__name__}")
            if checkpoint is not None or config_overrides:
                raise InputError("a network has its weights and configuration; a checkpoint and fields go with a name")
            return cls(model, "custom", device_here, dtype, image_size, labels, compile=compile)
        if model is not None:
            _check_task(model)
        path = _fetch(model or DEFAULT_MODEL) if checkpoint is None else Path(checkpoint)
        if checkpoint is None and (caution := weight_source(model or DEFAULT_MODEL).caution):
            warnings.warn(f"{model}: {caution}", stacklevel=2)
        stored = read_stored(path)
        if stored.model is not None and stored.model not in list_models(task="classify"):
            raise InputError(
                f"{path}: is for {stored.model!r}, which is no classifier known here; see `visionzoo models`"
            )
        name = model or stored.model or DEFAULT_MODEL
        if model and stored.model and stored.model != _variant(model):
            raise InputError(f"{path}: holds weights of {stored.model}, not of {model}; leave the model out")
        try:
            network = load_classifier(path, _variant(name), {**stored.config, **config_overrides})
        except WeightsError as error:
            if "does not fit" not in str(error) or model or stored.model:
                raise
            raise WeightsError(f"{error}; if it is no {name}, say which model it is: --model NAME") from error
        return cls(
            network,
            name,
            device_here,
            dtype,
            stored.image_size if image_size is None else image_size,
            stored.classes if labels is None else labels,
            checkpoint,
            compile,
        )

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "auto", dtype: str = "auto") -> ClassifyPipeline:
        """The pipeline that `save_pretrained` wrote to `directory`, or the one of a registered model's name."""
        folder = Path(directory)
        if not folder.is_dir():
            return cls.create(str(directory), device, dtype)
        try:
            saved = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
            name, size, classes = str(saved["model"]), int(saved["image_size"]), list(saved["classes"])
            network = load_classifier(
                folder / "model.safetensors", DEFAULT_MODEL, saved["config"]
            )  # every field is in there
        except WeightsError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: holds no saved classification pipeline (pipeline.json: {error})") from error
        return cls(network, name, device, dtype, size, classes)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model's weights (not fused, float32), its classes and settings to a folder.

        `model.safetensors` in it holds the same facts, so that it is a checkpoint of its own.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"config": as_dict(self.config), "classes": list(self.classes), "image_size": self.image_size}
        metadata = {key: json.dumps(value) for key, value in facts.items()}
        if self.name != "custom":
            metadata["model"] = _variant(self.name)
        save_safetensors(self._weights, folder / "model.safetensors", metadata)
        write_json(folder / "pipeline.json", {"model": self.name, **facts})

    def to(self, device: str | torch.device) -> ClassifyPipeline:
        """Move the network; returns the pipeline."""
        self.device = pick_device(device)
        self.model.to(self.device)
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
        self.check_inputs(top, batch_size)
        return (self._result(seen, top) for seen in self._see(sources, batch_size))

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
        """Pictures through the network, in order; when the device runs out of memory it goes on with half a batch."""
        named = ((_name(source, number), source) for number, source in enumerate(sources, 1))
        workers = min(8, os.cpu_count() or 2)
        prepared = ahead(self._prepare, named, workers, depth=2 * workers + batch_size)
        size, warned = batch_size, False
        while group := list(islice(prepared, batch_size)):
            tensors = [outcome for _, outcome in group if isinstance(outcome, Tensor)]
            rows: list[tuple[np.ndarray, np.ndarray]] = []
            while len(rows) < len(tensors):
                part = tensors[len(rows) : len(rows) + size]
                try:
                    rows += zip(*self._forward(torch.stack(part), size), strict=True)
                except torch.OutOfMemoryError:
                    if len(part) == 1:
                        raise InputError(
                            f"a picture of {self.image_size} x {self.image_size} pixels does not fit into the memory of "
                            f"{self.device}; lower --image-size"
                        ) from None
                    size = len(part) // 2
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                    if not warned:
                        warned = True
                        warnings.warn(f"{self.device} is out of memory; going on with batches of {size}", stacklevel=2)
            following = iter(rows)
            for (name, _), outcome in group:
                if isinstance(outcome, InputError):
                    yield _Seen(name, error=str(outcome))
                else:
                    yield _checked(name, *next(following))

    def _prepare(self, named: tuple[str, Picture]) -> Tensor:
        name, source = named
        try:
            # the published protocol decodes the whole picture: a JPEG at a fraction of its size gives other numbers
            return self.preprocess(load_image(source))
        except InputError as error:
            if isinstance(source, (str, Path)):
                raise
            raise InputError(f"{name}: {error}") from error

    @torch.inference_mode()
    def _forward(self, batch: Tensor, full: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, 3, S, S) -> pooled vectors (B, C) and probabilities (B, classes), float32. `full` is the usual B."""
        count = len(batch)
        if self.compile and 1 < count < full:
            batch = torch.cat([batch, batch.new_zeros(full - count, *batch.shape[1:])])
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        pooled, logits = (self._compiled_for(batch) if self.compile else _PooledAndLogits(self.model))(batch)
        return pooled[:count].float().cpu().numpy(), logits[:count].float().softmax(-1).cpu().numpy()

    def _compiled_for(self, batch: Tensor) -> Compiled:
        """The network for batches like this one: made before, kept from another run, or compiled now."""
        count = len(batch)
        if count not in self._compiled:
            kind = f"{self.fingerprint}-{str(self.dtype).removeprefix('torch.')}-{count}x{self.image_size}"
            path = weights_dir().parent / "compiled" / f"{kind}-{__version__}-{machine()}-{self.device.type}.pt2"
            if path.is_file():
                self._compiled[count] = load_compiled(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._compiled[count] = compile_ahead(_PooledAndLogits(self.model), batch, path)
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

    def run(
        self,
        path_in: str | Path | Sequence[str | Path],
        path_out: str | Path | None = None,
        progress: bool = True,
        *,
        top: int = 5,
        batch_size: int = 32,
        features: str | Path | None = None,
        overwrite: bool = False,
        on_result: Callable[[ClassificationResult], None] | None = None,
    ) -> list[ClassificationResult]:
        """Classify a picture, or every picture of a folder, and write what was found.

        Everything is written at the end, in one step a file: an interrupted run leaves no file, and an old one as it was.

        Args:
            path_in: a file, a folder, a glob pattern, or several of them.
            path_out: by its ending a contact sheet (`.html`, `.jpg`, `.png`, `.webp`), a table (`.csv`), `.json`, or `.npz`
                with the pooled vectors; the results as JSON stand beside it. None writes nothing.
            progress: show a progress bar if there are more than a few pictures.
            top, batch_size: as for `__call__`.
            features: an `.npz` file for the pooled vectors, beside `path_out`: `features` (N, C) float32, and `paths`.
            overwrite: replace existing files.
            on_result: called with each result as it becomes ready.

        Returns:
            A result for every file, in order; those that cannot be read are warned of, and have their `error` set.

        Raises:
            InputError: nothing found, none readable, or an output that cannot be written.
        """
        self.check_inputs(top, batch_size)
        out, store = _check_outputs(path_out, features, overwrite)
        files = list_images(path_in)
        if out is not None and out.suffix.lower() in SHEETS_WRITTEN:
            check_size(out, len(files), min(top, len(self.classes)))
        results: list[ClassificationResult] = []
        vectors: list[np.ndarray] = []
        with tqdm(
            total=len(files), desc="classifying", unit="picture", disable=None if progress and len(files) > 8 else True
        ) as bar:
            for seen in self._see(files, batch_size):
                results.append(result := self._result(seen, top))
                if seen.vector is not None and store is not None:
                    vectors.append(seen.vector)
                if result.error is not None and len(files) > 1:
                    warnings.warn(f"{result.error}; passed over", stacklevel=2)
                elif on_result is not None and result.error is None:
                    on_result(result)
                bar.update()
        readable = [result for result in results if result.error is None]
        if not readable:
            if len(files) == 1:
                raise InputError(results[0].error)
            raise InputError(f"none of the {len(files)} pictures can be read, e.g. {results[0].error}")
        if store is not None:
            _write_features(store, vectors, [result.source for result in readable])
        if (first := out or store) is not None:
            options = {
                "model": self.name, "weights": self.fingerprint, "checkpoint": self.checkpoint, "image_size": self.image_size,
                "top": top, "batch_size": batch_size, "device": str(self.device), "dtype": str(self.dtype).removeprefix("torch."),
                "features": None if store is None else str(store),
            }  # fmt: skip
            write_results(first, results, options)
        return results


# Networks


def _variant(name: str) -> str:
    """A registered name without its tag of weights."""
    return name.partition(".")[0]


def _check_task(name: str) -> None:
    task = model_entry(name).card.task
    if task != "classify":
        raise InputError(f"{name} is a model for {task!r}, not for classification; see `visionzoo models`")


def _fetch(name: str) -> Path:
    """The file of published weights; without a network the error names a model whose weights are here."""
    try:
        return fetch(weight_source(name))
    except WeightsError as error:
        sources = [source for model in list_models(task="classify") for source in model_card(model).weights]
        bundled = next((source.name for source in sources if source.bundled and not source.caution), None)
        if bundled is None:
            raise
        raise WeightsError(f"{error}; or use --model {bundled}, whose weights come with visionzoo") from error


def _name(source: Picture, number: int) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"picture {number}"


def _checked(name: str, vector: np.ndarray, probabilities: np.ndarray) -> _Seen:
    if np.isfinite(probabilities).all() and np.isfinite(vector).all():
        return _Seen(name, vector, probabilities)
    return _Seen(name, error=f"{name}: the network gives no finite numbers; use --dtype float32, or other weights")


# What is written


def _check_outputs(
    path_out: str | Path | None, features: str | Path | None, overwrite: bool
) -> tuple[Path | None, Path | None]:
    """(output, file of features), if they and the JSON beside may be written."""
    out, store = (None if path is None else Path(path) for path in (path_out, features))
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise InputError(f"{out}: results are written as {', '.join(ENDINGS)}; give -o such a name")
    if store is not None and store.suffix.lower() != ".npz":
        raise InputError(f"{store}: features are written as .npz; give --features such a name")
    if out is not None and out.suffix.lower() == ".npz":
        if store is not None and store != out:
            raise InputError(
                f"{out} and {store}: features go into one file; give -o another ending, or leave --features"
            )
        store = out
    for path in {out, store, *([] if (first := out or store) is None else [first.with_suffix(".json")])} - {None}:
        check_output(path, overwrite=overwrite)
    return out, store


def write_results(path: Path, results: Sequence[ClassificationResult], options: dict[str, Any]) -> None:
    """The sheet or table at `path`, and the results with everything that made them as JSON beside it."""
    ending, readable = path.suffix.lower(), [result for result in results if result.error is None]
    if ending in SHEETS_WRITTEN:
        count = "1 picture" if len(readable) == 1 else f"{len(readable)} pictures"
        subtitle = f"{count} · {options['model']} · {options['image_size']} x {options['image_size']} pixels"
        save_bar_sheet(
            path, [sheet_card(result) for result in readable], heading="What pictures show", subtitle=subtitle
        )
    elif ending == ".csv":
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["source", "rank", "label", "index", "probability"])
        for result in readable:
            writer.writerows([result.source, p.rank, p.label, p.index, p.probability] for p in result.predictions)
        write_text(path, table.getvalue())
    write_json(path.with_suffix(".json"), {"results": [result.to_dict() for result in results], **record(options)})


def sheet_card(result: ClassificationResult) -> Card:
    """A result as a card of a sheet."""
    bars = [Bar(prediction.label, prediction.probability) for prediction in result.predictions]
    return Card(result.source, Path(result.source).name, bars)


def _write_features(path: Path, vectors: list[np.ndarray], paths: list[str]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=np.stack(vectors), paths=np.array(paths))


__all__ = ["ClassificationResult", "ClassifyPipeline", "Prediction", "write_results"]
