"""How often lovecon_nano gives a part of a character another colour that its caption asks for.

    python -m benchmarks.lovecon_recolor [FOLDER] [--count 32] [--steps 25]

Frames of the test split with one character: the caption names another colour for one part, the edges are those of the true frame,
and a stock StableDiffusionControlNetPipeline generates the image from noise. A hit is a part, at its true place, whose mean colour is
nearest to the asked one of the named colours. Beside it: how often the true colour survives the autoencoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visionzoo.data.toy_world import COLORS
from visionzoo.data.toy_world.chance import Chance
from visionzoo.diffusion import decode_latents, encode_frames
from visionzoo.io.files import bundled
from visionzoo.io.pixels import to_uint8
from visionzoo.metrics.color import nearest_color, region_colors
from visionzoo.models.lovecon import canny_edges
from visionzoo.models.toy_world import CLASSES, true_parts
from visionzoo.models.toy_world.frames import VISIBLE, random_scene

PARTS = ("shirt", "trousers", "skirt", "hat", "hair")
BATCH = 8


@dataclass(frozen=True)
class Task:
    """A frame, and a caption with another colour for one of its parts."""

    rgb: np.ndarray
    mask: np.ndarray
    caption: str
    true: str
    asked: str


def tasks(part: str, count: int) -> Iterator[Task]:
    """Tasks from the test split for parts that are visible, in the order of the worlds."""
    number = 0
    while count:
        scene = random_scene("test", 2 * number, 128)  # even numbers have one character
        number += 1
        person = scene.clip.characters[0]
        if part not in person.colors:
            continue
        frame = scene.draw()
        mask = true_parts(scene.clip, frame) == CLASSES.index(part)
        if mask.mean() < VISIBLE or person.text() not in frame.caption:
            continue
        true = person.colors[part]
        asked = Chance("recolor", part, number).pick([color for color in COLORS if color != true])
        other = replace(person, colors={**person.colors, part: asked})
        yield Task(frame.rgb, mask, frame.caption.replace(person.text(), other.text()), true, asked)
        count -= 1


def color_of(image: np.ndarray, mask: np.ndarray) -> str:
    inner, whole = (region_colors(image, mask.astype(np.int64), [1], erode=pixels)[0] for pixels in (1, 0))
    return nearest_color(whole if np.isnan(inner).any() else inner, COLORS)  # thin parts have no inner pixels


def generate(pipe: Any, chosen: list[Task], guidance: float, steps: int) -> np.ndarray:
    """(N, 128, 128, 3) uint8."""
    edges = np.stack([canny_edges(task.rgb) for task in chosen])
    images = pipe(
        [task.caption for task in chosen],
        image=torch.from_numpy(edges).float()[:, None].repeat(1, 3, 1, 1),
        guidance_scale=guidance,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(chosen))],
        output_type="pt",
    ).images
    return to_uint8(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=bundled("weights", "lovecon"))
    parser.add_argument("--count", type=int, default=32, help="Number of frames for each part.")
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps.")
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0, 5.0], help="Guidance scales.")
    args = parser.parse_args()

    from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline

    pipe: Any = StableDiffusionControlNetPipeline.from_pretrained(args.folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    print("| part | frames | reconstruction | " + " | ".join(f"guidance {scale:g}" for scale in args.guidance) + " |")
    print("|---|---|---|" + "---|" * len(args.guidance))
    for part in PARTS:
        rows = []
        every = list(tasks(part, args.count))
        for start in range(0, len(every), BATCH):
            some = every[start : start + BATCH]
            rebuilt = to_uint8(decode_latents(pipe.vae, encode_frames(pipe.vae, np.stack([task.rgb for task in some]))))
            made = [generate(pipe, some, scale, args.steps) for scale in args.guidance]
            for place, task in enumerate(some):
                hits = [color_of(images[place], task.mask) == task.asked for images in made]
                rows.append([color_of(rebuilt[place], task.mask) == task.true, *hits])
        shares = " | ".join(f"{share:.0%}" for share in np.mean(rows, axis=0))
        print(f"| {part} | {len(rows)} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
