"""SlowFast-VGen making a chunk and learning from it, compared with diffusers' own modules in a plain loop with PEFT; and what both
compute, counted on ModelScope's network of 1.4 billion parameters.

visionzoo bench slowfastvgen
"""

from __future__ import annotations

import re
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
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextModel

from visionzoo.benchmark import Contestant, Grid, Report, Table, compare, peak_memory_mb
from visionzoo.data.toy_world import ACTIONS
from visionzoo.devices import environment
from visionzoo.diffusion import encode_text, make_scheduler, text_config, word_tokenizer
from visionzoo.models.slowfastvgen import EpisodeMemory, SlowFastUNet, TempLoRA, sample_chunk
from visionzoo.models.slowfastvgen.adapters import TARGETS, add_adapter, remove_adapter, target_layers
from visionzoo.models.toy_world import noise_schedule
from visionzoo.registry import create_model

COMMAND = "visionzoo bench slowfastvgen"
RANK, GUIDANCE, ACTION = 32, 2.0, "go left"

PARTS = {
    "spatial residual blocks": r"(^|\.)resnets\.",
    "spatial transformers": r"(^|\.)attentions\.",
    "temporal transformers": r"(^|\.)temp_attentions\.|^transformer_in\.",
    "temporal convolutions": r"(^|\.)temp_convs\.",
    "samplers": r"samplers\.",
    "input, output and time": r"",
}
"""Parts of the network and what the names of their weights match; the first match counts."""


# Counting


def part_of(name: str) -> str:
    return next(part for part, pattern in PARTS.items() if re.search(pattern, name))


def count_flops(run: Callable[[], Any]) -> FlopCounterMode:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter


@dataclass(frozen=True)
class Shape:
    """What ModelScope's network is counted with.

    Attributes:
        past, new: frames.
        side: of the latents.
        steps: denoising steps of a chunk.
    """

    past: int = 16
    new: int = 16
    side: int = 32
    steps: int = 50

    @property
    def frames(self) -> int:
        return self.past + self.new


@dataclass(frozen=True)
class Counts:
    """FLOPs of single calls of the network for one text and all frames, with adapters unless noted otherwise.

    Attributes:
        forward: ours, without adapters.
        adapted: ours.
        backward: of such a call, of which only the adapters get gradients.
        text: of the projections of the text to keys and values in ours.
        guided: half of a call of ours for two texts of the same frames, without the projections of text.
        plain: of diffusers' own network.
        plain_text: of its projections of text.
    """

    forward: int
    adapted: int
    backward: int
    text: int
    guided: int
    plain: int
    plain_text: int


def text_flops(found: FlopCounterMode) -> int:
    """FLOPs of the projections of text to keys and values."""
    pattern = re.compile(r"(?<!temp_)attentions\.\d+\.transformer_blocks\.\d+\.attn2\.to_[kv]$")
    return sum(sum(each.values()) for name, each in found.get_flop_counts().items() if pattern.search(name))


def counts(shape: Shape, config: dict[str, Any] | None = None) -> Counts:
    """Count on the meta device, where nothing is computed and nothing needs memory.

    Args:
        shape: frames and their size.
        config: of the network, where it differs from ModelScope's.
    """
    with torch.device("meta"), torch.no_grad():
        ours: Any = SlowFastUNet
        theirs: Any = UNet3DConditionModel
        unet = ours(**(config or {})).eval().requires_grad_(False)
        frames = torch.empty(1, unet.config["in_channels"], shape.frames, shape.side, shape.side)
        moment, state = 0, torch.empty(1, 77, unet.config["cross_attention_dim"])
        forward = count_flops(lambda: unet(frames, moment, state))
        layers = add_adapter(unet, TempLoRA(rank=RANK))
        adapted = count_flops(lambda: unet(frames, moment, state)).get_total_flops()
        pair, states = frames.expand(2, -1, -1, -1, -1), state.expand(2, -1, -1)
        guided = count_flops(lambda: unet(pair, moment, states, equal_halves=True))
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        with torch.enable_grad():
            both = count_flops(lambda: unet(frames, moment, state).sample.square().mean().backward()).get_total_flops()
        plain = theirs(**(config or {})).eval()
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers), plain)
        straight = count_flops(lambda: plain(frames, moment, state))
    return Counts(
        forward.get_total_flops(),
        adapted,
        both - adapted,
        text_flops(forward),
        (guided.get_total_flops() - text_flops(guided)) // 2,
        straight.get_total_flops(),
        text_flops(straight),
    )


def work(shape: Shape | None = None) -> Grid:
    """What is computed for one chunk at 256 x 256 and learning from it."""
    shape = shape or Shape()
    found = counts(shape)
    calls = 2 * shape.steps

    def tera(flops: float) -> str:
        return f"{flops / 1e12:,.1f}" if flops >= 1e11 else f"{flops / 1e12:.4f}"

    text, fast = 2 * found.text, found.adapted + found.backward
    columns = {  # evaluations, FLOPs of sampling, of projections of text, of fast learning
        "plain loop": (calls, found.plain * calls, found.plain_text * calls, found.plain + found.backward),
        "visionzoo": (calls, found.guided * calls + text, text, fast),
        "and DPM-Solver++ in 20 steps": (40, found.guided * 40 + text, text, fast),
    }
    rows = [
        ("evaluations of the UNet for sampling", *(str(each[0]) for each in columns.values())),
        ("TFLOP of sampling", *(tera(each[1]) for each in columns.values())),
        ("of these, texts to keys and values", *(tera(each[2]) for each in columns.values())),
        (
            "TFLOP of one step of fast learning, and with checkpointing",
            *(f"{tera(each[3])}, {tera(each[3] + found.adapted)}" for each in columns.values()),
        ),
        (
            "share of the chunk",
            *(
                f"{each[3] / (each[1] + each[3]):.1%}, {1 - each[1] / (each[1] + each[3] + found.adapted):.1%}"
                for each in columns.values()
            ),
        ),
    ]
    branch = (found.adapted - found.forward) / found.forward
    return Grid(
        f"One chunk of {shape.new} frames after {shape.past}, {8 * shape.side} x {8 * shape.side}, {shape.steps} steps with guidance "
        "(counted)",
        ("", *columns),
        rows,
        environment(),
        COMMAND,
        (
            f"One evaluation of all {shape.frames} frames: {tera(found.forward)} TFLOP, and {branch:.1%} more with adapters of rank "
            f"{RANK}. With checkpointing, fast learning evaluates the network once more, for less memory.",
        ),
    )


def sizes() -> Grid:
    """Weights of the network by part, and of the adapters by their targets."""
    make: Any = SlowFastUNet
    with torch.device("meta"):
        unet = make()
        weights = dict.fromkeys(PARTS, 0)
        for name, parameter in unet.named_parameters():
            weights[part_of(name)] += parameter.numel()
        rows = [(part, f"{count / 1e6:.1f} M", f"{count * 2 / 1e9:.2f} GB", "") for part, count in weights.items()]
        total = sum(weights.values())
        rows.append(("all", f"{total:,}", f"{total * 2 / 1e9:.2f} GB", f"{total * 16 / 1e9:.1f} GB"))
        for targets in TARGETS:
            layers = add_adapter(unet, TempLoRA(targets=targets, rank=RANK))
            count = sum(p.numel() for name, p in unet.named_parameters() if ".lora_" in name)
            remove_adapter(unet)
            name = f"adapters of rank {RANK}, {targets}: {len(layers)} layers"
            rows.append((name, f"{count / 1e6:.2f} M", f"{count * 2 / 1e6:.0f} MB", f"{count * 16 / 1e6:.0f} MB"))
    return Grid(
        "ModelScope's network, counted on the meta device",
        ("", "weights", "in half precision", "float32 with gradients and Adam"),
        rows,
        environment(),
        COMMAND,
    )


# Measuring


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
        self.unet.to(ours.device, ours.dtype).eval().requires_grad_(False)
        layers = target_layers(self.unet, targets)
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers), self.unet)
        adapters = [p for name, p in self.unet.named_parameters() if "lora_" in name]
        for parameter in adapters:
            parameter.requires_grad_(True)
        self.network, self.optimizer = network, torch.optim.Adam(adapters, lr=1e-4)

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
        usual: those of the model, for shares of a chunk.
        side: of the latents.
    """

    name: str
    network: Network
    past: int
    new: int
    steps: int
    usual: int
    side: int

    def latents(self, frames: int, seed: int) -> Tensor:
        """(1, C, frames, h, w)."""
        unet: Any = self.network.unet
        shape = 1, unet.config["in_channels"], frames, self.side, self.side
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(unet.device, unet.dtype)

    def sample(self, way: Way) -> Tensor:
        return way.sample(self.latents(self.past, 0), self.latents(self.new, 1), self.steps).cpu()

    def learn(self, way: Way) -> None:
        way.learn(self.latents(self.past, 0), self.latents(self.new, 2))

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
    found: Any = create_model("slowfastvgen_nano")
    nano = Network(found.unet, found.text_encoder, found.tokenizer, noise_schedule()).to(device)
    reduced = random_network((64, 128, 256, 256), 256).to(device)
    return [
        Case("slowfastvgen_nano", nano, 8, 8, 4, 20, 12),
        Case("a fifth of ModelScope's channels", reduced, 8, 8, 2, 50, 16),
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


def learning(chosen: Sequence[Case], rounds: int, command: str) -> Grid:
    """What fast learning costs: time as a share of a chunk with the model's own number of steps, and memory."""
    rows = []
    for case in chosen:
        plain = 0.0
        for name, make in (
            ("diffusers and PEFT", PlainLoop),
            ("visionzoo", Ours),
            ("visionzoo, checkpointing", partial(Ours, checkpointing=True)),
        ):
            way = make(case.network)
            case.learn(way)  # from now on, the optimizer has its moments
            step = _median(partial(case.sample, way), rounds) / case.steps
            write = _median(partial(case.learn, way), rounds)
            peak = peak_memory_mb(partial(case.learn, way))
            plain = plain or peak
            share = f"{write / (case.usual * step + write):.1%} of {case.usual} steps"
            cells = f"{step:.3f} s", f"{write:.3f} s", share, f"{peak:.0f} MB", f"1/{plain / peak:.1f}"
            rows.append((f"{case.name}, {name}", *cells))
    return Grid(
        "Fast learning",
        (
            "",
            "a denoising step",
            "learning",
            "share of the chunk",
            "peak memory beyond the networks",
            "of the plain loop's",
        ),
        rows,
        environment(),
        command,
    )


def _median(run: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def benchmark(rounds: int = 3, command: str = COMMAND) -> Report:
    """The tables: counted for ModelScope's network, and measured on small ones."""
    chosen = cases("cuda" if torch.cuda.is_available() else "cpu")
    return Report(
        (work(), sizes(), *(measured(case, rounds, command) for case in chosen), learning(chosen, rounds, command))
    )
