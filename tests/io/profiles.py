"""ICC profiles for tests: displays by primaries and gamma, grey by gamma, a press by a table."""

from __future__ import annotations

import struct

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
"""Primaries in XYZ, adapted to D50: red, green, blue."""
WHITE = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    text = b"made for a test\0"
    tags = [
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78),
        (b"cprt", b"text\0\0\0\0none\0"),
        (b"wtpt", _xyz(WHITE)),
        *tags,
    ]
    table = data = b""
    for name, value in tags:
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    body = struct.pack(">I", len(tags)) + table + data
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 128 + len(body))
    header[8:12] = struct.pack(">I", 0x02100000)
    header[12:24] = kind + space + pcs
    header[24:36] = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    header[36:40] = b"acsp"
    header[68:80] = _fixed(*WHITE)
    return bytes(header) + body


def display(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """A display's profile."""
    colours = [(name, _xyz(value)) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
    return _profile(b"mntr", b"RGB ", b"XYZ ", colours + [(n, _curve(gamma)) for n in (b"rTRC", b"gTRC", b"bTRC")])


def grey_display(gamma: float) -> bytes:
    """A grey display's profile."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", [(b"kTRC", _curve(gamma))])


def press() -> bytes:
    """A press whose inks have odd colours: cyan prints a middle grey with any other ink; no ink gives white."""
    straight = bytes(range(256))
    paper, ink, black = (255, 128, 128), (128, 128, 128), (0, 128, 128)  # Lab of 8 bits
    nodes = b"".join(bytes(ink if c else black if m or y or k else paper) for c, m, y, k in _corners())
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + straight * 4 + nodes
    return _profile(b"prtr", b"CMYK", b"Lab ", [(b"A2B0", table + straight * 3)])


def _corners() -> list[tuple[int, int, int, int]]:
    return [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
