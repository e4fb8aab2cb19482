"""Samples to colour: characters leave and return, and the files are what the command reads."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import run
from visionzoo.errors import InputError
from visionzoo.io.video import probe, read_frames
from visionzoo.models.longanimation import plan_segments
from visionzoo.pipelines.colorize import samples
from visionzoo.pipelines.colorize.samples import FRAMES, SAMPLES, true_clip, write_samples


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_character_is_away_for_a_segment_and_returns(sample: samples.Sample) -> None:
    """So only a memory of all frames knows its colours; both characters are in the reference."""
    clip = true_clip(sample)
    shown = np.array([
        [(frame.instances == number + 1).mean() for number in range(2)] for frame in clip.frames(motion=False)
    ])  # fmt: skip
    assert (shown[0] > 0.05).all()
    seen = "".join(".#"[int(value > 0.003)] for value in shown[:, sample.leaves])
    gaps = [len(gap) for gap in seen.strip(".").split("#") if gap]
    assert max(gaps) > 72
    assert len(plan_segments(FRAMES)) == 5
    assert plan_segments(FRAMES)[-1].stop == FRAMES


def test_written_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "FRAMES", 4)
    paths = write_samples(tmp_path / "toy")
    assert [path.name for path in paths] == [
        "beach_lines.mp4", "beach_reference.png", "beach_color.mp4",
        "street_lines.mp4", "street_reference.png", "street_color.mp4", "commands.txt",
    ]  # fmt: skip
    lines, color = (np.stack([frame.pixels for frame in read_frames(paths[place])]) for place in (0, 2))
    assert probe(paths[0]).frames == len(lines) == len(color) == 4
    assert lines.shape[1:] == (128, 128, 3)
    assert (lines > 200).mean() > 0.7  # paper
    assert np.abs(lines.astype(int) - lines.mean(-1, keepdims=True)).max() < 12  # grey
    with Image.open(paths[1]) as image:
        reference = np.asarray(image)
    assert np.array_equal(reference, true_clip(SAMPLES[0])[0].rgb)
    assert np.abs(color[0].astype(int) - reference).mean() < 4
    words = shlex.split(paths[-1].read_text().splitlines()[0])
    assert words[:3] == ["visionzoo", "colorize", str(paths[0])]
    assert words[words.index("--prompt") + 1] == SAMPLES[0].prompt
    with pytest.raises(InputError, match=r"beach_lines\.mp4: exists already"):
        write_samples(tmp_path / "toy")


def test_the_prompts_are_words_of_the_world() -> None:
    from visionzoo.data.toy_world import vocabulary

    for sample in SAMPLES:
        assert set(sample.prompt.replace(",", "").split()) <= set(vocabulary())


def test_the_command_writes_them_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "FRAMES", 2)
    code, _, err = run(capsys, "colorize", "samples", "-o", tmp_path / "toy")
    assert code == 0
    assert f"now try: visionzoo colorize {tmp_path / 'toy'}/beach_lines.mp4 --reference" in err
