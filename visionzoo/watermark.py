"""Marks for synthetic frames: an invisible watermark that survives video encoding, and a visible corner label.

The invisible mark is spread spectrum (Cox et al. 1997) in the 8 x 8 DCT of luma: pseudo-random signs, which carry 64 bits, are
added to twelve low frequencies of every block, more strongly where texture hides them. The reader correlates with those
signs; on unmarked images its score is a standard normal variable, so a threshold has a known false-alarm rate.

It survives H.264 at usual qualities and JPEG, and reading needs no original; recovering all 64 bits takes large or several frames.
It does not survive resizing, rotation, a crop that is not aligned to 8 pixels of the upper left corner, or deliberate removal: it
labels the origin but proves nothing. For comparison, diffusers marks SDXL images with the package invisible-watermark (DWT and DCT).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .errors import InputError
from .faces.face import check_image

__all__ = ["PAYLOAD", "THRESHOLD", "Watermark", "add_label", "add_watermark", "read_watermark"]

PAYLOAD = b"vz-synth"
"""The 64 bits that visionzoo writes: "visionzoo: synthetic"."""
THRESHOLD = 6.0
"""Minimum score of a marked image; an unmarked image reaches it with a probability of 1e-9."""
_BLOCK = 8
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_FREQUENCIES = [(u, v) for u in range(5) for v in range(5) if 2 <= u + v <= 4]
_FLAT, _TEXTURED, _PER_STD = 0.6, 1.9, 0.2
"""Strength in grey levels (root mean square): of a flat block, the maximum, and per grey level of the block's deviation.
A maximum of 1.9 plus half a level of rounding keeps any image at 42 dB or more."""
_SOFT = 8.0
"""Soft limit of DCT coefficients, as strong edges would hide the mark."""


@dataclass(frozen=True)
class Watermark:
    """The result of `read_watermark`.

    Attributes:
        score: correlation with the mark, in standard deviations of that of unmarked images.
        payload: the 8 bytes read; random if there is no mark.
    """

    score: float
    payload: bytes

    @property
    def present(self) -> bool:
        """Whether the image is marked: `score` is at least `THRESHOLD`."""
        return self.score >= THRESHOLD


def add_watermark(frame: NDArray[np.uint8], payload: bytes = PAYLOAD) -> NDArray[np.uint8]:
    """Add the invisible mark to a copy of `frame`; the PSNR is at least 42 dB, and hues are kept.

    Args:
        frame: (H, W, 3) uint8 RGB; it stays unchanged. Rows and columns beyond the last complete block of 8 pixels are not
            marked; in a frame below about 64 x 64 pixels, the mark cannot be read reliably.
        payload: 8 bytes.

    Raises:
        InputError: a wrong shape or type, or a payload that is not 8 bytes.
    """
    check_image(frame)
    rows, columns = frame.shape[0] // _BLOCK, frame.shape[1] // _BLOCK
    pattern = _pattern(rows, columns, _checked(payload))
    result = frame.copy()
    inside = result[: rows * _BLOCK, : columns * _BLOCK]
    luma = (inside @ _LUMA).reshape(rows, _BLOCK, columns, _BLOCK)
    strength = np.clip(_FLAT + _PER_STD * luma.std((1, 3), keepdims=True), None, _TEXTURED)
    change = (pattern.reshape(luma.shape) * strength).reshape(inside.shape[:2])
    inside[...] = np.clip(np.rint(inside + change[..., None]), 0, 255).astype(np.uint8)
    return result


def read_watermark(frames: NDArray[np.uint8] | Iterable[NDArray[np.uint8]], payload: bytes = PAYLOAD) -> Watermark:
    """Look for the mark in an image or in the frames of a clip; more frames make the score higher.

    Args:
        frames: (H, W, 3) uint8 RGB, (T, H, W, 3), or an iterable of frames of one size.
        payload: the 8 bytes to look for.

    Raises:
        InputError: a wrong shape or type, frames of different sizes, or no frame.
    """
    _checked(payload)
    total, count = None, 0
    for frame in [frames] if isinstance(frames, np.ndarray) and frames.ndim == 3 else frames:
        values = _coefficients(check_image(frame))
        if total is not None and values.shape != total.shape:
            raise InputError(f"frame {count} has a different size than the previous ones; read them separately")
        total, count = values if total is None else total + values, count + 1
    if total is None:
        raise InputError("a clip must have at least one frame, got none")
    rows, columns = total.shape[:2]
    signs, slots = _signs(rows, columns)
    parts = np.bincount(slots.ravel(), (total * signs).sum(-1).ravel(), 64)
    bits = _bits(payload)
    power = math.sqrt(float((total.astype(np.float64) ** 2).sum()))
    score = float(parts @ bits) / power if power else 0.0
    return Watermark(score, np.packbits(parts > 0).tobytes())


def add_label(frame: NDArray[np.uint8], text: str = "synthetic", corner: str = "bottom right") -> NDArray[np.uint8]:
    """Add a small visible label to a copy of `frame`: white on a dark translucent plate, a twentieth of the frame's height.

    Args:
        frame: (H, W, 3) uint8 RGB; it stays unchanged.
        corner: "top left", "top right", "bottom left" or "bottom right".

    Raises:
        InputError: a wrong shape or type, or an unknown corner.
    """
    check_image(frame)
    down, _, across = corner.partition(" ")
    if down not in ("top", "bottom") or across not in ("left", "right"):
        raise InputError(f"the corner must be top left, top right, bottom left or bottom right, got {corner!r}")
    height, width = frame.shape[:2]
    plate = _plate(text, max(9, round(height / 20)))
    plate = plate[:height, :width]
    top = 0 if down == "top" else height - plate.shape[0]
    left = 0 if across == "left" else width - plate.shape[1]
    result = frame.copy()
    below = result[top : top + plate.shape[0], left : left + plate.shape[1]]
    below[...] = np.rint(below * (1 - plate[..., 1:]) + plate[..., :1] * plate[..., 1:]).astype(np.uint8)
    return result


def _checked(payload: bytes) -> bytes:
    if not isinstance(payload, bytes) or len(payload) != 8:
        raise InputError(f"the payload of a watermark must be 8 bytes, got {payload!r}")
    return payload


def _bits(payload: bytes) -> NDArray[np.float32]:
    """64 values of -1 or 1."""
    return np.unpackbits(np.frombuffer(payload, np.uint8)).astype(np.float32) * 2 - 1


@lru_cache(maxsize=8)
def _signs(rows: int, columns: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Signs (rows, columns, 12), and the index of the bit in each block (rows, columns); both depend only on the position."""
    row, column = np.mgrid[:rows, :columns].astype(np.uint64)
    # the mixing steps of SplitMix64, so that the signs are the same on every machine and for every frame size
    value = (row << np.uint64(32) | column) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    value ^= value >> np.uint64(31)
    numbers = np.arange(len(_FREQUENCIES), dtype=np.uint64)
    signs = (value[..., None] >> numbers & np.uint64(1)).astype(np.float32) * 2 - 1
    return signs, (value >> np.uint64(58)).astype(np.int64)


@lru_cache(maxsize=1)
def _dct() -> NDArray[np.float32]:
    """(12, 8, 8): the orthonormal DCT-II basis at `_FREQUENCIES`."""
    places = np.arange(_BLOCK)
    waves = np.cos(math.pi * (2 * places + 1) * np.arange(5)[:, None] / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    waves[0] /= math.sqrt(2)
    return np.stack([np.outer(waves[u], waves[v]) for u, v in _FREQUENCIES]).astype(np.float32)


@lru_cache(maxsize=4)
def _pattern(rows: int, columns: int, payload: bytes) -> NDArray[np.float32]:
    """(8 * rows, 8 * columns): the pattern added to luma at a strength of 1 (root mean square of every block)."""
    signs, slots = _signs(rows, columns)
    signs = signs * _bits(payload)[slots][..., None]
    blocks = np.einsum("rcf,fyx->rycx", signs, _dct()) * (_BLOCK / math.sqrt(len(_FREQUENCIES)))
    return blocks.reshape(rows * _BLOCK, columns * _BLOCK).astype(np.float32)


def _coefficients(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Softly limited DCT coefficients (rows, columns, 12) of luma."""
    rows, columns = frame.shape[0] // _BLOCK, frame.shape[1] // _BLOCK
    luma = frame[: rows * _BLOCK, : columns * _BLOCK] @ _LUMA
    blocks = luma.reshape(rows, _BLOCK, columns, _BLOCK).transpose(0, 2, 1, 3).reshape(rows, columns, _BLOCK**2)
    values = blocks @ _dct().reshape(-1, _BLOCK**2).T
    return (values / np.sqrt(1 + (values / _SOFT) ** 2)).astype(np.float32)


@lru_cache(maxsize=8)
def _plate(text: str, height: int) -> NDArray[np.float32]:
    """(h, w, 2): grey value 0 … 255 and opacity 0 … 1 of a label."""
    font = ImageFont.load_default(max(6, round(height * 0.7)))
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, height // 5)
    size = (math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad)
    letters = Image.new("L", size)
    ImageDraw.Draw(letters).text((pad - left, pad - top), text, fill=255, font=font)
    ink = np.asarray(letters, np.float32) / 255
    opacity = 0.5 + 0.5 * ink
    return np.stack([255 * ink / opacity, opacity], -1).astype(np.float32)
