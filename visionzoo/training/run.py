"""`visionzoo fit|validate|test|predict`: run a configuration with LightningCLI."""

from __future__ import annotations

import contextlib
import json as json_format
import logging
import math
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError, VisionZooError, require
from visionzoo.io.files import remove_empty

from .configuration import check_config, load_config, one_line, split_overrides
from .folders import check_writable, checkpoints, folder_of, last_folder, new_folder

SUBCOMMANDS = ("fit", "validate", "test", "predict")


def run(
    subcommand: str, configs: Sequence[str | Path], overrides: Sequence[str] = (), json: bool = False
) -> dict[str, Any]:
    """Run one subcommand; print its result on standard output and progress on standard error.

    Args:
        subcommand: "fit", "validate", "test" or "predict".
        configs: YAML files, each a path or a packaged name such as "superglobal/tiny"; later ones override earlier ones.
        overrides: `key=value`, or `--key=value`, or `--key value`; `model.lr` is short for `model.init_args.lr`.
        json: print the result as JSON instead of text.

    Returns:
        The result of the model's `report`, or else its metrics by name.

    Raises:
        InputError: a file, key, value, class or checkpoint that cannot be used.
        VisionZooError: a package is missing.
        KeyboardInterrupt: the run was interrupted; the message says what was saved and how to resume.
    """
    if subcommand not in SUBCOMMANDS:
        raise InputError(f"there is no subcommand {subcommand!r}; use {', '.join(SUBCOMMANDS)}")
    for module in ("lightning", "jsonargparse", "omegaconf"):
        require(module, extra="train", purpose=f"visionzoo {subcommand}")
    config = _placed(subcommand, configs, overrides)
    missing = _missing_folders(config) if subcommand == "fit" else []
    try:
        with _quiet(), contextlib.redirect_stdout(sys.stderr):
            report, speaks = _run(subcommand, config, _again(subcommand, configs, overrides))
    except BaseException:
        if missing:
            remove_empty(missing[-1])
        raise
    result = report.as_dict() if hasattr(report, "as_dict") else report
    if speaks:  # only one of several processes prints
        print(json_format.dumps(result, indent=1) if json else _text(report))
    return result


def _missing_folders(config: dict[str, Any]) -> list[Path]:
    """The folder that a run writes to and those around it, innermost first, as far as they do not exist yet."""
    folder = Path(config["trainer"]["default_root_dir"])
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _placed(subcommand: str, configs: Sequence[str | Path], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration, with the output folder of this run and the checkpoint to resume from."""
    config = load_config(configs, overrides)
    trainer = config.get("trainer")
    given = trainer.get("default_root_dir") if isinstance(trainer, dict) else None
    root = Path(given or Path("outputs", Path(configs[-1]).stem))
    checkpoint = config.get("ckpt_path")
    folder = root
    if checkpoint == "last":
        exact = any(word.startswith("trainer.default_root_dir=") for word in split_overrides(overrides))
        folder = root if exact and checkpoints(root) else last_folder(root)
        checkpoint = str(checkpoints(folder)[0])
    elif subcommand == "fit":
        folder = (folder_of(Path(checkpoint), root) if checkpoint else None) or new_folder(root)
    if subcommand == "fit" or given:
        overrides = [*overrides, f"trainer.default_root_dir={json_format.dumps(str(folder))}"]
        config = load_config(configs, overrides)
    return config if checkpoint is None else {**config, "ckpt_path": checkpoint}


def _again(subcommand: str, configs: Sequence[str | Path], overrides: Sequence[str]) -> str:
    """The command line without its checkpoint."""
    words = [word for word in split_overrides(overrides) if not word.startswith("ckpt_path=")]
    return shlex.join(["visionzoo", subcommand, *(w for config in configs for w in ("--config", str(config))), *words])


def _run(subcommand: str, config: dict[str, Any], again: str) -> tuple[Any, bool]:
    """Run; return the result, and whether this process is the one to print it."""
    from jsonargparse import ArgumentError
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.cli import LightningCLI

    class CLI(LightningCLI):
        def _parse_ckpt_path(self) -> None:
            """Do nothing: settings come only from the configuration, weights and state from the checkpoint."""

        def instantiate_classes(self) -> None:
            super().instantiate_classes()
            if (check := getattr(self.datamodule, "check_files", None)) is not None:
                check(subcommand)  # before Lightning starts a process for each device, and each of them finds out
            if checkpoint is not None:
                self.trainer.ckpt_path = checkpoint  # if passed as an argument, modules would not see it in `setup`

    check_config(config, subcommand)
    checkpoint = config.pop("ckpt_path", None)
    if checkpoint is not None:
        if checkpoint != "best":
            _check_resumable(Path(checkpoint))
        config["weights_only"] = True  # a checkpoint must not run code
    config.setdefault("seed_everything", 0)
    config["trainer"] = dict(config.get("trainer") or {})
    config["trainer"].setdefault("enable_progress_bar", sys.stderr.isatty())
    if subcommand in ("validate", "test"):
        config["verbose"] = False  # the table is printed at the end
    if subcommand == "predict":
        config["return_predictions"] = False  # a million descriptors are written to disk, not kept in memory
    callbacks: list[Any] = []
    if subcommand == "fit":
        from .watching import ProgressLines, StopWithCheckpoint

        check_writable(Path(config["trainer"]["default_root_dir"]))
        callbacks = [StopWithCheckpoint()]
        if not config["trainer"]["enable_progress_bar"]:
            callbacks.append(ProgressLines())
    else:
        config["trainer"].setdefault("logger", False)
        config["trainer"].setdefault("enable_checkpointing", bool(config["trainer"].get("callbacks")))
    handler = signal.getsignal(signal.SIGINT)
    try:
        instantiated = CLI(
            trainer_defaults={"callbacks": callbacks},
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
        raise InputError(one_line(error)) from error
    except ValueError as error:
        mistake = _cause(error, VisionZooError)  # jsonargparse wraps exceptions of constructors
        if mistake is None:
            raise
        raise mistake from error
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning exits after an interruption
        raise KeyboardInterrupt(_interrupted(config, subcommand, again)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    report = getattr(instantiated.model, "report", None)
    return report if report is not None else _metrics(instantiated.trainer), instantiated.trainer.is_global_zero


def _check_resumable(path: Path) -> None:
    """Raise `InputError` unless the file is a checkpoint of a training, which holds more than weights."""
    from visionzoo.weights import read_checkpoint

    content = read_checkpoint(path)
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise InputError(
            f"{path}: is not a training checkpoint (it holds no training state); give the .ckpt file of an earlier run, "
            "or ckpt_path=last"
        )


def _interrupted(config: dict[str, Any], subcommand: str, again: str) -> str:
    """The message for an interrupted run: what was saved, and how to resume."""
    saved = checkpoints(Path(config["trainer"]["default_root_dir"])) if subcommand == "fit" else []
    if not saved:
        return "interrupted; nothing was saved" if subcommand == "fit" else "interrupted"
    return f"interrupted; resume with: {again} {shlex.quote(f'ckpt_path={saved[0]}')}"


def _save_config_callback() -> Any:
    from lightning.pytorch.cli import SaveConfigCallback

    return SaveConfigCallback


def _cause(error: BaseException | None, kind: type) -> Any:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _explain(error: BaseException) -> str:
    """The parser's message in one line: the setting, its value, and what was expected."""
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
            return f"{keys}: {problems[0]}" if keys and problems else one_line(error)
    names = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind).replace("typing.", "") for kind in expected]
    kinds = " or ".join("nothing" if name == "NoneType" else name for name in names)
    return f"{keys} must be {kinds}, got {value[:80]}"


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes on hardware, workers and tips; warnings about mistakes are still shown."""
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
            r".*only one JsonargparseDeprecationWarning per type.*",
            r".*Using ModelCheckpoint with manual optimization.*",  # resuming needs the state after a step
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
