"""`visionzoo generate`: actions from files and from the command line, saved episodes, samples, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.command import run
from visionzoo.errors import InputError
from visionzoo.io.video import probe
from visionzoo.pipelines.generate.actions import read_actions, repeated
from visionzoo.pipelines.generate.samples import SAMPLES, true_walk, write_samples

QUICK = ("--steps", 1, "--guidance", 1, "--fast-rank", 2, "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline, an image, and a file of actions."""
    place = tmp_path_factory.mktemp("generate")
    tiny.generate().save_pretrained(place / "model")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(place / "a.png")
    (place / "actions.txt").write_text("# a walk\n\na red boat x2\n  a blue   boat\n")
    return place


def generate(capsys: Any, folder: Path, *words: object) -> tuple[int, str, str]:
    return run(capsys, "generate", *words, "--checkpoint", folder / "model", *QUICK)


def test_a_walk_from_a_file_continues_with_its_memory(folder: Path, tmp_path: Path, capsys: Any) -> None:
    walk, later = tmp_path / "walk.mp4", tmp_path / "later.mp4"
    memory = ("--memory", tmp_path / "mem")
    code, out, err = generate(
        capsys, folder, folder / "a.png", "--actions", folder / "actions.txt", "-o", walk, *memory, "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["frames"] == probe(walk).frames == 1 + 3 * 4
    assert json.loads(walk.with_name("walk.mp4.json").read_text())["options"]["actions"] == [
        "a red boat",
        "a red boat",
        "a blue boat",
    ]
    assert generate(capsys, folder, "--action", "a red boat", "-o", later, *memory)[0] == 0
    assert probe(later).frames == 4
    assert json.loads((tmp_path / "mem" / "episode.json").read_text())["chunks"] == 4


def test_several_images_go_to_a_folder(folder: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("b.png", "c.png"):
        (tmp_path / name).write_bytes((folder / "a.png").read_bytes())
    out = tmp_path / "out"
    code, _, err = generate(
        capsys,
        folder,
        tmp_path / "b.png",
        tmp_path / "c.png",
        "--action",
        "a red boat",
        "-o",
        out,
        "--no-fast-learning",
    )
    assert (code, err) == (0, "")
    assert [probe(out / name).frames for name in ("b.mp4", "c.mp4")] == [5, 5]


def test_what_is_refused_before_weights_are_loaded(folder: Path, tmp_path: Path, capsys: Any) -> None:
    image, out = folder / "a.png", ("-o", tmp_path / "b.mp4")
    (tmp_path / "none.txt").write_text("# nothing\n")
    (tmp_path / "photo.txt").write_bytes(image.read_bytes())
    for words, reason in (
        ((image, *out), "no actions: give a file with --actions FILE (one action per line"),
        ((image, "--actions", tmp_path / "none.txt", *out), "none.txt: holds no actions; write one action per line"),
        (
            (image, "--actions", tmp_path / "gone.txt", *out),
            "gone.txt: no such file, expected a text file with one action",
        ),
        ((image, "--actions", tmp_path / "photo.txt", *out), "photo.txt: is no text file (UTF-8)"),
        ((image, "--action", " ", *out), "an action is empty; describe what happens"),
        ((image, "--action", "a hat x0", *out), "'a hat x0': an action can be repeated 1 to 10,000 times"),
        ((image, "--action", "a hat", "--actions", folder / "actions.txt", *out), "give a file or actions, not both"),
        (("--action", "a hat", *out), "IMAGE_OR_VIDEO is missing, e.g. visionzoo generate park.png"),
        (
            ("--action", "a hat", "--memory", tmp_path / "gone", *out),
            "gone: holds no saved episode; begin one with an image",
        ),
        ((image, "--action", "a hat"), "--output (-o) is missing"),
        (
            (image, "--action", "a hat", "--size", "big", *out),
            "size must be width x height in pixels, e.g. 576x320, got 'big'",
        ),
        ((image, image.parent, "--action", "a hat", "--memory", tmp_path / "m", "-o", tmp_path / "o"), ""),
    ):
        code, _, err = run(capsys, "generate", *words, "--checkpoint", tmp_path / "no_model", "--quiet")
        assert (code, err.count("\n")) == (2, 1), err
        assert reason in err


def test_what_is_refused_by_the_model(folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = (folder / "a.png", "-o", tmp_path / "b.mp4")
    for more, reason in (
        (("--action", "jump"), "unknown word 'jump' in 'jump'"),
        (("--action", "a hat", "--frames-per-chunk", 12), "the model sees 8 frames at once"),
        (("--action", "a hat", "--size", "60x64"), "both sides must be multiples of 8"),
        (
            ("--action", "a hat", "--fit", "exact", "--size", "96x64"),
            "the image has 64 x 64 pixels, and the video 96 x 64",
        ),
    ):
        code, _, err = generate(capsys, folder, *words, *more)
        assert (code, err.count("\n")) == (2, 1), err
        assert reason in err
    assert not list(tmp_path.iterdir())


def test_a_missing_model_says_what_to_download(folder: Path, tmp_path: Path, capsys: Any) -> None:
    code, _, err = run(
        capsys,
        "generate",
        folder / "a.png",
        "--action",
        "a hat",
        "-o",
        tmp_path / "b.mp4",
        "--checkpoint",
        tmp_path / "gone",
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "ali-vilab/text-to-video-ms-1.7b of the Hugging Face hub (CC-BY-NC-4.0: not for commercial use)" in err
    assert "scheduler, text_encoder, tokenizer, unet and vae" in err


def test_repeated_actions() -> None:
    assert repeated("go left") == ["go left"]
    assert repeated(" go  left x3 ") == ["go left"] * 3
    assert repeated("take 2x4") == ["take 2x4"]
    assert repeated("x3") == ["x3"]


def test_a_file_of_actions_may_come_from_windows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfgo left\r\n\r\ngo right x2\r\n")
    assert read_actions(tmp_path / "a.txt") == ["go left", "go right", "go right"]
    (tmp_path / "b.txt").write_text("go left\nwait x0\n")
    with pytest.raises(InputError, match=r"b\.txt, line 2: 'wait x0': an action can be repeated"):
        read_actions(tmp_path / "b.txt")


def test_samples_walk_and_return(tmp_path: Path) -> None:
    """Each action moves the camera, and every walk ends where it began."""
    for sample in SAMPLES:
        cameras = true_walk(sample).cameras
        moving = np.abs(np.diff(cameras, axis=0)).sum(1) > 1e-9
        assert moving.sum() == 8 * sum(action != "wait" for action in sample.actions)
        assert np.allclose(cameras[0], cameras[-1])
    paths = write_samples(tmp_path / "toy")
    assert [path.name for path in paths[:2]] == ["forest.png", "forest.txt"]
    with Image.open(paths[0]) as image:
        assert image.size == (96, 96)
    assert read_actions(paths[1]) == list(SAMPLES[0].actions)
    line = paths[-1].read_text().splitlines()[0]
    assert line == f"visionzoo generate {paths[0]} --actions {paths[1]} -o forest.mp4"
