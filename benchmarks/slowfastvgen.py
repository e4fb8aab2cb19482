"""SlowFast-VGen making a chunk and learning from it, compared with diffusers' own modules in a plain loop with PEFT; and what both
compute, counted on ModelScope's network of 1.4 billion parameters.

visionzoo bench slowfastvgen
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from visionzoo.benchmark import Contestant, Grid, Report, Table, compare, peak_memory_mb
from visionzoo.data.toy_world import ACTIONS
from visionzoo.devices import environment
from visionzoo.diffusion import encode_text, make_scheduler, text_config, word_tokenizer
from visionzoo.models.slowfastvgen import EpisodeMemory, SlowFastUNet, TempLoRA, sample_chunk
from visionzoo.models.slowfastvgen.adapters import target_layers
from visionzoo.models.toy_world import noise_schedule
from visionzoo.registry import create_model

from .slowfastvgen_counts import COMMAND, RANK, memory, sizes, work

GUIDANCE, ACTION = 2.0, "go left"
GOALS = "Targets: a chunk at least 1.5 times as fast; fast learning at most 5% of it; with checkpointing, at most 1/8 of the memory."


@dataclass
class Network:
    """Parts of a pipeline with random weights: neither time nor memory depends on them."""

    unet: SlowFastUNet
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def to(self, *where: Any) -> Network:
        self.unet.to(*where).eval().requires_grad_(False)
        self.text_encoder.to(*where).eval().requires_grad_(False)
        return self

    def encode(self, text: str) -> Tensor:
        """(1, tokens, width)."""
        return encode_text(self.tokenizer, self.text_encoder, [text])

    def sampler(self, steps: int) -> Any:
        found = make_scheduler("ddim", self.scheduler)
        found.set_timesteps(steps)
        return found


class PlainLoop:
    """The straightforward form: diffusers' UNet with PEFT's adapters, one loop over all, everything computed where it is needed."""

    def __init__(self, network: Network, targets: str = "temporal_linear"):
        make: Any = UNet3DConditionModel
        ours: Any = network.unet
        self.unet = make.from_config(ours.config)
        self.unet.load_state_dict(ours.state_dict())
        nn.Module.to(self.unet, ours.device, ours.dtype).eval().requires_grad_(False)
        layers = target_layers(self.unet, targets)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers), self.unet)
        adapters = [p for name, p in self.unet.named_parameters() if "lora_" in name]
        for parameter in adapters:
            parameter.requires_grad_(True)
        self.network, self.optimizer = network, torch.optim.Adam(adapters, lr=1e-4)

    def enter(self) -> None:
        """Nothing: this network has no other memory."""

    @torch.no_grad()
    def sample(self, past: Tensor, noise: Tensor, steps: int) -> Tensor:
        """(1, C, P, h, w), (1, C, F, h, w) -> the new chunk."""
        scheduler = self.network.sampler(steps)
        states = torch.cat([self.network.encode(""), self.network.encode(ACTION)])
        latents = noise
        for moment in scheduler.timesteps:
            frames = torch.cat([past, latents], dim=2)
            output = self.unet(torch.cat([frames, frames]), moment, states).sample[:, :, past.shape[2] :]
            without, with_text = output.chunk(2)
            output = without + GUIDANCE * (with_text - without)
            latents = scheduler.step(output, moment, latents).prev_sample
        return latents

    def learn(self, past: Tensor, made: Tensor) -> None:
        """One step of fast learning (Eq. 3)."""
        scheduler = self.network.scheduler
        latents = torch.cat([past, made], dim=2)
        noise = torch.randn_like(latents)
        moment = torch.randint(scheduler.config.num_train_timesteps, (1,), device=latents.device)
        noisy = scheduler.add_noise(latents, noise, moment)
        is_velocity = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(latents, noise, moment) if is_velocity else noise
        loss = F.mse_loss(self.unet(noisy, moment, self.network.encode("")).sample, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Ours:
    """The same with visionzoo's parts; texts are encoded once."""

    def __init__(self, network: Network, *, checkpointing: bool = False):
        self.network, self.texts = network, [network.encode(text) for text in ("", ACTION)]
        config = TempLoRA(rank=RANK, checkpointing=checkpointing)
        self.memory = EpisodeMemory(network.unet, config, scheduler=network.scheduler, no_text=self.texts[0])
        self.memory.new()

    def enter(self) -> None:
        """Put the memory into the network, where another one may be."""
        self.memory.activate(self.memory.active)

    def sample(self, past: Tensor, noise: Tensor, steps: int) -> Tensor:
        none, text = self.texts
        sampler = self.network.sampler(steps)
        return sample_chunk(self.network.unet, sampler, noise, past, text, none, guidance=GUIDANCE)

    def learn(self, past: Tensor, made: Tensor) -> None:
        self.memory.write(past, made)


Way = PlainLoop | Ours


@dataclass
class Case:
    """A network and the size of a chunk.

    Attributes:
        name: of the network.
        network: its parts.
        past: frames before the chunk.
        new: frames of the chunk.
        steps: denoising steps that are run.
        usual: those of the model, for which a chunk is computed from the times of a step and of learning.
        side: of the latents.
    """

    name: str
    network: Network
    past: int
    new: int
    steps: int
    usual: int
    side: int

    def __post_init__(self) -> None:
        self._past, self._noise, self._made = (
            self._latents(count, seed) for seed, count in enumerate((self.past, self.new, self.new))
        )

    def _latents(self, frames: int, seed: int) -> Tensor:
        """(1, C, frames, h, w)."""
        unet: Any = self.network.unet
        shape = 1, unet.config["in_channels"], frames, self.side, self.side
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(unet.device, unet.dtype)

    def sample(self, way: Way) -> Tensor:
        return way.sample(self._past, self._noise, self.steps).cpu()

    def learn(self, way: Way) -> None:
        way.learn(self._past, self._made)

    def chunk(self, make: Callable[[], Way]) -> Callable[[], Tensor]:
        """A function that samples a chunk and learns from it; what is sampled first knows nothing yet, in both forms."""
        way = make()
        first = self.sample(way).float()

        def run() -> Tensor:
            self.sample(way)
            self.learn(way)
            return first

        return run


def judge(outputs: Sequence[Tensor]) -> list[str]:
    size = float(outputs[0].norm())
    return ["", *(f"differs by {float((each - outputs[0]).norm()) / size:.1e}, relative" for each in outputs[1:])]


def random_network(channels: tuple[int, ...], width: int, layers: int = 2) -> Network:
    """Parts in the shape of ModelScope's, perhaps with fewer channels.

    Args:
        channels: of the UNet's four levels.
        width: of the text.
        layers: residual blocks per level.
    """
    torch.manual_seed(0)
    tokenizer = word_tokenizer(sorted({word for action in ACTIONS for word in action.split()}))
    make: Any = SlowFastUNet
    unet = make(block_out_channels=channels, cross_attention_dim=width, layers_per_block=layers)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return Network(unet, CLIPTextModel(text_config(tokenizer, width)), tokenizer, scheduler)


def cases(device: str = "cpu") -> list[Case]:
    """The network of the toy world, and one of ModelScope's shape with a fifth of its channels."""
    torch.manual_seed(0)
    found: Any = create_model("slowfastvgen_nano", pretrained=True)
    nano = Network(found.unet, found.text_encoder, found.tokenizer, noise_schedule()).to(device)
    reduced = random_network((64, 128, 256, 256), 256).to(device)
    return [
        Case("slowfastvgen_nano", nano, 8, 8, 20, 20, 12),
        Case("a fifth of ModelScope's channels", reduced, 8, 8, 4, 50, 16),
    ]


def measured(case: Case, rounds: int, command: str) -> Table:
    size = 8 * case.side
    return compare(
        f"{case.name}: {case.new} frames after {case.past}, {size} x {size}, {case.steps} steps with guidance, and learning once",
        [
            Contestant("diffusers and PEFT", case.chunk(partial(PlainLoop, case.network))),
            Contestant("visionzoo", case.chunk(partial(Ours, case.network))),
        ],
        rounds=rounds,
        command=command,
        items=case.new,
        unit="frames",
        judge=judge,
    )


@dataclass
class Costs:
    """Seconds of a denoising step and of fast learning after a chunk, and the peak memory of learning in MB."""

    step: float
    learn: float
    peak: float

    def chunk(self, steps: int) -> float:
        """Seconds of a chunk of so many steps."""
        return steps * self.step + self.learn


def costs(case: Case, rounds: int) -> dict[str, Costs]:
    """Measured in turns; the median counts."""
    plain, ours = PlainLoop(case.network), Ours(case.network)
    ways: dict[str, Way] = {
        "diffusers and PEFT": plain,
        "visionzoo": ours,
        "visionzoo, checkpointing": Ours(case.network, checkpointing=True),
    }
    samples, writes = ({name: [] for name in ways} for _ in range(2))
    for count in range(rounds + 1):
        for name, way in ways.items():
            if way in (plain, ours):  # checkpointing changes nothing about sampling
                samples[name].append(_seconds(partial(case.sample, way)) / case.steps)
            way.enter()
            writes[name].append(_seconds(partial(case.learn, way)))
        if not count:  # a warm-up, after which Adam has its moments
            for times in (*samples.values(), *writes.values()):
                times.clear()
    samples["visionzoo, checkpointing"] = samples["visionzoo"]
    found = {}
    for name, way in ways.items():  # last, as the memory profiler slows down later runs in the same process
        way.enter()
        peak = peak_memory_mb(partial(case.learn, way))
        found[name] = Costs(statistics.median(samples[name]), statistics.median(writes[name]), peak)
    return found


def learning(chosen: Sequence[Case], rounds: int, command: str) -> Grid:
    """What fast learning costs, and a chunk with the model's own number of steps."""
    rows = []
    for case in chosen:
        found = costs(case, rounds)
        plain = found["diffusers and PEFT"]
        for name, each in found.items():
            chunk = each.chunk(case.usual)
            ratio = f"{plain.chunk(case.usual) / chunk:.2f}"
            times = f"{each.step:.3f} s", f"{each.learn:.3f} s", f"{case.usual} steps: {chunk:.1f} s", ratio
            memory = f"{each.peak:.0f} MB", f"1/{plain.peak / each.peak:.1f}"
            rows.append((f"{case.name}, {name}", *times, f"{each.learn / chunk:.1%}", *memory))
    kind = "seconds" if torch.cuda.is_available() else "CPU seconds"
    return Grid(
        f"A chunk with the usual number of steps, and fast learning in it ({kind})",
        (
            "",
            "a denoising step",
            "fast learning",
            "a chunk, computed from these",
            "times as fast",
            "share of fast learning",
            "peak memory of fast learning beyond the networks",
            "of the plain loop's",
        ),
        rows,
        environment(),
        command,
        (GOALS,),
    )


def _seconds(run: Callable[[], Any]) -> float:
    """On a CPU those of all threads, as other programs may use it at the same time."""
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


def benchmark(rounds: int = 3, command: str = COMMAND) -> Report:
    """The tables: counted for ModelScope's network, and measured on small ones."""
    chosen = cases("cuda" if torch.cuda.is_available() else "cpu")
    times = [measured(case, rounds, command) for case in chosen]
    return Report((work(), sizes(), memory(), *times, learning(chosen, rounds, command)))
