"""Match the outputs of earlier weights to the classes of the data by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionzoo.errors import InputError


@dataclass(frozen=True)
class ClassMatch:
    """Matches the classes of weights and of data. A name that occurs twice on one side matches no class of the other.

    Attributes:
        weights: names of the classes that weights were trained on, in the order of their outputs.
        data: names of the classes of the data, in the order of their labels.
    """

    weights: Sequence[str]
    data: Sequence[str]

    @property
    def outputs(self) -> list[int | None]:
        """The output index for each class of the data; None if the weights lack the class."""
        counts = Counter(self.weights), Counter(self.data)
        numbers = {name: number for number, name in enumerate(self.weights)}
        return [numbers.get(name) if max(c[name] for c in counts) == 1 else None for name in self.data]

    @property
    def identical(self) -> bool:
        return list(self.weights) == list(self.data)

    def check_identical(self, where: object) -> None:
        """Raise `InputError` unless the classes are the same in the same order."""
        if not self.identical:
            raise InputError(f"{where}: was trained on different classes than those of the data ({self._difference()})")

    def labels(self, where: object) -> Tensor:
        """(number of classes,) output index for each label. Raises `InputError` if a class of the data has none."""
        outputs = self.outputs
        if None in outputs:
            raise InputError(f"{where}: was trained on different classes than those of the data ({self._difference()})")
        return torch.tensor(outputs)

    @torch.no_grad()
    def copy_rows(self, source: Tensor, target: Tensor) -> None:
        """Copy rows of `source` (outputs of the weights, …) to the rows of `target` (classes of the data, …) with the same names."""
        for label, output in enumerate(self.outputs):
            if output is not None:
                target[label] = source[output]

    def summary(self) -> str:
        """Describe what `copy_rows` does, e.g. "2 of 3 classes keep their outputs (cat, dog); new: bird; dropped: fish"."""
        outputs = self.outputs
        kept = [name for name, output in zip(self.data, outputs, strict=True) if output is not None]
        new = [name for name, output in zip(self.data, outputs, strict=True) if output is None]
        left = [name for number, name in enumerate(self.weights) if number not in outputs]
        if not kept:
            return f"the weights have none of the {len(self.data)} classes of the data; the head is new"
        parts = [f"{len(kept)} of {len(self.data)} classes keep their outputs ({_abbreviated(kept)})"]
        parts += [f"{word}: {_abbreviated(names)}" for word, names in (("new", new), ("dropped", left)) if names]
        return "; ".join(parts)

    def _difference(self) -> str:
        unknown = [name for name, output in zip(self.data, self.outputs, strict=True) if output is None]
        left = [name for name in self.weights if name not in self.data]
        if not unknown and not left:
            return "their order differs"
        parts = [f"{word} {_abbreviated(names)}" for word, names in (("not on", unknown), ("but on", left)) if names]
        return ", ".join(parts)


def _abbreviated(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


__all__ = ["ClassMatch"]
