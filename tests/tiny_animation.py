"""Tiny random parts of LongAnimation in the real shapes and folder formats, in eval mode."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import tiny_diffusion
from tests.tiny_diffusion import _seeded, _without_zeros

TEXT_TOKENS = 12

SETTINGS: dict[str, Any] = {
    "segment_frames": 17,
    "overlap": 9,
    "height": 32,
    "width": 32,
    "steps": 2,
    "guidance": 2.0,
    "fusion_start": 1,
    "prompt_suffix": " red",
    "memory_prompt": [[1, 2, 3], [4, 5]],
}
"""Of a pipeline with `parts`."""


def parts(*, memory: bool = True, lineart: bool = True) -> dict[str, Any]:
    """The networks, the tokenizer and the scheduler.

    Args:
        memory: with DGLM and the memory encoder.
        lineart: with the line-art network.
    """
    found = {
        "tokenizer": tokenizer(),
        "text_encoder": text_encoder(),
        "vae": vae(),
        "transformer": transformer(),
        "sketch_dit": sketch_dit(),
        "scheduler": scheduler(),
    }
    if memory:
        found |= {"memory_fusion": memory_fusion(), "memory_encoder": tiny_diffusion.memory_encoder()}
    return {**found, "lineart": lineart_network()} if lineart else found


def tokenizer() -> Any:
    from transformers import T5Tokenizer

    words = [(f"▁{word}", -3.0) for word in tiny_diffusion.WORDS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def text_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=40, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
    return _seeded(T5EncoderModel, config)


def vae() -> Any:
    """4 latent channels, 8 times smaller; 17 frames give 5 frames of latents."""
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    return _seeded(
        AutoencoderKLCogVideoX,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=32,
        sample_width=32,
        scaling_factor=0.7,
        invert_scale_latents=True,
    )


TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 8,
    "text_embed_dim": 24,
    "time_embed_dim": 16,
    "ofs_embed_dim": 16,
    "max_text_seq_length": TEXT_TOKENS,
    "patch_size_t": 2,
    "patch_bias": False,
    "sample_height": 300,
    "sample_width": 300,
    "sample_frames": 81,
    "use_rotary_positional_embeddings": True,
}


def transformer() -> Any:
    from visionzoo.models.longanimation import LongAnimationTransformer

    return _seeded(LongAnimationTransformer, **TRANSFORMER, out_channels=4, num_layers=2)


def sketch_dit() -> Any:
    from visionzoo.models.longanimation import SketchDiT

    return _without_zeros(_seeded(SketchDiT, **TRANSFORMER, num_layers=1))


def memory_fusion() -> Any:
    """For the memory of `tiny_diffusion.memory_encoder`."""
    from visionzoo.models.longanimation import DynamicMemoryFusion

    return _without_zeros(
        _seeded(DynamicMemoryFusion, dim=32, heads=2, dim_head=16, depth=3, memory_dim=16, mapping_hidden=(16, 16))
    )


def lineart_network() -> Any:
    from visionzoo.models.longanimation import LineartModel

    return _seeded(LineartModel, width=4, blocks=1)


def scheduler() -> Any:
    from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler

    return CogVideoXDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
    )


def drawings(frames: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """Line drawings (N, H, W, 3): a black square that moves on white paper."""
    made = np.full((frames, height, width, 3), 255, np.uint8)
    for number in range(frames):
        left = number * (width - 8) // max(1, frames)
        made[number, 8:20, left : left + 8] = 0
        made[number, 10:18, left + 2 : left + 6] = 255
    return made


def colored(frames: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """Frames in colour (N, H, W, 3): a red square that moves on a green ground."""
    made = np.full((frames, height, width, 3), (40, 160, 60), np.uint8)
    for number in range(frames):
        left = number * (width - 8) // max(1, frames)
        made[number, 8:20, left : left + 8] = (200, 30, 30)
    return made
