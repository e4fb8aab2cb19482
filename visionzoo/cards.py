"""Model cards as data: purpose of a model, origin and licence of its weights."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class WeightSource:
    """A checkpoint and its origin.

    Attributes:
        name: unique name, `<model>.<tag>`, e.g. "superglobal_r50.cvnet".
        file: file name in the weights folder (see `visionzoo.weights.weights_dir`).
        license: licence of the weights, as stated by their publisher.
        hub: (repository, file) on the Hugging Face hub.
        url: direct download address.
        package: (Python package, path inside it, extra of visionzoo that installs it), for weights inside an installed package.
        bundled: path inside `visionzoo/assets`, for files that come with visionzoo.
        page: page for a manual download, if there is no direct address.
        sha256: checksum of the file, if known.
        size_mb: approximate size of the file.
        note: one line: who trained it, and on what data.
        caution: one line that users of these weights must know; pipelines give it as a warning.
    """

    name: str
    file: str
    license: str
    hub: tuple[str, str] | None = None
    url: str | None = None
    package: tuple[str, str, str] | None = None
    bundled: str | None = None
    page: str | None = None
    sha256: str | None = None
    size_mb: float | None = None
    note: str = ""
    caution: str = ""

    @property
    def origin(self) -> str:
        """The origin of the file as text."""
        if self.bundled:
            return "comes with visionzoo"
        if self.package:
            return f"Python package {self.package[0]} (extra: {self.package[2]})"
        if self.hub:
            return f"Hugging Face {self.hub[0]}"
        return self.url or f"by hand from {self.page}"


@dataclass(frozen=True)
class ModelCard:
    """A model card: `print(card)` shows it; `card.to_dict()` is machine-readable.

    Attributes:
        name: registered name.
        task: the pipeline that uses it, e.g. "retrieve".
        summary: one or two sentences.
        inputs, outputs: shapes, value ranges, colour order.
        params: number of parameters.
        paper, code: links.
        code_license: licence of the published code (ours is Apache-2.0, an independent implementation).
        weights: published checkpoints, the default first.
        published: metric name -> published value.
        limits: known limitations.
        citation: authors, title, venue and year in one line.
    """

    name: str
    task: str
    summary: str
    inputs: str
    outputs: str
    params: int
    paper: str = ""
    code: str = ""
    code_license: str = ""
    weights: tuple[WeightSource, ...] = ()
    published: dict[str, str] = field(default_factory=dict)
    limits: str = ""
    citation: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            ("task", self.task),
            ("summary", self.summary),
            ("input", self.inputs),
            ("output", self.outputs),
            ("parameters", f"{self.params / 1e6:.1f} M"),
            ("paper", self.paper),
            ("code", f"{self.code} ({self.code_license})" if self.code else ""),
        ]
        for source in self.weights:
            size = f", {source.size_mb:g} MB" if source.size_mb else ""
            rows.append(
                (
                    "weights",
                    f"{source.name}: {source.origin}{size}; licence: {source.license}. {source.note} {source.caution}".strip(),
                )
            )
        rows += [("published", f"{metric}: {value}") for metric, value in self.published.items()]
        rows += [("limits", self.limits), ("citation", self.citation)]
        lines = [self.name, "=" * len(self.name)]
        for label, text in rows:
            if text:
                lines += textwrap.wrap(text, 110, initial_indent=f"{label:<12}", subsequent_indent=" " * 12)
        return "\n".join(lines)
