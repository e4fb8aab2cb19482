"""LongAnimation's networks: control, memory, and the files that they are loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

diffusers = pytest.importorskip("diffusers")

from tests.golden import seeded  # noqa: E402
from visionzoo.attention import VisionZooAttnProcessor  # noqa: E402
from visionzoo.errors import InputError, WeightsError  # noqa: E402
from visionzoo.models.longanimation import (  # noqa: E402
    DynamicMemoryFusion,
    LineartConfig,
    LineartGenerator,
    LongAnimationTransformer,
    SketchDiT,
    convert_longanimation,
    open_memory_fusion,
    open_sketch_dit,
    rotary_embedding,
)
from visionzoo.weights import load_checkpoint, to_official  # noqa: E402

SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 8, "text_embed_dim": 12, "time_embed_dim": 8,
    "ofs_embed_dim": 8, "max_text_seq_length": 5, "patch_size_t": 2, "patch_bias": False, "sample_height": 300,
    "sample_width": 300, "sample_frames": 81,
}  # fmt: skip


def filled(network: Any) -> Any:
    network.load_state_dict(seeded.fill(network.state_dict()))
    return network.eval()


def transformer(kind: Any = LongAnimationTransformer) -> Any:
    return filled(kind(**SIZES, out_channels=4, num_layers=3, use_rotary_positional_embeddings=True))


def sketch_dit(**settings: Any) -> SketchDiT:
    return filled(SketchDiT(**{**SIZES, "num_layers": 2, **settings}))


def fusion() -> DynamicMemoryFusion:
    return filled(DynamicMemoryFusion(32, heads=2, dim_head=16, depth=2, memory_dim=6, mapping_hidden=(8, 10)))


def inputs(batch: int = 2) -> dict[str, Any]:
    latents = seeded.tensor("latents", (batch, 4, 8, 4, 6), kind="normal")
    text = seeded.tensor("text", (batch, 5, 12), kind="normal")
    return {
        "hidden_states": latents,
        "encoder_hidden_states": text,
        "timestep": torch.full((batch,), 500),
        "ofs": torch.tensor([2.0]),
        "image_rotary_emb": rotary_embedding(sketch_dit(), latents),
    }


def test_without_a_control_it_is_the_network_of_diffusers() -> None:
    given = inputs()
    plain, ours = transformer(diffusers.CogVideoXTransformer3DModel), transformer()
    torch.testing.assert_close(ours(**given).sample, plain(**given).sample)
    assert dict(ours.config) == dict(plain.config)
    assert all(isinstance(each, VisionZooAttnProcessor) for each in ours.attn_processors.values())


def test_the_control_acts_after_every_other_block() -> None:
    network, given = transformer(), inputs()
    control = seeded.tensor("control", (1, 12, 32), kind="normal")
    seen = []
    for block in network.transformer_blocks:
        block.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
        block.register_forward_pre_hook(lambda _m, _a, given: seen.append(given["hidden_states"]), with_kwargs=True)
    network(**given, control_hidden_states=control)
    torch.testing.assert_close(seen[2], seen[1] + 0.5 * control)  # after block 0
    torch.testing.assert_close(seen[4], seen[3])  # after block 1


def test_missing_positions_and_odd_sizes_are_refused() -> None:
    network, given = transformer(), inputs()
    with pytest.raises(InputError, match="needs image_rotary_emb"):
        network(**{**given, "image_rotary_emb": None})
    with pytest.raises(InputError, match="needs ofs"):
        network(**{**given, "ofs": None})
    with pytest.raises(InputError, match="divisible by 2, got 3 frames"):
        sketch_dit()(**{**given, "hidden_states": given["hidden_states"][:, :3]})
    with pytest.raises(InputError, match=r"control_hidden_states must be \(1 or 2, 12, 32\)"):
        network(**given, control_hidden_states=torch.zeros(2, 11, 32))
    with pytest.raises(InputError, match="is for 12 tokens, but the latents have 6"):
        network(**{**given, "hidden_states": given["hidden_states"][:, :2]})


def test_a_new_sketch_network_copies_the_first_blocks_and_has_no_effect() -> None:
    network = transformer()
    made = SketchDiT.from_transformer(network, num_layers=2)
    theirs = network.state_dict()
    own = made.state_dict()
    assert len(made.transformer_blocks) == 2
    assert all(torch.equal(value, theirs[key]) for key, value in own.items() if key != "zero_conv.weight")
    assert not made(**inputs()).any()
    with pytest.raises(InputError, match="from 1 to the transformer's 3, got 4"):
        SketchDiT.from_transformer(network, num_layers=4)


def test_gradients_are_the_same_with_checkpointing() -> None:
    network, given = sketch_dit(), inputs(1)
    network(**given).square().sum().backward()
    plain = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    network.zero_grad()
    network.enable_gradient_checkpointing()
    network.train()(**given).square().sum().backward()
    for name, value in network.named_parameters():
        if name in plain:
            torch.testing.assert_close(value.grad, plain[name])


def memories() -> tuple[torch.Tensor, torch.Tensor]:
    whole = seeded.tensor("memory", (1, 2, 2, 9, 6), kind="normal")
    return whole[..., :5, :], whole[..., 5:, :]


def test_a_projected_memory_serves_all_rows_and_steps() -> None:
    network, (past, recent) = fusion(), memories()
    control = seeded.tensor("control", (2, 7, 32), kind="normal")
    memory = network.project(past, recent)
    assert memory.tokens == 9
    assert memory.levels[0][0].shape == (1, 2, 9, 16)
    both = network(control, memory)
    rows = [network(control[i : i + 1], memory) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(rows))
    # the order of tokens has no effect, and a memory for each row gives the same
    torch.testing.assert_close(network(control, network.project(recent, past)), both)
    twice = network.project(*(each.expand(2, -1, -1, -1, -1) for each in (past, recent)))
    torch.testing.assert_close(network(control, twice), both)


def test_memories_of_another_shape_are_refused() -> None:
    network, (past, _) = fusion(), memories()
    with pytest.raises(InputError, match=r"must be \(B, 2, 2, L, 6\), got \(1, 2, 1, 5, 6\)"):
        network.project(past[:, :, :1])
    memory = network.project(past.expand(2, -1, -1, -1, -1))
    with pytest.raises(InputError, match="must be 1 or that of the signal, 3, got 2"):
        network(torch.zeros(3, 7, 32), memory)


def published(tmp_path: Path, network: Any, name: str, change: Any = None) -> Path:
    state = {f"module.{key}": value.clone() for key, value in to_official(network).items()}
    if change is not None:
        change(state)
    save_file(state, tmp_path / name)
    return tmp_path / name


def test_published_files_open_and_become_folders(tmp_path: Path) -> None:
    sketch, memory = sketch_dit(num_layers=3), fusion()
    control = published(tmp_path, sketch, "control.safetensors")
    glm = published(tmp_path, memory, "glm.safetensors")
    opened = open_sketch_dit(control)
    assert torch.equal(opened(**inputs()), sketch(**inputs()))
    assert not opened.training
    reopened = open_memory_fusion(glm, torch.bfloat16, dim_head=16)
    assert reopened.dtype == torch.bfloat16
    assert reopened.config.heads == 2
    folder = convert_longanimation(control, glm, tmp_path / "folder", dim_head=16)
    assert torch.equal(open_sketch_dit(folder / "sketch_dit")(**inputs()), sketch(**inputs()))
    assert open_memory_fusion(folder / "memory_fusion").config.mapping_hidden == [8, 10]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("module.zero_conv.weight"), r"1 of \d+ keys are missing \(zero_conv.weight\)"),
        (lambda state: state.update(other=torch.ones(1)), r"1 are unexpected \(other\)"),
        (lambda state: state["module.zero_conv.weight"].zero_(), "zero_conv.weight is zero throughout"),
        (lambda state: state.pop("module.patch_embed.proj.weight"), "holds no weights of a SketchDiT .*patch_embed"),
    ],
    ids=["missing", "unexpected", "zero", "other network"],
)
def test_files_that_would_have_no_effect_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = published(tmp_path, sketch_dit(), "control.safetensors", change)
    with pytest.raises(WeightsError, match=f"control.safetensors.*{message}"):
        open_sketch_dit(path)


def test_a_memory_whose_output_is_zero_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path, fusion(), "glm.safetensors", lambda state: state["module.proj_out"].zero_())
    with pytest.raises(
        WeightsError, match=r"glm.safetensors: does not fit .* 32 wide, which is no multiple of dim_head=96"
    ):
        open_memory_fusion(path)
    with pytest.raises(WeightsError, match=r"glm.safetensors: proj_out is zero throughout"):
        open_memory_fusion(path, dim_head=16)


def test_published_names_convert_in_both_directions() -> None:
    for network in (fusion(), filled(LineartGenerator(LineartConfig(width=4, residuals=2)))):
        names = to_official(network)
        assert not names.keys() & network.state_dict().keys()
        other = type(network)(network.config) if isinstance(network, LineartGenerator) else fusion()
        torch.nn.init.zeros_(next(other.parameters()))
        load_checkpoint(other, names)
        for key, value in network.state_dict().items():
            assert torch.equal(other.state_dict()[key], value)
