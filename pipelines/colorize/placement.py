"""Where the networks of LongAnimation run: all on the device, or some of them in main memory while they have nothing to do."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args

import torch

from visionzoo.errors import AGAIN, InputError

__all__ = ["MemoryPlacement", "Placement", "TooLittleMemory", "WhereToRun", "check_placement", "is_out_of_memory"]

Placement = Literal["none", "model", "sequential", "group"]
"""What is kept in main memory: nothing; the text encoder and the autoencoder while they do not run; every layer; groups of layers."""
MemoryPlacement = Literal["device", "moved", "host"]
"""Where the memory encoder is: on the device; there between segments only; in main memory, where it also computes."""

TILE = 30
"""Side of a tile in latents: the strides of both directions, 5/6 and 4/5 of it, are whole latents, or decoded sizes would change."""

OVERFLOWS = ("out of memory", "DefaultCPUAllocator", "STATUS_ALLOC_FAILED")
"""Parts of torch's messages for an allocation that fails, where the error has no type of its own."""

MORE = {"none": "model", "model": "group", "group": "sequential"}
"""The next placement that needs less memory on the device."""

T = TypeVar("T")


class TooLittleMemory(InputError):
    """A device is out of memory. The message names what helps."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of a GPU or the main one, is used up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OVERFLOWS)


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
            TooLittleMemory: the networks do not fit.
        """
        check_placement(offload, memory_placement)
        self._offload, self._memory_placement = "none" if device.type == "cpu" else offload, memory_placement
        return self.in_memory(lambda: self._place_networks(device, offload, memory_placement), device=device)

    def _place_networks(self: Any, device: torch.device, offload: Placement, memory_placement: MemoryPlacement) -> Any:
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
        self.memory_encoder = encoder
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
    def like(self: Any) -> torch.Tensor:
        """A tensor of the device and the precision of the video network."""
        return torch.empty(0, device=self.run_device, dtype=self.transformer.dtype)

    # A device that is too small

    def without_overflow(self: Any, compute: Callable[[], T]) -> T:
        """Run what needs the autoencoder; if the device is out of memory, again in tiles, with one warning.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: tiles do not fit, either.
        """
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if self.vae.use_tiling or not is_out_of_memory(error):
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

    def in_memory(
        self: Any,
        compute: Callable[[], T],
        size: tuple[int, int] | None = None,
        device: torch.device | None = None,
    ) -> T:
        """Run a part of the work.

        Args:
            size: height and width of the video, for the message; None while networks are loaded.
            device: where the networks run, if they are not there yet.

        Raises:
            TooLittleMemory: there is too little memory for it.
        """
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            in_main_memory = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
            place = torch.device("cpu") if in_main_memory else device or self.run_device
        # here the error is gone, and so are the tensors that its traceback kept alive
        if place.type == "cuda":
            torch.cuda.empty_cache()
        raise TooLittleMemory(f"{place} is out of memory{self._what_helps(place, size)}")

    def _what_helps(self: Any, device: torch.device, size: tuple[int, int] | None) -> str:
        """The end of the message: the time, options with which finished segments are kept, and those that begin from the beginning."""
        on_gpu, where = device.type != "cpu", "while the networks are loaded"
        keeping, other = [], []
        if on_gpu and self._offload in MORE:
            keeping.append(f"--offload {MORE[self._offload]}")
        if on_gpu and self.memory_encoder is not None and self._memory_placement != "host":
            keeping.append("--memory-placement host, which leaves the memory encoder on the CPU")
        if on_gpu and self.transformer.dtype == torch.float32:
            other.append("--dtype bfloat16")
        if size is not None:
            where = f"at {size[1]} x {size[0]} pixels"
            other.append(f"a --size smaller than {size[1]}x{size[0]}")
        helps = [f"{AGAIN} with {' or '.join(keeping)}"] if keeping else []
        helps += [f"{'from the beginning' if keeping else AGAIN} with {' or '.join(other)}"] if other else []
        return f" {where}; {', or '.join(helps) or 'end other programs, or use a machine with more memory'}"
