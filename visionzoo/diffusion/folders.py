"""Folders of pipelines: parts of our own, names and bars of diffusers and transformers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..console import counted
from ..errors import InputError, WeightsError
from ..io.files import write_json, write_text
from ..io.head import read_head
from .text import save_text_encoder, save_tokenizer

__all__ = [
    "FACTS",
    "INDEX",
    "check_complete",
    "check_named",
    "check_parts",
    "finish_saving",
    "import_own",
    "load_transformers",
    "one_line",
    "read_facts",
    "read_index",
    "without_bars",
]

INDEX, FACTS = "model_index.json", "pipeline.json"
_DTYPE = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"


def finish_saving(folder: Path, components: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Complete a folder that `DiffusionPipeline.save_pretrained` wrote.

    CLIP text parts are written so that transformers 4 and 5 read them, `facts` go to `pipeline.json`, and the paths from
    which parts were loaded on this machine are removed.
    """
    for name, part in components.items():
        if isinstance(part, CLIPTextModel):
            for file in (folder / name).glob("model*.safetensors"):
                save_text_encoder(part, folder / name, file.name)
        elif isinstance(part, CLIPTokenizer):
            save_tokenizer(part, folder / name)
    for path in (folder / INDEX, *(folder / name / "config.json" for name in components)):
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if config.pop("_name_or_path", None) is not None:
            write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")  # as diffusers writes it
    write_json(folder / FACTS, facts)


def read_facts(folder: Path, task: str, kind: str, *, single: bool = False) -> dict[str, Any]:
    """The content of `pipeline.json`, if any. Raises `InputError` unless the folder can hold a pipeline of a task.

    Args:
        folder: the folder.
        task, kind: of the pipeline.
        single: whether the pipeline can be loaded from single files, for the message.
    """
    if folder.is_file():
        hint = "; from_single_file loads single files" if single else ""
        raise InputError(f"{folder}: is a file, expected a folder in the layout of diffusers{hint}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a pipeline in the layout of diffusers")
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder}: holds no pipeline: there is no {INDEX}")
    try:
        json.loads((folder / INDEX).read_text(encoding="utf-8"))["_class_name"]
        stored = json.loads((folder / FACTS).read_text(encoding="utf-8")) if (folder / FACTS).is_file() else {}
        found = stored.get("task", task)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{folder}: holds no saved {kind} pipeline ({INDEX} or {FACTS}: {error})") from error
    if found != task:
        raise InputError(f"{folder}: holds no saved {kind} pipeline (it is for the task {found})")
    return stored


def read_index(folder: Path) -> tuple[str, list[str]]:
    """The class that a folder names, and its parts."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return str(index["_class_name"]), [name for name in index if _place(index, name)]


def _place(index: Mapping[str, Any], name: str) -> tuple[str, str] | None:
    """Library and class of a part in a folder's index; None if it is left out, or if the entry is a setting, which may be a list."""
    found = index.get(name)
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(one, str) for one in found)):
        return None
    library, kind = found
    if not (library.replace(".", "").isidentifier() and kind.isidentifier()):
        return None
    top = library.partition(".")[0]
    places = (top, f"diffusers.pipelines.{top}")  # "stable_diffusion" is one of diffusers' own
    return (library, kind) if any(importlib.util.find_spec(each) for each in places) else None


def check_named(folder: Path, needed: Sequence[str], whose: str) -> None:
    """Raise `WeightsError` unless a folder names all of these parts of a pipeline, e.g. of "a LOVEConPipeline"."""
    kind, parts = read_index(folder)
    if missing := [name for name in needed if name not in parts]:
        them = "it" if len(missing) == 1 else "them"
        raise WeightsError(f"{folder}: holds a {kind}, which has no {' and no '.join(missing)}; {whose} needs {them}")


def import_own(folder: Path, names: Sequence[str]) -> None:
    """Import those modules that a folder names for parts and that are visionzoo's; diffusers looks only at imported ones.

    It also recognises a part by a base class of that name in the module, which a module with a subclass of a network may lack.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for name in names:
        place = _place(index, name)
        if place is None or not place[0].startswith("visionzoo."):
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


_WITHOUT_WEIGHTS = ("Scheduler", "Tokenizer", "Processor", "Extractor")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def check_parts(folder: Path, names: Sequence[str], *, weights: bool = True) -> str | None:
    """Raise `WeightsError` if a part is missing; return the variant of the weights ("fp16") if all of them are of that one.

    diffusers and transformers replace a missing tokenizer by an empty one.

    Args:
        folder: of the pipeline.
        names: of its parts.
        weights: whether the folder needs to hold weights.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    variants = set()
    for name in names:
        place = _place(index, name)
        if place is None:
            continue
        part, kind = folder / name, place[1]
        again = "copy or download the whole folder again"
        if not part.is_dir():
            raise WeightsError(f"{folder}: has no folder {name} with the {kind}; {again}")
        if "Tokenizer" in kind and not any((part / file).is_file() for file in _VOCABULARIES):
            raise WeightsError(f"{part}: holds no vocabulary of the {kind}, e.g. {_VOCABULARIES[0]}; {again}")
        if not weights or any(word in kind for word in _WITHOUT_WEIGHTS):
            continue
        files = [file for ending in ("*.safetensors", "*.bin") for file in sorted(part.glob(ending))]
        if not files:
            raise WeightsError(f"{part}: holds no weights of the {kind} (.safetensors); {again}")
        for file in files:
            read_head(file, "a checkpoint file", WeightsError)
        variants |= {
            found[1] if (found := re.search(r"\.(\w+?)(-\d+-of-\d+)?\.\w+$", file.name)) else None for file in files
        }
    return variants.pop() if len(variants) == 1 else None


def load_transformers(
    folder: Path, names: Sequence[str], dtype: torch.dtype | None, variant: str | None
) -> dict[str, PreTrainedModel]:
    """Load the networks of transformers among the parts; raise `WeightsError` if their weights are incomplete.

    transformers fills missing weights with random numbers, with no more than a report.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    loaded: dict[str, PreTrainedModel] = {}
    for name in names:
        place = _place(index, name)
        kind: Any = getattr(transformers, place[1], None) if place and place[0] == "transformers" else None
        if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
            continue
        options = {"variant": variant, **({_DTYPE: dtype} if dtype is not None else {})}
        loaded[name] = load_part(folder / name, kind, **options)
    return loaded


def load_part(folder: Path, kind: Any, **options: Any) -> PreTrainedModel:
    """A network of transformers from its folder; raises `WeightsError` if weights are missing or of another shape.

    Args:
        kind: its class, e.g. `CLIPTextModel`.
        **options: of `from_pretrained`.
    """
    try:
        with without_bars():
            found, report = kind.from_pretrained(
                str(folder), output_loading_info=True, local_files_only=True, **options
            )
    except RuntimeError as error:
        shapes = "ignore_mismatched_sizes" in str(error)  # the shapes are in the report only
        problem = "some weights have another shape than config.json states" if shapes else one_line(error)
        raise WeightsError(f"{folder}: does not fit {kind.__name__}: {problem}") from error
    if missing := sorted(report["missing_keys"]):
        raise _incomplete(folder, kind.__name__, missing)
    return found


def check_complete(components: Mapping[str, Any], folder: Path) -> None:
    """Raise `WeightsError` if diffusers left weights of a network without values, as they are not in its file."""
    for name, part in components.items():
        if isinstance(part, nn.Module):
            missing = [key for key, value in part.state_dict().items() if value.is_meta]
            if missing:
                raise _incomplete(folder / name, type(part).__name__, missing)


def _incomplete(part: Path, kind: str, missing: Sequence[str]) -> WeightsError:
    count = counted(len(missing), "key")
    return WeightsError(
        f"{part}: does not fit {kind}: {count} {'is' if len(missing) == 1 else 'are'} missing, e.g. {missing[0]}"
    )


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars of diffusers and transformers for local files, which take a moment, and without transformers' report."""
    bars = (
        (diffusers_logging, diffusers_logging._tqdm_active),
        (transformers_logging, transformers_logging._tqdm_active),
    )
    for logging, _ in bars:
        logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        for logging, shown in bars:
            if shown:
                logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """An error's message on one line, shortened."""
    return " ".join(str(error).split())[:200]
