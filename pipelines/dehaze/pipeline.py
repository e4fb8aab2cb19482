"""Take haze off pictures of any size and off videos.

pipe = visionzoo.pipeline("dehaze")
clear = pipe("hazy.jpg").image                    # (H, W, 3) uint8
pipe.run("survey.tif", "survey_clear.tif")        # of any size, by windows
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from visionzoo.config import as_dict
from visionzoo.devices import pick_device, pick_dtype
from visionzoo.errors import InputError, VisionZooError
from visionzoo.io.files import check_output, record, write_json
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float, to_uint8
from visionzoo.io.raster import RasterWriter, open_raster
from visionzoo.registry import create_model, list_models, model_entry, weight_source
from visionzoo.stored import read_stored
from visionzoo.weights import fetch, fingerprint, save_safetensors

from ...models.dehazexl import DehazeXL
from ...models.dehazexl.rasters import RasterPicture, RasterResult
from ...models.dehazexl.streaming import Grid, Held, Restart, Sink, Source, StreamedDehaze, StreamOptions

DEFAULT_MODEL = "dehazexl_nano"
SMALL_TILES = 64
"""Pictures of more patches of 256 x 256 pixels than these can be gone on with when they are interrupted."""
Picture = str | Path | bytes | np.ndarray | Tensor | Image.Image


@dataclass(frozen=True)
class DehazeResult:
    """A picture without its haze.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        source: what it was made of.
    """

    image: np.ndarray
    source: str


@dataclass(frozen=True)
class DehazedFile:
    """What became of one input file.

    Attributes:
        source, output: the files.
        width, height: pixels.
        frames: of a video; 1 for a picture.
        seconds: of work; 0 where the output was there already.
        error: why there is no output, or None.
    """

    source: str
    output: str | None = None
    width: int = 0
    height: int = 0
    frames: int = 1
    seconds: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class DehazePipeline:
    """Haze removal with DehazeXL (arXiv 2504.09621).

    Args:
        model: the network; it stays as it is, its fused form runs.
        name: what the model is called: a registered name, or "custom".
        device, dtype: where and in what the network runs.
        checkpoint: the weights file that was loaded, recorded beside results.
    """

    def __init__(
        self,
        model: DehazeXL,
        name: str = "custom",
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        checkpoint: str | Path | None = None,
    ):
        self.name, self.config = name, model.config
        self.checkpoint = None if checkpoint is None else str(Path(checkpoint).absolute())
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.fingerprint = fingerprint(model)
        self.network = model
        self.model = model.fuse().to(self.device, self.dtype)

    @classmethod
    def create(
        cls,
        model: str | nn.Module | None = None,
        device: str = "auto",
        dtype: str = "auto",
        checkpoint: str | Path | None = None,
        **config_overrides: Any,
    ) -> DehazePipeline:
        """A pipeline for `model`, with the weights of `checkpoint` or else the model's own.

        A file that `visionzoo fit` wrote says which model it is for. What is given here wins.

        Args:
            model: a registered name or a `DehazeXL`; None is the checkpoint's, or `dehazexl_nano`, whose weights come with
                visionzoo.
            checkpoint: published or own key names.
            **config_overrides: fields of `DehazeXLConfig`, e.g. attention="lsh".

        Raises:
            InputError: a name, file or setting that cannot be used, or a model without weights.
        """
        device_here = pick_device(device)
        if isinstance(model, nn.Module):
            if not isinstance(model, DehazeXL):
                raise InputError(f"expected a DehazeXL network or a name, got {type(model).__name__}")
            if checkpoint is not None or config_overrides:
                raise InputError("a network has its weights and configuration; a checkpoint and fields go with a name")
            return cls(model, "custom", device_here, dtype)
        known = list_models(task="dehaze")
        if model is not None and model_entry(model).card.name not in known:
            raise InputError(f"{model} removes no haze; use {', '.join(known)}")
        if checkpoint is None:
            source = weight_source(model or DEFAULT_MODEL)
            path = fetch(source)
            if source.caution:
                warnings.warn(f"{model or DEFAULT_MODEL}: {source.caution}", stacklevel=2)
        else:
            path = Path(checkpoint)
        stored = read_stored(path)
        if stored.model is not None and stored.model not in known:
            raise InputError(f"{path}: is for {stored.model!r}, which removes no haze; see `visionzoo models`")
        name = model or stored.model or DEFAULT_MODEL
        if model and stored.model and stored.model != model_entry(model).card.name:
            raise InputError(f"{path}: holds weights of {stored.model}, not of {model}; leave the model out")
        network = create_model(name, checkpoint=path, **{**stored.config, **config_overrides})
        assert isinstance(network, DehazeXL)
        return cls(network, name, device_here, dtype, checkpoint)

    @classmethod
    def from_pretrained(cls, directory: str | Path, device: str = "auto", dtype: str = "auto") -> DehazePipeline:
        """The pipeline that `save_pretrained` wrote to `directory`, or the one of a registered model's name."""
        folder = Path(directory)
        if not folder.is_dir():
            return cls.create(str(directory), device, dtype)
        try:
            saved = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
            name, config = str(saved["model"]), dict(saved["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: holds no saved dehazing pipeline (pipeline.json: {error})") from error
        base = DEFAULT_MODEL if name == "custom" else name  # every field is in the file
        if model_entry(base).card.task != "dehaze":
            raise InputError(f"{folder}: holds no saved dehazing pipeline (its model is {name})")
        network = create_model(base, checkpoint=folder / "model.safetensors", **config)
        assert isinstance(network, DehazeXL)
        return cls(network, name, device, dtype)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model's weights (not fused) and settings to a folder; `model.safetensors` in it is a checkpoint of its own."""
        if self.network.is_fused:
            raise InputError("a fused network cannot be saved to be loaded again; save the one that it was made of")
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"config": as_dict(self.config)}
        metadata = {"config": json.dumps(facts["config"])}
        if self.name != "custom":
            metadata["model"] = model_entry(self.name).card.name
        save_safetensors(self.network.state_dict(), folder / "model.safetensors", metadata)
        write_json(folder / "pipeline.json", {"model": self.name, **facts})

    def to(self, device: str | torch.device) -> DehazePipeline:
        """Move the network; returns the pipeline."""
        self.device = pick_device(device)
        self.model.to(self.device)
        return self

    def settled(self, options: StreamOptions | None) -> StreamOptions:
        """With `blend` yes or no where it was left open: networks that smooth within patches do, as only borders show then."""
        options = options or StreamOptions(blend=None)
        return options if options.blend is not None else replace(options, blend=self.config.smoothing > 0)

    # Pictures in memory

    def __call__(
        self, pictures: Picture | list[Any] | tuple[Any, ...], *, blend: bool | None = None
    ) -> DehazeResult | list[DehazeResult]:
        """A picture without haze, or each of a list of pictures.

        Args:
            pictures: a path, a PIL image, an (H, W, 3) uint8 array, whatever `visionzoo.io.image.load_image` takes; or a list.
            blend: hide the borders of patches, for twice the time; None: see `settled`.

        Raises:
            InputError: a picture cannot be read.
        """
        if isinstance(pictures, (list, tuple)):
            return [self._one(picture, blend) for picture in pictures]
        return self._one(pictures, blend)

    def _one(self, picture: Picture, blend: bool | None) -> DehazeResult:
        pixels = self.restore(load_image(picture), StreamOptions(blend=blend))
        name = str(picture) if isinstance(picture, (str, Path)) else "picture"
        return DehazeResult(pixels, name)

    def restore(
        self,
        pixels: np.ndarray,
        options: StreamOptions | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W, 3) uint8 without haze."""
        image = to_float(pixels).contiguous()
        clear = self.restore_tensor(image, options, progress)
        if not clear.isfinite().all():
            raise InputError(f"the network gives no finite numbers in {self.dtype}; try dtype='float32'")
        return to_uint8(clear)

    def restore_tensor(
        self,
        image: Tensor,
        options: StreamOptions | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Tensor:
        """(3, H, W) float32 in [0, 1] -> same, not clamped."""
        held = Held(image)
        self.dehaze(held, held.sink, options, progress)
        return held.out

    def dehaze(
        self,
        source: Source,
        sink: Sink,
        options: StreamOptions | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        restart: Restart | None = None,
    ) -> None:
        """Dehaze any source into a sink with this network; see `StreamedDehaze`.

        Raises:
            InputError: the memory does not suffice for the smallest piece of work.
        """
        try:
            StreamedDehaze(self.model, self.settled(options), progress)(source, sink, restart=restart)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"not enough memory on {self.device}, even for one tile at a time; free some, "
                "or choose dtype bfloat16 or another device"
            ) from error

    # Files

    def run(
        self,
        path_in: str | Path | Sequence[str | Path],
        path_out: str | Path,
        progress: bool = True,
        **options: Any,
    ) -> list[DehazedFile]:
        """Dehaze a picture or a video file to a file; or several of them, a folder or a glob pattern to a folder.

        See `visionzoo.pipelines.dehaze.files.FileJob` for the options.

        Raises:
            InputError: nothing found, none readable, or an output that cannot be written.
        """
        from .files import FileJob

        return FileJob(self, **options).run(path_in, Path(path_out), progress=progress)

    def raster(
        self,
        path_in: Path,
        path_out: Path,
        *,
        options: StreamOptions | None = None,
        bands: tuple[int, ...] | None = None,
        limits: tuple[float, float] | None = None,
        overwrite: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> DehazedFile:
        """Dehaze one picture file by windows, of any size and type; what is done already when it is killed is used next time.

        The work goes on in the folder `<path_out>.part`, which is deleted at the end.

        Args:
            bands, limits: see `RasterPicture`.
            facts: recorded beside the output, as `<path_out>.json`.

        Raises:
            InputError: the input cannot be read (wholly: what was done stays), or the output not written.
        """
        started = time.monotonic()
        check_target(path_out, overwrite)
        options = self.settled(options)
        work = path_out.with_name(f"{path_out.name}.part")
        with open_raster(path_in) as raster:
            picture = RasterPicture(raster, bands, limits)
            # small pictures are done again sooner than files are opened
            restart = Restart(work) if Grid(raster.height, raster.width).count > SMALL_TILES else None
            with (
                unfinished(work, self._key(path_in, picture, options), keep=restart is not None),
                RasterWriter(
                    path_out,
                    height=raster.height,
                    width=raster.width,
                    bands=raster.bands,
                    dtype=raster.dtype,
                    profile=raster.profile,
                    nodata=raster.nodata,
                    alpha=raster.alpha,
                    work=work / "pixels",
                    overwrite=overwrite,
                ) as writer,
            ):
                sink = RasterResult(picture, writer)
                if picture.shows_something():
                    self.dehaze(picture, sink, options, progress, restart)
                else:
                    sink.keep_all()
                writer.finish()
        seconds = round(time.monotonic() - started, 3)
        result = DehazedFile(str(path_in), str(path_out), raster.width, raster.height, seconds=seconds)
        scale = {"black": picture.scaling.low, "white": picture.scaling.high}
        write_json(
            f"{path_out}.json", {"result": result.to_dict(), **record({**self.facts(), **scale, **(facts or {})})}
        )
        return result

    def facts(self) -> dict[str, Any]:
        """What made a result: model, weights, device and dtype."""
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "weights": self.fingerprint,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def _key(self, path_in: Path, picture: RasterPicture, options: StreamOptions) -> str:
        """What unfinished work depends on: input, network and settings."""
        about = path_in.stat()
        owner = {
            "input": str(path_in.absolute()),
            "bytes": about.st_size,
            "modified": about.st_mtime_ns,
            "weights": self.fingerprint,
            "config": as_dict(self.config),
            "dtype": str(self.dtype),
            "bands": picture.bands,
            "limits": [picture.scaling.low, picture.scaling.high],
            "blend": options.blend,
        }
        return hashlib.sha256(json.dumps(owner, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def unfinished(work: Path, key: str, *, keep: bool) -> Iterator[None]:
    """A folder for work in progress, deleted when the block ends well; what is in it belongs to `key`, or is deleted at first.

    Args:
        keep: leave it when the block ends badly, and say so.

    Raises:
        InputError: the folder cannot be made, or is somebody else's.
    """
    stamp = work / "belongs_to"
    try:
        if work.exists() and not stamp.exists() and not (work.is_dir() and not any(work.iterdir())):
            raise InputError(f"{work}: is in the way, and not this command's; move it or choose another output")
        if not stamp.exists() or stamp.read_text(errors="replace") != key:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            stamp.write_text(key)
    except OSError as error:
        raise InputError(f"{work}: cannot be written ({error.strerror})") from error
    try:
        yield
    except BaseException as error:
        if not keep or not any(work.glob("*.done")):  # nothing to go on from
            shutil.rmtree(work, ignore_errors=True)
            raise
        how = f"what was done is in {work}: the same command goes on from there"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {how}") from None
        if isinstance(error, VisionZooError):
            raise type(error)(f"{error}; {how}") from error
        raise
    shutil.rmtree(work, ignore_errors=True)


def check_target(path: Path, overwrite: bool) -> None:
    """`check_output`, also for zarr arrays, which are folders."""
    if path.suffix.lower() != ".zarr" or not path.is_dir():
        check_output(path, overwrite=overwrite)
    elif not overwrite:
        raise InputError(f"{path}: exists already; choose another name or add --overwrite")


@contextlib.contextmanager
def tile_bar(name: str, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over the patches of a picture: half for encoding, half for decoding."""
    with tqdm(desc=name, unit="tile", disable=None if shown else True, leave=False) as bar:
        done = {"encode": 0.0, "attend": 0.0, "decode": 0.0}

        def show(step: str, count: int, of: int) -> None:
            bar.total = 2 * of if step != "attend" else bar.total
            if step == "attend":
                bar.set_postfix_str("joining tiles", refresh=True)
                return
            done[step] = count
            bar.set_postfix_str("", refresh=False)
            bar.n = int(done["encode"] + done["decode"])
            bar.refresh()

        yield show


__all__ = ["DehazePipeline", "DehazeResult", "DehazedFile"]
