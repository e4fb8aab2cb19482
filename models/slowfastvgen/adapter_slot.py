"""The place in a network where the adapter of one episode is at a time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from visionzoo.memory import ParametricBank

from .adapters import ADAPTER, TempLoRA, adapter_layers, add_adapter, remove_adapter, reset_adapter, switch_adapter
from .episode_state import Episode

__all__ = ["AdapterSlot", "take_out"]

_owners: weakref.WeakKeyDictionary[nn.Module, weakref.ref[AdapterSlot]] = weakref.WeakKeyDictionary()
"""Network -> the slot whose adapter is in it."""


class AdapterSlot:
    """Puts episodes into a network and takes them out. If another slot's adapter is there, it is stored first.

    The adapter of the network is created for an episode's rank when it is needed.

    Attributes:
        episode: the one whose values are in the network; its `bank` is None.
    """

    def __init__(self, unet: nn.Module, config: TempLoRA) -> None:
        self.unet, self.config = unet, config
        self.episode: Episode | None = None
        self._bank: ParametricBank | None = None
        self._claim(config.rank)

    @property
    def bank(self) -> ParametricBank:
        """The memory in the adapter's weights."""
        assert self._bank is not None
        return self._bank

    @property
    def nbytes(self) -> int:
        """Size in bytes of the episode in the network."""
        return 0 if self.episode is None else self.bank.nbytes

    @property
    def _owned(self) -> bool:
        owner = _owners.get(self.unet)
        return owner is not None and owner() is self

    @torch.inference_mode(False)
    def load(self, episode: Episode) -> None:
        """Put an episode into the network, unless it is there, and switch it on.

        Raises:
            InputError: its state does not fit the adapter.
        """
        if self.episode is not episode or not self._owned:
            self.store()
            self._claim(episode.rank)
            if episode.bank is None:
                reset_adapter(adapter_layers(self.unet), self.config)
                self.bank.begin()
            else:
                tensors = episode.bank["tensors"]
                start = {f"start.{key.removeprefix('now.')}": v for key, v in tensors.items() if key.startswith("now.")}
                self.bank.load_state_dict({**episode.bank, "tensors": {**tensors, **start}})
            self.episode, episode.bank = episode, None
        switch_adapter(self.unet, True)

    @torch.inference_mode(False)
    def store(self) -> None:
        """Take the episode's state out of the network."""
        if self.episode is not None:
            state = self.bank.state_dict()
            state["tensors"] = {key: value for key, value in state["tensors"].items() if not key.startswith("start.")}
            self.episode.bank = state
        self.episode = None

    def first_values(self) -> dict[str, Tensor]:
        """Values of an adapter that has learned nothing; no episode is in the network then."""
        self.store()
        self._claim(self.config.rank)
        reset_adapter(adapter_layers(self.unet), self.config)
        return {name: self.unet.get_parameter(name).detach().clone() for name in self.bank.parameters}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite the values of the episode in the network."""
        with torch.no_grad():
            for name, value in values.items():
                self.unet.get_parameter(name).copy_(value)
        self.bank.begin()

    def switch_off(self) -> None:
        """Let the network be as without an adapter; the episode stays in it."""
        if self._owned:
            switch_adapter(self.unet, False)

    def close(self) -> None:
        """Store the episode, and remove the adapter from the network."""
        self.store()
        if self._owned:
            remove_adapter(self.unet)
            del _owners[self.unet]
        self._bank = None

    @torch.inference_mode(False)
    def _claim(self, rank: int) -> None:
        """Make the adapter in the network this slot's own, of that rank, with undefined values."""
        owner = _owners.get(self.unet)
        other = None if owner is None else owner()
        if other is not None and other is not self:
            other.store()
        layers = adapter_layers(self.unet)
        ranks = {layer.lora_A[ADAPTER].weight.shape[0] for layer in layers.values()}
        if other is not self or self._bank is None or ranks != {rank}:
            if layers:
                remove_adapter(self.unet)
            add_adapter(self.unet, self.config, rank=rank)
            self._bank = ParametricBank(
                self.unet,
                f"*.lora_?.{ADAPTER}.weight",
                optimizer=self.config.make_optimizer,
                keep_optimizer=self.config.keep_optimizer,
                seed=self.config.seed,
            )
        _owners[self.unet] = weakref.ref(self)


def take_out(unet: nn.Module) -> None:
    """Remove the adapter of an episode from a network, if there is one; its memory keeps it, and puts it back when it is used."""
    owner = _owners.get(unet)
    slot = None if owner is None else owner()
    if slot is not None:
        slot.close()
    elif adapter_layers(unet):
        remove_adapter(unet)
