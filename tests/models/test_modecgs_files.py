"""Files of MoDec-GS: published folders both ways, the compact scene, and files that are damaged or hostile."""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

import visionzoo as vz
from tests.golden import seeded
from tests.tiny import MODECGS, modecgs
from visionzoo.errors import InputError, WeightsError
from visionzoo.models.modecgs import FourDGaussians, FourDGaussiansConfig, MoDecGS, MoDecGSConfig, scaffold_config
from visionzoo.models.modecgs.compact import _channels, _pack, _without_unread_rows, read_scene, write_scene
from visionzoo.models.modecgs.deformation import is_open
from visionzoo.models.modecgs.published import read_folder, read_published, read_settings, write_published
from visionzoo.models.modecgs.torchscript import read_torchscript

CENTER = torch.tensor([0.3, 0.2, -2.0])


def filled(model: Any) -> Any:
    """A model from points, with random attributes."""
    points = seeded.tensor("points", (60, 3)).numpy()
    model.initialize(points, points) if isinstance(model, FourDGaussians) else model.initialize(points)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def scenes() -> dict[str, Callable[[], Any]]:
    fourd = FourDGaussiansConfig(resolution=(6, 6, 6, 5), levels=(1, 2), channels=4, width=8, depth=2, sh_degree=2)
    bank = MoDecGSConfig(
        **{**MODECGS, "feature_bank": True, "shared_dynamics": True, "position_gate": "mul", "color_dist": True}
    )
    static = scaffold_config(voxel_size=0.1, num_offsets=3, feature_dim=8, appearance_dim=4, appearance_rows=12)
    return {
        "modecgs": lambda: copy.deepcopy(modecgs()),
        "bank": lambda: filled(MoDecGS(bank)),
        "scaffold": lambda: filled(MoDecGS(static)),
        "4dgaussians": lambda: filled(FourDGaussians(fourd)),
    }


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# Published folders


@pytest.mark.parametrize("name", scenes())
def test_published_folder_both_ways(name: str, tmp_path: Path) -> None:
    model = scenes()[name]()
    folder = write_published(model, tmp_path / "out", 14000)
    assert folder == tmp_path / "out" / "point_cloud" / "iteration_14000"
    for place in (tmp_path / "out", folder):
        found = read_published(place)
        assert type(found) is type(model)
        assert same(found, model)
        wanted = vz.create_model("modecgs").config if isinstance(model, MoDecGS) else model.config
        for field in (
            "position_gate",
            "voxel_size",
            "num_segments",
            "width",
            "depth",
            "local_levels",
            "sh_degree",
            "appearance_rows",
        ):
            if hasattr(wanted, field):
                assert getattr(found.config, field) == getattr(model.config, field), field
    facts = read_folder(tmp_path / "out")
    assert (facts.kind, facts.iteration, facts.coarse) == ("modecgs" if name == "bank" else name, 14000, False)


def test_the_last_iteration_of_the_fine_stage_is_read(tmp_path: Path) -> None:
    model = scenes()["modecgs"]()
    for iteration in (7000, 14000):
        write_published(model, tmp_path, iteration)
    (tmp_path / "point_cloud" / "iteration_7000").rename(tmp_path / "point_cloud" / "coarse_iteration_30000")
    assert read_folder(tmp_path).iteration == 14000
    assert read_folder(tmp_path / "point_cloud" / "coarse_iteration_30000").coarse


def test_offsets_are_stored_by_axis(tmp_path: Path) -> None:
    model = scenes()["modecgs"]()
    vertices = plyfile.PlyData.read(str(write_published(model, tmp_path) / "point_cloud.ply"))["vertex"]
    k = model.config.num_offsets
    for axis in range(3):
        for j in range(k):
            assert np.array_equal(
                vertices[f"f_offset_{axis * k + j}"], model.anchors["offsets"][:, j, axis].detach().numpy()
            )
    names = [item.name for item in vertices.properties]
    assert names[:6] == ["x", "y", "z", "nx", "ny", "nz"]
    assert names[-2:] == ["dynamics_0", "dynamics_1"]


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_networks_are_archives_that_torch_runs(tmp_path: Path) -> None:
    """The published code loads the networks with torch.jit.load and calls them."""
    model = scenes()["bank"]()
    folder = write_published(model, tmp_path)
    inputs = torch.randn(5, model.config.feature_dim + 3)
    found = torch.jit.load(str(folder / "opacity_mlp.pt"))(inputs)
    torch.testing.assert_close(found, model.networks.opacity(inputs).tanh())
    weights = torch.jit.load(str(folder / "feature_bank_mlp.pt"))(torch.randn(5, 4))
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    rows = torch.jit.load(str(folder / "embedding_appearance.pt"))(torch.tensor([10]))
    torch.testing.assert_close(rows[0], model.networks.appearance[0])


def test_a_checkpoint_with_other_anchors_loads() -> None:
    model = modecgs()
    empty = MoDecGS(MoDecGSConfig(**MODECGS))
    assert same(vz.load_checkpoint(empty, model.state_dict()), model)
    again = MoDecGS(MoDecGSConfig(**MODECGS))
    again.load_state_dict(model.state_dict())
    assert same(again, model)
    wrong = {**model.state_dict(), "anchors.offsets": torch.zeros(5, 4, 3)}
    with pytest.raises(WeightsError, match=r"anchors.offsets is 5x4x3"):
        vz.load_checkpoint(MoDecGS(MoDecGSConfig(**MODECGS)), wrong)


def damaged(folder: Path, what: str) -> None:
    last = folder / "point_cloud" / "iteration_30000"
    cloud = last / "point_cloud.ply"
    if what == "truncated ply":
        cloud.write_bytes(cloud.read_bytes()[:-100])
    elif what == "text":
        cloud.write_text("hello")
    elif what == "mesh":
        axes = "".join(f"property float {axis}\n" for axis in "xyz")
        cloud.write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{axes}end_header\n0 0 0\n")
    elif what == "nan":
        data = plyfile.PlyData.read(io.BytesIO(cloud.read_bytes()))
        data["vertex"]["f_offset_3"][2] = np.nan
        data.write(str(cloud))
    elif what == "no network":
        (last / "cov_mlp.pt").unlink()
    elif what == "no field":
        (last / "deformation_LGD.pth").unlink()
    elif what == "options":
        (folder / "cfg_args").write_text("__import__('os').system('touch hacked')")
    elif what == "gate":
        (folder / "cfg_args").write_text("Namespace(anchor_dynamics_global_type='both')")
    elif what == "method":
        (folder / "cfg_args").write_text("Namespace(LGD_method='implicit')")
    elif what == "times":
        (last / "canonical_times.npy").write_bytes(pickle.dumps([1, 2]))
    elif what == "other network":
        write_published(scenes()["bank"](), folder / "other")
        (last / "cov_mlp.pt").write_bytes((folder / "other/point_cloud/iteration_30000/color_mlp.pt").read_bytes())


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("truncated ply", "damaged or truncated .ply"),
        ("text", "is not a .ply file"),
        ("mesh", "has no columns f_offset_0"),
        ("nan", "1 of .* rows are not finite in _offset"),
        ("no network", "cov_mlp.pt is missing"),
        ("no field", "deformation_LGD.pth is missing"),
        ("options", "must be the printed options"),
        ("gate", "position_gate must be one of mask, mul, got 'both'"),
        ("method", "LGD_method must be 'explicit', as in every published configuration"),
        ("times", "is not an array of numbers"),
        ("other network", "does not fit MoDecGS"),
    ],
)
def test_damaged_folders_are_named(what: str, says: str, tmp_path: Path) -> None:
    write_published(modecgs(), tmp_path)
    damaged(tmp_path, what)
    with pytest.raises(InputError, match=says) as caught:
        read_published(tmp_path)
    assert "\n" not in str(caught.value)
    assert not Path("hacked").exists()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be an output folder"):
        read_published(tmp_path / "none")
    with pytest.raises(InputError, match="has no point_cloud/iteration_<n>"):
        read_published(tmp_path)


def test_options_are_literals_only(tmp_path: Path) -> None:
    path = tmp_path / "cfg_args"
    path.write_text(
        "Namespace(a=1, b='x', c=[1, 2], d={'e': None}, f=device(type='cuda'), g=__import__('os').getcwd())"
    )
    assert read_settings(path) == {"a": 1, "b": "x", "c": [1, 2], "d": {"e": None}}


# TorchScript


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


def archive(path: Path, data: bytes, storage: bytes = b"\0" * 16) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", data)
        file.writestr("m/constants.pkl", b"")
        file.writestr("m/data/0", storage)
    return path


def tensor_pickle(size: str, count: int = 4, name: str = "torch._utils\n_rebuild_tensor_v2") -> bytes:
    """A module with one tensor: protocol 0, by hand."""
    storage = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI{count}\ntQ"
    module = "c__torch__\nM\n)\x81}S'w'\n"
    return f"\x80\x02{module}c{name}\n({storage}I0\n({size}t(I1\ntI00\nNtRsb.".encode("latin1")


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_torchscript_is_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    torch.jit.script(network).save(str(tmp_path / "m.pt"))
    monkeypatch.setattr(torch.jit, "load", None)
    state = read_torchscript(tmp_path / "m.pt")
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert read_torchscript(archive(tmp_path / "hand.pt", tensor_pickle("I4\n")))["w"].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pickle.dumps(Hostile()), "holds posix.system|holds os.system"),
        (pickle.dumps(np.zeros(2)), "holds numpy"),
        (tensor_pickle("I1000000000\n"), "a tensor larger than its numbers"),
        (tensor_pickle("I4\n", count=5), "not a TorchScript archive, or is damaged"),
        (tensor_pickle("I4\n", name="builtins\neval"), "holds builtins.eval"),
        (b"\x80\x02}.", "holds no tensors"),
        (b"junk", "not a TorchScript archive, or is damaged"),
    ],
)
def test_hostile_archives_are_refused_and_never_run(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=says):
        read_torchscript(archive(tmp_path / "m.pt", data))
    assert not Path("hacked").exists()


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "state.pt")
    with pytest.raises(WeightsError, match="is not a TorchScript archive"):
        read_torchscript(tmp_path / "state.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(WeightsError, match="empty"):
        read_torchscript(tmp_path / "empty.pt")


# Compact scenes


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
