"""`visionzoo edit`: folders of Stable Diffusion, ControlNets, and the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny, tiny_diffusion
from tests.command import run
from tests.pipelines.edit.test_files import clip
from visionzoo.io.video import probe, read_frames
from visionzoo.pipelines.edit import LOVEConPipeline
from visionzoo.pipelines.edit.samples import SAMPLES, write_clip, write_samples

TEXTS = ("--source-prompt", "a girl with a red shirt", "--prompt", "a girl with a blue shirt")
QUICK = ("--steps", 1, "--guidance", 1, "--window", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd: Stable Diffusion; cn: a ControlNet for it; whole: an editing pipeline."""
    folder = tmp_path_factory.mktemp("folders")
    tiny_diffusion.save_stable_diffusion(folder / "sd")
    tiny_diffusion.controlnet().save_pretrained(folder / "cn")
    tiny.edit().save_pretrained(folder / "whole")
    return folder


def edit(capsys: Any, tmp_path: Path, *words: object, phrase: str = "") -> tuple[int, str, str]:
    source = tmp_path / "a.mp4"
    if not source.exists():
        clip(source, 3)
    return run(capsys, "edit", source, "-o", tmp_path / "b.mp4", *TEXTS, *QUICK, "--phrase", phrase, *words)


def test_a_folder_of_stable_diffusion_and_a_controlnet(folders: Path, tmp_path: Path, capsys: Any) -> None:
    code, out, err = edit(
        capsys, tmp_path, "--checkpoint", folders / "sd", "--controlnet", folders / "cn", "--preview", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["frames"] == 2
    assert probe(tmp_path / "b.mp4").frames == 2


def test_a_pipeline_made_from_another_keeps_its_settings() -> None:
    first = LOVEConPipeline(**tiny.edit().components, mask_scale=16, guidance=3.0)
    again = LOVEConPipeline.create(first, device="cpu")
    assert (again.mask_scale, again.config["guidance"], again.unet) == (16, 3.0, first.unet)


def test_what_is_missing_in_folders(folders: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    for words, reason in (
        (("--checkpoint", folders / "sd"), "sd: has no ControlNet; add one for this model with --controlnet FOLDER"),
        (
            ("--controlnet", tmp_path / "empty"),
            "empty: holds no ControlNet (there is no config.json); expected a folder",
        ),
        (("--controlnet", folders / "sd" / "unet"), "unet: holds a UNet2DConditionModel, expected a ControlNetModel"),
        (("--checkpoint", folders / "whole", "--smoother", "gone.pkl"), "gone.pkl: no such file"),
    ):
        code, _, err = edit(capsys, tmp_path, *words)
        assert (code, err.count("\n")) == (2, 1)
        assert reason in err


def test_models_of_another_kind_are_refused(folders: Path, tmp_path: Path, capsys: Any) -> None:
    """A ControlNet for wider text, as that of Stable Diffusion 2."""
    from diffusers import ControlNetModel

    config = dict(tiny_diffusion.controlnet().config)
    ControlNetModel.from_config({**config, "cross_attention_dim": 48}).save_pretrained(tmp_path / "cn2")
    code, _, err = edit(capsys, tmp_path, "--checkpoint", folders / "sd", "--controlnet", tmp_path / "cn2")
    assert (code, err.count("\n")) == (2, 1)
    assert "do not belong together: their texts differ in width (UNet 32, ControlNet 48" in err


def test_words_that_are_not_in_the_source_prompt_are_named(folders: Path, tmp_path: Path, capsys: Any) -> None:
    code, _, err = edit(capsys, tmp_path, "--checkpoint", folders / "whole", phrase="hat")
    assert (code, err.count("\n")) == (2, 1)
    assert "the editing phrase 'hat' does not occur in the source prompt" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_samples_show_the_colour_that_their_prompts_name(tmp_path: Path) -> None:
    from visionzoo.data.toy_world import COLORS, ToyWorld

    for sample in SAMPLES:
        assert sample.old in sample.source_prompt
        assert sample.prompt != sample.source_prompt
        frames = list(ToyWorld.create(sample.seed, "test").film(200).frames(motion=False))
        assert sum(frame.caption == sample.source_prompt for frame in frames) > 10
        clip = ToyWorld.create(sample.seed, "test").film(200)
        shirt = [region.number for region in clip.regions if region.instance == 1 and region.part == "shirt"]
        assert sum(np.isin(frame.regions, shirt).sum() >= 100 for frame in frames) >= 195
        assert clip.regions[shirt[0]].color == sample.old.split()[0]
        assert sample.old.split()[0] in COLORS


def test_samples_are_written_with_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.pipelines.edit import samples

    monkeypatch.setattr(samples, "write_clip", lambda sample, path: write_clip(sample, path, 2))
    paths = write_samples(tmp_path / "toy")
    assert [path.name for path in paths] == ["girl.mp4", "boy.mp4", "commands.txt"]
    assert next(read_frames(paths[0])).pixels.shape == (128, 128, 3)
    lines = paths[2].read_text().splitlines()
    assert all(line.startswith(f"visionzoo edit {path} ") for line, path in zip(lines, paths, strict=False))
