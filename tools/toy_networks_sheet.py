"""Draws the pictures of models/toy_world/README.md: frames beside their reconstructions, and images from captions.

python -m tools.toy_networks_sheet -o docs/images
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from visionzoo.diffusion import decode_latents, encode_frames
from visionzoo.io.files import make_folder
from visionzoo.io.pixels import to_uint8
from visionzoo.models.toy_world import open_text_to_image, open_vae
from visionzoo.models.toy_world.frames import random_scene

Pixels = NDArray[np.uint8]
CAPTIONS = (
    "a girl with black hair, a red shirt and a blue skirt walks in a park with a green tree",
    "a boy with yellow hair, a green shirt and purple trousers stands on a beach with a red boat",
    "a woman with red hair, a white shirt, blue trousers and a yellow hat stands on a street",
    "a man with brown hair, an orange shirt and black trousers sits in a room with a blue sofa",
    "a girl with pink hair and a purple shirt waves in a forest with a red mushroom",
    "a boy with blue hair, a yellow shirt and red trousers runs in a harbour with a white house",
)


def pairs(count: int = 6) -> Pixels:
    """Frames of held-out worlds above their reconstructions."""
    frames = np.stack([random_scene("test", number, 128).draw().rgb for number in range(1000, 1000 + count)])
    vae = open_vae()
    rebuilt = to_uint8(decode_latents(vae, encode_frames(vae, frames)))
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (frames, rebuilt)])


def images_of(captions: Sequence[str], seed: int = 0, width: int = 256, line: int = 15) -> Pixels:
    """Images from captions, each twice as large, above its caption."""
    pipe = open_text_to_image()
    pipe.set_progress_bar_config(disable=True)
    font = ImageFont.load_default(11)
    cells = []
    for number, caption in enumerate(captions):
        image = pipe(
            caption, height=128, width=128, num_inference_steps=25, guidance_scale=3.0, generator=_seeded(seed + number)
        ).images[0]
        cell = Image.new("RGB", (width + 8, width + 5 * line), "white")
        cell.paste(image.resize((width, width), Image.Resampling.NEAREST), (4, 4))
        ImageDraw.Draw(cell).text((6, width + 8), textwrap.fill(caption, 46), "black", font)
        cells.append(np.asarray(cell))
    half = len(cells) // 2
    return np.concatenate([np.concatenate(cells[:half], axis=1), np.concatenate(cells[half:], axis=1)])


def _seeded(seed: int):
    import torch

    return torch.Generator().manual_seed(seed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the pictures")
    folder = make_folder(parser.parse_args(arguments).output)
    for name, picture in (("toy_vae", pairs()), ("toy_text_to_image", images_of(CAPTIONS))):
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
