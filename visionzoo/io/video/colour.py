"""Convert frames of any format to 8-bit RGB with the primaries and transfer curve of BT.709, which screens and networks expect.

Code points (primaries, transfer curves) are those of ITU-T H.273, which FFmpeg uses too.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..pixels import on_white

WHITE_NITS = 203.0
"""Luminance of HDR reference white (ITU-R BT.2408) in cd/m²; it becomes the white of the result."""
HLG_PEAK_NITS = 1000.0
"""Peak luminance in cd/m² of the reference display for HLG (BT.2100), at which its system gamma is 1.2."""
SCREEN_GAMMA = 2.4
"""Gamma of a display for SDR video (BT.1886)."""
KNEE = 0.9
"""Linear light, in units of white, above which highlights are compressed."""

_BICUBIC, _AREA, _FULL_CHROMA, _ROUNDED = 0x4, 0x20, 0x2000, 0x40000
"""Flags of FFmpeg's scaler: two filters; chroma interpolated to every pixel; accurate rounding."""
_PQ, _HLG, _SRGB, _LINEAR = 16, 18, 13, 8
_D65, _DCI_WHITE = (0.3127, 0.3290), (0.314, 0.351)
_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_WIDE = {  # by primaries: x and y of red, green and blue, and of white
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), _D65),
    11: (_P3, _DCI_WHITE),
    12: (_P3, _D65),
}
_STEPS = 8192
"""Number of entries of the table from the square root of linear light to 8-bit codes."""


class Colours(NamedTuple):
    """Code points of a frame's primaries and transfer curve."""

    primaries: int
    curve: int

    @property
    def kind(self) -> str | None:
        """What has to be converted, worded for a note; None if the frame can be shown unchanged."""
        if self.curve in (_PQ, _HLG):
            return "HDR (PQ)" if self.curve == _PQ else "HDR (HLG)"
        return "wide-gamut colour" if self.primaries in _WIDE else None


def colours_of(frame: Any, stream: Any) -> Colours:
    """Code points of a PyAV frame, or of its stream if the frame has none (2 means unknown)."""
    found = []
    for name in ("color_primaries", "color_trc"):
        value = getattr(frame, name, None)
        found.append(int(getattr(stream.codec_context, name, 2) if value in (None, 2) else value))
    return Colours(*found)


def rgb(frame: Any, width: int, height: int, colours: Colours) -> NDArray[np.uint8]:
    """Convert a PyAV frame to (height, width, 3) uint8 RGB in BT.709, composited on white.

    Matrix and range are those of the frame's tags, or BT.601 and 16 to 235 if there are none, as in FFmpeg.
    """
    deep = colours.kind is not None
    alpha = any(component.is_alpha for component in frame.format.components)
    # passed explicitly, since PyAV 14 ignores the frame's own matrix and range
    tags = {} if frame.format.is_rgb else {"dst_colorspace": "DEFAULT"}
    if tags and frame.color_range == 2:  # 0 … 255
        tags["src_color_range"] = "JPEG"
    flags = _BICUBIC if width > frame.width or height > frame.height else _AREA
    if deep or (width, height) != (frame.width, frame.height):
        flags |= _ROUNDED
        if not (deep and alpha):  # FFmpeg 8.1 corrupts packed 16-bit pixels with it
            flags |= _FULL_CHROMA
    wanted = ("rgba64le" if alpha else "gbrp16le") if deep else ("rgba" if alpha else "rgb24")
    pixels = frame.to_ndarray(format=wanted, width=width, height=height, interpolation=flags, **tags)
    if deep:
        shown = to_bt709(pixels[..., :3], colours)
        pixels = np.concatenate([shown, (pixels[..., 3:] >> 8).astype(np.uint8)], -1) if alpha else shown
    return on_white(pixels) if alpha else pixels


def to_bt709(pixels: NDArray[np.uint16], colours: Colours) -> NDArray[np.uint8]:
    """(H, W, 3) uint16 RGB, 0 to 65535, with any primaries and curve -> (H, W, 3) uint8 in BT.709.

    HDR is converted to display light (BT.2100), where `WHITE_NITS` becomes white; light above `KNEE` of it is compressed with its
    hue kept. SDR keeps its curve, so that greys stay unchanged. Colours outside the gamut are clipped.
    """
    out = np.empty(pixels.shape, np.uint8)
    hdr = colours.curve in (_PQ, _HLG)
    decode, encode = _decoding(colours.curve), _encoding(colours.curve)
    matrix = _matrix(colours.primaries).T.astype(np.float32)
    rows = max(1, 2**18 // max(1, pixels.shape[1]))  # a few MB of floats, however large the frame
    for top in range(0, len(pixels), rows):
        light = decode[pixels[top : top + rows]]
        if colours.curve == _HLG:
            luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
            light *= (HLG_PEAK_NITS / WHITE_NITS * luminance**0.2)[..., None]
        light = light @ matrix
        if hdr:
            brightest = light.max(-1, keepdims=True)
            soft = KNEE + (1 - KNEE) * (1 - np.exp((KNEE - np.maximum(brightest, KNEE)) / (1 - KNEE)))
            light = np.where(brightest > KNEE, light * (soft / np.maximum(brightest, KNEE)), light)
        place = np.sqrt(np.clip(light, 0, 1)) * (_STEPS - 1) + 0.5
        out[top : top + rows] = encode[place.astype(np.uint16)]
    return out


@cache
def _decoding(curve: int) -> NDArray[np.float32]:
    """(65536,) linear light of each code: in units of white, or for HLG scene light in [0, 1]."""
    code = np.linspace(0, 1, 65536)
    if curve == _PQ:  # BT.2100, table 4
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = code ** (1 / m2)
        light = 10_000 / WHITE_NITS * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif curve == _HLG:  # BT.2100, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    elif curve == _SRGB:
        light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    elif curve in (4, 5):
        light = code ** {4: 2.2, 5: 2.8}[curve]
    elif curve == _LINEAR:
        light = code
    else:
        light = code**SCREEN_GAMMA
    return light.astype(np.float32)


@cache
def _encoding(curve: int) -> NDArray[np.uint8]:
    """8-bit codes of linear light in [0, 1], sampled evenly in its square root; with the curve of the source if it is SDR."""
    light = np.linspace(0, 1, _STEPS) ** 2
    if curve == _SRGB:
        code = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    else:
        code = light ** (1 / {4: 2.2, 5: 2.8}.get(curve, SCREEN_GAMMA))
    return np.round(code * 255).astype(np.uint8)


@cache
def _matrix(primaries: int) -> NDArray[np.float64]:
    """(3, 3) matrix from linear RGB with these primaries to linear RGB of BT.709, with Bradford adaptation of white."""
    if primaries not in _WIDE:
        return np.eye(3)
    source, white = _WIDE[primaries]
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    cones = (bradford @ _xyz(_D65)) / (bradford @ _xyz(white))
    adapted = np.linalg.inv(bradford) @ np.diag(cones) @ bradford
    return np.linalg.inv(_to_xyz(_BT709, _D65)) @ adapted @ _to_xyz(source, white)


def _xyz(point: tuple[float, float]) -> NDArray[np.float64]:
    x, y = point
    return np.array([x / y, 1, (1 - x - y) / y])


def _to_xyz(primaries: tuple[tuple[float, float], ...], white: tuple[float, float]) -> NDArray[np.float64]:
    columns = np.stack([_xyz(point) for point in primaries], 1)
    return columns * np.linalg.solve(columns, _xyz(white))
