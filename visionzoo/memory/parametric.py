"""Memory in weights: optimizer steps write it, every forward pass reads it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError, VisionZooError
from .bank import KINDS, MemoryBank
from .chosen import Chosen, Selection, Values, listed
from .files import read_state
from .low_rank import merge_values
from .optimizer_state import copied, pack, state_is_elsewhere, unpack
from .steps import NotFiniteError, backward, takes_step

__all__ = ["ParametricBank"]

Loss = Callable[[], Tensor] | Callable[[int], Tensor]


LEARNING_RATE = 1e-4
"""Learning rate of Adam for TEMP-LORA (section B.2 of arXiv 2410.23277)."""


def _adam(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.Adam(parameters, lr=LEARNING_RATE)


class ParametricBank(MemoryBank):
    """Selected parameters of a module as the memory of an episode, e.g. TEMP-LORA of SlowFast-VGen (arXiv 2410.23277).

    A write runs a few optimizer steps on them; a read is any forward pass of the module. The parameters belong to the
    module: its state dict keeps its keys, and a frozen parameter is frozen again after a write::

        bank = ParametricBank(unet, "*lora_*", seed=0)
        for chunk in chunks:
            bank.write(lambda: loss_of(unet, chunk, generator=bank.generator), steps=1)
        bank.save("episode")

    Args:
        module: the module that owns the parameters; they are looked up by name at every use.
        parameters: a pattern such as "*lora_*", several patterns, or a function of the name and the parameter.
        optimizer: creates an optimizer for a list of parameters. Default: Adam with learning rate 1e-4, as in the paper.
        keep_optimizer: keep the optimizer's state between writes, until `begin` or `reset`, like the method that the paper
            builds on (arXiv 2401.11504); the paper itself does not specify it. False: a new optimizer for each write.
        max_grad_norm: clip the norm of the gradient to this value before each step.
        seed: seed of `generator`.

    Attributes:
        generator: a `torch.Generator` on the CPU for random numbers in the loss. It is saved with the bank and reseeded by
            `begin` and `reset`, so that a resumed episode equals an uninterrupted one.
        steps: optimizer steps since `begin`.
        writes: calls of `write` since `begin`.

    Raises:
        InputError: no parameter matches.
    """

    kind: ClassVar[str] = "parametric"
    supports_query: ClassVar[bool] = False

    def __init__(
        self,
        module: nn.Module,
        parameters: Selection,
        *,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] = _adam,
        keep_optimizer: bool = True,
        max_grad_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        self._chosen = Chosen(module, parameters)
        self.keep_optimizer, self.max_grad_norm, self.seed = keep_optimizer, max_grad_norm, seed
        self.generator = torch.Generator()
        self._make_optimizer = optimizer
        self._snapshots: dict[str, Values] = {}
        self._active: str | None = None
        self.begin()

    @property
    def module(self) -> nn.Module:
        """The module that owns the parameters."""
        return self._chosen.module

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the module's order."""
        return self._chosen.names

    def begin(self) -> None:
        """Make the current values the start, to which `reset` returns and from which `merge` measures. Snapshots stay."""
        self._require_inactive("begin")
        self._start = self._chosen.copy()
        self._forget()

    def reset(self) -> None:
        """Return to the values of `begin`, clear optimizer state and counts, and reseed the generator. Snapshots stay."""
        self._require_inactive("reset")
        self._chosen.put(self._start)
        self._forget()

    def _forget(self) -> None:
        self._optimizer: Optimizer | None = None
        self.steps = self.writes = 0
        self.generator.manual_seed(self.seed)

    def _require_inactive(self, what: str) -> None:
        if self._active is not None:
            raise VisionZooError(f"cannot {what} while {self._active} is active; leave that block first")

    # --- write ---

    def write(self, loss: Loss, steps: int = 1, *, skip_bad_steps: bool = False) -> list[float]:
        """Run `steps` optimizer steps on the memory; everything else in the module stays unchanged.

        Gradients are enabled during the call, even inside `torch.no_grad`. The module's mode is not changed, so call
        `eval()` first if dropout should not affect the memory. If anything fails, the bank stays unchanged.

        Args:
            loss: returns a scalar that depends on the parameters. If it takes an argument, it gets the index of the step
                within this call, counted from 0.
            steps: number of optimizer steps.
            skip_bad_steps: leave out steps whose loss or gradient is not finite, instead of raising an error.

        Returns:
            The loss before each step; NaN for a step that was left out.

        Raises:
            InputError: `steps` is below 1, or the loss is not a scalar or does not depend on the parameters.
            VisionZooError: the loss or the gradient is not finite.
        """
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}")
        self._require_inactive("write")
        counted = takes_step(loss)
        drawn, old = self.generator.get_state(), self._optimizer
        before: tuple[Values, dict[str, Any] | None] | None = None
        losses: list[float] = []
        try:
            with torch.inference_mode(False), torch.enable_grad(), self.training() as parameters:
                optimizer = self._ready_optimizer(parameters)
                for step in range(steps):
                    optimizer.zero_grad(set_to_none=True)
                    value = loss(step) if counted else loss()  # pyright: ignore[reportCallIssue]
                    try:
                        losses.append(backward(value, parameters, step, self.max_grad_norm))
                    except NotFiniteError:
                        if not skip_bad_steps:
                            raise
                        losses.append(math.nan)
                        continue
                    if before is None:  # not earlier, when the backward pass needs the space
                        before = self._chosen.copy(), None if old is None else copied(old.state_dict())
                    optimizer.step()
        except BaseException:
            self.generator.set_state(drawn)
            self._optimizer = old
            if before is not None:
                values, state = before
                self._chosen.put(values)
                if old is not None and state is not None:
                    old.load_state_dict(state)
            raise
        if not self.keep_optimizer:
            self._optimizer = None
        self.steps += sum(not math.isnan(number) for number in losses)
        self.writes += 1
        return losses

    @contextmanager
    def training(self) -> Iterator[list[nn.Parameter]]:
        """Inside the block, only the memory is trainable; afterwards all flags and the memory's gradients are restored."""
        with self._chosen.training() as parameters:
            yield parameters

    def _ready_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        old = self._optimizer
        if old is None or not self.keep_optimizer:
            self._optimizer = self._make_optimizer(parameters)
            return self._optimizer
        held = [p for group in old.param_groups for p in group["params"]]
        if [id(p) for p in held] != [id(p) for p in parameters]:  # the module has new parameters under these names
            self._optimizer = self._make_optimizer(parameters)
            self._optimizer.load_state_dict(old.state_dict())
        elif any(state_is_elsewhere(old, p) for p in parameters):  # the module was moved: move the state too
            old.load_state_dict(old.state_dict())
        assert self._optimizer is not None
        return self._optimizer

    # --- read ---

    def read(self, *_: Any, **__: Any) -> NoReturn:
        """Raise an error: weights are read by running the module."""
        raise VisionZooError(
            "a memory in weights takes no query: every forward of the module reads it; active(name) activates a snapshot "
            "for a while"
        )

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Inside the block, the module has the values of a snapshot; None selects those of `begin`, an empty memory.

        Raises:
            InputError: there is no snapshot of that name.
        """
        values = self._start if name is None else self._snapshot(name)
        self._require_inactive("use another snapshot")
        before = self._chosen.copy()
        self._active = "the start" if name is None else repr(name)
        try:
            self._chosen.put(values)
            yield
        finally:
            self._active = None
            self._chosen.put(before)

    # --- snapshots ---

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the snapshots, oldest first."""
        return tuple(self._snapshots)

    def snapshot(self, name: str) -> None:
        """Store the current values under a name; an older snapshot of that name is replaced."""
        self._require_inactive("take a snapshot")
        self._snapshots.pop(name, None)
        self._snapshots[name] = self._chosen.copy()

    def drop(self, name: str) -> None:
        """Delete a snapshot. Raises `InputError` if there is none of that name."""
        self._snapshot(name)
        del self._snapshots[name]

    def restore(self, name: str) -> None:
        """Return to a snapshot; the optimizer is reset, since its state belongs to other weights.

        Raises:
            InputError: no such snapshot.
        """
        self._require_inactive("restore")
        self._chosen.put(self._snapshot(name))
        self._optimizer = None

    def merge(self, weights: Mapping[str, float], method: str = "linear", rank: int | None = None) -> None:
        """Set the parameters to those of `merged`, which must have their shapes, and reset the optimizer.

        Raises:
            InputError: as for `merged`, or the result has another rank than the parameters.
        """
        self._require_inactive("merge")
        self._chosen.put(self._fitting(self.merged(weights, method, rank)))
        self._optimizer = None

    def merged(self, weights: Mapping[str, float], method: str = "linear", rank: int | None = None) -> Values:
        """Merge what snapshots have learned: values for all parameters, by name. The bank stays unchanged.

        Args:
            weights: snapshot -> its weight; with weight 1 alone, a snapshot is returned.
            method: see `visionzoo.memory.merge_values`: "linear" mixes the parameters: start + sum of weight * (snapshot - start).
                "cat" and "svd" mix the updates of low-rank pairs such as those of LoRA, and may return another rank.
            rank: of the pairs after "svd"; by default that of the parameters.

        Raises:
            InputError: no such snapshot, or as for `merge_values`.
        """
        return merge_values(
            self._start, [(self._snapshot(name), weight) for name, weight in weights.items()], method, rank
        )

    def _fitting(self, values: Values) -> Values:
        for name, start in self._start.items():
            if values[name].shape != start.shape:
                raise InputError(
                    f"the merged {name} is {tuple(values[name].shape)}, but the parameter is {tuple(start.shape)}; "
                    "use method='svd', or merged() with an adapter of that rank"
                )
        return values

    def _snapshot(self, name: str) -> Values:
        if name not in self._snapshots:
            raise InputError(f"there is no snapshot {name!r}; there are: {', '.join(self._snapshots) or 'none'}")
        return self._snapshots[name]

    # --- size and place ---

    def __len__(self) -> int:
        """Number of values in the memory's parameters."""
        return sum(value.numel() for value in self._start.values())

    @property
    def nbytes(self) -> int:
        """Size in bytes of the parameters, their start values, the snapshots and the optimizer's state."""
        held = [*self._chosen.resolve().values(), *self._start.values()]
        held += [value for values in self._snapshots.values() for value in values.values()]
        if self._optimizer is not None:
            held += [v for state in self._optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return sum(value.numel() * value.element_size() for value in held)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the start and the snapshots; `dtype` rounds the snapshots only. The module moves its parameters."""
        self._start = {name: value.to(device) for name, value in self._start.items()}
        for snapshot in self._snapshots.values():
            snapshot.update({name: value.to(device, dtype) for name, value in snapshot.items()})
        return self

    # --- saving ---

    def config(self) -> dict[str, Any]:
        return {
            "parameters": {name: [*value.shape] for name, value in self._start.items()},
            "steps": self.steps,
            "writes": self.writes,
            "snapshots": [*self._snapshots],
            "keep_optimizer": self.keep_optimizer,
            "max_grad_norm": self.max_grad_norm,
            "seed": self.seed,
            "optimizer": None if self._optimizer is None else pack(self._optimizer)[0],
        }

    def tensors(self) -> dict[str, Tensor]:
        """`now.NAME`, `start.NAME`, `snapshot.INDEX.NAME` of every parameter, `optimizer.INDEX.KEY` and `generator`."""
        self._require_inactive("save")
        content = {f"now.{name}": value for name, value in self._chosen.copy().items()}
        content |= {f"start.{name}": value.clone() for name, value in self._start.items()}
        for i, values in enumerate(self._snapshots.values()):
            content |= {f"snapshot.{i}.{name}": value.clone() for name, value in values.items()}
        if self._optimizer is not None:
            content |= {f"optimizer.{key}": value for key, value in pack(self._optimizer)[1].items()}
        content["generator"] = self.generator.get_state()
        return content

    def take_over(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Continue from a complete state. Raises `InputError` if it has other parameters; the message lists them."""
        self._require_inactive("load a state")
        present = self._chosen.resolve()
        saved = dict(config["parameters"])
        problems = [f"{name} is not in this memory" for name in saved if name not in present]
        problems += [f"{name} is not in the saved one" for name in present if name not in saved]
        problems += [
            f"{name} is {tuple(saved[name])} there and {tuple(p.shape)} here"
            for name, p in present.items()
            if name in saved and tuple(saved[name]) != tuple(p.shape)
        ]
        parts = ["now", "start", *(f"snapshot.{i}" for i in range(len(config["snapshots"])))]
        wanted = {f"{part}.{name}": tuple(shape) for part in parts for name, shape in saved.items()}
        problems += [
            f"{key} is missing or damaged"
            for key, shape in wanted.items()
            if key not in tensors or tuple(tensors[key].shape) != shape
        ]
        if problems or "generator" not in tensors:
            raise InputError(f"the saved memory does not fit: {listed(problems or ['generator is missing'], '; ')}")
        optimizer = self._saved_optimizer(config["optimizer"], tensors, [*saved])
        values = [
            {name: tensors[f"{part}.{name}"].to(p.device, copy=True) for name, p in present.items()} for part in parts
        ]
        self._chosen.put(values[0])
        self._start = values[1]
        self._snapshots = dict(zip(config["snapshots"], values[2:], strict=True))
        self._optimizer = optimizer
        self.steps, self.writes = int(config["steps"]), int(config["writes"])
        self.generator.set_state(tensors["generator"].cpu())

    def _saved_optimizer(
        self, config: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], order: list[str]
    ) -> Optimizer | None:
        if config is None:
            return None
        if order != [*self.parameters]:
            raise InputError("the saved memory lists its parameters in another order, so its optimizer does not fit")
        moments = {key.removeprefix("optimizer."): v for key, v in tensors.items() if key.startswith("optimizer.")}
        return unpack(self._make_optimizer, [*self._chosen.resolve().values()], config, moments)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        module: nn.Module | None = None,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] = _adam,
    ) -> Self:
        """Create a bank over the same parameters of `module`, with their current values.

        Raises:
            InputError: there is no module, or it lacks parameters; the message lists them.
        """
        names = [*config["parameters"]]
        if module is None:
            raise InputError(
                f"this memory lives in {len(names)} weights of a module ({listed(names, ', ', 2)}); "
                "give it: ParametricBank.load(folder, module=…)"
            )
        present = dict(module.named_parameters())
        if missing := [name for name in names if name not in present]:
            raise InputError(f"the module lacks parameters of the saved memory: {listed(missing)}")
        chosen = set(names)
        return cls(
            module,
            lambda name, _: name in chosen,
            optimizer=optimizer,
            keep_optimizer=config["keep_optimizer"],
            max_grad_norm=config["max_grad_norm"],
            seed=config["seed"],
        )

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        module: nn.Module | None = None,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] = _adam,
    ) -> Self:
        """Load a saved memory into `module` and continue; the result is bit-equal in float32 to never having stopped.

        Args:
            folder: the folder that `save` wrote.
            module: a module with parameters of the same names and shapes.
            optimizer: the same as for the saved bank.

        Raises:
            InputError: no module, a module that does not fit (the message lists the parameters), another optimizer, or no
                bank or a damaged one in the folder.
        """
        config = cls._saved_config(folder)
        bank = cls.from_config(config, module=module, optimizer=optimizer)
        bank.load_state_dict(read_state(folder, KINDS))
        return bank
