"""`visionzoo fit|validate|test|predict`: YAML and overrides, merged and resolved by OmegaConf, run by LightningCLI.

A configuration has the sections of a LightningCLI file: `model` and `data` (each `class_path` and `init_args`),
`trainer`, `seed_everything`, `ckpt_path`; and `vars`, whose values exist only for `${vars.NAME}` in the others.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import json as json_format
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError, VisionZooError, require

SUBCOMMANDS = ("fit", "validate", "test", "predict")
SECTIONS = ("model", "data", "trainer", "seed_everything", "ckpt_path", "vars")
TRUSTED = ("visionzoo", "lightning", "torch")
"""Packages whose classes a configuration may name. `VISIONZOO_CONFIG_PACKAGES` (comma-separated) adds to them."""


def run(
    subcommand: str, configs: Sequence[str | Path], overrides: Sequence[str] = (), json: bool = False
) -> dict[str, Any]:
    """Run one subcommand and print its result on stdout; progress goes to stderr.

    Args:
        subcommand: "fit", "validate", "test" or "predict".
        configs: YAML files; later ones win. A path, or a packaged name such as "superglobal/tiny".
        overrides: `key=value`, or `--key=value`, or `--key value`; `model.lr` is short for `model.init_args.lr`.
        json: print the result as JSON instead of text.

    Returns:
        The result: what the model's `report` gives, or else its metrics by name.

    Raises:
        InputError: a file, key, value, class or checkpoint that cannot be used.
        VisionZooError: a package is missing, or the run was interrupted.
    """
    if subcommand not in SUBCOMMANDS:
        raise InputError(f"there is no subcommand {subcommand!r}; use {', '.join(SUBCOMMANDS)}")
    for module in ("lightning", "jsonargparse", "omegaconf"):
        require(module, extra="train", purpose=f"visionzoo {subcommand}")
    config = load_config(configs, overrides)
    with _quiet(), contextlib.redirect_stdout(sys.stderr):
        report, speaks = _run(subcommand, config)
    result = report.as_dict() if hasattr(report, "as_dict") else report
    if speaks:  # one of several processes
        print(json_format.dumps(result, indent=1) if json else _text(report))
    return result


# Configuration


def load_config(configs: Sequence[str | Path], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Merge files and overrides, resolve every `${…}`, and return plain values without `vars`.

    Raises:
        InputError: no file, a missing file, YAML syntax, an unknown section, or an interpolation that leads nowhere.
    """
    require("omegaconf", extra="train", purpose="reading a configuration")
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not configs:
        raise InputError(f"give --config FILE, or one of the packaged: {', '.join(packaged_configs()) or 'none'}")
    merged: Any = OmegaConf.create({})
    try:
        for name in configs:
            merged = OmegaConf.merge(merged, _read_yaml(_find(name)))
        short = {section for section in ("model", "data") if OmegaConf.select(merged, f"{section}.class_path")}
        words = [_lengthen(word, short) for word in split_overrides(overrides)]
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(words))
        content = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{' '.join(map(str, configs))}: {_one_line(error)}") from error
    except (ValueError, TypeError) as error:  # YAML inside an override, or a list where a mapping was
        if isinstance(error, InputError):
            raise
        raise InputError(f"{' '.join(map(str, configs))} with {' '.join(overrides)}: {_one_line(error)}") from error
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
    """`--a.b 1`, `--a.b=1` and `a.b=1` all to "a.b=1"."""
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


def _lengthen(word: str, sections: set[str]) -> str:
    """`model.lr=1` to `model.init_args.lr=1`."""
    key, _, value = word.partition("=")
    section, _, inner = key.partition(".")
    if section in sections and inner and inner.split(".")[0] not in ("class_path", "init_args", "dict_kwargs"):
        return f"{section}.init_args.{inner}={value}"
    return word


def _find(name: str | Path) -> Any:
    """The file of that path, or the packaged configuration of that name."""
    path = Path(name)
    if path.is_file():
        return path
    plain = str(name).replace("\\", "/").removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    packaged = packaged_configs()
    if plain in packaged:
        return resources.files("visionzoo.configs").joinpath(f"{plain}.yaml")
    near = difflib.get_close_matches(plain, packaged, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"packaged ones: {', '.join(packaged) or 'none'}"
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
            f"{file}{where}: not valid YAML ({getattr(error, 'problem', None) or _one_line(error)})"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a text file ({error.reason})") from error
    if not OmegaConf.is_dict(content) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{file}: expected the sections {', '.join(SECTIONS)}, found something else")
    return content


def _check_keys(values: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"{where} has no setting {key!r}; {hint}")


def _class_of(path: Any, where: str) -> type:
    """The class that `class_path` names, from a package that may be named."""
    if not isinstance(path, str) or "." not in path:
        raise InputError(f"{where}: class_path is {path!r}, expected package.Class")
    _check_trusted(path, where)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, VisionZooError):
            raise
        raise InputError(f"{where}: there is no class {path!r} ({_one_line(error)})") from error
    if not isinstance(found, type):
        raise InputError(f"{where}: {path!r} is not a class")
    return found


def _check_trusted(path: str, where: str) -> None:
    added = (package.strip() for package in os.environ.get("VISIONZOO_CONFIG_PACKAGES", "").split(","))
    trusted = (*TRUSTED, *filter(None, added))
    if path.split(".")[0] not in trusted:
        raise InputError(
            f"{where}: class_path {path!r} is not of {', '.join(trusted)}; if you trust it, set "
            f"VISIONZOO_CONFIG_PACKAGES={path.split('.')[0]}"
        )


def _check_class_paths(value: Any, where: str) -> None:
    """Refuse classes of other packages anywhere: a configuration from elsewhere must not import what it likes."""
    if isinstance(value, dict):
        path = value.get("class_path")
        if isinstance(path, str) and "." in path:
            _check_trusted(path, where)
        for key, item in value.items():
            _check_class_paths(item, f"{where}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_class_paths(item, f"{where}[{i}]")


def _check(config: dict[str, Any]) -> None:
    """Unknown settings, before anything is built."""
    from lightning.pytorch import Trainer

    for section in ("model", "data"):
        value = config.get(section)
        if not isinstance(value, dict) or "class_path" not in value:
            raise InputError(f"the configuration lacks {section}.class_path")
        _check_keys(value, ("class_path", "init_args", "dict_kwargs"), section)
        built = _class_of(value["class_path"], section)
        parameters = inspect.signature(built).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            _check_keys(value.get("init_args") or {}, tuple(parameters), f"{section} ({built.__name__})")
    trainer = config.get("trainer") or {}
    if not isinstance(trainer, dict):
        raise InputError(f"trainer is {trainer!r}, expected settings such as trainer.max_epochs")
    _check_keys(trainer, tuple(inspect.signature(Trainer).parameters), "trainer")
    _check_class_paths(config, "the configuration")
    checkpoint = config.get("ckpt_path")
    if checkpoint is not None and checkpoint not in ("last", "best") and not Path(checkpoint).is_file():
        raise InputError(f"{checkpoint}: no such checkpoint; give a file of a former run, or ckpt_path=last")


# Running


def _run(subcommand: str, config: dict[str, Any]) -> tuple[Any, bool]:
    """What the run found, and whether this process is the one to print it."""
    from jsonargparse import ArgumentError
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.cli import LightningCLI

    class CLI(LightningCLI):
        def _parse_ckpt_path(self) -> None:
            """Settings come from the configuration alone; a checkpoint brings weights and state."""

    _check(config)
    if config.get("ckpt_path") is None:
        config.pop("ckpt_path", None)
    else:
        config["weights_only"] = True  # nothing in a checkpoint is run
    config.setdefault("seed_everything", 0)
    config["trainer"] = dict(config.get("trainer") or {})
    config["trainer"].setdefault("enable_progress_bar", sys.stderr.isatty())
    if subcommand in ("validate", "test"):
        config["verbose"] = False  # the table is printed at the end
    if subcommand == "predict":
        config["return_predictions"] = False  # a million descriptors are written, not kept
    if subcommand != "fit":
        config["trainer"].setdefault("logger", False)
        config["trainer"].setdefault("enable_checkpointing", bool(config["trainer"].get("callbacks")))
    instantiated: CLI | None = None
    try:
        instantiated = CLI(
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None if subcommand != "fit" else _save_config_callback(),
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"exit_on_error": False, **{name: {"exit_on_error": False} for name in SUBCOMMANDS}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args={"subcommand": subcommand, subcommand: config},
        )
    except VisionZooError:
        raise
    except ArgumentError as error:
        raise InputError(_explain(error)) from error
    except MisconfigurationException as error:
        raise InputError(_one_line(error)) from error
    except ValueError as error:
        mistake = _cause(error, VisionZooError)  # jsonargparse wraps what a constructor raises
        if mistake is None:
            raise
        raise mistake from error
    except (KeyboardInterrupt, SystemExit) as error:
        raise VisionZooError(f"interrupted; resume with: visionzoo {subcommand} … ckpt_path=last") from error
    report = getattr(instantiated.model, "report", None)
    return report if report is not None else _metrics(instantiated.trainer), instantiated.trainer.is_global_zero


def _save_config_callback() -> Any:
    from lightning.pytorch.cli import SaveConfigCallback

    return SaveConfigCallback


def _cause(error: BaseException | None, kind: type) -> Any:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _explain(error: BaseException) -> str:
    """The parser's message in one line: which setting, its value, what was expected."""
    text = str(error)
    keys = ".".join(dict.fromkeys(re.findall(r'[Kk]ey "([\w.]+)"', text)))
    inner = re.search(r'[Kk]ey "[\w.]+":\s+Expected an? (.+?)\. Got value: (.*)', text)
    problems = re.findall(r"^\s+- (.*)", text, re.MULTILINE)
    if inner:
        expected, value = [inner[1]], inner[2]
    else:
        expected = [found[1] for problem in problems if (found := re.fullmatch(r"Expected an? (.+)", problem))]
        value = (re.findall(r"Given value: (.*)", text) or [""])[0]
        if not value or len(expected) < len(problems):
            return f"{keys}: {problems[0]}" if keys and problems else _one_line(error)
    names = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind).replace("typing.", "") for kind in expected]
    kinds = " or ".join("nothing" if name == "NoneType" else name for name in names)
    return f"{keys} is {value[:80]}, expected {kinds}"


def _metrics(trainer: Any) -> dict[str, float | None]:
    values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _text(report: Any) -> str:
    if not isinstance(report, dict):
        return str(report)
    width = max(map(len, report), default=0)
    return "\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in report.items()) or "done"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware, workers and tips; warnings that tell of a mistake stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            r".*args parameter is intended to run from within Python.*",
            r".*does not have many workers.*",
            r".*number of training batches \(\d+\) is smaller than the logging interval.*",
            r".*Checkpoint directory .* exists and is not empty.*",
            r".*isinstance\(treespec, LeafSpec\).*",
            r".*Starting from v1\.9\.0, `tensorboardX`.*",
            r".*Couldn't infer the batch indices fetched from your dataloader.*",
            r".*Total length of `(DataLoader|list)` across ranks is zero.*",
            r".*was deprecated in v4\.49\.0.*",  # LightningCLI's use of jsonargparse
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
