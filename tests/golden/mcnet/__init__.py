"""Computes the outputs of MCNet's golden cases with the classes that users get."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.models.mcnet.checkpoint import official_name, split_parts, to_official
from visionzoo.models.mcnet.config import DiscriminatorConfig, MCNetConfig
from visionzoo.models.mcnet.crop import Tube, iou, square_crop, union
from visionzoo.models.mcnet.discriminator import Discriminator
from visionzoo.models.mcnet.keypoints import KeypointDetector, Keypoints, movement_scale, transfer_motion
from visionzoo.models.mcnet.losses import (
    Deformed,
    LossWeights,
    ThinPlateTransform,
    VGG19Features,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    pyramid,
    reenactment_loss,
)
from visionzoo.models.mcnet.memory import MemoryUnit
from visionzoo.models.mcnet.model import MCNet
from visionzoo.models.mcnet.motion import DenseMotion
from visionzoo.weights import load_checkpoint

from .. import seeded
from ..case import DIFFERENT, Case, different_keys

PREFIXES: dict[type[nn.Module], str] = {
    KeypointDetector: "detector.",
    DenseMotion: "generator.motion.",
    MemoryUnit: "generator.memory.",
    Discriminator: "discriminator.",
    MCNet: "",
}


ADDITIONAL = ("losses", "gradients", "values", "kp", "kp_norm", "movement_scale")
"""Expected values that some cases hold in addition to their outputs."""


def compute(case: Case) -> Any:
    """The outputs of `case` by their names; all outputs if the case names none."""
    names = case.outputs
    if not isinstance(names, dict) or not names:
        return everything(case)
    found = everything(case, sections=bool(names.keys() & {"losses", "gradients"}))
    return {name: found[name] for name in names}


def everything(case: Case, *, sections: bool = True) -> Any:
    """Outputs, and other listed values: losses, gradients, keypoints; `sections=False` leaves losses and gradients out."""
    kinds: dict[str, Callable[[Case], Any]] = {
        "keys": keys,
        "crop": crops,
        "kp_detector": detector,
        "dense_motion": dense_motion,
        "memory_unit": memory_unit,
        "relative": relative,
    }
    for start, kind in kinds.items():
        if case.name.startswith(start):
            return kind(case)
    return losses(case, sections=sections) if "loss_weights" in case.config else pipeline(case)


def expected(case: Case) -> Any:
    """The expected values for `everything`."""
    if case.name.startswith("crop"):
        return [{name: _as_floats(one[name]) for name in CROP if name in one} for one in case.data["cases"]]
    return {**case.outputs, **{name: case.data[name] for name in ADDITIONAL if name in case.data}}


def tolerance(case: Case, name: str) -> float | None:
    """Tolerances that differ from the case's: crops are exact; gradients of absolute differences jump, so the published ones in
    float32 differ from those in float64 by up to 3e-3, as do ours."""
    if case.name.startswith("crop"):
        return 1e-9
    return 5e-3 if name.startswith("gradients.") else None


# Networks


def read_config(c: dict[str, Any]) -> MCNetConfig:
    """A case's configuration as our configuration."""
    detector, generator, motion = c["kp_detector"], c["generator"], c["dense_motion"]
    return MCNetConfig(
        num_keypoints=c["num_kp"],
        scale_factor=detector["scale_factor"],
        detector_channels=detector["block_expansion"],
        detector_max_channels=detector["max_features"],
        detector_blocks=detector["num_blocks"],
        temperature=detector["temperature"],
        motion_channels=motion["block_expansion"],
        motion_max_channels=motion["max_features"],
        motion_blocks=motion["num_blocks"],
        keypoint_variance=motion["kp_variance"],
        channels=generator["block_expansion"],
        max_channels=generator["max_features"],
        num_down_blocks=generator["num_down_blocks"],
        memory_channels=generator["mb_channel"],
        memory_side=generator["mb_spatial"],
    )


def published(model: nn.Module, scale_factor: float = 0.25) -> dict[str, Tensor]:
    """A network's state dict under published names."""
    prefix = PREFIXES[type(model)]
    return to_official({prefix + key: value for key, value in model.state_dict().items()}, scale_factor)


def loaded(case: Case, model: Any) -> Any:
    """`model` with the case's seeded weights, which go through the converter."""
    own = published(model, case.config.get("kp_detector", {}).get("scale_factor", 0.25))
    state = {}
    for part, values in split_parts(own).items():
        filled = seeded.fill(values, case.seed)
        for rule in case.data.get("weight_adjustments", []):
            if rule["key"] in filled:
                filled[rule["key"]] = adjusted(filled[rule["key"]], values[rule["key"]], rule)
        state |= {f"{part}.{key}": value for key, value in filled.items()}
    load_checkpoint(model, state)
    return model.eval()


def adjusted(value: Tensor, own: Tensor, rule: dict[str, Any]) -> Tensor:
    operation = rule["op"]
    if operation.startswith("keep"):
        return own
    if operation == "multiply":
        return value * rule["by"]
    if operation == "set":
        return torch.tensor(rule["value"]).expand_as(value).clone()
    assert operation == "add", rule
    if isinstance(rule["value"], str):  # "[1,0,0,1] repeated num_kp times"
        once = torch.tensor(json.loads(rule["value"].split(" repeated")[0]), dtype=value.dtype)
        return value + once.repeat(len(value) // len(once))
    return value + rule["value"]


def given(case: Case, name: str) -> Tensor:
    """An input of the given `kind`."""
    spec = next(spec for spec in case.data["inputs"] if spec["name"] == name)
    kind, shape = spec["kind"], spec["shape"]
    if kind.startswith("F.interpolate"):
        coarse = seeded.tensor(name, (*shape[:2], 16, 16), case.seed)
        return F.interpolate(coarse, shape[2:], mode="bilinear", align_corners=False)
    normal = seeded.tensor(name, shape, case.seed, "normal")
    if kind.startswith("1.6*"):
        return 1.6 * seeded.tensor(name, shape, case.seed) - 0.8
    if kind.startswith("eye(2)"):
        return torch.eye(2) + 0.2 * normal
    if kind.startswith("eye(2,3)"):
        return torch.eye(2, 3) + 0.05 * normal
    if kind.startswith("0.005*"):
        return 0.005 * normal
    return F.relu(normal) if kind.startswith("relu") else normal


def keypoints(case: Case, name: str) -> Keypoints:
    return Keypoints(given(case, f"{name}.value"), given(case, f"{name}.jacobian"))


def keys(case: Case) -> dict[str, Any]:
    """Compare the published keys and shapes of each network with ours."""
    with torch.device("meta"):
        networks = [MCNet(MCNetConfig()), Discriminator(DiscriminatorConfig())]
    parts = [part for network in networks for part in split_parts(published(network)).items()]
    return {DIFFERENT: [f"{part}.{key}" for part, values in parts for key in different_keys(values, case.data[part])]}


# Parts


def detector(case: Case) -> dict[str, Tensor]:
    found = loaded(case, KeypointDetector(read_config(case.config))).detect(given(case, "driving"))
    return {
        "antialias_down": found.small,
        "hourglass": found.features,
        "kp_logits": found.logits,
        "heatmap": found.heatmap,
        "jacobian_map": found.jacobian_map.flatten(1, 2),
        "value": found.keypoints.value,
        "jacobian": found.keypoints.jacobian,
        "values": {"value": found.keypoints.value.tolist(), "jacobian": found.keypoints.jacobian.tolist()},
    }


def dense_motion(case: Case) -> dict[str, Tensor]:
    network = loaded(case, DenseMotion(read_config(case.config)))
    scale = network.config.scale_factor
    (small,) = pyramid(given(case, "source"), [scale])
    motion = network(small, keypoints(case, "kp_source"), keypoints(case, "kp_driving"))
    return {
        "antialias_down": small,
        "heatmap_difference": motion.heatmaps.unsqueeze(2),
        "sparse_motion": motion.candidates,
        "sparse_deformed": motion.deformed,
        "hourglass": motion.features,
        "mask": motion.mask,
        "deformation": motion.flow,
        "occlusion_map": motion.occlusion,
    }


def memory_unit(case: Case) -> dict[str, Tensor]:
    unit = loaded(case, MemoryUnit(read_config(case.config)))
    results: dict[str, Tensor] = {}
    for level in range(unit.config.num_down_blocks):
        name = 32 << level
        feature, noise = given(case, f"feature{name}"), given(case, f"noise{name}")
        out, trace = unit.complete(level, feature, given(case, "kp_source.value"), noise)
        found = {
            "feat": trace.feature,
            "query": trace.query,
            "memory": unit.conditioned(unit.mb, trace.condition),
            "key": trace.key,
            "value": trace.value,
            "residual": trace.residual,
            "style_code": trace.condition.style,
            "kernel_attention": trace.condition.shares,
            "diff_prerelu": trace.difference,
            "out": out,
        }
        results |= {f"{key}_{name}": value for key, value in found.items()}
    return results


# The whole


def pipeline(case: Case) -> dict[str, Any]:
    model = loaded(case, MCNet(read_config(case.config)))
    driving = model.detect(given(case, "driving"))
    source = model.encode_source(given(case, "source"))
    animated = model.render(source, driving)
    first, *down = source.features[::-1]
    results = {
        "first": first,
        "mask": animated.motion.mask,
        "occlusion_map": animated.motion.occlusion,
        "deformation": animated.motion.flow,
        "Fwarp": animated.warped[0],
        "deformed": animated.moved,
        "prediction": animated.prediction,
    }
    for name, points in (("kp_source", source.keypoints), ("kp_driving", driving)):
        results |= {f"{name}.value": points.value, f"{name}.jacobian": points.jacobian}
    count = model.config.residual_blocks
    lists: dict[str, Any] = {
        "down_blocks": down,
        "warped_encoder_maps": animated.warped,
        "memory_output": animated.completed,
        "style_code": [trace.condition.style for trace in animated.memory],
        "value_list": [trace.value for trace in animated.memory],
        "feat_list": [trace.feature for trace in animated.memory],
        "up_blocks": animated.decoded[1::2],
    }
    results |= {f"{name}.{i}": value for name, values in lists.items() for i, value in enumerate(values)}
    results |= {f"resblock.{(i + 1) * count - 1}": value for i, value in enumerate(animated.decoded[0::2])}
    return results


def relative(case: Case) -> dict[str, Any]:
    model = loaded(case, MCNet(read_config(case.config)))
    source = model.encode_source(given(case, "source"))
    initial, driving = model.detect(given(case, "driving_initial")), model.detect(given(case, "driving"))
    here = source.keypoints
    moved = {
        "absolute": transfer_motion(here, driving, initial, mode="absolute"),
        "relative": transfer_motion(here, driving, initial),
        "relative_adapt": transfer_motion(here, driving, initial, adapt_scale=True),
        "relative_no_jacobian": transfer_motion(here, driving, initial, adapt_scale=True, relative_jacobian=False),
    }
    results: dict[str, Any] = {"movement_scale": movement_scale(here, initial)}
    detected = {"source": here, "driving_initial": initial, "driving": driving}
    for section, points in (("kp", detected), ("kp_norm", moved)):
        results[section] = {name: {k: v.tolist() for k, v in kp._asdict().items()} for name, kp in points.items()}
    for name in ("relative", "relative_adapt"):
        animated = model.render(source, moved[name])
        results[f"prediction_{name}"] = animated.prediction
        results[f"deformation_{name}"] = animated.motion.flow
        results[f"occlusion_map_{name}"] = animated.motion.occlusion
    return results


# Training


def vgg19(case: Case) -> VGG19Features:
    rule = next(rule for rule in case.data["weight_adjustments"] if rule["key"].startswith("vgg19"))
    widths = (64, 64, 128, 128, 256, 256, 256, 256, *[512] * 8)
    places = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    like = {}
    for before, width, place in zip((3, *widths), widths, places, strict=False):
        like |= {f"features.{place}.weight": torch.empty(width, before, 3, 3)}
        like |= {f"features.{place}.bias": torch.empty(width)}
    state = seeded.fill(like, case.seed)
    return VGG19Features({k: v * rule["by"] if k.endswith("weight") else v for k, v in state.items()})


def losses(case: Case, *, sections: bool = True) -> dict[str, Any]:
    c, wanted = case.config, case.data.get("gradients", {})
    weights, scales = c["loss_weights"], c["scales"]
    with torch.inference_mode(False), torch.set_grad_enabled(sections):
        model, features = loaded(case, MCNet(read_config(c))), vgg19(case)
        judge = loaded(
            case,
            Discriminator(
                DiscriminatorConfig(
                    c["num_kp"],
                    *(c["discriminator"][name] for name in ("block_expansion", "max_features", "num_blocks")),
                )
            ),
        )
        driving = given(case, "driving")
        transform = ThinPlateTransform(given(case, "theta"), given(case, "tps").flatten(1))
        source, points = model.encode_source(given(case, "source")), model.detect(driving)
        animated = model.render(source, points)
        frame = transform.transform_frame(driving)
        transformed = model.detect(frame)
        real_map, real = judge(driving, points.value.detach())
        images = pyramid(driving, scales)
        maps = {scale: features(image) for scale, image in zip(scales, images, strict=True)}
        results: dict[str, Any] = {
            "prediction": animated.prediction,
            "transformed_frame": frame,
            "transformed_kp.value": transformed.value,
            "transform.warp_coordinates(coords)": transform.warp_coordinates(given(case, "coords")),
            "transform.jacobian(coords)": transform.jacobian(given(case, "coords")),
            "disc_map": real_map,
        }
        results |= {f"pyramid_driving_{scale}": image for scale, image in zip(scales, images, strict=True)}
        results |= {f"disc_feature_{i}": x for i, x in enumerate(real)}
        results |= {f"vgg_relu{i + 1}_scale{scale}": x for scale, xs in maps.items() for i, x in enumerate(xs)}
        if not sections:
            return results
        terms = reenactment_loss(
            animated,
            driving,
            source.keypoints,
            points,
            deformed=Deformed(transform, transformed),
            features=features,
            weights=LossWeights(
                perceptual=weights["perceptual"][0],
                equivariance_value=weights["equivariance_value"],
                equivariance_jacobian=weights["equivariance_jacobian"],
                keypoint_distance=weights["kp_distance"],
                memory=weights["feat_consistent"],
            ),
        )
        total = torch.stack(list(terms.values())).sum()
        fake_map, fake = judge(animated.prediction.detach(), points.value.detach())
        results["losses"] = {
            "perceptual": terms["perceptual"].item(),
            "gen_gan": weights["generator_gan"] * generator_loss(fake_map).item(),
            "feature_matching": weights["feature_matching"][0] * feature_matching_loss(real, fake).item(),
            "equivariance_value": terms["equivariance_value"].item(),
            "equivariance_jacobian": terms["equivariance_jacobian"].item(),
            "kp_distance": terms["keypoint_distance"].item(),
            "feat_consistent": terms["memory"].item(),
            "disc_gan": weights["discriminator_gan"] * discriminator_loss(real_map, fake_map).item(),
            "total_official": total.item(),
        }
        parameters = {official_name(key): value for key, value in model.named_parameters()}
        shapes = published(model)
        gradients = torch.autograd.grad(total, [parameters[name] for name in wanted])
        results["gradients"] = {
            name: gradient.reshape(shapes[name].shape) for name, gradient in zip(wanted, gradients, strict=True)
        }
        return results


CROP = ("crop_w_h_left_top", "start_s", "duration_s", "iou", "join")


def crops(case: Case) -> list[dict[str, Any]]:
    """For each of the case's tubes: the suggested crop, its time, and the overlap of its box with another one."""
    results = []
    for one in case.data["cases"]:
        box, other = tuple(one["tube_bbox_ltrb"]), tuple(one["other_box"])
        tube = Tube(one["start_frame"], one["end_frame"], box, box)
        crop = square_crop(tube.box, *one["frame_hw"], one["increase_area"])
        results.append(
            {
                "crop_w_h_left_top": [crop.width, crop.height, crop.left, crop.top],
                "start_s": tube.start / one["fps"],
                "duration_s": (tube.end - tube.start) / one["fps"],
                "iou": iou([box], other).item(),
                "join": list(union(box, other)),
            }
        )
    return results


def _as_floats(value: Any) -> Any:
    """Pixels are compared as floats: integers would be taken for a ranking, in which neighbours may be swapped."""
    return [float(number) for number in value] if isinstance(value, list) else value
