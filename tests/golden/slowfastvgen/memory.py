"""Cases of the memory in weights: TEMP-LORA trained on one chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visionzoo.memory import ParametricBank
from visionzoo.models.slowfastvgen import Draw, FastBatch, SlowFastUNet, TempLoRA, add_adapter, fast_loss

from .. import seeded
from ..case import Case
from .networks import scheduler, unet


def config(case: Case, **changes: Any) -> TempLoRA:
    c = case.config
    settings = {
        "targets": c["lora"]["targets"],
        "rank": c["lora"]["rank"],
        "alpha": c["lora"]["alpha"],
        "lr": c.get("lr", c.get("fast_lr")),
        "optimizer": "sgd" if "SGD" in c.get("optimizer", "") else "adam",
    }
    return TempLoRA(**{**settings, **changes})


def seeded_adapter(network: SlowFastUNet, lora: TempLoRA, seed: int) -> dict[str, Any]:
    """Add an adapter whose first matrices have the seeded values of their names in saved files."""
    layers = add_adapter(network, lora)
    seed_adapter(layers, seed)
    return layers


def seed_adapter(layers: dict[str, Any], seed: int) -> None:
    """Give the first matrices of an adapter the seeded values of their names in saved files."""
    for name, layer in layers.items():
        weight = layer.lora_A["episode"].weight
        key = f"{name}.lora_A.weight"
        weight.data.copy_(seeded.fill({key: weight.data}, seed)[key])


def temp_lora(
    case: Case, *, lora: TempLoRA | None = None, training: bool = False, clean: int = 0, masked: bool = False
) -> dict[str, Any]:
    """Three steps on a chunk of 6 frames, and a probe before and after.

    Args:
        lora, training, clean, masked: mistakes, with which the recorded values must differ: other settings, dropout, that many frames
            without noise and loss, or frames whose loss alone is left out.
    """
    c = case.config
    with torch.inference_mode(False), torch.enable_grad():
        network, schedule = unet(case), scheduler()
        lora = lora or config(case)
        layers = seeded_adapter(network, lora, case.seed)
        first = {name: layer.lora_A["episode"].weight.detach().clone() for name, layer in layers.items()}
        bank = ParametricBank(network, "*.lora_?.episode.*", optimizer=lora.make_optimizer)
        batch = FastBatch(case.input("z_cat"), 0, case.input("null_text"))
        probe = Draw(torch.tensor(c["probe_timesteps"]), case.input("probe_eps"))
        outputs: dict[str, Any] = {}
        gradients: dict[str, list[Tensor]] = {}
        names = list(layers)
        query = next(name for name in names if name.endswith("to_q"))

        def ups() -> list[Tensor]:
            return [layer.lora_B["episode"].weight.detach() for layer in layers.values()]

        def probe_now(when: str) -> None:
            found: list[Tensor] = []
            hook = network.register_forward_hook(lambda *args: found.append(args[-1].sample))
            with torch.no_grad():
                outputs[f"probe_loss_{when}"] = fast_loss(network, schedule, batch, probe)
            hook.remove()
            if when in ("before", "after_3"):
                outputs[f"probe_pred_{when}"] = found[0]

        def step(number: int) -> list[float]:
            drawn = Draw(torch.tensor(c["timesteps_per_step"][number]), seeded_noise(case, f"eps.{number}"))
            seen = FastBatch(batch.latents, clean, batch.text)

            def loss() -> Tensor:
                if masked:
                    return _masked_loss(network, schedule, seen, drawn)
                value = fast_loss(network, schedule, seen, drawn)
                if number == 0:
                    for side in ("lora_A", "lora_B"):
                        weights = [getattr(layer, side)["episode"].weight for layer in layers.values()]
                        gradients[side] = list(torch.autograd.grad(value, weights, retain_graph=True))
                return value

            return bank.write(loss)

        probe_now("before")
        losses = []
        for number in range(c["steps"]):
            torch.manual_seed(number)
            network.train(training)
            losses += step(number)
            network.eval()
            outputs[f"B_norm_after_{number + 1}"] = norm(ups())
            probe_now(f"after_{number + 1}")
    changed = [layer.lora_A["episode"].weight.detach() - first[name] for name, layer in layers.items()]
    outputs |= {"train_losses": torch.tensor(losses), "A_change_norm_after_3": norm(changed)}
    outputs |= {f"grad_{side[-1]}_norm_step1": norm(values) for side, values in gradients.items()}
    if gradients:
        outputs["grad_B_first_to_q_step1"] = gradients["lora_B"][names.index(query)]
    outputs["B_norm_per_module_after_3"] = torch.stack([value.norm() for value in ups()])
    outputs["B_first_to_q_after_3"] = layers[query].lora_B["episode"].weight.detach()
    if lora == config(case):
        assert names == case.data["lora_modules"]
    return outputs


def _masked_loss(network: SlowFastUNet, schedule: Any, batch: FastBatch, drawn: Draw) -> Tensor:
    """All frames with noise, but only the second half counts."""
    half = batch.latents.shape[2] // 2
    level = schedule.alphas_cumprod[drawn.timesteps].view(-1, 1, 1, 1, 1)
    noisy = level.sqrt() * batch.latents + (1 - level).sqrt() * drawn.noise
    predicted = network(noisy, drawn.timesteps, batch.text).sample
    return (predicted - drawn.noise)[:, :, half:].square().mean()


def norm(values: list[Tensor]) -> Tensor:
    return torch.stack([value.norm() for value in values]).norm()


def seeded_noise(case: Case, name: str, like: str | None = None) -> Tensor:
    """An input whose entry in the case has a place holder, e.g. "eps.{k}" for "eps.0"."""
    beginning = (like or name).split(".")[0]
    spec = next(spec for spec in case.data["inputs"] if spec["name"].split(".")[0] == beginning)
    return seeded.tensor(name, spec["shape"], case.seed, "normal")


KINDS: dict[str, Callable[[Case], Any]] = {"temp_lora": temp_lora}
