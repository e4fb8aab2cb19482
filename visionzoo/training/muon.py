"""The optimiser of networks that are trained from scratch in little time."""

from __future__ import annotations

from typing import Any

import torch

from .module import TrainingModule, half_cosine


def muon(module: TrainingModule, lr: float, vector_lr: float, warmup_steps: int, vectors: str | None = None) -> Any:
    """Muon for the matrices of a module's network, and AdamW for its vectors, with a schedule, as Lightning takes them.

    Muon (https://kellerjordan.github.io/posts/muon/) is timm's implementation.

    Args:
        module: its `model` is trained.
        lr: learning rate of the matrices.
        vector_lr: learning rate of biases, norms and what `vectors` names.
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step of all epochs, or
            trainer.max_steps if epochs are not limited.
        vectors: parameters with this text in their names count as vectors, e.g. "embeddings".
    """
    from timm.optim.muon import Muon

    groups: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in module.model.named_parameters():
        groups[parameter.ndim < 2 or (vectors is not None and vectors in name)].append(parameter)
    optimizer = Muon(
        [{"params": groups[False], "lr": lr}, {"params": groups[True], "lr": vector_lr, "use_fallback": True}],
        nesterov=True,
    )
    steps = module.all_steps()

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / max(1, warmup_steps)) * half_cosine(step / steps, 0.01)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


__all__ = ["muon"]
