"""Shows, as an image or as numbers, on which pixels of a hazy image a window of the dehazed one depends."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path
from visionzoo.io.image import load_image
from visionzoo.io.pixels import to_float
from visionzoo.jobs import check_result, write_sidecar

from ...models.dehazexl import attribution_image, attribution_map
from .pipeline import DehazePipeline


def attribute_file(
    pipe: DehazePipeline,
    image: Path,
    output: Path,
    window: tuple[int, int, int, int],
    clear: Path | None = None,
    steps: int = 20,
    derivative: Literal["exact", "official"] = "exact",
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the attribution map of an image file.

    Args:
        window: first row, first column, height and width in the result.
        clear: the same view without haze; None uses the network's own result.

    Returns:
        What is recorded with the map.

    Raises:
        InputError: files that cannot be read or do not match, or a window outside the image.
    """
    check_result(output, overwrite=overwrite)
    hazy = load_image(image)
    baseline = None if clear is None else load_image(clear)
    if baseline is not None and baseline.shape != hazy.shape:
        raise InputError(
            f"{clear}: is {baseline.shape[1]} x {baseline.shape[0]}, but {image} is {hazy.shape[1]} x {hazy.shape[0]}"
        )
    found = attribution_map(
        pipe.network.to(pipe.device).float(),
        to_float(hazy).contiguous(),
        None if baseline is None else to_float(baseline).contiguous(),
        window,
        steps=steps,
        derivative=derivative,
        progress=progress,
    )
    saliency = found.saliency.numpy()
    with atomic_path(output) as temporary:
        if output.suffix.lower() == ".npz":
            with temporary.open("wb") as file:
                np.savez_compressed(file, saliency=saliency, values=found.values.numpy())
        else:
            Image.fromarray(attribution_image(hazy, saliency, window)).save(temporary, quality=95)
    top, left, height, width = window
    facts = {
        "image": str(image),
        "clear": None if clear is None else str(clear),
        "region": {"left": left, "top": top, "width": width, "height": height},
        "steps": steps,
        "derivative": derivative,
        "share_inside": share_inside(saliency, window),
    }
    write_sidecar(output, facts, pipe.facts())
    return facts


def share_inside(saliency: np.ndarray, window: tuple[int, int, int, int]) -> float:
    """The share of a map that lies inside the window itself, in [0, 1]."""
    top, left, height, width = window
    total = float(saliency.sum())
    return round(float(saliency[top : top + height, left : left + width].sum()) / total, 6) if total else 0.0
