"""Images from files, arrays and PIL to one form: (H, W, 3) uint8 RGB, upright.

What is treated: EXIF rotation, palette, grey, CMYK (with its ICC profile), 16-bit and float grey, alpha (laid on white),
animation (first frame).
What is refused, with a line that names the file and the mend: missing, empty, truncated, not an image, absurdly large, NaN.
"""

from __future__ import annotations

import glob
import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from .extensions import IMAGES, is_image
from .pillow import ImageError, opened

if TYPE_CHECKING:
    import torch

EXTENSIONS = IMAGES


def max_pixels() -> int:
    """Largest number of pixels that a file may declare (a decompression bomb otherwise); `VISIONZOO_MAX_PIXELS` overrides."""
    return int(os.environ.get("VISIONZOO_MAX_PIXELS", 250_000_000))


def load_image(
    source: str | Path | bytes | Image.Image | np.ndarray | torch.Tensor, *, max_side: int | None = None
) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB.

    Args:
        source: a path, the bytes of a file, a PIL image, an array or tensor (H, W), (H, W, 1|3|4), or for tensors
            (1|3|4, H, W); integers are 0..255 (uint16: 0..65535), floats are in [0, 1].
        max_side: shrink (never enlarge) so that the longer side has at most this many pixels. JPEG files are then
            decoded at a fraction of their size, which is faster and lifts the limit on their size accordingly.

    Raises:
        ImageError: the source cannot be read as an image; the message names it.
    """
    if isinstance(source, Image.Image):
        return _to_array(_shrink(_to_rgb(source), max_side))
    if isinstance(source, (str, Path)):
        return _load_file(Path(source), max_side)
    if isinstance(source, (bytes, bytearray)):
        return _decode(io.BytesIO(source), "the uploaded image", max_side)
    return _to_array(_shrink(Image.fromarray(_normalise_array(source)), max_side))


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) as stored, from the header alone. Raises `ImageError`."""
    with opened(path, str(path)) as image:
        return image.size


def list_images(sources: str | Path | Iterable[str | Path], *, recursive: bool = True) -> list[Path]:
    """Files named by paths, folders and glob patterns, each once, sorted by name within a folder.

    Hidden files and folders are passed over, as are files in folders whose ending is not a picture's; a file named
    outright is taken whatever its ending.

    Raises:
        ImageError: a source does not exist, or nothing at all was found.
    """
    if isinstance(sources, (str, Path)):
        sources = [sources]
    sources = list(sources)
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found.update(dict.fromkeys(_walk(path, recursive)))
        elif path.exists():
            found[path] = None
        elif glob.has_magic(str(source)):
            hits = sorted(Path(hit) for hit in glob.glob(str(source), recursive=True))
            found.update(dict.fromkeys(hit for hit in hits if hit.is_file() and is_image(hit)))
        else:
            raise ImageError(f"{source}: no such file or folder")
    if not found:
        names = ", ".join(str(source) for source in sources) or "the list of inputs"
        raise ImageError(f"{names}: no pictures found; expected files ending in .jpg, .png, .webp, .tif, …")
    return list(found)


def _walk(folder: Path, recursive: bool) -> Iterable[Path]:
    problems: list[OSError] = []
    for base, folders, files in os.walk(folder, onerror=problems.append):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            if not name.startswith(".") and is_image(name):
                yield Path(base, name)
    for problem in problems:
        warnings.warn(f"{problem.filename}: cannot be read ({problem.strerror}); passed over", stacklevel=2)


def _load_file(path: Path, max_side: int | None) -> np.ndarray:
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, expected an image file")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    if size == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes)")
    return _decode(path, str(path), max_side)


def _decode(source: Any, name: str, max_side: int | None) -> np.ndarray:
    with opened(source, name) as image:
        if max_side is not None and image.format == "JPEG":
            image.draft("RGB" if image.mode != "CMYK" else None, (max_side, max_side))
        width, height = image.size
        if width * height > max_pixels():
            raise ImageError(
                f"{name}: {width} x {height} pixels is over the limit of {max_pixels() / 1e6:.0f} million; "
                "shrink it, or raise VISIONZOO_MAX_PIXELS if the file is trusted"
            )
        try:
            image.load()
            return _to_array(_shrink(_to_rgb(image), max_side))
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        except MemoryError:
            raise ImageError(f"{name}: {width} x {height} pixels do not fit into memory; shrink it first") from None
        except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
            raise ImageError(f"{name}: damaged or truncated image ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode.startswith(("I", "F")):  # 16-bit, 32-bit or float grey
        return Image.fromarray(_normalise_array(np.asarray(image), float_is_unit=False))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return image.convert("RGB")


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            warnings.warn("an ICC profile is damaged; colours are converted without it", stacklevel=2)
    return image.convert("RGB")


def _shrink(image: Image.Image, max_side: int | None) -> Image.Image:
    if max_side is None or max(image.size) <= max_side:
        return image
    scale = max_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _to_array(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB"))


def _normalise_array(values: Any, *, float_is_unit: bool = True) -> np.ndarray:
    """Any array or tensor to (H, W, 3) uint8."""
    if hasattr(values, "detach"):  # a tensor: channels first
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
        if values.ndim == 3 and values.shape[0] in (1, 3, 4):
            values = values.transpose(1, 2, 0)
    array = np.asarray(values)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"an array of shape {array.shape} is no image; expected (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError("the image has values that are NaN or infinite; replace them first")
        if not float_is_unit and (array.min() < 0 or array.max() > 1):  # a float file has no stated range: use its own
            array = (array - array.min()) / max(float(array.max() - array.min()), 1e-12)
        if array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ImageError(f"float images are in [0, 1], this one is in [{array.min():.3g}, {array.max():.3g}]")
        array = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 65535:
            raise ImageError(f"integer images are in 0..255 or 0..65535, this one is in {array.min()}..{array.max()}")
        deep = array.dtype == np.uint16 or array.max() > 255
        array = (array // 257 if deep else array).astype(np.uint8)
    if array.shape[-1] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array)
