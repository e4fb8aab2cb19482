"""Measures how well DehazeXL dehazes photos that it was not trained on, with synthetic haze of four densities.

    python -m benchmarks.dehaze_photos                           # the bundled dehazexl_nano
    python -m benchmarks.dehaze_photos --checkpoint weights.safetensors --sheet sheet.png
    python -m benchmarks.dehaze_photos --seams                   # how visible the borders of patches are

It is compared with the unchanged photo and the dark channel prior. The photos come with scikit-image, scikit-learn and Gradio; the
haze comes from the generator of the training, with other seeds. One scene, a stereo pair with measured depth, gets haze by distance.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from visionzoo.io.pixels import quantize, to_uint8
from visionzoo.metrics.restoration import psnr, ssim
from visionzoo.models.dehazexl.encoder import PATCH
from visionzoo.models.dehazexl.haze import LEVELS, Haze, draw_haze
from visionzoo.models.dehazexl.placement import StreamOptions
from visionzoo.pipelines.dehaze import DehazePipeline

from .dark_channel import dehaze as dark_channel_prior

PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "cheetah": ("gradio", "media_assets/images/cheetah1.jpg"),
    "lion": ("gradio", "media_assets/images/lion.jpg"),
    "tower": ("gradio", "media_assets/images/tower.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
}
SIDE = 640
"""Longer side of the photos, pixels."""


@dataclass(frozen=True)
class Case:
    """A photo under haze: (3, H, W) in [0, 1] each, the hazy one rounded to 8 bits."""

    name: str
    level: str
    hazy: Tensor
    clear: Tensor


def carried(package: str, file: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"needs the package {package}, which contains {file}: pip install visionzoo[test] scikit-learn"
        )
    return Path(spec.origin).parent / file


def photo(name: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    image = Image.open(carried(*PHOTOS[name])).convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def cases(seed: int = 2026) -> Iterator[Case]:
    """Every photo under haze of every density, and one under haze by measured distance."""
    for number, name in enumerate(PHOTOS):
        clear = photo(name)
        for place, level in enumerate(LEVELS):
            haze = draw_haze(np.random.default_rng((seed, number, place)), level, side=SIDE)
            yield Case(name, level, _tensor(to_uint8(_tensor(haze(clear)))), _tensor(clear))
    clear, metres = motorcycle()
    haze = Haze(seed, 0.6, 1.0, SIDE, 0.5, 1.0, (0.0, 0.0), (0.72, 0.74, 0.76))
    hazy = haze(clear, distance=(metres / np.median(metres)).astype(np.float32))
    yield Case("motorcycle", "by distance", _tensor(to_uint8(_tensor(hazy))), _tensor(clear))


def motorcycle() -> tuple[np.ndarray, np.ndarray]:
    """Middlebury's motorcycle (Scharstein et al. 2014): (H, W, 3) uint8 and the distance of each pixel in metres."""
    clear = np.asarray(Image.open(carried("skimage", "data/motorcycle_left.png")).convert("RGB"))
    with np.load(carried("skimage", "data/motorcycle_disp.npz")) as file:
        disparity = file["arr_0"].astype(np.float64)
    known = np.isfinite(disparity)
    disparity[~known] = np.quantile(disparity[known], 0.05)  # unmeasured pixels are taken to be background
    return clear, 0.193001 * 994.978 / (disparity + 31.086)


def _tensor(pixels: np.ndarray) -> Tensor:
    unit = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
    return torch.from_numpy(np.ascontiguousarray(unit.transpose(2, 0, 1)))


def measure(methods: dict[str, Callable[[Tensor], Tensor]], sheet: Path | None) -> None:
    """Print the tables, and save hazy, results and clear as an image."""
    scores: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    rows = []
    every = list(cases())
    for case in tqdm(every, desc="photos"):
        results = {}
        for name, method in methods.items():
            started = time.perf_counter()
            results[name] = quantize(method(case.hazy))
            seconds[name] += time.perf_counter() - started
            score = (psnr(results[name], case.clear), ssim(results[name], case.clear))
            scores[name].setdefault(case.level, []).append(score)
        if case.level in ("moderate", "very dense", "by distance"):
            rows.append([case.hazy, *(results[name] for name in methods if name != "nothing"), case.clear])
    megapixels = sum(case.hazy[0].numel() for case in every) / 1e6
    levels = [*LEVELS, "by distance"]
    print(f"| PSNR / SSIM | {' | '.join(levels)} | all | s a megapixel |\n|{'---|' * (len(levels) + 3)}")
    for name, found in scores.items():
        cells = [np.mean(found[level], 0) for level in levels] + [
            np.mean([row for rows in found.values() for row in rows], 0)
        ]
        words = " | ".join(f"{value[0]:.2f} / {value[1]:.3f}" for value in cells)
        print(f"| {name} | {words} | {seconds[name] / megapixels:.2f} |")
    better = np.mean(
        [
            ours[0] > theirs[0]
            for level in levels
            for ours, theirs in zip(scores["DehazeXL"][level], scores["dark channel prior"][level], strict=True)
        ]
    )
    print(f"\nBetter than the dark channel prior by PSNR in {better:.0%} of {len(every)} images.")
    if sheet is not None:
        save_sheet(rows, sheet)


def save_sheet(rows: list[list[Tensor]], path: Path, width: int = 240) -> None:
    """Each row: hazy, dark channel prior, DehazeXL, clear."""
    lines = []
    for row in rows:
        height = round(width * row[0].shape[1] / row[0].shape[2])
        lines.append(np.hstack([np.asarray(Image.fromarray(to_uint8(x)).resize((width, height))) for x in row]))
    Image.fromarray(np.vstack(lines)).save(path, quality=92)


def seam_ratio(change: Tensor) -> float:
    """Mean step across borders of patches divided by that between other neighbours, in the change of an image (3, H, W)."""
    at_border, elsewhere = [], []
    for along in (change, change.transpose(1, 2)):
        steps = (along[..., 1:] - along[..., :-1]).abs()
        border = torch.zeros(steps.shape[-1], dtype=torch.bool)
        border[PATCH - 1 :: PATCH] = True
        at_border.append(steps[..., border].flatten())
        elsewhere.append(steps[..., ~border].flatten())
    return float(torch.cat(at_border).mean() / torch.cat(elsewhere).mean())


def seams(pipe: DehazePipeline) -> None:
    """Print how visible borders are in the photos, unblended and blended; 1 means invisible."""
    ways = {"as published": StreamOptions(), "blended": StreamOptions(blend=True)}
    ratios: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    every = [case for case in cases() if max(case.clear.shape[1:]) > PATCH]  # the others are one patch
    for case in tqdm(every, desc="photos"):
        for name, options in ways.items():
            change = quantize(pipe.restore_tensor(case.hazy, options)) - case.hazy
            ratios[name].setdefault(case.level, []).append(seam_ratio(change))
    levels = [*LEVELS, "by distance"]
    print(f"| step at borders / elsewhere | {' | '.join(levels)} | all |\n|{'---|' * (len(levels) + 2)}")
    for name, found in ratios.items():
        means = [np.mean(found[level]) for level in levels] + [
            np.mean([row for rows in found.values() for row in rows])
        ]
        print(f"| {name} | {' | '.join(f'{mean:.2f}' for mean in means)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--sheet", type=Path, help="image to write")
    parser.add_argument("--seams", action="store_true", help="measure the borders of patches instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = DehazePipeline.create(options.model, device="cpu", checkpoint=options.checkpoint)
    if options.seams:
        seams(pipe)
        return
    methods = {"nothing": lambda x: x, "dark channel prior": dark_channel_prior, "DehazeXL": pipe.restore_tensor}
    measure(methods, options.sheet)


if __name__ == "__main__":
    main()
