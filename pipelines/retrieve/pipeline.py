"""Find the photos of a collection that show the same thing as a query: index a folder once, then search it by example.

pipe = visionzoo.pipeline("retrieve")
pipe.index("photos/", "photos.index")
result = pipe("query.jpg", index="photos.index", top=10, rerank=True)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import nn

from visionzoo.config import as_dict, configure
from visionzoo.devices import pick_device
from visionzoo.errors import FileFailed, InputError
from visionzoo.io.image import list_images
from visionzoo.jobs import Counter, Engine, Progress, refuse_inputs
from visionzoo.registry import model_entry, usable_models
from visionzoo.stored import Stored, read_stored
from visionzoo.task_pipeline import CUSTOM, Opened, TaskPipeline
from visionzoo.weights import load_checkpoint

from ...models.superglobal import Preprocess, SuperGlobal, SuperGlobalConfig
from ...models.superglobal.extraction import Described, describe
from ...models.superglobal.index import MANIFEST, Manifest, PhotoIndex, read_manifest
from ...models.superglobal.model import check_rebuildable
from .copying import check_folder, copy_matches
from .duplicates import DuplicateResult, find_duplicates
from .indexing import check_same, describe_on_ray, update_index
from .networks import on_backbone, usual_max_side
from .results import IndexReport, Match, RetrievalResult, check_sheet, missing_note, write_results
from .searching import check_score, matches, rerank_in_place

ImageInput = str | Path | bytes | np.ndarray | torch.Tensor | Image.Image


class RetrievePipeline(TaskPipeline):
    """Image retrieval by example with global descriptors (SuperGlobal, arXiv 2308.06954).

    Args:
        model: a network that gives unit vectors.
        name: what the model is called in an index: a registered name or "timm:NAME".
        device, dtype: where and in what precision the network runs.
        max_side: longest side in pixels to which photos are shrunk; 0 keeps their native size; None is the model's default.
        checkpoint: the weights file that was loaded, recorded in indexes.
    """

    task = "retrieve"
    kind = "retrieval"
    default_model = "superglobal_lite0"
    networks = (SuperGlobal,)

    given: dict[str, Any] | None = None
    """The arguments of `create`; None for a pipeline that was made from a network. Other settings come from an index."""

    def __init__(
        self,
        model: SuperGlobal,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        max_side: int | None = None,
        checkpoint: str | Path | None = None,
    ):
        usual = model.usual_dtype(pick_device(device)) if dtype == "auto" else dtype
        super().__init__(model, name, device, usual, checkpoint)
        self.max_side = (usual_max_side(name, model.config) if max_side is None else max_side) or None
        self.preprocess = Preprocess.of(model, self.max_side)
        self.model = copy.deepcopy(model).for_inference(self.dtype).to(self.device)
        self._adopted: dict[str, tuple[Manifest, RetrievePipeline]] = {}

    @classmethod
    def stored_settings(cls, stored: Stored) -> dict[str, Any]:
        return {} if stored.max_side is None else {"max_side": stored.max_side}

    @classmethod
    def create(
        cls,
        model: str | nn.Module | None = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        **settings: Any,
    ) -> Self:
        """A pipeline for `model`; see `TaskPipeline.create`. Other settings are taken from the index that is used.

        Args:
            model: a registered model for this task or a classifier, "timm:NAME", or a `SuperGlobal` network (which takes any
                backbone: `SuperGlobal(config, backbone=…)`); None is the checkpoint's, or `superglobal_lite0`.
            **settings: `max_side`, see the class; and fields of `SuperGlobalConfig`.
        """
        pipe = super().create(model, device, dtype, checkpoint, **settings)
        if not isinstance(model, nn.Module):
            asked = {"model": model, "checkpoint": checkpoint, "dtype": dtype, **settings}
            pipe.given = {key: value for key, value in asked.items() if value is not None}
        return pipe

    @classmethod
    def open(cls, model: str | nn.Module | None, checkpoint: str | Path | None, overrides: dict[str, Any]) -> Opened:
        if isinstance(model, nn.Module):
            return super().open(model, checkpoint, overrides)
        stored = Stored() if checkpoint is None else read_stored(checkpoint)
        name = model or stored.model
        if name is not None and name != CUSTOM and stored.task is None:
            cls.check_name(name)
            if name.startswith("timm:") or model_entry(name).card.task != cls.task:
                return Opened(
                    on_backbone(name, checkpoint, overrides, stored.config),
                    name,
                    None if checkpoint is None else Path(checkpoint),
                )
        return super().open(model, checkpoint, overrides)

    @classmethod
    def load(cls, name: str, path: Path, config: dict[str, Any]) -> nn.Module:
        if name.startswith("timm:") or model_entry(name).card.task != cls.task:
            network = SuperGlobal(configure(SuperGlobalConfig(), config))  # saved with its whole configuration
            return load_checkpoint(network, path).eval()
        return super().load(name, path, config)

    @classmethod
    def check_name(cls, name: str) -> None:
        if name.startswith("timm:"):
            return
        model_entry(name)
        if name.partition(".")[0] not in usable_models(cls.task):
            known = ", ".join([*usable_models(cls.task), "timm:NAME"])
            raise InputError(f"{name} is not a retrieval model; use {known}")

    @classmethod
    def variant(cls, name: str) -> str:
        return name if name.startswith("timm:") else super().variant(name)

    def save_pretrained(self, directory: str | Path) -> None:
        check_rebuildable(self.network)
        super().save_pretrained(directory)

    def settings(self) -> dict[str, Any]:
        return {"max_side": self.max_side or 0}

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "max_side": self.max_side or 0}

    @classmethod
    def for_index(
        cls, index: str | Path, device: str = "auto", dtype: str = "auto", **overrides: Any
    ) -> RetrievePipeline:
        """The pipeline that made `index`, so that queries are described as its photos were."""
        manifest = read_manifest(Path(index))
        if manifest.model == "custom":
            raise InputError(f"{index}: was made with a network of your own; search it with that pipeline object")
        if manifest.checkpoint and not Path(manifest.checkpoint).exists() and not overrides.get("checkpoint"):
            raise InputError(
                f"{index}: was made with the weights {manifest.checkpoint}, which no longer exist; give --checkpoint FILE"
            )
        settings = {"model": manifest.model, "checkpoint": manifest.checkpoint, "max_side": manifest.max_side or 0}
        given = {key: value for key, value in overrides.items() if value is not None}
        config = {key: value for key, value in manifest.config.items() if key != "backbone"}
        if given.get("model", manifest.model) != manifest.model:
            config, settings["checkpoint"] = {}, None
        pipe = cls.create(device=device, dtype=dtype, **{**settings, **config, **given})
        pipe.check_index(Path(index), manifest)
        return pipe

    def to(self, device: str | torch.device) -> RetrievePipeline:
        self._adopted = {}
        return super().to(device)

    def fitting(self, index: Path, manifest: Manifest) -> RetrievePipeline:
        """This pipeline if it made the index; or one with the settings of the index, if they were not given.

        Raises:
            InputError: the index was made with other settings than this pipeline's.
        """
        try:
            self.check_index(index, manifest)
            return self
        except InputError:
            if self.given is None or self.given.get("model", manifest.model) != manifest.model:
                raise
        key = str(index.resolve())
        known = self._adopted.get(key)
        if known is None or known[0] != manifest:
            known = manifest, type(self).for_index(index, str(self.device), **self.given)
            self._adopted[key] = known
        return known[1]

    # Description

    def describe(
        self, images: Sequence[ImageInput], boxes: Sequence[Sequence[float] | None] | None = None
    ) -> np.ndarray:
        """Unit vectors of images: (N, D) float32, in order.

        Args:
            images: paths, PIL images, (H, W, 3) uint8 arrays, whatever `visionzoo.io.image.load_image` takes.
            boxes: per image (x0, y0, x1, y1) in pixels, or None for all of it.

        Raises:
            InputError: an image cannot be read.
        """
        boxes = boxes or [None] * len(images)
        vectors = np.empty((len(images), self.model.dim), np.float32)
        for done in self._describe((i, p, b) for i, (p, b) in enumerate(zip(images, boxes, strict=True))):
            if done.vector is None:
                raise InputError(done.error)
            vectors[done.key] = done.vector
        return vectors

    def _describe(self, images: Any, *, identify: bool = False) -> Iterator[Described[Any]]:
        return describe(self.model, images, self.preprocess, identify=identify)

    # Indexing

    def index(
        self,
        photos: str | Path | Sequence[str | Path],
        path: str | Path,
        *,
        store: dict[str, Any] | None = None,
        prune: bool = False,
        prune_empty: bool = False,
        rebuild: bool = False,
        chunk: int = 64,
        progress: bool | Progress = True,
        engine: Engine = "local",
    ) -> IndexReport:
        """Make the index at `path`, or bring it up to date: only new and changed photos are read.

        Args:
            photos: folders, files or glob patterns.
            path: the index, a folder; made if it does not exist.
            store: options of the vector store of a new index, e.g. {"backend": "qdrant", "url": …}.
            prune: remove photos from the index whose file no longer exists, except where all photos of a folder are missing, as on
                a disk that is not mounted.
            prune_empty: remove those, too.
            rebuild: delete an existing index first (once the new photos have been found).
            chunk: photos per step; an interrupted run loses at most this many.
            progress: show a progress bar; or a function that is called after each photo.
            engine: "local", or "ray" to describe the photos on a cluster; the index is written by this process.

        Raises:
            InputError: a source without photos, none readable, or an index that was made with another model.
            VisionZooError: it cannot be written.
        """
        path = Path(path)
        pipe = self.fitting(path, read_manifest(path)) if (path / MANIFEST).exists() and not rebuild else self
        return update_index(
            [photos] if isinstance(photos, (str, Path)) else list(photos),
            path,
            pipe._manifest(store),
            lambda files: pipe._described(files, chunk, engine),
            prune=prune,
            prune_empty=prune_empty,
            rebuild=rebuild,
            chunk=chunk,
            progress=progress,
        )

    def _manifest(self, store: dict[str, Any] | None = None) -> Manifest:
        """The manifest of an index that this pipeline makes."""
        return Manifest(
            model=self.name, fingerprint=self.fingerprint, dim=self.model.dim, max_side=self.max_side, config=as_dict(self.config),
            checkpoint=self.checkpoint, store=store or {"backend": "matrix"},
        )  # fmt: skip

    def _described(self, files: list[Path], chunk: int, engine: Engine) -> Iterator[Described[Path]]:
        """Descriptors of photos: computed here, in order, or on a cluster, as they become ready."""
        if engine == "local" or not files:
            return self._describe(((file, file, None) for file in files), identify=True)
        return describe_on_ray(files, chunk, self.arguments(), self.gpus)

    def check_index(self, path: Path, manifest: Manifest) -> None:
        """Raise `InputError` unless `manifest` was made with this pipeline's model, weights and settings."""
        check_same(path, manifest, self._manifest())

    # Searching

    def __call__(
        self,
        query: ImageInput,
        *,
        index: str | Path | PhotoIndex,
        top: int = 10,
        min_score: float | None = None,
        rerank: bool = False,
        box: Sequence[float] | None = None,
        candidates: int = 400,
        neighbours: int = 9,
        beta: float = 0.15,
    ) -> RetrievalResult:
        """The photos of `index` most like `query`.

        Args:
            query: a path, a PIL image or an (H, W, 3) uint8 array; it need not be in the index.
            index: an index, or its path.
            top: number of photos to return.
            min_score: omit photos with a lower score (after reranking, if enabled).
            rerank: reorder the best `candidates` with the help of their neighbours (section 3.3 of the paper).
            box: (x0, y0, x1, y1) in pixels: search for this part of the query.
            candidates, neighbours, beta: M, K and beta of the reranking.

        Raises:
            InputError: the query cannot be read, or the index is missing, damaged, empty or from another model.
        """
        return next(
            iter(
                self.search(
                    [query],
                    index=index,
                    top=top,
                    min_score=min_score,
                    rerank=rerank,
                    boxes=[box],
                    candidates=candidates,
                    neighbours=neighbours,
                    beta=beta,
                )
            )
        )

    def search(
        self,
        queries: Sequence[ImageInput],
        *,
        index: str | Path | PhotoIndex,
        top: int = 10,
        min_score: float | None = None,
        rerank: bool = False,
        boxes: Sequence[Sequence[float] | None] | None = None,
        candidates: int = 400,
        neighbours: int = 9,
        beta: float = 0.15,
    ) -> list[RetrievalResult]:
        """`__call__` for several queries at once, which is faster."""
        if top < 1:
            raise InputError(f"top must be at least 1, got {top}")
        check_score(min_score)
        if not queries:
            return []
        boxes = boxes or [None] * len(queries)
        with self._opened(index) as opened:
            vectors = self.fitting(opened.path, opened.manifest).describe(queries, boxes)
            if len(opened) == 0:
                raise InputError(f"{opened.path}: the index holds no photos")
            first = opened.store.search(vectors, max(top, candidates) if rerank else top)
            order, scores = np.tile(np.arange(first.ids.shape[1]), (len(vectors), 1)), first.scores.copy()
            if rerank:
                rerank_in_place(opened, vectors, first.ids, order, scores, candidates, neighbours, beta)
            return [
                RetrievalResult(
                    query=str(query) if isinstance(query, (str, Path)) else "the image",
                    matches=matches(opened, first.ids[q], scores[q], order[q], top, min_score),
                    first_stage=matches(
                        opened, first.ids[q], first.scores[q], np.arange(first.ids.shape[1]), top, min_score
                    ),
                    reranked=rerank,
                    box=None if box is None else tuple(box),
                )
                for q, (query, box) in enumerate(zip(queries, boxes, strict=True))
            ]

    @contextmanager
    def _opened(self, index: str | Path | PhotoIndex) -> Iterator[PhotoIndex]:
        if isinstance(index, PhotoIndex):
            yield index
            return
        with PhotoIndex.open(index) as opened:
            yield opened

    def duplicates(
        self, index: str | Path | PhotoIndex, min_score: float | None = None, *, compare: bool = True
    ) -> DuplicateResult:
        """Groups of photos in `index` that show the same image: see `find_duplicates`. The pipeline's own model is not needed."""
        return find_duplicates(index, min_score, compare=compare, device=self.device)

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        path_in: str | Path | Sequence[str | Path],
        path_out: str | Path | None,
        progress: bool = True,
        *,
        index: str | Path,
        overwrite: bool = False,
        box: Sequence[float] | None = None,
        copy_to: str | Path | None = None,
        **options: Any,
    ) -> list[RetrievalResult]:
        """Search for an image, or for every image of a folder, and write the results.

        Args:
            path_in: a file, a folder, a glob pattern, or several of them.
            path_out: a contact sheet (`.html`, `.jpg`, `.png`, `.webp`), with the results in the sidecar `<path_out>.json`; `.json`
                for the results alone, or None to write nothing.
            progress: show a progress bar.
            index, box, **options: as in `__call__`.
            copy_to: a folder for copies of the photos found, which is made if it does not exist. No file in it is replaced.
        """
        check_score(options.get("min_score"))
        copies = None if copy_to is None else check_folder(copy_to, index)
        out = None if path_out is None else check_sheet(path_out, overwrite)
        sources = [path_in] if isinstance(path_in, (str, Path)) else list(path_in)
        queries = list_images(sources)
        results: list[RetrievalResult] = []
        failed: list[InputError] = []
        with PhotoIndex.open(index) as opened:
            if out is not None and out.exists():
                refuse_inputs([out], [*queries, *(photo.path for photo in opened.photos())])
            with Counter(len(queries), "searching", "query", shown=progress and len(queries) > 1) as counter:
                for query in queries:
                    try:
                        results.append(self(query, index=opened, box=box, **options))
                    except InputError as error:
                        if len(queries) == 1 or str(query) not in str(error):  # the index itself
                            raise
                        failed.append(error)
                        warnings.warn(f"{error}; skipped", FileFailed, stacklevel=2)
                    counter.update()
        if not results:
            raise InputError(f"none of the {len(queries)} queries can be used, e.g. {failed[0]}")
        if copies is not None:
            results = copy_matches(results, copies)
        if out is not None:
            facts = self.fitting(Path(index), read_manifest(Path(index))).facts()
            write_results(out, results, {**facts, "index": str(index), "box": box, **options})
        if (text := missing_note(results, index)) is not None:
            warnings.warn(text, stacklevel=2)
        return results


__all__ = ["IndexReport", "Match", "RetrievalResult", "RetrievePipeline"]
