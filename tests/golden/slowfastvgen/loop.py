"""Cases of the slow-fast loop: memories of whole episodes, then slow learning of each pair with its own memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from visionzoo.models.slowfastvgen import Draw, masked_batch, masked_errors
from visionzoo.models.slowfastvgen.slow_fast import Pair, copied, remembered, slow_fast_pairs

from .. import seeded
from ..case import Case
from .memory import config, norm, seeded_noise
from .networks import scheduler, unet


def slow_fast_loop(case: Case) -> dict[str, Any]:
    c, lora = case.config, config(case)
    sequences = c["sequences_per_episode"]
    stored: list[tuple[int, Pair]] = []
    fast: list[float] = []
    with torch.inference_mode(False), torch.enable_grad():
        network, schedule = unet(case), scheduler()
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        no_text = seeded_noise(case, "null_text")
        for episode in range(c["episodes"]):

            def draw(number: int, _: int, episode: int = episode) -> Draw:
                noise = seeded_noise(case, f"fast_eps.{episode}.{number}", "fast_eps")
                return Draw(torch.tensor([100 + 250 * number + 37 * episode]), noise)

            chunks = [seeded_noise(case, f"ep{episode}.seq{number}", "ep{e}") for number in range(sequences)]
            texts = [no_text, *(seeded_noise(case, f"text.{episode}.{i}", "text") for i in range(sequences - 1))]
            for pair in slow_fast_pairs(network, schedule, chunks, texts, no_text, lora, draw=draw, losses=fast):
                if pair.number == 0:
                    for key, value in pair.memory.items():
                        if key.endswith("lora_A"):
                            value.data.copy_(seeded.fill({f"{key}.weight": value.data}, case.seed)[f"{key}.weight"])
                stored.append((episode, copied(pair)))
        optimizer = torch.optim.Adam(network.parameters(), lr=c["slow_lr"])
        losses, gradients = [], []
        for episode, pair in stored:
            past = pair.past.shape[2]
            noise = seeded_noise(case, f"slow_eps.{episode}.{pair.number}", "slow_eps")[:, :, past:]
            times = torch.tensor([900 - 200 * pair.number - 53 * episode])
            batch = masked_batch(
                schedule, torch.cat([pair.past, pair.future], dim=2), past, timesteps=times, noise=noise
            )
            optimizer.zero_grad()
            with remembered(network, pair.memory, lora):
                loss = masked_errors(network(batch.latents, batch.timesteps, pair.text).sample, batch).mean()
                loss.backward()
            losses.append(loss.detach())
            gradients.append(norm([value.grad for value in network.parameters() if value.grad is not None]))
            optimizer.step()
    ups = [[value for key, value in pair.memory.items() if key.endswith("lora_B")] for _, pair in stored]
    changes = [value.detach() - before[name] for name, value in network.named_parameters()]
    return {
        "fast_losses": torch.tensor(fast),
        "slow_losses": torch.stack(losses),
        "slow_grad_norms": torch.stack(gradients),
        "phi_change_norm": norm(changes),
        "theta_B_norm_per_sample": torch.stack([norm(values) for values in ups]),
    }


KINDS: dict[str, Callable[[Case], Any]] = {"slow_fast_loop": slow_fast_loop}
