"""GroupNorm whose statistics run over all frames of a window."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.errors import InputError

from .windows import FrameContext

__all__ = ["FrameJointGroupNorm", "InstalledNorms", "install_joint_norms"]


class FrameJointGroupNorm(nn.GroupNorm):
    """GroupNorm over (channels of the group, frames, height, width) of each window, instead of each frame.

    `install_joint_norms` turns the GroupNorm of a network into this class and back; the parameters stay the same.
    """

    frame_context: FrameContext

    def forward(self, input: Tensor) -> Tensor:
        """(batch * frames, channels, height, width) -> the same shape."""
        windows = self.frame_context.unfold(input).transpose(1, 2)  # (batch, channels, frames, height, width)
        return F.group_norm(windows, self.num_groups, self.weight, self.bias, self.eps).transpose(1, 2).flatten(0, 1)


class InstalledNorms:
    """Norms that `install_joint_norms` has changed; also a context manager that changes them back at the end.

    Attributes:
        norms: name of each norm -> its module.
    """

    def __init__(self, norms: dict[str, nn.GroupNorm], context: FrameContext):
        self.norms = norms
        for norm in norms.values():
            norm.__class__ = FrameJointGroupNorm
            norm.frame_context = context  # pyright: ignore[reportArgumentType]

    def remove(self) -> None:
        """Make them norms over single frames again."""
        for norm in self.norms.values():
            if hasattr(norm, "frame_context"):
                norm.__class__ = nn.GroupNorm
                del norm.frame_context

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def install_joint_norms(network: nn.Module, context: FrameContext) -> InstalledNorms:
    """Let the norms of the residual blocks and the closing norm of a UNet or ControlNet run over all frames of a window.

    The norms in front of the transformer blocks stay per frame. State dicts, LoRA and saving are not affected.

    Args:
        network: a UNet2DConditionModel or ControlNetModel of diffusers.
        context: holds the number of frames; set it before each call of the network.

    Raises:
        InputError: the network has no such norms, or they run over all frames already.
    """
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.GroupNorm) and ("resnets" in name.split(".") or name == "conv_norm_out")
    }
    if not found:
        raise InputError(
            f"the {type(network).__name__} has no GroupNorm in residual blocks; expected a UNet or a ControlNet"
        )
    if changed := [name for name, module in found.items() if isinstance(module, FrameJointGroupNorm)]:
        raise InputError(
            f"{changed[0]} runs over all frames already: call remove() of the earlier install_joint_norms first"
        )
    return InstalledNorms(found, context)
