"""A video that Video-XL watches as it grows: every frame passes the network once, and the memory can be read at any time.

Attention is causal, so frames that are appended change nothing that earlier ones left behind. All of it is in one `TensorBank`,
whose heads are those of all layers: group "sink" holds the prompt before the video, "beacons" the beacons of closed windows,
"window" all tokens of the window that is still open, where a beacon follows every `ratio` visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError, unknown
from visionzoo.memory import EvenSample, TensorBank

from .beacon import BeaconConfig, KeysValues

if TYPE_CHECKING:
    from .videoxl import VideoXLMemoryEncoder

__all__ = ["MemoryStream", "OverLimit", "PromptTokens", "make_bank", "sampled_frames"]

SINK, BEACONS, WINDOW = "sink", "beacons", "window"
OverLimit = Literal["resample", "evict", "grow"]
Past = Callable[[int], Sequence[KeysValues]]


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as token ids, before and after the video."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", tuple(self.before))
        object.__setattr__(self, "after", tuple(self.after))
        if not self.before or not self.after:
            raise InputError("a prompt needs at least one token before and one after the video")


def sampled_frames(count: int, limit: int) -> list[int]:
    """The frames that the published code encodes of a history of `count`: all, or `limit` of them, spread evenly."""
    return np.linspace(0, count - 1, min(count, limit)).astype(int).tolist()


def make_bank(
    config: BeaconConfig, like: Tensor, *, levels_only: bool = False, placement: str = "device"
) -> TensorBank:
    """An empty bank for the keys and values of all layers, or of the levels only, of a network with this configuration.

    Args:
        like: its device and dtype are those of the bank.
        placement: as for `TensorBank`; "host" keeps the content in main memory, from where it is streamed layer by layer.
    """
    heads = len(config.levels) * config.num_key_value_heads if levels_only else config.heads_kept
    width = config.head_dim
    return TensorBank(width, width, heads=heads, device=like.device, dtype=like.dtype, placement=placement)  # pyright: ignore[reportArgumentType]


class MemoryStream:
    """One video's memory; made by `VideoXLMemoryEncoder.open`, where the arguments are explained.

    Attributes:
        bank: what is remembered. Saved and loaded, `open(prompt, bank=…)` resumes from it.
        frames: number of frames that have been appended.
        closed: whether `close` has been called.
    """

    def __init__(
        self,
        encoder: VideoXLMemoryEncoder,
        prompt: PromptTokens,
        *,
        bank: TensorBank | None = None,
        limit: int | None = None,
        over_limit: OverLimit = "resample",
        history: Callable[[Sequence[int]], Tensor] | None = None,
        detach: bool = True,
    ):
        if over_limit not in get_args(OverLimit):
            raise unknown("over_limit", over_limit, get_args(OverLimit))
        self._per_window = encoder.language.window // encoder.vision.tokens
        least = self._per_window + 1 if over_limit == "evict" else 1
        if limit is not None and limit < least:
            raise InputError(f"limit is {limit}; with over_limit={over_limit!r}, expected {least} frames or more")
        self.encoder, self.prompt, self.limit, self.over_limit = encoder, prompt, limit, over_limit
        self.history, self.detach, self.closed = history, detach, False
        self.bank = make_bank(encoder.language, encoder.like) if bank is None else bank
        if not len(self.bank):
            sink = self._run(encoder.model.embed(prompt.before), self._past([]))
            self._remember(SINK, *sink, time=-1.0, permanent=True)
        self._check_bank()
        self.frames = 1 + max(int(self.bank.view(group=group).times.max()) for group in self.bank.groups)

    def _check_bank(self) -> None:
        config, bank = self.encoder.language, self.bank
        found = bank.heads, bank.key_dim, bank.count(SINK)
        wanted = config.heads_kept, config.head_dim, len(self.prompt.before)
        if found != wanted:
            raise InputError(
                f"the memory bank has {found[0]} heads of width {found[1]} and {found[2]} tokens before the video; expected "
                f"{wanted[0]}, {wanted[1]} and {wanted[2]}: resume with the network and the prompt that it was made with"
            )

    # --- watching ---

    def append(self, frames: Tensor, seen: Callable[[Tensor], None] | None = None) -> None:
        """Encode frames that follow those before: (N, 3, H, W) RGB, uint8 or floats in [0, 1], on any device.

        After an interruption, the attribute `frames` tells how many of them have been encoded.

        Args:
            frames: the frames.
            seen: receives the visual tokens (n, tokens per frame, C) of every part of them after it has been encoded.

        Raises:
            InputError: the stream is closed, the frames have another shape, or there are more than `limit` and the stream
                cannot sample them again, as it has no `history`.
        """
        self._check_open(len(frames))
        if self.resamples(self.frames + len(frames)):
            self.bank.purge([BEACONS, WINDOW])  # `read` encodes a sample of all frames
            self.frames += len(frames)
            return
        waiting = None
        for tokens in self.encoder.watch(frames):
            waiting = tokens if waiting is None else torch.cat([waiting, tokens])
            whole = len(waiting) - (self._open_frames + len(waiting)) % self._per_window
            if whole > 0:  # up to the end of a window
                self._append_seen(waiting[:whole], seen)
                waiting = waiting[whole:]
        if waiting is not None and len(waiting):
            self._append_seen(waiting, seen)

    def _append_seen(self, tokens: Tensor, seen: Callable[[Tensor], None] | None) -> None:
        self.append_tokens(tokens)
        if seen is not None:
            seen(tokens)

    def append_tokens(self, tokens: Tensor) -> None:
        """Encode frames as visual tokens (N, tokens per frame, C) of `VideoXLMemoryEncoder.watch`. Errors as for `append`."""
        self._check_open(len(tokens))
        each, width = self.encoder.vision.tokens, self.encoder.language.hidden_size
        if tokens.ndim != 3 or tokens.shape[1:] != (each, width):
            raise InputError(f"visual tokens are {tuple(tokens.shape)}; expected (frames, {each}, {width})")
        while len(tokens):
            room = self._per_window - self._open_frames
            self._append_window(tokens[:room], closes=len(tokens) >= room)
            tokens = tokens[room:]
        self._stay_within_limit()

    def _append_window(self, tokens: Tensor, closes: bool) -> None:
        """Encode frames of one window; if they complete it, keep only its beacons."""
        model, ratio, beacons = self.encoder.model, self.encoder.language.ratio, self._beacons
        new = self._run(
            model.with_beacons(tokens.flatten(0, 1)),
            self._past([SINK, BEACONS, WINDOW]),
            ratio,
            beacons if closes else slice(None),
        )
        times = torch.arange(self.frames, self.frames + len(tokens), dtype=torch.float64)
        times = times.repeat_interleave(new[0].shape[2] // len(tokens))
        if closes and self.bank.count(WINDOW):
            earlier = self.bank.view(group=WINDOW)
            parts = earlier.keys[:, :, beacons], earlier.value[:, :, beacons]
            self._remember(BEACONS, *parts, time=earlier.times[beacons])
            self.bank.purge(WINDOW)
        self._remember(BEACONS if closes else WINDOW, *new, time=times)
        self.frames += len(tokens)

    def _run(self, x: Tensor, past: Past, ratio: int = 0, keep: slice = slice(None)) -> KeysValues:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
            return self.encoder.model(x.to(self.encoder.like), past, ratio=ratio, keep=keep)

    def _remember(
        self, group: str, keys: Tensor, values: Tensor, *, time: float | Tensor, permanent: bool = False
    ) -> None:
        self.bank.write(keys, values, group=group, time=time, permanent=permanent, detach=self.detach)

    def _past(self, groups: Sequence[str], beacons_only: bool = False) -> Past:
        """What the bank holds of a layer, in the order of positions; with `beacons_only`, of the open window only beacons."""
        heads, like = self.encoder.language.num_key_value_heads, self.encoder.like

        def past(layer: int) -> list[KeysValues]:
            part, found = slice(layer * heads, (layer + 1) * heads), []
            for group in (group for group in groups if self.bank.count(group)):
                for piece in self.bank.segments(group):
                    every = self._beacons if beacons_only and group == WINDOW else slice(None)
                    found.append((piece.k[:, part, every].to(like), piece.v[:, part, every].to(like)))
            return found

        return past

    @property
    def _beacons(self) -> slice:
        ratio = self.encoder.language.ratio
        return slice(ratio, None, ratio + 1)

    @property
    def _open_frames(self) -> int:
        """Number of frames in the window that is still open."""
        ratio = self.encoder.language.ratio
        return self.bank.count(WINDOW) // (ratio + 1) * ratio // self.encoder.vision.tokens

    # --- what happens above the limit ---

    def _check_open(self, new: int) -> None:
        if self.closed:
            raise InputError("this stream is closed; open another one")
        if self.resamples(self.frames + new) and self.history is None:
            raise InputError(
                f"{self.frames + new} frames are more than the limit of {self.limit}, and there is no history= to sample them from; "
                "pass it, or over_limit='evict'"
            )

    def resamples(self, count: int) -> bool:
        """Whether `read` encodes a sample of a history of this many frames."""
        return self.limit is not None and count > self.limit and self.over_limit == "resample"

    def sample(self, last: int | None = None) -> Iterator[Tensor]:
        """Yield the evenly spread frames of a history above the limit, or the `last` of them, as many as a window holds at a time.

        Raises:
            InputError: there is no limit or no history to sample from.
        """
        if self.limit is None or self.history is None:
            raise InputError("this stream has no limit, or no history= to sample frames from")
        chosen = sampled_frames(self.frames, self.limit)
        chosen = chosen if last is None else chosen[-last:]
        for start in range(0, len(chosen), self._per_window):
            yield self.history(chosen[start : start + self._per_window])

    def _stay_within_limit(self) -> None:
        if self.limit is not None and self.over_limit == "evict":
            self.bank.evict(EvenSample(self.limit - self._open_frames), group=BEACONS)

    # --- reading ---

    def read(self) -> Tensor:
        """The memory of all frames so far: (1, 2 (keys, values), levels, L, Hk * D), sink, beacons and tail.

        The prompt after the video is encoded on top, and forgotten again. Of an open window, only the beacons are read.
        """
        self._check_open(0)
        encoder = self.encoder
        if self.resamples(self.frames):
            fresh = MemoryStream(encoder, self.prompt, detach=self.detach)
            for frames in self.sample():
                fresh.append(frames)
            return fresh.read()
        past = self._past([SINK, BEACONS, WINDOW], beacons_only=True)
        tail = self._run(encoder.model.embed(self.prompt.after), past)
        levels = [
            [*past(layer), new]
            for layer, new in zip(encoder.language.read_layers, encoder.model.read_out(*tail), strict=True)
        ]
        return torch.stack([_joined([[piece[kind] for piece in level] for level in levels]) for kind in (0, 1)], 1)

    def close(self) -> Tensor:
        """`read`, after which nothing can be appended and what was remembered is dropped."""
        memory = self.read()
        self.closed = True
        self.bank.reset()
        return memory


def _joined(levels: Sequence[Sequence[Tensor]]) -> Tensor:
    """Pieces (1, Hk, n, D) per level -> (1, levels, all n, Hk * D)."""
    return torch.stack([torch.cat([*pieces], 2).transpose(1, 2).flatten(2) for pieces in levels], 1)
