"""`python -m tests.golden`: check case files, or compute their outputs.

The exit code is 1 if a value differs, or if none was compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .case import HERE, Case, as_json, compare


def systems() -> list[str]:
    return sorted(folder.name for folder in HERE.iterdir() if (folder / "__init__.py").is_file())


def system_of(case: Case) -> ModuleType:
    """The module that computes a case; its folder names the system."""
    if case.system not in systems():
        raise SystemExit(
            f"{case.path}: the folder {case.system!r} is no system with golden cases; known: {', '.join(systems())}"
        )
    return importlib.import_module(f"{__package__}.{case.system}")


def compute(case: Case) -> dict:
    """The outputs of a case as JSON, in the structure of its `outputs`."""
    with torch.inference_mode():
        return as_json(system_of(case).compute(case), case.outputs)


def check(case: Case) -> list[tuple[str, float, float]]:
    """(output, relative error, tolerance) for everything a case expects; empty if it expects nothing.

    Some cases hold more expected values than their `outputs`. Their system then has two functions of a case: `expected` returns all
    expected values, and `everything` at least the same values as computed here. A system may have the function `tolerance` of a
    case and the name of an output; None is the case's tolerance.
    """
    system: Any = system_of(case)
    usual = float(case.data.get("tolerance") or 1e-4)
    allowed = getattr(system, "tolerance", lambda *_: None)
    wanted = case.outputs
    if hasattr(system, "expected"):
        wanted = system.expected(case)
        with torch.inference_mode():
            found = as_json(system.everything(case), wanted)
    else:
        found = compute(case)
    return [(name, error, allowed(case, name) or usual) for name, error in compare(found, wanted)]


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
    passed = failed = empty = 0
    for path in options.cases:
        rows = check(Case.read(path))
        for name, error, tolerance in rows:
            good = error <= tolerance
            passed, failed = passed + good, failed + (not good)
            print(f"{'ok  ' if good else 'FAIL'} {path.parent.name}/{path.stem}: {name} {error:.2e}")
        if not rows:
            empty += 1
            print(f"--   {path.parent.name}/{path.stem}: nothing compared, the case expects nothing")
    print(f"{passed} values within tolerance, {failed} above it" + (f", {empty} cases without any" if empty else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
