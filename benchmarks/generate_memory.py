"""Memory of `visionzoo generate` while it makes a long video: what the process holds after few chunks and after many.

python -m benchmarks.generate_memory                                    # 1,000 frames, 4 denoising steps; some minutes
python -m benchmarks.generate_memory --frames 2000 -o long.mp4          # longer, and keep the video

The actions go through the toy world and return: the second half of the video takes the way back. The command runs in a process of its
own; several times a second, its resident memory and the number of its finished chunks are read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visionzoo.benchmark import Grid
from visionzoo.data.toy_world.camera import OPPOSITE
from visionzoo.devices import environment
from visionzoo.errors import InputError

COMMAND = "python -m benchmarks.generate_memory"
FRAMES_PER_CHUNK = 8
"""Of slowfastvgen_nano."""
ROUND = ("go left", "go left", "zoom in", "go right", "go in", "zoom out", "go left", "go right", "go out", "wait")


@dataclass(frozen=True)
class Sample:
    """Resident memory of a process in bytes, and the number of its finished chunks."""

    chunks: int
    resident: int


def there_and_back(chunks: int) -> list[str]:
    """So many actions: half of them there, the opposite ones in reverse order back, and a pause in between if the number is odd."""
    there = [ROUND[number % len(ROUND)] for number in range(chunks // 2)]
    back = [OPPOSITE[action] for action in reversed(there)]
    return [*there, *["wait"] * (chunks % 2), *back]


def sampled(process: subprocess.Popen[bytes], reached: Path, seconds: float = 0.2) -> Iterator[Sample]:
    """Samples until the process ends."""
    page, chunks = os.sysconf("SC_PAGE_SIZE"), 0
    while process.poll() is None:
        try:
            chunks = json.loads(reached.read_text())["chunks"]
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * page
        except (FileNotFoundError, ProcessLookupError):  # before the first chunk, and at the end
            resident = 0
        if resident:
            yield Sample(chunks, resident)
        time.sleep(seconds)


def table(samples: list[Sample], chunks: int, steps: int, seconds: float) -> Grid:
    """What the process held while some of the chunks were made, and the growth between them."""
    rows, middle = [], []
    for number in sorted({min(5, chunks), chunks // 4, chunks // 2, 3 * chunks // 4, chunks} - {0}):
        found = [each.resident / 2**20 for each in samples if number - 2 <= each.chunks < number + 1]
        if not found:
            raise InputError(f"nothing was read while chunk {number} was made; ask for more steps")
        middle.append(statistics.median(found))
        rows.append((str(number), f"{FRAMES_PER_CHUNK * number:,}", f"{middle[-1]:.0f} MB", f"{max(found):.0f} MB"))
    return Grid(
        f"Memory of visionzoo generate: {FRAMES_PER_CHUNK * chunks:,} frames of slowfastvgen_nano, {steps} denoising steps per chunk",
        ("chunk", "frames so far", "resident memory, median", "at most"),
        rows,
        environment(),
        COMMAND,
        (
            f"Each row: three chunks, the one before and the one after included. From the first row to the last: "
            f"{middle[-1] - middle[0]:+.1f} MB. The whole video took {seconds:.0f} s.",
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000, help="a multiple of 8")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of a chunk")
    parser.add_argument("--sample", default="forest", help="image to begin with, of visionzoo generate samples")
    parser.add_argument("-o", "--output", type=Path, help="keep the video as this file")
    args = parser.parse_args()
    if args.frames < FRAMES_PER_CHUNK or args.frames % FRAMES_PER_CHUNK:
        parser.error(f"--frames must be a multiple of {FRAMES_PER_CHUNK}, got {args.frames}")
    chunks = args.frames // FRAMES_PER_CHUNK
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        visionzoo = [sys.executable, "-m", "visionzoo", "generate"]
        subprocess.run([*visionzoo, "samples", "-o", str(place)], check=True, capture_output=True)
        actions, video = place / "actions.txt", place / "long.mp4"
        actions.write_text("\n".join(there_and_back(chunks)) + "\n")
        words = [str(place / f"{args.sample}.png"), "--actions", str(actions), "--steps", str(args.steps), "-q"]
        started = time.monotonic()
        with subprocess.Popen([*visionzoo, *words, "-o", str(video)]) as process:
            samples = list(sampled(process, place / f".{video.name}.generate" / "reached.json"))
        if process.returncode:
            raise SystemExit(process.returncode)
        print(table(samples, chunks, args.steps, time.monotonic() - started).to_markdown())
        if args.output is not None:
            shutil.move(video, args.output)


if __name__ == "__main__":
    main()
