"""Text of the pages as HTML, in words for visitors, who see no server, no command line and no paths."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping
from pathlib import PurePath

from PIL import Image

from visionzoo.console import printable
from visionzoo.errors import MissingDependencyError
from visionzoo.registry import list_pipelines
from visionzoo.weights import WeightsError

_OURS = "|".join(
    (*list_pipelines(), "fit", "validate", "test", "weights", "models", "demo", "bench", "export", "doctor")
)
_COMMAND = re.compile(
    rf"(?<![\w-])--?[a-z][\w-]*|\bvisionzoo (?:{_OURS})\b|\bpip\b|\bgit lfs\b|\b[A-Z]{{2,}}_[A-Z_]+\b|\bthe command\b|\bextra\b"
)
"""Matches words that are only useful at a terminal: options, commands, environment variables."""
_PAREN = re.compile(r"\s*\([^()]*\)")
_PLACE = re.compile(r"(?<![\w:/.<])(?:[A-Za-z]:\\|/)(?:[^\s'\"<>|:;,()]+[/\\])+([^\s'\"<>|:;,()]*)")
"""An absolute path; its last part is kept."""


def plain(text: str) -> str:
    return html.escape(printable(text))


def prose(text: str) -> str:
    """HTML in which text in backticks becomes code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", plain(text))


def for_visitors(text: str) -> str:
    """`text` without the clauses that are about commands, and without folders of this machine.

    A command of ours that is only named becomes its page: "the default of `visionzoo retrieve`" is the default of the retrieve page.
    """
    text = re.sub(r"`visionzoo (\w+)`", r"the \1 page", text)
    text = _PAREN.sub(lambda found: "" if _COMMAND.search(found[0]) else found[0], text)
    text = _PLACE.sub(r"\1", text)
    kept = [
        "; ".join(clause for clause in sentence.split("; ") if not _COMMAND.search(clause))
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", text)
    ]
    return " ".join(sentence for sentence in kept if sentence).strip()


def told(text: str) -> str:
    """A text of a model card as HTML."""
    return prose(for_visitors(text))


def explain(error: Exception, names: Mapping[str, str] | None = None) -> str:
    """The message for a visitor about an error: which of their files it concerns, and what to do.

    Args:
        names: path of an upload on this machine -> the name that its owner gave it.
    """
    if isinstance(error, MissingDependencyError):
        purpose = for_visitors(str(error).partition(" needs ")[0])
        return f"This server lacks a package for {purpose}. Ask its operator, or try another kind of file."
    text = str(error)
    for path, name in sorted((names or {}).items(), key=lambda pair: -len(pair[0])):
        text = text.replace(path, name)
    kept = for_visitors(text)
    if isinstance(error, WeightsError):
        return f"{kept or 'These weights are not available'}. Choose another model, or ask the operator of this server."
    return kept or "This cannot be done with these files and settings. Try others."


def problem(reason: str, heading: str = "") -> str:
    """An error that stays until the next attempt."""
    title = f"<strong>{plain(heading)}</strong> " if heading else ""
    return f'<div class="vz-problem" role="alert">{title}{plain(sentence(reason))}</div>'


_NAMED = re.compile(r"[^:]{1,200}\.\w{1,5}: |\S*[._]\w")
"""Matches a text that begins with the name of a file or a model."""


def sentence(text: str) -> str:
    """The text as a sentence: with a full stop, and with a capital unless it begins with the name of a file or a model."""
    if text[:1].islower() and not _NAMED.match(text):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def image_tag(image: Image.Image, label: str) -> str:
    """An image, without loss, embedded in HTML."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return f'<img alt="{plain(label)}" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def file_stem(name: object, fallback: str) -> str:
    """The name of an upload without its extension, as any system accepts it in the name of a download."""
    stem = PurePath(str(name or "")).stem
    return "".join(letter for letter in stem if letter.isalnum() or letter in " -_.()")[:80].strip(" .") or fallback


__all__ = [
    "duration", "explain", "file_stem", "for_visitors", "image_tag", "plain", "problem", "prose", "sentence", "told",
]  # fmt: skip
