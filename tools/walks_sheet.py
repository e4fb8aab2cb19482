"""Draws the picture of docs/generate.md: walks with and without memory beside the true ones, at the end of each action.

python -m tools.walks_sheet -o docs/images/generate.jpg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from visionzoo.pipelines.generate import GenerateOptions, SlowFastVGenPipeline
from visionzoo.pipelines.generate.samples import SAMPLES, Sample, true_walk

Pixels = NDArray[np.uint8]

SIDE, GAP, LINE, LEFT = 120, 4, 16, 96
"""Sizes in pixels: of a frame, between frames, of a line of text, and of the column that names the rows."""


def rows(pipe: SlowFastVGenPipeline, sample: Sample, options: GenerateOptions) -> dict[str, list[Pixels]]:
    """Name of a row -> the first frame, and the last one of each action."""
    new, actions = pipe.config["frames_per_chunk"], list(sample.actions)
    truth = [frame.rgb for frame in true_walk(sample, new)]
    found = {"true": truth}
    for name, learns in (("with memory", True), ("without", False)):
        how = GenerateOptions(**{**vars(options), "fast_learning": learns})
        found[name] = pipe(truth[0], actions, options=how).frames
    return {name: frames[::new] for name, frames in found.items()}


def sheet(pipe: SlowFastVGenPipeline, samples: Sequence[Sample], options: GenerateOptions) -> Image.Image:
    font = ImageFont.load_default(12)
    widest = max(len(sample.actions) for sample in samples) + 1
    height = len(samples) * (LINE + 3 * (SIDE + GAP)) + GAP
    page = Image.new("RGB", (LEFT + widest * (SIDE + GAP), height), "white")
    draw, top = ImageDraw.Draw(page), GAP
    for sample in samples:
        for column, word in enumerate(("first frame", *sample.actions)):
            draw.text((LEFT + column * (SIDE + GAP), top), word, "black", font)
        top += LINE
        for name, frames in rows(pipe, sample, options).items():
            draw.text((GAP, top + SIDE // 2), name, "black", font)
            for column, frame in enumerate(frames):
                shown = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                page.paste(shown, (LEFT + column * (SIDE + GAP), top))
            top += SIDE + GAP
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--checkpoint", type=Path, help="folder of the pipeline; the bundled one by default")
    parser.add_argument("--fast-lr", type=float, default=1e-4)
    args = parser.parse_args(arguments)
    pipe = SlowFastVGenPipeline.create(checkpoint=args.checkpoint)
    sheet(pipe, SAMPLES, GenerateOptions(fast_lr=args.fast_lr)).save(args.output, optimize=True, quality=88)
    print(args.output)


if __name__ == "__main__":
    main()
