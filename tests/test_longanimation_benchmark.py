"""The benchmarks of LongAnimation: what is counted is right, and the form that is compared with computes the same memory."""

from __future__ import annotations

import argparse
import re
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import longanimation as measured
from benchmarks import longanimation_clip as clip
from benchmarks import longanimation_counts as counts
from benchmarks import longanimation_gpu as gpu
from benchmarks import longanimation_networks as sizes
from benchmarks.meta_memory import peak_bytes


class Twice(nn.Module):
    """A layer, whose input is added to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(100, 100, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(10, 100)
        return torch.nn.functional.scaled_dot_product_attention(x, x, self.layer(x)) + x


def test_bytes_are_those_of_tensors_that_are_alive_at_once() -> None:
    with torch.device("meta"):
        network = Twice()
    each = 10 * 100 * 4
    # the input, the output of attention and the sum; before it, the input, the values and the output; views and weights are free
    assert peak_bytes(lambda: network(sizes.empty(1000, dtype=torch.float32)), network) == 3 * each
    assert sizes.size_of(network) == 100 * 100 * 4
    assert sizes.count_flops(lambda: network.layer(sizes.empty(10, 100, dtype=torch.float32))) == 2 * 10 * 100 * 100


def test_the_memory_of_a_clip_is_that_of_the_published_plan() -> None:
    assert counts.histories() == [0, 72, 137, 202, 267, 332, 397]
    assert sum(counts.histories()) == 1407
    assert [counts.memory_tokens(frames) for frames in (72, 650)] == [1716, 12_120]


def test_sizes_are_checked() -> None:
    assert counts.parse_size("576x1024") == (576, 1024)
    for wrong in ("576", "576x1000", "0x1024", "axb"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected HEIGHTxWIDTH in multiples of 16"):
            counts.parse_size(wrong)


@pytest.mark.slow
def test_the_published_sizes_are_counted() -> None:
    networks = sizes.published()
    # as counted for the published code, rounded
    row = counts.step_flops(networks, [(576, 1024)]).rows[0]
    assert row[:5] == ("576 x 1024", "25,344", "167", "1,161", "33")
    found = {name: parameters for name, parameters, _ in counts.weights(networks).rows}
    assert found["transformer"] == "5,571,594,880"
    assert found["text encoder"] == "4,762,310,656"
    assert found["vae"] == "215,583,907"
    growth = {row[0]: row for row in counts.bank_growth(networks).rows}
    assert growth["each window of 10 frames"][1:4] == ("180", "10.3 MB", "1.11 MB")
    both, one = (peak_bytes(sizes.Segment(networks, 576, 1024, rows).sketch, networks.sketch_dit) for rows in (2, 1))
    assert 0.45 < one / both < 0.55


def test_the_published_form_computes_the_same_memory() -> None:
    encoder, video = measured.small_encoder(), measured.random_video(29)
    streamed = encoder.encode(video, measured.PROMPT)
    seen = []
    for waste in (measured.Waste(), measured.NO_WASTE):
        plain = measured.PlainMemory(encoder, waste)
        assert torch.allclose(plain.encode(video), streamed, atol=1e-5)
        seen.append(plain.frames)
    assert seen == [29, 29]


def test_a_streamed_clip_watches_every_frame_once() -> None:
    encoder, video = measured.small_encoder(), measured.random_video(146)
    memories = []

    def stream() -> None:
        memories.append(measured.streamed_memories(encoder, video, 146))

    def encode_again() -> None:
        memories.append(measured.published_memories(encoder, measured.NO_WASTE, video, 146))

    assert measured.Seen().watch(encoder, stream) == 72
    assert measured.Seen().watch(encoder, encode_again) == 72 + 20
    assert torch.allclose(*memories, atol=1e-5)


def test_step_tails_and_projections_are_equal_in_both_forms() -> None:
    from visionzoo.models.longanimation import DynamicMemoryFusion

    torch.manual_seed(0)
    fusion = DynamicMemoryFusion(dim=32, heads=2, dim_head=16, memory_dim=8, mapping_hidden=(16, 16)).eval()
    nn.init.normal_(fusion.proj_out.weight)
    given = fusion, torch.randn(1, 2, 3, 5, 8), torch.randn(2, 6, 32), 2
    assert torch.allclose(measured.fused_every_step(*given), measured.fused_once(*given), atol=1e-6)


def test_tails_of_steps_are_equal_in_files_and_in_memory(tmp_path) -> None:
    latents = list(torch.randn(50, 1, 6, 2, 3, 3))
    kept = measured.tails_in_memory(latents)
    assert torch.equal(measured.tails_in_files(latents, tmp_path), kept)
    assert torch.equal(kept, latents[-1][:, -4:])


@pytest.mark.slow
def test_both_forms_of_a_clip_give_the_same_latents(tmp_path) -> None:
    parts, drawings = clip.small_parts(4), clip.Drawings.random(146)
    latents = clip.ours(parts, drawings)
    assert torch.allclose(clip.as_published(parts, drawings, tmp_path), latents, atol=1e-3)
    # the second segment was fused with the first, and attended to its frames
    alone = clip.ours(parts, clip.Drawings(drawings.sketches[65:146], drawings.reference))
    assert not torch.allclose(alone, latents, atol=0.05)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{s}_{k}.pt" for s in (0, 1) for k in range(4)]


# The script for GPUs, here on a CPU


@pytest.fixture
def small() -> sizes.Networks:
    """All networks on the meta device, with tiny sizes."""
    from diffusers import AutoencoderKLCogVideoX

    from tests import tiny_diffusion
    from visionzoo.models.longanimation import DynamicMemoryFusion, LongAnimationTransformer, SketchDiT

    shared = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 8,
        "text_embed_dim": 12,
        "max_text_seq_length": 5,
        "time_embed_dim": 8,
        "ofs_embed_dim": 8,
        "patch_size_t": 2,
        "patch_bias": False,
        "sample_height": 300,
        "sample_width": 300,
        "use_rotary_positional_embeddings": True,
    }
    found = tiny_diffusion.memory_encoder()
    return sizes.Networks(
        sizes.bfloat16(lambda: LongAnimationTransformer(**shared, out_channels=4, num_layers=3)),
        sizes.bfloat16(lambda: SketchDiT(**shared, num_layers=1)),
        sizes.bfloat16(
            lambda: DynamicMemoryFusion(dim=32, heads=2, dim_head=16, memory_dim=8, mapping_hidden=(16, 16))
        ),
        sizes.bfloat16(
            lambda: AutoencoderKLCogVideoX(
                down_block_types=("CogVideoXDownBlock3D",) * 4,
                up_block_types=("CogVideoXUpBlock3D",) * 4,
                block_out_channels=(8, 8, 8, 8),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=2,
            )
        ),
        sizes.bfloat16(lambda: type(found)(found.language, found.vision)),
        nn.Identity(),
        nn.Identity(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("halves", [False, True])
def test_a_step_is_measured(small, halves: bool, capsys: pytest.CaptureFixture) -> None:
    args = argparse.Namespace(segment=2, halves=halves, compile=False, rounds=1)
    with torch.no_grad():
        gpu.denoising(small, (32, 32), args, "cpu")
    out = capsys.readouterr().out
    assert "A denoising step with guidance: 32 x 32, 1,716 tokens of memory" in out
    assert ("halves of guidance" if halves else "| memory projected in every step |") in out
    if not halves:
        assert float(re.search(r"differs by (\S+), relative", out)[1]) < 1e-2  # bfloat16


@pytest.mark.slow
def test_the_other_parts_are_measured(small, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.models.longanimation import PromptTokens

    monkeypatch.setattr(gpu, "PROMPT", PromptTokens((1, 2), (3,)))
    monkeypatch.setattr(gpu, "Segment", partial(sizes.Segment, frames=9, latent_frames=4))
    with torch.no_grad():
        table = gpu.memory_encoder(small, (32, 32), 1, "cpu")
        assert [row[0] for row in table.rows] == ["65 frames appended", "the memory read"]
        table = gpu.autoencoder(small, (32, 32), 1, "cpu")
    assert [row[0] for row in table.rows][1] == "latents to 81 frames, in tiles"
    assert all(float(row[1]) > 0 for row in table.rows)


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["longanimation_gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="this benchmark needs a CUDA GPU"):
        gpu.main()
