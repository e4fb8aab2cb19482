"""Cuts the faces out of videos, as VoxCeleb was for MCNet: clips to train on, one for each face that stays in view.

    python -m tools.face_tubes interview.mp4 talk.mov data/own/train
    visionzoo fit --config mcnet/vox256 data.root=data/own model.perceptual=0 model.pixel=10

A face is followed for as long as it stays near the place where it was seen first. The square around all places where it was seen
becomes a video of 256 x 256 pixels, called NAME#NUMBER#FIRST#LAST.mp4, without sound. Use only videos of people who agreed to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from visionzoo.console import note
from visionzoo.errors import InputError, VisionZooError
from visionzoo.faces.mtcnn import MTCNN
from visionzoo.io.files import make_folder
from visionzoo.io.video import VideoWriter, probe, read_frames
from visionzoo.models.mcnet.crop import FrameCrop, Tube, link_tubes, square_crop


def find_tubes(video: Path, detector: MTCNN, *, least_frames: int, smallest: int) -> list[tuple[Tube, FrameCrop]]:
    """The faces of a video with the squares to cut out, without squares of less than `smallest` pixels."""
    boxes, height, width = [], 0, 0
    for frame in tqdm(read_frames(video), desc=video.name, unit="frame"):
        height, width = frame.pixels.shape[:2]
        boxes.append([face.box for face in detector(frame.pixels)])
    tubes = [(tube, square_crop(tube.box, height, width)) for tube in link_tubes(boxes, least_frames=least_frames)]
    return [(tube, crop) for tube, crop in tubes if min(crop.width, crop.height) >= smallest]


def write_tubes(video: Path, tubes: Sequence[tuple[Tube, FrameCrop]], out: Path, size: int) -> list[Path]:
    """A video of each tube, `size` x `size`."""
    fps = probe(video).fps
    name = video.stem.replace("#", "_")
    paths = [out / f"{name}#{number:03}#{tube.start}#{tube.end - 1}.mp4" for number, (tube, _) in enumerate(tubes)]
    with ExitStack() as stack:
        writers = [stack.enter_context(VideoWriter(path, fps=fps, crf=14, overwrite=True)) for path in paths]
        for frame in read_frames(video):
            for writer, (tube, crop) in zip(writers, tubes, strict=True):
                if tube.start <= frame.number < tube.end:
                    cut = Image.fromarray(frame.pixels).resize((size, size), Image.Resampling.BICUBIC, crop.box)
                    writer.write(np.asarray(cut))
    return paths


def cut_faces(
    videos: Sequence[Path], out: Path, *, size: int = 256, least_frames: int = 64, smallest: int = 100
) -> list[Path]:
    """The clips of all videos.

    Args:
        least_frames: shorter appearances of a face are left out.
        smallest: faces whose square is smaller, in pixels, are left out.

    Raises:
        InputError: a video cannot be read, or two have the same name.
    """
    stems = [video.stem for video in videos]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(f"{stem}: two videos have this name; names say who is seen, so rename one of them")
    detector, made = MTCNN(), []
    make_folder(out)
    for video in videos:
        tubes = find_tubes(video, detector, least_frames=least_frames, smallest=smallest)
        if not tubes:
            note(f"{video}: no face of {smallest} pixels is seen for {least_frames} frames; nothing was cut out")
        made += write_tubes(video, tubes, out, size)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("out", type=Path, help="folder for the clips")
    parser.add_argument("--size", type=int, default=256, help="side of the clips in pixels (256)")
    parser.add_argument("--least-frames", type=int, default=64, help="leave out shorter appearances (64 frames)")
    parser.add_argument("--smallest", type=int, default=100, help="leave out smaller squares (100 pixels)")
    args = parser.parse_args()
    try:
        made = cut_faces(args.videos, args.out, size=args.size, least_frames=args.least_frames, smallest=args.smallest)
    except VisionZooError as error:
        parser.error(str(error))
    print(f"{len(made)} clips in {args.out}")


if __name__ == "__main__":
    main()
