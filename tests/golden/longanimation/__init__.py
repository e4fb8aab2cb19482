"""Computes the outputs of LongAnimation's golden cases with the classes and functions that users get.

Modules of this folder have a table `KINDS`: how the name of a case begins -> the function that computes its outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import DIFFERENT, Case
from . import frames, networks, pipeline, videoxl

KINDS: dict[str, Callable[[Case], Any]] = {
    **frames.KINDS,
    **networks.KINDS,
    **pipeline.KINDS,
    **videoxl.KINDS,
    "keys": lambda case: [*networks.keys(case), *videoxl.keys(case)],
}


def compute(case: Case) -> Any:
    """The outputs of `case`, whose kind is determined by its name."""
    for beginning, function in KINDS.items():
        if case.name.startswith(beginning):
            return {DIFFERENT: function(case)} if beginning == "keys" else function(case)
    raise SystemExit(f"{case.path}: no function computes cases of this name; known beginnings: {', '.join(KINDS)}")


def expected(case: Case) -> Any:
    """The plans of segments are a table by number of frames."""
    return case.data["cases"] if case.name == "segments" else case.outputs


everything = compute
