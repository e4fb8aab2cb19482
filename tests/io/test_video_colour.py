"""Colours of videos: HDR, wide gamuts and transparency are converted to ordinary 8-bit RGB."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from visionzoo.io.video import read_frames
from visionzoo.io.video.colour import KNEE, Colours, colours_of, to_bt709

av = pytest.importorskip("av")
PQ, HLG, BT709, BT2020, P3 = 16, 18, 1, 9, 12


def converted(code: Any, primaries: int, curve: int) -> list[int]:
    """One colour, its codes from 0 to 1."""
    pixels = (np.array(code).reshape(1, 1, 3) * 65535).round().astype(np.uint16)
    return to_bt709(pixels, Colours(primaries, curve))[0, 0].tolist()


def pq(nits: float) -> float:
    """Inverse of the curve of BT.2100."""
    power = (nits / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.18, 0.5, 0.89])
def test_hdr_grey_is_the_light_that_a_screen_gives(share: float) -> None:
    assert converted([pq(203 * share)] * 3, BT2020, PQ) == pytest.approx([255 * share ** (1 / 2.4)] * 3, abs=0.6)


def test_reference_white_is_white_and_highlights_are_soft() -> None:
    assert pq(203) == pytest.approx(0.58, abs=1e-3)  # BT.2408, table 1
    levels = [converted([pq(nits)] * 3, BT2020, PQ)[0] for nits in (203 * KNEE, 203, 300, 1000, 10_000)]
    assert levels == sorted(levels)
    assert levels[1] >= 249
    assert levels[-1] == 255
    assert converted([0.75] * 3, BT2020, HLG)[0] == pytest.approx(levels[1], abs=1)  # BT.2408: 75 % of HLG
    assert converted([1.0] * 3, BT2020, HLG) == [255] * 3


def test_highlights_keep_their_hue() -> None:
    red, green, blue = converted([pq(203 * part) for part in (4, 2, 1)], BT709, PQ)
    light = (np.array([red, green, blue]) / 255) ** 2.4
    assert light[1] / light[0] == pytest.approx(0.5, abs=0.02)
    assert light[2] / light[0] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("curve", [1, 4, 13, 14])
@pytest.mark.parametrize("primaries", [BT2020, 11, P3])
def test_greys_of_wide_gamuts_stay(primaries: int, curve: int) -> None:
    for level in (0, 1, 60, 128, 254, 255):
        assert converted([level / 255] * 3, primaries, curve) == pytest.approx([level] * 3, abs=1)


def test_colours_of_wide_gamuts_are_more_saturated_than_their_numbers() -> None:
    # red of sRGB in the primaries of Display P3, as Apple's colour profiles have it: (234, 51, 35)
    assert converted(np.array([234, 51, 35]) / 255, P3, 13) == pytest.approx([255, 0, 0], abs=3)
    assert converted([1, 0, 0], BT2020, 1) == [255, 0, 0]  # outside the gamut


def test_ordinary_colours_are_left_alone() -> None:
    assert Colours(1, 1).kind is Colours(5, 6).kind is Colours(2, 2).kind is Colours(1, 13).kind is None
    assert Colours(9, 16).kind == "HDR (PQ)"
    assert Colours(1, 18).kind == "HDR (HLG)"
    assert Colours(9, 14).kind == Colours(12, 13).kind == "wide-gamut colour"
    stream = SimpleNamespace(codec_context=SimpleNamespace(color_primaries=9, color_trc=16))
    assert colours_of(SimpleNamespace(color_primaries=2, color_trc=2), stream) == (9, 16)
    assert colours_of(SimpleNamespace(color_primaries=1, color_trc=1), stream) == (1, 1)


def transparent(path: Path, codec: str, pixel_format: str) -> Path:
    """Red that fades out from left to right, over green pixels that are fully transparent."""
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 220, np.linspace(255, 0, 64).astype(np.uint8)
    pixels[:, 56:] = (0, 200, 0, 0)
    try:
        av.codec.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this build of PyAV has no {codec}")
    with av.open(str(path), "w") as container:
        options = {"crf": "4", "auto-alt-ref": "0"} if "vpx" in codec else {}
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 32, pixel_format
        if "vpx" in codec:
            stream.metadata["alpha_mode"] = "1"
        for _ in range(3):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pixel_format))
            )
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
    ],
)
def test_transparent_parts_are_blended_with_white(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    frames = list(read_frames(transparent(tmp_path / name, codec, pixel_format)))
    assert len(frames) == 3
    middle: NDArray[np.int64] = frames[1].pixels[16].astype(int)
    assert middle[60] == pytest.approx([255] * 3, abs=3)
    for x in (4, 20, 40):
        cover = 1 - x / 63
        assert middle[x] == pytest.approx([255 - 35 * cover, 255 - 255 * cover, 255 - 255 * cover], abs=9)


def test_a_conversion_is_noted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv444p"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = P3, 1, 1
        for _ in range(3):
            pixels = np.full((32, 32, 3), (200, 120, 90), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv444p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(path))
    assert len(frames) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: wide-gamut colour is converted to the colours of ordinary video (BT.709)"
    ]
    assert frames[0].pixels[9, 9, 0] > 204
    assert frames[0].pixels[9, 9, 2] < 88
