"""Do colours stay the same over hundreds of frames, and when characters come back? The question of LongAnimation, on the toy world.

python -m benchmarks.color_drift FOLDER -o clips.jsonl                      # 10 clips of 500 frames, every row of the ablation
python -m benchmarks.color_drift FOLDER -o clips.jsonl --rows none both --clips 20 --videos clips
python -m benchmarks.color_drift --report clips.jsonl --curves clips.png

Clips are of worlds of the test split; in each, a character leaves the picture for at least 32 frames, which is longer than the local
memory and the overlap of segments, and comes back. The network gets the exact line art and the first frame in colour. The rows are
the memories that it attends to; all rows of a clip have the same noise. Each video is written as a line when it is finished, and a
second call with the same settings continues.

Regions that the first frame shows have known colours, so their distance from these is measured. Of every region of a character, also
the distance between its colours before it was away and after it came back, whether they were right or not. PSNR to the true frames
stands beside them, since a grey video does not drift.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.console import counted
from visionzoo.data.toy_world import Clip, Frame, ToyWorld
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter
from visionzoo.metrics import ColorDrift, ciede2000, color_drift, psnr, seam, srgb_to_lab

from .curves import Curve, draw_curves
from .revisits import EQUAL, Records, paired, read_records

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Colored:
    """A colourised video.

    Attributes:
        first: the frame of the clip that its first frame shows.
        borders: its frames that begin a segment after the first.
        frames: its frames, (H, W, 3) uint8 each.
    """

    first: int
    borders: tuple[int, ...]
    frames: list[Image]


Make = Callable[["LeavingClip", str], Colored]
"""(clip, row) -> the clip, colourised."""

ROWS: dict[str, dict[str, Any]] = {name: {"memory": name} for name in ("none", "local", "global", "both")}
"""Rows of the ablation -> options of the pipeline; "none" is what the others are compared with."""

AWAY = 32
"""Frames for which a character is away, at least."""
SEEN = 12
"""Pixels of a character, at least, in a frame in which it counts as visible."""
INK = 60_000
"""Number of the lines among the regions."""
SPEED = 0.3
"""Of the camera."""
WINDOW = 10
"""Frames over which a point of the curves is a mean."""
MEASURES = {
    "distance": "CIEDE2000 from the true colours",
    "slope": "its slope per 100 frames",
    "returned": "CIEDE2000 between before and after a return",
    "seam": "seams",
}


@dataclass(frozen=True)
class LeavingClip:
    """A clip in which a character leaves and comes back.

    Attributes:
        number: of the world.
        clip: the true frames.
        absences: (character, first frame, last frame + 1) of each time that one is away and comes back.
    """

    number: int
    clip: Clip
    absences: tuple[tuple[int, int, int], ...]


def leaving_clips(frames: int, size: int) -> Iterator[LeavingClip]:
    """Clips of worlds of the test split with two characters, of which one at least leaves and comes back."""
    for number in count():
        clip = ToyWorld.create(number, "test", places=3, characters=2).film(
            frames, size=(size, size), returns=True, speed=SPEED
        )
        if absences := tuple(find_absences(clip.frames(motion=False), len(clip.characters))):
            yield LeavingClip(number, clip, absences)


def find_absences(frames: Iterable[Frame], characters: int) -> Iterator[tuple[int, int, int]]:
    """(character, first frame, last frame + 1) of each absence of `AWAY` frames or more, after which the character comes back."""
    visible = np.array([np.bincount(frame.instances.ravel(), minlength=characters + 1) for frame in _small(frames)])
    for character in range(1, characters + 1):
        seen = np.flatnonzero(visible[:, character] >= SEEN)
        for one, other in pairwise(seen):
            if other - one > AWAY:
                yield character, int(one) + 1, int(other)


@dataclass(frozen=True)
class _Instances:
    instances: NDArray[np.uint16]


def _small(frames: Iterable[Frame]) -> Iterator[_Instances]:
    """Only what is needed of each frame; numbers of landmarks are left out."""
    for frame in frames:
        yield _Instances(np.minimum(frame.instances, 7))


# Measuring


def measure(leaving: LeavingClip, colored: Colored) -> dict[str, Any]:
    """Everything that is known about one video, as JSON values.

    Raises:
        InputError: it has more frames than the clip.
    """
    clip, first, frames = leaving.clip, colored.first, colored.frames
    if first + len(frames) > len(clip):
        raise InputError(f"clip {leaving.number}: {len(frames)} frames from frame {first} on are more than {len(clip)}")
    true = list(clip.frames(first, first + len(frames), motion=False))
    inked = [np.where(frame.ink > 250, frame.regions, np.uint16(INK)) for frame in true]
    shown = np.unique(np.where(clip[0].ink > 250, clip[0].regions, np.uint16(INK)))
    colors: dict[Any, Any] = {region.number: region.rgb for region in clip.regions}
    drift = color_drift(frames, inked, colors, erode=1)
    known = np.isin(list(colors), shown)
    distances = drift.distances[:, known]
    follows = [min(psnr(ours, theirs.rgb), EQUAL) for ours, theirs in zip(frames, true, strict=True)]
    returned = list(return_distances(leaving, drift, first))
    seams = (
        [seam(each, colored.borders).ratio for each in (frames, [frame.rgb for frame in true])]
        if colored.borders
        else []
    )
    return {
        "frames": len(frames),
        "distance": _known_mean(distances),
        "slope": 100 * ColorDrift(tuple(np.array(drift.regions)[known]), drift.measured[:, known], distances).slope,
        "returned": float(np.mean(returned)) if returned else None,
        "returns": len(returned),
        "psnr": float(np.mean(follows)),
        "seam": seams[0] if seams and math.isfinite(seams[0]) else None,
        "true_seam": seams[1] if seams and math.isfinite(seams[1]) else None,
        "by_segment": [_known_mean(part) for part in np.split(distances, colored.borders)],
        "curve": [_known_mean(distances[start : start + WINDOW]) for start in range(0, len(distances), WINDOW)],
        "first": first,
    }


def return_distances(leaving: LeavingClip, drift: ColorDrift, first: int) -> Iterator[float]:
    """CIEDE2000 between the mean colours of each region of a character before and after each of its absences.

    Args:
        drift: of the video, whose first frame is frame `first` of the clip.
    """
    parts = {region.number: region.instance for region in leaving.clip.regions}
    for character, gone, back in leaving.absences:
        own = [place for place, region in enumerate(drift.regions) if parts[region] == character]  # pyright: ignore[reportArgumentType]
        before, after = drift.measured[: max(gone - first, 0), own], drift.measured[max(back - first, 0) :, own]
        if not len(before) or not len(after):
            continue
        colors = [np.nanmean(part[~np.isnan(part).all(axis=(1, 2))], axis=0) for part in _seen_together(before, after)]
        distances = ciede2000(srgb_to_lab(colors[0]), srgb_to_lab(colors[1]))
        yield from (float(each) for each in distances if not np.isnan(each))


def _seen_together(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """The colours (frames, regions, 3) of the regions that both have."""
    both = ~np.isnan(before).all(axis=(0, 2)) & ~np.isnan(after).all(axis=(0, 2))
    return before[:, both], after[:, both]


def _known_mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def run(
    records: Records, make: Make, chosen: Iterable[LeavingClip], rows: Sequence[str], *, videos: Path | None = None
) -> None:
    """Make and measure what is not in the file yet, clip by clip."""
    for leaving in chosen:
        for row in rows:
            if records.has(leaving.number, row):
                continue
            started = time.perf_counter()
            colored = make(leaving, row)
            seconds = time.perf_counter() - started
            if videos is not None:
                _write(videos / f"{leaving.number:03}_{row}.mp4", colored.frames)
                true = (frame.rgb for frame in leaving.clip.frames(motion=False))
                _write(videos / f"{leaving.number:03}_true.mp4", true)
            found = measure(leaving, colored)
            records.add({"path": leaving.number, "row": row, "seconds": round(seconds, 2), **found})
            came = "" if found["returned"] is None else f", after returns {found['returned']:.2f}"
            print(f"clip {leaving.number}, {row}: CIEDE2000 {found['distance']:.2f}{came}; {seconds:.0f} s", flush=True)


def _write(path: Path, frames: Iterable[Image]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=12.0, overwrite=True) as video:
        for frame in frames:
            video.write(frame)


# The report


def complete(records: Sequence[dict[str, Any]]) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """The rows, and of each the records of the clips that all of them have, in the same order."""
    rows = [row for row in ROWS if any(each["row"] == row for each in records)]
    by = {(each["path"], each["row"]): each for each in records}
    clips = sorted({number for number, _ in by if all((number, row) in by for row in rows)})
    return rows, {row: [by[number, row] for number in clips] for row in rows}


def report(settings: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    """Tables of the rows over the clips that all of them have: drift, returns and seams, paired, and drift by segment."""
    rows, cell = complete(records)
    if not rows or not cell[rows[0]]:
        return "no clip has all rows yet"
    found = cell[rows[0]]
    returns = sum(each["returns"] for each in found)
    seams = [each["true_seam"] for each in found if each["true_seam"] is not None]
    beside = f"; seams of the true clips: {np.mean(seams):.2f}" if seams else ""
    lines = [
        f"{counted(len(found), 'clip')} of {settings['frames']} frames; {counted(returns, 'region')} of characters that came "
        f"back{beside}",
        "",
        f"| memory | {' | '.join(MEASURES.values())} | PSNR to the truth, dB |",
        f"|---{'|---' * (len(MEASURES) + 1)}|",
    ]
    for row in rows:
        means = [_known(cell[row], key) for key in (*MEASURES, "psnr")]
        lines.append(f"| {row} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    if "none" in rows and len(rows) > 1:
        lines += [
            "",
            "Paired difference from no memory, with a bootstrap interval of 95 % over the clips:",
            "",
            f"| memory | {' | '.join(MEASURES.values())} | less drift in |",
            f"|---{'|---' * (len(MEASURES) + 1)}|",
        ]
        for row in (row for row in rows if row != "none"):
            cells = [_difference(cell[row], cell["none"], key) for key in MEASURES]
            better = sum(a["slope"] < b["slope"] for a, b in zip(cell[row], cell["none"], strict=True))
            lines.append(f"| {row} | {' | '.join(cells)} | {better} of {counted(len(found), 'clip')} |")
    return "\n".join([*lines, "", *_by_segment(rows, cell)])


def _known(records: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([each[key] for each in records if each[key] is not None] or [math.nan]))


def _difference(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: str) -> str:
    pairs = [(a[key], b[key]) for a, b in zip(ours, theirs, strict=True) if a[key] is not None and b[key] is not None]
    return str(paired(*zip(*pairs, strict=True))) if pairs else ""


def _by_segment(rows: Sequence[str], cell: dict[str, list[dict[str, Any]]]) -> list[str]:
    number = min(len(each["by_segment"]) for row in rows for each in cell[row])
    lines = [
        f"| CIEDE2000 by segment | {' | '.join(str(part + 1) for part in range(number))} |",
        f"|---{'|---' * number}|",
    ]
    for row in rows:
        table = np.array([each["by_segment"][:number] for each in cell[row]], dtype=np.float64)
        lines.append(f"| {row} | {' | '.join(f'{value:.2f}' for value in _column_means(table))} |")
    return lines


def _column_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.nansum(table, axis=0) / np.sum(~np.isnan(table), axis=0)


def curves_of(records: Sequence[dict[str, Any]]) -> dict[str, Curve]:
    """Colour distance by frame for each row: means over the clips, with bootstrap intervals of 95 %.

    Raises:
        InputError: no clip has all rows yet.
    """
    rows, cell = complete(records)
    if not rows or not cell[rows[0]]:
        raise InputError("no clip has all rows yet, so there is nothing to draw")
    curves = {}
    for row in rows:
        length = min(len(each["curve"]) for each in cell[row])
        table = np.array([each["curve"][:length] for each in cell[row]], dtype=np.float64)
        draws = np.random.default_rng(0).integers(0, len(table), (2000, len(table)))
        low, high = np.nanpercentile(np.stack([_column_means(table[draw]) for draw in draws]), [2.5, 97.5], axis=0)
        at = cell[row][0]["first"] + WINDOW * (np.arange(length) + 0.5)
        curves[row] = Curve(at, _column_means(table), low, high)
    return curves


# The pipeline


def with_pipeline(pipe: Any, options: dict[str, Any]) -> Make:
    """Colour clips with a `LongAnimationPipeline`."""
    from visionzoo.pipelines.colorize import ColorizeOptions

    def make(leaving: LeavingClip, row: str) -> Colored:
        clip = leaving.clip
        chosen = ColorizeOptions(seed=leaving.number, line_source="drawings", **{**options, **ROWS[row]})
        drawings = (np.repeat(frame.ink[..., None], 3, axis=2) for frame in clip.frames(motion=False))
        size = clip.height, clip.width
        made = pipe.stream(drawings, clip[0].rgb, chosen, frames=len(clip), size=size, progress=lambda *_: None)
        parts = list(made)
        starts = [part.segment.first for part in parts]
        borders = tuple(start - starts[0] for start in starts[1:])
        return Colored(starts[0], borders, [frame for part in parts for frame in part.frames])

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="pipeline in diffusers' layout, or the published files")
    parser.add_argument("-o", "--output", type=Path, help="JSON lines to write, or to continue")
    parser.add_argument("--report", type=Path, help="only print the tables of this file")
    parser.add_argument("--curves", type=Path, help="PNG with the curves; the name of the JSON lines if omitted")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--size", type=int, help="side of the frames in pixels; the model's own if omitted")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if omitted")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--videos", type=Path, help="folder for all videos")
    args = parser.parse_args()
    if args.report is None:
        if args.output is None or args.folder is None:
            parser.error("give the folder of a model and -o FILE.jsonl, or --report FILE.jsonl")
        _make(args)
    file = args.report or args.output
    settings, records = read_records(file)
    print(report(settings, records))
    if args.curves is not None or args.report is None:
        rows, cell = complete(records)
        curves, clips = curves_of(records), counted(len(cell[rows[0]]), "clip")
        up = "CIEDE2000 from the true colours"
        path = args.curves or file.with_suffix(".png")
        draw_curves(curves, path, title=f"{clips}, by memory", across="frame", up=up)


def _make(args: argparse.Namespace) -> None:
    from visionzoo.pipelines.colorize import LongAnimationPipeline

    pipe = LongAnimationPipeline.create(checkpoint=args.folder)
    config: Any = pipe.config
    size = args.size or min(config["height"], config["width"])
    options = {"steps": args.steps, "guidance": args.guidance}
    settings = {"weights": pipe.fingerprint, "frames": args.frames, "size": size, **options}
    clips = islice(leaving_clips(args.frames, size), args.clips)
    run(Records(args.output, settings), with_pipeline(pipe, options), clips, args.rows, videos=args.videos)


if __name__ == "__main__":
    main()
