"""Whether images of a text-to-image model show what their captions ask for: the colour of every part of a character.

Nobody knows where the parts are in a generated image, so `toy_parts` finds them. How often it is wrong itself is measured with
it, in true frames and, if an autoencoder is given, in their reconstructions: no model can be better than these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from visionzoo.data.toy_world import COLORS
from visionzoo.data.toy_world.acting import DOING
from visionzoo.data.toy_world.captions import PLACE_TEXT
from visionzoo.data.toy_world.chance import Chance
from visionzoo.data.toy_world.characters import PARTS, random_character
from visionzoo.diffusion import decode_latents, encode_frames
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_uint8
from visionzoo.metrics.color import nearest_color, region_colors
from visionzoo.registry import create_model

from .frames import random_scene
from .parts import CLASSES, find_parts, true_parts

FOUND, CLEAR = 6, 24
"""A part is found from this many pixels on, at 128 x 128. In true frames, parts count if this many of their pixels are visible."""

Sample = Callable[[list[str]], np.ndarray]
"""Makes images of captions: N texts to (N, H, W, 3) uint8."""


@dataclass(frozen=True)
class Prompt:
    """A caption with exactly one character.

    Attributes:
        caption: "a girl with black hair, a red shirt, a blue skirt and brown shoes walks in a park".
        parts: part of the character -> name of its colour.
    """

    caption: str
    parts: dict[str, str]


@dataclass(frozen=True)
class Hits:
    """How often one part had the right colour.

    Attributes:
        part: e.g. "shirt", or "all".
        asked: how often it was asked for.
        found: share of these in which it was found.
        hit: share in which it was found and its colour is nearest to the right one of the named colours.
    """

    part: str
    asked: int
    found: float
    hit: float


@dataclass(frozen=True)
class PromptReport:
    """Parts of generated images; `str` is a table.

    Attributes:
        images: number of generated images.
        parts: in generated images; the last one is "all".
        true: in true frames of the test split, for parts that are visible.
        rebuilt: the same in reconstructions of these frames by an autoencoder, if one was given.
    """

    images: int
    parts: tuple[Hits, ...]
    true: tuple[Hits, ...]
    rebuilt: tuple[Hits, ...]

    @property
    def hit(self) -> float:
        """Share of all parts that have the colour that was asked for."""
        return self.parts[-1].hit

    def as_dict(self) -> dict[str, Any]:
        return {"hit": self.hit, **asdict(self)}

    def __str__(self) -> str:
        others = {"true frames": self.true, "reconstructions": self.rebuilt}
        columns = {name: {each.part: each.hit for each in hits} for name, hits in others.items() if hits}
        lines = [
            f"{self.images} images: {self.hit:.1%} of all parts have the colour that was asked for",
            "",
            f"| part | asked | found | hit | {' | '.join(columns)} |",
            "|---|---|---|---|" + "---|" * len(columns),
        ]
        for each in self.parts:
            more = " | ".join(f"{hits[each.part]:.1%}" if each.part in hits else "" for hits in columns.values())
            lines.append(f"| {each.part} | {each.asked} | {each.found:.1%} | {each.hit:.1%} | {more} |")
        return "\n".join(lines)


def held_out_prompts(count: int = 96) -> list[Prompt]:
    """Captions of characters of the test split, always the same ones: a shorter list is the start of a longer one."""
    prompts = []
    for number in range(count):
        chance = Chance("prompt", number)
        character = random_character(chance, "test")
        doing, place = chance.pick(list(DOING.values())), chance.pick(list(PLACE_TEXT.values()))
        prompts.append(Prompt(f"{character.text()} {doing} {place}", dict(character.colors)))
    return prompts


def prompt_report(
    sample: Sample,
    *,
    count: int = 96,
    frames: int = 200,
    vae: Any = None,
    network: Any = None,
    batch_size: int = 16,
    progress: bool = True,
) -> PromptReport:
    """Generate images of held-out captions, find the parts of the characters, and compare their colours with the captions.

    Args:
        sample: gets `batch_size` captions at a time. For a pipeline of diffusers:
            `lambda captions: to_uint8(pipe(captions, output_type="pt").images)`.
        count: number of captions.
        frames: number of true frames, for the hits of the measure itself.
        vae: an AutoencoderKL of diffusers that reconstructs them, too.
        network: a `PartNet` in eval mode; None for the bundled one.

    Raises:
        InputError: a number below 1, or images of another number, shape or type.
    """
    for name, number in (("count", count), ("frames", frames), ("batch_size", batch_size)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    network = create_model("toy_parts", pretrained=True) if network is None else network
    prompts = held_out_prompts(count)
    found: list[tuple[str, bool, bool]] = []
    for start in tqdm(range(0, count, batch_size), desc="generating", disable=None if progress else True):
        some = prompts[start : start + batch_size]
        images = np.asarray(sample([prompt.caption for prompt in some]))
        if len(images) != len(some):
            raise InputError(f"sample returned {len(images)} images for {len(some)} captions, expected one for each")
        found += part_hits(network, images, [prompt.parts for prompt in some])
    true, rebuilt = [], []
    for images, parts in _true_frames(frames, batch_size):
        true += part_hits(network, images, parts)
        if vae is not None:
            rebuilt += part_hits(network, to_uint8(decode_latents(vae, encode_frames(vae, images))), parts)
    return PromptReport(count, _summary(found), _summary(true), _summary(rebuilt))


def part_hits(network: Any, images: np.ndarray, asked: Sequence[Mapping[str, str]]) -> list[tuple[str, bool, bool]]:
    """Find parts and compare their colours.

    Args:
        network: a `PartNet` in eval mode.
        images: (N, H, W, 3) uint8.
        asked: for each image, part -> name of the colour.

    Returns:
        (part, whether it was found, whether it was found and has the colour) for every part of every image.
    """
    results = []
    for image, labels, parts in zip(images, find_parts(network, images), asked, strict=True):
        areas = np.bincount(labels.ravel(), minlength=len(CLASSES))
        least = FOUND * image.shape[0] * image.shape[1] / 128**2
        numbers = [CLASSES.index(part) for part in parts]
        inner, whole = (region_colors(image, labels, numbers, erode=pixels) for pixels in (1, 0))
        colors = np.where(np.isnan(inner), whole, inner)  # thin parts have no inner pixels
        for (part, color), number, mean in zip(parts.items(), numbers, colors, strict=True):
            found = bool(areas[number] >= least)
            results.append((part, found, found and nearest_color(mean, COLORS) == color))
    return results


def _true_frames(count: int, batch_size: int) -> Iterable[tuple[np.ndarray, list[dict[str, str]]]]:
    """Batches of frames of the test split with one character, and the colours of its visible parts."""
    images: list[np.ndarray] = []
    parts: list[dict[str, str]] = []
    done, number = 0, 0
    while done < count:
        scene = random_scene("test", 2 * number, 128)  # even numbers have one character
        number += 1
        frame = scene.draw()
        areas = np.bincount(true_parts(scene.clip, frame).ravel(), minlength=len(CLASSES))
        colors = scene.clip.characters[0].colors
        visible = {part: color for part, color in colors.items() if areas[CLASSES.index(part)] >= CLEAR}
        if not visible:
            continue
        images.append(frame.rgb)
        parts.append(visible)
        done += 1
        if len(images) == batch_size or done == count:
            yield np.stack(images), parts
            images, parts = [], []


def _summary(results: Sequence[tuple[str, bool, bool]]) -> tuple[Hits, ...]:
    """Results of `part_hits` by part, in the order of `PARTS`, and of all parts."""
    rows = []
    for part in (*PARTS, "all"):
        own = [(found, hit) for name, found, hit in results if part in (name, "all")]
        if own:
            found, hit = np.mean(own, axis=0)
            rows.append(Hits(part, len(own), float(found), float(hit)))
    return tuple(rows)


__all__ = ["Hits", "Prompt", "PromptReport", "held_out_prompts", "part_hits", "prompt_report"]
