"""Presets: settings of an edit in YAML files, those of LOVECon's recipes or a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError, unknown

from .file_options import EditFileOptions
from .options import EditOptions

__all__ = ["load_preset", "preset_names", "use_preset"]


def preset_names() -> list[str]:
    """The presets that come with visionzoo: "attribute", "background" and "style"."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def _folder() -> Any:
    return resources.files("visionzoo.configs").joinpath("lovecon").joinpath("presets")


def load_preset(name: str | Path) -> dict[str, Any]:
    """The settings of a preset, as keyword arguments of an edit.

    >>> pipe.run("street.mp4", "out.mp4", prompt=…, source_prompt=…, **load_preset("style"))

    Args:
        name: one of `preset_names`, or a YAML file with fields of `EditOptions` and `EditFileOptions`.

    Raises:
        InputError: there is no such preset or file, or it holds something else.
    """
    from yaml import YAMLError, safe_load

    place: Any = Path(name)
    if str(name) in preset_names():
        place = _folder().joinpath(f"{name}.yaml")
    elif not place.is_file():
        if place.suffix in (".yaml", ".yml") or len(place.parts) > 1:
            raise InputError(f"{name}: no such file, expected a preset: settings of an edit in YAML")
        raise unknown("preset", str(name), preset_names())
    try:
        settings = safe_load(place.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: is not valid YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(settings, dict):
        raise InputError(f"{name}: holds no settings, expected lines such as steps: 20")
    known = [field.name for kind in (EditOptions, EditFileOptions) for field in fields(kind)]
    if wrong := [key for key in settings if key not in known]:
        raise InputError(f"{name}: {unknown('setting of an edit', str(wrong[0]), known)}")
    return settings


def use_preset(app: Any, commands: Sequence[str], arguments: Any) -> None:
    """Take the options that a command line does not give from its `--preset`; a source of options for cyclopts."""
    from cyclopts.config import Dict

    given = next((one for one in arguments if "--preset" in one.names and one.tokens), None)
    if given is None:
        return
    name = given.tokens[-1].value
    settings: dict[str, Any] = {key: _as_option(value) for key, value in load_preset(name).items()}
    for command in reversed(commands):  # at the top level, cyclopts takes the setting "edit" for the command
        settings = {command: settings}
    Dict(settings, source=name)(app, tuple(commands), arguments)


def _as_option(value: Any) -> Any:
    """A list as a command line has it, e.g. 100,100."""
    return ",".join(map(str, value)) if isinstance(value, list) else value
