"""Losses of SHViT's training: soft targets, and distillation after DeiT (arXiv 2012.12877, section 4)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.errors import InputError

DistillationKind = Literal["none", "hard", "soft", "match"]


def soft_target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum(targets * log softmax(logits)), the mean over the batch. Both (B, K); the rows of `targets` sum to 1."""
    return -(targets * torch.log_softmax(logits, dim=-1)).sum(-1).mean()


class DistillationLoss(nn.Module):
    """(1 - alpha) * base loss of the head + alpha * loss of the distillation head against a teacher.

    Args:
        kind: "hard": cross entropy against the teacher's choice. "soft": the divergence from the teacher's distribution at
            temperature `tau`, times tau^2 and, as published, divided by all B * K elements instead of B. "match": the teacher
            alone, on an ordinary head; labels are ignored (function matching, arXiv 2106.05237). "none": base only.
        alpha: weight of the teacher, 0.5 as published.
        tau: temperature of "soft" and "match".
        label_smoothing: label smoothing of the base loss, if the targets are class numbers.
    """

    def __init__(
        self, kind: DistillationKind = "hard", alpha: float = 0.5, tau: float = 1.0, label_smoothing: float = 0.0
    ):
        super().__init__()
        if kind not in get_args(DistillationKind):
            raise InputError(f"distillation must be none, hard, soft or match, got {kind!r}")
        if not 0 <= alpha <= 1 or tau <= 0 or not 0 <= label_smoothing < 1:
            raise InputError(
                f"alpha must be in [0, 1], tau above 0 and label_smoothing in [0, 1), got {alpha}, {tau}, {label_smoothing}"
            )
        self.kind, self.alpha, self.tau, self.label_smoothing = kind, alpha, tau, label_smoothing

    def base(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`targets`: class numbers (B,), or probabilities (B, K) as mixup gives them."""
        if targets.is_floating_point():
            return soft_target_cross_entropy(logits, targets)
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def forward(
        self, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor, teacher: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            outputs: (B, K) logits, or the pair (head, distillation head) of a distilled network in training mode.
            targets: (B,) class numbers or (B, K) probabilities.
            teacher: (B, K) logits of the teacher for the same images; needed unless `kind` is "none".

        Raises:
            InputError: a teacher or a second head is missing.
        """
        logits, distilled = outputs if isinstance(outputs, tuple) else (outputs, None)
        if self.kind == "match":
            if teacher is None:
                raise InputError("match needs the outputs of the teacher")
            return self.divergence(logits, teacher.detach()) / len(logits)
        base = self.base(logits, targets)
        if self.kind == "none":
            return base
        if distilled is None or teacher is None:
            raise InputError(
                f"{self.kind} distillation needs the outputs of two heads (distillation=True, training mode) and the teacher's"
            )
        teacher = teacher.detach()
        if self.kind == "hard":
            loss = F.cross_entropy(distilled, teacher.argmax(dim=-1))
        else:
            loss = self.divergence(distilled, teacher) / distilled.numel()
        return (1 - self.alpha) * base + self.alpha * loss

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """tau^2 times the sum over the batch of KL(teacher || student) at temperature tau. Both (B, K) logits."""
        have, want = (torch.log_softmax(logits / self.tau, dim=-1) for logits in (student, teacher))
        return F.kl_div(have, want, reduction="sum", log_target=True) * self.tau**2


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference between the cosine similarities of all pairs in a batch, the diagonal left out.

    student: (B, C), teacher: (B, D), B at least 2. After similarity-preserving distillation (arXiv 1907.09682): images that are
    similar for the teacher should be similar for the student, in vectors of any width.
    """
    have, want = (F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T for vectors in (student, teacher))
    return (have - want).square().sum() / (len(have) * (len(have) - 1))


def map_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 minus the correlation of each channel's values over the batch's cells, the mean over channels: 0 is a perfect copy.

    student, teacher: (B, C, h, w), B * h * w at least 2. Scale and offset of a channel do not matter.
    """
    have, want = (F.batch_norm(cells.float(), None, None, training=True) for cells in (student, teacher))
    return 1 - (have * want).mean()
