"""The demo page of haze removal: a picture before and after, and what a part of the result depends on."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from visionzoo.errors import InputError, VisionZooError, writing
from visionzoo.io.files import atomic_path, bundled
from visionzoo.io.image import ImageError, load_image
from visionzoo.io.pixels import floats_to_bytes, to_float
from visionzoo.registry import model_card, weight_source
from visionzoo.weights import locate, offline

from ..models.dehazexl import attribution_map, attribution_picture
from ..models.dehazexl.haze import Haze
from ..models.dehazexl.streaming import SHIFT, Grid, StreamOptions
from ..pipelines.dehaze.attribution import share_inside
from ..pipelines.dehaze.pipeline import DehazePipeline
from .uploads import path_of, refuse_addresses, without_path
from .words import duration, plain, prose, show_problem

TITLE = "Remove haze"
MIN_SIDE = 16
"""Pixels of the shorter side of an upload; the network has one token per 32 x 32."""
Tell = Callable[[int, int, str], object]
"""Called with (tiles done, of, what is being done)."""
SHOWN_SIDE = 2048
"""Longest side of the pictures in the slider."""
MAP_SIDE = 1024
"""Longest side of the pictures that attribution maps are made of."""
MAP_STEPS = 8
WINDOWS = (16, 256)
"""Sides of the window that a map is for, from and to."""

EMPTY = (
    '<div class="vz-empty">Pick one of the sample pictures, or upload one of your own. Then press Remove haze.</div>'
)
_CLICK = (
    "Click a place in the result: the map shows which pixels of the hazy picture it depends on (up to half a minute)."
)
EMPTY_MAP = f'<div class="vz-empty">First remove the haze of a picture. {_CLICK}</div>'
READY_MAP = f'<div class="vz-empty">{_CLICK}</div>'
INTRO = (
    '<div class="vz-head"><h1>Take the haze off a picture</h1>'
    "<p>The network works tile by tile, and all tiles see each other: so pictures may be large.</p></div>"
)
NOTE = """<div class="vz-note">
<p><strong>Tiles</strong> have 256 x 256 pixels. They are joined without overlap, so that a border may show; blending runs a second,
shifted grid of tiles over it.</p>
<p><strong>Attribution maps</strong> follow the line from the network's own clear result to the hazy picture in 8 steps and add up
what each pixel contributes to the window's mean and variance (integrated gradients).</p>
<p><strong>Method:</strong> DehazeXL, <a href="https://arxiv.org/abs/2504.09621" rel="noreferrer" target="_blank">Tokenize Image
Patches: Global Context Fusion for Effective Haze Removal in Large Images</a>, CVPR 2025.</p>
<p><strong>Sample pictures.</strong> Clear photos to which haze was added by computer: temple (danielbuechele) and flower (vultilion),
CC BY 2.0, altered; camera (Lav Varshney), CC0.</p>
<p><strong>Uploads</strong> and results are deleted after an hour. Nothing is sent to other hosts.</p>
</div>"""

_SHOW_RESULTS = """() => {
  const results = document.querySelector("#vz-dehaze-result:has(.vz-done)");
  if (results && results.getBoundingClientRect().top > window.innerHeight / 2) results.scrollIntoView({behavior: "smooth"});
}"""
"""On a narrow screen the results stand below the picture."""

_STYLE = """<style>
.gradio-container {
#vz-dehaze-picture { border: 1px solid var(--border-color-primary); }
#vz-dehaze-samples .gallery { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 5px; }
#vz-dehaze-samples .gallery-item { position: relative; aspect-ratio: 4 / 3; width: auto; border: 0; border-radius: 2px; }
#vz-dehaze-samples .gallery-item .container { display: block; position: absolute; inset: 0; width: 100%; height: 100%;
                                              max-width: none; max-height: none; border: 0; }
#vz-dehaze-samples .gallery-item img { width: 100%; height: 100%; max-width: none; object-fit: cover; }
#vz-dehaze-samples .gallery-item:is(:hover, :focus-visible) { outline: 2px solid var(--color-accent); outline-offset: 1px; }
#vz-dehaze-result { scroll-margin-top: 1rem; }
.vz-done { border-top: 2px solid var(--body-text-color); padding: .6rem 0 .2rem; }
.vz-done span, .vz-done p { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vz-done p { margin: .2rem 0 0; font-size: var(--text-sm); }
#vz-dehaze-place { cursor: crosshair; }
}
</style>"""
"""Of this page alone. Nested, so that it weighs more than the rules that Gradio has for text."""


# The network


def what_is_missing() -> str | None:
    """Why the default network cannot be had here, or None if it can (perhaps by a download)."""
    try:
        source = weight_source(DehazePipeline.default_model)
    except InputError as error:
        return str(error)
    path = locate(source)
    if (path is not None and path.is_file()) or ((source.url or source.hub) and not offline()):
        return None
    return (
        f"the weights of {DehazePipeline.default_model} are not here: put {source.file} into the folder `weights` of "
        "visionzoo's cache (VISIONZOO_HOME), or install visionzoo again"
    )


class Restorer:
    """The pipeline with the default network, made when it is first asked for.

    Args:
        pipe: use this one instead.
    """

    def __init__(self, pipe: DehazePipeline | None = None):
        self._pipe = pipe
        self._lock = threading.Lock()

    @property
    def missing(self) -> str | None:
        return None if self._pipe is not None else what_is_missing()

    def __call__(self) -> DehazePipeline:
        """Raises `VisionZooError` if the weights cannot be had."""
        with self._lock:
            if self._pipe is None:
                missing = what_is_missing()
                if missing is not None:
                    raise InputError(missing)
                self._pipe = DehazePipeline.create()
            return self._pipe


def about() -> str:
    """The network and its limits in a few lines of HTML."""
    card = model_card(DehazePipeline.default_model)
    cautions = "".join(f" <b>{prose(source.caution)}</b>" for source in card.weights[:1])
    return (
        f'<p class="vz-hint"><strong>{plain(card.name)}</strong>, {card.params / 1e6:.1f} M parameters. '
        f"{prose(card.summary)} <strong>Its quality is limited.</strong> {prose(card.limits)}{cautions}</p>"
    )


# Removing haze


@dataclass(frozen=True)
class Removed:
    """A picture before and after.

    Attributes:
        hazy, clear: (H, W, 3) uint8.
        name: of the download, without ending.
        tiles: that went through the network; all of both grids with blending.
        seconds: that took.
    """

    hazy: np.ndarray
    clear: np.ndarray
    name: str
    tiles: int
    seconds: float


def read(upload: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8 of an upload. Raises `ImageError`, without a path, if it cannot be used."""
    path = path_of(upload)
    try:
        picture = load_image(path)
    except ImageError as error:
        raise ImageError(without_path(str(error), str(path))) from error
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{width} x {height} pixels is too small to tell haze; at least {MIN_SIDE} pixels a side are needed"
        )
    return picture


def remove(pipe: DehazePipeline, upload: dict[str, Any], blend: bool, tell: Tell | None = None) -> Removed:
    """Take the haze off an upload.

    Args:
        tell: see `Tell`.

    Raises:
        InputError: the upload cannot be used.
    """
    picture = read(upload)
    height, width = picture.shape[:2]
    grids = tuple(Grid(height, width, offset).count for offset in ((0, SHIFT) if blend else (0,)))
    started = time.perf_counter()
    clear = pipe.restore(picture, StreamOptions(blend=blend), TileCount(grids, tell or (lambda done, of, what: None)))
    seconds = time.perf_counter() - started
    stem = Path(str(upload.get("orig_name") or "picture")).stem
    name = "".join(letter for letter in stem if letter.isalnum() or letter in " -_.()")[:80].strip(" .")
    return Removed(picture, clear, f"{name or 'picture'}_clear", sum(grids), seconds)


class TileCount:
    """Tells of tiles done over both passes and all grids; a tile counts when it has been encoded and decoded.

    Args:
        grids: tiles of each grid.
    """

    def __init__(self, grids: tuple[int, ...], tell: Tell):
        self.grids, self.tell = grids, tell
        self._grid = -1

    def __call__(self, step: str, done: int, of: int) -> None:
        self._grid += step == "encode" and done == 0
        before, here, total = sum(self.grids[: self._grid]), self.grids[self._grid], sum(self.grids)
        if step == "encode":
            self.tell(before + done // 2, total, "tiles: reading")
        elif step == "attend":
            self.tell(before + here // 2, total, "tiles: joining")
        else:
            self.tell(before + (here + done) // 2, total, "tiles: clearing")


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 with at most `side` pixels a side."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def save(removed: Removed, folder: str | Path) -> Path:
    """The full-size result as a PNG file in a new folder within `folder`, whose name nobody can guess."""
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=folder)) / f"{removed.name}.png"
        Image.fromarray(removed.clear).save(path, compress_level=3)
    return path


def show(removed: Removed, pipe: DehazePipeline) -> str:
    """What was done, as HTML."""
    height, width = removed.clear.shape[:2]
    megapixels = width * height / 1e6
    device = "the CPU" if pipe.device.type == "cpu" else "the GPU"
    small = (
        f" The slider shows them reduced to {SHOWN_SIDE} pixels; the download has all."
        if max(height, width) > SHOWN_SIDE
        else ""
    )
    return (
        f'<div class="vz-done"><strong>{width} x {height} pixels</strong> <span>{megapixels:.2f} megapixels in '
        f"{duration(removed.seconds)} on {device} ({duration(removed.seconds / megapixels)} a megapixel), "
        f"{removed.tiles} {'tile' if removed.tiles == 1 else 'tiles'}, by {plain(pipe.name)}</span>"
        f"<p>Left of the line: before. Right: after.{small}</p></div>"
    )


# Attribution


@dataclass(frozen=True)
class Look:
    """What attribution maps are made of: a picture before and after, reduced.

    Attributes:
        hazy, clear: (h, w, 3) uint8.
        full: (width, height) before it was reduced.
    """

    hazy: np.ndarray
    clear: np.ndarray
    full: tuple[int, int]

    @classmethod
    def of(cls, removed: Removed) -> Look:
        height, width = removed.hazy.shape[:2]
        return cls(reduced(removed.hazy, MAP_SIDE), reduced(removed.clear, MAP_SIDE), (width, height))

    def window(self, x: float, y: float, side: float) -> tuple[int, int, int, int]:
        """First row, first column, height and width of the window around a point that lies wholly inside."""
        height, width = self.hazy.shape[:2]
        tall, wide = (max(1, min(int(side), size)) for size in (height, width))
        top, left = round(y) - tall // 2, round(x) - wide // 2
        return max(0, min(top, height - tall)), max(0, min(left, width - wide)), tall, wide

    def framed(self, x: float, y: float, side: float) -> Image.Image:
        """The result with the window's outline."""
        top, left, tall, wide = self.window(x, y, side)
        picture = Image.fromarray(self.clear)
        pen = ImageDraw.Draw(picture)
        thin = max(1, round(max(picture.size) / 400))
        for around, colour in ((2 * thin, "black"), (thin, "white")):
            pen.rectangle(
                (left - around, top - around, left + wide - 1 + around, top + tall - 1 + around),
                outline=colour,
                width=thin,
            )
        return picture

    def size_text(self) -> str:
        height, width = self.hazy.shape[:2]
        if (width, height) == self.full:
            return f"{width} x {height} pixels."
        return (
            f"The picture of {self.full[0]} x {self.full[1]} pixels was reduced to {width} x {height} first, "
            f"so the network sees it smaller than in the result."
        )


def explain(pipe: DehazePipeline, look: Look, x: float, y: float, side: float) -> tuple[str, np.ndarray]:
    """The attribution map of a window as a picture, and HTML on how to read it. Raises `InputError`."""
    window = look.window(x, y, side)
    started = time.perf_counter()
    hazy = to_float(look.hazy).contiguous()
    found = attribution_map(pipe.network.to(pipe.device).float(), hazy, None, window, steps=MAP_STEPS)
    saliency = found.saliency.numpy()
    seconds = time.perf_counter() - started
    if saliency.any():
        share = f"{share_inside(saliency, window):.0%} of all that is shown lies inside the frame."
    else:
        share = "Here the network changes nothing, so the map is empty."
    text = (
        f'<div class="vz-done"><strong>What the framed window depends on</strong> <span>{MAP_STEPS} steps in '
        f"{duration(seconds)}</span><p>The redder a pixel, the more what the network made of the framed window depends on it; "
        f"blue ones hardly matter. {share} {look.size_text()}</p></div>"
    )
    return text, attribution_picture(look.hazy, saliency, window)


# The sample pictures

SAMPLES = {"temple": (7, True), "flower": (8, False), "camera": (10, True)}
"""Bundled photo -> the seed of its haze, and whether haze grows with the distance of a view over ground."""


def sample_haze(seed: int) -> Haze:
    return Haze(
        seed=seed,
        density=0.6,
        base=0.7,
        cell=400.0,
        persistence=0.5,
        contrast=2.0,
        slope=(0.0, 0.2),
        airlight=(0.62, 0.64, 0.66),
    )


def samples(home: Path) -> list[Path]:
    """Hazy pictures in `home`, made of bundled clear photos when they are not there yet."""
    folder = home / "dehaze"
    paths = [folder / f"{name}_hazy.jpg" for name in SAMPLES]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path, (name, (seed, far)) in zip(paths, SAMPLES.items(), strict=True):
            if path.exists():
                continue
            clear = load_image(bundled("photos", f"{name}_1.jpg"))
            height, width = clear.shape[:2]
            pixels = sample_haze(seed)(clear, distance=view_distance(height, width) if far else None)
            with atomic_path(path) as temporary:
                Image.fromarray(floats_to_bytes(pixels)).save(temporary, "JPEG", quality=92)
    return paths


def view_distance(height: int, width: int) -> np.ndarray:
    """(height, width): how far one sees in a view over ground, about as `draw_distance` draws it, without chance."""
    row = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    return np.broadcast_to(0.75 / (row + 0.25), (height, width)).astype(np.float32)


# The page


def page(*, home: Path, index: Path | None = None, pipe: DehazePipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample pictures.
        index: belongs to another page.
        pipe: what removes the haze; the default network if None.
    """
    del index
    restorer = Restorer(pipe)
    pictures = samples(home)

    # `preprocess=False` below hands over uploads as they are: they are decoded here, with our limits and messages

    def check(upload: dict[str, Any] | None) -> tuple[Any, ...]:
        if upload is None:
            return (gr.skip(),) * 4
        try:
            read(upload)
        except InputError as error:
            return None, show_problem(f"This file cannot be used: {error}", EMPTY), *hidden()
        return gr.skip(), EMPTY, *hidden()

    def hidden() -> tuple[Any, Any]:
        return gr.ImageSlider(None, visible=False), gr.DownloadButton(visible=False)

    def start(
        upload: dict[str, Any] | None,
        blend: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        nothing = *hidden(), *(gr.skip(),) * 8
        if upload is None:
            return show_problem("pick a sample picture or upload one first", EMPTY), *nothing
        try:
            used = restorer()
            removed = remove(
                used, upload, bool(blend), lambda done, of, what: progress((done, of), desc=what, unit="tiles")
            )
            file = save(removed, download.GRADIO_CACHE)
        except VisionZooError as error:
            return show_problem(str(error), EMPTY), *nothing
        look = Look.of(removed)
        height, width = look.hazy.shape[:2]
        x, y = width // 2, height // 2
        size = file.stat().st_size / 1e6
        pair = reduced(removed.hazy, SHOWN_SIDE), reduced(removed.clear, SHOWN_SIDE)
        return (
            show(removed, used),
            gr.ImageSlider(pair, visible=True),
            gr.DownloadButton(f"Download the result (PNG, {size:.1f} MB)", value=file, visible=True),
            look,
            gr.Image(look.framed(x, y, WINDOWS[0] * 4), visible=True),
            gr.Slider(0, width - 1, value=x, interactive=True),
            gr.Slider(0, height - 1, value=y, interactive=True),
            WINDOWS[0] * 4,
            f'<p class="vz-hint">Click a place in the result. {look.size_text()}</p>',
            READY_MAP,
            gr.Image(None, visible=False),
        )

    def frame(look: Look | None, x: float, y: float, side: float) -> Any:
        return gr.skip() if look is None else look.framed(x, y, side)

    def pick(look: Look | None, side: float, event: gr.SelectData) -> tuple[Any, ...]:
        if look is None:
            return (gr.skip(),) * 3
        x, y = (int(value) for value in event.index)
        return look.framed(x, y, side), x, y

    def map_of(look: Look | None, x: float, y: float, side: float) -> tuple[Any, Any]:
        if look is None:
            return EMPTY_MAP, gr.skip()
        try:
            text, picture = explain(restorer(), look, x, y, side)
        except VisionZooError as error:
            return show_problem(str(error)), gr.Image(None, visible=False)
        return text, gr.Image(picture, visible=True)

    gr.HTML(_STYLE + INTRO)
    if restorer.missing is not None:
        gr.HTML(show_problem(f"Haze cannot be removed yet: {restorer.missing}"), elem_id="vz-dehaze-missing")
    gr.HTML(about())
    state = gr.State(None, time_to_live=3600)
    with gr.Tabs():
        with gr.Tab("Before and after"), gr.Row(elem_classes="vz-columns", equal_height=False):
            with gr.Column(scale=3, min_width=300, elem_classes="vz-query"):
                picture = gr.Image(
                    label="Hazy picture",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=270,
                    buttons=["fullscreen"],
                    placeholder="Drop a hazy picture here\nor click to choose one",
                    elem_id="vz-dehaze-picture",
                )
                gr.Examples(
                    [[str(path)] for path in pictures],
                    picture,
                    label="Sample pictures: haze added by computer",
                    examples_per_page=len(pictures),
                    elem_id="vz-dehaze-samples",
                )
                blend = gr.Checkbox(
                    value=True,
                    label="Blend tile borders",
                    info="Without it half the time, and borders of tiles can show.",
                    elem_id="vz-dehaze-blend",
                )
                button = gr.Button("Remove haze", variant="primary", size="lg", elem_id="vz-dehaze-remove")
            with gr.Column(scale=8, min_width=300):
                result = gr.HTML(EMPTY, elem_id="vz-dehaze-result")
                slider = gr.ImageSlider(
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=720,
                    visible=False,
                    elem_id="vz-dehaze-slider",
                )
                download = gr.DownloadButton("Download the result", visible=False, elem_id="vz-dehaze-download")
        with gr.Tab("Attribution"), gr.Row(elem_classes="vz-columns", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="vz-query"):
                place = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    visible=False,
                    format="jpeg",
                    elem_id="vz-dehaze-place",
                )
                hint = gr.HTML(
                    f'<p class="vz-hint">Pictures of more than {MAP_SIDE} pixels a side are reduced first.</p>'
                )
                x = gr.Slider(0, 1, value=0, step=1, label="Centre, from the left", elem_id="vz-dehaze-x")
                y = gr.Slider(0, 1, value=0, step=1, label="Centre, from the top", elem_id="vz-dehaze-y")
                side = gr.Slider(*WINDOWS, value=64, step=1, label="Side of the window", elem_id="vz-dehaze-side")
                map_button = gr.Button("Show the map", variant="primary", size="lg", elem_id="vz-dehaze-explain")
            with gr.Column(scale=6, min_width=300):
                reading = gr.HTML(EMPTY_MAP, elem_id="vz-dehaze-reading")
                found = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    format="png",
                    visible=False,
                    elem_id="vz-dehaze-map",
                )
    gr.HTML(NOTE)

    refuse_addresses(picture, "picture")
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    run: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "dehaze", "concurrency_limit": 1}
    picture.clear(lambda: (EMPTY, *hidden()), None, [result, slider, download], **quiet)
    picture.change(check, picture, [picture, result, slider, download], preprocess=False, **quiet)
    button.click(lambda: (EMPTY, *hidden()), None, [result, slider, download], **quiet).then(
        start,
        [picture, blend],
        [result, slider, download, state, place, x, y, side, hint, reading, found],
        preprocess=False,
        show_progress_on=result,
        **run,
    ).success(None, js=_SHOW_RESULTS)
    window = [state, x, y, side]
    gr.on([x.release, y.release, side.release], frame, window, place, **quiet)
    mapped: dict[str, Any] = {"fn": map_of, "inputs": window, "outputs": [reading, found], **run}
    place.select(pick, [state, side], [place, x, y], **quiet).then(
        **mapped, show_progress_on=reading, trigger_mode="always_last"
    )
    map_button.click(**mapped, show_progress_on=reading)


__all__ = ["TITLE", "Restorer", "page", "samples"]
