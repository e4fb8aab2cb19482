"""Writes the tables of README.md and docs/ that list what is registered: tasks, systems, models, extras and benchmarks.

    python -m tools.tables            # names the files that are out of date
    python -m tools.tables --write    # brings them up to date

A table is between the lines `<!-- table: NAME -->` and `<!-- /table -->`. Its rows come from `visionzoo.registry`, the model
cards, and the comment above each extra in pyproject.toml.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from visionzoo.benchmark import OWN
from visionzoo.cards import ModelCard, WeightSource
from visionzoo.registry import list_models, model_card, model_entry, pipeline_entries

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/index.md", "docs/benchmarks.md")
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
UNLISTED = ("all", "test", "docs", "dev")
"""Extras that are sets of others, or for developers."""


def render(text: str, page: str) -> str:
    """The text of a page (a path below the repository's root) with its tables as they should be."""
    prefix = "" if page.startswith("docs/") else "docs/"
    return PLACE.sub(lambda match: f"{match[1]}\n{TABLES[match[2]](prefix)}\n\n{match[3]}", text)


def stale(root: Path = ROOT) -> dict[Path, str]:
    """Page -> its text with the right tables, for each page whose tables are out of date."""
    pages = {root / page: render((root / page).read_text(encoding="utf-8"), page) for page in PAGES}
    return {path: text for path, text in pages.items() if text != path.read_text(encoding="utf-8")}


def tasks(prefix: str) -> str:
    rows = []
    for entry in pipeline_entries():
        guide = f"[guide]({prefix}{entry.task}.md)" if (ROOT / "docs" / f"{entry.task}.md").exists() else ""
        rows.append((f"`visionzoo {entry.task}`", entry.summary, guide))
    return _table(("command", "what it does", ""), rows)


def systems(prefix: str) -> str:
    cards: dict[str, list[ModelCard]] = {}
    for name in list_models():
        cards.setdefault(model_entry(name).builder.split(".")[2], []).append(model_card(name))
    rows = []
    ready = {entry.task for entry in pipeline_entries()}
    for folder, variants in sorted(cards.items(), key=lambda item: item[1][0].task):
        if variants[0].task not in ready:
            continue
        main = next((card for card in variants if card.name.startswith(folder)), variants[0])
        card_page = ROOT / "models" / folder / "README.md"
        title = card_page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        _, venue, address = main.paper.rsplit(", ", 2)
        kinds = sorted({_kind(source) for card in variants for source in card.weights})
        link = f"[{title}](models/{folder}/README.md)" if prefix else title
        weights = ", ".join(kinds) or "none needed"
        rows.append((link, f"[{main.task}]({prefix}{main.task}.md)", f"[{venue}]({address})", weights))
    return _table(("system", "task", "paper", "weights"), rows)


def models(prefix: str) -> str:
    rows = []
    for name in list_models():
        card = model_card(name)
        source = card.weights[0] if card.weights else None
        size = f", {source.size_mb:g} MB" if source and source.size_mb else ""
        weights = f"{_kind(source)}{size}" if source else "none published"
        rows.append((f"`{name}`", card.task, f"{card.params / 1e6:.1f} M", weights))
    return _table(("model", "task", "parameters", "default weights"), rows)


def extras(prefix: str) -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    rows = []
    for extra in tomllib.loads(text)["project"]["optional-dependencies"]:
        if extra in UNLISTED:
            continue
        found = re.search(rf"((?:^# .*\n)+)^{extra} = \[", text, re.MULTILINE)
        if not found:
            raise SystemExit(f"pyproject.toml: the extra {extra} has no comment above it; say there what it is for")
        rows.append((f"`{extra}`", " ".join(line.removeprefix("# ") for line in found[1].splitlines())))
    return _table(("extra", "what it is for"), rows)


def benchmarks(prefix: str) -> str:
    benches = [bench for entry in pipeline_entries() for bench in entry.benches] + list(OWN)
    return _table(
        ("command", "what it measures", "compared with"),
        [(f"`visionzoo bench {bench.name}`", bench.summary, bench.peer) for bench in benches],
    )


TABLES: dict[str, Callable[[str], str]] = {
    "tasks": tasks,
    "systems": systems,
    "models": models,
    "extras": extras,
    "benchmarks": benchmarks,
}


def _kind(source: WeightSource) -> str:
    """How the file is obtained, in a few words."""
    if source.bundled:
        return "bundled"
    if source.package:
        return f"in the extra `{source.package[2]}`"
    return "downloaded" if source.hub or source.url else "download by hand"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Check or write the tables of README.md and docs/.")
    parser.add_argument("--write", action="store_true", help="write the files that are out of date")
    write = parser.parse_args().write
    pages = stale()
    for path, text in pages.items():
        if write:
            path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'written' if write else 'out of date'}")
    if pages and not write:
        sys.exit("run: python -m tools.tables --write")


if __name__ == "__main__":
    main()
