"""Models, fields, segments, anchors, metrics and learning rates: everything but rasterisation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.metrics.masked import masked_psnr, masked_ssim
from visionzoo.metrics.restoration import psnr
from visionzoo.models.modecgs.anchors import initial_anchors
from visionzoo.models.modecgs.checkpoint import read_config, to_official, to_ours
from visionzoo.models.modecgs.config import MoDecGSConfig
from visionzoo.models.modecgs.fourdgs import FourDGaussians, FourDGaussiansConfig
from visionzoo.models.modecgs.gaussians import Gaussians
from visionzoo.models.modecgs.growth import GrowthRules, Statistics, adjust
from visionzoo.models.modecgs.intervals import Intervals, IntervalStatistics
from visionzoo.models.modecgs.losses import (
    PlaneWeights,
    photometric_loss,
    plane_terms,
    regularization_loss,
    ssim_map,
)
from visionzoo.models.modecgs.model import MoDecGS
from visionzoo.models.modecgs.published import FROZEN_OPACITY
from visionzoo.models.modecgs.schedules import RATES, Rate
from visionzoo.splatting import Render, render
from visionzoo.weights import load_checkpoint

from .. import seeded
from ..case import DIFFERENT, HERE, Case, different_keys


def compute(case: Case) -> dict[str, Any]:
    """Everything that `case` can ask for; its kind shows in its name, or else in its configuration."""
    kinds: dict[str, Callable[[Case], dict[str, Any]]] = {
        "keys": keys,
        "scaffold": scaffold,
        "fourdgs": fourdgs,
        "modecgs": modecgs,
        "tia": intervals,
        "anchors": anchors,
        "metrics": metrics,
        "lr_schedule": rates,
    }
    for start, kind in kinds.items():
        if case.name.startswith(start):
            return kind(case)
    by_config = {
        "kplanes_config_global": modecgs,
        "kplanes_config": fourdgs,
        "camera_uid": scaffold,
        "rounds": intervals,
        "check_interval": anchors,
        "steps": rates,
        "height": metrics,
    }
    for key, kind in by_config.items():
        if key in case.config:
            return kind(case)
    raise SystemExit(f"{case.path}: no known kind of case")


# Weights and inputs


def published(case: Case) -> dict[str, Tensor]:
    """The case's published state with seeded values and the adjustments that its notes state."""
    shapes = case.data.get("state_dict")
    if not isinstance(shapes, dict) or set(shapes) <= {"see"}:
        file = re.search(r"[\w.-]+\.json", str(shapes))
        folders = [folder for folder in (case.path.parent, HERE / case.system) if file and (folder / file[0]).is_file()]
        if not file or not folders:
            raise SystemExit(f"{case.path}: names no state dict")
        shapes = json.loads((folders[0] / file[0]).read_text(encoding="utf-8"))
        shapes = shapes.get("state_dict", shapes)
    state = seeded.fill({key: torch.zeros(shape) for key, shape in shapes.items()}, case.seed)
    bound = float(case.config.get("bounds", 1.6))
    for key, value in state.items():
        if ".grids." in key:
            state[key] = 1 + 0.3 * seeded.tensor(key, value.shape, case.seed, "normal")
        elif key.endswith("aabb"):
            state[key] = torch.tensor([[bound] * 3, [-bound] * 3])
        elif key.endswith("_poc"):
            state[key] = 2.0 ** torch.arange(len(value))
        elif "_deform.3." in key:
            state[key] = 0.05 * value
    return state


def given(case: Case, name: str, shape: list[int] | None = None) -> Tensor:
    """An input, made as its `kind` says: "3.6*uniform-1.8", "floor(80*uniform)", …"""
    spec = next(spec for spec in case.data["inputs"] if re.fullmatch(re.escape(spec["name"]).replace("<r>", r"\d+"), name)
                or spec["name"].replace("<r>", "").replace("<level>", "") == name.rstrip("0123456789"))  # fmt: skip
    kind = re.search(r"(?:(\d*\.?\d+)\*)?(uniform|normal)(?:-(\d*\.?\d+))?", spec["kind"])
    assert kind, spec
    draw = seeded.tensor(name, spec["shape"] if shape is None else shape, case.seed, kind[2])
    value = float(kind[1] or 1) * draw - float(kind[3] or 0)
    return value.floor() if spec["kind"].startswith("floor") else value


def camera(case: Case) -> tuple[Tensor, Tensor]:
    """World to camera (4, 4) and the camera's centre (3,)."""
    yaw, pitch = (seeded.tensor("camera_angles", (2,), case.seed) - 0.5).tolist()
    around_y, around_x = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    around_y[0, 0] = around_y[2, 2] = np.cos(yaw)
    around_y[0, 2], around_y[2, 0] = np.sin(yaw), -np.sin(yaw)
    around_x[1, 1] = around_x[2, 2] = np.cos(pitch)
    around_x[1, 2], around_x[2, 1] = -np.sin(pitch), np.sin(pitch)
    rotation, shift = around_x @ around_y, torch.tensor([0, 0, 3.0], dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = rotation, shift
    return matrix.float(), (-rotation.T @ shift).float()


def loaded(case: Case, model: Any, names: list[str]) -> Any:
    """`model` with the case's weights, and its anchors from the inputs, loaded as a published file would be."""
    state = published(case)
    for name in names:
        state[f"_{name}"] = given(case, name)
    if isinstance(model, MoDecGS):
        k = case.config.get("TIA_num_segments", model.config.num_segments)
        state["canonical_times"] = torch.arange(0, 1, 1 / k)
    return load_checkpoint(model, state).eval()


def shared_settings(c: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_anchors": c["anchors"],
        "num_offsets": c["n_offsets"],
        "feature_dim": c["feat_dim"],
        "appearance_dim": c["appearance_dim"],
        "feature_bank": c["use_feat_bank"],
        "opacity_dist": c["add_opacity_dist"],
        "covariance_dist": c["add_cov_dist"],
        "color_dist": c["add_color_dist"],
        "voxel_size": c["voxel_size"],
    }


# Kinds of cases


def keys(case: Case) -> dict[str, Any]:
    """The published keys are ours, both ways, shape for shape."""
    table = case.data.get("state_dict", case.data)
    zeros = {key: torch.zeros(shape) for key, shape in table.items()}
    model = MoDecGS(read_config(zeros))
    rows = table.get("embedding_appearance.embedding.weight", [11])[0]
    official = to_official(model.state_dict(), rows)
    networks = {key: value for key, value in official.items() if not key.startswith("_") and key != "canonical_times"}
    own = {key for key in model.state_dict() if not key.startswith(("anchors.", "intervals."))}
    return {DIFFERENT: different_keys(networks, table) + sorted(to_ours(zeros, model).keys() ^ own)}


def scaffold(case: Case) -> dict[str, Tensor]:
    c = case.config
    rows = c["cameras_in_embedding"] if c["appearance_dim"] else 1
    config = MoDecGSConfig(**shared_settings(c), appearance_rows=rows, deform_global=False, deform_local=False)
    model = loaded(case, MoDecGS(config), ["anchor", "anchor_feat", "offset", "scaling"])
    row = c["camera_uid"] if rows > 1 else 0
    gaussians = model(camera(case)[1], None, appearance=row)
    alphas = gaussians.neural_opacities.reshape(-1, 1)
    return {
        "xyz": gaussians.means,
        "color": gaussians.colors,
        "opacity": gaussians.opacities[:, None],
        "scaling": gaussians.scales,
        "rot": gaussians.quats,
        "neural_opacity": alphas,
        "mask": (alphas[:, 0] > 0).float(),
    }


def fourdgs(case: Case) -> dict[str, Tensor]:
    c = case.config
    planes, wanted = c["kplanes_config"], ("no_dx", "no_ds", "no_dr")
    odd = [name for name in (*wanted, "empty_voxel", "grid_pe", "static_mlp", "apply_rotation") if c.get(name)]
    if odd:
        raise SystemExit(f"{case.path}: {', '.join(odd)} are in no published configuration, and not supported")
    config = FourDGaussiansConfig(
        num_gaussians=64,
        resolution=tuple(planes["resolution"]),
        levels=tuple(c["multires"]),
        channels=planes["output_coordinate_dim"],
        width=c["net_width"],
        depth=c["defor_depth"],
        deform_opacity=not c["no_do"],
        deform_harmonics=not c["no_dshs"],
    )
    state = published(case)
    harmonics = given(case, "shs")
    state |= {"_xyz": given(case, "point"), "_scaling": given(case, "scales"), "_rotation": given(case, "rotations")}
    state |= {"_opacity": given(case, "opacity"), "_features_dc": harmonics[:, :1], "_features_rest": harmonics[:, 1:]}
    model = FourDGaussians(config)
    load_checkpoint(model, state)
    times = given(case, "time")[:, 0]
    features = model.field.planes.plain_features(model.table["means"], times)
    moved = model.deformed(times)
    return {
        "grid_feature": features,
        "hidden": model.field.hidden(features),
        "means3D": moved["means"],
        "scales": moved["scales"],
        "rotations": moved["quats"],
        "opacity": moved["opacities"][:, None],
        "shs": moved["harmonics"],
    }


def modecgs(case: Case) -> dict[str, Tensor]:
    c = case.config
    if c.get("LGD_method", "explicit") != "explicit" or c.get("GAD_method", "implicit") != "implicit":
        raise SystemExit(f"{case.path}: only GAD_method implicit with LGD_method explicit is published, and supported")
    config = MoDecGSConfig(
        **shared_settings(c),
        shared_dynamics=c["anchor_dynamics_share"],
        position_gate=c["anchor_dynamics_global_type"],
        attribute_gate=c["anchor_dynamics_local_type"],
        gate_activation=c["dynamics_activation"],
        **{f"{side}_resolution": tuple(c[f"kplanes_config_{side}"]["resolution"]) for side in ("global", "local")},
        **{f"{side}_channels": c[f"kplanes_config_{side}"]["output_coordinate_dim"] for side in ("global", "local")},
        **{f"{side}_levels": tuple(c[f"multires_{side}"]) for side in ("global", "local")},
        width=c["net_width"],
        depth=c["defor_depth"],
        num_segments=c["TIA_num_segments"],
    )
    model: MoDecGS = loaded(case, MoDecGS(config), ["anchor", "anchor_feat", "offset", "scaling", "dynamics"])
    gad, lgd = model.global_deformation, model.local_deformation
    assert gad is not None
    assert lgd is not None
    viewmat, center = camera(case)
    time = float(c["time"])
    canonical_time = model.intervals.canonical_time(time)
    canonical = model.canonical(time)
    spawned = model.networks(canonical, center)
    gaussians = model(center, time)
    inria, gsplat = (drawn(case, gaussians, viewmat, rules) for rules in ("inria", "gsplat"))
    gates = gad.gates(model.anchors["dynamics"])
    alphas = spawned.neural_opacities.reshape(-1, 1)
    weights = [
        PlaneWeights(*(c[name + end] for name in ("plane_tv_weight", "time_smoothness_weight", "l1_time_planes")))
        for end in ("_global", "")
    ]
    return {
        "GAD.grid_feature": gad.field.planes(model.anchors["positions"], canonical_time),
        "GAD.dynamics_global": gates[0],
        "GAD.dynamics_local": gates[1],
        "GAD.anchor": canonical.positions,
        "GAD.feat": canonical.features,
        "GAD.offset": canonical.offsets,
        "GAD.scaling": canonical.scaling,
        "neural.xyz": spawned.means,
        "neural.color": spawned.colors,
        "neural.opacity": spawned.opacities[:, None],
        "neural.scaling": spawned.scales,
        "neural.rot_raw": spawned.quats,
        "neural.neural_opacity": alphas,
        "neural.mask": (alphas[:, 0] > 0).float(),
        "LGD.grid_feature": lgd.field.planes(spawned.means, time),
        "LGD.xyz": gaussians.means,
        "LGD.scaling": gaussians.scales,
        "LGD.rot": gaussians.quats,
        "LGD.opacity": gaussians.opacities[:, None],
        "image_inria": inria.colors[0],
        "depth_inria": inria.depths[0],
        "image_gsplat": gsplat.colors[0],
        "coarse.image_inria": drawn(case, model(center, None), viewmat, "inria").colors[0],
        "reg.global(plane,time,l1)": plane_terms(gad.field.planes),
        "reg.local(plane,time,l1)": plane_terms(lgd.field.planes),
        "reg.total": regularization_loss(model, *weights)[None],
    }


def drawn(case: Case, gaussians: Gaussians, viewmat: Tensor, rules: str) -> Render:
    """A rendered image on white."""
    c = case.config
    camera = torch.tensor([[c["fx"], 0, c["width"] / 2], [0, c["fy"], c["height"] / 2], [0, 0, 1]])
    return render(
        *gaussians.tensors, viewmats=viewmat[None], Ks=camera[None], width=c["width"], height=c["height"],
        background=torch.ones(3), near_plane=0.2, rules=rules,
    )  # fmt: skip


def intervals(case: Case) -> dict[str, Tensor]:
    """Rounds of statistics and adjustments."""
    c, k = case.config, case.config["num_segments"]
    found = Intervals(k)
    statistics = IntervalStatistics(found, c["threshold_sigma"], c["step_size"])
    times = [i / 32 for i in range(33)]

    def lookup() -> Tensor:
        return torch.tensor([found.canonical_time(time) for time in times])

    results = {"canonical_times.init": found.borders.clone(), "lookup.init": lookup()}
    for r in range(c["rounds"]):
        draws = zip(given(case, f"frame_time.{r}").tolist(), given(case, f"grad_sum.{r}").tolist(), strict=True)
        for u, noise in draws:
            time = int(100 * u) / 100
            statistics.add(found, time, noise + (1 if int(time * k) == (3 * r + 2) % k else 0))
        results[f"grad_accum.{r}"] = statistics.gradients[:, None].clone()
        results[f"denom.{r}"] = statistics.frames[:, None].clone()
        statistics.adjust(found)
        results[f"canonical_times.{r}"] = found.borders.clone()
        results[f"lookup.{r}"] = lookup()
    return results


def anchors(case: Case) -> dict[str, Tensor]:
    """A voxel initialisation, and one step of growing and pruning."""
    c = case.config
    size = c["voxel_size"]
    positions, scaling = initial_anchors(given(case, "points").double().numpy(), size)
    drawn = int(re.search(r"\((\d+),\s*3\)", next(s for s in case.data["inputs"] if s["name"] == "anchor")["kind"])[1])  # pyright: ignore
    grid = torch.round(100 * seeded.tensor("anchor", (drawn, 3), case.seed)) / 100
    table = {
        "positions": torch.unique(grid, dim=0),
        "offsets": given(case, "offset"),
        "features": given(case, "anchor_feat"),
        "scaling": given(case, "scaling"),
        "dynamics": given(case, "dynamics"),
    }
    params = {name: nn.Parameter(value) for name, value in table.items()}
    count, k = params["offsets"].shape[:2]
    dead = seeded.tensor("dead", (count, 1), case.seed) < 0.3
    opacity = torch.where(dead, 0.01, 2 * seeded.tensor("opacity_accum", (count, 1), case.seed))
    draws = given(case, "offset_denom")
    gradient = seeded.tensor("offset_grad", (count * k, 1), case.seed) ** 4 * 0.0015 * draws
    statistics = Statistics(opacity[:, 0], given(case, "anchor_demon")[:, 0], gradient[:, 0], draws[:, 0])
    rules = GrowthRules(
        size, c["check_interval"], c["success_threshold"], c["grad_threshold"], c["min_opacity"],
        c["update_depth"], c["update_init_factor"], c["update_hierachy_factor"],
    )  # fmt: skip
    random = [seeded.tensor(f"rand.{level}", (count * k,), case.seed) for level in range(rules.levels)]
    adjust(params, {}, statistics, rules, random)
    frozen = torch.full((len(params["positions"]), 1), FROZEN_OPACITY)
    return {
        "init.anchor": positions,
        "init.log_scale": scaling[:, 0],
        "init.opacity_logit": frozen[:4],
        "after._anchor": params["positions"],
        "after._scaling": params["scaling"],
        "after._anchor_feat": params["features"],
        "after._offset": params["offsets"],
        "after._opacity": frozen,
        "after._dynamics": params["dynamics"],
        "after.offset_denom": statistics.draws[:, None],
        "after.offset_gradient_accum": statistics.gradient[:, None],
        "after.opacity_accum": statistics.opacity[:, None],
        "after.anchor_demon": statistics.visits[:, None],
    }


def metrics(case: Case) -> dict[str, Any]:
    c = case.config
    first = given(case, "img0")
    second = (first + 0.1 * seeded.tensor("noise", first.shape, case.seed, "normal")).clamp(0, 1)
    coarse = given(case, "mask")[None, None]
    mask = (F.interpolate(coarse, (c["height"], c["width"]), mode="nearest")[0, 0] > 0.4).float()
    a, b, everywhere = first.permute(2, 0, 1), second.permute(2, 0, 1), torch.ones_like(mask)
    return {
        "img1": second,
        "mask": mask[..., None],
        "values": {
            "mPSNR": masked_psnr(a, b, mask),
            "mSSIM": masked_ssim(a, b, mask),
            "PSNR_dycheck": masked_psnr(a, b, everywhere),
            "SSIM_dycheck": masked_ssim(a, b, everywhere),
            "PSNR": psnr(a, b),
            "SSIM": float(ssim_map(a, b).mean()),
            "L1": float((a - b).abs().mean()),
            "train_loss_L1_plus_0.2_(1-SSIM)": float(photometric_loss(a, b)),
        },
    }


_RATES = {
    "offset": "offsets",
    "mlp_opacity": "opacity",
    "mlp_cov": "covariance",
    "mlp_color": "color",
    "mlp_featurebank": "bank",
    "embedding_appearance": "appearance",
    "grid": "planes",
}


def rates(case: Case) -> dict[str, Any]:
    """Learning rates of our table where the case asks for the published ones, of its own numbers otherwise."""
    values = {}
    for name, (initial, final, steps) in case.config["init,final,max_steps"].items():
        ours = RATES.get(_RATES.get(name.split(" ")[0], ""), Rate(0, 0))
        rate = (
            ours if (ours.initial, ours.final, ours.steps) == (initial, final, steps) else Rate(initial, final, steps)
        )
        values[name] = [rate.at(step) for step in case.config["steps"]]
    return {"values": values}
