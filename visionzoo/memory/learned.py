"""Memory that was learned with the model: keys and values are the model's parameters, or a function of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NoReturn, Self

import torch
from torch import Tensor, nn

from ..attention import attention_with_lse
from ..errors import InputError, VisionZooError
from .bank import MemoryBank, ReadResult

__all__ = ["LearnedBank"]

Layout = Literal["tokens", "map"]


class LearnedBank(MemoryBank):
    """Reads parameters of a module by attention. The module owns them.

    The bank registers nothing: the parameters keep their names in the module's state dict, its optimizer trains them and
    its `.to()` moves them. They are looked up by name at every read, so a bank that is an attribute of the module stays
    correct after `copy.deepcopy(module)`; so does `project` if it is a bound method of the module.

    The memory of MCNet (arXiv 2307.09906), a map of 1024 positions and 512 channels, is modulated by the style of the face
    and turned into keys and values by a dynamic convolution before it is read::

        bank = LearnedBank(unit, "mb", layout="map", project=unit.keys_and_values, scale=1 / 4)
        found = bank.read(query, condition=style)  # query (frames, 1, h * w, 512)

    Args:
        module: the module that owns the parameters.
        parameters: a dotted name, e.g. "mbUnit.mb", or several.
        project: returns keys and values (B, H, N, D) for the parameters, in order, and the condition of the read. Without
            it, a single parameter is both keys and values, and of two parameters the first holds the keys. Keys and values
            may omit a head axis of 1, and the batch axis too.
        layout: layout of the first parameter: "tokens" (…, N, D), or "map" (…, D, h, w), whose N = h * w positions are the
            elements; without `project` a map is flattened to tokens.
        scale: factor of the scores; default 1 / sqrt(D).

    Raises:
        InputError: a parameter does not exist, or there are more than two without `project`.
    """

    kind: ClassVar[str] = "learned"

    def __init__(
        self,
        module: nn.Module,
        parameters: str | Sequence[str],
        *,
        project: Callable[..., tuple[Tensor, Tensor]] | None = None,
        layout: Layout = "tokens",
        scale: float | None = None,
    ) -> None:
        self.module = module
        self.parameters: tuple[str, ...] = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        self.project, self.layout, self.scale = project, layout, scale
        if layout not in ("tokens", "map"):
            raise InputError(f"layout must be tokens or map, got {layout!r}")
        if not self.parameters or (project is None and len(self.parameters) > 2):
            raise InputError(f"{len(self.parameters)} parameters without project=…; give one, or keys and values")
        least = 3 if layout == "map" else 2
        for i, (name, value) in enumerate(zip(self.parameters, self.values(), strict=True)):
            if value.ndim < least and (project is None or i == 0):
                shape = "(…, D, h, w)" if layout == "map" else "(…, N, D)"
                raise InputError(
                    f"{name} has the shape {tuple(value.shape)}, which is not layout={layout!r}: expected {shape}"
                )

    def values(self) -> tuple[nn.Parameter, ...]:
        """The parameters that the module has now."""
        found = []
        for name in self.parameters:
            try:
                found.append(self.module.get_parameter(name))
            except AttributeError as error:
                known = ", ".join(n for n, _ in self.module.named_parameters()) or "none"
                raise InputError(
                    f"{type(self.module).__name__} has no parameter {name!r}; it has: {known[:400]}"
                ) from error
        return tuple(found)

    def view(self, condition: Any = None) -> tuple[Tensor, Tensor]:
        """Keys (B, H, N, Dk) and values (B, H, N, Dv) for a condition, with their gradient.

        Use it for several reads with one condition, or for a loss on the values.

        Raises:
            InputError: a condition is given but there is no `project`, or keys and values do not fit each other.
        """
        parameters = self.values()
        if self.project is not None:
            keys, values = self.project(*parameters, condition)
        elif condition is not None:
            raise InputError("a condition needs project=…, which makes keys and values of the memory and the condition")
        else:
            tokens = [p.flatten(-2).transpose(-2, -1) if self.layout == "map" else p for p in parameters]
            keys, values = tokens[0], tokens[-1]
        return _with_heads(keys), _with_heads(values)

    def read(
        self,
        query: Tensor,
        condition: Any = None,
        scale: float | None = None,
        mask: Tensor | None = None,
        *,
        view: tuple[Tensor, Tensor] | None = None,
    ) -> ReadResult:
        """Attention of the query over the memory; differentiable in the query, the parameters and the condition.

        Args:
            query: (B, H, L, Dk), or (B, L, Dk) for one head; the result has its dtype.
            condition: passed on to `project`.
            scale: used instead of the bank's scale.
            mask: as for `attention_with_lse`.
            view: result of `view(condition)`, instead of a condition.

        Returns:
            output (B, H, L, Dv) and lse (B, H, L).

        Raises:
            InputError: shapes do not fit, or both a condition and a view are given.
        """
        if view is not None and condition is not None:
            raise InputError("give a condition or the view that was made under it, not both")
        keys, values = self.view(condition) if view is None else view
        query = query.unsqueeze(1) if query.ndim == 3 else query
        keys, values = keys.to(query.dtype), values.to(query.dtype)  # under autocast, weights stay float32
        out, lse = attention_with_lse(query, keys, values, mask=mask, scale=self.scale if scale is None else scale)
        return ReadResult(out, lse)

    def write(self, *_: Any, **__: Any) -> NoReturn:
        """Raise an error: this memory is a weight."""
        raise VisionZooError(
            "a learned memory is not written at run time: it is a weight of its module; train the module, or write "
            "to a TensorBank instead"
        )

    def reset(self) -> NoReturn:
        """Raise an error: this memory is a weight."""
        raise VisionZooError(
            "a learned memory holds nothing episodic to reset; load a checkpoint of the module to change its weights"
        )

    def __len__(self) -> int:
        shape = self.values()[0].shape
        return shape[-1] * shape[-2] if self.layout == "map" else shape[-2]

    @property
    def nbytes(self) -> int:
        """Size of the parameters in bytes; the module counts them too."""
        return sum(value.numel() * value.element_size() for value in self.values())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Check that the parameters are there already, and raise an error if not: the module moves them, not the bank."""
        for name, value in zip(self.parameters, self.values(), strict=True):
            wanted = None if device is None else torch.device(device)
            misplaced = wanted is not None and (
                wanted.type != value.device.type or wanted.index not in (None, value.device.index)
            )
            if misplaced or dtype not in (None, value.dtype):
                raise VisionZooError(
                    f"{name} is {value.dtype} on {value.device} and moves with its module: call module.to(…) instead"
                )
        return self

    # --- saving: the content is in the module's checkpoint ---

    def config(self) -> dict[str, Any]:
        """Names and layout of the parameters, without their values and without `project`."""
        shapes = [[*value.shape] for value in self.values()]
        projected = self.project is not None
        return {
            "parameters": [*self.parameters],
            "shapes": shapes,
            "layout": self.layout,
            "scale": self.scale,
            "projected": projected,
        }

    def tensors(self) -> dict[str, Tensor]:
        """An empty dict: the parameters are in the module's state dict."""
        return {}

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        module: nn.Module | None = None,
        project: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> Self:
        """Create the bank over the parameters of `module`.

        Raises:
            InputError: a required `module` or `project` is missing, or the module lacks the parameters.
        """
        if module is None:
            raise InputError(
                f"this memory is the weights {', '.join(config['parameters'])} of a module, not in the folder; "
                "load the model, then LearnedBank.load(folder, module=model)"
            )
        if config["projected"] and project is None:
            raise InputError("this bank computes keys and values with a function, which is not saved: give project=…")
        bank = cls(module, config["parameters"], project=project, layout=config["layout"], scale=config["scale"])
        bank.take_over(config, {})
        return bank

    def take_over(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Check that this bank uses the same parameters; there is no content to load."""
        here = self.config()
        for key in ("parameters", "shapes", "layout"):
            if config.get(key) != here[key]:
                raise InputError(f"the saved bank has the {key} {config.get(key)}, this one {here[key]}")
        if tensors:
            raise InputError(f"the state of a learned memory holds no tensors, found {', '.join(tensors)[:200]}")

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        module: nn.Module | None = None,
        project: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> Self:
        """Load the bank that `save` described, over the parameters of `module`; errors as for `from_config`."""
        config = cls._saved_config(folder)
        return cls.from_config(config, module=module, project=project)


def _with_heads(tokens: Tensor) -> Tensor:
    """Reshape (N, D), (B, N, D) or (B, H, N, D) to (B, H, N, D)."""
    if tokens.ndim == 2:
        return tokens[None, None]
    return tokens.unsqueeze(1) if tokens.ndim == 3 else tokens
