"""Convert a checkpoint of any kind to safetensors, with its metadata."""

from __future__ import annotations

from os import PathLike
from typing import Literal

from ..errors import InputError
from ..stored import CUSTOM, facts_of
from .loading import load_checkpoint, to_official
from .reading import find_state_dict, read_checkpoint, read_metadata, save_safetensors


def convert_checkpoint(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    model: str | None = None,
    to: Literal["ours", "official"] = "ours",
    unsafe: bool = False,
) -> int:
    """Write the weights of `source` to `output` and return the number of tensors.

    The metadata of our own files (model, configuration, class names, image size) are kept.

    Args:
        model: registered model of the checkpoint, for which keys are converted and checked. None: the model that the file
            states; if it states none, keys stay unchanged.
        to: key names to write: "ours" or "official".
        unsafe: see `read_checkpoint`.

    Raises:
        InputError: published key names are requested without a model, or the file belongs to another model.
        WeightsError: the file is unreadable or does not fit the model.
    """
    from .. import registry

    stored = facts_of(source)
    texts = read_metadata(source)
    name = None if model is None else registry.model_entry(model).card.name
    if None not in (name, stored.model) and name != stored.model:
        raise InputError(f"{source}: holds weights of {stored.model}, not of {name}; omit the model")
    known = name or (None if stored.model == CUSTOM else stored.model)
    if to == "official" and known is None:
        raise InputError("--to official needs --model NAME, which defines the key names")
    if name is None and to == "ours":
        state = find_state_dict(read_checkpoint(source, unsafe=unsafe), str(source))
    else:
        assert known is not None
        network = load_checkpoint(registry.create_model(known, **stored.config), source, unsafe=unsafe)
        state = network.state_dict() if to == "ours" else to_official(network)
        texts = {"config": "{}", **texts, "model": known}
    save_safetensors(state, output, texts)
    return len(state)


__all__ = ["convert_checkpoint"]
