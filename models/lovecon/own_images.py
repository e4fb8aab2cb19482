"""A folder of images with captions as training data: latents and states of captions, computed once, and edges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from visionzoo.data.epochs import EpochLoader
from visionzoo.diffusion import LatentCaptions, cache_texts, encode_to_file, open_latents
from visionzoo.errors import InputError
from visionzoo.io.files import make_folder
from visionzoo.io.image import list_images, load_image
from visionzoo.jobs.progress import Counter

from ..toy_world import open_text_to_image
from .control_data import Controlled, PackedMasks, canny_edges

__all__ = ["CaptionedImagesData", "read_captions"]

LIST = "metadata.jsonl"


class CaptionedImagesData(LightningDataModule):
    """Images of a folder with their captions, for `LoraTraining` and `ControlNetTraining`.

    The captions are in `metadata.jsonl` (lines with "file_name" and "text", as the scripts of diffusers read it), or in a text file
    beside each image (a.jpg, a.txt). Each image is cropped to a square in its middle.

    Args:
        root: the folder of the images.
        base: folder in Stable Diffusion's layout, whose autoencoder and text encoder are used; None for the toy world's.
        size: side of the images in pixels, a multiple of 8.
        edges: also give Canny edges, which a ControlNet needs.
        val_images: number of images that are held out, the last ones by name.
        drop: share of training captions that are replaced by an empty one, for classifier-free guidance.
        control_drop: share of training items without control.
        cache: folder for the latents and the states of captions, which are made once.
        batch_size: images per step and device.
        num_workers: processes that read.
        seed: of order and drop-out.

    Raises:
        InputError: a number out of range, an image without a caption, or fewer images than are needed.
    """

    def __init__(
        self,
        root: str,
        base: str | None = None,
        size: int = 512,
        edges: bool = False,
        val_images: int = 2,
        drop: float = 0.1,
        control_drop: float = 0.1,
        cache: str = "outputs/captioned_images",
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        for name, count in (("size", size), ("val_images", val_images), ("batch_size", batch_size)):
            if count < 1:
                raise InputError(f"data.{name} must be at least 1, got {count}")
        for name, share in (("drop", drop), ("control_drop", control_drop)):
            if not 0 <= share < 1:
                raise InputError(f"data.{name} must be from 0 to below 1, got {share:g}")
        self.root, self.base, self.size, self.edges, self.cache = Path(root), base, size, edges, Path(cache)
        self.drop, self.control_drop, self.val_images = drop, control_drop, val_images
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.sets: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Encode what is not in the cache yet."""
        self._open()

    def setup(self, stage: str) -> None:
        self.sets = self._open()

    def _open(self) -> dict[str, Any]:
        captions = read_captions(self.root)
        images = list(captions)
        held_out = self.val_images
        if len(images) <= held_out:
            raise InputError(
                f"{self.root}: has {len(images)} images, of which data.val_images={held_out} are held out; add more"
            )
        pipe = open_text_to_image(self.base)
        splits = {"train": images[:-held_out], "validation": images[-held_out:]}
        return {name: self._split(paths, [captions[path] for path in paths], pipe) for name, paths in splits.items()}

    def _split(self, paths: Sequence[Path], captions: Sequence[str], pipe: Any) -> Any:
        name = self._digest(paths, captions)
        make_folder(self.cache)
        file, edges = self.cache / f"{name}.latents", self.cache / f"{name}.npy"
        if not (file.exists() and edges.exists()):
            frames = self._frames(paths, edges)
            encode_to_file(pipe.vae, frames, file, source=name, batch_size=1)
            for _ in frames:  # an encoded file reads one image only, but the edges need all
                pass
        latents = open_latents(file, pipe.vae, height=self.size, width=self.size)
        texts = cache_texts(pipe.tokenizer, pipe.text_encoder, captions, self.cache / f"{name}.texts", dtype="float32")
        items = LatentCaptions(latents, captions, texts, drop=self.drop, seed=self.seed)
        if not self.edges:
            return items
        masks = PackedMasks.load(edges, (self.size, self.size))
        return Controlled(items, masks, drop=self.control_drop, seed=self.seed)

    def _digest(self, paths: Sequence[Path], captions: Sequence[str]) -> str:
        """A name for what is cached, which depends on the images, the captions and the settings."""
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        text = json.dumps([facts, list(captions), self.size, str(self.base)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _frames(self, paths: Sequence[Path], edges: Path) -> Iterator[np.ndarray]:
        rows = []
        with Counter(len(paths), "reading", "image") as counter:
            for path in paths:
                image = Image.fromarray(load_image(path))
                frame = np.asarray(ImageOps.fit(image, (self.size, self.size), Image.Resampling.LANCZOS))
                rows.append(PackedMasks.pack(canny_edges(frame)))
                yield frame
                counter.update()
        PackedMasks(np.stack(rows), (self.size, self.size)).save(edges)

    def train_dataloader(self) -> Any:
        return EpochLoader(self, self.sets["train"], shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets["validation"], batch_size=self.batch_size, num_workers=0)


def read_captions(folder: str | Path) -> dict[Path, str]:
    """The images of a folder, in the order of their names, and their captions; see `CaptionedImagesData`.

    Raises:
        InputError: there is no image, an image has no caption, or a line of metadata.jsonl cannot be used.
    """
    place = Path(folder)
    listed = _listed(place / LIST) if (place / LIST).is_file() else None
    found = {}
    for path in list_images(place):
        text = path.with_suffix(".txt")
        if listed is not None:
            caption = listed.get(path.relative_to(place).as_posix())
        else:
            caption = " ".join(text.read_text(encoding="utf-8").split()) if text.is_file() else None
        if caption is None:
            where = f"a line in {place / LIST}" if listed is not None else f"{text.name} beside it, or {LIST}"
            raise InputError(f"{path}: has no caption; expected {where}")
        found[path] = caption
    return found


def _listed(path: Path) -> dict[str, str]:
    """File name -> caption."""
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found[str(entry["file_name"])] = str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path}, line {number}: is not of the form {{"file_name": "a.jpg", "text": "a red boat"}}'
            ) from error
    return found
