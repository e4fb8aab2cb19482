"""The command `data`: make data for training and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from visionzoo import options
from visionzoo.errors import InputError
from visionzoo.options import MODEL, OUTPUT, Overwrite, Reporting

app = App(name="data", help="Make data for training and tests.")


@app.command(name="toy-world")
def toy_world(
    *,
    output: Annotated[Path, options.output("Folder for the clips; created if it does not exist.")],
    clips: Annotated[int, options.option(OUTPUT, "Number of clips; clips that the folder holds already are kept.")] = 8,
    frames: Annotated[int, options.option(OUTPUT, "Frames of each clip.")] = 64,
    size: Annotated[
        str,
        options.option(
            OUTPUT, "Height and width of the frames in pixels, from 64 to 1920: 128, or 128x192 for a width of 192."
        ),
    ] = "128",
    fps: Annotated[float, options.option(OUTPUT, "Frames per second of the videos.")] = 12,
    truth: Annotated[
        bool, options.option(OUTPUT, "Also store regions, instances and optical flow, exactly (truth.npz).")
    ] = False,
    lossless: Annotated[
        bool,
        options.option(
            OUTPUT,
            "Store the colours of the videos exactly; most browsers do not play them. Lines and masks always are exact.",
        ),
    ] = False,
    split: Annotated[
        Literal["train", "validation", "test"],
        options.option(MODEL, "Worlds, palettes and characters of one split never occur in another."),
    ] = "train",
    seed: Annotated[int, options.option(MODEL, "Seed of the first clip's world; the next clip has the next seed.")] = 0,
    places: Annotated[
        str,
        options.option(
            MODEL, "Number of places in a world, 1 to 24, or their kinds: room, park, street, beach, forest, harbour."
        ),
    ] = "4",
    characters: Annotated[int, options.option(MODEL, "Number of characters in a world, 0 to 6.")] = 1,
    actions: Annotated[
        str | None,
        options.option(
            MODEL,
            "What the camera does, separated by commas: go left, go right, go in, go out, zoom in, zoom out, wait. By default"
            " random actions.",
        ),
    ] = None,
    returns: Annotated[
        bool,
        options.option(
            MODEL, "In the second half of a clip, the camera goes back to where it began (with random actions)."
        ),
    ] = False,
    hold: Annotated[int, options.option(MODEL, "Frames per action.")] = 8,
    speed: Annotated[float, options.option(MODEL, "Speed of the camera, from 0.1 to 4.")] = 1.0,
    overwrite: Overwrite = False,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Write cartoon clips with video, line art, masks, captions and camera actions (needs the extra `toy`).

    Each clip is a folder, and clips.jsonl lists all of them. An interrupted run resumes.

    Example: visionzoo data toy-world -o clips --clips 4 --characters 2 --actions "go left, zoom in"
    """
    from visionzoo.console import counted, emit, note
    from visionzoo.data.toy_world import ClipSettings, write_clips
    from visionzoo.jobs.progress import Bars
    from visionzoo.jobs.results import check_sidecar, write_sidecar

    settings = ClipSettings(
        seed,
        split,
        _places(places),
        characters,
        frames,
        _size(size),
        None if actions is None else _words(actions),
        returns,
        hold,
        fps,
        truth,
        lossless,
        speed,
    )
    check_sidecar(output, overwrite=overwrite)
    with Bars(not reporting.quiet, str(output), "frame") as bars:
        rows = write_clips(output, clips, settings, overwrite=overwrite, progress=bars.show)
    write_sidecar(output, {"clips": len(rows)}, {"clips": clips, **settings.to_dict()})
    if reporting.json:
        emit(rows)
    kept = sum(row["skipped"] for row in rows)
    if kept < len(rows):
        note(f"{counted(len(rows) - kept, 'clip')} written to {output}", quiet=reporting.silent)
    if kept:
        note(f"{counted(kept, 'clip')} kept from an earlier run", quiet=reporting.silent)


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(","))


def _places(text: str) -> int | tuple[str, ...]:
    return int(text) if text.strip().lstrip("-").isdecimal() else _words(text)


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise InputError(f"--size must be a number of pixels, or HEIGHTxWIDTH, e.g. 128 or 128x192, got {text!r}")
    return int(sides[0]), int(sides[-1])


__all__ = ["app"]
