"""LOVECon on a GPU: networks with the sizes of Stable Diffusion 1.5 and random weights, in half precision.

python -m benchmarks.lovecon_gpu                                   # 24 frames of 512 x 512 in 10 steps
python -m benchmarks.lovecon_gpu --frames 128 --steps 50 --no-straightforward

Time and memory do not depend on the weights. The straightforward form keeps its attention maps on the GPU.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from visionzoo.benchmark import Contestant, compare
from visionzoo.pipelines.edit import EditOptions

from .lovecon import BLUE, RED, blocks, judge, network, ours, straightforward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-straightforward", dest="straightforward", action="store_false")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU")
    pipe = network((320, 640, 1280, 1280), 32, args.side, 768).to("cuda", torch.float16)
    frames = blocks(args.frames, args.side)
    settings: dict[str, Any] = {"steps": args.steps, "guidance": 3.0, "phrase": "red shirt", "batch_size": 8}
    contestants = [
        Contestant(name, partial(ours, pipe, frames, EditOptions(BLUE, RED, memory=memory, **settings)))
        for name, memory in (("visionzoo", "none"), ("visionzoo, memory bank", "bank"))
    ]
    if args.straightforward:
        plain = partial(straightforward, pipe, frames, EditOptions(BLUE, RED, **settings))
        contestants.insert(0, Contestant("straightforward", plain))
    table = compare(
        f"Editing {args.frames} frames of {args.side} x {args.side} in {args.steps} steps, float16",
        contestants,
        rounds=args.rounds,
        command="python -m benchmarks.lovecon_gpu",
        items=args.frames,
        unit="frames",
        judge=judge,
    )
    print(table.to_markdown())


if __name__ == "__main__":
    main()
