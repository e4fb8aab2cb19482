"""Computes the outputs of SuperGlobal's golden cases with the classes that users get."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo import create_model
from visionzoo.memory import MatrixStore
from visionzoo.metrics.ranking import average_precision, evaluate
from visionzoo.models.superglobal import Preprocess, SuperGlobal, rerank
from visionzoo.models.superglobal.checkpoint import to_official, to_ours
from visionzoo.models.superglobal.model import SCALES
from visionzoo.models.superglobal.pooling import LearnedGeM, gem, regional_gem, relup, scale_pool
from visionzoo.models.superglobal.preprocess import crop_box
from visionzoo.models.superglobal.reranking import neighbour_weights, refined
from visionzoo.weights import load_checkpoint

from ..case import DIFFERENT, Case, different_keys


def compute(case: Case) -> Any:
    """The outputs of `case`, whose kind is determined by its name and its configuration."""
    kinds = {
        "keys": keys,
        "cvnet_global": cvnet_global,
        "backbone": backbone,
        "pooling": pooling,
        "preprocess": preprocess,
        "rerank": reranking,
        "map": mean_average_precision,
        "ap": average_precisions,
    }
    for prefix, kind in kinds.items():
        if case.name.startswith(prefix):
            return kind(case)
    by_config = {
        "M": reranking,
        "kappas": mean_average_precision,
        "mean_bgr": preprocess,
        "gemp": pooling,
        "pool": cvnet_global,
        "depth": backbone,
    }
    for key, kind in by_config.items():
        if key in case.config:
            return kind(case)
    return average_precisions(case)


def network(case: Case, **overrides: Any) -> SuperGlobal:
    """The network of a case with its seeded weights, loaded as a published file would be."""
    c = case.config
    base = "cvnet_global" if "pool" in c else "superglobal"
    fields = {
        "relup_value": "relup_value",
        "gemp_p": "gemp_p",
        "rgem_p": "rgem_p",
        "rgem_size": "rgem_size",
        "reduction_dim": "dim",
    }
    settings = {ours: c[theirs] for theirs, ours in fields.items() if theirs in c}
    model = create_model(f"{base}_r{c['depth']}", **{**settings, **overrides})
    assert isinstance(model, SuperGlobal)
    state = case.state()
    exponent = re.search(r"head\.pool\.p'?\s*(?:is overwritten with|=)\s*([\d.]+\d)", case.notes)
    pool = next(key for key in state if key.endswith("head.pool.p"))
    state[pool] = torch.full_like(state[pool], float(exponent[1]) if exponent else 3.0)
    load_checkpoint(model, state)
    return model


def keys(case: Case) -> dict[str, Any]:
    """Compare the published keys and shapes with ours, in both directions."""
    with torch.device("meta"):
        model = create_model(f"superglobal_r{case.config['depth']}", dim=case.config["reduction_dim"])
        published = {key: torch.zeros(shape) for key, shape in case.state_shapes().items()}
    different = different_keys(to_official(model.state_dict()), published)
    return {DIFFERENT: different + sorted(to_ours(published, model).keys() ^ model.state_dict().keys())}


def backbone(case: Case) -> dict[str, Any]:
    image = case.input("input")
    wanted = case.outputs or {}
    default = {
        "scale": 3,
        "gemp": True,
        "rgem": True,
        "sgem": True,
        "antialias": False,
        "relup": case.config.get("relup", True),
    }
    entries = wanted.get("multi_scale") or [{"flags": default}]
    outputs: dict[str, Any] = {}
    if "single_scale_intermediates" in wanted or not wanted:
        names = list(wanted.get("single_scale_intermediates", {})) or [
            "stem",
            "s1",
            "s2",
            "s3",
            "s4",
            "rgem",
            "gemp",
            "gemp_l2",
            "fc",
        ]
        outputs["single_scale_intermediates"] = intermediates(
            network(case, **switches({"relup": default["relup"]})), image, names
        )
    outputs["multi_scale"] = []
    for entry in entries:
        flags = {**default, **entry["flags"]}
        out = network(case, **switches(flags)).forward_scales(image)
        outputs["multi_scale"].append({"flags": entry["flags"], "out": out, "descriptor_l2": F.normalize(out, dim=-1)})
    return outputs


def switches(flags: dict[str, Any]) -> dict[str, Any]:
    """The published switches as our configuration; the published "ReLUP off" leaves it on inside stage 1."""
    ours: dict[str, Any] = {"relup": flags["relup"], "relup_inner": True}
    for name in ("gemp", "rgem", "antialias"):
        if name in flags:
            ours[name] = flags[name]
    if "scale" in flags:
        ours["scales"] = SCALES[flags["scale"]]
    if "sgem" in flags:
        ours["scale_pooling"] = "max" if flags["sgem"] else "mean"
    return ours


def intermediates(model: SuperGlobal, image: Tensor, names: list[str]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    places = {"stem": "backbone.maxpool"}
    for name in names:
        if block := re.fullmatch(r"s(\d)(?:\.b(\d+))?", name):
            places[name] = f"backbone.layer{block[1]}" + (f".{int(block[2]) - 1}" if block[2] else "")
    hooks = [
        # activations work in place, so copy before a later block overwrites the output
        model.get_submodule(place).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out.clone())
        )
        for name, place in places.items()
    ]
    seen["fc"] = model.forward_single_scale(image)
    for hook in hooks:
        hook.remove()
    c = model.config
    seen["rgem"] = regional_gem(seen["s4"], c.rgem_p, c.rgem_size) if c.rgem else seen["s4"]
    seen["gemp"] = gem(seen["rgem"], c.gemp_p) if c.gemp else model.pool(seen["rgem"])
    seen["gemp_l2"] = model.pool_map(seen["s4"])
    return {name: seen[name] for name in names}


def cvnet_global(case: Case) -> dict[str, Any]:
    model = network(case)
    image = case.input("input")
    out = model.forward_single_scale(image)
    return {
        "descriptor": out,
        "descriptor_l2": model(image),
        "stage3_map": intermediates(model, image, ["s3", "s4"])["s3"],
    }


def pooling(case: Case) -> dict[str, Any]:
    c = case.config
    features = case.input("features").clamp(min=0)
    scales = torch.stack(
        [case.input(spec["name"]) for spec in case.data["inputs"] if re.fullmatch(r"scale\d+", spec["name"])]
    )
    signed = case.input("signed")
    factor = re.search(
        r"times ([\d.]+\d)", next(spec["kind"] for spec in case.data["inputs"] if spec["name"] == "signed")
    )
    signed *= float(factor[1]) if factor else 1.0
    names = list(case.outputs) or ["rgem_then_gemp", f"relup_{c['relup']}", "sgem_max", f"sgem_p{c['sgem_p']}"]
    outputs = {}
    for name in names:
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", name)]
        if name == "rgem_then_gemp":
            outputs[name] = gem(
                regional_gem(features, c["rgem"]["p"], c["rgem"]["size"]), c["gemp"]["p"], c["gemp"]["eps"]
            )[..., None]
        elif name.startswith("rgem"):
            outputs[name] = regional_gem(features, numbers[0], int(numbers[1]))
        elif name.startswith("gemp"):
            outputs[name] = gem(features, numbers[0], c["gemp"]["eps"])[..., None]
        elif name.startswith("gem_learned"):
            outputs[name] = LearnedGeM(numbers[0], c["learned_gem"]["eps"])(features)[..., None]
        elif name.startswith("relup"):
            outputs[name] = relup(signed.clone(), numbers[0])
        elif name == "sgem_max":
            outputs[name] = scale_pool(scales, "max")
        else:
            outputs[name] = scale_pool(scales, "power", numbers[0])
    return outputs


def preprocess(case: Case) -> dict[str, Any]:
    spec = next(spec for spec in case.data["inputs"] if spec["name"] == "image")
    factor = re.search(r"times (\d+)", spec["kind"])
    bgr = (case.input("image") * (float(factor[1]) if factor else 256)).clamp(max=255).to(torch.uint8).numpy()
    rgb = np.ascontiguousarray(bgr[..., ::-1])  # our images are RGB, the published code's are BGR
    prepare = Preprocess(tuple(case.config["mean_bgr"]), tuple(case.config["std_bgr"]), "bgr")
    box = case.data.get("bbox_xyxy") or case.config["bbox_xyxy"]
    return {"database_image": prepare(rgb), "query_crop": prepare(crop_box(rgb, box))}


def reranking(case: Case) -> dict[str, Any]:
    c = case.config
    centers, noise, query_noise = (case.input(name) for name in ("centers", "noise", "query_noise"))
    count = c.get("clusters", len(centers))
    database = F.normalize(centers[torch.arange(c["N"]) % count] + c["noise"] * noise, dim=-1)
    queries = F.normalize(centers[torch.arange(c["queries"]) % count] + c["query_noise"] * query_noise, dim=-1)

    store = MatrixStore(dim=database.shape[1])
    store.add(np.arange(len(database)), database.numpy())
    first = store.search(queries.numpy(), len(database))
    m = min(c["M"], len(database))
    top = torch.from_numpy(first.ids[:, :m])
    candidates = torch.from_numpy(store.fetch(first.ids[:, :m].ravel())).reshape(len(queries), m, -1)
    result = rerank(queries, candidates, k=c["K"], beta=c["beta"])

    places, weights = neighbour_weights(candidates, c["K"], c["beta"])
    every = torch.arange(m).expand(len(queries), -1)
    return {
        "first_stage_top": top.tolist(),
        "first_stage_scores": torch.from_numpy(first.scores[:, :m].copy()),
        "refined_database": torch.cat(
            [
                refined(candidates[q : q + 1], places[q : q + 1], weights[q : q + 1], every[:1])
                for q in range(len(queries))
            ]
        ),
        "s1": result.s1,
        "expanded_query": result.expanded_query,
        "s2": result.s2,
        "final_scores": result.scores,
        "final_scores_sorted": result.scores.gather(1, result.order),
        "reranked_top": top.gather(1, result.order).tolist(),
        "reranked_tail_first20": first.ids[:, m : m + 20].tolist(),
    }


def mean_average_precision(case: Case) -> dict[str, Any]:
    scores, labels = case.input("scores").numpy(), case.input("labels").numpy()
    construction = case.data.get("construction", "")
    truth = case.data.get("ground_truth") or drawn_truth(labels, construction)
    bonuses = {"easy": 1.5, "hard": 0.8, "junk": 1.2}
    bonuses |= {kind: float(value) for kind, value in re.findall(r"scores\[(\w+)\]\+=([\d.]+\d)", construction)}
    rankings = []
    for column, answer in enumerate(truth):
        of_query = scores[:, column].copy()
        for kind, bonus in bonuses.items():
            of_query[np.asarray(answer[kind], dtype=np.int64)] += np.float32(bonus)
        rankings.append(np.argsort(-of_query, kind="stable"))
    kappas = tuple(case.config["kappas"])
    measures = evaluate(rankings, truth, kappas)
    published_name = "mean_precision_at_" + "_".join(map(str, kappas))
    return {
        difficulty: {(published_name if key == "mean_precision_at" else key): value for key, value in values.items()}
        for difficulty, values in measures.items()
    }


def drawn_truth(labels: np.ndarray, construction: str) -> list[dict[str, np.ndarray]]:
    """Ground truth from uniform labels (N, Q), constructed like these cases, for a file that does not list it."""
    bounds = {"easy": (0.0, 0.02), "hard": (0.02, 0.05), "junk": (0.05, 0.09)}
    truth = [{kind: np.flatnonzero((l >= low) & (l < high)) for kind, (low, high) in bounds.items()} for l in labels.T]
    for query, kind in re.findall(r"query (\d+)(?: has)? no (\w+)", construction):
        truth[int(query)][kind] = np.empty(0, np.int64)
    return truth


def average_precisions(case: Case) -> list[dict[str, Any]]:
    return [{**entry, "ap": average_precision(entry["positions"], entry["positives"])} for entry in case.outputs]
