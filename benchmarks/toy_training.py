"""Training steps of the toy world's networks, compared with the plain training loops of diffusers' examples on the same networks.

visionzoo bench toy-training
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.benchmark import Contestant, Report, Table, compare
from visionzoo.diffusion import encode_frames
from visionzoo.io.pixels import to_uint8
from visionzoo.models.toy_world import AutoencoderTraining, TextToImageTraining, noise_schedule
from visionzoo.models.toy_world.frames import Crops, Whole

Step = Callable[[], float]


def benchmark(rounds: int = 5, command: str = "visionzoo bench toy-training") -> Report:
    """Seconds per step of the autoencoder and of the text-to-image network, each with AdamW on the same batch."""
    return Report([_autoencoder(rounds, command), _text_to_image(rounds, command)])


def _autoencoder(rounds: int, command: str) -> Table:
    """8 crops of 64 x 64 pixels."""
    items = [Crops(4, 128, 64, 2, 1.0, seed=0)[0, k] for k in range(4)]
    images, weights, streams = (torch.cat(part) for part in zip(*items, strict=True))
    torch.manual_seed(0)
    ours = AutoencoderTraining(ema_decay=None)
    compiled = AutoencoderTraining(ema_decay=None, compile=True)
    compiled.load_state_dict(ours.state_dict())
    network = copy.deepcopy(ours.model).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)

    def plain() -> float:
        posterior = network.encode(images).latent_dist
        error = network.decode(posterior.sample()).sample - images
        loss = (weights * (0.5 * error.abs() + 2 * error.square())).mean()
        loss = loss + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        return _updated(loss, optimizer)

    return compare(
        "Autoencoder of the toy world: a training step of 8 crops of 64 x 64",
        [
            Contestant("plain loop", plain),
            Contestant("visionzoo", _own(ours, lambda: ours.loss(images, weights, streams)[0])),
            Contestant("visionzoo, compiled", _own(compiled, lambda: compiled.loss(images, weights, streams)[0])),
        ],
        rounds=rounds,
        command=command,
        unit="steps",
        judge=_losses,
    )


def _text_to_image(rounds: int, command: str, count: int = 32) -> Table:
    """A batch of frames of 128 x 128 pixels with captions; the plain loop encodes the frames in every step."""
    vae = AutoencoderTraining(ema_decay=None).model.eval().requires_grad_(False)
    frames = torch.stack([Whole("train", count, 128)[k] for k in range(count)])
    captions = [
        "a girl with black hair, a red shirt, blue trousers and brown shoes walks in a park with a green tree"
    ] * count
    torch.manual_seed(0)
    ours = TextToImageTraining(ema_decay=None)
    network = copy.deepcopy(ours.model)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    schedule = noise_schedule()
    cached = encode_frames(vae, to_uint8(frames / 2 + 0.5))
    streams = torch.arange(count)

    def plain() -> float:
        with torch.no_grad():
            latents = vae.encode(frames).latent_dist.sample() * vae.config["scaling_factor"]
        noise = torch.randn_like(latents)
        times = torch.randint(0, 1000, (count,))
        predicted = network(schedule.add_noise(latents, noise, times), times, network.encode(captions))
        return _updated(F.mse_loss(predicted, schedule.get_velocity(latents, noise, times)), optimizer)

    return compare(
        f"Text-to-image network of the toy world: a training step of {count} frames of 128 x 128",
        [
            Contestant("plain loop", plain),
            Contestant("visionzoo, cached latents", _own(ours, lambda: ours.loss(cached, captions, streams))),
        ],
        rounds=rounds,
        command=command,
        unit="steps",
        judge=_losses,
    )


def _own(module: Any, loss: Callable[[], Tensor]) -> Step:
    """A step of a training module, with AdamW instead of its own optimizer."""
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=1e-6)
    return lambda: _updated(loss(), optimizer)


def _updated(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Update with clipped gradients; return the loss."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _losses(losses: Any) -> list[str]:
    return [f"loss {loss:.3f}" for loss in losses]


if __name__ == "__main__":
    print(benchmark(command="python -m benchmarks.toy_training").to_markdown())
