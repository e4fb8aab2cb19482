"""The attention kernel in Triton, and the sizes of its blocks. Imported on first use: importing it needs Triton.

A program computes one block of queries of one head over all keys of all pieces: the queries are read once, keys and
values stream past them, and the softmax is kept up to date as they do (Algorithm 1 of arXiv:2307.08691).
"""

from __future__ import annotations

# Code inside @triton.jit is Triton's language, not Python: constants are passed as plain values.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
import functools
import os
from dataclasses import dataclass

import triton
import triton.language as tl

__all__ = ["COLUMNS", "INTERPRETED", "Sizes", "attention_kernel", "interpreter_requested", "sizes_for"]

COLUMNS = 16
"""int64 values per piece in the table: addresses of k and v, number of keys, strides (batch, head, row, width) of k and
of v, address and stride of the lengths, unused. Strides count elements; those of the lengths count 4 bytes."""

# The reductions behind tl.max and tl.sum. Those two are themselves compiled functions, which an interpreted kernel
# cannot call where something else (torch.compile, say) imported Triton before TRITON_INTERPRET was set.
_greater = tl.standard._elementwise_max
_plus = tl.standard._sum_combine


def interpreter_requested() -> bool:
    """Whether Triton decorates kernels for its interpreter now, which runs them on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


INTERPRETED = interpreter_requested()  # as the kernels below are about to be decorated


@triton.jit
def _step(q, k, v, acc, peak, total, keep, scale, PARTIAL: tl.constexpr, PRECISION: tl.constexpr):
    """One block of keys. `peak` and `total` (M,): largest score so far in powers of two, sum of 2^(score - peak)."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if PARTIAL:
        scores = tl.where(keep[None, :], scores, float("-inf"))
    # The scale is not negative, so of the scores the largest alone needs it here; the others get theirs in the fused
    # multiply-add below, which also takes the largest off.
    highest = tl.maximum(peak, tl.reduce(scores, 1, _greater) * scale)
    if PARTIAL:  # rows that have met no key yet: -inf - -inf is not a number
        shift = tl.where(highest == float("-inf"), 0.0, highest)
    else:
        shift = highest
    weights = tl.exp2(tl.fma(scores, scale, -shift[:, None]))
    shrink = tl.exp2(peak - shift)
    total = total * shrink + tl.reduce(weights, 1, _plus)
    acc = acc * shrink[:, None]
    acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, highest, total


@triton.jit
def _piece(
    q,
    acc,
    peak,
    total,
    k,  # at the batch and head of this program, as are v and mask
    v,
    mask,
    keys,
    k_row,
    k_width,
    v_row,
    v_width,
    mask_stride,
    value_columns,
    scale,
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    """All keys of one piece: whole blocks without any comparison, then the rest."""
    rows = tl.arange(0, KEYS)
    key_columns = tl.arange(0, KEY_BLOCK)
    in_key = (key_columns < KEY_WIDTH)[None, :]
    in_value = (value_columns < VALUE_WIDTH)[None, :]
    # in 64 bits, also where Triton holds the stride in 32: the product may be larger
    k_tile = k + rows[:, None].to(tl.int64) * k_row + key_columns[None, :].to(tl.int64) * k_width
    v_tile = v + rows[:, None].to(tl.int64) * v_row + value_columns[None, :].to(tl.int64) * v_width
    k_step = tl.full([], KEYS, tl.int64) * k_row
    v_step = tl.full([], KEYS, tl.int64) * v_row
    if MASKED:
        whole = keys * 0
    else:
        whole = keys - keys % KEYS
    for _ in tl.range(0, whole, KEYS, num_stages=STAGES):
        if KEY_BLOCK == KEY_WIDTH:
            key = tl.load(k_tile)
        else:
            key = tl.load(k_tile, mask=in_key, other=0.0)
        if VALUE_WIDTH % VALUE_BLOCK == 0:
            value = tl.load(v_tile)
        else:
            value = tl.load(v_tile, mask=in_value, other=0.0)
        if INTERPRET:  # the interpreter's arithmetic in bfloat16 is wrong
            key = key.to(tl.float32)
            value = value.to(tl.float32)
        acc, peak, total = _step(q, key, value, acc, peak, total, rows, scale, False, PRECISION)
        k_tile += k_step
        v_tile += v_step
    # At most one block without a mask: a second pipeline for it would only take registers.
    for start in tl.range(whole, keys, KEYS, num_stages=STAGES if MASKED else 1):
        keep = start + rows < keys
        key = tl.load(k_tile, mask=keep[:, None] & in_key, other=0.0)
        value = tl.load(v_tile, mask=keep[:, None] & in_value, other=0.0)
        if MASKED:
            places = (start + rows).to(tl.int64) * mask_stride
            keep = keep & (tl.load(mask + places, mask=keep, other=0) != 0)
        if INTERPRET:
            key = key.to(tl.float32)
            value = value.to(tl.float32)
        acc, peak, total = _step(q, key, value, acc, peak, total, keep, scale, True, PRECISION)
        k_tile += k_step
        v_tile += v_step
    return acc, peak, total


# The numbers below differ from call to call and need no kernel of their own.
@triton.jit(do_not_specialize=["keys", "queries", "heads", "group", "pieces", "blocks"])
def attention_kernel(
    out,  # (B, H, L, Dv), contiguous
    lse,  # (B, H, L) float32, contiguous
    q,
    q_batch,
    q_head,
    q_row,
    q_width,
    table,  # (pieces, COLUMNS) int64; of no use unless SEGMENTED, as the next eleven are if it is
    k,
    v,
    k_batch,
    k_head,
    k_row,
    k_width,
    v_batch,
    v_head,
    v_row,
    v_width,
    keys,
    mask,  # bytes; of no use unless MASKED
    mask_batch,
    mask_stride,
    queries,
    heads,
    group,  # query heads per head of keys
    pieces,
    blocks,  # of queries
    scale,  # |scale| * log2(e)
    SIGN: tl.constexpr,  # of the scale: -1, 0, 1
    SEGMENTED: tl.constexpr,
    MASKED: tl.constexpr,
    LENGTHS: tl.constexpr,  # some piece has a length per batch
    UNIT: tl.constexpr,  # every width stride of the pieces is 1
    ALIGN: tl.constexpr,  # what all strides of k and v but the width's are multiples of: addresses are, of 16 bytes, if > 1
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
    # One grid axis, as the others end at 65535. Neighbouring programs share a head: its keys stay in the L2 cache.
    program = tl.program_id(0)
    block = program % blocks
    rest = program // blocks
    value_blocks: tl.constexpr = (VALUE_WIDTH + VALUE_BLOCK - 1) // VALUE_BLOCK
    value_block = rest % value_blocks
    rest = rest // value_blocks
    head = rest % heads
    batch = (rest // heads).to(tl.int64)
    key_head = (head // group).to(tl.int64)
    head = head.to(tl.int64)

    places = block * QUERIES + tl.arange(0, QUERIES)
    present = places < queries
    rows = places.to(tl.int64)
    key_columns = tl.arange(0, KEY_BLOCK)
    value_columns = value_block * VALUE_BLOCK + tl.arange(0, VALUE_BLOCK)
    q_tile = q + batch * q_batch + head * q_head
    q_tile += rows[:, None] * q_row + key_columns[None, :].to(tl.int64) * q_width
    query = tl.load(q_tile, mask=present[:, None] & (key_columns < KEY_WIDTH)[None, :], other=0.0)
    if INTERPRET:
        query = query.to(tl.float32)
    if SIGN != 1:  # exact, unlike a scale multiplied into half-precision queries
        query = (query.to(tl.float32) * SIGN).to(query.dtype)

    acc = tl.full([QUERIES, VALUE_BLOCK], 0.0, tl.float32)
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.full([QUERIES], 0.0, tl.float32)
    if SEGMENTED:
        kind: tl.constexpr = tl.pointer_type(q.dtype.element_ty)
        row = table
        for _ in range(pieces):
            piece_k = tl.load(row).to(kind)
            piece_v = tl.load(row + 1).to(kind)
            size = tl.load(row + 2).to(tl.int32)
            piece_k_batch = tl.load(row + 3)
            piece_k_head = tl.load(row + 4)
            piece_k_row = tl.load(row + 5)
            piece_v_batch = tl.load(row + 7)
            piece_v_head = tl.load(row + 8)
            piece_v_row = tl.load(row + 9)
            # Hints that arguments get from their values: without them a load moves 2 bytes instead of 16, and none is
            # under way ahead of its use.
            if ALIGN > 1:
                piece_k = tl.multiple_of(piece_k, 16)
                piece_v = tl.multiple_of(piece_v, 16)
                piece_k_batch = tl.multiple_of(piece_k_batch, ALIGN)
                piece_k_head = tl.multiple_of(piece_k_head, ALIGN)
                piece_k_row = tl.multiple_of(piece_k_row, ALIGN)
                piece_v_batch = tl.multiple_of(piece_v_batch, ALIGN)
                piece_v_head = tl.multiple_of(piece_v_head, ALIGN)
                piece_v_row = tl.multiple_of(piece_v_row, ALIGN)
            if UNIT:
                piece_k_width = 1
                piece_v_width = 1
            else:
                piece_k_width = tl.load(row + 6)
                piece_v_width = tl.load(row + 10)
            if LENGTHS:
                lengths = tl.load(row + 11)
                if lengths != 0:
                    words = lengths.to(tl.pointer_type(tl.int32))  # the low half of an int64 is its value
                    size = tl.minimum(size, tl.maximum(tl.load(words + batch * tl.load(row + 12)), 0))
            acc, peak, total = _piece(
                query,
                acc,
                peak,
                total,
                piece_k + batch * piece_k_batch + key_head * piece_k_head,
                piece_v + batch * piece_v_batch + key_head * piece_v_head,
                mask,
                size,
                piece_k_row,
                piece_k_width,
                piece_v_row,
                piece_v_width,
                mask_stride,
                value_columns,
                scale,
                KEY_WIDTH,
                VALUE_WIDTH,
                KEY_BLOCK,
                VALUE_BLOCK,
                KEYS,
                False,
                STAGES,
                PRECISION,
                INTERPRET,
            )
            row += 16
    else:
        if ALIGN > 1:
            k_batch = tl.multiple_of(k_batch.to(tl.int64), ALIGN)
            k_head = tl.multiple_of(k_head.to(tl.int64), ALIGN)
            k_row = tl.multiple_of(k_row.to(tl.int64), ALIGN)
            v_batch = tl.multiple_of(v_batch.to(tl.int64), ALIGN)
            v_head = tl.multiple_of(v_head.to(tl.int64), ALIGN)
            v_row = tl.multiple_of(v_row.to(tl.int64), ALIGN)
        acc, peak, total = _piece(
            query,
            acc,
            peak,
            total,
            k + batch * k_batch + key_head * k_head,
            v + batch * v_batch + key_head * v_head,
            mask + batch * mask_batch,
            keys,
            k_row,
            k_width,
            v_row,
            v_width,
            mask_stride,
            value_columns,
            scale,
            KEY_WIDTH,
            VALUE_WIDTH,
            KEY_BLOCK,
            VALUE_BLOCK,
            KEYS,
            MASKED,
            STAGES,
            PRECISION,
            INTERPRET,
        )

    total_or_one = tl.where(total == 0.0, 1.0, total)  # rows without a key give 0, not 0 / 0
    acc = acc / total_or_one[:, None]
    row_start = (batch * heads + head) * queries + rows
    out_tile = out + row_start[:, None] * VALUE_WIDTH + value_columns[None, :]
    tl.store(out_tile, acc.to(out.dtype.element_ty), mask=present[:, None] & (value_columns < VALUE_WIDTH)[None, :])
    if value_block == 0:
        tl.store(lse + row_start, (peak + tl.log2(total_or_one)) * 0.6931471805599453, mask=present)


@dataclass(frozen=True)
class Sizes:
    """Block sizes of a program, and launch settings.

    Attributes:
        queries: rows per program.
        keys: per step of the inner loop.
        key_block: the key width, padded to a power of two: all of it is held, so that the queries are read once.
        value_block: columns of values per program, a power of two. Wider values are cut over several programs, each of
            which computes the scores again.
        warps, stages: threads / 32 per program; steps of the inner loop whose loads are under way.
    """

    queries: int
    keys: int
    key_block: int
    value_block: int
    warps: int
    stages: int


@functools.cache
def sizes_for(key_width: int, value_width: int, queries: int, itemsize: int, capability: tuple[int, int]) -> Sizes:
    """Sizes by width, bytes per number and CUDA capability. This is the place to tune: no GPU has timed them.

    They were chosen by what the compiler says of the kernel. What binds them:

    * registers, 64 K a multiprocessor and 255 a thread: the sums take queries * value_block of them, scores and weights
      queries * keys * 1.5, and before Hopper the queries, as operands, queries * key_block / 2. More than that is
      spilled to memory in the inner loop.
    * shared memory for a program, 227 KB on 9.0 and 10.0, 163 KB on 8.0, 99 KB on 8.6, 8.9 and 12.0:
      queries * key_block + stages * keys * (key_block + value_block) numbers.
    * Hopper multiplies 64 rows with 4 warps at once: 128 rows are the work of 8.

    Args:
        queries: how many there are, rounded up to a power of two so that few kernels are compiled. Fewer than a block
            get a smaller block.
        capability: (0, 0) for the interpreter: the smallest blocks, so that small inputs take all paths.
    """
    key_block, value_block = max(16, _power(key_width)), min(256, max(16, _power(value_width)))
    if capability == (0, 0):
        return Sizes(16, 16, key_block, min(32, value_block), 1, 1)
    roomy = capability[0] in (9, 10)
    widest = max(key_block, value_block)
    if itemsize == 4:  # products in full precision run on no tensor core and hold all their operands in registers
        rows, keys, warps, stages = (
            (64, 32, 8, 2) if widest <= 64 else (32, 32, 8, 2) if widest <= 128 else (16, 16, 4, 1)
        )
        value_block = min(value_block, 128)
    elif widest <= 64:
        # On Hopper 124 registers and 64 KB: two programs share a multiprocessor, one multiplies while the other takes
        # exponentials. 128 keys at once would need 248 and leave one.
        rows, keys, warps, stages = 128, 64, 8, 3
    elif widest <= 128:
        # On Hopper 203 registers and 128 KB. Before, the queries are in registers too: 64 keys at once spill.
        rows, keys, warps, stages = 128, 64 if roomy else 32, 8, 3
    elif widest <= 256:
        rows, keys, warps, stages = 128 if roomy else 64, 32, 8, 2
    else:  # 128 queries of 512 are 128 KB, 16 keys and values 24 KB a stage
        rows, keys, warps, stages = 128 if roomy else 64, 16, 8, 2 if roomy or capability == (8, 0) else 1
    if queries < rows:
        rows = max(16, queries)
        warps = 4 if rows <= 64 and widest <= 128 else warps
    return Sizes(rows, keys, key_block, value_block, warps, stages)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
