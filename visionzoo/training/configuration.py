"""The settings of `visionzoo fit|validate|test|predict`: YAML files and overrides, merged, resolved and checked by OmegaConf.

A configuration has the sections of a LightningCLI file: `model` and `data` (each `class_path` and `init_args`),
`trainer`, `seed_everything`, `ckpt_path`; and `vars`, whose values are only used as `${vars.NAME}` in the others.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError, VisionZooError, require

SECTIONS = ("model", "data", "trainer", "seed_everything", "ckpt_path", "vars")
TRUSTED = ("visionzoo", "lightning", "torch")
"""Packages whose classes a configuration may use. `VISIONZOO_CONFIG_PACKAGES` (comma-separated) adds more."""


def load_config(configs: Sequence[str | Path], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Merge files and overrides, resolve every `${…}`, and return plain values without `vars`.

    Raises:
        InputError: no file, a missing file, invalid YAML, an unknown section, or an interpolation that cannot be resolved.
    """
    require("omegaconf", extra="train", purpose="reading a configuration")
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not configs:
        raise InputError(f"give --config FILE, or a packaged recipe: {', '.join(packaged_configs()) or 'none'}")
    merged: Any = OmegaConf.create({})
    try:
        for name in configs:
            merged = OmegaConf.merge(merged, _read_yaml(_find(name)))
        short = {section for section in ("model", "data") if OmegaConf.select(merged, f"{section}.class_path")}
        words = [_lengthen(word, short) for word in split_overrides(overrides)]
        known = tuple(merged.get("vars") or ())
        for word in words:
            key, _, value = word.partition("=")
            _check_var(key, known)
            OmegaConf.update(merged, key, OmegaConf.from_dotlist([f"value={value}"]).value)
        content = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{' '.join(map(str, configs))}: {one_line(error)}") from error
    except (ValueError, TypeError, YAMLError) as error:  # invalid YAML in an override, or a list instead of a mapping
        if isinstance(error, InputError):
            raise
        raise InputError(f"{' '.join(map(str, configs))} with {' '.join(overrides)}: {one_line(error)}") from error
    assert isinstance(content, dict)
    config = {str(key): value for key, value in content.items()}
    _check_keys(config, SECTIONS, "the configuration")
    config.pop("vars", None)
    return config


def packaged_configs() -> list[str]:
    """Names of the configurations that come with the package, e.g. "superglobal/tiny"."""
    try:
        top = resources.files("visionzoo.configs")
    except ModuleNotFoundError:
        return []
    return sorted(
        f"{system.name}/{file.name.removesuffix('.yaml')}"
        for system in top.iterdir()
        if system.is_dir()
        for file in system.iterdir()
        if file.name.endswith(".yaml")
    )


def split_overrides(words: Sequence[str]) -> list[str]:
    """Turn `--a.b 1`, `--a.b=1` and `a.b=1` into "a.b=1"."""
    out: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key = word.removeprefix("--")
        if "=" not in key and word.startswith("--") and rest and not rest[0].startswith("--"):
            key = f"{key}={rest.pop(0)}"
        if not re.match(r"^[A-Za-z_][\w.]*(\[\d+\][\w.]*)*=", key):
            raise InputError(f"{word!r} is not a setting; write key=value, e.g. trainer.max_epochs=3")
        out.append(key)
    return out


def _check_var(key: str, known: Sequence[str]) -> None:
    section, _, name = key.partition(".")
    if section == "vars" and name.split(".")[0] not in known:
        hint = f"known: {', '.join(f'vars.{var}' for var in known)}" if known else "it defines no vars"
        raise InputError(f"{key}: the configuration does not use this value; {hint}")


def _lengthen(word: str, sections: set[str]) -> str:
    """Turn `model.lr=1` into `model.init_args.lr=1`."""
    key, _, value = word.partition("=")
    section, _, inner = key.partition(".")
    if section in sections and inner and inner.split(".")[0] not in ("class_path", "init_args", "dict_kwargs"):
        return f"{section}.init_args.{inner}={value}"
    return word


def _find(name: str | Path) -> Any:
    """The file with this path, or the packaged configuration with this name."""
    path = Path(name)
    if path.is_file():
        return path
    plain = str(name).replace("\\", "/").removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    packaged = packaged_configs()
    if plain in packaged:
        return resources.files("visionzoo.configs").joinpath(f"{plain}.yaml")
    if path.is_dir():
        files = sorted(path.glob("*.yaml"))
        hint = f"; give one of its files, e.g. {files[0]}" if files else ""
        raise InputError(f"{name}: is a folder, expected a configuration file (YAML){hint}")
    near = difflib.get_close_matches(plain, packaged, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"packaged recipes: {', '.join(packaged) or 'none'}"
    raise InputError(f"{name}: no such configuration file; {hint}")


def _read_yaml(file: Any) -> Any:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        content = OmegaConf.create(file.read_text(encoding="utf-8"))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{file}{where}: not valid YAML ({getattr(error, 'problem', None) or one_line(error)})"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a text file ({error.reason})") from error
    if not OmegaConf.is_dict(content) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{file}: expected the sections {', '.join(SECTIONS)}, found something else")
    if not content:
        raise InputError(f"{file}: holds no settings; expected the sections {', '.join(SECTIONS)}, or some of them")
    return content


def _check_keys(values: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"{where} has no setting {key!r}; {hint}")


def _class_of(path: Any, where: str) -> type:
    """The class at `class_path`, which must be in a trusted package."""
    if not isinstance(path, str) or "." not in path:
        raise InputError(f"{where}: class_path must be package.Class, got {path!r}")
    _check_trusted(path, where)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, VisionZooError):
            raise
        raise InputError(f"{where}: there is no class {path!r} ({one_line(error)})") from error
    if not isinstance(found, type):
        raise InputError(f"{where}: {path!r} is not a class")
    return found


def _check_trusted(path: str, where: str) -> None:
    added = (package.strip() for package in os.environ.get("VISIONZOO_CONFIG_PACKAGES", "").split(","))
    trusted = (*TRUSTED, *filter(None, added))
    if path.split(".")[0] not in trusted:
        raise InputError(
            f"{where}: class_path {path!r} is not in the packages {', '.join(trusted)}; if you trust it, set "
            f"VISIONZOO_CONFIG_PACKAGES={path.split('.')[0]}"
        )


def _check_class_paths(value: Any, where: str) -> None:
    """Refuse classes of other packages anywhere, so that an untrusted configuration cannot import arbitrary code."""
    if isinstance(value, dict):
        path = value.get("class_path")
        if isinstance(path, str) and "." in path:
            _check_trusted(path, where)
        for key, item in value.items():
            _check_class_paths(item, f"{where}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_class_paths(item, f"{where}[{i}]")


STEPS = {"fit": "training", "validate": "validation", "test": "test", "predict": "predict"}
"""Subcommand -> name of its step method in a LightningModule."""


def check_config(config: dict[str, Any], subcommand: str) -> None:
    """Raise `InputError` for unknown settings, or a subcommand that the classes do not support, before anything is built."""
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    for section in ("model", "data"):
        value = config.get(section)
        if not isinstance(value, dict) or "class_path" not in value:
            raise InputError(
                f"the configuration lacks {section}.class_path; a file that changes settings follows the one that it changes: "
                "--config BASE --config CHANGES.yaml"
            )
        _check_keys(value, ("class_path", "init_args", "dict_kwargs"), section)
        built = _class_of(value["class_path"], section)
        parameters = inspect.signature(built).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            _check_keys(value.get("init_args") or {}, tuple(parameters), f"{section} ({built.__name__})")
        base, hook = (LightningModule, "{}_step") if section == "model" else (LightningDataModule, "{}_dataloader")
        _check_subcommand(built, base, hook, subcommand)
    trainer = config.get("trainer") or {}
    if not isinstance(trainer, dict):
        raise InputError(f"trainer must hold settings such as trainer.max_epochs, got {trainer!r}")
    _check_keys(trainer, tuple(inspect.signature(Trainer).parameters), "trainer")
    _check_class_paths(config, "the configuration")
    checkpoint = config.get("ckpt_path")
    if checkpoint is not None and checkpoint not in ("last", "best") and not Path(checkpoint).is_file():
        raise InputError(f"{checkpoint}: no such checkpoint; give a checkpoint of an earlier run, or ckpt_path=last")


def _check_subcommand(built: type, base: type, hook: str, subcommand: str) -> None:
    """Raise `InputError` if a class does not implement a subcommand."""
    short = {"training": "train", "validation": "val"}
    names = {word: hook.format(short.get(step, step) if "loader" in hook else step) for word, step in STEPS.items()}
    can = [word for word, name in names.items() if getattr(built, name, None) is not getattr(base, name)]
    if issubclass(built, base) and subcommand not in can:
        raise InputError(f"{built.__name__} does not support `visionzoo {subcommand}`, only {', '.join(can)}")


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(error).__name__
