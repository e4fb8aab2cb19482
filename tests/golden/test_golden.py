"""Every golden case in the repository passes, and the program reports it; wrong values are detected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from .__main__ import check, main
from .case import HERE, Case

SLOW = {
    "lovecon/pipeline_attribute",
    "lovecon/pipeline_style",
    "dehazexl/attribution_dehazexl_512_s0",
    "dehazexl/full_2048_hyper_s0",
    "longanimation/dglm_full",
    "mcnet/generator_256_seed1",
    "mcnet/losses_256",
    "mcnet/relative_motion",
}


def cases() -> Iterator[ParameterSet]:
    for path in sorted(HERE.glob("*/*.json")):
        name = f"{path.parent.name}/{path.stem}"
        yield pytest.param(path, id=name, marks=pytest.mark.slow if name in SLOW else ())


@pytest.mark.parametrize("path", list(cases()))
def test_case(path: Path) -> None:
    rows = check(Case.read(path))
    assert rows
    assert not [row for row in rows if not row[1] <= row[2]]


def small_case(tmp_path: Path, change) -> Path:
    data = json.loads((HERE / "superglobal" / "rerank_small_m_seed0.json").read_text())
    change(data)
    path = tmp_path / "superglobal" / "rerank_changed.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["outputs"]["s1"]["samples"].__setitem__(3, 0.1),
        lambda data: data["outputs"]["s1"].__setitem__("norm", 1.0),
        lambda data: data["outputs"]["s1"].__setitem__("shape", [6, 51]),
        lambda data: data["outputs"]["reranked_top"][0].reverse(),
        lambda data: data["outputs"].__setitem__("another", 1.0),
    ],
    ids=["value", "norm", "shape", "ranking", "missing output"],
)
def test_wrong_values_fail(tmp_path: Path, change, capsys) -> None:
    assert main([str(small_case(tmp_path, change))]) == 1
    assert "FAIL" in capsys.readouterr().out


def mcnet_crop(data) -> None:
    data["cases"][3]["crop_w_h_left_top"].reverse()


def mcnet_keys(data) -> None:
    data["generator"].pop("mbUnit.mb")


def mcnet_keypoint(data) -> None:
    data["values"]["value"][0][0][0] += 0.01


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("crop", mcnet_crop, "[3].crop_w_h_left_top"),
        ("keys", mcnet_keys, "keys that differ"),
        ("kp_detector_256", mcnet_keypoint, "values.value"),
    ],
)
def test_values_in_addition_to_the_outputs_are_compared(
    tmp_path: Path, name: str, change, message: str, capsys
) -> None:
    data = json.loads((HERE / "mcnet" / f"{name}.json").read_text())
    change(data)
    path = tmp_path / "mcnet" / f"{name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data))
    assert main([str(path)]) == 1
    assert f"FAIL mcnet/{name}: {message}" in capsys.readouterr().out


def test_a_check_that_compares_nothing_has_not_passed(tmp_path: Path, capsys) -> None:
    empty = str(small_case(tmp_path, lambda data: data.update(outputs={})))
    assert main([empty]) == 1
    printed = capsys.readouterr().out
    assert "nothing compared" in printed
    assert "ok" not in printed
    # together with a passing case, it counts as neither
    assert main([empty, str(HERE / "superglobal" / "ap_hand.json")]) == 0
    assert "0 above it, 1 cases without any" in capsys.readouterr().out


def test_emit_depends_on_no_expected_value(tmp_path: Path) -> None:
    def strip(data) -> None:
        for value in data["outputs"].values():
            if isinstance(value, dict):
                value.update(samples=[0.0] * len(value["samples"]), mean=0.0, std=0.0, norm=0.0)
        data["outputs"]["reranked_top"] = []

    path = small_case(tmp_path, strip)
    assert main(["--emit", str(tmp_path / "out.json"), str(path)]) == 0
    emitted = json.loads((tmp_path / "out.json").read_text())["outputs"]
    wanted = json.loads((HERE / "superglobal" / "rerank_small_m_seed0.json").read_text())["outputs"]
    assert emitted["reranked_top"] == wanted["reranked_top"]
    assert emitted["final_scores"]["norm"] == pytest.approx(wanted["final_scores"]["norm"], rel=1e-6)


def test_keys_file_is_found_elsewhere(tmp_path: Path) -> None:
    """A case outside the repository may name a keys file that only the repository has."""
    source = HERE / "superglobal" / "cvnet_global_r50_128x160.json"
    data = json.loads(source.read_text())
    data["inputs"][0]["shape"] = [1, 3, 64, 96]
    data["outputs"] = {}
    path = tmp_path / "superglobal" / "cvnet_global_small.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data))
    assert main(["--emit", str(tmp_path / "out.json"), str(path)]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["outputs"]["descriptor"]["shape"] == [1, 2048]
