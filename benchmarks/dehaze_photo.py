"""The cost of dehazing a photo of 3 megapixels with the bundled network.

    visionzoo bench dehaze-photo
    python -m benchmarks.dehaze_photo --other CHECKOUT --rounds 3    # this build and another one, in turns, one thread

The photo is a bundled one, enlarged to 2048 x 1536. The peer is the network in its training form, with nothing fused, streamed one
tile at a time in float32. With `--other`, every build runs in its own process, and CPU time and peak memory are those of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visionzoo.benchmark import Contestant, Table, compare
from visionzoo.devices import has_fast_bfloat16
from visionzoo.io.files import bundled
from visionzoo.io.pixels import to_float
from visionzoo.models.dehazexl.placement import StreamOptions
from visionzoo.models.dehazexl.streaming import StreamedDehaze
from visionzoo.models.dehazexl.tiles import Held
from visionzoo.pipelines.dehaze import DehazePipeline

WIDTH, HEIGHT = 2048, 1536
MEGAPIXELS = WIDTH * HEIGHT / 1e6

WORKER = """
import json, resource, sys, time
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
def peak_mb():
    status = Path("/proc/self/status")  # ru_maxrss counts what the parent process held before this one started
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
from visionzoo.pipelines.dehaze import DehazePipeline
pixels, pipe = np.load(sys.argv[1]), DehazePipeline.create(device="cpu")
loaded = peak_mb()
for line in sys.stdin:
    started = time.process_time()
    clear = pipe.restore(pixels)
    seconds = time.process_time() - started
    np.save(sys.argv[2], clear)
    print(json.dumps({"seconds": seconds, "loaded": loaded, "peak": peak_mb()}), flush=True)
"""


def photo(width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """(height, width, 3) uint8."""
    image = Image.open(bundled("photos", "temple_1.jpg")).convert("RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def psnr(got: Any, want: Any) -> float:
    """PSNR in dB for values in [0, 1]."""
    error = np.square(np.asarray(got, np.float64) - np.asarray(want, np.float64)).mean()
    return float(-10 * np.log10(max(error, 1e-20)))


def dehazed(model: Any, image: Tensor, options: StreamOptions) -> Tensor:
    held = Held(image)
    StreamedDehaze(model, options)(held, held.sink)
    return held.out.clamp(0, 1)


def judge(outputs: Sequence[Tensor]) -> list[str]:
    return ["", *(f"{psnr(out, outputs[0]):.1f} dB to it" for out in outputs[1:])]


def benchmark(rounds: int = 3, command: str = "", width: int = WIDTH, height: int = HEIGHT) -> Table:
    """The table, with torch's number of threads."""
    image = to_float(photo(width, height)).contiguous()
    pipe = DehazePipeline.create(device="cpu", dtype="float32")
    fused, blend = pipe.model, StreamOptions(blend=True)
    contestants = [
        Contestant(
            "as trained, a tile at a time, float32",
            partial(dehazed, pipe.network, image, StreamOptions(patches_at_once=1, stream=True, blend=True)),
        ),
        Contestant("fused, streamed, float32", partial(dehazed, fused, image, StreamOptions(stream=True, blend=True))),
        Contestant("fused, in memory, float32", partial(dehazed, fused, image, blend)),
    ]
    if has_fast_bfloat16(torch.device("cpu")):
        narrow = DehazePipeline.create(device="cpu", dtype="bfloat16").model
        contestants.append(Contestant("fused, in memory, bfloat16", partial(dehazed, narrow, image, blend)))
    return compare(
        f"A photo of {width} x {height} pixels, dehazexl_nano, blended",
        contestants,
        rounds=rounds,
        command=command,
        items=1,
        unit="photos",
        judge=judge,
    )


def compare_builds(checkout: Path, rounds: int) -> None:
    """Print CPU seconds per megapixel and peak memory of this build and of another checkout."""
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photo.npy"
        np.save(source, photo())
        builds = {"other": checkout.resolve(), "this": here}
        workers = {
            name: subprocess.Popen(
                [sys.executable, "-c", WORKER, str(source), f"{folder}/{name}.npy"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            )
            for name, root in builds.items()
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                commands, answers = cast(IO[str], worker.stdin), cast(IO[str], worker.stdout)
                commands.write("again\n")
                commands.flush()
                found[name].append(json.loads(answers.readline()))
        for worker in workers.values():
            cast(IO[str], worker.stdin).close()
            worker.wait()
        clear = {name: np.load(f"{folder}/{name}.npy") / 255 for name in workers}
    seconds = {name: statistics.median(run["seconds"] for run in runs) / MEGAPIXELS for name, runs in found.items()}
    print(
        "| build | CPU seconds per megapixel | relative time | peak memory | memory before the photo | |\n|---|---|---|---|---|---|"
    )
    for name, runs in found.items():
        note = "" if name == "other" else f"PSNR to the other: {psnr(clear['this'], clear['other']):.1f} dB, in 8 bits"
        print(
            f"| {name} | {seconds[name]:.2f} | {seconds[name] / seconds['other']:.2f} | {runs[-1]['peak']:.0f} MB "
            f"| {runs[-1]['loaded']:.0f} MB | {note} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="another checkout of visionzoo")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    compare_builds(options.other, options.rounds)


if __name__ == "__main__":
    main()
