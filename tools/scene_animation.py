"""Draws an animation of reconstructed scenes next to the truth: the views of a capture in the order of time.

    visionzoo reconstruct samples -o scene
    visionzoo reconstruct scene -o dynamic.vzgs
    visionzoo reconstruct scene -o static.vzgs --static
    python -m tools.scene_animation scene dynamic.vzgs static.vzgs -o docs/images/reconstruct.webp

Columns: the recording, then each scene from the same camera at the same time, with its PSNR on the views that are shown.
`--part test` shows the views that no scene was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from visionzoo.models.modecgs.captures.capture import View
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.pipelines.reconstruct import Scene

Pixels = NDArray[np.uint8]
MARGIN, CAPTION = 4, 16


def rows_of(views: Sequence[View], scenes: Sequence[Scene]) -> list[list[Pixels]]:
    """Every view in the order of time: the truth, then what each scene shows."""
    in_time = sorted(views, key=lambda view: view.time)
    return [[view.pixels(), *(scene.image(view.camera, view.time) for scene in scenes)] for view in in_time]


def scores(rows: Sequence[Sequence[Pixels]]) -> list[float]:
    """Mean PSNR in dB of each column but the first, against the first."""
    found = []
    for column in range(1, len(rows[0])):
        errors = [np.mean((row[0] / 255.0 - row[column] / 255.0) ** 2) for row in rows]
        found.append(float(np.mean(-10 * np.log10(np.maximum(errors, 1e-10)))))
    return found


def frame(images: Sequence[Pixels], captions: Sequence[str], side: int) -> Image.Image:
    """One frame: images next to each other, with captions below."""
    height, width = images[0].shape[:2]
    scale = side / max(height, width)
    size = (round(width * scale), round(height * scale))
    sheet = Image.new("RGB", (len(images) * (size[0] + MARGIN) - MARGIN, size[1] + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        left = number * (size[0] + MARGIN)
        sheet.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), (left, 0))
        draw.text((left + size[0] / 2, size[1] + 2), caption, fill="black", font=font, anchor="ma")
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True, help="animated .webp or .gif")
    parser.add_argument(
        "--names", default=None, help="comma-separated captions of the scenes; by default their file names"
    )
    parser.add_argument("--part", choices=("train", "test"), default="train")
    parser.add_argument("--max-side", type=int, default=128, help="size at which the scenes were trained")
    parser.add_argument("--side", type=int, default=256, help="longer side of each image in the animation")
    parser.add_argument("--fps", type=float, default=12)
    how = parser.parse_args(arguments)
    scenes = [Scene.open(path, "cpu") for path in how.scenes]
    names = how.names.split(",") if how.names else [path.stem for path in how.scenes]
    capture = read_capture(how.capture).resized(how.max_side)
    rows = rows_of(getattr(capture, how.part), scenes)
    captions = ["recording", *(f"{name}: {score:.1f} dB" for name, score in zip(names, scores(rows), strict=True))]
    frames = [frame(row, captions, how.side) for row in rows]
    print(", ".join(captions))
    more: dict[str, Any] = {"quality": 80, "method": 6} if how.output.suffix == ".webp" else {}
    frames[0].save(how.output, save_all=True, append_images=frames[1:], duration=round(1000 / how.fps), loop=0, **more)
    print(f"{how.output}: {len(frames)} frames, {how.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
