"""Tiny random parts of latent diffusion pipelines in the real shapes and folder formats, in eval mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visionzoo.diffusion import save_text_encoder, save_tokenizer, text_config, word_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from visionzoo.models.longanimation import VideoXLMemoryEncoder
    from visionzoo.models.slowfastvgen import SlowFastUNet

WORDS = [
    "a", "and", "blue", "boat", "boy", "cat", "girl", "green", "hat", "house", "in", "of",
    "on", "red", "shirt", "sits", "street", "the", "tree", "walks", "white", "with",
]  # fmt: skip
WIDTH = 32
"""Width of the text embeddings."""


def tokenizer() -> CLIPTokenizer:
    return word_tokenizer(WORDS)


def text_encoder() -> CLIPTextModel:
    from transformers import CLIPTextModel

    return _seeded(CLIPTextModel, text_config(tokenizer(), WIDTH))


def vae() -> AutoencoderKL:
    """4 latent channels, 8 times smaller: the sizes of images are multiples of 8."""
    from diffusers import AutoencoderKL

    return _seeded(
        AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def unet() -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return _seeded(
        UNet2DConditionModel,
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def video_unet() -> SlowFastUNet:
    """A video UNet whose temporal convolutions are not zero, so that frames matter to each other."""
    from visionzoo.models.slowfastvgen import SlowFastUNet

    return _without_zeros(
        _seeded(
            SlowFastUNet,
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
            norm_num_groups=8,
        )
    )


def controlnet() -> ControlNetModel:
    """A ControlNet for `unet`, whose closing convolutions are not zero, so that the control image matters."""
    from diffusers import ControlNetModel

    return _without_zeros(
        _seeded(ControlNetModel.from_unet, unet(), conditioning_embedding_out_channels=(8, 8, 16, 16))
    )


def memory_encoder(**language: Any) -> VideoXLMemoryEncoder:
    """Windows of 2 frames of 4 tokens; a frame leaves 2 beacons, the levels are layers 0, 1 and 3 of 4."""
    from visionzoo.models.longanimation import BeaconConfig, VideoXLMemoryEncoder, VisionConfig

    settings = {"vocab_size": 60, "window": 8, "ratio": 2, "levels": (0, 1, -1), **language}
    return _seeded(
        VideoXLMemoryEncoder,
        BeaconConfig(**SMALL_DECODER | settings),
        VisionConfig(16, 24, 3, 2, image_size=16, patch_size=4),
    )


SMALL_DECODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _without_zeros(model: Any) -> Any:
    """Random values for the parameters that start at zero."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def scheduler() -> DDIMScheduler:
    """DDIM with the settings of Stable Diffusion."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def parts() -> dict[str, Any]:
    """The parts of a Stable Diffusion pipeline; no safety checker."""
    return {
        "vae": vae(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "unet": unet(),
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }


def stable_diffusion() -> StableDiffusionPipeline:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(**parts(), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_stable_diffusion(folder: Path) -> Path:
    """Write `stable_diffusion` as a folder that old and new versions of diffusers and transformers read."""
    pipe = stable_diffusion()
    pipe.save_pretrained(folder)
    save_text_encoder(pipe.text_encoder, folder / "text_encoder")
    save_tokenizer(pipe.tokenizer, folder / "tokenizer")
    return folder


_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OUTER = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip


def save_single_file(path: Path) -> Path:
    """Write `stable_diffusion` as one file with the names of Stable Diffusion's authors."""
    from safetensors.torch import save_file

    found = {f"model.diffusion_model.{_unet_name(name)}": value for name, value in unet().state_dict().items()}
    for name, value in vae().state_dict().items():
        is_linear = ".attentions." in name and value.ndim == 2  # a convolution there
        found[f"first_stage_model.{_vae_name(name)}"] = value[..., None, None] if is_linear else value
    for name, value in text_encoder().state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous() for name, value in found.items()}, path)
    return path


def _unet_name(name: str) -> str:
    """The name for blocks of one layer, whose first has no attention."""
    for ours, theirs in _OUTER.items():
        if name.startswith(f"{ours}."):
            rest = name.removeprefix(f"{ours}.")
            return f"{theirs}.{_replaced(rest, _RESNET) if 'resnets' in ours else rest}"
    side, level, kind, layer, rest = name.split(".", 4)
    down = side == "down_blocks"
    if kind == "downsamplers":
        return f"input_blocks.{2 * int(level) + 2}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{2 * int(level) + 1}.{2 if level == '0' else 1}.{rest}"
    place = 2 * int(level) + 1 + int(layer) if down else 2 * int(level) + int(layer)
    block = "input_blocks" if down else "output_blocks"
    return (
        f"{block}.{place}.{'0' if kind == 'resnets' else '1'}.{_replaced(rest, _RESNET) if kind == 'resnets' else rest}"
    )


def _vae_name(name: str) -> str:
    """The name in an autoencoder of four levels."""
    words = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out").split(".")
    if "down_blocks" in words or "up_blocks" in words:
        down = words[1] == "down_blocks"
        level = words[2] if down else str(3 - int(words[2]))
        kind = {"resnets": ["block", words[4]], "downsamplers": ["downsample"], "upsamplers": ["upsample"]}[words[3]]
        words = [words[0], "down" if down else "up", level, *kind, *words[5:]]
    elif "mid_block" in words:
        kind = [f"block_{int(words[3]) + 1}"] if words[2] == "resnets" else ["attn_1"]
        words = [words[0], "mid", *kind, *words[4:]]
    joined = ".".join(words)
    return _replaced(joined, _ATTENTION) if ".attn_1." in joined else joined


def _replaced(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(f"{ours}.", f"{theirs}.")
    return name


def _seeded(build: Any, *arguments: Any, **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*arguments, **settings).eval()


def save_clip(folder: Path) -> Path:
    """Write a random CLIP model for images of 32 x 32 pixels with its image processor and tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    words = tokenizer()
    vision = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config=text_config(words, WIDTH).to_dict(),
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    _seeded(CLIPModel, config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    save_tokenizer(words, folder)
    return folder
