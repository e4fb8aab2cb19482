"""JSON files of data sets, with one-line errors for what is missing in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError
from visionzoo.io.head import read_head


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a file. Raises `InputError` if the file cannot be read, is no JSON object, or lacks one of `keys`."""
    read_head(path, "a JSON file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); copy it again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(data).__name__}")
    missing = [key for key in keys if key not in data]
    if missing:
        raise InputError(f"{path}: the entry {missing[0]!r} is missing")
    return data
