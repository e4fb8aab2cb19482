"""Images to dehaze, and the network's own results for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

import tifffile

from visionzoo.models.dehazexl import DehazeXL

NODATA = 42113


def view(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    """(height, width, bands) uint8, smooth."""
    cells = np.random.RandomState(seed).randint(0, 256, (height // 24 + 2, width // 24 + 2, bands)).astype(np.uint8)
    large = [
        Image.fromarray(cells[..., band]).resize((width, height), Image.Resampling.BICUBIC) for band in range(bands)
    ]
    return np.stack([np.asarray(band) for band in large], -1)


def forward(model: DehazeXL, unit: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> the network's own result, not clamped."""
    with torch.no_grad():
        return model(torch.from_numpy(unit.astype(np.float32)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def eight_bits(unit: np.ndarray) -> np.ndarray:
    return (unit.clip(0, 1) * 255).round()


def geotiff(path: Path, pixels: np.ndarray, nodata: str | None = None, **more: Any) -> Path:
    if pixels.ndim == 3:
        more = {"photometric": "rgb" if pixels.shape[2] in (3, 4) else "minisblack", "planarconfig": "contig"} | more
    tags = [(NODATA, 2, 0, nodata, True)] if nodata is not None else None
    tifffile.imwrite(path, pixels, metadata=None, extratags=tags, **more)
    return path


def names(folder: Path) -> list[str]:
    """Files below a folder without sidecars."""
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in files if not name.endswith(".json"))
