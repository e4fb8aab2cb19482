"""Where the networks of LongAnimation run: all on the device, or some of them in main memory while they have nothing to do."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args

import torch

from visionzoo.errors import InputError

__all__ = ["MemoryPlacement", "Placement", "WhereToRun", "check_placement"]

Placement = Literal["none", "model", "sequential", "group"]
"""What is kept in main memory: nothing; the text encoder and the autoencoder while they do not run; every layer; groups of layers."""
MemoryPlacement = Literal["device", "moved", "host"]
"""Where the memory encoder is: on the device; there between segments only; in main memory, where it also computes."""

TILE = 30
"""Side of a tile in latents: the strides of both directions, 5/6 and 4/5 of it, are whole latents, or decoded sizes would change."""

T = TypeVar("T")


def check_placement(offload: str, memory_placement: str) -> None:
    """Raise `InputError` for an unknown placement."""
    for name, value, kind in (
        ("offload", offload, Placement),
        ("memory_placement", memory_placement, MemoryPlacement),
    ):
        if value not in get_args(kind):
            raise InputError(f"unknown {name} {value!r}; use {', '.join(get_args(kind))}")


class WhereToRun:
    """The placement of a `LongAnimationPipeline`.

    SketchDiT, DGLM and the video network alternate in every denoising step, so with "model" they stay on the device together.
    """

    _exclude_from_cpu_offload: Any
    _memory_placement: MemoryPlacement = "device"

    def place(
        self: Any, device: torch.device, offload: Placement = "none", memory_placement: MemoryPlacement = "device"
    ) -> Any:
        """Move the networks; return the pipeline. On a CPU, nothing is offloaded.

        Raises:
            InputError: an unknown placement.
        """
        check_placement(offload, memory_placement)
        encoder, self.memory_encoder = self.memory_encoder, None
        if offload == "none" or device.type == "cpu":
            self.to(device)
        elif offload == "group":
            self._offload_groups(device)
        else:
            resident = ["transformer", "sketch_dit", "memory_fusion"] if offload == "model" else []
            self._exclude_from_cpu_offload = [*resident, "lineart"]
            offloading = self.enable_model_cpu_offload if offload == "model" else self.enable_sequential_cpu_offload
            offloading(device=device)
        self.memory_encoder, self._memory_placement = encoder, memory_placement
        if encoder is not None:
            encoder.to(device if memory_placement == "device" else "cpu")
        return self

    def _offload_groups(self: Any, device: torch.device) -> None:
        """Keep blocks of the large networks in main memory, and those that compute in other methods than `forward` layer by layer."""
        from diffusers.hooks.group_offloading import apply_group_offloading

        where: dict[str, Any] = {"onload_device": device, "offload_device": torch.device("cpu")}
        for network in (self.transformer, self.sketch_dit):
            apply_group_offloading(network, **where, offload_type="block_level", num_blocks_per_group=1)
        for network in (self.text_encoder, self.memory_fusion):
            if network is not None:
                apply_group_offloading(network, **where, offload_type="leaf_level")
        for network in (self.vae, self.lineart):
            if network is not None:
                network.to(device)

    @contextlib.contextmanager
    def memory_at_work(self: Any) -> Iterator[None]:
        """Inside the block, the memory encoder is where it computes, and no gradients are kept."""
        moves = self._memory_placement == "moved"
        if moves:
            self.memory_encoder.to(self.run_device)
        try:
            with torch.no_grad():
                yield
        finally:
            if moves:
                self.memory_encoder.to("cpu")

    @property
    def run_device(self: Any) -> torch.device:
        """Where the video network runs, also if its weights are kept elsewhere meanwhile."""
        return self._execution_device

    @property
    def like(self: Any) -> torch.Tensor:
        """A tensor of the device and the precision of the video network."""
        return torch.empty(0, device=self.run_device, dtype=self.transformer.dtype)

    # A device that is too small

    def without_overflow(self: Any, compute: Callable[[], T]) -> T:
        """Run what needs the autoencoder; if the device is out of memory, again in tiles, with one warning.

        Raises:
            torch.OutOfMemoryError: tiles do not fit, either.
        """
        try:
            return compute()
        except torch.OutOfMemoryError:
            if self.vae.use_tiling:
                raise
        # here the error is gone, and so are the tensors that its traceback kept alive
        self.use_tiling()
        if self.run_device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"{self.run_device} is out of memory; the autoencoder continues in tiles of {TILE * self.factor} pixels, whose "
            "borders are blended",
            stacklevel=3,
        )
        return compute()

    def use_tiling(self: Any) -> None:
        """Let the autoencoder work in tiles of 240 pixels (at the published size), which need less memory."""
        side = TILE * self.factor
        self.vae.enable_tiling(side, side, 1 / 6, 1 / 5)
