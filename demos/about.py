"""The collapsed section at the end of a page: what the networks are, and how to read the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from visionzoo.cards import ModelCard
from visionzoo.errors import InputError
from visionzoo.registry import model_card, weight_source
from visionzoo.weights import locate, offline

from .words import plain, sentence, told

PRIVACY = "Uploads and results stay on the machine that runs this page and are deleted after about an hour."


def weights_missing(model: str) -> str | None:
    """Why the weights of a registered model are not available here, or None if they are (perhaps after a download)."""
    try:
        source = weight_source(model)
    except InputError as error:
        return str(error)
    path = locate(source)
    if (path is not None and path.is_file()) or ((source.url or source.hub) and not offline()):
        return None
    return f"the weights of {model} are not on this server"


def about(models: Sequence[str], notes: Mapping[str, str]) -> None:
    """The collapsed section: what the networks are, their weights, licences and limits, and how to read the page.

    Args:
        models: registered names.
        notes: heading -> HTML.
    """
    gr.HTML(about_html(models, notes), elem_classes="vz-fold")


def about_html(models: Sequence[str], notes: Mapping[str, str]) -> str:
    cards = "".join(_card(model_card(name)) for name in models)
    rest = "".join(
        f"<p><strong>{plain(head)}.</strong> {text}</p>" for head, text in {**notes, "Privacy": PRIVACY}.items()
    )
    return f'<details class="vz-about"><summary>About this model</summary>{cards}<div class="vz-note">{rest}</div></details>'


def _card(card: ModelCard) -> str:
    rows = [("Model", f"{plain(card.name)}, {card.params / 1e6:.1f} M parameters")]
    rows += [(head, told(text)) for head, text in (("What it is", card.summary), ("Limits", card.limits)) if text]
    for source in card.weights[:1]:
        rows.append(
            (
                "Weights",
                " ".join(told(sentence(text)) for text in (source.note, source.caution) if text),
            )
        )
        rows.append(("Licence of the weights", told(source.license)))
    if not card.weights:
        rows.append(("Weights", "None are published or needed: the network is trained here."))
    rows += [("Published", f"{plain(metric)}: {plain(value)}") for metric, value in card.published.items()]
    links = [
        _link(address, name) for address, name in ((card.paper, "paper"), (card.code, "published code")) if address
    ]
    if links:
        rows.append(
            ("Sources", f"{', '.join(links)}{f' (its licence: {plain(card.code_license)})' if card.code else ''}")
        )
    return (
        f'<dl class="vz-card">{"".join(f"<dt>{head}</dt><dd>{text}</dd>" for head, text in rows if text.strip())}</dl>'
    )


def _link(address: str, name: str) -> str:
    return f'<a href="{plain(address)}" rel="noreferrer" target="_blank">{plain(name)}</a>'


__all__ = ["about", "about_html", "weights_missing"]
