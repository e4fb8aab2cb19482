"""torch's fused kernels: flash attention on CPU; cuDNN, flash and memory-efficient attention on CUDA."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..call import AttentionCall, left_out
from .base import Backend

__all__ = ["SdpaBackend"]

_FUSED = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
_HALF = (torch.float16, torch.bfloat16)
_packet = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_CPU = (
    None if _packet is None else _packet.default
)  # looked up once: a call of a short sequence takes microseconds


class SdpaBackend(Backend):
    """Uses only kernels that never store the score matrix; calls that would fall back to the quadratic path are refused.

    `F.scaled_dot_product_attention` returns no log-sum-exp, so calls that need it use the operators below it.
    """

    name: ClassVar[str] = "sdpa"
    autograd: ClassVar[Literal["none", "output", "both"]] = "output"

    def supports(self, call: AttentionCall) -> str | None:
        device, dtype = call.q.device.type, call.q.dtype
        if device == "cpu":
            if _FLASH_CPU is None:
                return f"torch {torch.__version__} has no flash attention for the CPU"
            if call.mask_needs_grad:
                return "flash attention on the CPU has no gradient for the mask"
            return None
        if device in ("cuda", "meta"):
            if dtype not in (torch.float32, *_HALF):
                return f"fused kernels compute in float32, float16 and bfloat16, not {_short(dtype)}"
            if call.needs_lse and call.mask_needs_grad:
                return "the kernels that return a log-sum-exp have no gradient for the mask"
            return None
        return f"torch stores the whole score matrix on {device}"

    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        if call.q.device.type == "cpu":
            return _cpu(call)
        return _cuda_with_lse(call) if call.needs_lse else (_cuda(call), None)


def _cpu(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    q, k, v = _one_width(call.q, call.k, call.v)
    mask = None if call.mask is None else _cpu_bias(call.mask, q.dtype)
    assert _FLASH_CPU is not None
    out, lse = _FLASH_CPU(q, k, v, 0.0, False, attn_mask=mask, scale=call.scale)
    out = out[..., : call.v.shape[3]]
    if not call.needs_lse:
        return out, None
    if call.mask is not None:  # the kernel returns 0 for a row without keys
        lse = lse.masked_fill(left_out(call.mask).all(-1), -torch.inf)
    return out, lse


def _cpu_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask for the kernel: in the dtype of q, or in float32, so that no bias is rounded to half precision."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
    return mask.to(torch.float64 if dtype == torch.float64 else torch.float32).masked_fill(left_out(mask), -torch.inf)


def _cuda(call: AttentionCall) -> Tensor:
    bias, empty, _ = (None, None, None) if call.mask is None else _bias(call.mask, call.q.dtype)
    with sdpa_kernel(_FUSED):
        out = F.scaled_dot_product_attention(call.q, call.k, call.v, attn_mask=bias, scale=call.scale)
    return out if empty is None else out.masked_fill(empty, 0)


def _cuda_with_lse(call: AttentionCall) -> tuple[Tensor, Tensor]:
    width, queries = call.v.shape[3], call.q.shape[2]
    if call.mask is None and call.q.dtype in _HALF and max(call.q.shape[3], width) <= 256:
        q, k, v = _one_width(call.q, call.k, call.v, multiple=8)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=call.scale)[:2]
        return out[..., :width], lse[..., :queries]
    bias, empty, offset = (None, None, None) if call.mask is None else _bias(call.mask, call.q.dtype, floats=True)
    bias = None if bias is None else _aligned(bias, call)
    q, k, v = (_widen(t, -(-t.shape[3] // 8) * 8) for t in (call.q, call.k, call.v))
    out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, False, scale=call.scale
    )[:2]
    out, lse = out[..., :width], lse[..., :queries]
    if empty is not None and offset is not None:
        out, lse = out.masked_fill(empty, 0), (lse + offset.squeeze(-1)).masked_fill(empty.squeeze(-1), -torch.inf)
    return out, lse


def _bias(mask: Tensor, dtype: torch.dtype, floats: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A mask as torch's kernels for CUDA require it: boolean or in the dtype of q.

    Rows without any key let all keys through, because some kernels give NaN for them, in the gradients too; the caller
    replaces their results. The largest number of each row is subtracted before the cast, so that an offset of the whole
    row is not rounded.

    Args:
        floats: also convert booleans to numbers.

    Returns:
        The bias; which rows have no key, (…, 1); the subtracted numbers, (…, 1), to be added to the log-sum-exp.
    """
    out = left_out(mask)
    empty = out.all(-1, keepdim=True)
    if mask.dtype == torch.bool and not floats:
        return mask | empty, empty, torch.zeros_like(empty, dtype=torch.float32)
    numbers = mask.new_zeros(mask.shape, dtype=torch.float32) if mask.dtype == torch.bool else mask
    numbers = numbers.to(torch.promote_types(numbers.dtype, torch.float32))  # the difference of two halves is none
    offset = numbers.detach().masked_fill(out, -torch.inf).amax(-1, keepdim=True).masked_fill(empty, 0)
    bias = (numbers - offset).to(dtype).masked_fill(out, -torch.inf).masked_fill(empty, 0)
    return bias, empty, offset.float()


def _one_width(q: Tensor, k: Tensor, v: Tensor, multiple: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v padded with zeros to a common width: zeros change neither the scores nor the other columns."""
    width = -(-max(q.shape[3], v.shape[3]) // multiple) * multiple
    return _widen(q, width), _widen(k, width), _widen(v, width)


def _widen(tensor: Tensor, width: int) -> Tensor:
    """Pad with zeros to `width`, contiguous along it, which kernels below torch's checks assume."""
    if tensor.shape[3] != width:
        return F.pad(tensor, (0, width - tensor.shape[3]))
    return tensor if tensor.stride(3) == 1 else tensor.contiguous()


def _aligned(bias: Tensor, call: AttentionCall) -> Tensor:
    """The bias as (B, H, L, N), rows starting at multiples of 16 values as the kernel reads them."""
    keys = call.k.shape[2]
    if bias.shape[3] == 1:
        bias = bias.expand(-1, -1, -1, keys)
    if keys % 16 or bias.stride(3) != 1:
        bias = F.pad(bias, (0, -keys % 16))[..., :keys]
    return bias.expand(*call.q.shape[:3], keys)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
