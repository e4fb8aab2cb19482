"""Configuration dataclasses: built from keyword arguments and plain dictionaries, with clear errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import InputError

C = TypeVar("C")


def configure(base: C, overrides: Mapping[str, Any]) -> C:
    """A copy of the dataclass instance `base` with `overrides`; lists, as in JSON and YAML, become tuples.

    Raises:
        InputError: an unknown field; the message lists the known ones.
    """
    known = {field.name for field in dataclasses.fields(base)}  # pyright: ignore[reportArgumentType]
    wrong = sorted(set(overrides) - known)
    if wrong:
        raise InputError(
            f"{type(base).__name__} has no field {', '.join(map(repr, wrong))}; known: {', '.join(sorted(known))}"
        )
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
    return dataclasses.replace(base, **values)  # pyright: ignore[reportArgumentType, reportReturnType]


def as_dict(config: Any) -> dict[str, Any]:
    """The fields of a configuration as plain JSON values."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }
