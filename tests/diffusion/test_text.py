"""Text: every word is one token, folders are read alike by transformers 4 and 5, and unknown words are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTextModel, CLIPTokenizer

from tests import tiny_diffusion
from visionzoo.diffusion import (
    check_words,
    encode_text,
    save_text_encoder,
    save_tokenizer,
    text_config,
    word_tokenizer,
    words_of,
)
from visionzoo.errors import InputError
from visionzoo.weights import read_checkpoint


@given(st.lists(st.text("abc", min_size=1, max_size=7), min_size=1, max_size=30, unique=True))
def test_each_word_is_one_token_however_words_overlap(words: list[str]) -> None:
    """Few letters make many shared parts, whose merges would compete if they were listed in a naive order."""
    tokenizer = word_tokenizer(words)
    ids = tokenizer(" ".join(words)).input_ids
    vocabulary = tokenizer.get_vocab()
    assert ids == [0, *(vocabulary[f"{word}</w>"] for word in words), 1]
    assert words_of(tokenizer) == words
    assert len(set(vocabulary.values())) == len(vocabulary) == max(vocabulary.values()) + 1


def test_other_text_is_spelled_and_never_ends_early() -> None:
    ids = tiny_diffusion.tokenizer()("a purple Boat, 3 cats!").input_ids
    assert ids.count(1) == 1
    assert ids[-1] == 1


@pytest.mark.parametrize("word", ["Red", "t-shirt", "two words", "café", "", "12"])
def test_a_word_that_clip_would_split_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="is not one word for a CLIP tokenizer"):
        word_tokenizer(["red", word])


def test_the_tokenizer_folder_is_complete(tmp_path: Path) -> None:
    """Both forms are written, and each alone gives the same tokens and padding."""
    tokenizer = tiny_diffusion.tokenizer()
    save_tokenizer(tokenizer, tmp_path)
    text = "A girl with a red shirt, in the street"
    want = tokenizer(text, padding="max_length").input_ids
    assert len(want) == 77
    assert CLIPTokenizer.from_pretrained(tmp_path)(text, padding="max_length").input_ids == want
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)  # transformers 4 writes none
    assert CLIPTokenizer.from_pretrained(tmp_path)(text, padding="max_length").input_ids == want
    save_tokenizer(CLIPTokenizer.from_pretrained(tmp_path), tmp_path / "again")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_text() == (tmp_path / "again" / name).read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_text_encoder_folder_loads_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_diffusion.text_encoder().to(dtype)
    save_text_encoder(model, tmp_path)
    loaded, report = CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = loaded.to(dtype).state_dict()  # transformers 4 loads as float32
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    written = read_checkpoint(tmp_path / "model.safetensors")
    assert written["text_model.embeddings.token_embedding.weight"].dtype == dtype
    assert "text_model.embeddings.token_embedding.weight" in written
    assert all(key.startswith("text_model.") for key in written)


def test_embeddings_are_those_of_stable_diffusion() -> None:
    pipe = tiny_diffusion.stable_diffusion()
    ours = encode_text(pipe.tokenizer, pipe.text_encoder, ["a red boat", ""])
    theirs = pipe.encode_prompt("a red boat", "cpu", 1, do_classifier_free_guidance=True)
    assert torch.equal(ours[:1], theirs[0])
    assert torch.equal(ours[1:], theirs[1])


def test_what_a_long_text_loses_is_named() -> None:
    tokenizer = word_tokenizer(["red", "boat", "tree"], max_length=4)
    model = CLIPTextModel(text_config(tokenizer, 8)).eval()
    with pytest.warns(UserWarning, match="more than 2 tokens, so its end is ignored: tree"):
        long = encode_text(tokenizer, model, "red boat tree")
    assert torch.equal(long, encode_text(tokenizer, model, "red boat"))


def test_unknown_words_are_named_with_similar_ones() -> None:
    tokenizer = tiny_diffusion.tokenizer()
    check_words(tokenizer, "A Girl, with a RED shirt!")
    with pytest.raises(InputError, match=r"unknown word 'shirts' \(did you mean shirt.*\?\) in 'red shirts'$"):
        check_words(tokenizer, "red shirts")
    with pytest.raises(InputError, match=r"unknown words '3', 'zzz', '→' in .*; known words: a, and, blue") as caught:
        check_words(tiny_diffusion.WORDS, "3 zzz → blue")
    assert "\n" not in str(caught.value)


def test_no_text_and_heads_that_do_not_divide_the_width_are_refused() -> None:
    tokenizer = word_tokenizer(["a"])
    with pytest.raises(InputError, match="hidden_size must be a multiple of num_attention_heads, got 65 and 4"):
        text_config(tokenizer, hidden_size=65)
    encoder = CLIPTextModel(text_config(tokenizer, hidden_size=8, num_hidden_layers=1)).eval()
    with pytest.raises(InputError, match="there are no texts to encode"):
        encode_text(tokenizer, encoder, [])
