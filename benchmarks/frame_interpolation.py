"""The quality of interpolated frames on held-out frames: a network beside blending and OpenCV's DIS flow.

    python -m benchmarks.frame_interpolation CLIP.mp4…            # the default network
    python -m benchmarks.frame_interpolation CLIP.mp4… --checkpoint weights.safetensors --toy 20

Of frames 0, 1, 2, … of a video, frame 1 is estimated from 0 and 2, then frame 3 from 2 and 4, and so on, except across cuts. With
`--step 2`, the frames of each pair are four apart. `--toy N` adds N clips of the toy world's test split. "DIS flow" is symmetric:
OpenCV's DIS (preset medium) estimates the flow in both directions, both frames are warped by half of it, and blended.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from visionzoo.data.toy_world import ToyWorld
from visionzoo.io.video import read_frames
from visionzoo.metrics import psnr, ssim
from visionzoo.models.lovecon import CUT, frame_change
from visionzoo.pipelines.interpolate import InterpolatePipeline

Pixels = NDArray[np.uint8]
Method = Callable[[Pixels, Pixels], Pixels]


def blend(first: Pixels, second: Pixels) -> Pixels:
    """The mean of two frames."""
    return ((first.astype(np.uint16) + second + 1) // 2).astype(np.uint8)


def dis_flow(first: Pixels, second: Pixels) -> Pixels:
    """Both frames, warped halfway by DIS flow, blended."""
    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    height, width = a.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    warped = []
    for frame, now, other in ((first, b, a), (second, a, b)):  # the flow towards a frame
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(now, other, None)  # pyright: ignore
        place = (x + flow[..., 0] / 2, y + flow[..., 1] / 2)
        warped.append(cv2.remap(frame, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return blend(*warped)


def triplets(frames: Iterable[Pixels], step: int, limit: int | None = None) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """Frames `step` apart: the last of a triplet is the first of the next one. Those with a cut are left out."""
    window: list[Pixels] = []
    made = 0
    for frame in frames:
        window.append(frame)
        if len(window) < 2 * step + 1:
            continue
        if max(frame_change(*pair) for pair in pairwise(window)) <= CUT:
            yield window[0], window[step], window[-1]
            made += 1
            if made == limit:
                return
        window = window[-1:]


def toy_frames(count: int, step: int) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """Triplets of clips of the toy world's test split, 128 x 128."""
    for seed in range(count):
        clip = ToyWorld.create(seed, "test", places=2, characters=1 + seed % 2).film(17)
        yield from triplets((frame.rgb for frame in clip.frames(motion=False)), step)


def measure(
    methods: dict[str, Method], items: Iterable[tuple[Pixels, Pixels, Pixels]]
) -> tuple[int, dict[str, tuple[float, float]]]:
    """The number of triplets, and the mean PSNR and SSIM of each method's middle frames."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for first, middle, last in items:
        for name, method in methods.items():
            made = method(first, last)
            found[name].append((min(psnr(made, middle), 80.0), ssim(made, middle)))
    count = len(next(iter(found.values())))
    return count, {name: tuple(np.mean(values, axis=0)) for name, values in found.items()}  # pyright: ignore[reportReturnType]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, help="videos")
    parser.add_argument("--model", default=None, help="a registered network")
    parser.add_argument("--checkpoint", default=None, help="its weights")
    parser.add_argument("--step", type=int, default=1, help="frames from one frame of a triplet to the next")
    parser.add_argument("--limit", type=int, default=None, help="triplets of each clip")
    parser.add_argument("--toy", type=int, default=0, help="clips of the toy world")
    options = parser.parse_args(arguments)
    pipe = InterpolatePipeline.create(options.model, "cpu", "float32", options.checkpoint)
    methods: dict[str, Method] = {
        "blending": blend,
        "DIS flow": dis_flow,
        pipe.name: lambda first, second: pipe.between([(first, second)])[0][0],
    }
    print(f"| clip | triplets | {' | '.join(methods)} |\n|{'---|' * (2 + len(methods))}")
    sources = {
        path.stem: triplets((f.pixels for f in read_frames(path)), options.step, options.limit)
        for path in options.clips
    }
    if options.toy:
        sources["toy world"] = islice(toy_frames(options.toy, options.step), options.limit)
    for name, items in sources.items():
        count, scores = measure(methods, items)
        cells = (f"{decibels:.2f} dB, {similarity:.4f}" for decibels, similarity in scores.values())
        print(f"| {name} | {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
