"""How well, and how fast, the bundled small MCNet makes held-out frames from the first one, compared with that frame unchanged.

python -m benchmarks.talking_score data/talking                          # clips of tools/talking_clips.py
python -m benchmarks.talking_score data/talking --image reenact.jpg    # the sample images, drivers and results in rows
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import visionzoo
from visionzoo.io.files import bundled
from visionzoo.io.pixels import to_float
from visionzoo.metrics.restoration import psnr, ssim
from visionzoo.models.mcnet.data import ClipReader, find_clips

SIZE = 128
PAIRS = {
    ("woman", "woman"): (12, 25, 37, 50, 62, 74),
    ("man", "man"): (12, 25, 37, 50, 62, 74),
    ("woman", "man"): (12, 25, 37, 50, 62, 74),
}
"""Image and driver of the samples -> the frames that are shown."""


def score(model: Any, frames: Tensor) -> list[tuple[float, ...]]:
    """PSNR and SSIM of the first frame unchanged and of the network's output, for the others (N, 3, H, W)."""
    rows = []
    with torch.inference_mode():
        for frame in frames[1:]:
            made = model(frames[:1], frame[None])[0]
            rows.append(tuple(measure(image, frame) for image in (frames[0], made) for measure in (psnr, ssim)))
    return rows


def speed(model: Any, frames: Tensor) -> float:
    """Frames per second, one at a time, with an encoded source."""
    with torch.inference_mode():
        cache, seconds = model.encode_source(frames[:1]), []
        for frame in frames:
            started = time.perf_counter()
            model.animate(cache, model.detect(frame[None]))
            seconds.append(time.perf_counter() - started)
    return 1 / float(np.median(seconds))


def image(path: Path) -> None:
    pipe = visionzoo.pipeline("reenact", "mcnet_nano", device="cpu")
    rows = []
    for (person, driver), numbers in PAIRS.items():
        still, video = bundled("talking", f"{person}.jpg"), bundled("talking", f"{driver}.mp4")
        seen = pipe.motion(video, keep_crops=True).crops
        made = pipe(still, video).frames
        row = np.full((2 * SIZE + 4, (len(numbers) + 1) * SIZE + 14, 3), 255, np.uint8)
        row[SIZE // 2 + 2 : SIZE * 3 // 2 + 2, :SIZE] = pipe.portrait(still).crop
        for place, number in enumerate(numbers):
            left = SIZE + 14 + place * SIZE
            row[:SIZE, left : left + SIZE], row[SIZE + 4 :, left : left + SIZE] = seen[number], made[number]
        rows += [row, np.full((16, row.shape[1], 3), 255, np.uint8)]
    Image.fromarray(np.vstack(rows[:-1])).save(path, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--image", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = visionzoo.create_model("mcnet_nano", pretrained=True)
    model, reader, rows = model.eval().fuse(), ClipReader(SIZE), {}
    frames = torch.empty(0)
    for clip in find_clips(args.root / "test"):
        pixels = reader.read(clip, range(reader.count(clip)))
        frames = to_float(pixels)
        rows.setdefault("new heads" if clip.identity.startswith("head") else clip.identity, []).extend(
            score(model, frames)
        )
    rows["all"] = [row for part in rows.values() for row in part]
    print("| | frames | first frame, PSNR / SSIM | mcnet_nano |\n|---|---|---|---|")
    for name, part in rows.items():
        still_psnr, still_ssim, made_psnr, made_ssim = np.mean(part, 0)
        print(f"| {name} | {len(part)} | {still_psnr:.2f} / {still_ssim:.3f} | {made_psnr:.2f} / {made_ssim:.3f} |")
    print(f"\n{speed(model, frames):.1f} frames/s, one thread, float32")
    if args.image:
        image(args.image)


if __name__ == "__main__":
    main()
