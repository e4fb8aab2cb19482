"""The compact scene file: its stated errors, its versions, and files that are damaged or hostile."""

from __future__ import annotations

import copy
import io
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from tests.golden import seeded
from tests.models.modecgs_scenes import scenes
from tests.tiny import MODECGS, modecgs
from visionzoo.errors import InputError
from visionzoo.models.modecgs import MoDecGS, MoDecGSConfig
from visionzoo.models.modecgs.compact import _channels, _pack, _without_unread_rows, read_scene, write_scene
from visionzoo.models.modecgs.deformation import is_open

CENTER = torch.tensor([0.3, 0.2, -2.0])


def in_cell_order(model: Any) -> dict[str, Tensor]:
    state = model.state_dict()
    if "anchors.positions" not in state:
        return state
    order = torch.from_numpy(np.lexsort(state["anchors.positions"].numpy().T[::-1]))
    return {key: value[order] if key.startswith("anchors.") else value for key, value in state.items()}


@pytest.mark.parametrize("bits", [8, 10, 15, 16])
@pytest.mark.parametrize("name", scenes())
def test_compact_scene_keeps_its_stated_errors(name: str, bits: int, tmp_path: Path) -> None:
    model = scenes()[name]()
    path = tmp_path / "a.vzgs"
    size = write_scene(model, path, bits=bits, facts={"times": [0.0, 0.5]})
    assert size == path.stat().st_size
    scene = read_scene(path)
    assert scene.facts == {"times": [0.0, 0.5]}
    assert type(scene.model) is type(model)
    found, wanted = scene.model.state_dict(), _without_unread_rows(in_cell_order(model), model)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        error = (found[key] - value).abs()
        if key in ("intervals.borders", "table.means") or key.endswith("planes.box"):
            assert not error.any(), key
        elif key == "anchors.positions":
            torch.testing.assert_close(found[key], value, rtol=2e-7, atol=1e-8)
        elif (".planes.planes." in key or key.startswith(("anchors.", "table."))) and "dynamics" not in key:
            axes = (2, 3) if value.ndim == 4 else (0,)
            low, high = value.amin(axes, keepdim=True), value.amax(axes, keepdim=True)
            rounding = 2**-22 * torch.maximum(low.abs(), high.abs())
            assert (error <= (high - low) / (2 * (2**bits - 1)) + rounding).all(), key
        else:
            assert (error <= 5e-4 * value.abs() + 1e-7).all(), key
    write_scene(scene.model, tmp_path / "b.vzgs", bits=bits, facts=scene.facts)
    again = read_scene(tmp_path / "b.vzgs").model.state_dict()
    for key, value in found.items():
        torch.testing.assert_close(again[key], value, rtol=1e-6, atol=1e-6, msg=key)


def test_more_bits_make_a_larger_file_with_a_smaller_error(tmp_path: Path) -> None:
    model = modecgs()
    wanted = in_cell_order(model)["anchors.features"]
    sizes, errors = [], []
    for bits in range(8, 17):
        sizes.append(write_scene(model, tmp_path / "a.vzgs", bits=bits))
        found = read_scene(tmp_path / "a.vzgs").model.state_dict()["anchors.features"]
        errors.append(float((found - wanted).abs().max()))
        assert header_of(tmp_path / "a.vzgs")["version"] == (1 if bits == 8 else 2)
    assert sizes == sorted(sizes)
    assert all(one > 1.5 * other for one, other in itertools.pairwise(errors))


def test_scenes_of_version_1_in_half_precision_still_load(tmp_path: Path) -> None:
    model, path = modecgs(), tmp_path / "a.vzgs"
    write_scene(model, path)
    wanted, tables = in_cell_order(model), load_file(path)
    for name in ("features", "offsets", "scaling"):
        key = f"anchors.{name}"
        tables[key] = _pack(_channels(wanted[key].numpy()).astype("<f2"))
    header = header_of(path)
    header["tables"] |= {f"anchors.{name}": {"form": "float16"} for name in ("features", "offsets", "scaling")}
    assert header["version"] == 1
    save_file(tables, path, {"vzgs": json.dumps(header)})
    found = read_scene(path).model.state_dict()
    for name in ("features", "offsets", "scaling"):
        torch.testing.assert_close(found[f"anchors.{name}"], wanted[f"anchors.{name}"], rtol=5e-4, atol=1e-7)


def test_a_compact_scene_opens_the_same_masks(tmp_path: Path) -> None:
    """Half precision must not move an anchor across the threshold of its gate."""
    model = copy.deepcopy(modecgs())
    threshold = float(np.log(0.01 / 0.99))
    with torch.no_grad():
        model.anchors["dynamics"].copy_(threshold + 1e-4 * torch.randn(model.anchors.rows, 2))
    write_scene(model, tmp_path / "a.vzgs")
    wanted = in_cell_order(model)["anchors.dynamics"]
    found = read_scene(tmp_path / "a.vzgs").model.state_dict()["anchors.dynamics"]
    assert torch.equal(is_open(found, "sigmoid"), is_open(wanted, "sigmoid"))
    assert not torch.equal(is_open(wanted.half().float(), "sigmoid"), is_open(wanted, "sigmoid")), "the test is sharp"


def test_a_compact_scene_looks_the_same(tmp_path: Path) -> None:
    model = modecgs()
    write_scene(model, tmp_path / "a.vzgs", bits=16)
    with torch.no_grad():
        one, other = (scene(CENTER, 0.4) for scene in (model, read_scene(tmp_path / "a.vzgs").model))
    assert abs(len(one) - len(other)) <= 0.01 * len(one)
    torch.testing.assert_close(one.means.mean(0), other.means.mean(0), atol=0.01, rtol=0.01)


@pytest.mark.parametrize("name", ["modecgs", "4dgaussians"])
def test_rows_that_no_time_reads_are_left_out(name: str, tmp_path: Path) -> None:
    """The fields of times in [0, 1], and of canonical times before 0, are what they were."""
    model = scenes()[name]()
    if name == "modecgs":
        model.intervals.set_borders(np.array([0.05, 0.26, 0.5, 0.75]))  # times below 0.05 read at -0.2
    write_scene(model, tmp_path / "a.vzgs", bits=16)
    found = read_scene(tmp_path / "a.vzgs").model
    points = seeded.tensor("points", (60, 3))
    fields = {"": ("field",), "modecgs": ("global_deformation", "local_deformation")}
    for side in fields.get(name, fields[""]):
        one, other = (scene.get_submodule(side) for scene in (model, found))
        one, other = (getattr(value, "field", value).planes for value in (one, other))
        for time in (0.0, 0.3, 1.0, *([-0.2] if side == "global_deformation" else [])):
            torch.testing.assert_close(one(points, time), other(points, time), rtol=5e-3, atol=1e-4)
        assert torch.equal(other(points, -0.9), other(points, -1.0))


def test_empty_and_untrained_scenes(tmp_path: Path) -> None:
    model = MoDecGS(MoDecGSConfig(**MODECGS))
    write_scene(model, tmp_path / "empty.vzgs")
    assert read_scene(tmp_path / "empty.vzgs").model.anchors.rows == 0  # pyright: ignore


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["vzgs"])


def changed(path: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a scene with another header."""
    header = header_of(path)
    change(header)
    save_file(load_file(path), path, {"vzgs": json.dumps(header)})
    return path


def shift_table(header: dict) -> None:
    header["tables"]["anchors.features"]["low"].pop()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h: h.update(version=3), "has version 3 of the format, and this visionzoo reads up to 2; update it"),
        (lambda h: h.update(version="1"), "no version"),
        (lambda h: h.update(kind="other"), "no kind 'other'"),
        (lambda h: h.update(tables=[]), "no tables"),
        (lambda h: h["tables"].pop("anchors.features"), "its tables do not match its configuration"),
        (lambda h: h["tables"]["anchors.features"].update(form="pickle"), "damaged scene"),
        (lambda h: h["tables"]["anchors.features"].update(form="float32"), "another size"),
        (lambda h: h["tables"]["anchors.features"].update(form="uint16"), "another size"),
        (lambda h: h["tables"]["anchors.features"].update(form="uint32"), "damaged scene"),
        (lambda h: h["tables"]["anchors.dynamics"].update(form="uint16"), "damaged scene"),
        (shift_table, "one per channel"),
        (lambda h: h["tables"]["anchors.features"].update(low=[3e38] * 8, step=[1e38] * 8), "not finite"),
        (lambda h: h["config"].update(num_anchors=10**12), "claims|cannot be built"),
        (lambda h: h["config"].update(num_anchors=10**30), "damaged scene"),
        (lambda h: h["config"].update(global_resolution=[10**6] * 4), "claims|cannot be built"),
        (lambda h: h["config"].update(depth=10**9), "depth must be at most 64"),
        (lambda h: h["config"].update(local_levels=[1] * 1000), "one to 16 integers"),
        (lambda h: h["config"].update(num_anchors=7), "another size"),
        (lambda h: h["config"].update(name="x"), "no field 'name'"),
    ],
)
def test_hostile_headers_are_one_line(change: Callable[[dict], None], says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.vzgs"
    write_scene(modecgs(), path)
    with pytest.raises(InputError, match=says) as caught:
        read_scene(changed(path, change))
    assert "\n" not in str(caught.value)


def test_truncated_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.vzgs"
    write_scene(modecgs(), path)
    data = path.read_bytes()
    for size in (0, 1, 7, 9, 200, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"empty|truncated|damaged"):
            read_scene(path)
    for place in range(8, len(data), len(data) // 40):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            read_scene(path)
        except InputError as error:
            assert "\n" not in str(error)
    path.write_bytes(struct.pack("<Q", 2**60) + data[8:])
    with pytest.raises(InputError, match="truncated"):
        read_scene(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(InputError, match="not a .vzgs scene"):
        read_scene(path)
    stream = io.BytesIO()
    np.save(stream, np.zeros(9))
    path.write_bytes(stream.getvalue())
    with pytest.raises(InputError):
        read_scene(path)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    model = copy.deepcopy(modecgs())
    for bits in (7, 17, 10.0, "8", True, None):
        with pytest.raises(InputError, match=f"bits must be an integer from 8 to 16, got {bits!r}"):
            write_scene(model, tmp_path / "a.vzgs", bits=bits)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="not plain JSON"):
        write_scene(model, tmp_path / "a.vzgs", facts={"x": Path()})
    with torch.no_grad():
        model.anchors["features"][0, 0] = float("nan")
    with pytest.raises(InputError, match="anchors.features are not finite"):
        write_scene(model, tmp_path / "a.vzgs")
    assert not list(tmp_path.iterdir())
