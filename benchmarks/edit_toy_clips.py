"""How well a model edits clips of the toy world: the asked colour, what stays outside, and how steady the result is.

python -m benchmarks.edit_toy_clips                                       # the bundled model: 20 clips of 64 frames
python -m benchmarks.edit_toy_clips --clips 4 --frames 16 --ablations     # frame by frame, windows, fusion, memory bank, smoothing
python -m benchmarks.edit_toy_clips --checkpoint FOLDER --image edits.png
python -m benchmarks.edit_toy_clips --steps 5 --masks                     # the masks where the part leaves the picture

Clips are of the test split. Each edit asks for another colour of one part of the character, in turn the shirt, the trousers or skirt,
the hat and the hair. A hit is a frame in which the mean colour of the part's true region is nearest to the asked one of the named
colours; the region counts from 24 pixels on. Beside it stands how often the autoencoder alone keeps the true colour.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate as nearest

from visionzoo.data.toy_world import COLORS, Clip, Frame, ToyWorld
from visionzoo.data.toy_world.chance import Chance
from visionzoo.diffusion import decode_latents, encode_frames
from visionzoo.io.pixels import to_uint8
from visionzoo.io.tensor_file import TensorFile
from visionzoo.metrics import edit_report, nearest_color, region_colors
from visionzoo.pipelines.edit import EditOptions, LOVEConPipeline
from visionzoo.pipelines.edit.options import ThresholdOf
from visionzoo.pipelines.edit.work import MASKS

PARTS = (("shirt",), ("trousers", "skirt"), ("hat",), ("hair",))
LEAST = 24
"""Pixels from which on a region counts."""
LEAST_GONE = 4
"""Frames without the part in the clips that the masks are measured on."""


@dataclass(frozen=True)
class Case:
    """A clip and an edit of it.

    Attributes:
        clip: the clip.
        frames: its frames.
        part: what changes.
        color: its new colour.
        prompt, source_prompt: the captions.
    """

    clip: Clip
    frames: list[Frame]
    part: str
    color: str
    prompt: str
    source_prompt: str

    @property
    def video(self) -> list[np.ndarray]:
        return [frame.rgb for frame in self.frames]

    def masks(self) -> list[np.ndarray]:
        """The true region of the part in each frame, with its lines left out."""
        numbers = [each.number for each in self.clip.regions if each.instance == 1 and each.part == self.part]
        return [np.isin(frame.regions, numbers) & (frame.ink == 255) for frame in self.frames]


def cases(number: int, length: int) -> Iterator[Case]:
    """Clips in which the character and the part can be seen in the first frame."""
    found = 0
    for seed in count():
        if found == number:
            return
        world = ToyWorld.create(seed, "test", places=2, characters=1)
        colors = world.characters[0].colors
        part = next((name for name in PARTS[found % len(PARTS)] if name in colors), None)
        if part is None:
            continue
        clip = world.film(length, size=(128, 128))
        first = next(clip.frames(0, 1, motion=False))
        old, caption = colors[part], first.caption
        color = Chance("edit", seed).pick([name for name in COLORS if name != old])
        prompt = caption.replace(f"{old} {part}", f"{color} {part}", 1)
        case = Case(clip, [first], part, color, prompt, caption)
        if prompt == caption or case.masks()[0].sum() < 2 * LEAST:
            continue
        found += 1
        yield Case(clip, list(clip.frames(0, length)), part, color, prompt, caption)


def hits(video: Sequence[np.ndarray], masks: Sequence[np.ndarray], color: str) -> list[bool]:
    """For each frame in which the region counts, whether it has the colour."""
    return [
        nearest_color(region_colors(frame, mask.astype(np.uint8), [1])[0], COLORS) == color
        for frame, mask in zip(video, masks, strict=True)
        if mask.sum() >= LEAST
    ]


def released(pipe: LOVEConPipeline, case: Case, **settings: Any) -> list[np.ndarray]:
    options = EditOptions(case.prompt, case.source_prompt, **settings)
    return list(pipe.stream(case.video, options, progress=lambda *_: None))


def frame_by_frame(pipe: LOVEConPipeline, case: Case, **settings: Any) -> list[np.ndarray]:
    """Every frame is a video of its own."""
    options = EditOptions(case.prompt, case.source_prompt, **settings)
    return [next(pipe.stream([frame], options, progress=lambda *_: None)) for frame in case.video]


Edit = Callable[..., list[np.ndarray]]
ABLATIONS: dict[str, tuple[Edit, dict[str, Any]]] = {
    "frame by frame": (frame_by_frame, {"edit": "style", "phrase": "", "smoothing": "none"}),
    "frame by frame, with fusion": (frame_by_frame, {"smoothing": "none"}),
    "windows": (released, {"edit": "style", "phrase": "", "smoothing": "none"}),
    "windows, with fusion": (released, {"smoothing": "none"}),
    "windows, with fusion and smoothing (released)": (released, {}),
    "memory bank, with fusion": (released, {"memory": "bank", "smoothing": "none"}),
    "memory bank, with fusion and smoothing": (released, {"memory": "bank"}),
}


def measure(
    pipe: LOVEConPipeline, some: Sequence[Case], edit: Edit, settings: dict[str, Any], image: Path | None
) -> str:
    """A row of numbers over all clips."""
    rows, by_part, started, frames = [], {}, time.perf_counter(), 0
    pictures = []
    for case in some:
        edited = edit(pipe, case, **settings)
        frames += len(edited)
        masks = case.masks()
        by_part.setdefault(case.part, []).extend(hits(edited, masks, case.color))
        rebuilt = to_uint8(decode_latents(pipe.vae, encode_frames(pipe.vae, np.stack(case.video))))
        own = hits(list(rebuilt), masks, case.clip.characters[0].colors[case.part])
        whole = [_grown(mask) for mask in masks]
        reports = [
            edit_report(
                list(source),
                edited,
                mask=whole,
                flow=[frame.flow for frame in case.frames],
                valid=[frame.valid for frame in case.frames],
            )
            for source in (rebuilt, case.video)
        ]
        against, true = reports
        assert true.warp is not None
        seam = true.seam.ratio if true.seam is not None else float("nan")
        own_warp = against.source_warp
        assert own_warp is not None
        rows.append(
            (np.mean(own), against.mean_psnr_outside, true.mean_psnr_outside, true.warp.mean, own_warp.mean, seam)
        )
        pictures.append(_picture(case, edited))
    seconds = time.perf_counter() - started
    if image is not None:
        Image.fromarray(np.vstack(pictures)).save(image)
    own, rebuilt, source, warp, source_warp, seam = np.nanmean(np.array(rows, float), 0)
    every = [hit for found in by_part.values() for hit in found]
    parts = ", ".join(f"{part} {np.mean(found):.1%}" for part, found in by_part.items())
    return (
        f"{np.mean(every):.1%} ({parts}) | {own:.1%} | {rebuilt:.1f} | {source:.1f} | {warp:.5f} ({source_warp:.5f}) | {seam:.2f} "
        f"| {seconds / frames:.2f}"
    )


def _grown(mask: np.ndarray) -> np.ndarray:
    """The region with its outline."""
    grown = mask.copy()
    for _ in range(3):
        wide = np.pad(grown, 1)
        grown = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return grown


def _picture(case: Case, edited: Sequence[np.ndarray], shown: int = 8) -> np.ndarray:
    step = max(1, len(edited) // shown)
    rows = [np.hstack(list(islice(video, 0, step * shown, step))) for video in (case.video, edited)]
    return np.vstack([*rows, np.full((6, rows[0].shape[1], 3), 255, np.uint8)])


@dataclass
class Coverage:
    """What masks cover.

    Attributes:
        part: share of the part's true region, for each frame in which it counts.
        seen, gone: share of the picture, for each frame in which the part can be seen, or not.
    """

    part: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)


def measure_masks(pipe: LOVEConPipeline, some: Sequence[Case], **settings: Any) -> str:
    """A row of numbers over those clips in which the part cannot be seen in some frames; nothing but the first window is edited."""
    found, clips = Coverage(), 0
    for case in some:
        true = case.masks()
        if sum(not mask.any() for mask in true) < LEAST_GONE:
            continue
        clips += 1
        options = EditOptions(case.prompt, case.source_prompt, smoothing="none", **settings)
        with TemporaryDirectory() as folder:
            next(pipe.stream(case.video, options, folder=folder, progress=lambda *_: None))
            small = TensorFile(Path(folder) / MASKS)[:]
        large = nearest(small, size=true[0].shape)[:, 0].numpy()
        for mask, region in zip(large, true, strict=True):
            (found.seen if region.any() else found.gone).append(float(mask.mean()))
            if region.sum() >= LEAST:
                found.part.append(float(mask[region].mean()))
    gone = np.array(found.gone)
    shares = [f"{np.mean(each):.1%}" for each in (found.part, found.seen, gone)]
    return f"{clips} | {' | '.join(shares)} | {np.mean(gone == 0):.0%} of {len(gone)} frames"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--image", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = LOVEConPipeline.create(None if args.checkpoint else "lovecon_nano", "cpu", checkpoint=args.checkpoint)
    some = list(cases(args.clips, args.frames))
    shared = {"steps": args.steps, "guidance": args.guidance}
    print(f"{args.clips} clips of {args.frames} frames, {args.steps} steps\n")
    if args.masks:
        print("| greatest attention | clips | part covered | picture covered | where the part is gone | empty there |")
        print("|---|---|---|---|---|---|")
        for name in get_args(ThresholdOf):
            print(f"| of the {name} | {measure_masks(pipe, some, threshold_of=name, **shared)} |", flush=True)
        return
    smooth = pipe.interpolator is not None
    known = {name: found for name, found in ABLATIONS.items() if smooth or found[1].get("smoothing") == "none"}
    usual = "windows, with fusion" + (" and smoothing (released)" if smooth else "")
    chosen = known if args.ablations else {usual: known[usual]}
    print(
        "| | hits | autoencoder's own | dB outside, to reconstruction | to source | warp error (own) | seam | s per frame |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (edit, settings) in chosen.items():
        print(f"| {name} | {measure(pipe, some, edit, {**shared, **settings}, args.image)} |", flush=True)


if __name__ == "__main__":
    main()
