"""Results of a search."""

from __future__ import annotations


def names(result) -> list[str]:
    return [match.path.name for match in result.matches]
