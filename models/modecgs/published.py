"""Output folders of published trainings, in both directions: MoDec-GS, Scaffold-GS and 4DGaussians.

A folder holds `cfg_args`, a printed `Namespace`, and `point_cloud/iteration_<n>/` with the last state: `point_cloud.ply`, the anchor
networks as TorchScript archives, and the fields as `deformation*.pth`. Nothing in it is run: options are read as literals, and
archives tensor by tensor.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visionzoo.errors import InputError, WeightsError
from visionzoo.io.files import atomic_path, make_folder, write_text
from visionzoo.io.head import read_head
from visionzoo.weights import load_checkpoint
from visionzoo.weights.reading import find_state_dict, read_checkpoint

from .checkpoint import read_config, read_fourdgs_config, to_official
from .config import MoDecGSConfig
from .fourdgs import FourDGaussians
from .model import MoDecGS
from .ply import (
    GAUSSIAN_COLUMNS,
    gaussian_columns,
    harmonics_of,
    read_columns,
    require_columns,
    side_by_side,
    write_columns,
)
from .torchscript import read_torchscript, write_torchscript

FROZEN_OPACITY = math.log(0.1 / 0.9)
"""The logit in the column `opacity` of every anchor, which nothing reads."""

_NETWORKS = {
    "opacity_mlp.pt": "mlp_opacity.",
    "cov_mlp.pt": "mlp_cov.",
    "color_mlp.pt": "mlp_color.",
    "feature_bank_mlp.pt": "mlp_feature_bank.",
    "embedding_appearance.pt": "embedding_appearance.",
}
_FIELDS = {"deformation_GAD.pth": "GAD.", "deformation_LGD.pth": "LGD."}


@dataclass(frozen=True)
class Published:
    """An output folder as it was read.

    Attributes:
        kind: "modecgs", "scaffold" or "4dgaussians".
        iteration: iteration of the state that was read.
        coarse: whether it is from the coarse stage.
        settings: options of the training, as far as they are plain values.
        state: the published state, see `checkpoint.py`.
    """

    kind: str
    iteration: int
    coarse: bool
    settings: dict[str, Any]
    state: dict[str, Tensor]


def read_published(path: str | Path) -> MoDecGS | FourDGaussians:
    """The scene in an output folder of MoDec-GS, Scaffold-GS or 4DGaussians, in eval mode.

    Args:
        path: the folder with `point_cloud`, or one of its `iteration_<n>`; of several, the last of the fine stage is read.

    Raises:
        InputError: no such folder, a file is missing or damaged, or options that are not known.
    """
    found = read_folder(path)
    model: MoDecGS | FourDGaussians
    try:
        if found.kind == "4dgaussians":
            model = FourDGaussians(read_fourdgs_config(found.state, found.settings))
        else:
            model = MoDecGS(read_config(found.state, found.settings))
        load_checkpoint(model, found.state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return model.eval()


def read_folder(path: str | Path) -> Published:
    """What an output folder holds, in published names. Errors are those of `read_published`."""
    root, folder, iteration, coarse = _locate(Path(path))
    settings = read_settings(root / "cfg_args") if (root / "cfg_args").is_file() else {}
    cloud = read_columns(folder / "point_cloud.ply")
    if (folder / "deformation.pth").is_file():
        state = _gaussians(cloud, folder) | _state_dict(folder / "deformation.pth")
        return Published("4dgaussians", iteration, coarse, settings, state)
    state = _anchors(cloud, folder)
    for name, prefix in _NETWORKS.items():
        if (folder / name).is_file():
            state |= {prefix + key: value for key, value in read_torchscript(folder / name).items()}
        elif name in ("opacity_mlp.pt", "cov_mlp.pt", "color_mlp.pt"):
            raise InputError(
                f"{folder}: {name} is missing; expected an output folder of MoDec-GS, Scaffold-GS or 4DGaussians"
            )
    for name, prefix in _FIELDS.items():
        if (folder / name).is_file():
            state |= {prefix + key: value for key, value in _state_dict(folder / name).items()}
    moving = [name for name in _FIELDS if (folder / name).is_file()]
    if len(moving) == 1:
        missing = next(name for name in _FIELDS if name not in moving)
        raise InputError(f"{folder}: {missing} is missing, but {moving[0]} is there; copy the whole folder")
    if moving:
        state["canonical_times"] = _times(folder / "canonical_times.npy", settings)
    return Published("modecgs" if moving else "scaffold", iteration, coarse, settings, state)


def write_published(model: MoDecGS | FourDGaussians, path: str | Path, iteration: int = 30000) -> Path:
    """Write a scene as an output folder that the published code reads. Returns its `iteration_<n>`.

    A static `MoDecGS` is written as a folder of Scaffold-GS.
    """
    root = make_folder(path)
    folder = make_folder(root / "point_cloud" / f"iteration_{iteration}")
    state = {key: value.detach().cpu() for key, value in to_official(model.state_dict()).items()}
    if isinstance(model, FourDGaussians):
        write_columns(folder / "point_cloud.ply", _gaussian_columns(state))
        _save(folder / "deformation.pth", {key: value for key, value in state.items() if not key.startswith("_")})
        count = model.table.rows
        settings = {"no_do": not model.config.deform_opacity, "no_dshs": not model.config.deform_harmonics}
    else:
        write_columns(folder / "point_cloud.ply", _anchor_columns(state))
        _write_networks(model.config, state, folder)
        for name, prefix in _FIELDS.items():
            field = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if field:
                _save(folder / name, field)
        if "canonical_times" in state:
            with atomic_path(folder / "canonical_times.npy") as temporary:
                np.save(temporary, state["canonical_times"].numpy())
        count = model.anchors.rows
        c = model.config
        settings = {
            "voxel_size": c.voxel_size,
            "feat_dim": c.feature_dim,
            "n_offsets": c.num_offsets,
            "appearance_dim": c.appearance_dim,
            "anchor_dynamics_global_type": c.position_gate,
            "anchor_dynamics_local_type": c.attribute_gate,
            "dynamics_activation": c.gate_activation,
        }
    if any(name.startswith("deformation") for name in (file.name for file in folder.iterdir())):
        _save(folder / "deformation_table.pth", torch.ones(count, dtype=torch.bool))
        _save(folder / "deformation_accum.pth", torch.zeros(count, 3))
    write_text(root / "cfg_args", f"Namespace({', '.join(f'{key}={value!r}' for key, value in settings.items())})")
    return folder


def read_settings(path: str | Path) -> dict[str, Any]:
    """The options in a `cfg_args`: those whose values are literals. Nothing is evaluated.

    Raises:
        InputError: missing, or not a printed `Namespace`.
    """
    path = Path(path)
    read_head(path, "the options of a training")
    wanted = f"{path}: must be the printed options of a training, Namespace(…)"
    if path.stat().st_size > 1 << 20:
        raise InputError(wanted)
    try:
        call = ast.parse(path.read_text(encoding="utf-8").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(wanted) from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Namespace":
        raise InputError(wanted)
    settings = {}
    for keyword in call.keywords:
        try:
            settings[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue  # an object of the training, such as a device
    return {str(name): value for name, value in settings.items()}


def read_camera_centers(path: str | Path) -> np.ndarray | None:
    """(C, 3) float32: where the cameras of a training were, from the `cameras.json` in its output folder; None without one.

    Raises:
        InputError: a folder without a scene, or a file that does not list cameras.
    """
    root, *_ = _locate(Path(path))
    file = root / "cameras.json"
    if not file.is_file():
        return None
    try:
        centers = np.array([camera["position"] for camera in json.loads(file.read_text(encoding="utf-8"))], np.float32)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: must be a list of cameras with a position; delete it, or copy it again") from error
    if centers.ndim != 2 or centers.shape[1] != 3 or not np.isfinite(centers).all():
        raise InputError(f"{file}: positions of cameras must be three finite numbers; delete it, or copy it again")
    return centers


def _locate(path: Path) -> tuple[Path, Path, int, bool]:
    """(output folder, folder of the iteration, its number, whether it is of the coarse stage)."""
    pattern = re.compile(r"(coarse_)?iteration_(\d+)")
    if not path.is_dir():
        raise InputError(f"{path}: must be an output folder with point_cloud/iteration_<n>")
    named = pattern.fullmatch(path.absolute().name)
    if named and (path / "point_cloud.ply").is_file():
        return path.absolute().parent.parent, path, int(named[2]), bool(named[1])
    clouds = path / "point_cloud"
    inside = [(pattern.fullmatch(one.name), one) for one in sorted(clouds.iterdir())] if clouds.is_dir() else []
    found = [
        (not match[1], int(match[2]), one) for match, one in inside if match and (one / "point_cloud.ply").is_file()
    ]
    if not found:
        if any(
            (path / name).exists() for name in ("dataset.json", "transforms_train.json", "poses_bounds.npy", "sparse")
        ):
            raise InputError(
                f"{path}: holds images with cameras; train it first: visionzoo reconstruct {path} -o scene.vzgs"
            )
        raise InputError(
            f"{path}: has no point_cloud/iteration_<n>/point_cloud.ply; give the output folder of a training"
        )
    fine, iteration, folder = max(found)
    return path, folder, iteration, not fine


def _state_dict(path: Path) -> dict[str, Tensor]:
    return find_state_dict(read_checkpoint(path), str(path))


def _times(path: Path, settings: Mapping[str, Any]) -> Tensor:
    """The borders of the segments. Older trainings did not store them; they never moved there."""
    if not path.is_file():
        segments = settings.get("TIA_num_segments", MoDecGSConfig().num_segments)
        return torch.arange(int(segments), dtype=torch.float32) / int(segments)
    try:
        times = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: is not an array of numbers ({error})") from error
    if times.ndim != 1 or not len(times) or times.dtype.kind not in "fiu" or not np.isfinite(times).all():
        raise InputError(
            f"{path}: must be finite numbers, one per segment, got shape {times.shape} and type {times.dtype}"
        )
    return torch.from_numpy(times.astype(np.float32))


# Point clouds


def _tensors(path: Path, values: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The columns as tensors. Raises `InputError` unless all numbers are finite."""
    for name, value in values.items():
        wrong = int((~np.isfinite(value.reshape(len(value), -1)).all(axis=1)).sum())
        if wrong:
            raise InputError(
                f"{path}: {wrong} of {len(value)} rows are not finite in {name}; train again, or remove them"
            )
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}


def _anchors(cloud: Mapping[str, np.ndarray], folder: Path) -> dict[str, Tensor]:
    """Anchors of a .ply; offsets are stored by axis: all x, then all y, then all z."""
    path = folder / "point_cloud.ply"
    scales = [f"scale_{i}" for i in range(6)]
    require_columns(
        cloud, ["x", "y", "z", "f_offset_0", "f_anchor_feat_0", *scales], path, "anchors of MoDec-GS or Scaffold-GS"
    )
    offsets = side_by_side(cloud, "f_offset_", path)
    if offsets.shape[1] % 3:
        raise InputError(f"{path}: the number of columns f_offset must be a multiple of 3, got {offsets.shape[1]}")
    values = {
        "_anchor": np.stack([cloud[axis] for axis in "xyz"], axis=1),
        "_offset": offsets.reshape(len(offsets), 3, -1).transpose(0, 2, 1),
        "_anchor_feat": side_by_side(cloud, "f_anchor_feat_", path),
        "_scaling": np.stack([cloud[name] for name in scales], axis=1),
    }
    dynamics = side_by_side(cloud, "dynamics_", path)
    if "dynamics" in cloud:
        dynamics = cloud["dynamics"][:, None]
    if dynamics.shape[1]:
        values["_dynamics"] = dynamics
    return _tensors(path, values)


def _anchor_columns(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    positions, offsets, features, scaling = (
        state[name].numpy() for name in ("_anchor", "_offset", "_anchor_feat", "_scaling")
    )
    count = len(positions)
    by_axis = offsets.transpose(0, 2, 1).reshape(count, -1)
    columns = {axis: positions[:, i] for i, axis in enumerate("xyz")}
    columns |= {name: np.zeros(count) for name in ("nx", "ny", "nz")}
    columns |= {f"f_offset_{i}": by_axis[:, i] for i in range(by_axis.shape[1])}
    columns |= {f"f_anchor_feat_{i}": features[:, i] for i in range(features.shape[1])}
    columns["opacity"] = np.full(count, FROZEN_OPACITY)
    columns |= {f"scale_{i}": scaling[:, i] for i in range(6)}
    columns |= {f"rot_{i}": np.full(count, float(i == 0)) for i in range(4)}
    if "_dynamics" in state:
        dynamics = state["_dynamics"].numpy()
        names = ["dynamics"] if dynamics.shape[1] == 1 else [f"dynamics_{i}" for i in range(dynamics.shape[1])]
        columns |= {name: dynamics[:, i] for i, name in enumerate(names)}
    return columns


def _gaussians(cloud: Mapping[str, np.ndarray], folder: Path) -> dict[str, Tensor]:
    """Gaussians of a .ply."""
    path = folder / "point_cloud.ply"
    require_columns(cloud, GAUSSIAN_COLUMNS, path, "Gaussians of 4DGaussians")
    harmonics = harmonics_of(cloud, path)
    values = {
        "_xyz": np.stack([cloud[axis] for axis in "xyz"], axis=1),
        "_scaling": np.stack([cloud[f"scale_{i}"] for i in range(3)], axis=1),
        "_rotation": np.stack([cloud[f"rot_{i}"] for i in range(4)], axis=1),
        "_opacity": cloud["opacity"][:, None],
        "_features_dc": harmonics[:, :1],
        "_features_rest": harmonics[:, 1:],
    }
    return _tensors(path, values)


def _gaussian_columns(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    means, scales, quats, opacities, constant, rest = (
        state[name].numpy() for name in ("_xyz", "_scaling", "_rotation", "_opacity", "_features_dc", "_features_rest")
    )
    return gaussian_columns(means, scales, quats, opacities[:, 0], np.concatenate([constant, rest], axis=1))


# Networks


def _write_networks(config: MoDecGSConfig, state: Mapping[str, Tensor], folder: Path) -> None:
    activations = {"mlp_opacity.": nn.Tanh(), "mlp_color.": nn.Sigmoid(), "mlp_feature_bank.": nn.Softmax(dim=1)}
    for name, prefix in _NETWORKS.items():
        weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if not weights:
            continue
        if prefix == "embedding_appearance.":
            network: nn.Module = _Embedding(*weights["embedding.weight"].shape)
        else:
            (hidden, inputs), out = weights["0.weight"].shape, len(weights["2.bias"])
            layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, out)]
            network = nn.Sequential(*layers, *([activations[prefix]] if prefix in activations else []))
        network.load_state_dict(weights)
        write_torchscript(network.eval(), folder / name)


class _Embedding(nn.Module):
    """A table of codes, as the published code stores it."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(rows, width)

    def forward(self, rows: Tensor) -> Tensor:
        return self.embedding(rows)


def _save(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        torch.save(value, temporary)


__all__ = ["Published", "read_camera_centers", "read_folder", "read_published", "read_settings", "write_published"]
