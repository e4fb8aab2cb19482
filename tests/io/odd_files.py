"""Small files of rare kinds."""

from __future__ import annotations

import struct


def dds(dxgi: int) -> bytes:
    """A DirectDraw surface with the pixel format of a number; Pillow opens the file, and raises NotImplementedError for 93."""
    header = struct.pack("<7I44x", 124, 0x1007, 16, 16, 0, 0, 0) + struct.pack("<2I4s5I", 32, 4, b"DX10", 0, 0, 0, 0, 0)
    return b"DDS " + header + struct.pack("<5I", 0x1000, 0, 0, 0, 0) + struct.pack("<5I", dxgi, 3, 0, 1, 0) + b"\0" * 64
