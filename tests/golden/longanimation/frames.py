"""Cases of frames: segments of a clip, resizing, line art, and the fusion of latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visionzoo.models.longanimation import (
    ColorFusion,
    LineartGenerator,
    plan_segments,
    prepare_frames,
    sketch_of_lines,
    written_frames,
)
from visionzoo.weights import load_checkpoint

from ..case import Case
from .hooks import record


def segments(case: Case) -> dict[str, Any]:
    found = {}
    for total in case.data["cases"]:
        plan = plan_segments(int(total), length=case.config["segment_length"], overlap=case.config["overlap"])
        written = written_frames(plan)
        found[total] = {
            "segments": [[each.start, each.stop] for each in plan],
            "written_frames": len(written),
            "first_written_source_frame": written[0] if written else None,
            "last_written_source_frame": written[-1] if written else None,
        }
    return found


def frame_prep(case: Case) -> dict[str, Tensor]:
    frames = (255 * case.input("frames")).floor().to(torch.uint8)
    return {"frames": prepare_frames(frames.movedim(1, -1), case.config["height"], case.config["width"])}


def lineart(case: Case) -> dict[str, Tensor]:
    network = load_checkpoint(LineartGenerator(), case.state()).eval()
    names = {"stem": "model0", "down": "model1", "residuals": "model2", "up": "model3"}
    with record(network, names) as found:
        line = network((255 * case.input("image")).floor() / 255)
    return {
        **found,
        "line": line,
        "sketch_from_line_map": sketch_of_lines(case.input("line_map"), case.config["threshold"]),
    }


def color_fusion(case: Case) -> dict[str, Tensor]:
    fusion, latents, previous = ColorFusion(), case.input("latents"), case.input("previous_last4")
    fused = fusion.fuse(latents, previous, 31)
    return {
        "latents_after_step_30": fusion.fuse(latents, previous, 30),
        "latents_after_step_31": fused,
        "saved_for_next_segment": fusion.tail(fused),
    }


KINDS: dict[str, Callable[[Case], Any]] = {
    "segments": segments,
    "frame_prep": frame_prep,
    "lineart": lineart,
    "color_fusion": color_fusion,
}
