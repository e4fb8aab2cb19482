"""Quality, size and speed of fitted scenes, measured as published, with the published numbers that are known.

Images are rounded to 8 bits before they are compared, as the published programs read them back from files. SSIM is that of the
training loss (zeros around the image), MS-SSIM that of pytorch-msssim, D-SSIM is (1 - MS-SSIM) / 2, and the masked measures are
DyCheck's.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.console import counted
from visionzoo.io.pixels import quantize, to_uint8
from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.masked import masked_lpips, masked_psnr, masked_ssim
from visionzoo.metrics.multiscale import SMALLEST, ms_ssim
from visionzoo.metrics.restoration import WINDOW, psnr

from .captures.capture import View
from .compact import write_scene
from .data import Frames
from .fourdgs import FourDGaussians
from .losses import ssim_map
from .model import MoDecGS
from .optimize import Frame, draw
from .published import write_published

Model = MoDecGS | FourDGaussians

COLUMNS = {
    "psnr": ("PSNR", 2), "ssim": ("SSIM", 4), "ms_ssim": ("MS-SSIM", 4), "d_ssim": ("D-SSIM", 4),
    "lpips_vgg": ("LPIPS-VGG", 4), "lpips_alex": ("LPIPS-Alex", 4),
    "masked_psnr": ("mPSNR", 2), "masked_ssim": ("mSSIM", 4),
    "masked_lpips_vgg": ("mLPIPS-VGG", 4), "masked_lpips_alex": ("mLPIPS-Alex", 4),
    "folder_mb": ("folder MB", 2), "vzgs_mb": (".vzgs MB", 2), "fps": ("FPS", 1), "fps_with_io": ("FPS with IO", 1),
}  # fmt: skip
"""Measure -> (its column, decimals)."""

PUBLISHED_COLUMNS = {
    "psnr": ("PSNR", 2),
    "ssim": ("SSIM", 4),
    "lpips": ("LPIPS", 4),
    "mb": ("MB", 2),
    "fps": ("FPS", 0),
}
UNKNOWN = "not available"


@dataclass(frozen=True)
class Published:
    """Published numbers of a system, and where they come from."""

    system: str
    source: str = "the tables of the paper could not be read"
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    mb: float | None = None
    fps: float | None = None


_HDGS = "HDGS (AAAI 2026), Table 2; the data set is not named there, the size suggests HyperNeRF"
_ABSTRACT = "the paper's abstract, 800 x 800 on an RTX 3090"
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "nerfies": (
        Published("4DGaussians", _HDGS, psnr=27.44, ssim=0.797, lpips=0.302, mb=72.65),
        Published("Deformable-3DGS"),
        Published("SC-GS"),
        Published("MoDec-GS", _HDGS, psnr=27.78, ssim=0.827, lpips=0.219, mb=40.82),
    ),
    "blender": (
        Published("4DGaussians", _ABSTRACT, fps=82),
        Published(
            "Deformable-3DGS", "its README, mean of D-NeRF at 400 x 400", psnr=41.14, ssim=0.9938, lpips=0.0070,
            mb=10.2, fps=179,
        ),
        Published("SC-GS"),
        Published("MoDec-GS", "not evaluated on rendered scenes"),
    ),
}  # fmt: skip
"""Layout of the data -> rows that are known. Numbers that could not be read are not guessed."""

BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
"""LPIPS network -> torchvision's file with its backbone."""

_NOTHING = tuple(Published(system) for system in ("4DGaussians", "Deformable-3DGS", "SC-GS", "MoDec-GS"))


@dataclass(frozen=True)
class Measures:
    """Networks that compare images, in addition to what needs none.

    Attributes:
        vgg, alex: LPIPS with that backbone.
    """

    vgg: Lpips | None = None
    alex: Lpips | None = None

    @property
    def networks(self) -> dict[str, Lpips]:
        return {name: network for name, network in (("vgg", self.vgg), ("alex", self.alex)) if network is not None}

    def to(self, device: torch.device | str) -> Measures:
        return Measures(**{name: network.to(device) for name, network in self.networks.items()})

    def score(self, image: Tensor, frame: Frame) -> dict[str, float]:
        """The measures of one image (3, H, W) in [0, 1]; those that need larger images, or a mask, are left out."""
        image, truth = quantize(image), frame.image
        smaller = min(truth.shape[1:])
        found = {"psnr": psnr(image, truth), "ssim": float(ssim_map(image.double(), truth.double()).mean())}
        if smaller >= SMALLEST:
            found["ms_ssim"] = ms_ssim(image, truth)
            found["d_ssim"] = (1 - found["ms_ssim"]) / 2
        for name, network in self.networks.items():
            if smaller >= network.smallest:
                with torch.no_grad():
                    found[f"lpips_{name}"] = float(network(image[None], truth[None]))
        if frame.weight is not None and bool(frame.weight.any()):
            mask = frame.weight[0]
            found["masked_psnr"] = masked_psnr(image, truth, mask)
            if smaller >= WINDOW:
                found["masked_ssim"] = masked_ssim(image, truth, mask)
            for name, network in self.networks.items():
                if smaller >= network.smallest:
                    found[f"masked_lpips_{name}"] = masked_lpips(network, image, truth, mask)
        return found


@dataclass(frozen=True)
class SceneScore:
    """What was measured of one scene.

    Attributes:
        name: name of the scene.
        layout: layout of its data, see `Capture`.
        views: the measures of every test view.
        sizes: "folder_mb" and "vzgs_mb", in 1e6 bytes.
        speeds: "fps" and "fps_with_io".
        rows: number of anchors, or of Gaussians of a 4DGaussians.
        size_px: (width, height) of the first test view.
    """

    name: str
    layout: str
    views: Sequence[dict[str, float]]
    sizes: dict[str, float]
    speeds: dict[str, float]
    rows: int
    size_px: tuple[int, int]

    def means(self) -> dict[str, float]:
        """The mean of every measure over the views that have it, sizes and speeds."""
        names = [name for name in COLUMNS if any(name in view for view in self.views)]
        found = {name: float(np.mean([view[name] for view in self.views if name in view])) for name in names}
        return found | self.sizes | self.speeds


@dataclass
class Report:
    """Scores of scenes: a table with a row for each, their mean, and the published numbers.

    Attributes:
        scenes: in the order of evaluation.
        device: where images were rendered.
        lpips: backbones that were given.
    """

    scenes: list[SceneScore] = field(default_factory=list)
    device: str = "cpu"
    lpips: tuple[str, ...] = ()

    def means(self) -> dict[str, float]:
        """The mean over scenes of every measure; scenes without it are left out."""
        rows = [scene.means() for scene in self.scenes]
        return {
            name: float(np.mean([row[name] for row in rows if name in row]))
            for name in COLUMNS
            if any(name in row for row in rows)
        }

    def published(self) -> tuple[Published, ...]:
        layouts = {scene.layout for scene in self.scenes}
        return PUBLISHED.get(layouts.pop(), _NOTHING) if len(layouts) == 1 else _NOTHING

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; None where a published number is not known."""
        return {
            "scenes": [
                {
                    "name": scene.name, "layout": scene.layout, "rows": scene.rows, "size_px": list(scene.size_px),
                    "mean": scene.means(), "views": list(scene.views),
                }
                for scene in self.scenes
            ],
            "mean": self.means(),
            "device": self.device,
            "published": [vars(row) for row in self.published()],
        }  # fmt: skip

    def __str__(self) -> str:
        names = [name for name in COLUMNS if name in self.means()]
        heads = [COLUMNS[name] for name in names]
        rows = [("", *(head for head, _ in heads))]
        for scene in self.scenes:
            rows.append((scene.name, *_cells(scene.means(), {name: COLUMNS[name] for name in names})))
        title = f"mean of {counted(len(self.scenes), 'scene')}"
        rows.append((title, *_cells(self.means(), {name: COLUMNS[name] for name in names})))
        known = [("published", *(head for head, _ in PUBLISHED_COLUMNS.values()), "source")]
        known += [(row.system, *_cells(vars(row), PUBLISHED_COLUMNS, UNKNOWN), row.source) for row in self.published()]
        return "\n\n".join([_table(rows), "\n".join(self._remarks(names)), _table(known)])

    def _remarks(self, names: Sequence[str]) -> Iterator[str]:
        views = sum(len(scene.views) for scene in self.scenes)
        sizes = sorted({scene.size_px for scene in self.scenes})
        yield (
            f"{counted(views, 'test view')} of {', '.join(f'{w} x {h}' for w, h in sizes)} pixels, rounded to 8 bits; "
            f"rendered on {self.device}. FPS with IO reads the true image and copies 8-bit pixels to the host, as published."
        )
        if "ms_ssim" not in names:
            yield f"MS-SSIM and D-SSIM need {SMALLEST} x {SMALLEST} pixels or more."
        words = " ".join(f"model.lpips_{name}={file}" for name, file in BACKBONES.items() if name not in self.lpips)
        if words:
            yield f"LPIPS needs torchvision's weights, which are not downloaded: {words}"
        if "folder_mb" not in names:
            yield "The size of the published folder needs plyfile: pip install 'visionzoo[gs]'"


@torch.no_grad()
def view_image(model: Model, frame: Frame, *, white: bool = True, rules: str = "gsplat", moving: bool = True) -> Tensor:
    """(3, H, W) in [0, 1]: a model's image of a frame; of the scene at rest if it is not `moving`."""
    height, width = frame.image.shape[1:]
    gaussians = model(frame.center, frame.time if moving else None)
    drawn = draw(gaussians, frame.viewmat, frame.K, width, height, white=white, rules=rules)
    return drawn.colors[0].permute(2, 0, 1).clamp(0, 1)


def evaluate_scene(
    model: Model,
    name: str,
    layout: str,
    views: Sequence[View],
    measures: Measures | None = None,
    *,
    white: bool = True,
    rules: str = "gsplat",
) -> SceneScore:
    """Measure a model in eval mode on test views, on the device where it is."""
    measures = measures or Measures()
    device = next(model.parameters()).device
    moving = isinstance(model, FourDGaussians) or not is_static(model)
    frames = Frames(views)
    scores = []
    for number in range(len(frames)):
        frame = frames.frame(number).to(device)
        scores.append(measures.score(view_image(model, frame, white=white, rules=rules, moving=moving), frame))
    camera = views[0].camera
    rows = model.table.rows if isinstance(model, FourDGaussians) else model.anchors.rows
    speeds = measure_speed(model, views, white=white, rules=rules, moving=moving)
    return SceneScore(name, layout, scores, measure_sizes(model), speeds, rows, (camera.width, camera.height))


def is_static(model: MoDecGS) -> bool:
    """Whether nothing moves, as in Scaffold-GS."""
    return model.global_deformation is None and model.local_deformation is None


def measure_speed(
    model: Model, views: Sequence[View], *, white: bool = True, rules: str = "gsplat", moving: bool = True
) -> dict[str, float]:
    """Images per second: rendering alone ("fps"), and with reading the true image and copying 8-bit pixels to the host
    ("fps_with_io"). The first view is not counted, as published; a scene of one view is rendered twice."""
    device = next(model.parameters()).device
    frames = Frames(views, limit=0)  # nothing is kept, so that every image is read
    rendering = everything = 0.0
    numbers = [0, *range(1, max(2, len(views)))]
    for place, number in enumerate(numbers):
        started = time.perf_counter()
        frame = frames.frame(number % len(views)).to(device)
        _synchronize(device)
        read = time.perf_counter()
        image = view_image(model, frame, white=white, rules=rules, moving=moving)
        _synchronize(device)
        drawn = time.perf_counter()
        to_uint8(image)
        if place:
            rendering += drawn - read
            everything += time.perf_counter() - started
    counted_views = len(numbers) - 1
    return {"fps": counted_views / rendering, "fps_with_io": counted_views / everything}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_sizes(model: Model) -> dict[str, float]:
    """Megabytes (1e6 bytes) of a model: "folder_mb" of all files of the published `iteration_<n>`, if plyfile is installed, and
    "vzgs_mb" of the compact file."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="visionzoo-") as temporary:
        if importlib.util.find_spec("plyfile") is not None:
            folder = write_published(model, Path(temporary) / "published")
            found["folder_mb"] = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        found["vzgs_mb"] = write_scene(model, Path(temporary) / "scene.vzgs") / 1e6
    return found


def _cells(values: dict[str, Any], columns: dict[str, tuple[str, int]], missing: str = "-") -> list[str]:
    found = []
    for name, (_, digits) in columns.items():
        value = values.get(name)
        found.append(missing if value is None else f"{value:.{digits}f}")
    return found


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = row
        last = len(row) - 1
        cells = [
            f"{cell:<{width}}" if column == last and not cell[:1].isdigit() else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(others, widths[1:], strict=True), 1)
        ]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return "\n".join(lines)


__all__ = [
    "PUBLISHED",
    "Measures",
    "Report",
    "SceneScore",
    "evaluate_scene",
    "measure_sizes",
    "measure_speed",
    "view_image",
]
