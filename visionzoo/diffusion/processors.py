"""Attention processors on chosen layers of a network of diffusers, installed again after whatever replaces them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from ..errors import InputError, check_kind, described

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

__all__ = ["InstalledProcessors", "install_processors"]


class InstalledProcessors:
    """Processors that `install_processors` has set; also a context manager that removes them at the end.

    Attributes:
        processors: name of each layer -> its processor. The objects stay the same, so what they hold is not lost.
    """

    def __init__(self, network: nn.Module, processors: dict[str, Any]):
        self.network, self.processors = network, processors
        self._before = {name: self._layer(name).processor for name in processors}
        self.install()
        self._hook = network.register_forward_pre_hook(self._before_forward)

    def _layer(self, name: str) -> Any:
        return self.network.get_submodule(name)

    def _before_forward(self, *_: Any) -> None:
        self.install()

    def install(self) -> None:
        """Set the processors where they are not set; called before each forward pass of the network.

        Raises:
            InputError: another processor with weights of its own, like that of an IP-Adapter, would be lost.
        """
        replaced = {
            name: layer
            for name in self.processors
            if (layer := self._layer(name)).processor is not self.processors[name]
        }
        for name, layer in replaced.items():
            if isinstance(layer.processor, nn.Module) and len(layer.processor.state_dict()):
                raise InputError(
                    f"{name} has got a {type(layer.processor).__name__} with weights of its own, which would be lost; choose other "
                    "layers for install_processors, e.g. '*.attn1', or unload the adapter"
                )
        for name, layer in replaced.items():
            layer.set_processor(self.processors[name])

    def remove(self) -> None:
        """Set the processors that were there before."""
        self._hook.remove()
        for name, processor in self._before.items():
            if self._layer(name).processor is self.processors[name]:
                self._layer(name).set_processor(processor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def install_processors(
    network: nn.Module, make: Callable[[str, Attention], Any], names: str | Sequence[str] = "*.attn1"
) -> InstalledProcessors:
    """Set attention processors on chosen layers, and keep them there.

    `load_ip_adapter`, `enable_attention_slicing`, `disable_attention_slicing`, `fuse_qkv_projections` and others replace the
    processors of all layers. Those that are set here return before the next forward pass.

    Args:
        network: a UNet, ControlNet, transformer or autoencoder of diffusers.
        make: called with the name and the `Attention` module of each layer; returns its processor, e.g.
            `lambda name, layer: VisionZooAttnProcessor(segments=shared)`. What layers share belongs into an object that
            the processors refer to.
        names: patterns of names, in which * matches anything: "*.attn1" (self-attention of UNets), "*temp_attentions*.attn?", "*".

    Raises:
        InputError: no layer has such a name, no network, or no function.
    """
    check_kind("the network", network, "a network of diffusers, e.g. pipe.unet", "named_modules", "get_submodule")
    if not callable(make):
        raise InputError(
            f"make must be a function of the name and the layer that returns a processor, got {described(make)}"
        )
    patterns = [names] if isinstance(names, str) else list(names)
    layers: dict[str, Any] = {
        name: module for name, module in network.named_modules() if hasattr(module, "set_processor")
    }
    chosen = {
        name: layer for name, layer in layers.items() if any(fnmatch.fnmatchcase(name, each) for each in patterns)
    }
    if not chosen:
        known = f"e.g. {next(iter(layers))}" if layers else "there are none"
        raise InputError(
            f"no attention layer of the {type(network).__name__} is called {' or '.join(patterns)}; {known}"
        )
    return InstalledProcessors(network, {name: make(name, layer) for name, layer in chosen.items()})
