"""Class names of a classifier: from a file, or those of ImageNet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .console import counted
from .errors import InputError
from .io.files import bundled
from .io.head import read_head


def class_names(labels: str | Path | Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Names of a network's `count` classes: `labels` if given, ImageNet's for 1000 classes, or else "class 0", …

    Raises:
        InputError: a file that cannot be read, or a wrong number of names.
    """
    if labels is None:
        return imagenet_classes() if count == 1000 else tuple(f"class {index}" for index in range(count))
    names = read_labels(Path(labels)) if isinstance(labels, (str, Path)) else tuple(map(str, labels))
    if len(names) != count:
        where = f"{labels}: names" if isinstance(labels, (str, Path)) else "the labels name"
        raise InputError(
            f"{where} {counted(len(names), 'class', 'classes')}, but the network has {count}; give one name for each"
        )
    return names


def imagenet_classes() -> tuple[str, ...]:
    """English names of the 1000 classes of ImageNet-1k, as in torchvision (whose import would take seconds)."""
    return read_labels(bundled("imagenet_classes.txt"))


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names from a file: a JSON list, or one name per line. Raises `InputError` if it is neither."""
    read_head(path, "a file of labels")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        names = json.loads(text) if text.startswith(("[", "{")) else [line.strip() for line in text.splitlines()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise InputError(f"{path}: is neither a text file with one name per line nor a JSON list ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: expected names, one per line or as a JSON list, none of them empty")
    return tuple(names)
