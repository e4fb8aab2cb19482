"""`python -m tests.golden`: check case files, or compute what they ask for."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import torch

from .case import HERE, Case, as_json, compare


def systems() -> list[str]:
    return sorted(folder.name for folder in HERE.iterdir() if (folder / "__init__.py").is_file())


def compute(case: Case) -> dict:
    """The outputs of a case as JSON, by the system that its folder names."""
    if case.system not in systems():
        raise SystemExit(
            f"{case.path}: the folder {case.system!r} is no system with golden cases; known: {', '.join(systems())}"
        )
    system = importlib.import_module(f"{__package__}.{case.system}")
    with torch.inference_mode():
        return as_json(system.compute(case), case.outputs)


def check(case: Case) -> list[tuple[str, float, float]]:
    """(output, relative error, tolerance) for everything a case expects."""
    tolerance = float(case.data.get("tolerance") or 1e-4)
    return [(name, error, tolerance) for name, error in compare(compute(case), case.outputs)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, help="case files; the folder of a case names its system")
    parser.add_argument("--emit", type=Path, metavar="OUT.json", help="only compute: write the outputs of one case")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    if options.emit:
        if len(options.cases) != 1:
            parser.error("--emit takes one case")
        options.emit.write_text(json.dumps({"outputs": compute(Case.read(options.cases[0]))}), encoding="utf-8")
        return 0
    failed = 0
    for path in options.cases:
        rows = check(Case.read(path))
        for name, error, tolerance in rows:
            good = error <= tolerance
            failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {path.parent.name}/{path.stem}: {name} {error:.2e}")
        if not rows:
            print(f"ok   {path.parent.name}/{path.stem}: no outputs, keys only")
    print(f"{failed} outputs above tolerance" if failed else "all outputs within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
