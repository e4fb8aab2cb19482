"""A network whose results are known: its middle frame is the mean of both frames."""

from __future__ import annotations

import torch

from visionzoo.models.lovecon import IFNet, IFNetConfig


def blending_network() -> IFNet:
    model = IFNet(IFNetConfig(width=2, residuals=1))
    with torch.no_grad():
        for block in model.blocks:
            for head in (block.flow_head, block.mask_head):  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
                head[-1].weight.zero_()
                head[-1].bias.zero_()
    return model
