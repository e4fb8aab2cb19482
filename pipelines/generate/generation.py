"""A video in the making: chunk after chunk, with fast learning in between (Algorithm 1(a) of arXiv 2410.23277)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.data.augmented import stream_of
from visionzoo.diffusion import noise_of
from visionzoo.errors import InputError
from visionzoo.models.slowfastvgen.sampling import sample_chunk

from .actions import check_action
from .saved_episode import load_memory, save_episode
from .settings import Settings

if TYPE_CHECKING:
    from ...models.slowfastvgen import EpisodeMemory
    from .pipeline import SlowFastVGenPipeline

__all__ = ["Chunk", "Generation"]

Pixels = NDArray[np.uint8]

EPISODE, MIXED = "episode", "mixed episode"
"""Names of the video's episode in its memory, and of a mixture on its way there."""


@dataclass(frozen=True)
class Chunk:
    """New frames of a video.

    Attributes:
        number: of the chunk in its episode, from 0.
        action: that it follows.
        latents: (C, F, h, w) float32, on the CPU.
        losses: of the steps of fast learning afterwards; NaN for a step that was skipped, as its loss was not finite.
    """

    number: int
    action: str
    latents: Tensor
    losses: tuple[float, ...]
    _decode: Callable[[Tensor], Iterator[Pixels]]

    @cached_property
    def frames(self) -> list[Pixels]:
        """The frames, each (H, W, 3) uint8; decoded at first use."""
        return list(self._decode(self.latents))


class Generation:
    """Makes a video chunk by chunk; between chunks, nothing is decoded or encoded.

    >>> video = pipe.begin("street.png")
    >>> for frame in video.take("go left").frames: ...

    Attributes:
        past: (C, P, h, w) float32 on the CPU: the clean latents that the next chunk continues.
        chunks: number of chunks of the episode so far.
        memory: of the episode; None without fast learning.
        settings: the options with the model's own values filled in.
    """

    def __init__(
        self,
        pipe: SlowFastVGenPipeline,
        settings: Settings,
        *,
        memory: EpisodeMemory | None = None,
        callback: Any = None,
    ):
        self._pipe, self.settings, self.memory, self.chunks = pipe, settings, memory, 0
        self.past: Tensor | None = None
        self.tick: Callable[[], object] = lambda: None
        self._callback = callback
        self._texts: dict[str, Tensor] = {}
        self._shown: Tensor | None = None
        self._count = 0

    # What is given

    def show(self, latents: Tensor) -> None:
        """Continue given frames. After the first one, each chunk of them is learned like a generated one, but without text.

        Args:
            latents: (n, C, h, w) clean latents of the next frames.
        """
        new = self.settings.frames_per_chunk
        for frame in latents.float().cpu().split(1):
            frame = frame.transpose(0, 1)
            seen = frame if self._shown is None else torch.cat([self._shown, frame], dim=1)
            self._shown = seen[:, -(self.settings.past_frames + new) :]
            self._count += 1
            if self._count > 1 and (self._count - 1) % new == 0 and self.settings.options.learn_source:
                past, made = self._shown[None, :, :-new], self._shown[None, :, -new:]
                self.learn(past[:, :, -self.settings.past_frames :], made, self.text_states(""))
            self.past = self._shown[:, -self.settings.past_frames :]

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the networks, to which saved episodes belong."""
        return self._pipe.fingerprint

    def save(self, folder: str | Path) -> None:
        """Write the episode (memory, last frames, number of chunks) to a folder, from which `begin` continues it bit for bit.

        Raises:
            InputError: the folder holds other files, or nothing was given or made yet.
        """
        save_episode(folder, self)

    # One chunk

    def take(self, action: str) -> Chunk | None:
        """Make the frames of an action, and learn from them.

        Returns:
            The chunk; None if a callback asked to end before it was finished (`pipe._interrupt`).

        Raises:
            InputError: an action that the model does not know.
        """
        action = check_action(action, self._pipe.actions)
        if self.past is None:
            raise InputError("the video has no frames to continue; begin with an image or a saved episode")
        past, text = self.past[None], self.text_states(action)
        made = self.sample(past, text)
        if self._pipe.interrupt:
            return None
        losses = self.learn(past, made, text)
        self.past = torch.cat([past, made], dim=2)[0, :, -self.settings.past_frames :]
        self.chunks += 1
        return Chunk(self.chunks - 1, action, made[0], tuple(losses), self.decode)

    def sample(self, past: Tensor, text: Tensor) -> Tensor:
        """The latents (1, C, F, h, w) of the next chunk, on the CPU.

        Args:
            past: (1, C, P, h, w).
            text: (1, tokens, width).
        """
        pipe, settings = self._pipe, self.settings
        device = pipe.run_device
        scheduler = copy.deepcopy(pipe.scheduler)
        scheduler.set_timesteps(settings.steps)
        pipe.start()

        def on_step(number: int, latents: Tensor) -> Tensor:
            after = pipe.after_step(self._callback, number, scheduler.timesteps[number], latents=latents)
            self.tick()
            if pipe.interrupt:
                raise _Interrupted
            return after["latents"]

        no_text = self.text_states("") if settings.guidance > 1 else None
        with suppress(_Interrupted), self.remembering():
            return sample_chunk(
                pipe.unet,
                scheduler,
                self.noise().to(device, pipe.unet.dtype),
                past.to(device),
                text,
                no_text,
                guidance=settings.guidance,
                on_step=on_step,
                generator=torch.Generator().manual_seed(self._stream("steps")),
            ).cpu()
        return past[:, :, :0]

    def noise(self) -> Tensor:
        """(1, C, F, h, w): depends on the seed and the number of the chunk only, so an episode that continues has its own."""
        assert self.past is not None
        channels, _, height, width = self.past.shape
        return noise_of([self._stream("noise")], (channels, self.settings.frames_per_chunk, height, width))

    def _stream(self, what: str) -> int:
        names = {"noise": 0, "steps": 1}
        return stream_of(self.settings.seed, names[what], self.chunks)

    def learn(self, past: Tensor, made: Tensor, text: Tensor) -> list[float]:
        """Write a chunk into the memory; returns the losses.

        Args:
            past, made: (1, C, P or F, h, w) clean latents.
            text: (1, tokens, width), used by the variant "original" only.
        """
        with self.remembering() as memory:
            return [] if memory is None else memory.write(past, made, text=text)

    @contextmanager
    def remembering(self) -> Iterator[EpisodeMemory | None]:
        """Inside the block, the UNet has the memory of this video; outside, it has none, so that videos can take turns."""
        if self.memory is None:
            yield None
            return
        self.memory.activate(EPISODE)
        try:
            yield self.memory
        finally:
            self.memory.activate(None)

    def snapshot(self, name: str) -> None:
        """Keep the memory under a name."""
        with self.remembering() as memory:
            _required(memory).snapshot(name)

    def restore(self, name: str) -> None:
        """Continue with a memory that was kept; the last frames stay. Raises `InputError` if there is none of that name."""
        with self.remembering() as memory:
            _required(memory).restore(name)

    def add_memory(self, folder: str | Path, name: str) -> None:
        """Keep the memory of a saved episode under a name, to restore or mix it. Raises `InputError` if it does not fit."""
        load_memory(folder, self, name)

    def mix(self, weights: Mapping[str, float]) -> None:
        """Continue with a mixture of memories that were kept; the last frames stay.

        Args:
            weights: name -> share of its update. The sum gets the rank of the memory, in the best approximation.

        Raises:
            InputError: a name that does not exist.
        """
        with self.remembering() as memory:
            mixed = _required(memory).merge(list(weights), list(weights.values()), method="svd", into=MIXED)
            memory = _required(memory)
            memory.activate(EPISODE)
            memory.restore(mixed)
            memory.drop(mixed)

    def decode(self, latents: Tensor) -> Iterator[Pixels]:
        """The frames (H, W, 3) uint8 of latents (C, F, h, w)."""
        return self._pipe.decode(latents.transpose(0, 1), self.settings.batch_size)

    def text_states(self, text: str) -> Tensor:
        """The hidden states of an action or of no text (""), (1, tokens, width); encoded once."""
        if text not in self._texts:
            self._texts[text] = self._pipe.encode_action(text)
        return self._texts[text]


def _required(memory: EpisodeMemory | None) -> EpisodeMemory:
    if memory is None:
        raise InputError("this video has no memory, because fast learning is off")
    return memory


class _Interrupted(Exception):
    """Ends a chunk that nobody wants any more."""
