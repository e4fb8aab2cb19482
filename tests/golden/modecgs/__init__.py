"""Computes the outputs of MoDec-GS's golden cases with the classes that users get."""

from __future__ import annotations

from typing import Any

from ..case import Case
from . import model, raster


def compute(case: Case) -> dict[str, Any]:
    """The outputs of a case by the case's names; all outputs if the case names none."""
    found = everything(case)
    return {name: found[name] for name in case.outputs if name in found} if case.outputs else found


def everything(case: Case) -> dict[str, Any]:
    return raster.compute(case) if raster.is_raster(case) else model.compute(case)


def expected(case: Case) -> dict[str, Any]:
    """Outputs, and the plain numbers that some cases hold in addition."""
    return {**case.outputs, **({"values": case.data["values"]} if "values" in case.data else {})}


def tolerance(case: Case, name: str) -> float | None:
    """Images and depths have their own."""
    return 1e-3 if "image" in name or "depth" in name else None
