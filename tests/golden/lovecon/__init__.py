"""Computes the outputs of LOVECon's golden cases with the classes and functions that users get.

A module of this folder has a table `KINDS`: how the description of a case begins -> the function that computes its outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case

KINDS: dict[str, Callable[[Case], Any]] = {}
"""Of all modules: the beginning of "module", "step", "model" or "run" in a case's configuration -> its function."""


def compute(case: Case) -> Any:
    """The outputs of `case`, whose kind is determined by its configuration."""
    described = next(str(case.config[key]) for key in ("module", "step", "model", "run") if key in case.config)
    for beginning, function in KINDS.items():
        if described.startswith(beginning):
            return function(case)
    raise SystemExit(f"{case.path}: no function computes cases of the kind {described!r}; known: {', '.join(KINDS)}")
