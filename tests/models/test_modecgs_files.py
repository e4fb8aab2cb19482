"""Published folders of MoDec-GS both ways, and folders and archives that are damaged or hostile."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import torch
from torch import nn

import visionzoo as vz
from tests.models.modecgs_scenes import scenes
from tests.tiny import MODECGS, modecgs
from visionzoo.errors import InputError, WeightsError
from visionzoo.models.modecgs import MoDecGS, MoDecGSConfig
from visionzoo.models.modecgs.published import read_folder, read_published, read_settings, write_published
from visionzoo.models.modecgs.torchscript import read_torchscript


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
