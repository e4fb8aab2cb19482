"""Published key names and shapes <-> ours; pure functions. Files and folders are read in `published.py`.

A published state is a whole output folder in one dictionary:

* `mlp_opacity.*`, `mlp_cov.*`, `mlp_color.*`, `mlp_feature_bank.*`, `embedding_appearance.embedding.weight`, `GAD.*`, `LGD.*`,
* `_anchor` (N, 3), `_offset` (N, k, 3), `_anchor_feat` (N, f), `_scaling` (N, 6), `_dynamics` (N, 1 or 2), `canonical_times` (K,).

It holds much that never influences an image. That is left out here, and written as zeros on the way back: the time network, tables
of frequencies, the opacity and colour heads of the local field, and all rows of the appearance embedding but the one that every
camera reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from visionzoo.errors import WeightsError

from .config import APPEARANCE_ROW, MoDecGSConfig
from .fourdgs import FourDGaussiansConfig
from .hexplane import AXES, plane_groups, plane_size

_ANCHORS = {
    "_anchor": "positions",
    "_offset": "offsets",
    "_anchor_feat": "features",
    "_scaling": "scaling",
    "_dynamics": "dynamics",
}
_NETWORKS = {"mlp_opacity": "opacity", "mlp_cov": "covariance", "mlp_color": "color", "mlp_feature_bank": "bank"}
_APPEARANCE = "embedding_appearance.embedding.weight"
_GLOBAL_HEADS = {
    "positions": "pos_deform",
    "features": "feature_deform",
    "offsets": "grid_offsets_deform",
    "scaling": "grid_scaling_deform",
}
_LOCAL_HEADS = {
    "means": "pos_deform",
    "scales": "scales_deform",
    "quats": "rotations_deform",
    "opacities": "opacity_deform",
    "harmonics": "shs_deform",
}
_UNUSED_HEADS = {"opacity_deform": 1, "shs_deform": 48}
_FIELDS = {
    "GAD.": ("global_deformation.field.", _GLOBAL_HEADS),
    "LGD.": ("local_deformation.field.", _LOCAL_HEADS),
}
_FREQUENCIES = {"time_poc": 4, "pos_poc": 10, "rotation_scaling_poc": 2, "opacity_poc": 2}
_TIME_NETWORK = {
    "timenet.0.weight": (64, 9),
    "timenet.0.bias": (64,),
    "timenet.2.weight": (32, 64),
    "timenet.2.bias": (32,),
}

_ONLY = {
    "GLMD": True,
    "GAD_method": "implicit",
    "LGD_method": "explicit",
    "anchor_dynamics": True,
    "no_dx": False,
    "no_ds": False,
    "no_dr": False,
    "static_mlp": False,
    "empty_voxel": False,
    "apply_rotation": False,
    "grid_pe": 0,
}
"""Options that have this value in every published configuration; other values would give another scene."""
_ONLY_LOCAL = {"no_do": True, "no_dshs": True}


def to_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A published state dict in the names and shapes of `model`, a `MoDecGS` or a `FourDGaussians`."""
    own = model.state_dict()
    if any(key.startswith(("anchors.", "networks.", "table.", "field.")) for key in state):
        return dict(state)  # already ours; the caller reports what does not fit
    if any(key.startswith("table.") for key in own):
        return {key: value for key, value in _gaussians_to_ours(state).items() if _known(key, own)}
    ours: dict[str, Tensor] = {}
    for theirs, name in _ANCHORS.items():
        if theirs in state:
            ours[f"anchors.{name}"] = state[theirs]
    for theirs, name in _NETWORKS.items():
        ours |= _renamed(state, f"{theirs}.", f"networks.{name}.")
    if _APPEARANCE in state:
        rows = state[_APPEARANCE]
        whole = "networks.appearance" in own and len(own["networks.appearance"]) == len(rows)
        ours["networks.appearance"] = rows if whole else rows[APPEARANCE_ROW : APPEARANCE_ROW + 1]
    for theirs, (prefix, heads) in _FIELDS.items():
        ours |= _field_to_ours(_renamed(state, theirs, ""), prefix, heads)
    if "canonical_times" in state:
        ours["intervals.borders"] = state["canonical_times"].float()
    elif not any(key.startswith("GAD.") for key in state):  # a static scene has none
        ours["intervals.borders"] = own["intervals.borders"]
    return {key: value for key, value in ours.items() if _known(key, own)}


def to_official(state: Mapping[str, Tensor], cameras: int = APPEARANCE_ROW + 1) -> dict[str, Tensor]:
    """Our state dict, of a `MoDecGS` or a `FourDGaussians`, in published names.

    Args:
        cameras: rows of the appearance embedding to write, if there is one code for all; the published code reads row 10.
    """
    if any(key.startswith("table.") for key in state):
        return _gaussians_to_official(state)
    theirs: dict[str, Tensor] = {}
    for name, ours in _ANCHORS.items():
        if f"anchors.{ours}" in state:
            theirs[name] = state[f"anchors.{ours}"]
    for name, ours in _NETWORKS.items():
        theirs |= _renamed(state, f"networks.{ours}.", f"{name}.")
    if "networks.appearance" in state:
        rows = state["networks.appearance"]
        theirs[_APPEARANCE] = rows.repeat(cameras, 1) if len(rows) == 1 else rows
    for name, (prefix, heads) in _FIELDS.items():
        if f"{prefix}planes.box" in state:
            field = _field_to_official(_renamed(state, prefix, ""), heads)
            frequencies = ("time_poc", "pos_poc") if name == "GAD." else tuple(_FREQUENCIES)
            unused = {} if name == "GAD." else _UNUSED_HEADS
            theirs |= {name + key: value for key, value in (field | _unused(field, frequencies, unused)).items()}
    if "global_deformation.field.planes.box" in state:
        theirs["canonical_times"] = state["intervals.borders"]
    return theirs


def read_config(state: Mapping[str, Tensor], settings: Mapping[str, object] | None = None) -> MoDecGSConfig:
    """The configuration of a published state, from its shapes, and from the options of its training where shapes are not enough.

    Args:
        settings: published options, as `cfg_args` lists them.

    Raises:
        WeightsError: the state lacks a network, or shapes contradict each other.
    """
    settings = settings or {}
    _check_options(settings, {**_ONLY, **_ONLY_LOCAL})
    missing = [key for key in ("mlp_opacity.0.weight", "mlp_cov.0.weight", "mlp_color.0.weight") if key not in state]
    if missing:
        raise WeightsError(
            f"no {', '.join(missing)} among the published weights; expected a MoDec-GS or Scaffold-GS folder"
        )
    hidden, opacity_inputs = state["mlp_opacity.0.weight"].shape
    k = len(state["mlp_opacity.2.bias"])
    appearance = state[_APPEARANCE].shape if _APPEARANCE in state else (0, 0)
    moving = any(key.startswith("GAD.") for key in state)
    values: dict[str, object] = {
        "num_anchors": len(state["_anchor"]) if "_anchor" in state else 0,
        "num_offsets": k,
        "feature_dim": hidden,
        "appearance_dim": appearance[1],
        "appearance_rows": 1 if moving or not appearance[0] else appearance[0],
        "feature_bank": "mlp_feature_bank.0.weight" in state,
        "opacity_dist": opacity_inputs == hidden + 4,
        "covariance_dist": state["mlp_cov.0.weight"].shape[1] == hidden + 4,
        "color_dist": state["mlp_color.0.weight"].shape[1] == hidden + 4 + appearance[1],
        "voxel_size": settings.get("voxel_size", MoDecGSConfig().voxel_size),
        "deform_global": moving,
        "deform_local": any(key.startswith("LGD.") for key in state),
    }
    for prefix, side in (("GAD.", "global"), ("LGD.", "local")):
        if values[f"deform_{side}"]:
            shape = field_shape(_renamed(state, prefix, ""))
            values |= {f"{side}_{name}": shape[name] for name in ("resolution", "levels", "channels")}
            values |= {"width": shape["width"], "depth": shape["depth"]}
    if "canonical_times" in state:
        values["num_segments"] = len(state["canonical_times"])
    if "_dynamics" in state:
        values["shared_dynamics"] = state["_dynamics"].shape[1] == 1
    options = {
        "position_gate": "anchor_dynamics_global_type",
        "attribute_gate": "anchor_dynamics_local_type",
        "gate_activation": "dynamics_activation",
    }
    values |= {ours: settings[theirs] for ours, theirs in options.items() if theirs in settings}
    return MoDecGSConfig(**values)  # pyright: ignore[reportArgumentType]


def read_fourdgs_config(
    state: Mapping[str, Tensor], settings: Mapping[str, object] | None = None
) -> FourDGaussiansConfig:
    """The configuration of a published 4DGaussians state: keys of `deformation.pth`, and `_xyz`, `_features_rest`, …"""
    shape = field_shape(state)
    settings = settings or {}
    _check_options(settings, _ONLY)
    values: dict = {name: shape[name] for name in ("resolution", "levels", "channels", "width", "depth")}
    if "_features_rest" in state:
        values["sh_degree"] = {0: 0, 3: 1, 8: 2, 15: 3}.get(state["_features_rest"].shape[1], 3)
        values["num_gaussians"] = len(state["_xyz"])
    return FourDGaussiansConfig(
        **values,
        deform_opacity=settings.get("no_do", True) is False,
        deform_harmonics=settings.get("no_dshs", True) is False,
    )


def _check_options(settings: Mapping[str, object], supported: Mapping[str, object]) -> None:
    """Raise `WeightsError` for an option that would change the scene and is not supported."""
    for name, value in supported.items():
        if settings.get(name, value) != value:
            raise WeightsError(
                f"the option {name} must be {value!r}, as in every published configuration; got {settings[name]!r}"
            )


def field_shape(state: Mapping[str, Tensor]) -> dict:
    """Resolution, levels, channels, width and depth of a published field. Raises `WeightsError` if it is not one."""
    grids = "deformation_net.grid.grids"
    try:
        first = [state[f"{grids}.0.{index}"].shape for index in range(len(AXES))]
        resolution = (first[0][3], first[0][2], first[1][2], first[2][2])
        levels = []
        while f"{grids}.{len(levels)}.0" in state:
            levels.append(state[f"{grids}.{len(levels)}.0"].shape[3] // resolution[0])
        depth = sum(key.startswith("deformation_net.feature_out.") and key.endswith(".weight") for key in state)
        width = len(state["deformation_net.feature_out.0.bias"])
    except (KeyError, IndexError) as error:
        raise WeightsError(f"these weights have no complete field: {error} is missing") from error
    return {
        "resolution": tuple(resolution), "levels": tuple(levels), "channels": first[0][1], "width": width, "depth": depth
    }  # fmt: skip


def _field_to_ours(state: Mapping[str, Tensor], prefix: str, heads: Mapping[str, str]) -> dict[str, Tensor]:
    """Planes of one size are stacked; everything else only changes its name."""
    if not any(key.startswith("deformation_net.grid.") for key in state):
        return {}
    shape = field_shape(state)
    ours = {f"{prefix}planes.box": state["deformation_net.grid.aabb"]}
    for level, group in itertools.product(range(len(shape["levels"])), enumerate(plane_groups(shape["resolution"]))):
        place, members = group
        planes = [state[f"deformation_net.grid.grids.{level}.{index}"] for index in members]
        ours[f"{prefix}planes.planes.{level}.{place}"] = torch.cat(planes)
    for layer, part in itertools.product(range(shape["depth"]), ("weight", "bias")):
        ours[f"{prefix}trunk.{layer}.{part}"] = state[f"deformation_net.feature_out.{2 * layer}.{part}"]
    for name, theirs in heads.items():
        for ours_layer, layer in (("hidden", 1), ("out", 3)):
            ours |= _renamed(state, f"deformation_net.{theirs}.{layer}.", f"{prefix}heads.{name}.{ours_layer}.")
    return ours


def _field_to_official(state: Mapping[str, Tensor], heads: Mapping[str, str]) -> dict[str, Tensor]:
    theirs = {"deformation_net.grid.aabb": state["planes.box"]}
    resolution = _resolution(state)
    level = 0
    while f"planes.planes.{level}.0" in state:
        for place, members in enumerate(plane_groups(resolution)):
            stacked = state[f"planes.planes.{level}.{place}"]
            theirs |= {
                f"deformation_net.grid.grids.{level}.{index}": stacked[row : row + 1]
                for row, index in enumerate(members)
            }
        level += 1
    for key, value in _renamed(state, "trunk.", "").items():
        layer, part = key.split(".")
        theirs[f"deformation_net.feature_out.{2 * int(layer)}.{part}"] = value
    for name, official in heads.items():
        for ours_layer, layer in (("hidden", 1), ("out", 3)):
            theirs |= _renamed(state, f"heads.{name}.{ours_layer}.", f"deformation_net.{official}.{layer}.")
    return theirs


def _resolution(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The resolution (x, y, z, t) whose stacks of planes at level 0 have the shapes that `state` has."""
    stacks = [value.shape for key, value in state.items() if key.startswith("planes.planes.0.")]
    sides = sorted({side for shape in stacks for side in shape[2:]})
    wanted = [(shape[0], shape[2], shape[3]) for shape in stacks]
    for resolution in itertools.product(sides, repeat=4):
        groups = plane_groups(resolution)
        if [(len(group), *plane_size(resolution, 1, group[0])) for group in groups] == wanted:
            return resolution
    raise WeightsError(f"planes of shapes {[tuple(shape) for shape in stacks]} fit no resolution")


def _unused(field: Mapping[str, Tensor], frequencies: Iterable[str], heads: Mapping[str, int]) -> dict[str, Tensor]:
    """What the published networks carry along and never use, in the shapes they expect."""
    width = len(field["deformation_net.feature_out.0.bias"])
    unused = {name: torch.tensor([2.0**power for power in range(_FREQUENCIES[name])]) for name in frequencies}
    unused |= {key: torch.zeros(shape) for key, shape in _TIME_NETWORK.items()}
    for name, out in heads.items():
        for layer, size in ((1, width), (3, out)):
            key = f"deformation_net.{name}.{layer}"
            if f"{key}.bias" not in field:
                unused |= {f"{key}.weight": torch.zeros(size, width), f"{key}.bias": torch.zeros(size)}
    return unused


# 4DGaussians

_GAUSSIANS = {
    "_xyz": "means",
    "_scaling": "scales",
    "_rotation": "quats",
    "_features_dc": "sh0",
    "_features_rest": "shN",
}


def _gaussians_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = {f"table.{name}": state[theirs] for theirs, name in _GAUSSIANS.items() if theirs in state}
    if "_opacity" in state:
        ours["table.opacities"] = state["_opacity"][:, 0]
    return ours | _field_to_ours(state, "field.", _LOCAL_HEADS)


def _gaussians_to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theirs = {name: state[f"table.{ours}"] for name, ours in _GAUSSIANS.items()}
    theirs["_opacity"] = state["table.opacities"][:, None]
    field = _field_to_official(_renamed(state, "field.", ""), _LOCAL_HEADS)
    return theirs | field | _unused(field, _FREQUENCIES, _UNUSED_HEADS)


def _known(key: str, own: Mapping[str, Tensor]) -> bool:
    """Heads that a configuration leaves out are dropped; the caller reports other unknown keys."""
    return key in own or ".heads." not in key


def _renamed(state: Mapping[str, Tensor], prefix: str, new: str) -> dict[str, Tensor]:
    return {new + key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


__all__ = ["field_shape", "read_config", "read_fourdgs_config", "to_official", "to_ours"]
