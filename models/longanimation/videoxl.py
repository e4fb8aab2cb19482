"""Video-XL (arXiv 2409.14485) as LongAnimation's memory encoder (arXiv 2507.01945): frames in, keys and values of three layers out.

Written for this use instead of running a language model:
- only what the read-out needs is built and computed: no head, no final norm, and of the last level's layer only keys and values;
- frames are appended (`open`, `append`, `read`), and each passes CLIP and the decoder once, in batches and windows of fixed size;
- the memory of all frames is a `TensorBank`, which can be saved, resumed and kept in main memory.

The published network computes the same memory with each call from all frames. Both differ by float rounding only: at most 1e-4
relative in float32 is tested, for splits at windows and inside of them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from visionzoo.errors import InputError, unknown

from .beacon import BeaconConfig, BeaconDecoder, KeysValues
from .videoxl_stream import MemoryStream, OverLimit, PromptTokens
from .videoxl_vision import VisionConfig, VisionTower, projector, visual_tokens

if TYPE_CHECKING:
    from visionzoo.memory import TensorBank

__all__ = ["PROMPT", "VideoXLMemoryEncoder"]

PROMPT = "Can you describe the scene and color in anime?"
"""What the published code asks about the video."""

FRAMES_AT_ONCE = 16


class VideoXLModel(BeaconDecoder):
    """The decoder with the vision network and the projector, named as in the published files."""

    def __init__(self, language: BeaconConfig, vision: VisionConfig):
        super().__init__(language)
        self.mm_projector = projector(vision.hidden_size, language.hidden_size)
        self.vision_tower = VisionTower(vision)


class VideoXLMemoryEncoder(ModelMixin, ConfigMixin):
    """Encodes video frames to a memory (1, 2 (keys, values), levels, L, Hk * D); the keys are not rotated.

    With the published sizes, L = 18 tokens per frame + 30 of the prompt, of 512 values at 3 levels. Of each frame, only the
    central square is seen.

    >>> encoder = VideoXLMemoryEncoder.from_folder("VideoXL_weight_8", dtype=torch.bfloat16)
    >>> stream = encoder.open(encoder.prompt_tokens())
    >>> stream.append(frames)
    >>> memory = stream.read()

    Args:
        language, vision: sizes; default those of Video-XL 7B with CLIP ViT-L/14-336.

    Attributes:
        language, vision: the same as dataclasses.
        tokenizer: the tokenizer for `prompt_tokens`, or None.

    Raises:
        InputError: sizes that do not fit together: a window holds whole frames, and a frame whole beacons.
    """

    @register_to_config
    def __init__(
        self,
        language: BeaconConfig | Mapping[str, Any] | None = None,
        vision: VisionConfig | Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.language, self.vision = _sizes(BeaconConfig, language), _sizes(VisionConfig, vision)
        self.register_to_config(language=dataclasses.asdict(self.language), vision=dataclasses.asdict(self.vision))
        tokens, window, ratio = self.vision.tokens, self.language.window, self.language.ratio
        if tokens % ratio or window % tokens:
            raise InputError(
                f"a frame has {tokens} visual tokens; expected a multiple of ratio, {ratio}, that divides the window of {window}"
            )
        self.model = VideoXLModel(self.language, self.vision)
        self.tokenizer: Any = None

    @property
    def like(self) -> Tensor:
        """A tensor of the device and the dtype of the computation."""
        return self.model.layers[0].get_parameter("input_layernorm.weight")

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        vision: str | os.PathLike[str] | None = None,
        levels: Sequence[int] = BeaconConfig.levels,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load the published network from a copy of `VideoXL_weight_8` (config.json, safetensors, tokenizer).

        All keys and shapes are compared before any weight is read; none may be missing or unknown. One weight at a time is read
        and converted, so no second copy of the network is made.

        Args:
            vision: folder of CLIP ViT-L/14-336 (`openai/clip-vit-large-patch14-336`), for shards without the vision network.
                Default: a folder `clip-vit-large-patch14-336` inside of or beside `folder`.
            levels: layers to read; those after the last of them are not loaded.
            dtype, device: of the network.

        Raises:
            WeightsError: a file is missing (the message names it and its place), damaged, or does not fit.
        """
        from .videoxl_folder import load_folder

        return load_folder(cls, folder, vision, levels, dtype, device)

    def prompt_tokens(self, question: str = PROMPT) -> PromptTokens:
        """The tokens before and after the video of a question in Qwen's chat template.

        Raises:
            InputError: the network has no tokenizer.
        """
        from .videoxl_folder import chat_prompt

        if self.tokenizer is None:
            raise InputError("this memory encoder has no tokenizer; load it with from_folder, or pass PromptTokens")
        return chat_prompt(self.tokenizer, question)

    def watch(self, frames: Tensor, batch: int = FRAMES_AT_ONCE) -> Iterator[Tensor]:
        """Yield the visual tokens of `batch` frames at a time, (n, tokens per frame, C).

        Args:
            frames: (N, 3, H, W) RGB, uint8 or floats in [0, 1], on any device.
            batch: frames that pass CLIP together.
        """
        return visual_tokens(self.model.vision_tower, self.model.mm_projector, frames, self.vision, batch)

    def open(
        self,
        prompt: PromptTokens,
        *,
        bank: TensorBank | None = None,
        limit: int | None = None,
        over_limit: OverLimit = "resample",
        history: Callable[[Sequence[int]], Tensor] | None = None,
        detach: bool = True,
    ) -> MemoryStream:
        """Begin to watch a video.

        Args:
            prompt: of `prompt_tokens`.
            bank: memory to write to; one with content resumes its video. Default: a new one on the network's device.
            limit: number of frames above which `over_limit` applies; published: 650. None: no limit.
            over_limit: "resample", as published: from then on, `read` encodes `limit` frames, evenly spread over the whole
                video, from the beginning; "evict": only the beacons of frames near to evenly spread times are kept, and nothing
                is encoded again, which gives another memory; "grow": all frames are kept.
            history: indices -> these frames (n, 3, H, W), for "resample".
            detach: False lets gradients flow through the memory to the network and the frames, with all activations stored.

        Raises:
            InputError: the bank does not fit the network or the prompt, or a wrong option.
        """
        return MemoryStream(
            self,
            prompt,
            bank=bank,
            limit=limit,
            over_limit=over_limit,
            history=history,
            detach=detach,
        )

    def encode(self, frames: Tensor, prompt: PromptTokens, *, detach: bool = True) -> Tensor:
        """The memory of a few frames in a context of their own, like LongAnimation's local memory of 20 frames."""
        stream = self.open(prompt, detach=detach)
        stream.append(frames)
        return stream.read()

    def encode_clips(self, clips: Tensor, prompt: PromptTokens) -> Tensor:
        """`encode` for several clips at once, with gradients: (B, M, 3, H, W) -> (B, 2 (keys, values), levels, L, Hk * D)."""
        model, ratio, count = self.model, self.language.ratio, len(clips)
        visual = torch.cat([*self.watch(clips.flatten(0, 1))]).unflatten(0, (count, -1))
        known: list[KeysValues] = []

        def past(layer: int) -> list[KeysValues]:
            heads = self.language.num_key_value_heads
            part = slice(layer * heads, (layer + 1) * heads)
            return [(keys[:, part], values[:, part]) for keys, values in known]

        def embedded(ids: Sequence[int]) -> Tensor:
            return model.embed(ids).to(self.like).expand(count, -1, -1)

        known.append(model(embedded(prompt.before), past))
        for window in visual.split(self.language.window // self.vision.tokens, 1):
            tokens = torch.cat([model.with_beacons(each.flatten(0, 1)) for each in window]).to(self.like)
            known.append(model(tokens, past, ratio=ratio, keep=slice(ratio, None, ratio + 1)))
        known.append(model(embedded(prompt.after), past))
        levels = [[*model.read_out(*piece)] for piece in known]
        joined = [
            [torch.cat([piece[level][kind] for piece in levels], 2) for level in range(len(levels[0]))]
            for kind in (0, 1)
        ]
        return torch.stack([torch.stack([each.transpose(1, 2).flatten(2) for each in kind], 1) for kind in joined], 1)

    def encode_tokens(self, tokens: Tensor, prompt: PromptTokens) -> Tensor:
        """`encode` for frames whose visual tokens (N, tokens per frame, C) are known."""
        stream = self.open(prompt)
        stream.append_tokens(tokens)
        return stream.read()


Sizes = TypeVar("Sizes", BeaconConfig, VisionConfig)


def _sizes(cls: type[Sizes], given: Sizes | Mapping[str, Any] | None) -> Sizes:
    if isinstance(given, cls):
        return given
    fields = dict(given or {})
    known = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in known:
            raise unknown(f"field of {cls.__name__}", name, known)
    return cls(**fields)
