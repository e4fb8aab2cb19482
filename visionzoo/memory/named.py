"""Conversion of small frozen dataclasses to and from configs: `{"policy": "fifo", "n": 5}` <-> `Fifo(n=5)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from ..errors import InputError

__all__ = ["Named", "check_count", "from_config", "to_config"]


class Named(Protocol):
    """A frozen dataclass with the name that it has in configs."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=Named)


def to_config(thing: Named, kind: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The config `{kind: name, **fields}`.

    Raises:
        InputError: the class is not in `known`, so its config could not be read back.
    """
    if known.get(thing.name) is not type(thing):
        raise InputError(f"{type(thing).__name__} is not a registered {kind}; known: {', '.join(known)}")
    return {kind: thing.name, **dataclasses.asdict(thing)}


def from_config(config: T | Mapping[str, Any], kind: str, known: Mapping[str, type[T]]) -> T:
    """The object that `config` describes; an object is returned unchanged.

    Raises:
        InputError: no name, an unknown name, unknown or missing fields, or invalid values. The message lists the known
            names or fields.
    """
    if not isinstance(config, Mapping):
        return config
    fields = dict(config)
    name = fields.pop(kind, None)
    if name not in known:
        raise InputError(f"there is no {kind} {name!r}; known: {', '.join(known)}")
    cls = known[name]
    names = [field.name for field in dataclasses.fields(cls)]
    needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if wrong := [key for key in fields if key not in names]:
        raise InputError(
            f"the {kind} {name!r} has no field {', '.join(map(repr, wrong))}; known: {', '.join(names) or 'none'}"
        )
    if missing := [key for key in needed if key not in fields]:
        raise InputError(f"the {kind} {name!r} needs {', '.join(map(repr, missing))}")
    return cls(**fields)


def check_count(owner: object, field: str, value: object, least: int) -> None:
    """Check a field that holds a count.

    Raises:
        InputError: `value` is not an integer, or is below `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{type(owner).__name__}: {field} must be an integer of at least {least}, got {value!r}")
