"""How far the removal of haze is: one count over both passes and all grids of tiles, which gives the remaining time of an image."""

from __future__ import annotations

from visionzoo.jobs import Progress

from ...models.dehazexl.tiles import SHIFT, Grid


class TileCount:
    """Turns the steps of a `StreamedDehaze` into a number of tiles; a tile counts when it has been encoded and decoded.

    Args:
        height, width: size of the image.
        blend: whether there is a second grid.
        report: called with (`what`, tiles done, tiles of all grids).
    """

    def __init__(self, height: int, width: int, blend: bool, report: Progress, what: str = "tiles"):
        self.grids = tuple(Grid(height, width, offset).count for offset in ((0, SHIFT) if blend else (0,)))
        self._report, self._what = report, what
        self._grid, self._step = 0, ""

    @property
    def total(self) -> int:
        return sum(self.grids)

    def __call__(self, step: str, done: int, of: int) -> None:
        """A `Progress`. Steps that an earlier run finished may be missing."""
        again = step == "encode" and self._step == "decode"
        if self._grid + 1 < len(self.grids) and (again or (step != "attend" and of != self.grids[self._grid])):
            self._grid += 1
        self._step = step
        before, here = sum(self.grids[: self._grid]), self.grids[self._grid]
        halves = {"encode": done, "attend": here}.get(step, here + done)
        self._report(self._what, before + halves // 2, self.total)


__all__ = ["TileCount"]
