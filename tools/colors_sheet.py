"""Draws pictures of docs/colorize.md: line art, true colours, and the colours that a pipeline gives, with and without memory.

python -m tools.colors_sheet -o docs/images/colorize.jpg                           # the sample clips
python -m tools.colors_sheet --cartoon bigbuckbunny.mp4 -o docs/images/colorize_cartoon.jpg

The lines of a cartoon are Canny's edges, as the weights of the line-art network are not bundled.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from visionzoo.io.video import read_frames
from visionzoo.pipelines.colorize import ColorizeOptions, LongAnimationPipeline
from visionzoo.pipelines.colorize.samples import SAMPLES, Sample, true_clip

from .sheet import Block, Pixels, draw_sheet

COLUMNS = 8


def sample_block(pipe: LongAnimationPipeline, sample: Sample) -> Block:
    """A sample clip."""
    frames = list(true_clip(sample).frames(motion=False))
    lines = [np.repeat(frame.ink[..., None], 3, 2) for frame in frames]
    return block(
        pipe, lines, [frame.rgb for frame in frames], sample.prompt, {"with memory": "both", "without": "none"}
    )


def cartoon_block(pipe: LongAnimationPipeline, path: Path) -> Block:
    """A cartoon whose lines are extracted, at the size of the model."""
    size = pipe.frame_size[1], pipe.frame_size[0]
    true = [cv2.resize(frame.pixels, size, interpolation=cv2.INTER_AREA) for frame in read_frames(path)]
    return block(pipe, [edges(frame) for frame in true], true, "", {"coloured": "both"})  # pyright: ignore[reportArgumentType]


def edges(frame: Pixels) -> Pixels:
    """Dark edges on white paper, (H, W, 3)."""
    found = 255 - cv2.Canny(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 60, 140)
    return np.repeat(found[..., None], 3, 2).astype(np.uint8)


def block(
    pipe: LongAnimationPipeline, lines: Sequence[Pixels], true: Sequence[Pixels], prompt: str, rows: dict[str, str]
) -> Block:
    """Lines, true frames, and a row of colours for each memory."""
    shown = np.linspace(0, len(lines) - 1, COLUMNS).astype(int)
    found = {"lines": [lines[index] for index in shown], "true": [true[index] for index in shown]}
    for name, memory in rows.items():
        options = ColorizeOptions(prompt=prompt, memory=memory, line_source="drawings", drop_remainder=False)  # pyright: ignore[reportArgumentType]
        made = pipe(iter(lines), true[0], options=options, frames=len(lines), size=pipe.frame_size)
        found[name] = [made.frames[index] for index in shown]
    return Block([f"frame {index}" for index in shown], found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--checkpoint", type=Path, help="folder of the pipeline; the bundled one by default")
    parser.add_argument("--cartoon", type=Path, help="video of a cartoon, in place of the samples")
    args = parser.parse_args(arguments)
    pipe = LongAnimationPipeline.create(checkpoint=args.checkpoint)
    if args.cartoon is None:
        blocks = [sample_block(pipe, sample) for sample in SAMPLES]
    else:
        blocks = [cartoon_block(pipe, args.cartoon)]
    draw_sheet(blocks).save(args.output, optimize=True, quality=88)
    print(args.output)


if __name__ == "__main__":
    main()
