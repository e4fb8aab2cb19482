"""Uploads on all pages: one kind of box, the files that it accepts, and checks before anything else reads a file."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import gradio as gr
from PIL import Image

from visionzoo.errors import InputError, VisionZooError, writing
from visionzoo.io.extensions import ANIMATIONS, IMAGES, VIDEOS
from visionzoo.io.image import ImageError, image_format, image_size, load_image
from visionzoo.io.video import probe

from .words import explain, plain, problem, sentence

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
"""Pillow's names of the formats that an upload may have: pixels only, no programs that draw (EPS)."""
SHOWN_BY_BROWSERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "ICO")


@dataclass(frozen=True)
class Medium:
    """A kind of file that a box accepts.

    Attributes:
        name: word for one such file, e.g. "image".
        extensions: accepted extensions.
        formats: the usual formats, in words.
        max_mb: largest size of a file in megabytes.
        limit: other limits, in words.
        check: raises `InputError` for a file that cannot be used.
    """

    name: str
    extensions: frozenset[str]
    formats: str
    max_mb: int
    check: Callable[[Path], object]
    limit: str = ""

    @property
    def words(self) -> str:
        """The files that the box accepts, for the line below it."""
        return f"{self.formats}; up to {self.max_mb} MB{self.limit and f', {self.limit}'}"


def check_image(path: Path) -> None:
    """Decode an image. Raises `ImageError` if it is not an image, damaged, too large, or of another format."""
    width, height = image_size(path)
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{path}: {width} x {height} pixels is over this page's limit of {MAX_PIXELS / 1e6:.0f} million; shrink it first"
        )
    if image_format(path) not in FORMATS:
        raise ImageError(f"{path}: is not in a format that this page accepts; save it as JPEG, PNG or WebP")
    load_image(path)


IMAGE = Medium("image", IMAGES, "JPEG, PNG, WebP, TIFF and more", 20, check_image, f"{MAX_PIXELS / 1e6:.0f} megapixels")
VIDEO = Medium("video", VIDEOS | ANIMATIONS, "MP4, MOV, WebM, MKV and more", 100, probe)
MAX_MB = max(IMAGE.max_mb, VIDEO.max_mb)
"""Largest size of any file that the server accepts."""


@dataclass(frozen=True)
class Box:
    """An upload box and the line below it."""

    component: Any
    line: gr.HTML
    medium: Medium
    words: str

    def hint(self, trouble: str = "") -> str:
        """The line below the box: the files that it accepts and, above that, why the last file was refused."""
        return _hint(self.component.elem_id, self.medium, self.words, trouble)

    def checked(self, upload: Any) -> tuple[Any, str]:
        """The content of the box after an upload, and its line."""
        if upload is None:
            return gr.skip(), self.hint()
        uploads = upload if isinstance(upload, list) else [upload]
        good, troubles = [], []
        for one in uploads:
            try:
                good.append(self._usable(one))
            except VisionZooError as error:
                troubles.append(explain(error, names_of(one)))
        if isinstance(upload, list) and len(uploads) > 1:  # each is checked when it is processed
            return gr.skip(), self.hint()
        if troubles:
            return None, self.hint(f"{sentence(troubles[0])} Choose another file.")
        same = good[0] == path_of(uploads[0])
        return gr.skip() if same else str(good[0]), self.hint()

    def _usable(self, upload: Any) -> Path:
        """The file of an upload; an image that browsers cannot show becomes a PNG file of the same pixels."""
        path = checked_path(upload, self.medium)
        if (
            self.medium.name != "image"
            or isinstance(self.component, gr.File)
            or image_format(path) in SHOWN_BY_BROWSERS
        ):
            return path
        target = new_folder(self.component.GRADIO_CACHE) / f"{PurePath(name_of(upload)).stem[:80]}.png"
        Image.fromarray(load_image(path)).save(target, compress_level=1)
        return target


def upload_box(medium: Medium, label: str, elem_id: str, *, many: int = 0, height: int = 230, words: str = "") -> Box:
    """An upload box in the look of all pages. Call it where the box belongs; files are checked as they arrive.

    Args:
        medium: the kind of file that it accepts.
        many: largest number of files.
        words: more text below the box.
    """
    with gr.Column(elem_classes=["vz-upload", f"vz-takes-{medium.name}{'s' if many else ''}"], min_width=230):
        if medium.name == "image" and not many:
            component: Any = gr.Image(
                label=label,
                type="filepath",
                sources=["upload"],
                height=height,
                buttons=["fullscreen"],
                elem_id=elem_id,
            )
        else:
            component = gr.File(
                label=label,
                file_count="multiple" if many else "single",
                file_types=sorted(medium.extensions),
                height=height,
                elem_id=elem_id,
            )
        line = gr.HTML(_hint(elem_id, medium, words))
    box = Box(component, line, medium, words)
    refuse_addresses(component, medium.name)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    component.upload(box.checked, component, [component, line], preprocess=False, **quiet)
    component.clear(box.hint, None, line, **quiet)
    return box


_turns = itertools.count(1)


def _hint(elem_id: str, medium: Medium, words: str, trouble: str = "") -> str:
    more = f" {plain(words)}" if words else ""
    turn = next(_turns) if trouble else 0  # the browser shows the same trouble again only if something differs
    return (
        f'<div class="vz-accepts" data-turn="{turn}" data-box="{elem_id}" data-medium="{medium.name}" data-max-mb="{medium.max_mb}" '
        f'data-extensions="{" ".join(sorted(medium.extensions))}">'
        f'<div class="vz-refused">{problem(trouble) if trouble else ""}</div>'
        f"<p>{plain(sentence(medium.words))}{more}</p></div>"
    )


def name_of(upload: Any) -> str:
    """The name that its owner gave an upload."""
    if isinstance(upload, str):
        return PurePath(upload).name
    name = upload.get("orig_name") if isinstance(upload, dict) else None
    return PurePath(str(name).replace("\\", "/")).name if name else "the upload"


def names_of(*uploads: Any) -> dict[str, str]:
    """Path -> name of all uploads and lists of uploads among the values: for `words.explain`."""
    found: dict[str, str] = {}
    for upload in uploads:
        if isinstance(upload, list):
            found |= names_of(*upload)
        elif isinstance(upload, dict) and "path" in upload:
            found[str(upload["path"])] = name_of(upload)
    return found


def path_of(upload: Any) -> Path:
    """Where an upload is on this machine. Raises `InputError` if there is none."""
    try:
        return Path(upload if isinstance(upload, str) else upload["path"])
    except (KeyError, TypeError) as error:
        raise InputError("the upload no longer exists; upload it again") from error


def checked_path(upload: Any, medium: Medium) -> Path:
    """The file of an upload. Raises `InputError` if it is of another kind."""
    path = path_of(upload)
    if path.is_file() and path.stat().st_size > medium.max_mb * 1_000_000:
        raise InputError(
            f"{path}: {path.stat().st_size / 1e6:.0f} MB is over this page's limit of {medium.max_mb} MB; shrink it first"
        )
    medium.check(path)
    return path


def new_folder(home: str | Path) -> Path:
    """A new folder within `home`, whose name nobody can guess."""
    with writing(home):
        Path(home).mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=home))


def refuse_addresses(component: Any, what: str) -> None:
    """Make `component` accept files only, not addresses that this server would have to download.

    Args:
        what: word for the message, e.g. "photo".
    """
    vars(component)["async_move_resource_to_block_cache"] = partial(_refuse, component, what)


async def _refuse(component: Any, what: str, place: Any) -> str | None:
    if str(place).startswith(("http:", "https:")):
        raise gr.Error(f"upload the {what} itself; addresses are not downloaded", print_exception=False)
    return await type(component).async_move_resource_to_block_cache(component, place)


SCRIPT = """<script>
// A file of the wrong kind, too large or empty is refused before it is sent. The reason stays below the box.
(() => {
  const refuse = (line, text) => {
    const place = line.querySelector(".vz-refused");
    place.innerHTML = text ? '<div class="vz-problem" role="alert"></div>' : "";
    if (text) place.firstChild.textContent = text;
  };
  const fault = (line, file) => {
    const medium = line.dataset.medium, limit = Number(line.dataset.maxMb);
    const extension = (file.name.match(/[.][^.]*$/) || [""])[0].toLowerCase();
    if (!line.dataset.extensions.split(" ").includes(extension))
      return `${file.name}: this box takes ${medium}s, not files that end in "${extension || "nothing"}". Choose another file.`;
    if (file.size === 0) return `${file.name}: the file is empty (0 bytes). Choose another file, or save it again.`;
    if (file.size > limit * 1e6)
      return `${file.name}: ${(file.size / 1e6).toFixed(0)} MB is over the limit of ${limit} MB. Choose a smaller ${medium}.`;
  };
  const lineOf = target => {
    for (let at = target; at; at = at.parentElement)
      if (at.id) {
        const line = document.querySelector(`.vz-accepts[data-box="${CSS.escape(at.id)}"]`);
        if (line) return line;
      }
  };
  const judge = (event, files) => {
    const line = event.target.closest && lineOf(event.target);
    if (!line || !files || !files.length) return;
    const reason = [...files].map(file => fault(line, file)).find(text => text);
    refuse(line, reason);
    if (!reason) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    if (event.target.type === "file") event.target.value = "";
    if (event.type === "drop") event.target.dispatchEvent(new DragEvent("dragleave", {bubbles: true}));
  };
  window.addEventListener("click", event => {
    const samples = event.target.closest && event.target.closest(".vz-samples .gallery-item");
    if (samples) samples.closest(".vz-inputs").querySelectorAll(".vz-accepts").forEach(line => refuse(line));
  }, true);
  window.addEventListener("change", event => judge(event, event.target.files), true);
  window.addEventListener("drop", event => judge(event, event.dataTransfer && event.dataTransfer.files), true);
})();
</script>"""

__all__ = [
    "FORMATS", "IMAGE", "MAX_MB", "MAX_PIXELS", "SCRIPT", "VIDEO", "Box", "Medium", "checked_path", "name_of", "names_of",
    "new_folder", "path_of", "upload_box",
]  # fmt: skip
