"""Read any image (a path, bytes, a PIL image, an array or a tensor) as upright (H, W, 3) uint8 sRGB.

Handled are EXIF orientation, ICC profiles, palettes, grey, CMYK, Lab, 16-bit and float values, alpha (composited on white) and
animations (their first frame). TIFF files are read by `visionzoo.io.raster` if its packages are installed (the extra `raster`),
as Pillow reads many kinds of them wrongly; without the extra, Pillow reads the kinds that it gets right. Files that are missing,
empty, truncated, not images or absurdly large, and NaN values, raise a one-line error that names the file and the fix.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageFile

from ..errors import InputError, MissingDependencyError
from .extensions import IMAGES, extension
from .find import find_inputs
from .head import read_head
from .icc import to_srgb
from .pillow import ImageError, check_pixels, decoding, max_pixels, opened, pillow_reads_correctly
from .pixels import by_rows, floats_to_bytes, on_white, words_to_bytes
from .raster import TIFF_STARTS, RasterError, WholeImage, open_raster, read_whole

if TYPE_CHECKING:
    import torch

__all__ = ["ImageError", "count_frames", "image_format", "image_size", "list_images", "load_image", "max_pixels"]

ORIENTATION = 0x0112
_JPEGS = ("JPEG", "MPO")  # phones append more images, e.g. a gain map or a depth map
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes an image upright, for each EXIF orientation."""


def load_image(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray | torch.Tensor,
    *,
    max_side: int | None = None,
) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 sRGB.

    Values of more than 8 bits are rounded to 8 bits, 0 to 65535 as v / 257. Floats in [0, 1] are scaled to 0 to 255. Floats of a
    file outside that range, and signed or 32-bit integers of a file, have no defined white: the minimum becomes black and the
    maximum white.

    Args:
        source: a path, the bytes of a file, a PIL image (treated like its file), an array or tensor (H, W),
            (H, W, 1|3|4), or for tensors (1|3|4, H, W); integers are 0 to 255 (uint16: 0 to 65535), floats in [0, 1].
        max_side: shrink (never enlarge) so that the longer side has at most this many pixels. JPEG files are then
            decoded at reduced size, which is faster and raises the limit on their size accordingly.

    Raises:
        ImageError: the source cannot be read as an image; the message names it.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, max_side)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _decode(path, read_head(path, "an image file", ImageError), str(path), max_side)
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        if not content:
            raise ImageError("the uploaded image is empty (0 bytes)")
        return _decode(content, content[:16], "the uploaded image", max_side)
    image = _shrink(Image.fromarray(_array_to_bytes(source)), max_side)
    return np.array(image)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of the upright image, from the header alone. Raises `ImageError`."""
    path = Path(path)
    head = read_head(path, "an image file", ImageError)
    if head.startswith(TIFF_STARTS):
        try:
            with open_raster(path) as raster:
                return raster.width, raster.height
        except (RasterError, MissingDependencyError):
            pass  # Pillow may be able to read it, and raises its own error if not
    with opened(path, str(path)) as image, decoding(str(path)):
        width, height = image.size
        return (height, width) if _orientation(image, str(path)) >= 5 else (width, height)


def image_format(path: str | os.PathLike[str]) -> str:
    """The format of an image file, judged by its content, in Pillow's naming, e.g. "JPEG". Raises `ImageError`."""
    path = Path(path)
    if read_head(path, "an image file", ImageError).startswith(TIFF_STARTS):
        return "TIFF"  # including kinds that Pillow does not know
    with opened(path, str(path)) as image:
        return image.format or "unknown"


def count_frames(path: str | os.PathLike[str]) -> int:
    """Number of frames of an animated GIF, WebP or PNG file; 1 for other files, and for those that cannot be read."""
    if extension(path) not in (".gif", ".webp", ".png", ".apng"):
        return 1
    try:
        with opened(Path(path), str(path)) as image, decoding(str(path)):
            return getattr(image, "n_frames", 1)
    except ImageError:
        return 1


def list_images(sources: str | Path | Iterable[str | Path], *, recursive: bool = True) -> list[Path]:
    """Image files named by paths, folders and glob patterns: see `visionzoo.io.find.find_inputs`.

    Raises:
        ImageError: a source does not exist, or no image is found for it.
    """
    try:
        return [path for path, _ in find_inputs(sources, IMAGES, what="images", recursive=recursive)]
    except InputError as error:
        raise ImageError(str(error)) from error


# From a file


def _decode(content: Path | bytes, head: bytes, name: str, max_side: int | None) -> np.ndarray:
    if head.startswith(TIFF_STARTS):
        return _decode_tiff(content, name, max_side)
    return _decode_by_pillow(content, name, max_side)


def _decode_by_pillow(content: Path | bytes, name: str, max_side: int | None) -> np.ndarray:
    with opened(content if isinstance(content, Path) else io.BytesIO(content), name) as image, decoding(name):
        if max_side is not None and image.format in _JPEGS:
            image.draft("RGB" if image.mode != "CMYK" else None, (max_side, max_side))
        check_pixels(*image.size, name)
        image.load()
        return _finish(image, name, max_side)


def _decode_tiff(content: Path | bytes, name: str, max_side: int | None) -> np.ndarray:
    try:
        whole = read_whole(content, max_side=max_side, max_pixels=max_pixels(), name=name)
    except (RasterError, MissingDependencyError) as error:
        try:  # only Pillow reads some rare kinds (old-style JPEG, …)
            with opened(content if isinstance(content, Path) else io.BytesIO(content), name) as image:
                right = pillow_reads_correctly(image)
            if right:
                return _decode_by_pillow(content, name, max_side)
        except ImageError:
            pass  # the TIFF reader's error is more specific
        prefix = "" if str(error).startswith(name) else f"{name}: "
        raise ImageError(f"{prefix}{error}") from error
    with decoding(name):
        image = _image_of(whole, name)
        return _finish_plain(_shrink(image, max_side), whole.icc, name)


def _image_of(whole: WholeImage, name: str) -> Image.Image:
    """The image in mode L, LA, RGB or RGBA: 8 bits, straight alpha, missing pixels transparent."""
    missing = whole.missing if whole.missing is not None and whole.missing.any() else None
    colours = _to_bytes(whole.pixels[..., : whole.colours], whole.white, missing, name)
    alpha = None
    if whole.alpha is not None:
        values = whole.pixels[..., whole.alpha]
        if values.dtype.kind == "u":
            alpha = floats_to_bytes(values / np.float32(whole.white or np.iinfo(values.dtype).max))
        else:
            alpha = floats_to_bytes(np.nan_to_num(values))
    if missing is not None:
        alpha = np.where(missing, np.uint8(0), np.uint8(255) if alpha is None else alpha)
    if alpha is None:
        return Image.fromarray(colours[..., 0] if whole.colours == 1 else colours)
    if whole.premultiplied:
        straight = np.minimum(colours.astype(np.float32) * 255 / np.maximum(alpha, 1)[..., None], 255)
        colours = np.round(straight).astype(np.uint8)
    return Image.fromarray(np.concatenate([colours, alpha[..., None]], axis=2))  # two bands give LA, four RGBA


def _to_bytes(values: np.ndarray, white: float | None, missing: np.ndarray | None, name: str) -> np.ndarray:
    """Values of a file, (H, W, C) of any type -> uint8: scaled by `white` if known; floats in [0, 1] by 255; others stretched."""
    if values.dtype == np.uint8 and white in (None, 255):
        return values
    if values.dtype.itemsize == 2 and white == 65535:
        return words_to_bytes(values)
    if white is not None and values.dtype.itemsize <= 2:
        return by_rows(lambda part: floats_to_bytes(part / np.float32(white)), values)
    there = values if missing is None else values[~missing]
    if values.dtype.kind == "f" and not np.isfinite(there).all():
        raise ImageError(f"{name}: the image has values that are NaN or infinite; replace them first")
    low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    spread = max(high - low, 1e-300)
    return by_rows(lambda part: floats_to_bytes(np.nan_to_num((part.astype(np.float64) - low) / spread)), values)


# From a PIL image


def _from_pil(image: Image.Image, max_side: int | None) -> np.ndarray:
    name = str(getattr(image, "filename", "") or "the given PIL image")
    content = _undecoded(image, max_side, name)
    if content is not None:
        return _decode(content, content[:16], name, max_side)
    if hasattr(image, "tag_v2") and not pillow_reads_correctly(image):
        raise ImageError(f"{name}: Pillow decodes this kind of TIFF wrongly; give its path instead of the PIL image")
    with decoding(name):
        image.load()
        return _finish(image, name, max_side)


def _undecoded(image: Image.Image, max_side: int | None, name: str) -> bytes | None:
    """The content of an open file that is not decoded yet, if `load_image` would read its path differently than Pillow does: a
    TIFF, or a JPEG that is to be shrunk. None for all others."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.tell() != 0:
        return None
    if image.format != "TIFF" and (image.format not in _JPEGS or max_side is None or image.decoderconfig):
        return None
    with decoding(name):
        file = image.fp
        assert file is not None  # `file` is set while the image is not decoded
        place = file.tell()
        try:
            file.seek(0)
            return file.read()
        finally:
            file.seek(place)


# To upright sRGB


def _finish(image: Image.Image, name: str, max_side: int | None) -> np.ndarray:
    """A decoded PIL image of any mode -> (H, W, 3) uint8 sRGB, upright."""
    turn = _TURNS.get(_orientation(image, name))
    profile = image.info.get("icc_profile")
    pixels = _finish_plain(_shrink(_plain(image, name), max_side), profile, name)
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def _finish_plain(image: Image.Image, profile: bytes | None, name: str) -> np.ndarray:
    """Mode L, LA, RGB, RGBA or CMYK -> (H, W, 3) uint8 sRGB, on white."""
    if image.mode not in ("LA", "RGBA"):
        return np.array(to_srgb(image, profile, name).convert("RGB"))
    colours = to_srgb(image.convert(image.mode[:-1]), profile, name).convert("RGB")
    return on_white(np.dstack([np.asarray(colours), np.asarray(image.getchannel("A"))]))


def _plain(image: Image.Image, name: str) -> Image.Image:
    """An image of any mode as L, LA, RGB, RGBA or CMYK of 8 bits."""
    transparent = "transparency" in image.info
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _plain_grey(image, name)
    if image.mode in ("L", "RGB", "CMYK", "LA", "RGBA") and not transparent:
        return image
    if image.mode == "LAB":
        return cast(Image.Image, _from_lab(image))
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("LA" if transparent or image.mode in ("LA", "La") else "L")
    return image.convert("RGBA" if transparent or image.mode in ("RGBA", "RGBa", "PA") else "RGB")


def _plain_grey(image: Image.Image, name: str) -> Image.Image:
    """16-bit, 32-bit or float grey as L, or as LA if a 16-bit PNG declares one value transparent."""
    values = np.asarray(image)
    words = image.mode.startswith("I;16")
    if image.mode == "I" and image.format != "TIFF":  # other formats store 16 bits in this mode
        words = bool(values.min() >= 0 and values.max() <= 65535)
    grey = words_to_bytes(values) if words else _to_bytes(values[..., None], None, None, name)[..., 0]
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return Image.fromarray(grey)
    return Image.fromarray(np.dstack([grey, np.where(values == clear, 0, 255).astype(np.uint8)]))


def _from_lab(image: Image.Image) -> Image.Image | None:
    from PIL import ImageCms

    return ImageCms.profileToProfile(
        image,
        ImageCms.createProfile("LAB"),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )


def _orientation(image: Image.Image, name: str) -> int:
    """1 to 8, as EXIF counts; 1 if it is not stated."""
    try:
        # the base class's method, as that of a PNG decodes the whole image
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception as error:  # damaged EXIF is no reason to refuse the image
        warnings.warn(f"{name}: the EXIF data are damaged ({error}); the image is taken as upright", stacklevel=2)
        return 1
    if isinstance(value, bytes):  # some programs store a byte instead of a number
        value = value[0] if value else 1
    return value if value in range(1, 9) else 1


def _shrink(image: Image.Image, max_side: int | None) -> Image.Image:
    if max_side is None or max(image.size) <= max_side:
        return image
    scale = max_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


# From an array


def _array_to_bytes(values: Any) -> np.ndarray:
    """Any array or tensor to (H, W, 3) uint8."""
    if hasattr(values, "detach"):  # a tensor: channels first
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
        if values.ndim == 3 and values.shape[0] in (1, 3, 4):
            values = values.transpose(1, 2, 0)
    array = np.asarray(values)
    if array.ndim == 0:
        raise ImageError(
            f"{values!r:.60} is not an image; expected a path, a PIL image, an array, a tensor or the bytes of a file"
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"an array of shape {array.shape} is not an image; expected (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError("the image has values that are NaN or infinite; replace them first")
        if array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ImageError(f"float images must be in [0, 1], this one is in [{array.min():.3g}, {array.max():.3g}]")
        array = floats_to_bytes(array)
    elif array.dtype != np.uint8:
        if array.dtype.kind not in "iu":
            raise ImageError(f"an array of {array.dtype} is not an image; expected integers or floats")
        if array.min() < 0 or array.max() > 65535:
            raise ImageError(
                f"integer images must be in 0..255 or 0..65535, this one is in {array.min()}..{array.max()}"
            )
        words = (array.dtype.kind == "u" and array.dtype.itemsize == 2) or array.max() > 255
        array = words_to_bytes(array) if words else array.astype(np.uint8)
    if array.shape[-1] == 4:
        array = on_white(array)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array)
