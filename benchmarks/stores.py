"""Vector stores side by side: build, open, search, disk and memory.

    python -m benchmarks.stores --rows 1000000 --dim 256 --queries 64

Every store is built and measured in a fresh process, so that its memory is measured alone. The searches take turns over all
stores in several rounds; the table shows the median. Resident memory (RSS) counts pages of mapped files, which the
system may take back, and some hundreds of MB of imported libraries; "anonymous" is memory that it may not take back. Recall
depends on the data: these are vectors scattered around random directions, `--spread` far.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from visionzoo.memory import VectorStore, open_store

BLOCK = 50_000
CASES: dict[str, dict[str, Any]] = {
    "matrix float32": {"backend": "matrix"},
    "matrix float16": {"backend": "matrix", "storage": "float16"},
    "faiss flat": {"backend": "faiss", "kind": "flat"},
    "faiss fp16": {"backend": "faiss", "kind": "fp16"},
    "faiss ivf, nprobe {0}": {"backend": "faiss", "kind": "ivf"},
    "faiss ivf, nprobe {1}": {"backend": "faiss", "kind": "ivf", "like": "faiss ivf, nprobe {0}"},
}


def blocks(rows: int, dim: int, clusters: int, spread: float, seed: int = 0) -> Iterator[np.ndarray]:
    """Unit vectors around random directions, (<= BLOCK, dim) float32 at a time."""
    centers = np.random.default_rng(seed).standard_normal((clusters, dim), np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    for start in range(0, rows, BLOCK):
        rng = np.random.default_rng((seed, 1 + start))
        count = min(BLOCK, rows - start)
        vectors = centers[rng.integers(0, clusters, count)]
        vectors += spread * dim**-0.5 * rng.standard_normal((count, dim), np.float32)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def queries(options: argparse.Namespace) -> np.ndarray:
    """(Q, dim): vectors of the collection, disturbed."""
    some = next(blocks(options.rows, options.dim, options.clusters, options.spread))
    rng = np.random.default_rng(7)
    chosen = some[rng.choice(len(some), options.queries, replace=False)]
    chosen += 0.3 * options.dim**-0.5 * rng.standard_normal(chosen.shape, np.float32)
    return chosen / np.linalg.norm(chosen, axis=1, keepdims=True)


def status(key: str) -> float:
    """A line of /proc/self/status in MB; NaN where there is none."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float("nan")


def peak() -> float:
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value / (1 << 20 if sys.platform == "darwin" else 1024)


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Create the store of one case; runs in a child process."""
    case = dict(CASES[options.case])
    seconds = 0.0
    begun = time.perf_counter()
    store = open_store(options.folder, dim=options.dim, **case)
    seconds += time.perf_counter() - begun
    start = 0
    for vectors in blocks(options.rows, options.dim, options.clusters, options.spread):
        begun = time.perf_counter()
        store.add(np.arange(start, start + len(vectors)), vectors)
        store.flush()
        seconds += time.perf_counter() - begun
        start += len(vectors)
    begun = time.perf_counter()
    store.close()
    return {"build_s": seconds + time.perf_counter() - begun, "build_peak_mb": peak()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Open the store of one case and search it for one round; runs in a child process."""
    asked = queries(options)
    case = dict(CASES[options.case])
    case.pop("like", None)
    if "ivf" in options.case:
        case["nprobe"] = options.nprobe[int(options.case[-2])]
    begun = time.perf_counter()
    store: VectorStore = open_store(options.folder, readonly=True, **case)
    opened = time.perf_counter() - begun
    opened_peak = peak()
    store.search(asked[:1], options.k)  # the first one reads from the disk
    found = store.search(asked, options.k)  # also warms the threads
    begun = time.perf_counter()
    store.search(asked, options.k)
    together = (time.perf_counter() - begun) / len(asked)
    singles = []
    for query in asked[:16]:
        begun = time.perf_counter()
        store.search(query[None], options.k)
        singles.append(time.perf_counter() - begun)
    return {
        "open_s": opened,
        "open_mb": opened_peak,
        "single_ms": 1e3 * statistics.median(singles),
        "batch_ms": 1e3 * together,
        "peak_mb": peak(),
        "anonymous_mb": status("RssAnon"),
        "ids": found.ids.tolist(),
    }


def child(step: str, case: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.stores", "--step", step, "--case", case, "--folder", str(folder)]
    for name in ("rows", "dim", "queries", "k", "clusters", "spread"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--nprobe", *map(str, options.nprobe)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def size_mb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("-k", "--k", type=int, default=400)
    parser.add_argument("--clusters", type=int, default=2000)
    parser.add_argument("--spread", type=float, default=1.0, help="length of the noise around a cluster's direction")
    parser.add_argument("--nprobe", type=int, nargs=2, default=[32, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="folder in which the stores are built and then deleted; default: a temporary one"
    )
    parser.add_argument("--step", choices=["build", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps({"build": build, "measure": measure}[options.step](options)))
        return
    parent = Path(tempfile.mkdtemp(prefix="stores-", dir=options.folder))
    try:
        folders: dict[str, Path] = {}
        built: dict[str, dict[str, Any]] = {}
        for number, (case, settings) in enumerate(CASES.items()):
            like = settings.get("like")
            folders[case] = folders[like] if like else parent / str(number)
            built[case] = built[like] if like else child("build", case, folders[case], options)
            name = case.format(*options.nprobe)
            print(f"{name}: built in {built[case]['build_s']:.1f} s", file=sys.stderr)
        rounds: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
        for number in range(options.rounds):
            for case in CASES:
                rounds[case].append(child("measure", case, folders[case], options))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        print(table(options, folders, built, rounds))
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def table(
    options: argparse.Namespace,
    folders: dict[str, Path],
    built: dict[str, dict[str, Any]],
    rounds: dict[str, list[dict[str, Any]]],
) -> str:
    """The results as Markdown, with the command and the machine."""
    from visionzoo.devices import environment

    exact = [set(line) for line in rounds["matrix float32"][0]["ids"]]
    lines = [
        "| store | build s | build peak MB | open s | ms/query, one | ms/query, all | disk MB | RSS opened MB | "
        f"RSS peak MB | anonymous MB | recall@{options.k} |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, runs in rounds.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "ids"}
        found = runs[0]["ids"]
        recall = sum(len(best & set(line)) for best, line in zip(exact, found, strict=True)) / sum(map(len, exact))
        cells = [
            case.format(*options.nprobe),
            f"{built[case]['build_s']:.1f}",
            f"{built[case]['build_peak_mb']:.0f}",
            f"{middle['open_s']:.2f}",
            f"{middle['single_ms']:.1f}",
            f"{middle['batch_ms']:.2f}",
            f"{size_mb(folders[case]):.0f}",
            f"{middle['open_mb']:.0f}",
            f"{middle['peak_mb']:.0f}",
            f"{middle['anonymous_mb']:.0f}",
            f"{recall:.4f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    command = (
        f"python -m benchmarks.stores --rows {options.rows} --dim {options.dim} --queries {options.queries} "
        f"--k {options.k} --clusters {options.clusters} --spread {options.spread} "
        f"--nprobe {' '.join(map(str, options.nprobe))} --rounds {options.rounds}"
    )
    machine = environment() | {"load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
    return "\n".join([*lines, "", f"`{command}`", "", json.dumps(machine)])


if __name__ == "__main__":
    main()
