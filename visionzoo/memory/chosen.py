"""A selection of a module's parameters, looked up by name at every use, to copy, overwrite or train only these."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..errors import InputError

__all__ = ["Chosen", "Selection", "Values", "listed"]

Selection = str | Iterable[str] | Callable[[str, nn.Parameter], bool]
Values = dict[str, Tensor]


class Chosen:
    """Parameters of `module`, selected by a pattern, several patterns, or a function of the name and the parameter.

    Attributes:
        names: names of the parameters, in the module's order.

    Raises:
        InputError: no parameter matches.
    """

    def __init__(self, module: nn.Module, selection: Selection) -> None:
        self.module, self.names = module, _select(module, selection)

    def resolve(self) -> dict[str, nn.Parameter]:
        """The parameters that the module currently has under these names.

        Raises:
            InputError: the module no longer has some of them.
        """
        present = dict(self.module.named_parameters())
        if missing := [name for name in self.names if name not in present]:
            raise InputError(f"the module has lost parameters of this memory: {listed(missing)}")
        return {name: present[name] for name in self.names}

    def copy(self) -> Values:
        """Return copies of their values."""
        with torch.inference_mode(False):  # a later write may need them outside inference mode
            return {name: p.detach().clone() for name, p in self.resolve().items()}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite their values."""
        with torch.no_grad():
            for name, parameter in self.resolve().items():
                parameter.copy_(values[name])

    @contextmanager
    def training(self) -> Iterator[list[nn.Parameter]]:
        """Inside the block, only these parameters are trainable; afterwards all flags and their gradients are restored."""
        chosen = self.resolve()
        flags = [(p, p.requires_grad) for p in self.module.parameters()]
        gradients = [(p, p.grad) for p in chosen.values()]
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            for parameter in chosen.values():
                parameter.requires_grad_(True)
                parameter.grad = None
            yield [*chosen.values()]
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            for parameter, gradient in gradients:
                parameter.grad = gradient


def _select(module: nn.Module, selection: Selection) -> tuple[str, ...]:
    """Names of the parameters that match, in the module's order."""
    present = dict(module.named_parameters())
    if callable(selection):
        names = [name for name, parameter in present.items() if selection(name, parameter)]
        if not names:
            raise InputError(f"the function selects none of the {len(present)} parameters of {type(module).__name__}")
        return tuple(names)
    patterns = [selection] if isinstance(selection, str) else [*selection]
    names = [name for name in present if any(name == p or fnmatchcase(name, p) for p in patterns)]
    for pattern in patterns or ["nothing"]:
        if not any(name == pattern or fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, present, n=3, cutoff=0.3) or [*present][:3]
            raise InputError(
                f"no parameter of {type(module).__name__} fits {pattern!r}; it has e.g. {', '.join(near) or 'none'}"
            )
    return tuple(names)


def listed(items: list[str], separator: str = ", ", most: int = 10) -> str:
    """The first `most` items as text, and how many more there are."""
    rest = len(items) - most
    return separator.join(items[:most]) + (f" and {rest} more" if rest > 0 else "")
