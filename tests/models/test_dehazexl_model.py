"""DehazeXL works for every size, patches are independent, and all ways to run it give the same image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.golden import seeded
from visionzoo import create_model
from visionzoo.attention import attention_with_lse
from visionzoo.errors import InputError
from visionzoo.models.dehazexl import (
    Bottleneck,
    DehazeXL,
    DehazeXLConfig,
    HyperDraw,
    hyper_attention,
    restoration_loss,
)
from visionzoo.models.dehazexl.bottleneck import position_embedding
from visionzoo.models.dehazexl.model import join_patches, pad_to_patches, split_patches
from visionzoo.models.dehazexl.windows import join_windows, shift_mask, split_windows

TINY = DehazeXLConfig(
    embed_dim=8,
    depths=(1, 2, 1, 1),
    heads=(1, 1, 2, 2),
    bottleneck_heads=4,
    decoder_depths=(1, 2, 1, 1),
    decoder_heads=(4, 2, 2, 1),
)


def network(seed: int = 0, **changes: object) -> DehazeXL:
    model = DehazeXL(DehazeXLConfig(**{**vars(TINY), **changes})).eval()  # pyright: ignore[reportArgumentType]
    model.load_state_dict(seeded.fill(model.state_dict(), seed))
    return model


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def relative(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return float((got.double() - want.double()).norm() / want.double().norm())


# The whole image


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (255, 257), (256, 256), (300, 520)])
def test_any_size(size: tuple[int, int]) -> None:
    x = images(1, 3, *size)
    with torch.no_grad():
        y = network()(x)
    assert y.shape == x.shape
    assert y.isfinite().all()


def test_padding_is_cut_off_again() -> None:
    model, x = network(), images(1, 3, 300, 200)
    padded = pad_to_patches(x)
    assert padded.shape == (1, 3, 512, 256)
    assert torch.equal(padded[..., :300, :200], x)
    assert torch.equal(padded[:, :, 300, :200], x[:, :, 298])  # mirrored, the edge not twice
    assert torch.equal(pad_to_patches(x[..., :10])[..., 255], pad_to_patches(x[..., :10])[..., 10])  # or repeated
    with torch.no_grad():
        assert relative(model(x), model(padded)[..., :300, :200]) < 1e-6


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_wrong_images_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected images \(B, 3, H, W\)"):
        network()(torch.zeros(shape))


def test_parts_on_patches_give_what_the_whole_gives() -> None:
    """The contract of streaming: encode, keep the last map, bottleneck, encode again, decode; one patch at a time."""
    model, x = network(), images(1, 3, 512, 768)
    with torch.no_grad():
        want = model(x)
        patches = split_patches(x)
        last = torch.cat([model.encode(patch[None])[-1] for patch in patches])
        context = split_patches(model.bottleneck(join_patches(last, 2, 3)), 8)
        added = [model.decode(context[i, None], model.encode(patch[None])) for i, patch in enumerate(patches)]
        assert relative(x + join_patches(torch.cat(added), 2, 3), want) < 1e-6
        assert relative(model(x, patches_at_once=1), want) < 1e-6


def test_images_of_a_batch_do_not_mix() -> None:
    model, x = network(), images(2, 3, 256, 512)
    with torch.no_grad():
        assert relative(model(x)[1:], model(x[1:])) < 1e-6


def test_patches_see_each_other_only_in_the_bottleneck() -> None:
    model, x = network(), images(1, 3, 256, 512)
    changed = x.clone()
    changed[..., 256:] = 0
    with torch.no_grad():
        assert (model(changed) - model(x))[..., :256].abs().max() > 1e-4
        alone = [model.encode(split_patches(image))[-1][0] for image in (x, changed)]
        assert torch.equal(alone[0], alone[1])


SCATTERING = {"reconstruction": "scattering", "smoothing": 48}


@pytest.mark.parametrize("changes", [{}, {"upsample": "shuffle"}, SCATTERING, {**SCATTERING, "smoothing": 0}])
def test_fused_gives_the_same(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(**changes), images(1, 3, 256, 300)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = model.fuse()
    with torch.no_grad():
        want = model(x)
        assert relative(fused(x), want) < 1e-5
        assert relative(fused.fuse()(x, patches_at_once=1), want) < 1e-5
        monkeypatch.setattr("visionzoo.models.dehazexl.fused._has_epilogues", lambda x: False)  # as on other devices
        assert relative(fused(x), want) < 1e-5
    assert fused.is_fused
    assert not model.is_fused
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gradients_of_a_fused_network_reach_its_input() -> None:
    model, x = network(**SCATTERING), images(1, 3, 256, 256).requires_grad_()
    gradients = [torch.autograd.grad(net(x).square().mean(), x)[0] for net in (model, model.fuse())]
    assert relative(gradients[1], gradients[0]) < 1e-3


def test_bfloat16_runs() -> None:
    model, x = network(), images(1, 3, 256, 256)
    with torch.no_grad():
        want = model(x)
        assert relative(model.to(torch.bfloat16)(x.bfloat16()).float(), want) < 0.05


def test_nothing_is_random_in_eval() -> None:
    model, x = network(attention="lsh", lsh_block=32, lsh_samples=16, lsh_min_tokens=64), images(1, 3, 256, 512)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.state_dict().keys() == network().state_dict().keys()


# Training


def test_recomputing_gives_the_same_gradients() -> None:
    model, x, clear = network(drop_path=0.0).train(), images(1, 3, 256, 300), images(1, 3, 256, 300, seed=1)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        restoration_loss(model(x, patches_at_once=1, recompute=recompute), clear).total.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == dict(model.named_parameters()).keys()
    assert all(relative(gradients[1][name], value) < 1e-4 for name, value in gradients[0].items())


def test_a_new_network_trains() -> None:
    torch.manual_seed(0)
    model, clear = DehazeXL(TINY).train(), images(1, 3, 256, 256)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    seen = []
    for _ in range(4):
        loss = (model(0.5 * clear + 0.4) - clear).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0]


# The bottleneck


def test_positions_of_a_piece_are_those_of_the_whole() -> None:
    whole = position_embedding(6, 5, 16)
    assert torch.equal(position_embedding(2, 5, 16, first_row=3), whole[15:25])
    # columns come first: tokens of a column share the first half
    assert torch.equal(whole[2, :8], whole[7, :8])
    assert torch.equal(whole[5, 8:], whole[6, 8:])


def test_groups_of_heads_give_the_same() -> None:
    bottleneck = Bottleneck(32, 2, 4).eval()
    x = images(2, 32, 6, 4)
    with torch.no_grad():
        for size in (1, 2, 3):
            assert relative(bottleneck(x, heads_at_once=size), bottleneck(x)) < 1e-6


def test_missing_parts_change_nothing() -> None:
    """No token attends to tokens without image."""
    bottleneck, x = Bottleneck(32, 2, 4).eval(), images(1, 32, 4, 4)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[:, 2:, 1:] = False
    changed = torch.where(valid[:, None], x, torch.full_like(x, 5.0))
    with torch.no_grad():
        seen, other = (bottleneck(image, valid=valid) for image in (x, changed))
    inside = valid[:, None].expand_as(x)
    assert torch.allclose(seen[inside], other[inside], atol=1e-5)


def test_sliced_mlp_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bottleneck, x = Bottleneck(32, 1, 4).eval(), images(1, 32, 8, 8)
    with torch.no_grad():
        want = bottleneck(x)
        monkeypatch.setattr("visionzoo.models.dehazexl.bottleneck._TOKENS", 10)
        assert relative(bottleneck(x), want) < 1e-6


def draw_of(width: int, tokens: int, heads: int = 2, samples: int = 8, projections: int = 7) -> HyperDraw:
    generator = torch.Generator().manual_seed(0)
    return HyperDraw(
        torch.randn(width, projections, generator=generator),
        torch.randint(tokens, (1, heads, samples), generator=generator),
    )


def test_hyper_attention_of_one_block_and_every_key_is_exact() -> None:
    """The block holds all keys, and so does the sample: each key has twice the weight, which cancels in the softmax."""
    q, k, v = images(3, 1, 2, 12, 8).unbind()
    draw = HyperDraw(torch.randn(8, 3), torch.arange(12).expand(1, 2, 12))
    out, lse = hyper_attention(q, k, v, draw, 12)
    want, want_lse = attention_with_lse(q, k, v)
    assert relative(out, want) < 1e-5
    assert torch.allclose(lse, want_lse + torch.tensor(2.0).log(), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(tokens=st.integers(1, 70), block=st.sampled_from([1, 8, 32, 100]))
def test_hyper_attention_of_any_length(tokens: int, block: int) -> None:
    q, k, v = images(3, 1, 2, tokens, 8).unbind()
    out, lse = hyper_attention(q, k, v, draw_of(8, tokens), block)
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]
    assert out.isfinite().all()
    assert out.max() <= v.max() + 1e-5


def test_hyper_attention_keeps_the_order_of_queries() -> None:
    q, k, v = images(3, 1, 2, 64, 8).unbind()
    draw, order = draw_of(8, 64), torch.randperm(64, generator=torch.Generator().manual_seed(1))
    with_all = hyper_attention(q, k, v, draw, 64)[0]
    assert relative(hyper_attention(q[:, :, order], k, v, draw, 64)[0], with_all[:, :, order]) < 1e-5


def test_hyper_attention_is_near_the_exact_one_in_a_network() -> None:
    changes = {"attention": "lsh", "lsh_block": 64, "lsh_samples": 64, "lsh_min_tokens": 128}
    exact, approximate, x = network(), network(**changes), images(1, 3, 256, 512)
    other = approximate.bottleneck.draw(1, 128, torch.Generator().manual_seed(5))
    with torch.no_grad():
        want, got, again = exact(x), approximate(x), approximate(x, draws=other)
        assert 0 < relative(got, want) < 0.1
        assert 0 < relative(again, got) < 0.1
        assert torch.equal(approximate(x[..., :256]), exact(x[..., :256]))  # too few tokens


def test_hyper_attention_takes_no_mask() -> None:
    model = network(attention="lsh", lsh_min_tokens=1)
    with pytest.raises(InputError, match="attention='exact'"):
        model.bottleneck(torch.zeros(1, 64, 8, 8), valid=torch.ones(1, 8, 8, dtype=torch.bool))


# Windows


def test_windows_round_trip() -> None:
    x = images(2, 16, 24, 3)
    windows = split_windows(x, 8)
    assert windows.shape == (2, 6, 64, 3)
    assert torch.equal(join_windows(windows, 16, 24), x)
    assert torch.equal(windows[0, 4, 9], x[0, 9, 9])


def test_shifted_windows_hide_what_was_rolled_in() -> None:
    mask = shift_mask(16, 8, 4)
    assert not mask[0].any()  # nothing in the first window lies apart
    assert mask[3].count_nonzero() == 64 * 48  # the last one has four corners


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 12}, "multiple of 8"),
        ({"depths": (1, 2, 3)}, "depths must have one positive entry"),
        ({"heads": (5, 6, 12, 24)}, r"heads\[0\] must divide the 96"),
        ({"decoder_heads": (24, 12, 6, 5)}, r"decoder_heads\[3\] must divide the 192"),
        ({"bottleneck_heads": 7}, "divide its 768"),
        ({"upsample": "nearest"}, "'transposed' or 'shuffle'"),
        ({"attention": "hyper"}, "'exact' or 'lsh'"),
        ({"lsh_block": 0}, "at least 1"),
        ({"drop_path": 1.0}, "below 1"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model("dehazexl", **changes)


# Loss


def test_loss_is_zero_for_the_same_image() -> None:
    x = images(1, 3, 16, 16)
    assert restoration_loss(x, x).total == 0
    shifted = restoration_loss(x + 0.5, x)
    assert shifted.spatial.item() == pytest.approx(0.5)
    assert shifted.frequency.item() == pytest.approx(0.5 / 2)  # all in one real coefficient of 16 * 16 complex ones
