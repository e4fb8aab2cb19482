"""Awkward files, names and outputs, and the messages that every command must print for them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .calls import Call
from .setting import draw


@dataclass(frozen=True)
class Material:
    """Contents that files are made of."""

    jpeg: bytes
    png: bytes
    video: bytes


@dataclass(frozen=True)
class Case:
    """One awkward situation.

    Attributes:
        name: name of the test.
        files: files in the current folder, by name; the content is a function of the material, or text.
        inputs: inputs as typed by the user; by default the first file.
        output: output as typed by the user; {ext} is the extension of the command's output.
        options: added to the command line; they replace those of the same name.
        code: exit code.
        says: regular expression for the first line on standard error, without `visionzoo: error: `.
        left: files that exist afterwards, in addition to those before.
        applies: whether the case applies to a command.
        links: symbolic links in the current folder, and their targets.
        folders: folders to create in the current folder.
    """

    name: str
    files: Mapping[str, Callable[[Material], bytes] | bytes] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    output: str = "out{ext}"
    options: Sequence[str] = ()
    code: int = 2
    says: str = ""
    left: Sequence[str] = ()
    applies: Callable[[Call], bool] = lambda call: True
    links: Mapping[str, str] = field(default_factory=dict)
    folders: Sequence[str] = ()

    def typed(self) -> list[str]:
        return list(self.inputs) or [next(iter(self.files))]


def jpeg(material: Material) -> bytes:
    return material.jpeg


def good(name: str, **more: object) -> Case:
    """A readable image under an awkward name."""
    case = Case(name, code=0, says=r"saved to out", left=("out{ext}", "out{ext}.json"))
    return replace(case, **more)  # pyright: ignore[reportArgumentType]


def _reads_videos(call: Call) -> bool:
    return call.videos


def _no_videos(call: Call) -> bool:
    return not call.videos and call.command != "classify"  # which reads videos, but writes none


def _to_folder(call: Call) -> bool:
    return call.many and call.to_folder


def _in_one(call: Call) -> bool:
    return call.many and not call.to_folder


PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
LONG = "x" * 240
TOO_LONG = "y" * 300
NAMES = {
    "spaces": "my photo.jpg",
    "newline": "a\nb.jpg",
    "quotes": 'it\'s "b".jpg',
    "brackets": "[b].jpg",
    "leading dash": "-dash.jpg",
    "hash": "a#b.jpg",
    "percent": "a%20b.jpg",
    "composed": unicodedata.normalize("NFC", "é.jpg"),
    "decomposed": unicodedata.normalize("NFD", "é.jpg"),
    "long": f"{LONG}.jpg",
}

CASES = [
    # what is not an image
    Case("missing", inputs=["gone.jpg"], says=r"gone\.jpg: no such file"),
    Case(
        "empty",
        {"a.jpg": b""},
        says=r"a\.jpg: the file is empty \(0 bytes\), expected an image .*; copy or download it again",
    ),
    Case(
        "folder without images",
        folders=["d"],
        inputs=["d"],
        says=r"d: (no images .*found; expected files with the extension|is a folder)",
    ),
    Case("text", {"a.jpg": b"hello\n"}, says=r"a\.jpg: not an image that can be read"),
    Case("web page", {"a.jpg": PAGE}, says=r"a\.jpg: is a web page, expected an image .*; download the file itself"),
    Case("LFS pointer", {"a.jpg": POINTER}, says=r"a\.jpg: is a Git LFS pointer, expected an image .*`git lfs pull`"),
    Case("truncated JPEG", {"a.jpg": lambda m: m.jpeg[: len(m.jpeg) // 2]}, says=r"a\.jpg: damaged or truncated image"),
    Case("truncated PNG", {"a.png": lambda m: m.png[: len(m.png) // 2]}, says=r"a\.png: damaged or truncated image"),
    Case("no access", links={"a.jpg": "/proc/self/mem"}, inputs=["a.jpg"], says=r"a\.jpg: cannot be read \("),
    Case("video called image", {"a.jpg": lambda m: m.video}, says=r"a\.jpg: is a video, "),
    Case(
        "video",
        {"a.mp4": lambda m: m.video},
        applies=_no_videos,
        says=r"a\.mp4: is a video, which is not read as an image",
    ),
    Case(
        "truncated video",
        {"a.mp4": lambda m: m.video[: len(m.video) // 2]},
        output="out.mp4",
        applies=_reads_videos,
        says=r"a\.mp4: ",
    ),
    Case(
        "image called video",
        {"a.mp4": jpeg},
        output="out.mp4",
        applies=_reads_videos,
        says=r"a\.mp4: is an image, but has the extension of a video",
    ),
    good("image called video, which is not read", files={"a.mp4": jpeg}, applies=_no_videos),
    # names
    *(
        good(
            f"name with {kind}" if kind != "long" else "long name",
            files={name: jpeg},
            inputs=[f"./{name}" if name[0] == "-" else name],
        )
        for kind, name in NAMES.items()
    ),
    Case(
        "name that looks like an option",
        {"-dash.jpg": jpeg},
        says=r"-dash\.jpg: begins like an option; if it is a file, write \./-dash\.jpg",
    ),
    good(
        "newline in the output",
        files={"a.jpg": jpeg},
        output="a\nb{ext}",
        says=r"saved to a\\nb",
        left=("a\nb{ext}", "a\nb{ext}.json"),
    ),
    # outputs
    Case(
        "long output",
        {"a.jpg": jpeg},
        output=TOO_LONG + "{ext}",
        says=r"y+\.\w+: the name is too long for this file system",
    ),
    Case(
        "output whose sidecar is too long",
        {"a.jpg": jpeg},
        output="y" * 249 + "{ext}",
        says=r"y+\.\w+\.json: the name is too long",
    ),
    Case(
        "output exists",
        {"a.jpg": jpeg, "out{ext}": b"mine"},
        says=r"out\.\w+: exists already; choose another name or add --overwrite",
    ),
    Case(
        "output is a folder",
        {"a.jpg": jpeg},
        folders=["out.png"],
        output="out.png",
        applies=lambda call: not call.to_folder,
        says=r"out\.png: is a folder|out\.png: exists",
    ),
    Case(
        "output is the input",
        {"a{ext}": jpeg},
        output="a{ext}",
        options=["--overwrite"],
        says=r"a\.\w+: is (the input itself|an input), which is never overwritten",
    ),
    Case(
        "output leads to the input",
        {"a.jpg": jpeg},
        links={"out{ext}": "a.jpg"},
        options=["--overwrite"],
        says=r"out\.\w+: is an input, which is never overwritten",
    ),
    Case(
        "folder of the output is a file",
        {"a.jpg": jpeg, "f": b""},
        output="f/out{ext}",
        says=r"f/out\.\w+: .*/f is a file, not a folder; choose another name",
    ),
    Case(
        "folder of the output is missing",
        {"a.jpg": jpeg},
        output="no/out{ext}",
        says=r"no/out\.\w+: the folder .*/no does not exist; create it first",
    ),
    Case("output of an unknown extension", {"a.jpg": jpeg}, output="out.xyz", says=r"out\.xyz: .*written as"),
    # several inputs
    Case(
        "several inputs and a file",
        {"a.jpg": jpeg, "b.jpg": jpeg},
        ["a.jpg", "b.jpg"],
        applies=_to_folder,
        says=r"out\.\w+: with several inputs, the output must be a folder",
    ),
    Case(
        "two inputs of one name",
        {"x/a.jpg": jpeg, "y/a.jpg": jpeg},
        ["x", "y"],
        "out",
        applies=_to_folder,
        says=r"y/a\.jpg and x/a\.jpg would both be written to out/a\.\w+",
    ),
    Case(
        "too many arguments",
        {"a.jpg": jpeg, "b.jpg": jpeg},
        ["a.jpg", "b.jpg"],
        applies=lambda call: not call.many,
        says=r".*: too many arguments, e\.g\. visionzoo ",
    ),
    Case(
        "some bad",
        {"a.jpg": jpeg, "b.jpg": b""},
        ["a.jpg", "b.jpg"],
        code=1,
        applies=_in_one,
        says=r"visionzoo: warning: b\.jpg: the file is empty",
        left=("out{ext}", "out{ext}.json"),
    ),
    Case(
        "some bad, to a folder",
        {"a.jpg": jpeg, "b.jpg": b""},
        ["a.jpg", "b.jpg"],
        "out",
        code=1,
        applies=_to_folder,
        says=r"visionzoo: warning: b\.jpg: the file is empty",
        left=("out/a.*", "out/a.*.json"),
    ),
    Case(
        "all bad",
        {"a.jpg": b"", "b.jpg": b"x"},
        ["a.jpg", "b.jpg"],
        applies=_in_one,
        says=r"visionzoo: warning: a\.jpg: the file is empty",
    ),
    Case(
        "all bad, to a folder",
        {"a.jpg": b"", "b.jpg": b"x"},
        ["a.jpg", "b.jpg"],
        "out",
        applies=_to_folder,
        says=r"visionzoo: warning: a\.jpg: the file is empty",
    ),
    # models
    Case("no such model", {"a.jpg": jpeg}, options=["--model", "nosuch"], says=r"there is no model 'nosuch'"),
    Case(
        "missing checkpoint",
        {"a.jpg": jpeg},
        options=["--checkpoint", "gone.pth"],
        says=r"gone\.pth: no such file, expected a checkpoint",
    ),
    Case(
        "checkpoint of another task",
        {"a.jpg": jpeg},
        options=["--checkpoint", "{other}"],
        says=r".*: holds a network for the task \w+, which is not a \w+ model",
    ),
    Case(
        "a photo as checkpoint", {"a.jpg": jpeg}, options=["--checkpoint", "a.jpg"], says=r"a\.jpg: is not a checkpoint"
    ),
    Case("no such device", {"a.jpg": jpeg}, options=["--device", "abacus"], says=r"unknown device 'abacus'"),
]


def material(folder: Path) -> Material:
    """The contents, made once."""
    from fractions import Fraction

    import numpy as np

    from visionzoo.io.video import VideoWriter

    with VideoWriter(folder / "clip.mp4", fps=Fraction(25)) as writer:
        for number in range(3):
            writer.write(np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    image = draw(folder / "a.jpg")
    return Material(image.read_bytes(), draw(folder / "a.png").read_bytes(), (folder / "clip.mp4").read_bytes())
