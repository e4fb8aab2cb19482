"""Computes the outputs of LOVECon's golden cases with the classes and functions that users get.

Modules of this folder have two tables: `KINDS`, how the description of a case begins -> the function that computes its outputs; and
`KEYS`, the name of a file of published keys -> the function that lists the keys that differ from ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import DIFFERENT, Case
from . import networks, pipeline, rife

KINDS: dict[str, Callable[[Case], Any]] = {**networks.KINDS, **pipeline.KINDS, **rife.KINDS}
"""Of all modules: the beginning of "module", "step", "model" or "run" in a case's configuration -> its function."""

KEYS: dict[str, Callable[[Case], list[str]]] = {**networks.KEYS, **rife.KEYS}


def compute(case: Case) -> Any:
    """The outputs of `case`, whose kind is determined by its configuration, or for published keys by its name."""
    if case.name in KEYS:
        return {DIFFERENT: KEYS[case.name](case)}
    described = next(str(case.config[key]) for key in ("module", "step", "model", "run") if key in case.config)
    for beginning, function in KINDS.items():
        if described.startswith(beginning):
            return function(case)
    raise SystemExit(f"{case.path}: no function computes cases of the kind {described!r}; known: {', '.join(KINDS)}")


def tolerance(case: Case, name: str) -> float | None:
    return pipeline.tolerance(case, name)
