"""Dynamic global-local memory (DGLM): the control signal attends to the memory of the frames so far (arXiv 2507.01945, 3.3).

memory (key, value) --MLP per level--> tokens of width D --norm, projection--> K, V   once per segment
signal z: for each level, z += attention(z, K, V); z += feed_forward(z)               in every step
result: signal + proj_out(z)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from visionzoo.attention import attention
from visionzoo.errors import InputError

__all__ = ["DynamicMemoryFusion", "ProjectedMemory"]


class ProjectedMemory(NamedTuple):
    """Keys and values of a memory, ready for the attention of each level.

    Attributes:
        levels: (keys, values) of each level, both (B, heads, L, head width).
    """

    levels: tuple[tuple[Tensor, Tensor], ...]

    @property
    def tokens(self) -> int:
        """Number of memory tokens, L."""
        return self.levels[0][0].shape[2]

    def to(self, *args: Any, **kwargs: Any) -> ProjectedMemory:
        """The same memory on another device or in another dtype; arguments as for `Tensor.to`."""
        return ProjectedMemory(tuple((k.to(*args, **kwargs), v.to(*args, **kwargs)) for k, v in self.levels))


def mapping(widths: Sequence[int]) -> nn.Sequential:
    """An MLP with a norm and LeakyReLU after every layer but the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class MemoryAttention(nn.Module):
    """Attention of the signal to a memory. Keys and values share one norm."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.norm_memory, self.norm_signal = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, width, bias=False)

    def project(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped keys and values (B, L, D) -> those of the attention, (B, heads, L, head width)."""
        return self._split(self.to_k(self.norm_memory(keys))), self._split(self.to_v(self.norm_memory(values)))

    def forward(self, signal: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Signal (B, N, D), keys and values (B or 1, heads, L, head width) -> (B, N, D)."""
        queries = self._split(self.to_q(self.norm_signal(signal)))
        return self.to_out(attention(queries, keys, values).transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MemoryLevel(nn.Module):
    """What fuses one level of the memory, that is one layer of the memory encoder."""

    def __init__(
        self, width: int, heads: int, head_width: int, memory_width: int, hidden: Sequence[int], ff_mult: int
    ) -> None:
        super().__init__()
        self.key_mapping = mapping([memory_width, *hidden, width])
        self.value_mapping = mapping([memory_width, *hidden, width])
        self.attention = MemoryAttention(width, heads, head_width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, ff_mult * width, bias=False),
            nn.GELU(),
            nn.Linear(ff_mult * width, width, bias=False),
        )

    def project(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory, (B, L, memory width) -> (B, heads, L, head width)."""
        return self.attention.project(self.key_mapping(keys), self.value_mapping(values))

    def forward(self, signal: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        signal = signal + self.attention(signal, keys, values)
        return signal + self.feed_forward(signal)


class DynamicMemoryFusion(ModelMixin, ConfigMixin):
    """Adds to a control signal what the memory of earlier frames tells about their colours.

    Call `project` once per segment, as the memory is the same in all denoising steps, and then the network in every step. A memory
    of batch 1 serves all rows of the signal, e.g. both halves of classifier-free guidance, without copies.

    Args:
        dim: width D of the signal.
        heads, dim_head: of the attention.
        depth: number of levels.
        memory_dim: width of the memory.
        mapping_hidden: hidden widths of the MLPs from memory to signal.
        ff_mult: width of the feed-forward layers in multiples of D.

    The defaults are those of `glm_module.safetensors`.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules: ClassVar[list[str]] = ["MemoryLevel"]

    @register_to_config
    def __init__(
        self,
        dim: int = 3072,
        heads: int = 32,
        dim_head: int = 96,
        depth: int = 3,
        memory_dim: int = 512,
        mapping_hidden: Sequence[int] = (1024, 2048),
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            MemoryLevel(dim, heads, dim_head, memory_dim, mapping_hidden, ff_mult) for _ in range(depth)
        )
        self.proj_out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.proj_out.weight)

    def project(self, *memories: Tensor) -> ProjectedMemory:
        """Keys and values of all levels for `forward`.

        Args:
            *memories: global and local memory, or others, (B, 2, levels, L, memory_dim): keys, then values on the second
                axis. Keys are neither normalised nor rotated. Their tokens are joined; their order has no effect.

        Raises:
            InputError: no memory, or one of another shape.
        """
        config: Any = self.config
        if not memories:
            raise InputError("project needs at least one memory (B, 2, levels, L, width)")
        for memory in memories:
            shape = tuple(memory.shape)
            if memory.ndim != 5 or (shape[1], shape[2], shape[4]) != (2, config.depth, config.memory_dim):
                raise InputError(f"a memory must be (B, 2, {config.depth}, L, {config.memory_dim}), got {shape}")
        here = (
            memories[0].device if self.device.type == "meta" else self.device
        )  # with offloading, weights may be nowhere
        memory = torch.cat([each.to(here, self.dtype) for each in memories], 3)
        keys, values = memory.unbind(1)
        return ProjectedMemory(
            tuple(level.project(keys[:, i], values[:, i]) for i, level in enumerate(self.levels))  # pyright: ignore[reportCallIssue]
        )

    def residual(self, control: Tensor, memory: ProjectedMemory) -> Tensor:
        """What `forward` adds to the signal, (B, N, D)."""
        rows = memory.levels[0][0].shape[0]
        if rows not in (1, control.shape[0]):
            raise InputError(f"the batch of the memory must be 1 or that of the signal, {control.shape[0]}, got {rows}")
        signal = control
        for level, (keys, values) in zip(self.levels, memory.levels, strict=True):
            signal = level(signal, keys, values)
        return self.proj_out(signal)

    def forward(self, control: Tensor, memory: ProjectedMemory) -> Tensor:
        """The signal with the memory, (B, N, D).

        Args:
            control: signal of `SketchDiT`, (B, N, D).
            memory: of `project`, with batch 1 or B.

        Raises:
            InputError: another batch.
        """
        return control + self.residual(control, memory)

    @staticmethod
    def config_of(state: dict[str, Tensor], dim_head: int = 96) -> dict[str, Any]:
        """The arguments of the constructor, from the shapes of a state dict with our key names.

        Args:
            dim_head: width of a head, which no shape tells.

        Raises:
            KeyError: `state` is not that of a DynamicMemoryFusion.
            ValueError: it has no heads of that width.
        """
        inner = state["levels.0.attention.to_q.weight"].shape[0]
        if inner % dim_head:
            raise ValueError(f"its attention is {inner} wide, which is no multiple of dim_head={dim_head}")
        width = state["proj_out.weight"].shape[0]
        first = [state[f"levels.0.key_mapping.{place}.weight"] for place in (0, 3)]
        return {
            "dim": width,
            "heads": inner // dim_head,
            "dim_head": dim_head,
            "depth": len({key.split(".")[1] for key in state if key.startswith("levels.")}),
            "memory_dim": first[0].shape[1],
            "mapping_hidden": tuple(layer.shape[0] for layer in first),
            "ff_mult": state["levels.0.feed_forward.1.weight"].shape[0] // width,
        }
