"""Images of all kinds that people have: every odd kind is read correctly or refused in one clear line."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from visionzoo.io.image import ImageError, image_size, list_images, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def two_halves(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def test_exif_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: the stored left side is the top
    two_halves().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = load_image(tmp_path / "turned.jpg")
    assert upright.shape == (40, 20, 3)
    assert upright[5, 10, 0] > 200
    assert upright[35, 10, 2] > 200


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    pixel = load_image(tmp_path / "red.jpg")[4, 4]
    assert pixel[0] > 200
    assert pixel[1] < 80
    assert pixel[2] < 80


def test_cmyk_with_a_broken_profile_is_still_read(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", icc_profile=b"not a profile", quality=95)
    with pytest.warns(UserWarning, match="ICC profile"):
        assert load_image(tmp_path / "red.jpg")[4, 4, 0] > 200


def test_rgb_profile_is_harmless(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    two_halves().save(tmp_path / "a.png", icc_profile=profile)
    assert tuple(load_image(tmp_path / "a.png")[0, 0]) == RED


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([10, 20, 30] + [0] * 765)
        image.save(tmp_path / "a.png", transparency=0)
    else:
        Image.new(mode, (4, 4), 0).save(tmp_path / "a.png")
    assert tuple(load_image(tmp_path / "a.png")[0, 0]) == WHITE


def test_half_transparent() -> None:
    assert (
        np.abs(load_image(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))[0, 0].astype(int) - (255, 127, 127)).max() <= 1
    )
    array = np.array([[[255, 0, 0, 128]]], np.uint8)
    assert np.abs(load_image(array)[0, 0].astype(int) - (255, 127, 127)).max() <= 1


def test_sixteen_bit_and_float(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert np.array_equal(load_image(tmp_path / "deep.png")[..., 0], (ramp // 257).astype(np.uint8))
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "unit.tif")
    assert load_image(tmp_path / "unit.tif").max() == 255
    Image.fromarray(np.linspace(-3, 7, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "any.tif")
    stretched = load_image(tmp_path / "any.tif")
    assert stretched.min() == 0
    assert stretched.max() == 255


def test_float_with_nan(tmp_path: Path) -> None:
    array = np.zeros((4, 4), np.float32)
    array[1, 1] = np.nan
    Image.fromarray(array).save(tmp_path / "nan.tif")
    with pytest.raises(ImageError, match=r"nan\.tif.*NaN"):
        load_image(tmp_path / "nan.tif")


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    Image.new("RGB", (6, 6), RED).save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (6, 6), BLUE)]
    )
    assert tuple(load_image(tmp_path / "a.gif")[0, 0]) == RED


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_tiny(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, GREEN).save(tmp_path / "tiny.png")
    assert load_image(tmp_path / "tiny.png", max_side=20).shape[:2] == (min(size[1], 20), min(size[0], 20))


def test_names_that_are_not_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Grüße 写真 🦊.png"
    two_halves().save(path)
    assert load_image(path).shape == (20, 40, 3)
    assert list_images(tmp_path) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"hello", "not an image"), (b"\xff\xd8\xff\xe0 nonsense", "not an image|damaged")],
)
def test_files_without_an_image(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"x\.jpg: .*({message})"):
        load_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".gif", ".webp", ".bmp"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for part in (0.02, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ImageError, match=r"cut\."):
            load_image(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "no.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


def bomb(path: Path, side: int) -> Path:
    """A PNG that declares side x side pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    return path


def test_absurd_size_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        ImageError, match=r"60000 x 60000 pixels is over the limit of 250 million.*VISIONZOO_MAX_PIXELS"
    ):
        load_image(bomb(tmp_path / "bomb.png", 60000))
    assert image_size(tmp_path / "bomb.png") == (60000, 60000)
    monkeypatch.setenv("VISIONZOO_MAX_PIXELS", "100")
    with pytest.raises(ImageError, match="over the limit"):
        load_image(bomb(tmp_path / "small.png", 11))
    assert limit == Image.MAX_IMAGE_PIXELS  # other users of Pillow in the process keep their limit


def test_large_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_halves(1600, 800).save(tmp_path / "big.jpg")
    monkeypatch.setenv("VISIONZOO_MAX_PIXELS", "400000")
    assert load_image(tmp_path / "big.jpg", max_side=200).shape == (100, 200, 3)
    with pytest.raises(ImageError):
        load_image(tmp_path / "big.jpg")


def test_arrays_and_tensors() -> None:
    array = np.asarray(two_halves())
    assert np.array_equal(load_image(array), array)
    assert np.array_equal(load_image(torch.from_numpy(array.copy()).permute(2, 0, 1)), array)
    assert np.array_equal(load_image(torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255), array)
    assert load_image(np.zeros((5, 7), bool)).shape == (5, 7, 3)
    assert load_image(np.full((5, 7, 1), 40000, np.uint16))[0, 0, 0] == 156  # 155.6
    for wrong in (
        np.zeros((5,)),
        np.zeros((2, 2, 2)),
        np.zeros((0, 4, 3)),
        np.full((2, 2), -1),
        np.full((2, 2), 3.0),
        np.full((2, 2), np.inf),
    ):
        with pytest.raises(ImageError):
            load_image(wrong)


def every_kind(folder: Path) -> list[Path]:
    """Files of each mode that PIL can store, including those for which a plain `convert("RGB")` would be wrong."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = two_halves()
    clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = np.linspace(0, 65535, 800).astype(np.uint16).reshape(20, 40)
    image.save(folder / "turned.jpg", exif=exif)
    image.save(folder / "turned.tif", exif=exif)
    image.save(folder / "turned.png", exif=exif)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("1").save(folder / "one_bit.png")
    image.convert("P").save(folder / "palette.gif", transparency=0)
    image.quantize(4).save(folder / "palette.png", transparency=bytes([0, 90, 200, 255]))
    image.save(folder / "key.png", transparency=RED)
    image.convert("L").save(folder / "grey_key.png", transparency=image.convert("L").getpixel((0, 0)))
    clear.save(folder / "clear.png")
    clear.save(folder / "clear.webp", lossless=True)
    clear.save(folder / "clear.tif")
    clear.convert("LA").save(folder / "grey_clear.png")
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "deep_key.png", transparency=int(deep[3, 5]))
    Image.fromarray(deep).save(folder / "deep.tif")
    Image.fromarray(deep.astype(np.float32)).save(folder / "float.tif")
    return sorted(folder.iterdir())


def test_a_pil_image_gives_what_its_file_gives(tmp_path: Path) -> None:
    """It is the same before and after decoding, and for the bytes of the file."""
    files = every_kind(tmp_path)
    assert len(files) == 17
    for path in files:
        pixels = load_image(path)
        assert np.array_equal(load_image(path.read_bytes()), pixels), path.name
        with Image.open(path) as image:
            assert np.array_equal(load_image(image), pixels), path.name
            image.load()
            assert np.array_equal(load_image(image), pixels), path.name
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1
    assert tuple(load_image(tmp_path / "deep_key.png")[3, 5]) == WHITE
    assert tuple(load_image(tmp_path / "key.png")[0, 0]) == WHITE
    assert tuple(load_image(tmp_path / "grey_key.png")[0, 0]) == WHITE
    assert load_image(tmp_path / "clear.png")[0].min() > 240
    assert np.array_equal(load_image(tmp_path / "clear.png"), load_image(tmp_path / "clear.webp"))
    assert np.array_equal(load_image(tmp_path / "clear.png"), load_image(tmp_path / "clear.tif"))


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.webp", ".git/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["a.PNG", "b.jpg", "sub/c.webp"]
    assert [p.name for p in list_images(tmp_path, recursive=False)] == ["a.PNG", "b.jpg"]
    assert [p.name for p in list_images(str(tmp_path / "*.jpg"))] == ["b.jpg"]
    assert list_images([tmp_path / "b.jpg", tmp_path / "notes.txt", tmp_path / "b.jpg"]) == [
        tmp_path / "b.jpg",
        tmp_path / "notes.txt",
    ]


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    photos, disk = tmp_path / "photos", tmp_path / "disk"
    for name in ("photos/a.jpg", "photos/sub/b.jpg", "disk/c.jpg", "other/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (photos / "disk").symlink_to(disk, target_is_directory=True)
    (photos / "same_disk").symlink_to(disk, target_is_directory=True)
    (photos / "again").symlink_to(photos / "sub", target_is_directory=True)
    (photos / "sub" / "ring").symlink_to(photos, target_is_directory=True)
    (photos / "sub" / "above").symlink_to(tmp_path, target_is_directory=True)
    (disk / "back").symlink_to(photos, target_is_directory=True)
    (photos / "gone").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    names = [path.relative_to(photos).as_posix() for path in list_images(photos)]
    assert names == ["a.jpg", "disk/c.jpg", "sub/b.jpg"]
    assert [path.name for path in list_images(photos / "disk")] == ["c.jpg", "a.jpg", "b.jpg"]


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no images found"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match="no such file or folder"):
        list_images(tmp_path / "no")
    with pytest.raises(ImageError, match="no images found"):
        list_images(str(tmp_path / "*.jpg"))


def test_reading_gives_no_warnings(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("value", [None, 12, 0.5])
def test_invalid_images_are_named(value: object) -> None:
    with pytest.raises(ImageError, match=f"{value} is not an image; expected a path, a PIL image"):
        load_image(value)  # pyright: ignore[reportArgumentType]
