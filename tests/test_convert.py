"""`visionzoo weights convert` keeps the metadata of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import visionzoo
from tests.command import run
from tests.tiny import SHVIT, shvit
from visionzoo.weights import read_checkpoint, read_metadata, save_safetensors

FACTS = {
    "model": "shvit_s1",
    "config": json.dumps(SHVIT),
    "classes": json.dumps(["cat", "dog", "bird"]),
    "image_size": "64",
}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A file like those that our training writes."""
    save_safetensors(shvit().state_dict(), tmp_path / "ours.safetensors", FACTS)
    return tmp_path / "ours.safetensors"


@pytest.mark.parametrize("words", [(), ("--model", "shvit_s1"), ("--to", "official")])
def test_our_own_file_keeps_its_metadata(
    ours: Path, tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "weights", "convert", ours, tmp_path / "out.safetensors", *words)
    assert code == 0, err
    assert read_metadata(tmp_path / "out.safetensors") == FACTS
    if "official" in words:
        assert "patch_embed.0.c.weight" in read_checkpoint(tmp_path / "out.safetensors")
    pipe = visionzoo.pipeline("classify", checkpoint=tmp_path / "out.safetensors", device="cpu")
    assert (pipe.classes, pipe.image_size, pipe.name) == (("cat", "dog", "bird"), 64, "shvit_s1")
    state = shvit().state_dict()
    assert all(torch.equal(value, state[key]) for key, value in pipe.network.state_dict().items())


def test_a_file_of_another_model_is_refused(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "weights", "convert", ours, tmp_path / "out.safetensors", "--model", "shvit_s2")
    assert code == 2
    assert "ours.safetensors: holds weights of shvit_s1, not of shvit_s2" in err
    assert not (tmp_path / "out.safetensors").exists()


def test_files_without_a_checkpoint_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = Path(visionzoo.__file__).parent / "assets" / "queries" / "astronaut.jpg"
    code, _, err = run(capsys, "weights", "convert", photo, tmp_path / "out.safetensors")
    assert code == 2
    assert "astronaut.jpg: is not a checkpoint" in err
    assert "unsafe" not in err
