"""Parts of the training of latent diffusion models: cached latents and captions, drop-out of captions, noise and targets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..console import counted
from ..data.augmented import stream_of
from ..errors import InputError, check_kind
from ..io.tensor_file import TensorFile, TensorWriter
from ..weights import fingerprint
from .text import check_text_encoder, check_tokenizer, checked_texts, encode_text

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["CachedTexts", "LatentCaptions", "NoisyBatch", "cache_texts", "is_dropped", "noisy_batch"]


class CachedTexts:
    """Embeddings of captions in a file: `texts["a red boat"]` is (tokens, width), float32; `texts[""]` is that of no caption.

    Args:
        file: the embeddings, one row for each caption.
        captions: the captions of the rows.
    """

    def __init__(self, file: TensorFile, captions: Sequence[str]):
        self.file, self._rows = file, {caption: row for row, caption in enumerate(captions)}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, caption: str) -> bool:
        return caption in self._rows

    def __getitem__(self, caption: str) -> Tensor:
        if caption not in self._rows:
            raise InputError(f"{self.file.path}: has no embedding of {caption!r}; cache the captions again")
        return self.file[self._rows[caption]]


def cache_texts(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    captions: Iterable[str],
    path: str | Path,
    *,
    dtype: str = "float16",
    batch_size: int = 64,
) -> CachedTexts:
    """Encode captions to a file, each different one once, and open it; a file that exists and fits is only opened.

    After an interruption, the same call continues.

    Args:
        captions: in any order; no caption ("") is added.
        dtype: "float16" or "float32", of the file.

    Raises:
        InputError: the file exists and is of other captions or of another text encoder, or arguments of wrong types.
    """
    check_tokenizer(tokenizer)
    check_text_encoder(text_encoder)
    captions = checked_texts("captions", captions)
    different = ["", *(caption for caption in dict.fromkeys(captions) if caption)]
    facts = {
        "content": "text embeddings",
        "captions": hashlib.sha256(json.dumps(different).encode()).hexdigest()[:16],
        "vocabulary": hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16],
        "text_encoder": fingerprint(text_encoder),
    }
    if Path(path).exists():
        file = TensorFile(path)
        if other := [key.replace("_", " ") for key, fact in facts.items() if file.facts.get(key) != fact]:
            raise InputError(f"{path}: was made with other {' and '.join(other)}; delete it, so that it is made again")
        return CachedTexts(file, different)
    row = (tokenizer.model_max_length, text_encoder.config.hidden_size)
    with TensorWriter(path, row, dtype, facts) as writer:
        writer.cut(len(writer) // batch_size * batch_size)  # results depend on the batch in their last bits
        for first in range(len(writer), len(different), batch_size):
            writer.append(encode_text(tokenizer, text_encoder, different[first : first + batch_size]))
    return CachedTexts(TensorFile(path), different)


def is_dropped(share: float, *numbers: int) -> bool:
    """Whether to drop a caption, in `share` of all cases: decided by a hash of `numbers`, e.g. the seed, the epoch and the index."""
    return stream_of(*numbers) < share * 2**63


class LatentCaptions(Dataset):
    """Cached latents with cached captions: {"latents": (C, h, w), "text": (tokens, width)}, float32.

    The key of an item is (epoch, index), as `visionzoo.data.epochs.EpochSampler` gives it, so that a caption is dropped
    depending on its key only, and resumed runs see the same. With a plain index, as in validation, no caption is dropped.

    Args:
        latents: file of latents, see `visionzoo.diffusion.open_latents`.
        captions: the caption of each row of latents.
        texts: embeddings of the captions.
        drop: share of captions that are replaced by no caption, for classifier-free guidance (arXiv:2207.12598), in [0, 1].
        seed: seed of the choice.

    Raises:
        InputError: another number of captions than of latents, captions that are not cached, or `drop` outside [0, 1].
    """

    def __init__(
        self, latents: TensorFile, captions: Sequence[str], texts: CachedTexts, *, drop: float = 0.1, seed: int = 0
    ):
        if len(captions) != len(latents):
            raise InputError(
                f"{latents.path}: holds {counted(len(latents), 'latent')}, but got {counted(len(captions), 'caption')}; "
                "give one for each"
            )
        if missing := next((caption for caption in captions if caption not in texts), None):
            raise InputError(f"{texts.file.path}: has no embedding of {missing!r}; cache the captions again")
        if not 0 <= drop <= 1:
            raise InputError(f"drop is a share of the captions, from 0 to 1, got {drop:g}")
        self.latents, self.captions, self.texts, self.drop, self.seed = latents, captions, texts, drop, seed

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Tensor]:
        drop = isinstance(key, tuple) and is_dropped(self.drop, self.seed, *key)
        index = key[1] if isinstance(key, tuple) else key
        return {"latents": self.latents[index], "text": self.texts["" if drop else self.captions[index]]}


@dataclass(frozen=True)
class NoisyBatch:
    """Latents with noise, and what the network is to predict from them.

    Attributes:
        latents: (B, …) with noise.
        timesteps: (B,) int64.
        target: (B, …): the noise, the velocity or the clean latents, as the scheduler's `prediction_type` says.
        noise: (B, …), standard normal.
    """

    latents: Tensor
    timesteps: Tensor
    target: Tensor
    noise: Tensor


def noisy_batch(
    scheduler: Any, latents: Tensor, *, timesteps: Tensor | None = None, noise: Tensor | None = None
) -> NoisyBatch:
    """Add noise to clean latents for a training step: x_t = sqrt(a_t) x + sqrt(1 - a_t) n (Eq. 4 of arXiv:2006.11239).

    The target is n, the velocity sqrt(a_t) n - sqrt(1 - a_t) x (appendix D of arXiv:2202.00512), or x.

    Args:
        scheduler: that of the pipeline, of any class. (The method `add_noise` of some, e.g. Euler, gives latents of another scale.)
        latents: x, (B, …), clean and scaled.
        timesteps: t, (B,); drawn uniformly if None, on the CPU, so that every device trains with the same ones.
        noise: n, (B, …); drawn if None.

    Raises:
        InputError: the scheduler has no such noise schedule, e.g. one for flow matching.
    """
    check_kind("the scheduler", scheduler, "a scheduler of diffusers, e.g. pipe.scheduler", "config", "step")
    check_kind("latents", latents, "a tensor (B, …)", "float", "shape")
    kind = scheduler.config.get("prediction_type", "flow")
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is None or kind not in ("epsilon", "v_prediction", "sample"):
        raise InputError(
            f"{type(scheduler).__name__} gives no targets for training: it predicts {kind}, "
            "expected epsilon, v_prediction or sample"
        )
    if timesteps is None:
        timesteps = torch.randint(scheduler.config["num_train_timesteps"], latents.shape[:1])
    if noise is None:
        noise = torch.randn_like(latents)
    timesteps = timesteps.to(latents.device)
    level = levels.to(latents.device, torch.float32)[timesteps].view(-1, *[1] * (latents.ndim - 1))
    signal, spread = level.sqrt().to(latents.dtype), (1 - level).sqrt().to(latents.dtype)
    if kind == "epsilon":
        target = noise
    else:
        target = latents if kind == "sample" else signal * noise - spread * latents
    return NoisyBatch(signal * latents + spread * noise, timesteps, target, noise)
