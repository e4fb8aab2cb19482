"""Indexing photos of 12 megapixels: CPU time and memory, compared with a plain loop over timm's network, and with another checkout.

    visionzoo bench retrieve-index
    python -m benchmarks.retrieve_index --other CHECKOUT

Every contestant runs in processes of its own, one thread each, in turns; a few photos go through first. The photos are made from the
bundled samples: enlarged to 4000 x 3000, with the noise of a sensor, as JPEGs of 4 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

import visionzoo
from visionzoo import create_model
from visionzoo.benchmark import Grid, Report
from visionzoo.devices import environment, has_fast_bfloat16
from visionzoo.io.image import load_image
from visionzoo.models.superglobal import Preprocess, SuperGlobal

MODEL, MAX_SIDE = "superglobal_lite0", 448
WARM = 4
"""Number of photos for warm-up."""

START = """
import json, resource, sys, time
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
folder, out, dtype, warm = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
files = sorted(folder.glob("*.jpg"))
def peak_mb():
    status = Path("/proc/self/status")  # ru_maxrss counts what the parent process held before this one started
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""

INDEX = """
import visionzoo
from visionzoo.models.superglobal.index import PhotoIndex
pipe = visionzoo.pipeline("retrieve", dtype=dtype)
def describe(files, name):
    pipe.index(files, out / name, progress=False)
    with PhotoIndex.open(out / name) as index:
        return np.stack([index.store.fetch(np.array([p.id]))[0] for p in sorted(index.photos(), key=lambda p: p.path)])
"""

TIMM = """
import timm
from PIL import Image
from torch.nn import functional as F
from visionzoo import create_model
from visionzoo.models.superglobal.pooling import gem, regional_gem
weights = create_model("superglobal_lite0", pretrained=True).state_dict()
net = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="").eval()
net.load_state_dict({k.removeprefix("backbone.net."): v for k, v in weights.items() if k.startswith("backbone.net.")})
@torch.inference_mode()
def describe(files, name):
    vectors = []
    for file in files:
        image = Image.open(file).convert("RGB")
        image.thumbnail((448, 448), Image.Resampling.LANCZOS)
        x = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        scales = [F.interpolate(x, [int(n * s) for n in x.shape[2:]], mode="bilinear") for s in (0.7071, 1, 1.4142)]
        pooled = [F.normalize(gem(regional_gem(net(scale).clamp(min=0)), 4.6), dim=-1) for scale in scales]
        vectors.append(F.normalize(torch.stack(pooled).amax(0), dim=-1)[0].numpy())
    return np.stack(vectors)
"""

FINISH = """
describe(files[:warm], "warm")
wall, cpu = time.perf_counter(), time.process_time()
vectors = describe(files, "all")
result = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
np.save(out / "vectors.npy", vectors)
print(json.dumps({**result, "peak_mb": peak_mb()}))
"""


def make_photos(folder: Path, count: int) -> None:
    """`count` JPEGs of 4000 x 3000 in `folder`; every fourth is upright."""
    samples = sorted((Path(visionzoo.__file__).parent / "assets" / "photos").glob("*_1.jpg"))
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.normal(0, 9, (1500, 2000)).astype(np.float32)).resize(
        (4000, 3000), Image.Resampling.BICUBIC
    )
    noise = (np.asarray(coarse) + rng.normal(0, 5, (3000, 4000))).astype(np.int16)[..., None]
    for number in range(count):
        photo = Image.open(samples[number % len(samples)]).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        grain = np.roll(noise, rng.integers(0, 3000, 2), (0, 1))
        photo = Image.fromarray(np.clip(np.asarray(photo, np.int16) + grain, 0, 255).astype(np.uint8))
        if number % 4 == 0:
            photo = photo.transpose(Image.Transpose.ROTATE_90)
        photo.save(folder / f"{number:03}.jpg", quality=92)


def run_once(code: str, checkout: Path, dtype: str, photos: Path, out: Path) -> dict[str, Any]:
    """One process: CPU and wall seconds for all photos, and its peak memory."""
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", START + code + FINISH, str(photos), str(out), dtype, str(WARM)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        cwd=out, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"a contestant failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(count: int, rounds: int, command: str, other: Path | None = None) -> Grid:
    """CPU time, wall time and peak memory per photo; ratios and cosines refer to the first row."""
    here = Path(visionzoo.__file__).parents[1]
    entries = [
        ("timm's network, a plain loop", TIMM, here, "float32"),
        ("visionzoo, float32", INDEX, here, "float32"),
        ("visionzoo, default settings", INDEX, here, "auto"),
    ]
    if other is not None:
        entries.insert(0, (f"visionzoo at {other.name}", INDEX, other, "auto"))
    runs: list[list[dict[str, Any]]] = [[] for _ in entries]
    vectors: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        make_photos(photos, count)
        for turn in range(rounds):
            for place, (_, code, checkout, dtype) in enumerate(entries):
                out = Path(folder) / f"{turn}-{place}"
                out.mkdir()
                runs[place].append(run_once(code, checkout, dtype, photos, out))
                if turn == 0:
                    vectors.append(np.load(out / "vectors.npy"))
    rows = []
    for (label, *_), results, found in zip(entries, runs, vectors, strict=True):
        cpu, wall, peak = (statistics.median(r[key] for r in results) for key in ("cpu", "wall", "peak_mb"))
        first = statistics.median(r["cpu"] for r in runs[0])
        cosine = (found * vectors[0]).sum(-1).min()
        rows.append(
            [
                label,
                f"{cpu / count:.3f}",
                f"{cpu / first:.2f}",
                f"{wall / count:.3f}",
                f"{peak:.0f} MB",
                f"{cosine:.5f}",
            ]
        )
    columns = [
        "",
        "CPU seconds per photo",
        "of the first",
        "seconds per photo",
        "peak memory",
        "smallest cosine to the first",
    ]
    title = f"Index of {count} JPEGs of 12 megapixels, {MODEL}"
    return Grid(title, columns, rows, environment(), command)


def cpu_ms(work: Callable[[], Any], rounds: int) -> float:
    work()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1e3 * statistics.median(times)


def network(dtype: torch.dtype) -> SuperGlobal:
    return cast("SuperGlobal", create_model(MODEL, pretrained=True)).for_inference(dtype)


def parts(rounds: int, command: str) -> Grid:
    """Where the CPU time of one photo goes."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        make_photos(Path(folder), 2)
        file = Path(folder) / "001.jpg"

        def decode(part: int | None) -> None:
            with Image.open(file) as image:
                if part is not None:
                    image.draft("RGB", (image.width // part, image.height // part))
                image.load()

        rows += [
            [f"decode, 1/{part or 1} of each side", f"{cpu_ms(lambda p=part: decode(p), rounds):.1f}"]
            for part in (None, 4, 8)
        ]
        array = load_image(file, max_side=MAX_SIDE)
        rows.append(
            [f"decode and shrink to {MAX_SIDE}", f"{cpu_ms(lambda: load_image(file, max_side=MAX_SIDE), rounds):.1f}"]
        )
        for dtype in (torch.float32, *([torch.bfloat16] if has_fast_bfloat16(torch.device("cpu")) else [])):
            model = network(dtype)
            x = Preprocess.of(model, MAX_SIDE).normalise_batch(torch.from_numpy(array)[None])
            name = str(dtype).removeprefix("torch.")
            for scale in model.config.scales:
                scaled = model._resize(x, scale)
                size = f"{scaled.shape[-1]} x {scaled.shape[-2]}"
                rows.append(
                    [f"network, {name}, {size}", f"{cpu_ms(lambda m=model, s=scaled: m.backbone(s), rounds):.1f}"]
                )
                features = model.backbone(scaled)
                rows.append([f"pooling of {size}", f"{cpu_ms(lambda m=model, f=features: m.pool_map(f), rounds):.1f}"])
            rows.append([f"all scales, {name}", f"{cpu_ms(lambda m=model, x=x: m(x), rounds):.1f}"])
    return Grid("One photo, part by part", ["", "CPU ms"], rows, environment(), command)


def benchmark(rounds: int = 3, command: str = "", count: int = 32, other: Path | None = None) -> Report:
    """Both tables."""
    return Report([side_by_side(count, rounds, command, other), parts(4 * rounds + 1, command)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="another checkout of visionzoo, measured in the same run")
    parser.add_argument("--count", type=int, default=32, help="photos")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    command = f"python -m benchmarks.retrieve_index --count {options.count} --rounds {options.rounds}"
    if options.other is not None:
        options.other, command = options.other.resolve(), f"{command} --other {options.other.name}"
    print(benchmark(options.rounds, command, options.count, options.other).to_markdown())


if __name__ == "__main__":
    main()
