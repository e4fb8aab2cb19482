"""Segments of animations as latents, with sketches, a reference image and earlier frames, made once and kept in files."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import stream_of
from visionzoo.data.epochs import EpochLoader
from visionzoo.diffusion import is_dropped
from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path, make_folder
from visionzoo.jobs.progress import Counter
from visionzoo.weights import fingerprint

from .frames import check_size
from .lineart import LineartExtractor
from .nano import open_video_vae
from .opening import open_lineart
from .sakuga import SakugaClip, read_sakuga
from .sketch_augmentation import SketchAugmentation
from .windows import NANO_SPEED, Window, sakuga_window, shrunken, toy_window

__all__ = ["SegmentData", "Segments", "encode_window"]


@torch.inference_mode()
def encode_window(
    vae: Any, window: Window, sketches: np.ndarray, frames: int, memory_size: int
) -> dict[str, np.ndarray]:
    """What a training step needs of a window.

    Latents are the modes of their distributions. The published code samples them, but a sample would be the same in every epoch here.

    Args:
        vae: an AutoencoderKLCogVideoX.
        sketches: of the last frames, (frames, H, W), lines are 1 and paper is -1.
        frames: number of last frames that are to be coloured, 8 n + 1.
        memory_size: side at which earlier frames are kept, in pixels.

    Returns:
        "latents" and "sketches" (T, C, h, w), "first_sketch" and "reference" (1, C, h, w) as float16, not multiplied by the
        autoencoder's factor; "memory" (M, 3, memory_size, memory_size) uint8.
    """
    like = next(vae.parameters())

    def encode(clip: Tensor) -> np.ndarray:
        """(3, F, H, W) in [-1, 1] to (T, C, h, w)."""
        latents = vae.encode(clip[None].to(like)).latent_dist.mode()[0]
        return latents.transpose(0, 1).to(torch.float16).cpu().numpy()

    pixels = torch.from_numpy(window.frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    drawn = torch.from_numpy(sketches)[None].expand(3, -1, -1, -1)
    return {
        "latents": encode(pixels[:, -frames:]),
        "sketches": encode(drawn),
        "first_sketch": encode(drawn[:, :1]),
        "reference": encode(pixels[:, :1]),
        "memory": shrunken(window.frames[:-frames], memory_size)
        if len(window.frames) > frames
        else np.zeros((0, 3, memory_size, memory_size), np.uint8),
    }


class Segments(Dataset):
    """Segments that `SegmentData` has encoded.

    The key of a training item is (epoch, index); in validation it is the index. An item is {"latents", "sketches" (T, C, h, w),
    "first_sketch", "reference" (1, C, h, w), "memory" (M, 3, S, S) uint8, "caption": text, "stream": number for its noise}; in
    training, some captions are replaced by no text.

    Args:
        files: of the segments.
        drop: share of training items without caption, for classifier-free guidance.
        seed: of the choices and of the noise.
        cut: if given, that many successive frames of a segment are a training item, an odd number. Only for latents of one frame each.
    """

    def __init__(self, files: list[Path], drop: float = 0.1, seed: int = 0, cut: int | None = None):
        self.files, self.drop, self.seed, self.cut = files, drop, seed, cut

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Any]:
        index = key if isinstance(key, int) else key[1]
        try:
            with np.load(self.files[index]) as stored:
                item: dict[str, Any] = {name: torch.from_numpy(stored[name]) for name in stored if name != "caption"}
                caption = str(stored["caption"])
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{self.files[index]}: cannot be read ({error}); delete it, and it is made again"
            ) from error
        for name, value in item.items():
            if name != "memory":
                item[name] = value.float()
        dropped = not isinstance(key, int) and is_dropped(self.drop, self.seed, *key)
        item["caption"] = "" if dropped else caption
        item["stream"] = stream_of(self.seed, *((key,) if isinstance(key, int) else key))
        if self.cut is not None and not isinstance(key, int):
            first = stream_of(self.seed, *key, 3) % (len(item["latents"]) - self.cut + 1)
            for name in ("latents", "sketches"):
                item[name] = item[name][first : first + self.cut]
            item["first_sketch"] = item["sketches"][:1]
        return item


class SegmentData(LightningDataModule):
    """Windows of animations, whose last frames are to be coloured, as latents: of the toy world, or of Sakuga-42M.

    The reference image is the first frame of the window, as published.

    Args:
        table, root: parquet file and folder of Sakuga-42M, see `read_sakuga`; None draws toy worlds.
        val_table: parquet file of its validation; needed with `table`.
        lineart: weights file of the line-art network, `sk_model.pth`; needed with `table`.
        min_frames, aesthetic, dynamic: see `read_sakuga`.
        longest: only so many first frames of a clip are considered; the length of clips of the toy world.
        vae: folder of the autoencoder; see `open_video_vae`.
        vae_device: where it runs.
        windows, val_windows: their number; of Sakuga-42M, at most one of each clip.
        frames: of a window, to be coloured: 8 n + 1. 81 are published.
        history: earlier frames, for the memory; 160 are published. 0 makes windows for the training of SketchDiT. Of Sakuga-42M, they
            are those just before; of the toy world, only `recent` are, and others are spread over the clip, see `toy_window`.
        recent: number of earlier frames of the toy world that are just before.
        size: height and width in pixels, or one side of squares, multiples of 16. The toy world has squares only.
        memory_size: side at which the earlier frames are kept for the memory encoder, in pixels.
        speed: of the camera in toy worlds, see `ToyWorld.film`.
        augmentation: fields of `SketchAugmentation` to override. Sketches of validation are not changed.
        drop: share of training items without caption.
        cut: train on that many successive frames of each window only, chosen in every epoch: an odd number. It needs an autoencoder
            that compresses no time. Steps with a single frame are short, and colours are learned from many windows.
        cache: folder for the latents, which are made once.
        batch_size: windows per step and device.
        num_workers: processes that read.
        seed: of worlds, windows, order and choices.

    Raises:
        InputError: a number out of range, or settings that do not belong together.
    """

    def __init__(
        self,
        table: str | None = None,
        root: str | None = None,
        val_table: str | None = None,
        lineart: str | None = None,
        min_frames: int = 89,
        aesthetic: float = 0.0,
        dynamic: float = 0.0,
        longest: int = 500,
        vae: str | None = None,
        vae_device: str = "cpu",
        windows: int = 1000,
        val_windows: int = 16,
        frames: int = 17,
        history: int = 40,
        recent: int = 8,
        size: int | list[int] = 128,
        memory_size: int = 64,
        speed: float = NANO_SPEED,
        augmentation: dict[str, Any] | None = None,
        drop: float = 0.1,
        cut: int | None = None,
        cache: str = "outputs/longanimation/segments",
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        self.height, self.width = (size, size) if isinstance(size, int) else size
        check_size(self.height, self.width)
        if frames < 9 or frames % 8 != 1:
            raise InputError(f"data.frames must be 8 n + 1, such as 17 or 81, got {frames}")
        for name, count, least in (
            ("windows", windows, 1),
            ("val_windows", val_windows, 1),
            ("batch_size", batch_size, 1),
            ("history", history, 0),
            ("recent", recent, 0),
            ("memory_size", memory_size, 1),
        ):
            if count < least:
                raise InputError(f"data.{name} must be at least {least}, got {count}")
        if cut is not None and (not 1 <= cut <= frames or not cut % 2):
            raise InputError(f"data.cut must be an odd number from 1 to frames={frames}, got {cut}")
        if not 0 <= drop < 1:
            raise InputError(f"data.drop must be from 0 to below 1, got {drop:g}")
        needed = {"data.root": root, "data.val_table": val_table, "data.lineart": lineart}
        if table is not None and (missing := [name for name, value in needed.items() if value is None]):
            raise InputError(f"data.table needs {missing[0]}, too")
        if table is None and self.height != self.width:
            raise InputError(f"windows of the toy world are squares, got data.size={size}")
        if table is not None and min_frames < frames + history:
            min_frames = frames + history
        self.tables, self.root, self.lineart = {"train": table, "validation": val_table}, root, lineart
        self.filter = {"min_frames": min_frames, "aesthetic": aesthetic, "dynamic": dynamic}
        self.longest, self.vae, self.vae_device = longest, vae, vae_device
        self.windows = {"train": windows, "validation": val_windows}
        if table is None and longest < frames + history:
            raise InputError(f"data.longest must be at least frames + history, {frames + history}, got {longest}")
        self.frames, self.history, self.recent = frames, history, recent
        self.memory_size, self.speed = memory_size, speed
        self.augmentation = SketchAugmentation(**(augmentation or {}))
        self.drop, self.cut, self.cache = drop, cut, Path(cache)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.sets: dict[str, Segments] = {}

    def prepare_data(self) -> None:
        """Draw or read, and encode, what is not in the cache yet."""
        self._open()

    def setup(self, stage: str) -> None:
        self.sets = self._open()

    def _open(self) -> dict[str, Segments]:
        clips = {
            split: None if table is None else read_sakuga(table, str(self.root), **self.filter)
            for split, table in self.tables.items()
        }
        vae = open_video_vae(self.vae).to(self.vae_device)
        if self.cut is not None and vae.config["temporal_compression_ratio"] != 1:
            raise InputError(f"data.cut={self.cut} needs an autoencoder that compresses no time; leave it out")
        return {
            split: Segments(self._files(split, vae, found), self.drop, self.seed, self.cut)
            for split, found in clips.items()
        }

    def _files(self, split: str, vae: Any, clips: list[SakugaClip] | None) -> list[Path]:
        facts = {
            "vae": fingerprint(vae),
            "clips": None if clips is None else [[str(clip.file), clip.file.stat().st_size] for clip in clips],
            "sizes": [self.frames, self.history, self.recent, self.height, self.width, self.memory_size, self.longest],
            "speed": self.speed,
            "augmentation": asdict(self.augmentation),
            "seed": self.seed,
        }
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        folder = make_folder(self.cache / f"{split}-{digest}")
        count = self.windows[split] if clips is None else min(self.windows[split], len(clips))
        files = [folder / f"{number:06d}.npz" for number in range(count)]
        missing = [number for number, file in enumerate(files) if not file.exists()]
        if not missing:
            return files
        extractor = None if self.lineart is None else LineartExtractor(open_lineart(self.lineart).to(self.vae_device))
        with Counter(len(missing), f"encoding the windows for {split}", "window") as counter:
            for number in missing:
                window = self._window(split, number, clips, extractor)
                with atomic_path(files[number]) as path, path.open("wb") as file:
                    stored: Any = self._encoded(split, number, vae, window)
                    np.savez(file, caption=np.array(window.caption), **stored)
                counter.update()
        return files

    def _encoded(self, split: str, number: int, vae: Any, window: Window) -> dict[str, np.ndarray]:
        lines = window.lines[-self.frames :]
        plain = SketchAugmentation(self.augmentation.threshold, jitter=0, thick=0, gaps=0)
        change = self.augmentation if split == "train" else plain
        sketches = change(lines, stream_of(self.seed, number, 1))
        return encode_window(vae, window, sketches, self.frames, self.memory_size)

    def _window(
        self, split: str, number: int, clips: list[SakugaClip] | None, extractor: LineartExtractor | None
    ) -> Window:
        if clips is None or extractor is None:
            return toy_window(
                split,
                number,
                frames=self.frames,
                history=self.history,
                recent=self.recent,
                size=self.height,
                longest=self.longest,
                speed=self.speed,
                seed=self.seed,
            )
        return sakuga_window(
            clips[number],
            extractor,
            frames=self.frames + self.history,
            height=self.height,
            width=self.width,
            longest=self.longest,
            stream=stream_of(self.seed, number),
        )

    def train_dataloader(self) -> Any:
        return EpochLoader(self, self.sets["train"], shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets["validation"], batch_size=self.batch_size, num_workers=0)
