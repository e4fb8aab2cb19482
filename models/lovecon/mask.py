"""Edit masks from the text cross-attention of the inversion (LOVECon, arXiv:2310.09711, section 3.3).

The attention of chosen words is summed while the source is inverted; no attention map is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.attention import VisionZooAttnProcessor
from visionzoo.diffusion import InstalledProcessors, install_processors
from visionzoo.errors import InputError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention
    from transformers import CLIPTokenizer

__all__ = [
    "WordAttention",
    "WordAttnProcessor",
    "edit_mask",
    "install_word_attention",
    "matching_columns",
    "phrase_columns",
    "resize_mask",
]


class WordAttention:
    """Sum of the attention that words get at each place of each frame, over steps, layers and heads.

    >>> words = WordAttention(phrase_columns(tokenizer, prompt, "hat"), grid=(height // 32, width // 32), frames=20)
    >>> with install_word_attention(unet, words):
    ...     with words.recording(0, 8):  # the next calls of the UNet process frames 0 to 7
    ...         unet(latents, time, text)
    >>> mask = edit_mask(words.average(), (height // 8, width // 8))

    Args:
        columns: positions of the words in the prompt, e.g. of `phrase_columns`.
        grid: rows and columns of tokens of the layers that count, (H / 32, W / 32) for images of H x W.
        frames: number of frames of the video.
    """

    def __init__(self, columns: Sequence[int], grid: tuple[int, int], frames: int) -> None:
        if not columns or min(*grid, frames) < 1:
            raise InputError(
                f"attention to words needs at least one column, one token and one frame, got columns {list(columns)}, "
                f"a grid of {grid[0]} x {grid[1]} and {frames} frames"
            )
        self.columns, self.grid = tuple(columns), grid
        self._total = torch.zeros(frames, grid[0] * grid[1], len(self.columns))
        self._maps = torch.zeros(frames)
        self._rows: slice | None = None

    @contextmanager
    def recording(self, start: int, stop: int) -> Iterator[None]:
        """Sum up what the network attends to inside the block, whose batches consist of frames `start` to `stop` - 1."""
        if not 0 <= start < stop <= len(self._maps):
            raise InputError(f"frames {start} to {stop - 1} are not frames of a video with {len(self._maps)}")
        self._rows = slice(start, stop)
        try:
            yield
        finally:
            self._rows = None

    def wants(self, tokens: int) -> bool:
        """Whether a layer with this number of tokens is summed up now."""
        return self._rows is not None and tokens == self.grid[0] * self.grid[1]

    def add(self, probabilities: Tensor) -> None:
        """Add the attention of one layer, (frames, heads, tokens, words of `columns`); tokens are in rows of the grid.

        Raises:
            InputError: outside of `recording`, or another number of frames or tokens than was announced.
        """
        if self._rows is None:
            raise InputError("attention to words is summed inside of `with words.recording(start, stop):` only")
        frames, expected = self._rows.stop - self._rows.start, (self._total.shape[1], self._total.shape[2])
        if probabilities.shape[0] != frames or (probabilities.shape[2], probabilities.shape[3]) != expected:
            raise InputError(
                f"expected attention of {frames} frames to {expected[1]} words at {expected[0]} tokens, without guidance; got "
                f"(frames, heads, tokens, words) {tuple(probabilities.shape)}"
            )
        mean = probabilities.detach().float().mean(1)
        if self._total.device != mean.device:
            self._total, self._maps = self._total.to(mean.device), self._maps.to(mean.device)
        self._total[self._rows] += mean
        self._maps[self._rows] += 1

    def average(self) -> Tensor:
        """Mean attention over all that was added, (frames, rows, columns of the grid, words) float32, on the device of the network.

        Raises:
            InputError: nothing was added for some frame.
        """
        if not self._maps.all():
            frame = int((self._maps == 0).nonzero()[0])
            raise InputError(
                f"no attention was recorded for frame {frame}: no layer has {self.grid[0]} x {self.grid[1]} tokens, or "
                "the frame was never processed inside of recording()"
            )
        return (self._total / self._maps[:, None, None]).unflatten(1, self.grid)


class WordAttnProcessor(VisionZooAttnProcessor):
    """Cross-attention that adds the attention of chosen words to a `WordAttention`. Its result is not changed."""

    def __init__(self, words: WordAttention, backend: str = "auto") -> None:
        super().__init__(backend)
        self.words = words

    def _attend(self, attn: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, own: bool) -> Tensor:
        if self.words.wants(q.shape[2]):
            if mask is not None:
                raise InputError(
                    "attention to words takes no mask: leave encoder_attention_mask of the network at None"
                )
            keys = k.repeat_interleave(q.shape[0] // k.shape[0], 0)
            scores = (q.float() @ keys.float().transpose(-2, -1)) * attn.scale  # 77 keys: small
            self.words.add(scores.softmax(-1)[..., list(self.words.columns)])
        return super()._attend(attn, q, k, v, mask, own)


def install_word_attention(unet: nn.Module, words: WordAttention, *, backend: str = "auto") -> InstalledProcessors:
    """Sum up attention in the cross-attention of a UNet's down and up blocks; the middle block does not count, as in the release.

    The layers that count are those with as many tokens as the grid of `words` has.

    Raises:
        InputError: the network has no cross-attention.
    """
    return install_processors(
        unet, lambda *_: WordAttnProcessor(words, backend), ("down_blocks.*.attn2", "up_blocks.*.attn2")
    )


def matching_columns(prompt_ids: Sequence[int], phrase_ids: Sequence[int]) -> list[int]:
    """Positions of a tokenised prompt whose token occurs in a phrase, wherever they are; repeated words count each time."""
    wanted = set(phrase_ids)
    return [place for place, token in enumerate(prompt_ids) if token in wanted]


def phrase_columns(tokenizer: CLIPTokenizer, prompt: str, phrase: str) -> list[int]:
    """Positions of the tokens of `phrase` in the tokenised `prompt`, in which the start token has position 0.

    Args:
        tokenizer: of the text encoder.
        prompt: the source prompt; what exceeds the tokenizer's length is cut off, as for the text encoder.
        phrase: one or several words of the prompt, e.g. "hat" or "red car".

    Raises:
        InputError: an empty phrase, or one with tokens that do not occur in the prompt; the message names them.
    """
    wanted = tokenizer(phrase, add_special_tokens=False)["input_ids"]
    if not wanted:
        raise InputError(
            "the editing phrase is empty; name what to change (or to keep) in a word or two of the source prompt"
        )
    ids = tokenizer(prompt, truncation=True)["input_ids"]
    if missing := [token for token in dict.fromkeys(wanted) if token not in ids]:
        names = tokenizer.convert_ids_to_tokens
        raise InputError(
            f"the editing phrase {phrase!r} does not occur in the source prompt {prompt!r}: no token "
            f"{', '.join(names(missing))} among {' '.join(names(ids[1:-1]))}; use words of the prompt"
        )
    return matching_columns(ids, wanted)


def edit_mask(
    average: Tensor,
    size: tuple[int, int],
    *,
    threshold: float = 100 / 255,
    dilation: int = 3,
    greatest: Tensor | None = None,
) -> Tensor:
    """The places that get much attention, dilated and enlarged; the union over the words.

    Args:
        average: (frames, rows, columns, words), of `WordAttention.average`.
        size: height and width of the latents, (H / 8, W / 8).
        threshold: part of the greatest attention to a word, above 0 to 1.
        dilation: width in tokens of the square that each place grows to; odd, 1 for none.
        greatest: attention (words,) that the threshold is a part of, e.g. the greatest in a video; None: that of each frame, as
            published.

    Returns:
        (frames, 1, height, width), 0.0 or 1.0.

    Raises:
        InputError: a threshold or a dilation outside its range.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"the threshold is a part of the maximal attention, above 0 to 1, got {threshold}")
    if dilation < 1 or dilation % 2 == 0:
        raise InputError(f"the dilation is an odd number of tokens (1: none), got {dilation}")
    maps = average.movedim(-1, 1)  # (frames, words, rows, columns)
    most = maps.amax((-2, -1), keepdim=True) if greatest is None else greatest.to(maps)[:, None, None]
    above = (255 * maps / most >= 255 * threshold).float()
    grown = F.max_pool2d(above, dilation, stride=1, padding=dilation // 2)
    return resize_mask(grown, size).amax(1, keepdim=True)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge masks with Pillow's bicubic filter for 8-bit images, which gives 0 and 1 again, as the release does.

    Args:
        mask: (N, C, rows, columns), 0.0 or 1.0.
        size: the new height and width.

    Returns:
        (N, C, height, width), 0.0 or 1.0, on the device of `mask`.
    """
    height, width = size
    rows, columns = mask.shape[2:]
    if height % rows == 0 and width % columns == 0:  # the result is that of nearest neighbours
        return mask.repeat_interleave(height // rows, 2).repeat_interleave(width // columns, 3)
    small = mask.flatten(0, 1).to("cpu", torch.uint8).numpy()
    large = [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)) for each in small]
    return torch.from_numpy(np.stack(large)).to(mask).unflatten(0, mask.shape[:2])
