"""Draws the picture of docs/generate.md: walks with and without memory beside the true ones, at the end of each action.

python -m tools.walks_sheet -o docs/images/generate.jpg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from visionzoo.pipelines.generate import GenerateOptions, SlowFastVGenPipeline
from visionzoo.pipelines.generate.samples import SAMPLES, Sample, true_walk

from .sheet import Block, Pixels, draw_sheet


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
    return draw_sheet([Block(("first frame", *sample.actions), rows(pipe, sample, options)) for sample in samples])


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
