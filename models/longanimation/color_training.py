"""Training of LongAnimation's networks (arXiv 2507.01945), for `visionzoo fit`.

Stage 1 trains SketchDiT, stage 2 DGLM with the memory of earlier frames, stage 3 both with a reward (`ColorRewardTraining`); the
networks of CogVideoX and the memory encoder are frozen. The published code has no training, so the loss is that of CogVideoX's
public trainer. Without a folder of published networks, small ones with random weights are trained together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visionzoo.console import note
from visionzoo.diffusion import noise_and_times, noise_of
from visionzoo.errors import InputError, unknown
from visionzoo.io.files import atomic_path, make_folder
from visionzoo.io.pixels import to_uint8
from visionzoo.training.module import TrainingModule
from visionzoo.training.muon import muon
from visionzoo.weights import load_checkpoint

from .cogvideox import OFFSET, rotary_embedding
from .color_batch import color_batch, padded
from .color_parts import NETWORKS, open_color_parts, save_color_parts
from .nano import NANO_PROMPT, nano_parts, open_video_vae
from .opening import open_memory_fusion, open_sketch_dit

__all__ = ["ColorTraining"]

SHOWN = 3
"""Number of segments that are drawn after a validation."""

KNOWN = 1024
"""Number of texts whose states are kept if the text encoder is frozen."""


class ColorTraining(TrainingModule):
    """Trains parts of LongAnimation to predict the velocity of a segment's latents from its sketches, a reference image and a text.

    The loss of CogVideoX's trainer, the error of the clean latents divided by the share of noise, is the squared error of the
    velocity. After every validation, `samples/` in the run's folder gets an image with three rows for each of some held-out segments:
    sketches, true frames, and frames that were sampled.

    Args:
        base: folder with tokenizer, text_encoder, vae, transformer and scheduler of CogVideoX 1.5 for images to video, and perhaps
            sketch_dit, memory_fusion and memory_encoder; None is a small LongAnimation with random weights.
        config: fields of `LongAnimationNanoConfig` to override, for the small one.
        vae: for the small one, folder of its autoencoder; see `open_video_vae`.
        sketch_dit, memory_fusion: file or folder with weights; None takes those of `base`, or makes new ones without effect, SketchDiT
            from the first `sketch_layers` blocks of the transformer.
        memory_encoder: folder of Video-XL, `VideoXL_weight_8`; needed for the memory if `base` has none.
        train: parts to train, of transformer, sketch_dit, memory_fusion, memory_encoder and text_encoder.
        sketch_layers: blocks of a new SketchDiT.
        memory_share: share of the steps in which the memory is used; in the others, DGLM has no effect, as in the first segment of a
            clip. 0 builds no memory.
        least_history: if given, only that many of the last earlier frames or more are remembered in a training step, as many as its
            first item's number says, as memories of young videos are short. None: always all.
        most_history: with `least_history`, at most that many; None: up to all.
        local_frames: number of last frames that are also encoded alone, as the local memory; 0 for a global memory only.
        checkpoint: start from this weights file of an earlier run.
        optimizer: "adamw", or "muon" for the matrices with AdamW for the vectors.
        lr: learning rate (with "muon", of the matrices).
        vector_lr: with "muon", learning rate of biases, norms and embeddings.
        warmup_steps: steps in which the rates rise; then they fall along half a cosine until the last step.
        time_power: power of the uniform numbers that timesteps are drawn with: the density of a share s of all timesteps is
            time_power · s ** (time_power - 1). Above 1, more steps have much noise, in which colours are decided.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of an averaged copy of the trained weights, which is validated and exported; None for no copy.
        gradient_checkpointing: compute activations twice instead of keeping them, for less memory.
        base_dtype: precision of the frozen parts of `base`.
        sample_steps: of the samples; 0 draws none.
        settings: values to record in the folder that is written.
        export_half: write the weights in half precision.

    Raises:
        InputError: an unknown part, or a part that is missing.
        WeightsError: a folder does not hold what it should.
    """

    try_with = "visionzoo colorize --help"
    name = "longanimation_nano"
    model: nn.ModuleDict

    def __init__(
        self,
        base: str | None = None,
        config: dict[str, Any] | None = None,
        vae: str | None = None,
        sketch_dit: str | None = None,
        memory_fusion: str | None = None,
        memory_encoder: str | None = None,
        train: Sequence[str] = ("sketch_dit",),
        sketch_layers: int = 6,
        memory_share: float = 0.0,
        local_frames: int = 20,
        least_history: int | None = None,
        most_history: int | None = None,
        checkpoint: str | None = None,
        optimizer: Literal["adamw", "muon"] = "adamw",
        lr: float = 2e-5,
        vector_lr: float = 2e-3,
        warmup_steps: int = 100,
        time_power: float = 1.0,
        clip_norm: float = 1.0,
        ema_decay: float | None = None,
        gradient_checkpointing: bool = False,
        base_dtype: Literal["float32", "bfloat16"] = "float32",
        sample_steps: int = 12,
        settings: dict[str, Any] | None = None,
        export_half: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.overrides = dict(config or {})
        train = list(train)
        for part in train:
            if part not in NETWORKS:
                raise unknown("part", part, list(NETWORKS))
        if not train:
            raise InputError(f"model.train names no part to train; expected some of {', '.join(NETWORKS)}")
        if not 0 <= memory_share <= 1 or local_frames < 0:
            raise InputError(
                f"model.memory_share must be from 0 to 1 and model.local_frames at least 0, got {memory_share} and {local_frames}"
            )
        if "memory_fusion" in train and not memory_share:
            raise InputError(
                "model.train has memory_fusion, but model.memory_share is 0; give the share of steps with memory"
            )
        if base is None:
            self.parts: dict[str, Any] = {"vae": open_video_vae(vae), **nano_parts(**self.overrides)}
        else:
            self.parts = open_color_parts(base, getattr(torch, base_dtype))
        self._complete(train)
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        # what is trained is kept in float32; frozen parts may be in bfloat16
        self.model = nn.ModuleDict({name: self.parts[name].float() for name in train}).train().requires_grad_(True)
        if checkpoint is not None:
            load_checkpoint(self.model, checkpoint)
        if gradient_checkpointing:
            for name in ("transformer", "sketch_dit"):
                self.parts[name].enable_gradient_checkpointing()
        self.keep_average(ema_decay)
        self._losses: list[Tensor] = []
        self._shown: list[dict[str, Any]] = []
        self._known: dict[str, Tensor] = {}

    def _complete(self, train: Sequence[str]) -> None:
        """Open or make the parts that LongAnimation adds to CogVideoX."""
        h, parts = self.hparams, self.parts
        if h["sketch_dit"] is not None:
            parts["sketch_dit"] = open_sketch_dit(h["sketch_dit"])
        elif "sketch_dit" not in parts:
            from .sketch_dit import SketchDiT

            parts["sketch_dit"] = SketchDiT.from_transformer(parts["transformer"], h["sketch_layers"])
        if not h["memory_share"]:
            return
        if h["memory_fusion"] is not None:
            parts["memory_fusion"] = open_memory_fusion(h["memory_fusion"])
        elif "memory_fusion" not in parts:
            from .memory_fusion import DynamicMemoryFusion

            parts["memory_fusion"] = DynamicMemoryFusion()
        if h["memory_encoder"] is not None:
            from .videoxl import VideoXLMemoryEncoder

            parts["memory_encoder"] = VideoXLMemoryEncoder.from_folder(h["memory_encoder"])
        elif "memory_encoder" not in parts:
            raise InputError(f"{h['base']}: has no memory_encoder; give model.memory_encoder, a folder of Video-XL")

    @property
    def best(self) -> nn.ModuleDict:
        """What is validated and exported: the averaged networks if there are any."""
        found: Any = self.model if self.average is None else self.average.module
        return found

    def part(self, networks: nn.ModuleDict, name: str) -> Any:
        """A part, from `networks` if it is trained."""
        return networks[name] if name in networks else self.parts[name]

    def configure_optimizers(self) -> Any:
        h = self.hparams
        if h["optimizer"] == "adamw":
            return muon(self, h["lr"], h["lr"], h["warmup_steps"], vectors="")  # every name contains ""
        return muon(self, h["lr"], h["vector_lr"], h["warmup_steps"], vectors="embed")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.to(self.device)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        # with FSDP, each process has a part of the gradient
        sharded = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)
        if sharded is not None:
            sharded(self.hparams["clip_norm"])
        else:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.hparams["clip_norm"])

    # What the video network is given

    def encode(self, networks: nn.ModuleDict, texts: Sequence[str]) -> Tensor:
        """States (B, tokens, width) of texts, with gradients if the text encoder is trained, and otherwise kept for later steps."""
        if "text_encoder" in networks:
            return self._states(networks["text_encoder"], texts)
        for text in texts:
            if text not in self._known:
                if len(self._known) >= KNOWN:
                    self._known.pop(next(iter(self._known)))
                with torch.no_grad():
                    self._known[text] = self._states(self.parts["text_encoder"], [text])
        return torch.cat([self._known[text] for text in texts]).to(self.device)

    def _states(self, encoder: Any, texts: Sequence[str]) -> Tensor:
        limit = self.parts["transformer"].config.max_text_seq_length
        tokens = self.parts["tokenizer"](
            list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        return encoder(tokens.input_ids.to(next(encoder.parameters()).device))[0]

    def memory(self, networks: nn.ModuleDict, frames: Tensor) -> Tensor:
        """Global and local memory (B, 2, levels, L, width) of earlier frames (B, M, 3, S, S) uint8."""
        encoder, local = self.part(networks, "memory_encoder"), self.hparams["local_frames"]
        prompt = NANO_PROMPT if encoder.tokenizer is None else encoder.prompt_tokens()
        parts = [frames, frames[:, -local:]] if local else [frames]
        with torch.set_grad_enabled(torch.is_grad_enabled() and "memory_encoder" in networks):
            return torch.cat([encoder.encode_clips(part, prompt) for part in parts], 3)

    def control(
        self, networks: nn.ModuleDict, sketch: Tensor, image: Tensor, text: Tensor, times: Tensor, memory: Tensor | None
    ) -> Tensor:
        """The control signal (B, N, D), with the memory if it is not None."""
        sketch_dit = self.part(networks, "sketch_dit")
        given = torch.cat([sketch, image], 2)
        ofs = given.new_full((1,), OFFSET)
        signal = sketch_dit(given, text, times, ofs, rotary_embedding(sketch_dit, given))
        if memory is None:
            return signal
        fusion = self.part(networks, "memory_fusion")
        return fusion(signal, fusion.project(memory))

    def velocity(
        self, networks: nn.ModuleDict, noisy: Tensor, image: Tensor, text: Tensor, times: Tensor, signal: Tensor
    ) -> Tensor:
        """What the video network predicts, (B, T, C, h, w)."""
        transformer = self.part(networks, "transformer")
        given = torch.cat([noisy, image], 2)
        ofs = given.new_full((1,), OFFSET)
        rotary = rotary_embedding(transformer, given)
        return transformer(given, text, times, ofs=ofs, image_rotary_emb=rotary, control_hidden_states=signal).sample

    # Losses

    def prepare(self, batch: dict[str, Any], times: Tensor, noise: Tensor) -> Any:
        """The `ColorBatch` of a batch of `Segments`."""
        factor = self.parts["vae"].config.scaling_factor
        return color_batch(
            self.parts["scheduler"],
            batch["latents"] * factor,
            batch["sketches"] * factor,
            batch["first_sketch"] * factor,
            batch["reference"],
            times,
            noise,
        )

    def predict(self, batch: dict[str, Any], given: Any, networks: nn.ModuleDict, with_memory: bool) -> Tensor:
        """The velocity that the networks predict."""
        text = self.encode(networks, batch["caption"]).to(given.noisy)
        memory = self.memory(networks, self.remembered(batch, networks.training)) if with_memory else None
        signal = self.control(networks, given.sketch, given.image, text, given.timesteps, memory)
        return self.velocity(networks, given.noisy, given.image, text, given.timesteps, signal)

    def loss(
        self, batch: dict[str, Any], networks: nn.ModuleDict, times: Tensor, noise: Tensor, with_memory: bool
    ) -> Tensor:
        """The mean squared error of the velocity for each item, (B,); the padding latent does not count.

        Args:
            batch: as of `Segments`.
            networks: those that are trained, or their average.
            times, noise: (B,), and (B, T, C, h, w) with the padding latent.
            with_memory: whether DGLM reads the memory.
        """
        given = self.prepare(batch, times, noise)
        predicted = self.predict(batch, given, networks, with_memory)
        missing = given.target.shape[1] - batch["latents"].shape[1]
        return (predicted.float() - given.target)[:, missing:].square().mean((1, 2, 3, 4))

    def noise(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Noise for a padded segment, and timesteps, from the items' numbers."""
        latents = batch["latents"]
        steps = self.parts["scheduler"].config["num_train_timesteps"]
        noise, times = noise_and_times(batch["stream"], padded(latents).shape[1:], steps, latents.device)
        power = self.hparams["time_power"]
        return noise, times if power == 1 else (steps * ((times + 0.5) / steps) ** (1 / power)).long()

    def uses_memory(self, batch: dict[str, Any]) -> bool:
        """Whether a step uses the memory; its first item decides, so that the step depends on its items only."""
        return int(batch["stream"][0]) % 1000 < 1000 * self.hparams["memory_share"]

    def remembered(self, batch: dict[str, Any], training: bool) -> Tensor:
        """The earlier frames of a batch that are remembered, (B, M, 3, S, S): in training perhaps only the last of them."""
        frames, least = batch["memory"], self.hparams["least_history"]
        if least is None or not training or frames.shape[1] <= least:
            return frames
        most = min(frames.shape[1], max(least, self.hparams["most_history"] or frames.shape[1]))
        count = least + int(batch["stream"][0]) // 1000 % (most - least + 1)
        return frames[:, -count:]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        noise, times = self.noise(batch)
        loss = self.loss(batch, self.model, times, noise, self.uses_memory(batch)).mean()
        self.check_finite(loss)
        self.log_loss(loss, len(noise))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._losses, self._shown = [], []
        self.best.eval()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        latents = batch["latents"]
        noise = noise_of(batch["stream"], padded(latents).shape[1:], latents.device)
        steps = self.parts["scheduler"].config["num_train_timesteps"]
        times = (torch.arange(len(latents)) * steps // len(latents) + steps // (2 * len(latents))).to(latents.device)
        self._losses.append(self.loss(batch, self.best, times, noise, self.hparams["memory_share"] > 0))
        if len(self._shown) < SHOWN:
            self._shown.append({key: value[:1] for key, value in batch.items()})

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", torch.cat(self._losses).mean(), prog_bar=True, sync_dist=True)
        if self.trainer.is_global_zero and not self.trainer.sanity_checking and self.hparams["sample_steps"]:
            self._draw_samples()
        if self.average is None:
            self.model.train()

    # Samples and folders

    @torch.no_grad()
    def sample(self, batch: dict[str, Any], steps: int, seed: int = 0) -> Tensor:
        """Sample segments with DDIM and without guidance: latents (B, T, C, h, w), divided by the autoencoder's factor."""
        from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

        networks, factor = self.best, self.parts["vae"].config.scaling_factor
        scheduler: Any = CogVideoXDDIMScheduler.from_config(self.parts["scheduler"].config)
        scheduler.set_timesteps(steps)
        shape = padded(batch["latents"]).shape
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        times = torch.zeros(shape[0], dtype=torch.int64, device=self.device)
        given = self.prepare(batch, times, latents)
        text = self.encode(networks, batch["caption"])
        memory = self.memory(networks, batch["memory"]) if self.hparams["memory_share"] else None
        for time in scheduler.timesteps:
            signal = self.control(networks, given.sketch, given.image, text, times + time, memory)
            predicted = self.velocity(networks, latents, given.image, text, times + time, signal)
            latents = scheduler.step(predicted, time, latents).prev_sample
        return latents[:, shape[1] - batch["latents"].shape[1] :] / factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, T, C, h, w), not multiplied by the factor -> frames (B, 3, F, H, W) in [-1, 1], not clamped."""
        vae = self.parts["vae"]
        return vae.decode(latents.transpose(1, 2).to(next(vae.parameters()))).sample.float()

    def _draw_samples(self) -> None:
        rows = []
        for item in self._shown:
            shown = [item["sketches"], item["latents"], self.sample(item, self.hparams["sample_steps"])]
            for latents in shown:
                frames = to_uint8((self.decode(latents)[0].transpose(0, 1)[::4] + 1) / 2)
                rows.append(np.concatenate(list(frames), axis=1))
        folder = make_folder(f"{self.trainer.default_root_dir}/samples")
        with atomic_path(folder / f"{self.global_step:06d}.png") as path:
            Image.fromarray(np.concatenate(rows)).save(path, "PNG")

    def exports(self) -> dict[str, nn.Module]:
        return {"weights.safetensors": self.best}

    def on_fit_end(self) -> None:
        """Write `weights.safetensors`, from which a further run starts, and `pipeline/` with the parts in diffusers' layout."""
        super().on_fit_end()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            note(f"diffusers folder: {self.save(self.trainer.default_root_dir)}")

    def save(self, folder: str | Path) -> Path:
        """Write parts into `pipeline/` of a folder; return that. Of published networks, only those that were trained are written."""
        h, trained = self.hparams, dict(self.best.items())
        parts = {**self.parts, **trained} if h["base"] is None else trained
        if not h["memory_share"]:
            parts = {name: part for name, part in parts.items() if not name.startswith("memory_")}
        settings = {**(h["settings"] or {}), **({} if h["memory_share"] else {"memory": "none"})}
        if "memory_encoder" in parts and parts["memory_encoder"].tokenizer is None:
            settings["memory_prompt"] = [list(NANO_PROMPT.before), list(NANO_PROMPT.after)]
        return save_color_parts(parts, Path(folder) / "pipeline", half=h["export_half"], settings=settings)
