"""The command as typed by a user: exit codes, one-line errors, JSON, examples in every help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import visionzoo
from tests.command import run

ASSETS = Path(visionzoo.__file__).parent / "assets"


COMMANDS = [
    [], ["models"], ["info"], ["doctor"], ["bench"], ["demo"], ["fit"], ["validate"], ["test"], ["predict"], ["weights"],
    ["weights", "list"], ["weights", "fetch"], ["weights", "verify"], ["weights", "convert"],
    ["classify"], ["export"], ["data"], ["data", "toy-world"], ["measure"],
    ["retrieve"], ["retrieve", "index"], ["retrieve", "search"], ["retrieve", "info"], ["retrieve", "samples"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture, command: list[str]) -> None:
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "Usage: visionzoo" in out
    if command and command not in (["weights"], ["retrieve"], ["data"]):
        assert f"visionzoo {' '.join(command)}" in out.replace("\n", " ")
        assert "Example" in out


@pytest.mark.parametrize("command", ["render", "view", "dehaze", "reenact", "reconstruct", "retrieve"])
def test_usage_mentions_subcommands_only_where_there_are_some(capsys: pytest.CaptureFixture, command: str) -> None:
    out = run(capsys, command, "--help")[1]
    assert out.count("COMMAND") == ("Commands" in out)


def test_models_and_info(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "models", "superglobal*", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["superglobal_r50"]["params"] == 27_704_385
    assert "superglobal_r101" in run(capsys, "models")[1]
    assert "arxiv.org/abs/2308.06954" in run(capsys, "info", "superglobal_r50")[1]
    assert json.loads(run(capsys, "info", "superglobal_r50", "--json")[1])["code_license"] == "MIT"


@pytest.mark.slow
def test_doctor(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["versions"]["torch"]
    assert report["weights"]["folder"].startswith(os.environ["VISIONZOO_HOME"])
    assert report["attention backends"]["chunked"] == "takes all"
    assert "has no gradient for the mask" in report["attention backends"]["sdpa"]
    rules = next(facts for section, facts in report.items() if section.startswith("attention, auto"))
    assert rules["override"].startswith("none")
    assert any("chunked" in rule for rule in rules.values())
    assert "optional packages" in run(capsys, "doctor")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], 'Unknown command "nonsense"'),
        (["retreive"], 'Did you mean "retrieve"'),
        (["info", "superglobal_r5"], "did you mean superglobal_r50"),
        (["models", "zzz*"], "no model"),
        (["retrieve", "search", "no.index", "a.jpg"], "no such index"),
        (["retrieve", "index", "no-such-folder", "-o", "x.index"], "no such file or folder"),
        (["retrieve", "index", ".", "-o", "x.index", "--dtype", "int4"], "Invalid value|int4"),
        (["retrieve", "index", ".", "-o", "x.index", "--device", "cuda:77"], "not available"),
        (["retrieve", "index", "."], "output"),
        (["retrieve", "index", ".", "-o", "x.index", "--model", "superglobal_r50"], "download CVPR2022_CVNet_R50.pyth"),
        (["retrieve", "index", ".", "-o", "x.index", "--checkpoint", "no.pth"], "no such file, expected a checkpoint"),
        (["retrieve", "index", ".", "-o", "x.index", "--qdrant-url", "http://x"], "--store qdrant"),
        (["weights", "fetch", "superglobal_r50"], "by hand|put the file"),
        (["weights", "fetch", "nonsense"], "no checkpoint"),
        (["weights", "convert", "a.pth", "b.pth"], "safetensors"),
        (["bench", "nonsense"], "no benchmark"),
        (["fit"], r"--config \(-c\) is missing"),
        (["classify"], "INPUTS is missing, e.g. visionzoo classify photo.jpg"),
        (["dehaze", "a.jpg"], r"--output \(-o\) is missing, e.g. visionzoo dehaze hazy.jpg -o clear.jpg"),
        (["classify", "[b].jpg"], r"\[b\].jpg: no images or videos found"),
        (["models", "--task", "nosuch"], "the tasks are .*dehaze.*retrieve"),
        (["classify", "a.jpg", "-o", "a.jpg", "--overwrite", "--model", "shvit_xs"], "a.jpg: is an input"),
        (["classify", "a.jpg", "-o", "link.png", "--overwrite", "--model", "shvit_xs"], "link.png: is an input"),
        (["dehaze", "", "-o", "out"], "INPUTS: the path is empty"),
        (["dehaze", "a.jpg", "-o", ""], "--output: the path is empty; give a file or folder"),
        (["edit", "a.mp4", "-o", "b.mp4", "--mask", ""], "--mask: the path is empty"),
    ],
)
def test_wrong_arguments_are_one_line_errors_with_exit_code_2(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes((ASSETS / "queries" / "cat.jpg").read_bytes())
    (tmp_path / "link.png").symlink_to("a.jpg")
    code, out, err = run(capsys, *words)
    assert code == 2
    assert (tmp_path / "a.jpg").read_bytes() == (ASSETS / "queries" / "cat.jpg").read_bytes()
    errors = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in out + err
    import re

    assert re.search(message, errors[0])


@pytest.mark.slow
def test_the_whole_procedure(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the README, with few photos: samples, index, update, search, info."""
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "retrieve", "samples", "-o", "samples")
    assert code == 0
    assert err.splitlines()[:3] == ["samples/photos: 65 files", "samples/queries: 13 files", "samples/README.md"]
    code, _, err = run(capsys, "retrieve", "samples", "-o", "samples")
    assert (code, "exists already" in err) == (2, True)
    for file in sorted((tmp_path / "samples" / "photos").glob("*_[45].jpg")):
        file.unlink()
    (tmp_path / "samples" / "photos" / "broken.jpg").write_bytes(b"nothing")
    code, out, err = run(capsys, "retrieve", "index", "samples/photos", "-o", "p.index", "--max-side", "160")
    assert code == 1
    assert "39 photos (39 read" in out
    assert "1 cannot be read" in out
    assert "broken.jpg" in err
    code, out, _ = run(capsys, "retrieve", "index", "samples/photos", "-o", "p.index", "--json")
    assert (code, json.loads(out)["unchanged"], len(json.loads(out)["failed"])) == (1, 39, 1)
    code, out, err = run(
        capsys,
        "retrieve",
        "search",
        "p.index",
        "samples/queries/temple.jpg",
        "--top",
        3,
        "--rerank",
        "-o",
        "r.html",
        "--box",
        "0,0,300,150",
    )
    assert code == 0
    assert out.splitlines()[0].endswith("jpg")
    assert "temple" in out.splitlines()[0]
    assert "<img" in (tmp_path / "r.html").read_text()
    assert json.loads((tmp_path / "r.html.json").read_text())["options"]["box"] == [0, 0, 300, 150]
    assert run(capsys, "retrieve", "search", "p.index", "samples/queries/temple.jpg", "-o", "r.html")[0] == 2
    code, _, err = run(capsys, "retrieve", "index", "samples/photos", "-o", "p.index", "--scales", 1)
    assert code == 2
    assert "other settings (scales)" in err
    code, out, _ = run(
        capsys, "retrieve", "index", "samples/queries", "-o", "one.index", "--scales", 1, "--max-side", 128
    )
    assert code == 0
    assert "13 photos" in out
    code, out, _ = run(capsys, "retrieve", "info", "p.index", "--verify", "--json")
    assert json.loads(out)["problems"] == []
    code, out, err = run(
        capsys, "retrieve", "search", "p.index", "samples/queries/temple.jpg", "--model", "superglobal_r50"
    )
    assert code == 2
    code, _, err = run(capsys, "retrieve", "search", "p.index", "samples/queries/temple.jpg", "--box", "1,2,3")
    assert "x0,y0,x1,y1" in err


def test_convert_both_ways(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    model = visionzoo.create_model("superglobal_r50")
    torch.save({"epoch": 1, "model_state": model.state_dict()}, tmp_path / "a.pth")
    code, _, _ = run(
        capsys,
        "weights",
        "convert",
        tmp_path / "a.pth",
        tmp_path / "b.safetensors",
        "--model",
        "superglobal_r50",
        "--to",
        "official",
    )
    assert code == 0
    official = load_file(tmp_path / "b.safetensors")
    assert "encoder_q.s1.b1.f.a.weight" in official
    assert (
        run(
            capsys,
            "weights",
            "convert",
            tmp_path / "b.safetensors",
            tmp_path / "c.safetensors",
            "--model",
            "superglobal_r50",
        )[0]
        == 0
    )
    ours = load_file(tmp_path / "c.safetensors")
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())
    assert run(capsys, "weights", "verify", tmp_path / "c.safetensors")[0] == 0
    assert "--overwrite" in run(capsys, "weights", "convert", tmp_path / "a.pth", tmp_path / "c.safetensors")[2]


def test_as_a_process(tmp_path: Path) -> None:
    """Exit codes, closed pipes, and names that are not valid text, as seen by a shell."""
    base = [sys.executable, "-m", "visionzoo"]
    root = Path(visionzoo.__file__).parent.parent
    done = subprocess.run([*base, "info", "nonsense"], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    reader = subprocess.run(
        f"{sys.executable} -m visionzoo weights list | head -1",
        shell=True,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in reader.stderr
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(b"no image")
    done = subprocess.run(
        [*base, "retrieve", "index", str(tmp_path), "-o", str(tmp_path / "i")],
        cwd=root,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"none of the 1 files" in done.stderr
    assert b"Traceback" not in done.stderr
