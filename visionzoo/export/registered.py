"""`export_registered`: export a registered model with its weights, as `visionzoo export` does."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

from .. import registry, weights
from ..errors import InputError
from ..labels import imagenet_classes
from ..stored import Stored, read_stored
from .arguments import check_export
from .export import export_model
from .exporters import exporter_of
from .report import ExportReport


def export_registered(
    name: str,
    path: str | PathLike[str],
    *,
    checkpoint: str | PathLike[str] | None = None,
    random: bool = False,
    image_size: int | None = None,
    on_open: Callable[[], None] | None = None,
    **options: Any,
) -> ExportReport:
    """Build a registered model and export it with `export_model`; the file's metadata describe it.

    Args:
        name: registered name, with or without the tag of published weights, which are loaded unless another source is given.
        checkpoint: load this file instead. Files of our own training state classes, image size and configuration.
        random: use random weights, to try out a deployment.
        image_size: side in pixels; None for the training size of the weights.
        on_open: called when the network has been loaded, before anything is written.
        **options: arguments of `export_model`.

    Raises:
        InputError: a model that cannot be exported, or a checkpoint of another model; see also `export_model`.
    """
    check_export(
        name,
        path,
        checkpoint=checkpoint,
        random=random,
        image_size=image_size,
        opset=options.get("opset"),
        check=options.get("check", True),
    )  # before weights are downloaded
    card = registry.model_card(name)
    exporter = exporter_of(card.name)
    assert exporter is not None, "checked"
    published = None if random or checkpoint is not None else registry.weight_source(name)
    file = weights.fetch(published) if published else checkpoint
    stored = read_stored(file) if file is not None else Stored()
    if stored.model not in (None, card.name):
        raise InputError(f"{file}: holds weights of {stored.model}, not of {card.name}; export {stored.model}")
    model = registry.create_model(card.name) if file is None else exporter.load(file, card.name, stored.config)
    classes = stored.classes
    if classes is None and published and model.config.num_classes == 1000:  # pyright: ignore[reportAttributeAccessIssue]
        classes = imagenet_classes()
    if on_open is not None:
        on_open()
    return export_model(
        model,
        path,
        image_size=image_size,
        name=published.name if published else card.name,
        classes=classes,
        **options,
    )
