"""Does fast learning make places look the same when the camera comes back? The question of SlowFast-VGen, on the toy world.

python -m benchmarks.revisits -o walks.jsonl                            # the bundled model: 20 paths, every row of the ablation
python -m benchmarks.revisits FOLDER -o walks.jsonl --rows off local --chunks 8 --videos walks
python -m benchmarks.revisits FOLDER -o long.jsonl --rows off local --paths 2 --chunks 40       # drift over 320 frames
python -m benchmarks.revisits -o more.jsonl --rows off local --first 10 --paths 10     # in a second process
python -m benchmarks.revisits --report walks.jsonl more.jsonl --rows off local

Paths are of worlds of the test split without characters, so that nothing but the camera moves: it takes half of the actions, and then
the opposite ones in reverse order. All rows of a path begin with the same image and have the same noise. A path takes about a minute
on a CPU core; each is written as a line when it is finished, and a second call with the same settings continues.

A frozen video revisits its places perfectly, so beside the revisits stands how far the video follows the true one: the actions that an
inverse dynamics network reads off its frames, PSNR against the true frames, and the colours of all regions against their true ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.console import counted
from visionzoo.data.toy_world import Clip, ToyWorld
from visionzoo.data.toy_world.camera import STEPS
from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter
from visionzoo.metrics import (
    FeatureExtractor,
    RandomFeatures,
    color_drift,
    psnr,
    resnet18_features,
    revisit,
    scene_cuts,
    scene_return_consistency,
)
from visionzoo.models.slowfastvgen import NANO_SPEED, InverseDynamics, read_actions

Frames = list[NDArray[np.uint8]]
Make = Callable[["Walk", str], tuple[Iterable[NDArray[np.uint8]], list[list[float]]]]
"""(walk, row) -> its new frames, in order, and the losses of fast learning after each chunk, complete when the frames are."""

ROWS: dict[str, dict[str, Any]] = {
    "off": {"fast_learning": False},
    "local": {"fast_variant": "local"},
    "original": {"fast_variant": "original"},
    "global": {"fast_variant": "global"},
    "single_frame": {"fast_variant": "single_frame"},
}
"""Rows of the ablation table -> options of the pipeline; "off" is what the others are compared with."""

PUBLISHED = {
    "off": ("without TEMP-LORA", 1.88, 89.04),
    "local": ("SlowFast-VGen", 0.37, 93.71),
    "original": ("original TEMP-LORA", 0.55, 92.24),
    "global": ("without local rule", 0.36, 90.27),
    "single_frame": ("without chunk input", 1.24, 90.01),
}
"""Names, scene cuts and SRC of these rows in the paper's Table 4."""

FAR = 1.0
"""Least distance along x that a path covers: the width of what the camera sees at depth 1, so that places leave the picture."""

EQUAL = 99.0
"""What counts as the PSNR of equal frames, in dB."""

SEGMENT = 32
"""Frames of the segments over which drift is shown."""


@dataclass(frozen=True)
class Walk:
    """A path that returns.

    Attributes:
        number: of the world.
        clip: the true frames.
        actions: one for each chunk.
    """

    number: int
    clip: Clip
    actions: tuple[str, ...]


def walks(chunks: int, frames: int, size: int, speed: float = NANO_SPEED) -> Iterator[Walk]:
    """Paths whose camera goes far enough, of worlds of the test split.

    Args:
        chunks, frames: number of actions, and of frames for each.
        size: side of the frames in pixels.
        speed: of the camera.

    Raises:
        InputError: no path of this length goes so far.
    """
    if (reach := chunks // 2 * frames * speed * STEPS["go"]) < FAR:
        raise InputError(
            f"{chunks} chunks of {frames} frames go {reach:.2f} far at most, which shows the same places; use at least "
            f"{2 * math.ceil(FAR / (speed * STEPS['go']) / frames)} chunks"
        )
    for number in count():
        world = ToyWorld.create(number, "test", places=3, characters=0)
        # one frame more than actions take, the first; random paths of that length would come back one action later
        actions = (drawn := world.film(chunks * frames, hold=frames, returns=True, speed=speed)).actions[1::frames]
        start = float(drawn.cameras[0, 0])
        clip = world.film(
            1 + chunks * frames, size=(size, size), actions=actions, hold=frames, start=start, speed=speed
        )
        if np.ptp(clip.cameras[:, 0]) >= FAR:
            yield Walk(number, clip, actions)


def measure(
    walk: Walk, frames: Frames, *, window: int, src: FeatureExtractor, network: InverseDynamics | None
) -> dict[str, Any]:
    """Everything that is known about one video, as JSON values.

    Args:
        walk: its path.
        frames: the first image and all new frames.
        window: revisits within as many frames do not count: the network sees these at once.
        src: describes frames for scene-return consistency.
        network: reads actions; None reads none.
    """
    cameras = walk.clip.cameras
    again = revisit(frames, cameras)
    far = [later - first >= window for first, later in again.pairs]
    true = list(walk.clip.frames())
    inked = [np.where(frame.ink > 250, frame.regions, np.uint16(60_000)) for frame in true]
    drift = color_drift(frames, inked, {region.number: region.rgb for region in walk.clip.regions})
    pairs = [pair for pair, counts in zip(again.pairs, far, strict=True) if counts]
    follows = [psnr(ours, theirs.rgb) for ours, theirs in zip(frames[1:], true[1:], strict=True)]
    found: dict[str, Any] = {
        "revisits": len(pairs),
        "revisit_psnr": float(np.mean(np.minimum(again.psnr[far], EQUAL))),
        "revisit_ssim": float(np.mean(again.ssim[far])),
        "src": scene_return_consistency(frames, pairs, src).score,
        "cuts": scene_cuts(frames, min_scene_len=4).count,
        "psnr": _by_segment(follows),
        "color_distance": [float(np.nanmean(part)) for part in _segments(drift.distances[1:])],
        "color_slope": drift.slope,
    }
    if network is not None:
        read = read_actions(network, frames)
        found["followed"] = float(np.mean([a == b for a, b in zip(read, walk.clip.actions[1:], strict=True)]))
    return found


def _segments(values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(values), SEGMENT):
        yield values[start : start + SEGMENT]


def _by_segment(values: Sequence[float]) -> list[float]:
    return [float(part.mean()) for part in _segments(np.array(values))]


class Records:
    """A file with one JSON line for the settings and one for each finished video.

    Raises:
        InputError: the file was made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.found: list[dict[str, Any]] = []
        if path.exists():
            made, self.found = read_records(path)
            if made != settings:
                changed = sorted(key for key in made.keys() | settings.keys() if made.get(key) != settings.get(key))
                raise InputError(f"{path}: was made with other settings ({', '.join(changed)}); write to another file")
        else:
            self._append({"settings": settings})

    def has(self, path: int, row: str) -> bool:
        return any(each["path"] == path and each["row"] == row for each in self.found)

    def add(self, record: dict[str, Any]) -> None:
        self.found.append(record)
        self._append(record)

    def _append(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_records(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings and the finished videos of a file; half a line at its end is removed."""
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    first, *others = [json.loads(line) for line in lines[:-1]]
    return first["settings"], others


def joined(paths: Sequence[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings and the finished videos of several files. Raises `InputError` if their settings differ."""
    (settings, records), *others = map(read_records, paths)
    for path, (made, more) in zip(paths[1:], others, strict=True):
        if made != settings:
            raise InputError(f"{path}: was made with other settings than {paths[0]}; report it by itself")
        records += more
    return settings, records


def run(
    records: Records,
    make: Make,
    chosen: Iterable[Walk],
    rows: Sequence[str],
    *,
    window: int,
    src: FeatureExtractor,
    network: InverseDynamics | None,
    videos: Path | None = None,
) -> None:
    """Make and measure what is not in the file yet, path by path."""
    for walk in chosen:
        for row in rows:
            if records.has(walk.number, row):
                continue
            started = time.perf_counter()
            first = walk.clip[0].rgb
            made, losses = make(walk, row)
            frames = [first, *made]
            seconds = time.perf_counter() - started
            if len(frames) != len(walk.clip):
                raise InputError(f"path {walk.number}: {len(frames)} frames were made, expected {len(walk.clip)}")
            if videos is not None:
                _write(videos / f"{walk.number:03}_{row}.mp4", frames)
                true = (frame.rgb for frame in walk.clip.frames(motion=False))
                _write(videos / f"{walk.number:03}_true.mp4", true)
            found = measure(walk, frames, window=window, src=src, network=network)
            records.add({"path": walk.number, "row": row, "seconds": round(seconds, 2), **found, "losses": losses})
            print(
                f"path {walk.number}, {row}: revisits {found['revisit_psnr']:.2f} dB, SRC {found['src']:.2f}; {seconds:.0f} s",
                flush=True,
            )


def _write(path: Path, frames: Iterable[NDArray[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=8.0, overwrite=True) as video:
        for frame in frames:
            video.write(frame)


# The report


@dataclass(frozen=True)
class Difference:
    """A paired difference: its mean over the paths, and a bootstrap confidence interval of 95 %."""

    mean: float
    low: float
    high: float
    paths: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired(ours: Sequence[float], theirs: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> Difference:
    """The mean of ours - theirs, with the percentile interval over resampled paths."""
    differences = np.subtract(ours, theirs)
    rng = np.random.default_rng(seed)
    means = differences[rng.integers(0, len(differences), (draws, len(differences)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high), len(differences))


MEASURES = {"revisit_psnr": "PSNR of revisits, dB", "revisit_ssim": "SSIM of revisits x 100", "src": "SRC"}


def report(settings: dict[str, Any], records: Sequence[dict[str, Any]], chosen: Sequence[str] = tuple(ROWS)) -> str:
    """Tables of rows over the paths that all of these have: revisits, what the videos follow, and drift."""
    rows = [row for row in ROWS if row in chosen and any(each["row"] == row for each in records)]
    by = {(each["path"], each["row"]): each for each in records}
    paths = sorted({path for path, _ in by if all((path, row) in by for row in rows)})
    if not paths:
        return "no path has all rows yet"
    cell = {row: [by[path, row] for path in paths] for row in rows}

    def values(row: str, key: str) -> list[float]:
        scale = 100 if key in ("revisit_ssim", "followed") else 1
        return [scale * (float(np.mean(each[key])) if isinstance(each[key], list) else each[key]) for each in cell[row]]

    visits = sum(each["revisits"] for each in cell[rows[0]])
    about = counted(len(paths), "path")
    lines = [
        f"{about} of {settings['chunks']} chunks, {visits} revisits after {settings['window']} frames or more; SRC: "
        f"{settings['src']}",
        "",
        f"| row | {' | '.join(MEASURES.values())} | scene cuts | actions followed, % | PSNR to the truth, dB | CIEDE2000 | published: "
        "scene cuts, SRC |",
        f"|---{'|---' * (len(MEASURES) + 5)}|",
    ]
    for row in rows:
        name, cuts, src = PUBLISHED[row]
        followed = f"{np.mean(values(row, 'followed')):.1f}" if "followed" in cell[row][0] else ""
        numbers = [f"{np.mean(values(row, key)):.2f}" for key in MEASURES]
        rest = [f"{np.mean(values(row, 'cuts')):.2f}", followed]
        rest += [f"{np.mean(values(row, key)):.2f}" for key in ("psnr", "color_distance")]
        lines.append(f"| {row} ({name}) | {' | '.join([*numbers, *rest])} | {cuts}, {src} |")
    if "off" in rows and len(rows) > 1:
        lines += [
            "",
            "Paired difference from no fast learning, with a bootstrap interval of 95 % over the paths:",
            "",
            f"| row | {' | '.join(MEASURES.values())} | better in |",
            f"|---{'|---' * (len(MEASURES) + 1)}|",
        ]
        for row in rows:
            if row == "off":
                continue
            found = {key: paired(values(row, key), values("off", key)) for key in MEASURES}
            better = sum(a > b for a, b in zip(values(row, "revisit_psnr"), values("off", "revisit_psnr"), strict=True))
            lines.append(f"| {row} | {' | '.join(map(str, found.values()))} | {better} of {len(paths)} paths |")
    lines += ["", *_drift(rows, cell)]
    return "\n".join(lines)


def _drift(rows: Sequence[str], cell: dict[str, list[dict[str, Any]]]) -> list[str]:
    """PSNR to the truth and colour distance by segment."""
    count = min(len(each["psnr"]) for each in cell[rows[0]])
    heads = [f"{SEGMENT * part + 1} to {SEGMENT * (part + 1)}" for part in range(count)]
    lines = [f"| by frames: PSNR to the truth, dB; CIEDE2000 | {' | '.join(heads)} | slope per 100 frames |"]
    lines.append(f"|---{'|---' * (count + 1)}|")
    for row in rows:
        psnrs, colors = (
            np.mean([each[key][:count] for each in cell[row]], axis=0) for key in ("psnr", "color_distance")
        )
        slope = 100 * math.fsum(each["color_slope"] for each in cell[row]) / len(cell[row])
        cells = [f"{one:.2f}; {other:.2f}" for one, other in zip(psnrs, colors, strict=True)]
        lines.append(f"| {row} | {' | '.join(cells)} | {slope:+.2f} |")
    return lines


# The pipeline


def with_pipeline(pipe: Any, options: dict[str, Any]) -> Make:
    """Make videos with a `SlowFastVGenPipeline`."""
    from visionzoo.pipelines.generate import GenerateOptions

    def make(walk: Walk, row: str) -> tuple[Iterable[NDArray[np.uint8]], list[list[float]]]:
        chosen = GenerateOptions(seed=walk.number, **{**options, **ROWS[row]})
        losses: list[list[float]] = []

        def frames() -> Iterator[NDArray[np.uint8]]:
            for chunk in pipe.stream(walk.clip[0].rgb, walk.actions, chosen, progress=lambda *_: None):
                losses.append([round(loss, 6) for loss in chunk.losses])
                yield from chunk.frames

        return frames(), losses

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="pipeline in diffusers' layout; the bundled one if omitted"
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON lines to write, or to continue")
    parser.add_argument(
        "--report", type=Path, nargs="+", help="only print the tables of these files, of the same settings"
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--paths", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of paths to leave out at the beginning")
    parser.add_argument("--chunks", type=int, default=8, help="actions of a path, there and back")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's own if omitted")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--fast-lr", type=float, default=1e-4)
    parser.add_argument("--fast-steps", type=int, default=1)
    parser.add_argument("--fast-batch", type=int, default=1)
    parser.add_argument("--fast-rank", type=int, default=32)
    parser.add_argument("--fast-targets", default="temporal_linear")
    parser.add_argument(
        "--resnet18", type=Path, help="torchvision's weights for SRC; a seeded random network if omitted"
    )
    parser.add_argument("--videos", type=Path, help="folder for all videos")
    args = parser.parse_args()
    if args.report is not None:
        print(report(*joined(args.report), args.rows))
        return
    if args.output is None:
        parser.error("give -o FILE.jsonl, or --report FILE.jsonl")
    if args.chunks < 2 or args.chunks % 2:
        parser.error(f"--chunks must be even, half of them there and half of them back, got {args.chunks}")
    from visionzoo import create_model
    from visionzoo.pipelines.generate import SlowFastVGenPipeline

    pipe = SlowFastVGenPipeline.create(checkpoint=args.folder)
    frames, past = pipe.config["frames_per_chunk"], pipe.config["past_frames"]
    height, _ = pipe.frame_size
    fast = {name: getattr(args, name) for name in ("fast_lr", "fast_steps", "fast_batch", "fast_rank", "fast_targets")}
    options = {"steps": args.steps, "guidance": args.guidance, **fast}
    src = RandomFeatures() if args.resnet18 is None else resnet18_features(args.resnet18)
    settings = {
        "weights": pipe.fingerprint,
        "chunks": args.chunks,
        "frames": frames,
        "window": frames + past,
        "src": src.name,
        **options,
    }
    run(
        Records(args.output, settings),
        with_pipeline(pipe, options),
        islice(walks(args.chunks, frames, height), args.first, args.first + args.paths),
        args.rows,
        window=frames + past,
        src=src,
        network=create_model("toy_actions", pretrained=True).eval(),
        videos=args.videos,
    )
    print(report(*read_records(args.output), args.rows))


if __name__ == "__main__":
    main()
