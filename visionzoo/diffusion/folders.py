"""Folders of pipelines: parts of our own, names and bars of diffusers and transformers."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..errors import InputError
from ..io.files import write_json, write_text
from .text import save_text_encoder, save_tokenizer

__all__ = ["FACTS", "INDEX", "finish_saving", "import_own", "one_line", "without_bars"]

INDEX, FACTS = "model_index.json", "pipeline.json"


def finish_saving(folder: Path, components: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Complete a folder that `DiffusionPipeline.save_pretrained` wrote.

    CLIP text parts are written so that transformers 4 and 5 read them, `facts` go to `pipeline.json`, and the paths from
    which parts were loaded on this machine are removed.
    """
    for name, part in components.items():
        if isinstance(part, CLIPTextModel) and (folder / name / "model.safetensors").exists():
            save_text_encoder(part, folder / name)
        elif isinstance(part, CLIPTokenizer):
            save_tokenizer(part, folder / name)
    for path in (folder / INDEX, *(folder / name / "config.json" for name in components)):
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if config.pop("_name_or_path", None) is not None:
            write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")  # as diffusers writes it
    write_json(folder / FACTS, facts)


def import_own(folder: Path, names: Sequence[str]) -> None:
    """Import those modules that a folder names for parts and that are visionzoo's; diffusers looks only at imported ones.

    It also recognises a part by a base class of that name in the module, which a module with a subclass of a network may lack.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for name in names:
        place = index.get(name)
        if not isinstance(place, list) or not str(place[0]).startswith("visionzoo."):
            continue
        try:
            module = importlib.import_module(place[0])
            kind = getattr(module, place[1])
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{folder / INDEX}: names {place[0]}.{place[1]} for the {name}, which does not exist"
            ) from error
        for base in (ModelMixin, SchedulerMixin, PreTrainedModel):
            if issubclass(kind, base):
                vars(module).setdefault(base.__name__, base)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars that diffusers and transformers show for local files, which take a moment."""
    bars = (
        (diffusers_logging, diffusers_logging._tqdm_active),
        (transformers_logging, transformers_logging._tqdm_active),
    )
    for logging, _ in bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, shown in bars:
            if shown:
                logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """An error's message on one line, shortened."""
    return " ".join(str(error).split())[:200]
