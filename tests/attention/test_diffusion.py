"""The processor gives the same results as those of diffusers, on small models with random weights."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from visionzoo.attention import Segment, VisionZooAttnProcessor, attention, attention_backend
from visionzoo.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'visionzoo[diffusion]'")
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, CogVideoXAttnProcessor2_0  # noqa: E402


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> None:
    torch.manual_seed(0)


Case = tuple[nn.Module, Callable[[nn.Module], Tensor]]


def noisy(model: nn.Module) -> nn.Module:
    """Replace zero weights of a new model, so that every attention affects the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet2d(mask: bool = False, **kwargs: Any) -> Case:
    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    kept = torch.arange(5) < torch.tensor([[5], [2]])
    return (
        noisy(model),
        lambda m: (
            m(
                rand(2, 4, 8, 8),
                3,
                rand(2, 5, 24, seed=2),
                encoder_attention_mask=kept if mask else None,
                **kwargs,
            ).sample
        ),
    )


def unet3d() -> Case:
    model = diffusers.UNet3DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return noisy(model), lambda m: m(rand(1, 4, 3, 8, 8), 3, rand(1, 5, 24, seed=2)).sample


def controlnet() -> Case:
    model = diffusers.ControlNetModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=2,
        norm_num_groups=8,
        conditioning_embedding_out_channels=(8, 16),
    )

    def forward(m: nn.Module) -> Tensor:
        down, mid = m(rand(2, 4, 8, 8), 3, rand(2, 5, 24, seed=2), rand(2, 3, 16, 16, seed=3), return_dict=False)
        return torch.cat([part.flatten() for part in (*down, mid)])

    return noisy(model), forward


def autoencoder() -> Case:
    model = diffusers.AutoencoderKL(block_out_channels=(16,), norm_num_groups=8)
    return noisy(model), lambda m: m(rand(1, 3, 8, 8)).sample


def cogvideox(rotary: bool = True, mask: Tensor | None = None) -> Case:
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=12,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=6,
        use_rotary_positional_embeddings=rotary,
    )
    angles = rand(2 * 16, 8, seed=4).repeat_interleave(2, 1)
    return (
        noisy(model),
        lambda m: (
            m(
                rand(2, 2, 4, 8, 8),
                rand(2, 6, 12, seed=2),
                torch.tensor([3, 3]),
                image_rotary_emb=(angles.cos(), angles.sin()) if rotary else None,
                attention_kwargs=None if mask is None else {"attention_mask": mask},
            ).sample
        ),
    )


CASES = {
    "unet2d": unet2d,
    "unet2d, text mask": lambda: unet2d(mask=True),
    "unet3d": unet3d,
    "controlnet": controlnet,
    "autoencoder": autoencoder,
    "cogvideox": cogvideox,
    "cogvideox, no rotary": lambda: cogvideox(rotary=False),
    "cogvideox, mask": lambda: cogvideox(mask=rand(2, 1, 38, seed=5)),
}


def assert_same(got: Tensor, want: Tensor, error: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert (got - want).abs().max() <= error * want.abs().max()


def assert_all_ours(model: Any) -> None:
    assert {type(processor) for processor in model.attn_processors.values()} == {VisionZooAttnProcessor}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_models_give_the_numbers_of_diffusers(name: str) -> None:
    model, forward = CASES[name]()
    want = forward(model)
    for backend in ("auto", "chunked"):
        model.set_attn_processor(VisionZooAttnProcessor(backend))
        assert_all_ours(model)
        assert_same(forward(model), want)
    model.set_attn_processor(VisionZooAttnProcessor(segments=lambda attn, k, v: [Segment(k, v.flip(2))]))
    changed = (forward(model) - want).abs().max()
    assert changed > 1e-3 * want.abs().max()  # else this test would not notice a wrong attention


def test_gradients() -> None:
    model, forward = unet2d(mask=True)
    grads = []
    for processor in (AttnProcessor2_0(), VisionZooAttnProcessor(), VisionZooAttnProcessor("chunked")):
        model.set_attn_processor(processor)
        model.zero_grad()
        forward(model).square().mean().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    largest = max(grad.abs().max() for grad in grads[0].values())
    for name, want in grads[0].items():  # those that are zero but for rounding are measured against the largest
        for got in grads[1:]:
            assert (got[name] - want).abs().max() <= 1e-5 * max(want.abs().max(), largest * 5e-2), name


BLOCKS = {
    "self": {},
    "cross": {"cross_attention_dim": 24},
    "cross, layer norm": {"cross_attention_dim": 24, "cross_attention_norm": "layer_norm"},
    "cross, group norm": {
        "cross_attention_dim": 24,
        "cross_attention_norm": "group_norm",
        "cross_attention_norm_num_groups": 4,
    },
    "normed keys": {"qk_norm": "layer_norm", "bias": True},
    "normed keys across": {"qk_norm": "rms_norm", "cross_attention_dim": 24},
    "residual": {"norm_num_groups": 8, "residual_connection": True, "rescale_output_factor": 1.7, "bias": True},
}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_blocks_with_masks(name: str, fused: bool) -> None:
    attn = noisy(Attention(query_dim=32, heads=4, dim_head=8, **BLOCKS[name]))
    context = rand(2, 5, 24, seed=2) if attn.is_cross_attention else None
    keys = 16 if context is None else 5
    masks = [
        None,
        rand(2, 1, keys, seed=3),
        rand(2, keys, seed=3),
        rand(8, 1, keys, seed=3),
        rand(8, 16, keys, seed=3),
        rand(2, 16, keys, seed=3) > -0.5,
    ]
    inputs = [rand(2, 16, 32), *([rand(2, 32, 4, 4)] if context is None else [])]
    wants = [[attn(x, context, mask) for mask in masks] for x in inputs]
    if fused:
        attn.fuse_projections()
    attn.set_processor(VisionZooAttnProcessor())
    for x, row in zip(inputs, wants, strict=True):
        for mask, want in zip(masks, row, strict=True):
            assert_same(attn(x, context, mask), want)


@torch.no_grad()
def test_spatial_norm_and_channels_last() -> None:
    attn = noisy(Attention(query_dim=32, heads=1, dim_head=32, spatial_norm_dim=6, residual_connection=True))
    x, latents = rand(2, 32, 4, 4), rand(2, 6, 2, 2, seed=2)
    want = attn(x, temb=latents)
    attn.set_processor(VisionZooAttnProcessor())
    assert_same(attn(x, temb=latents), want)
    assert_same(attn(x.to(memory_format=torch.channels_last), temb=latents), want)


def joined_calls(model: nn.Module) -> list[str]:
    """A list to which the name of every joined projection is added when it runs."""
    calls: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("to_qkv", "to_kv")):
            module.register_forward_hook(lambda *_, name=name: calls.append(name.rsplit(".")[-1]))
    return calls


@pytest.mark.parametrize(("name", "joined"), [("unet2d", {"to_qkv", "to_kv"}), ("cogvideox", {"to_qkv"})])
@torch.no_grad()
def test_fused_projections(name: str, joined: set[str]) -> None:
    model, forward = CASES[name]()
    want = forward(model)
    model.set_attn_processor(VisionZooAttnProcessor())
    model.fuse_qkv_projections()
    assert all("Fused" in type(p).__name__ for p in model.attn_processors.values())  # diffusers puts its own in place
    model.set_attn_processor(VisionZooAttnProcessor())
    calls = joined_calls(model)
    assert_same(forward(model), want)
    assert set(calls) == joined
    model.unfuse_qkv_projections()
    assert_all_ours(model)  # what was set before fusing
    assert_same(forward(model), want)


@torch.no_grad()
def test_lora_and_its_scale() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'visionzoo[diffusion]'")
    torch.manual_seed(0)
    model, forward = unet2d()
    plain = forward(model)
    fused = copy.deepcopy(model)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    model.add_adapter(config)

    def half(m: nn.Module) -> Tensor:
        return m(rand(2, 4, 8, 8), 3, rand(2, 5, 24, seed=2), cross_attention_kwargs={"scale": 0.5}).sample

    want, want_half = forward(model), half(model)
    assert (want - plain).abs().max() > 1e-3
    assert (want - want_half).abs().max() > 1e-3
    model.set_attn_processor(VisionZooAttnProcessor())
    assert_same(forward(model), want)
    assert_same(half(model), want_half)

    # a LoRA that comes after the weights were joined counts all the same
    fused.fuse_qkv_projections()
    fused.set_attn_processor(VisionZooAttnProcessor())
    fused.add_adapter(config)
    fused.load_state_dict(model.state_dict(), strict=False)
    calls = joined_calls(fused)
    assert_same(forward(fused), want)
    assert not calls


@torch.no_grad()
def test_unknown_arguments_are_ignored_as_by_diffusers() -> None:
    model, forward = unet2d(cross_attention_kwargs={"no_such_argument": 1})
    want = forward(model)
    model.set_attn_processor(VisionZooAttnProcessor())
    assert_same(forward(model), want)


@pytest.mark.parametrize("name", ["unet2d", "cogvideox"])
@torch.no_grad()
def test_autocast(name: str) -> None:
    """Norms, including those of queries and keys, stay in float32, and projections in bfloat16."""
    model, forward = CASES[name]()
    want = forward(model)
    model.set_attn_processor(VisionZooAttnProcessor())
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(forward(model).float(), want, 5e-2)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 2e-2), (torch.float64, 1e-6)])
@torch.no_grad()
def test_other_precisions(dtype: torch.dtype, error: float) -> None:
    attn = Attention(query_dim=32, heads=4, dim_head=8, qk_norm="layer_norm").to(dtype)
    x, angles = rand(2, 7, 32).to(dtype), rand(4, 4).repeat_interleave(2, 1)
    inputs = {"encoder_hidden_states": x[:, :3], "image_rotary_emb": (angles.cos(), angles.sin())}
    attn.set_processor(CogVideoXAttnProcessor2_0())
    wants = attn(x[:, 3:], **inputs)
    attn.set_processor(VisionZooAttnProcessor())
    for got, want in zip(attn(x[:, 3:], **inputs), wants, strict=True):
        assert got.dtype == dtype
        assert_same(got, want, error)  # diffusers rotates in float32, also what is float64


@pytest.mark.parametrize("mask_shape", [None, (2, 1, 5), (6, 1, 5), (6, 16, 5), (24, 1, 5)])
@torch.no_grad()
def test_one_text_serves_the_frames_of_its_video(mask_shape: tuple[int, ...] | None) -> None:
    attn = noisy(Attention(query_dim=32, cross_attention_dim=24, heads=4, dim_head=8))
    frames, text = rand(6, 16, 32), rand(2, 5, 24, seed=2)
    mask = None if mask_shape is None else rand(*mask_shape, seed=3)
    repeated = mask.repeat_interleave(3, 0) if mask_shape == (2, 1, 5) else mask
    want = attn(frames, text.repeat_interleave(3, 0), repeated)
    attn.set_processor(VisionZooAttnProcessor())
    assert_same(attn(frames, text, mask), want)
    one = attn(frames, text[:1].expand(6, -1, -1))
    assert_same(attn(frames, text[:1]), one)


def project(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (layer(x).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v))
    return q, k, v


@torch.no_grad()
def test_segments_add_what_a_bank_holds() -> None:
    attn = noisy(Attention(query_dim=32, heads=4, dim_head=8))
    x, bank = rand(2, 16, 32), (rand(1, 4, 30, 8, seed=2), rand(1, 4, 30, 8, seed=3))
    q, k, v = project(attn, x)
    k, v = (torch.cat([own, more.expand(2, -1, -1, -1)], 2) for own, more in zip((k, v), bank, strict=True))
    want = attn.to_out[0](attention(q, k, v).transpose(1, 2).flatten(2))
    attn.set_processor(VisionZooAttnProcessor(segments=lambda _, k, v: [Segment(k, v), Segment(*bank)]))
    assert_same(attn(x), want)
    assert_same(attn(x.transpose(1, 2).unflatten(2, (4, 4))), want.transpose(1, 2).unflatten(2, (4, 4)))


@torch.no_grad()
def test_segments_choose_frames_that_all_frames_look_at() -> None:
    """Two videos of three frames: every frame sees the first and the last one of its own video, and no other."""
    attn = noisy(Attention(query_dim=32, heads=4, dim_head=8))
    x = rand(6, 16, 32)

    def first_and_last(_: Any, k: Tensor, v: Tensor) -> list[Segment]:
        return [Segment(k[0::3], v[0::3]), Segment(k[2::3], v[2::3])]

    seen = x.unflatten(0, (2, 3))[:, [0, 2]].flatten(1, 2).repeat_interleave(3, 0)
    want = attn(x, seen)
    attn.set_processor(VisionZooAttnProcessor(segments=first_and_last))
    assert_same(attn(x), want)
    attn.set_processor(VisionZooAttnProcessor(segments=lambda *_: pytest.fail("asked in a cross-attention")))
    assert_same(attn(x, seen), want)


def test_unsupported_attention_is_refused() -> None:
    x = rand(2, 16, 32)
    added = Attention(query_dim=32, heads=4, dim_head=8, added_kv_proj_dim=24, processor=VisionZooAttnProcessor())
    with pytest.raises(InputError, match="added key and value projections"):
        added(x, rand(2, 5, 24))
    cross = Attention(query_dim=32, cross_attention_dim=24, heads=4, dim_head=8, processor=VisionZooAttnProcessor())
    with pytest.raises(InputError, match="IP-Adapter"):
        cross(x, (rand(2, 5, 24), [rand(2, 1, 4, 24)]))
    with pytest.raises(InputError, match="rotary"):
        cross(x, rand(2, 5, 24), image_rotary_emb=(rand(16, 8), rand(16, 8)))
    with pytest.raises(InputError, match="batch"):
        cross(x, rand(3, 5, 24))
    with pytest.raises(InputError, match="does not broadcast"):
        cross(x, rand(2, 5, 24), rand(2, 1, 4))
    with pytest.raises(InputError, match="mask with a batch of 3"):
        cross(rand(4, 16, 32), rand(2, 5, 24), rand(3, 1, 5))
    with pytest.raises(InputError, match="empty_rows"):
        VisionZooAttnProcessor("empty_rows")


@torch.no_grad()
def test_pipeline() -> None:
    """A whole pipeline with guidance, scheduler and decoder; `attention_backend` applies to all parts."""
    unet, _ = unet2d()
    vae, _ = autoencoder()
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)

    def run() -> Tensor:
        return pipe(
            prompt_embeds=rand(1, 5, 24),
            negative_prompt_embeds=rand(1, 5, 24, seed=2),
            latents=rand(1, 4, 8, 8, seed=3),
            num_inference_steps=2,
            output_type="pt",
        ).images

    want = run()
    unet.set_attn_processor(VisionZooAttnProcessor())
    vae.set_attn_processor(VisionZooAttnProcessor())
    with attention_backend("chunked"):
        assert_same(run(), want, 1e-4)  # two steps and a guidance of 7.5 multiply the rounding


@torch.no_grad()
def test_compiles_without_a_graph_break() -> None:
    image = noisy(Attention(query_dim=32, heads=4, dim_head=8, norm_num_groups=8, residual_connection=True))
    cross = noisy(Attention(query_dim=32, heads=4, dim_head=8, cross_attention_dim=24))
    for attn, inputs in (
        (image, (rand(2, 32, 4, 4),)),
        (cross, (rand(2, 16, 32), rand(2, 5, 24, seed=2), rand(2, 1, 5, seed=3))),
    ):
        want = attn(*inputs)
        attn.set_processor(VisionZooAttnProcessor())
        assert_same(torch.compile(attn, backend="eager", fullgraph=True)(*inputs), want)


def test_is_there_without_diffusers() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "import visionzoo.attention\n"
        "print(visionzoo.attention.VisionZooAttnProcessor('chunked'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "VisionZooAttnProcessor(backend='chunked', segments=None)"
