"""SlowFast-VGen on a GPU: ModelScope's network of 1.4 billion parameters with random weights, in half precision.

python -m benchmarks.slowfastvgen_gpu                              # 16 frames after 16, 256 x 256, 10 steps
python -m benchmarks.slowfastvgen_gpu --steps 50 --compile         # as published, and compiled
python -m benchmarks.slowfastvgen_gpu --no-plain --side 320        # without diffusers' own modules, on a smaller GPU

Time and memory do not depend on the weights. The adapters of fast learning are float32 in every case.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from visionzoo.benchmark import Contestant, compare

from .slowfastvgen import Case, Ours, PlainLoop, judge, learning, random_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--past", type=int, default=16)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=256, help="of the frames, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="also compile the UNet, which takes minutes")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="leave out diffusers' own modules")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU")
    if args.side % 8:
        parser.error(f"--side must be a multiple of 8, got {args.side}")
    network = random_network((320, 640, 1280, 1280), 1024).to("cuda", getattr(torch, args.dtype))
    case = Case("ModelScope's network", network, args.past, args.new, args.steps, 50, args.side // 8)
    contestants = [Contestant("visionzoo", case.chunk(partial(Ours, network)))]
    if args.plain:
        contestants.insert(0, Contestant("diffusers and PEFT", case.chunk(partial(PlainLoop, network))))
    command = "python -m benchmarks.slowfastvgen_gpu"
    run = partial(compare, rounds=args.rounds, command=command, items=args.new, unit="frames", judge=judge)
    what = f"{args.new} frames after {args.past}, {args.side} x {args.side}, {args.steps} steps with guidance, {args.dtype}"
    print(run(f"A chunk and learning once: {what}", contestants).to_markdown())
    if args.plain:
        print(learning([case], args.rounds, command).to_markdown())
    if args.compile:
        network.unet.compile()
        print(
            run(
                f"The same, compiled: {what}", [Contestant("visionzoo, compiled", case.chunk(partial(Ours, network)))]
            ).to_markdown()
        )


if __name__ == "__main__":
    main()
