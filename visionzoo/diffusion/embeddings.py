"""Textual inversion (arXiv:2208.01618): words with embeddings of their own, from files of diffusers and of the A1111 web UI."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, WeightsError, check_kind
from ..weights import read_checkpoint

__all__ = ["list_embeddings", "load_embedding"]


def load_embedding(pipe: Any, path: str | Path, word: str | None = None) -> str:
    """Load a textual inversion into a pipeline; return the word for prompts that it gives a meaning to.

    `pipe.unload_textual_inversion()` of diffusers removes it.

    Args:
        pipe: a pipeline of diffusers with the mixin for textual inversions.
        path: a `.safetensors`, `.pt` or `.bin` file.
        word: how to call it; by default the file's own word, or else its name in angle brackets, e.g. <pink-hat>.

    Raises:
        WeightsError: the file is missing or damaged, or holds no textual inversion.
        InputError: the pipeline takes none, it is for another text encoder, or the word is taken.
    """
    check_kind("the pipeline", pipe, "a pipeline that takes textual inversions", "load_textual_inversion", "tokenizer")
    own, vectors = _read(Path(path))
    word = word or own or f"<{Path(path).stem}>"
    if re.search(r"\s", word):
        raise InputError(f"the word of a textual inversion has no spaces, got {word!r}")
    width = pipe.text_encoder.get_input_embeddings().weight.shape[1]
    if vectors.shape[1] != width:
        raise InputError(
            f"{path}: is for texts of width {vectors.shape[1]}, but this model has {width}; is it for another base model?"
        )
    if word in pipe.tokenizer.get_vocab() or word in pipe.tokenizer.get_added_vocab():
        raise InputError(f"{path}: the word {word!r} is taken; choose another, e.g. <{Path(path).stem}>")
    pipe.load_textual_inversion(vectors if len(vectors) > 1 else vectors[0], token=word)
    return word


def list_embeddings(pipe: Any) -> dict[str, str]:
    """The words that textual inversions have added to a pipeline, and a fingerprint of the vector of each."""
    tokenizer, encoder = pipe.components.get("tokenizer"), pipe.components.get("text_encoder")
    if not (hasattr(tokenizer, "get_added_vocab") and hasattr(encoder, "get_input_embeddings")):
        return {}
    special = set(tokenizer.all_special_tokens)
    added = {word: row for word, row in tokenizer.get_added_vocab().items() if word not in special}
    weight = encoder.get_input_embeddings().weight if added else None
    return {
        word: hashlib.sha256(weight[row].detach().float().cpu().numpy().tobytes()).hexdigest()[:16]
        for word, row in added.items()
        if weight is not None
    }


def _read(path: Path) -> tuple[str | None, Tensor]:
    """The word in a file, if it is more than a placeholder, and the vectors (N, width)."""
    found = read_checkpoint(path)
    word, vectors = None, None
    if isinstance(found, dict) and isinstance(found.get("string_to_param"), dict):
        word, vectors = found.get("name"), next(iter(found["string_to_param"].values()), None)
    elif isinstance(found, dict) and "emb_params" in found:
        vectors = found["emb_params"]
    elif isinstance(found, dict) and len(found) == 1:
        word, vectors = next(iter(found.items()))
    if not isinstance(vectors, Tensor) or vectors.ndim not in (1, 2):
        raise WeightsError(
            f"{path}: holds no textual inversion; expected one word with its vectors, emb_params, or string_to_param"
        )
    if not vectors.isfinite().all():
        raise WeightsError(f"{path}: has values that are NaN or infinite; the file is damaged")
    return (word if isinstance(word, str) else None), vectors.detach().reshape(-1, vectors.shape[-1])
