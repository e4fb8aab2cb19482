"""SketchDiT: the first blocks of CogVideoX as a control network for sketches (LongAnimation, arXiv 2507.01945, section 3.2)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import CogVideoXPatchEmbed, TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from torch import Tensor, nn

from visionzoo.attention import VisionZooAttnProcessor
from visionzoo.errors import InputError

from .cogvideox import check_inputs, embed, run_block

__all__ = ["SketchDiT"]


class SketchDiT(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """A control signal for the video network from the latents of sketches and of the reference image.

    It does not see the noisy latents. What is special compared with the video network:

    * the input is [sketch latents, image latents] on the channel axis;
    * it ends after its last block: no final norm, and the text tokens are dropped;
    * `zero_conv`, a linear layer without bias, starts at zero, so that a new network has no effect.

    Args:
        num_attention_heads, attention_head_dim: of its blocks; their product is the width D.
        in_channels: of sketch and image latents together.
        text_embed_dim, max_text_seq_length: of the text states.
        time_embed_dim, ofs_embed_dim: of the embeddings of the timestep and of `ofs`.
        num_layers: number of blocks.
        patch_size, patch_size_t: sides of a token's patch of latents, in space and time.
        sample_height, sample_width, sample_frames: of the table of positions, in latents and frames.
        attention_bias, patch_bias, norm_elementwise_affine, norm_eps, activation_fn, timestep_activation_fn, flip_sin_to_cos,
            freq_shift, dropout: as in diffusers' CogVideoXTransformer3DModel.
        use_rotary_positional_embeddings: whether positions are rotary, as in all of CogVideoX 1.5.

    The defaults are those of `control_module.safetensors`.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["CogVideoXBlock", "CogVideoXPatchEmbed"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["patch_embed", "norm"]

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 48,
        attention_head_dim: int = 64,
        in_channels: int = 32,
        text_embed_dim: int = 4096,
        max_text_seq_length: int = 226,
        time_embed_dim: int = 512,
        ofs_embed_dim: int = 512,
        num_layers: int = 6,
        patch_size: int = 2,
        patch_size_t: int = 2,
        sample_height: int = 300,
        sample_width: int = 300,
        sample_frames: int = 81,
        attention_bias: bool = True,
        patch_bias: bool = False,
        norm_elementwise_affine: bool = True,
        norm_eps: float = 1e-5,
        activation_fn: str = "gelu-approximate",
        timestep_activation_fn: str = "silu",
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        dropout: float = 0.0,
        use_rotary_positional_embeddings: bool = True,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        self.patch_embed = CogVideoXPatchEmbed(
            patch_size=patch_size,
            patch_size_t=patch_size_t,
            in_channels=in_channels,
            embed_dim=width,
            text_embed_dim=text_embed_dim,
            bias=patch_bias,
            sample_width=sample_width,
            sample_height=sample_height,
            sample_frames=sample_frames,
            max_text_seq_length=max_text_seq_length,
            use_positional_embeddings=not use_rotary_positional_embeddings,
            use_learned_positional_embeddings=False,
        )
        self.embedding_dropout = nn.Dropout(dropout)
        self.time_proj = Timesteps(width, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(width, time_embed_dim, timestep_activation_fn)
        self.ofs_proj = Timesteps(ofs_embed_dim, flip_sin_to_cos, freq_shift)
        self.ofs_embedding = TimestepEmbedding(ofs_embed_dim, ofs_embed_dim, timestep_activation_fn)
        self.transformer_blocks = nn.ModuleList(
            CogVideoXBlock(
                dim=width,
                num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim,
                time_embed_dim=time_embed_dim,
                dropout=dropout,
                activation_fn=activation_fn,
                attention_bias=attention_bias,
                norm_elementwise_affine=norm_elementwise_affine,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        )
        self.zero_conv = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.zero_conv.weight)
        self.gradient_checkpointing = False
        processor: Any = VisionZooAttnProcessor()  # diffusers' type lists its own classes only
        self.set_attn_processor(processor)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        ofs: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Compute the control signal (B, N, D) for the N video tokens.

        Args:
            hidden_states: sketch latents, then image latents on the channel axis, (B, T, in_channels, h, w).
            encoder_hidden_states: text states (B, L, text_embed_dim).
            timestep: (B,).
            ofs: (1,), 2.0 for CogVideoX 1.5.
            image_rotary_emb: see `rotary_embedding`.
            attention_kwargs: passed to the attention processors.

        Raises:
            InputError: shapes that do not fit, or no `ofs` or `image_rotary_emb`.
        """
        check_inputs(self, hidden_states, ofs, image_rotary_emb)
        video, text, time = embed(self, hidden_states, encoder_hidden_states, timestep, ofs)
        for block in self.transformer_blocks:
            video, text = run_block(self, block, video, text, time, image_rotary_emb, attention_kwargs)
        return self.zero_conv(video)

    @classmethod
    def from_transformer(cls, transformer: Any, num_layers: int = 6) -> Self:
        """A new SketchDiT with copies of the embeddings and the first blocks of a video network, and no effect yet.

        Args:
            transformer: a CogVideoXTransformer3DModel of version 1.5, or a `LongAnimationTransformer`.
            num_layers: number of blocks, at most those of `transformer`.

        Raises:
            InputError: it has fewer blocks, or is of version 1.0.
        """
        config = dict(transformer.config)
        if not 1 <= num_layers <= config["num_layers"]:
            raise InputError(f"num_layers must be from 1 to the transformer's {config['num_layers']}, got {num_layers}")
        if config.get("ofs_embed_dim") is None or config.get("patch_size_t") is None:
            raise InputError(
                "SketchDiT starts from CogVideoX 1.5 for images to video, but this transformer has "
                f"ofs_embed_dim={config.get('ofs_embed_dim')} and patch_size_t={config.get('patch_size_t')}"
            )
        known = {key: value for key, value in config.items() if key in cls._get_init_keys(cls)}
        first = next(transformer.parameters())
        network = cls(**{**known, "num_layers": num_layers}).to(first.device, first.dtype)
        own = network.state_dict()
        state = {key: value for key, value in transformer.state_dict().items() if key in own}
        network.load_state_dict({**state, "zero_conv.weight": own["zero_conv.weight"]})
        return network

    @staticmethod
    def config_of(state: dict[str, Tensor]) -> dict[str, Any]:
        """The arguments of the constructor that differ between files, from the shapes of a state dict.

        Raises:
            KeyError: `state` is not that of a SketchDiT.
        """
        width, patch = state["patch_embed.proj.weight"].shape
        head = state["transformer_blocks.0.attn1.norm_q.weight"].shape[0]
        return {
            "num_attention_heads": width // head,
            "attention_head_dim": head,
            "in_channels": patch // 8,
            "text_embed_dim": state["patch_embed.text_proj.weight"].shape[1],
            "time_embed_dim": state["time_embedding.linear_2.weight"].shape[0],
            "ofs_embed_dim": state["ofs_embedding.linear_2.weight"].shape[0],
            "num_layers": len({key.split(".")[1] for key in state if key.startswith("transformer_blocks.")}),
        }
