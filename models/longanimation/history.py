"""The dynamic global-local memory of a video that is being coloured: what Video-XL keeps of the frames so far (arXiv 2507.01945).

Named stores, each a `TensorBank`: "global" (all frames, streamed), "recent" (visual tokens of the last frames), "local" (the memory
of these, encoded alone; overwritten), and "step_tails" (see `StepTails`). They are saved together after a segment and resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.io.files import make_folder, write_json
from visionzoo.memory import TensorBank, load_memory, save_memory

from .step_tails import StepTails
from .videoxl_stream import OverLimit, PromptTokens, make_bank

if TYPE_CHECKING:
    from .videoxl import VideoXLMemoryEncoder

__all__ = ["VideoHistory"]

STATE = "history.json"


class VideoHistory:
    """What is remembered of the frames that have been generated.

    Every frame passes CLIP once, and the decoder once for the global memory; the local memory reuses CLIP's tokens.

    >>> history = VideoHistory(encoder, encoder.prompt_tokens())
    >>> history.append(frames)  # of a finished segment
    >>> memory = history.read()  # for the next one

    Args:
        encoder: the network.
        prompt: of its `prompt_tokens`.
        local_frames: number of last frames that the local memory holds.
        limit, over_limit, frames: see `limit`, `over_limit` and `history` of `VideoXLMemoryEncoder.open`.
        placement: "device", or "host" to keep the global memory in main memory, from where it is streamed layer by layer.
        banks: stores of an interrupted run by name, see `load`.

    Attributes:
        stream: the global memory.
        tails: the step tails.
    """

    def __init__(
        self,
        encoder: VideoXLMemoryEncoder,
        prompt: PromptTokens,
        *,
        local_frames: int = 20,
        limit: int | None = 650,
        over_limit: OverLimit = "resample",
        frames: Callable[[Sequence[int]], Tensor] | None = None,
        placement: str = "device",
        banks: dict[str, TensorBank] | None = None,
    ):
        if local_frames < 1:
            raise InputError(f"local_frames is {local_frames}; expected 1 or more")
        self.encoder, self.prompt, self.local_frames = encoder, prompt, local_frames
        banks, like, language = dict(banks or {}), encoder.like, encoder.language
        for bank in banks.values():
            bank.to(like.device)
        each, width = encoder.vision.tokens, language.hidden_size
        self.stream = encoder.open(
            prompt,
            bank=banks.get("global") or make_bank(language, like, placement=placement),
            limit=limit,
            over_limit=over_limit,
            history=frames,
        )
        self.recent = banks.get("recent") or TensorBank(
            1, width, capacity=local_frames * each, device=like.device, dtype=like.dtype
        )
        self.local = banks.get("local") or make_bank(language, like, levels_only=True)
        self.tails = StepTails(bank=banks.get("step_tails"))

    def append(self, frames: Tensor) -> None:
        """Remember new frames (N, 3, H, W), RGB, uint8 or floats in [0, 1]. Errors as for `MemoryStream.append`."""
        self.stream.append(frames, self._keep_recent)

    def _keep_recent(self, tokens: Tensor) -> None:
        last = tokens[-self.local_frames :]
        first = self.stream.frames - len(last)
        times = torch.arange(first, self.stream.frames, dtype=torch.float64).repeat_interleave(last.shape[1])
        values = last.flatten(0, 1)[None, None]
        self.recent.write(times.to(values)[None, None, :, None], values, time=times)

    def read(self) -> Tensor:
        """The memory for the next segment: (1, 2 (keys, values), levels, L, Hk * D), the global one before the local one.

        Raises:
            InputError: nothing has been appended.
        """
        return torch.cat([each for each in self.read_stores() if each is not None], 3)

    def read_stores(self, which: Literal["both", "global", "local"] = "both") -> tuple[Tensor | None, Tensor | None]:
        """The global and the local memory, each (1, 2 (keys, values), levels, L, Hk * D), or None for one that is not asked for.

        Raises:
            InputError: nothing has been appended.
        """
        if not self.stream.frames:
            raise InputError("nothing is remembered yet: append the frames of a segment first")
        return None if which == "local" else self.stream.read(), None if which == "global" else self._read_local()

    def _read_local(self) -> Tensor:
        heads, levels = self.encoder.language.num_key_value_heads, len(self.encoder.language.levels)
        held, count = self.local.view(), self.stream.frames
        if not len(held) or held.times[0] != count:  # its time is the number of frames that it was made from
            keys, values = (
                x.unflatten(3, (heads, -1)).transpose(2, 3).flatten(1, 2) for x in self._encode_local().unbind(1)
            )
            self.local.reset()
            self.local.write(keys, values, time=float(count))
            held = self.local.view()
        found = (x.unflatten(1, (levels, heads)).transpose(2, 3).flatten(3) for x in (held.keys, held.value))
        return torch.stack([*found], 1)

    def _encode_local(self) -> Tensor:
        stream, each = self.stream, self.encoder.vision.tokens
        if stream.resamples(stream.frames):
            return self.encoder.encode(torch.cat([*stream.sample(self.local_frames)]), self.prompt)
        return self.encoder.encode_tokens(self.recent.view().value[0, 0].unflatten(0, (-1, each)), self.prompt)

    # --- saving ---

    @property
    def banks(self) -> dict[str, TensorBank]:
        """The stores by name."""
        tails = {} if self.tails.bank is None else {"step_tails": self.tails.bank}
        return {"global": self.stream.bank, "local": self.local, "recent": self.recent} | tails

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save all stores to a folder. It always holds one complete state, the old or the new one, wherever this is interrupted.

        Raises:
            VisionZooError: the folder cannot be written.
        """
        place = make_folder(Path(folder))
        before = _state(place) if (place / STATE).is_file() else {}
        part = "b" if before.get("part") == "a" else "a"
        shutil.rmtree(place / part, ignore_errors=True)
        save_memory(self.banks, place / part)
        state = {
            "part": part,
            "frames": self.stream.frames,
            "segment": self.tails.segment,
            "prompt": [list(self.prompt.before), list(self.prompt.after)],
            "options": {
                "local_frames": self.local_frames,
                "limit": self.stream.limit,
                "over_limit": self.stream.over_limit,
            },
        }
        write_json(place / STATE, state)
        if before:
            shutil.rmtree(place / str(before["part"]), ignore_errors=True)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        encoder: VideoXLMemoryEncoder,
        *,
        frames: Callable[[Sequence[int]], Tensor] | None = None,
    ) -> Self:
        """Resume from what `save` wrote.

        Args:
            encoder: the network that the memory was made with.
            frames: as for the class.

        Raises:
            InputError: the folder holds no history, a damaged one, or that of another network.
        """
        place = Path(folder)
        state = _state(place)
        banks = {
            name: bank for name, bank in load_memory(place / state["part"]).items() if isinstance(bank, TensorBank)
        }
        if missing := {"global", "local", "recent"} - banks.keys():
            raise InputError(
                f"{place / state['part']}: has no memory {', '.join(sorted(missing))}; save the history again"
            )
        prompt = PromptTokens(*state["prompt"])
        history = cls(encoder, prompt, frames=frames, banks=banks, **state["options"])
        history.stream.frames, history.tails.segment = state["frames"], state["segment"]
        return history


def _state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: holds no history of a video: there is no {STATE}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / STATE}: cannot be read ({error})") from error
    if (
        not isinstance(state, dict)
        or state.keys() != {"part", "frames", "segment", "prompt", "options"}
        or state["part"] not in ("a", "b")
    ):
        raise InputError(f"{folder / STATE}: is not the state of a history; save it again")
    return state
