"""What the pipelines of all tasks share, however they hold their networks: names of models, published weights, files in and out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .errors import Caution, InputError, unknown
from .jobs import Engine, FileJob, FileResult, make_plan, run_files
from .lazy import resolve
from .registry import list_models, model_card, model_entry, weight_source
from .stored import CUSTOM
from .weights import WeightsError, fetch


class Task:
    """A task: its models by name, and `run`. A pipeline sets the class attributes, `name`, `checkpoint`, `device` and `dtype`.

    Attributes:
        task: registered name of the task.
        kind: adjective for models of the task, e.g. "dehazing" in "a dehazing model".
        default_model: model to use if neither a model nor a checkpoint that states one is given; see `default`.
        files: "module:class" of the `FileJob` for `run`; empty if a subclass defines its own `run`.
        name: name of the model: a registered name, or "custom".
        checkpoint: the weights that were given, recorded with results; None for published weights and networks made in code.
    """

    task: ClassVar[str]
    kind: ClassVar[str]
    default_model: ClassVar[str]
    files: ClassVar[str] = ""

    name: str
    checkpoint: str | None

    # Models

    @classmethod
    def default(cls) -> str:
        """The model to use with published weights if none is given."""
        return cls.default_model

    @classmethod
    def check_name(cls, name: str) -> None:
        """Raise `InputError` unless `name` is a model of this task."""
        if name.partition(".")[0] not in list_models():
            raise unknown("model", name, list_models(task=cls.task))
        if model_entry(name).card.task != cls.task:
            known = ", ".join(list_models(task=cls.task))
            raise InputError(f"{name} is not a {cls.kind} model; use {known}")

    @classmethod
    def variant(cls, name: str) -> str:
        """A model's name without the tag of its weights."""
        return model_entry(name).card.name

    @classmethod
    def published(cls, model: str) -> Path:
        """The published weights of a model: a file, or a folder of parts; downloaded if necessary.

        Raises:
            WeightsError: they are not available; the message names a model whose weights are.
        """
        source = weight_source(model)
        try:
            path = fetch(source)
        except WeightsError as error:
            raise WeightsError(f"{error}{cls.instead(model)}") from error
        if source.caution:
            warnings.warn(f"{model}: {source.caution}", Caution, stacklevel=4)
        return path

    @classmethod
    def instead(cls, model: str) -> str:
        """The end of the message for weights of `model` that are not available: a model whose weights are bundled."""
        del model
        sources = [source for name in list_models(task=cls.task) for source in model_card(name).weights]
        bundled = next((source.name for source in sources if source.bundled and not source.caution), None)
        return "" if bundled is None else f"; or use --model {bundled}, whose weights come with visionzoo"

    # Use

    def arguments(self: Any) -> dict[str, Any]:
        """Arguments with which `visionzoo.pipeline` recreates this pipeline, also on another machine.

        Raises:
            InputError: the network was made in code and is not in a file.
        """
        if self.name == CUSTOM and self.checkpoint is None:
            raise InputError(
                "--engine ray needs a network that other processes can load; save this one with save_pretrained first, and "
                "create the pipeline with from_pretrained"
            )
        return {
            "task": self.task,
            "model": None if self.name == CUSTOM else self.name,
            "checkpoint": self.checkpoint,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def facts(self: Any) -> dict[str, Any]:
        """How a result was made: model, weights, device and precision; recorded with outputs."""
        return {
            "model": self.name,
            "checkpoint": self.checkpoint,
            "weights": self.fingerprint,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def run(
        self,
        path_in: str | Path | Sequence[str | Path],
        path_out: str | Path,
        progress: bool = True,
        *,
        overwrite: bool = False,
        format: str | None = None,
        engine: Engine = "local",
        on_result: Callable[[FileResult], None] | None = None,
        **options: Any,
    ) -> list[FileResult]:
        """Process one file to a file, or several files, a folder or a glob pattern to a folder.

        Args:
            progress, overwrite, engine, on_result: see `visionzoo.jobs.run_files`.
            format: extension of the results in an output folder, e.g. ".png"; see `visionzoo.jobs.make_plan`.
            **options: options of the task's job; see `files`.

        Raises:
            InputError: nothing was found, no input is readable, or an output cannot be written.
        """
        job: FileJob = resolve(self.files)(self, **options)
        plan = make_plan(path_in, path_out, job.kinds, format)
        return run_files(job, plan, overwrite=overwrite, progress=progress, engine=engine, on_result=on_result)

    @property
    def gpus(self: Any) -> float:
        """Number of GPUs that a process running this pipeline needs."""
        return 1.0 if self.device.type == "cuda" else 0.0


__all__ = ["Task"]
