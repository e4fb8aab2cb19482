"""CLIP tokenizers over a small vocabulary, and folders of text encoders that transformers 4 and 5 read alike.

A tokenizer of transformers is a byte-pair encoding (BPE): a word is split into letters, the last one marked "</w>", and pairs are
merged in the order of a list. `word_tokenizer` chooses the list so that each known word becomes exactly one token.
"""

from __future__ import annotations

import difflib
import json
import re
import string
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, check_items, check_kind, described, require
from ..io.files import make_folder, write_json, write_text
from ..weights import save_safetensors

if TYPE_CHECKING:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

__all__ = [
    "check_words",
    "encode_text",
    "save_text_encoder",
    "save_tokenizer",
    "text_config",
    "word_tokenizer",
    "words_of",
]

START, END = "<|startoftext|>", "<|endoftext|>"
_LAST = "</w>"
_LETTERS = [chr(code) for code in range(33, 127) if chr(code) not in string.ascii_uppercase]
_WORD = re.compile(r"[^\W\d_]+|\d|[^\x00-\x7f]")
"""A word as CLIP splits text (letters, or one digit), or any other character that `word_tokenizer` does not know."""
MAX_TOKENS = 77


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `InputError` unless it is a tokenizer."""
    check_kind("the tokenizer", tokenizer, "a CLIPTokenizer of transformers", "get_vocab", "model_max_length")


def check_text_encoder(text_encoder: Any) -> None:
    """Raise `InputError` unless it is a text encoder."""
    check_kind("the text encoder", text_encoder, "a CLIPTextModel of transformers", "state_dict", "config", "device")


def checked_texts(name: str, texts: Any) -> list[str]:
    """Texts as a list; raises `InputError` for a single text, whose letters would be taken for the texts, and for other types."""
    check_items(name, texts, "a list of texts")
    found = list(texts)
    if wrong := [text for text in found if not isinstance(text, str)]:
        raise InputError(f"{name} must be a list of texts, got {described(wrong[0])} among them")
    return found


def word_tokenizer(words: Iterable[str], max_length: int = MAX_TOKENS) -> CLIPTokenizer:
    """A CLIP tokenizer that turns each of `words` into one token; other ASCII text is spelled in letters.

    Ids: 0 start, 1 end (also padding and unknown), then letters, parts of words, and last the words in the given order.

    Args:
        words: lowercase words of the letters a to z, or single digits; duplicates are ignored.
        max_length: number of tokens of a text, with start and end.

    Raises:
        InputError: a word that CLIP would split, such as "t-shirt" or "Red", or no word at all.
    """
    require("transformers", extra="diffusion", purpose="a CLIP tokenizer")
    from transformers import CLIPTokenizer

    words = list(dict.fromkeys(checked_texts("words", words)))
    if not words:
        raise InputError("a vocabulary of no words; give at least one")
    for word in words:
        if not re.fullmatch("[a-z]+|[0-9]", word):
            raise InputError(f"{word!r} is not one word for a CLIP tokenizer; use lowercase letters a to z, e.g. 'red'")
    merges = _merges(words)
    parts = [left + right for left, right in merges if not right.endswith(_LAST)]
    own = [word + _LAST for word in words]
    ends = [letter + _LAST for letter in _LETTERS if letter + _LAST not in own]
    vocabulary = {token: number for number, token in enumerate([START, END, *ends, *_LETTERS, *parts, *own])}
    with tempfile.TemporaryDirectory(prefix="visionzoo") as folder:  # the constructor differs in transformers 4 and 5
        _write_vocabulary(Path(folder), vocabulary, merges)
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=max_length)
    tokenizer.name_or_path = ""
    return tokenizer


def _write_vocabulary(folder: Path, vocabulary: dict[str, int], merges: Iterable[Sequence[str]]) -> None:
    """Write the files of CLIP's first tokenizer."""
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges), ""]))


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token. New ones come last, so that they change nothing for the words before."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + _LAST]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            known = [pair for pair in pairs if pair in ranks]
            best = min(known, key=ranks.__getitem__) if known else pairs[0]
            ranks.setdefault(best, len(ranks))
            pieces = _merged(pieces, best)
    return list(ranks)


def _merged(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """`pieces` with each occurrence of the pair joined, from left to right."""
    made: list[str] = []
    place = 0
    while place < len(pieces):
        joined = tuple(pieces[place : place + 2]) == pair
        made.append("".join(pair) if joined else pieces[place])
        place += 2 if joined else 1
    return made


def words_of(tokenizer: CLIPTokenizer) -> list[str]:
    """The words of a tokenizer from `word_tokenizer`, in their order; empty for any other CLIP tokenizer, which spells everything."""
    check_tokenizer(tokenizer)
    words: list[str] = []
    added = tokenizer.get_added_vocab()  # textual inversions, behind the words
    vocabulary = {token: number for token, number in tokenizer.get_vocab().items() if token not in added}
    for token in sorted(vocabulary, key=vocabulary.__getitem__, reverse=True):
        if not token.endswith(_LAST):
            break
        words.append(token.removesuffix(_LAST))
    return words[::-1]


def check_words(known: Iterable[str] | CLIPTokenizer, text: str) -> None:
    """Raise `InputError` if `text` has words that are not known; the message lists them with the most similar known words.

    Args:
        known: words, or a tokenizer; for a tokenizer that is not from `word_tokenizer`, every text passes.
    """
    words = words_of(known) if hasattr(known, "get_vocab") else checked_texts("the known words", known)  # pyright: ignore[reportArgumentType]
    if not isinstance(text, str):
        raise InputError(f"the text must be a string, got {described(text)}")
    if not words:
        return
    rest = text
    for token in known.get_added_vocab() if hasattr(known, "get_added_vocab") else ():  # pyright: ignore[reportAttributeAccessIssue]
        rest = rest.replace(token, " ")
    unknown = [word for word in dict.fromkeys(_WORD.findall(rest.lower())) if word not in words]
    if not unknown:
        return
    named = []
    for word in unknown:
        near = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
        named.append(f"{word!r} (did you mean {' or '.join(near)}?)" if near else repr(word))
    shown = words if len(words) <= 40 else [*words[:40], "…"]
    hint = "" if all("did you mean" in each for each in named) else f"; known words: {', '.join(shown)}"
    plural = "s" if len(unknown) > 1 else ""
    raise InputError(f"unknown word{plural} {', '.join(named)} in {text!r}{hint}")


def text_config(
    tokenizer: CLIPTokenizer, hidden_size: int, num_hidden_layers: int = 2, num_attention_heads: int = 4
) -> CLIPTextConfig:
    """The configuration of a CLIP text encoder for a tokenizer, with the MLP four times as wide as `hidden_size`.

    Raises:
        InputError: `hidden_size` is not a multiple of `num_attention_heads`.
    """
    if hidden_size < 1 or num_attention_heads < 1 or hidden_size % num_attention_heads:
        raise InputError(
            f"hidden_size must be a multiple of num_attention_heads, got {hidden_size} and {num_attention_heads}"
        )
    check_tokenizer(tokenizer)
    require("transformers", extra="diffusion", purpose="a CLIP text encoder")
    from transformers import CLIPTextConfig

    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        projection_dim=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        max_position_embeddings=tokenizer.model_max_length,
        **ids,
    )


def encode_text(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: str | Sequence[str]) -> Tensor:
    """The last hidden states of texts, (N, tokens, width) in the encoder's dtype, as Stable Diffusion uses them.

    A text that is too long is cut off at the end, with a warning that names what is lost.

    Raises:
        InputError: there are no texts, or arguments of wrong types.
    """
    check_tokenizer(tokenizer)
    check_text_encoder(text_encoder)
    texts = [texts] if isinstance(texts, str) else checked_texts("texts", texts)
    if not texts:
        raise InputError("there are no texts to encode; give at least one, which may be empty")
    limit = tokenizer.model_max_length
    ids = tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
    for text in texts:
        whole = tokenizer(text).input_ids
        if len(whole) > limit:
            lost = tokenizer.decode(whole[limit - 1 : -1])
            warnings.warn(f"the text has more than {limit - 2} tokens, so its end is ignored: {lost}", stacklevel=2)
    with torch.no_grad():
        return text_encoder(ids.to(text_encoder.device))[0]


def save_tokenizer(tokenizer: CLIPTokenizer, folder: str | Path) -> None:
    """Write a CLIP tokenizer to a folder that `CLIPTokenizer.from_pretrained` of transformers 4 and 5 reads alike.

    transformers 5 alone writes `tokenizer.json`; `vocab.json` and `merges.txt` are what the slow tokenizer of version 4 reads.

    Raises:
        InputError: the folder cannot be created.
    """
    check_tokenizer(tokenizer)
    folder = make_folder(folder)
    tokenizer.save_pretrained(folder)
    if (folder / "tokenizer.json").exists():
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        pairs = [pair.split() if isinstance(pair, str) else pair for pair in model["merges"]]
        _write_vocabulary(folder, model["vocab"], pairs)


def save_text_encoder(model: CLIPTextModel, folder: str | Path, file: str = "model.safetensors") -> None:
    """Write a CLIP text encoder, in its dtype, to a folder that transformers 4 and 5 and `from_single_file` read alike.

    The keys begin with "text_model.", a level that transformers 5 has removed: version 4 would load random weights without it.

    Raises:
        InputError: the folder cannot be created.
    """
    check_text_encoder(model)
    folder = make_folder(folder)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    level = "text_model."
    inner = ("text_projection.", level)
    state = {key if key.startswith(inner) else level + key: value for key, value in model.state_dict().items()}
    save_safetensors(state, folder / file, {"format": "pt"})
