"""timm networks by name. Their published weights are downloaded by `fetch`, like all others, never by timm itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..cards import WeightSource
from ..errors import InputError, WeightsError, require
from .fetching import NotOnHub, fetch
from .places import locate

SAFE = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}
"""File names under which hub repositories hold the same weights as safetensors."""


def timm_network(name: str, *, pretrained: bool, extra: str, purpose: str, **options: Any) -> nn.Module:
    """Create timm's network `name`, with its published or random weights.

    Args:
        name: as in `timm.list_models(pretrained=True)`, e.g. "resnet18.a1_in1k".
        extra, purpose: for the error if timm is not installed; see `visionzoo.errors.require`.
        **options: arguments of `timm.create_model`.

    Raises:
        InputError: timm has no such network.
        WeightsError: the network has no published weights, or they are not available.
        MissingDependencyError: timm is not installed.
    """
    timm = require("timm", extra=extra, purpose=purpose)
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise InputError(f"timm has no network {name!r}; near: {', '.join(near) or 'see timm.list_models()'}")
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=_weights_file(timm, name), **options)


def _weights_file(timm: Any, name: str) -> dict[str, Any]:
    """Fetch the weights of a network; return the fields of timm's `PretrainedCfg` that point to the file."""
    published = timm.get_pretrained_cfg(name)
    url = getattr(published, "url", None)
    hub = getattr(published, "hf_hub_id", None)
    licence = getattr(published, "license", None) or "not stated"
    label = f"timm:{name}"
    if hub:
        listed = published.hf_hub_filename or "pytorch_model.bin"
        files = [SAFE.get(listed, listed.removesuffix(".bin") + ".safetensors"), listed]
        sources = [
            WeightSource(label, f"timm_{name}{'.safetensors' if safe else '.bin'}", licence, hub=(hub, file))
            for file in dict.fromkeys(files)
            for safe in [file.endswith(".safetensors")]
        ]
    elif url:
        address = url if isinstance(url, str) else url[0]
        sources = [WeightSource(label, f"timm_{address.rpartition('/')[2]}", licence, url=address)]
    else:
        raise WeightsError(
            f"{label}: timm has no published weights for it; give a file with checkpoint=… (--checkpoint FILE)"
        )
    # `custom_load` marks files in the format of another framework; timm's own files on the hub are ordinary
    foreign = published.custom_load == "hf" if hub else published.custom_load
    path = next(filter(None, map(locate, sources)), None)
    if path is None:
        path = _fetch_first(sources)
    return {"file": str(path), "custom_load": foreign}


def _fetch_first(sources: list[WeightSource]) -> Path:
    """Fetch the first of several files that exists on the hub. Raises `WeightsError`."""
    *others, last = sources
    for source in others:
        try:
            return fetch(source)
        except NotOnHub:
            continue
    return fetch(last)


__all__ = ["timm_network"]
