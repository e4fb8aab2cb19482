"""Training on cached latents and captions: values, drop-out by key, targets; and the average of a network of diffusers."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from tests import tiny_diffusion
from visionzoo.data.epochs import EpochSampler
from visionzoo.diffusion import (
    CachedTexts,
    LatentCaptions,
    cache_texts,
    encode_text,
    is_dropped,
    latent_writer,
    make_scheduler,
    noisy_batch,
    open_latents,
)
from visionzoo.errors import InputError

CAPTIONS = ["a red boat", "a cat", "a red boat", "a hat", "a boy"] * 8


@pytest.fixture(scope="module")
def text():
    return tiny_diffusion.tokenizer(), tiny_diffusion.text_encoder()


def data(folder: Path, text, **options) -> LatentCaptions:
    rows = torch.randn(len(CAPTIONS), 4, 2, 2, generator=torch.Generator().manual_seed(0))
    with latent_writer(folder / "latents", tiny_diffusion.vae(), 16, 16) as writer:
        writer.append(rows)
    texts = cache_texts(*text, CAPTIONS, folder / "texts", dtype="float32")
    return LatentCaptions(open_latents(folder / "latents"), CAPTIONS, texts, **options)


def test_each_caption_is_encoded_once_and_as_without_a_cache(text, tmp_path: Path) -> None:
    texts = cache_texts(*text, CAPTIONS, tmp_path / "texts", dtype="float32", batch_size=2)
    assert len(texts) == len(texts.file) == 5
    for caption in ("", "a hat"):
        assert torch.allclose(texts[caption], encode_text(*text, caption)[0], atol=1e-6)
    with pytest.raises(InputError, match="has no embedding of 'a dog'; cache the captions again"):
        texts["a dog"]
    before = (tmp_path / "texts").stat().st_mtime_ns
    assert torch.equal(cache_texts(*text, CAPTIONS, tmp_path / "texts")["a cat"], texts["a cat"])
    assert (tmp_path / "texts").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="texts: was made with other captions; delete it"):
        cache_texts(*text, ["a dog"], tmp_path / "texts")
    other = tiny_diffusion.text_encoder()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(InputError, match="texts: was made with other text encoder"):
        cache_texts(text[0], other, CAPTIONS, tmp_path / "texts")


def test_captions_are_dropped_by_key_only(text, tmp_path: Path) -> None:
    """In any order, in any process, in a resumed run; and never without an epoch."""
    items = data(tmp_path, text, drop=0.3, seed=1)
    empty = items.texts[""]
    dropped = {key for key in ((e, i) for e in range(20) for i in range(40)) if torch.equal(items[key]["text"], empty)}
    assert dropped == {(e, i) for e in range(20) for i in range(40) if is_dropped(0.3, 1, e, i)}
    assert abs(len(dropped) / 800 - 0.3) < 0.05
    assert dropped != {(e, i) for e in range(20) for i in range(40) if is_dropped(0.3, 2, e, i)}
    sent = pickle.loads(pickle.dumps(items))
    assert torch.equal(sent[3, 5]["text"], items[3, 5]["text"])
    assert torch.equal(sent[3, 5]["latents"], items[5]["latents"])
    assert not any(torch.equal(items[index]["text"], empty) for index in range(40))
    batch = next(iter(DataLoader(items, 8, sampler=EpochSampler(items, 1, 0, seed=0))))
    assert (batch["latents"].shape, batch["text"].shape) == ((8, 4, 2, 2), (8, 77, tiny_diffusion.WIDTH))


def test_data_that_do_not_fit_are_refused(text, tmp_path: Path) -> None:
    items = data(tmp_path, text)
    with pytest.raises(InputError, match="holds 40 latents, but got 39 captions; give one for each"):
        LatentCaptions(items.latents, CAPTIONS[1:], items.texts)
    with pytest.raises(InputError, match="has no embedding of 'a dog'"):
        LatentCaptions(items.latents, ["a dog", *CAPTIONS[1:]], items.texts)
    with pytest.raises(InputError, match="drop is a share of the captions, from 0 to 1, got 10"):
        LatentCaptions(items.latents, CAPTIONS, items.texts, drop=10)
    assert isinstance(items.texts, CachedTexts)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_leads_back_to_the_clean_latents(kind: str) -> None:
    """The scheduler recovers the clean latents from each kind of target."""
    scheduler = make_scheduler("ddpm", tiny_diffusion.scheduler(), prediction_type=kind)
    clean = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = noisy_batch(scheduler, clean)
    assert batch.timesteps.shape == (6,)
    assert len(set(batch.timesteps.tolist())) > 1
    level = scheduler.alphas_cumprod[batch.timesteps][:, None, None, None]
    assert torch.allclose(batch.latents, level.sqrt() * clean + (1 - level).sqrt() * batch.noise, atol=1e-5)
    sampler = make_scheduler("ddim", scheduler)
    sampler.set_timesteps(1000)
    for place in range(6):
        step = sampler.step(batch.target[place], int(batch.timesteps[place]), batch.latents[place])
        assert torch.allclose(step.pred_original_sample, clean[place], atol=1e-3)


def test_every_class_of_scheduler_gives_the_same_batch() -> None:
    """Also those whose own `add_noise` scales latents otherwise."""
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    like = make_scheduler("ddpm", tiny_diffusion.scheduler(), prediction_type="v_prediction")
    noisy, velocity = like.add_noise(clean, noise, timesteps), like.get_velocity(clean, noise, timesteps)
    for name in ("ddpm", "euler", "dpm++", "pndm"):
        batch = noisy_batch(make_scheduler(name, like), clean, timesteps=timesteps, noise=noise)
        assert torch.allclose(batch.latents, noisy, atol=1e-6)
        assert torch.allclose(batch.target, velocity, atol=1e-6)
    with pytest.raises(
        InputError, match="FlowMatchEulerDiscreteScheduler gives no targets for training: it predicts flow"
    ):
        noisy_batch(FlowMatchEulerDiscreteScheduler(), clean)


def test_the_average_of_a_network_is_a_network_of_diffusers(tmp_path: Path) -> None:
    """`TrainingModule.keep_average` uses this class; its network is written as a folder."""
    unet = tiny_diffusion.unet()
    average = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=False)
    average.update_parameters(unet)
    before = unet.conv_in.weight.detach().clone()
    with torch.no_grad():
        unet.conv_in.weight.add_(1)
    average.update_parameters(unet)
    average.module.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert torch.allclose(loaded.conv_in.weight, before + 0.5)
