"""TEMP-LORA as a memory that is named, switched, copied, mixed, saved and resumed (Algorithm 1 of arXiv 2410.23277)."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.diffusion.lora_files import LoraLayer
from visionzoo.errors import InputError, check_kind, unknown
from visionzoo.memory import merge_values

from .adapter_slot import AdapterSlot
from .adapters import ADAPTER, TempLoRA
from .episode_files import base_sample, check_fits, read_episode, write_episode
from .episode_state import KEPT_FRAMES, Episode
from .fast_learning import Draw, draw_step, fast_batch, fast_loss

__all__ = ["EpisodeMemory", "StepSkipped"]


class StepSkipped(UserWarning):
    """A step of fast learning was left out, because its loss was not finite. The memory is unchanged."""


class EpisodeMemory:
    """Named episodes of one video UNet. One of them, or none, is active: its adapter is part of every forward pass.

    >>> memory = EpisodeMemory(unet, TempLoRA(), scheduler=scheduler, no_text=empty_prompt)
    >>> memory.new("walk")
    >>> for action in actions:
    ...     made = sample(unet, past, action)  # with what the chunks before have taught
    ...     memory.write(past, made)
    ...     past = made
    >>> memory.save("walk_memory")

    The adapter is a float32 branch beside the weights, which never change (`add_adapter`); the optimizer, its state and the random
    numbers are those of a `ParametricBank`. Several memories can share a network: the one that was used last is in it, and the
    others keep their content. A memory is not part of the network's state dict.

    Args:
        unet: a `SlowFastUNet`.
        config: how to learn.
        scheduler: of the pipeline; gives the noise levels and says what the network predicts.
        no_text: states of the empty prompt (1, tokens, width).

    Attributes:
        active: name of the active episode, or None.

    Raises:
        InputError: a wrong scheduler or text, or a network without the layers of `config.targets`.
        MissingDependencyError: peft is not installed.
    """

    def __init__(self, unet: nn.Module, config: TempLoRA | None = None, *, scheduler: Any, no_text: Tensor) -> None:
        check_kind("the scheduler", scheduler, "a scheduler of diffusers, e.g. pipe.scheduler", "config", "step")
        if not isinstance(no_text, Tensor) or no_text.ndim != 3 or len(no_text) != 1:
            found = tuple(no_text.shape) if isinstance(no_text, Tensor) else no_text
            raise InputError(f"no_text must be the states of the empty prompt (1, tokens, width), got {found}")
        self.unet, self.config, self.scheduler, self.no_text = unet, config or TempLoRA(), scheduler, no_text
        self.active: str | None = None
        self._episodes: dict[str, Episode] = {}
        self._slot = AdapterSlot(unet, self.config) if self.learns else None

    # --- which episode ---

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the episodes, oldest first."""
        return tuple(self._episodes)

    @property
    def learns(self) -> bool:
        """Whether there is an adapter: not for the variant "off", which keeps latents only."""
        return self.config.variant != "off"

    @property
    def chunks(self) -> int:
        """Chunks of the active episode that were written."""
        return self._current().chunks

    @property
    def skipped(self) -> int:
        """Steps of the active episode that were left out because their loss was not finite."""
        return self._current().skipped

    @property
    def rank(self) -> int:
        """Rank of the active episode's adapter: that of `config`, or another after a merge."""
        return self._current().rank

    @property
    def nbytes(self) -> int:
        """Size in bytes of all episodes, with their optimizers and latents."""
        return sum(episode.nbytes for episode in self._episodes.values()) + (
            0 if self._slot is None else self._slot.nbytes
        )

    def new(self, name: str = "episode") -> None:
        """Begin an empty episode and activate it; it replaces one of that name.

        Raises:
            InputError: the name is empty.
        """
        if not isinstance(name, str) or not name:
            raise InputError(f"an episode needs a name, got {name!r}")
        self._store()
        self._episodes.pop(name, None)
        self._episodes[name] = Episode(self.config.rank)
        self._load(name)

    def activate(self, name: str | None) -> None:
        """Continue with an episode; None switches the memory off, and the network is exactly as without one.

        Raises:
            InputError: there is no such episode.
        """
        if name is not None:
            self._require(name)
            self._load(name)
        else:
            self.active = None
            if self._slot is not None:
                self._slot.switch_off()

    @torch.inference_mode(False)
    def snapshot(self, name: str) -> None:
        """Keep a copy of the active episode under another name, with its optimizer and latents.

        Raises:
            InputError: no episode is active, or the name is its own.
        """
        self._current()
        if name == self.active or not name:
            raise InputError(f"a snapshot needs a name of its own, got {name!r}")
        self._store()
        assert self.active is not None
        self._episodes.pop(name, None)
        self._episodes[name] = self._episodes[self.active].copy()
        self._load(self.active)

    @torch.inference_mode(False)
    def restore(self, name: str) -> None:
        """Give the active episode the content of another one, exactly as it was; the other stays.

        Raises:
            InputError: no episode is active, or there is no such episode.
        """
        self._current()
        self._require(name)
        self._store()
        assert self.active is not None
        self._episodes[self.active] = self._episodes[name].copy()
        self._load(self.active)

    def drop(self, name: str) -> None:
        """Delete an episode. Without an active one, the memory is off.

        Raises:
            InputError: there is no such episode.
        """
        self._require(name)
        if name == self.active:
            self.activate(None)
        self._store()
        del self._episodes[name]

    def close(self) -> None:
        """Take the adapter out of the network, which is then exactly as before; the episodes stay."""
        self.active = None
        if self._slot is not None:
            self._slot.close()

    # --- learning ---

    def write(
        self,
        past: Tensor | None,
        made: Tensor,
        *,
        text: Tensor | None = None,
        draws: Sequence[Draw] | None = None,
    ) -> list[float]:
        """Learn from a chunk (`config.steps` optimizer steps), and remember its latents.

        The network is in eval mode meanwhile, so that dropout does not change the memory, and its weights stay. A step whose loss
        is NaN or infinite is left out and reported (`StepSkipped`); a chunk that is not finite is not remembered.

        Args:
            past: latents of the chunk's input (1, C, P, h, w), or None.
            made: its output (1, C, F, h, w), without noise.
            text: states of the action (1, tokens, width), for the variant "original" only.
            draws: timesteps and noise of each step; by default from the episode's own random numbers.

        Returns:
            The loss before each step, NaN for one that was left out; empty if the variant is "off".

        Raises:
            InputError: no episode is active, or shapes that do not fit.
        """
        episode = self._current()
        if draws is not None and len(draws) != self.config.steps:
            raise InputError(f"expected draws for {self.config.steps} steps, got {len(draws)}")
        with torch.inference_mode(False), torch.no_grad():
            past = None if past is None else past.detach().clone()
            made = made.detach().clone()
            if not made.isfinite().all():
                return self._report(episode, [math.nan] * self.config.steps if self.learns else [])
            episode.check_size(past, made)
            losses = self._learn(past, made, text, draws) if self.learns else []
            episode.remember(past, made, None if self.config.variant == "global" else KEPT_FRAMES)
            episode.chunks += 1
            return self._report(episode, losses)

    def _learn(
        self, past: Tensor | None, made: Tensor, text: Tensor | None, draws: Sequence[Draw] | None
    ) -> list[float]:
        assert self.active is not None
        assert self._slot is not None
        self._load(self.active)
        bank = self._slot.bank
        steps = self.scheduler.config["num_train_timesteps"]
        whole = None
        if self.config.variant == "global":
            parts = [self.latents(), past if self.latents() is None else None, made]
            whole = torch.cat([part for part in parts if part is not None], dim=2)

        def loss(step: int) -> Tensor:
            batch = fast_batch(
                self.config, past, made, no_text=self.no_text, text=text, episode=whole, generator=bank.generator
            )
            drawn = draw_step(self.config, batch, steps, bank.generator) if draws is None else draws[step]
            return fast_loss(self.unet, self.scheduler, batch, drawn)

        with self._learning():
            return bank.write(loss, self.config.steps, skip_bad_steps=True)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """The network in eval mode, and with gradient checkpointing if it was asked for."""
        unet: Any = self.unet
        modes = [(module, module.training) for module in unet.modules() if module.training]
        checkpointing = self.config.checkpointing and not unet.is_gradient_checkpointing
        for module, _ in modes:
            module.training = False
        if checkpointing:
            unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            if checkpointing:
                unet.disable_gradient_checkpointing()
            for module, mode in modes:
                module.training = mode

    def _report(self, episode: Episode, losses: list[float]) -> list[float]:
        bad = sum(not math.isfinite(loss) for loss in losses)
        episode.skipped += bad
        if bad:
            warnings.warn(
                f"episode {self.active!r}: {bad} of {len(losses)} steps after chunk {episode.chunks} had a loss that is not finite "
                "and were left out; the memory is unchanged. Lower the learning rate, or check the latents",
                StepSkipped,
                stacklevel=3,
            )
        return losses

    # --- latents ---

    def latents(self, frames: int | None = None) -> Tensor | None:
        """Latents at the end of the active episode, (1, C, N, h, w), to continue from; None before the first chunk.

        Args:
            frames: how many at most; None for all that are kept: the last 32, or with the variant "global" all.

        Raises:
            InputError: no episode is active.
        """
        return self._current().last_latents(frames)

    # --- mixing ---

    @torch.inference_mode(False)
    def merge(
        self,
        names: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        method: str = "cat",
        rank: int | None = None,
        into: str = "merged",
    ) -> str:
        """Mix what episodes have learned into a new one, which becomes active and continues from the first one's latents.

        Args:
            names: of the episodes.
            weights: one for each; by default 1 / number of episodes.
            method: "cat": exactly the weighted sum of their updates; the ranks add up. "svd": the closest update of `rank`.
                "linear": the weighted sum of the matrices instead of their products, for equal ranks.
            rank: for "svd"; by default that of `config`.
            into: name of the new episode.

        Returns:
            `into`.

        Raises:
            InputError: no or unknown episodes, another number of weights, an unknown method, or ranks that do not fit it.
        """
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            self._require(name)
        shares = [1 / len(names)] * len(names) if weights is None else list(weights)
        if not names or len(shares) != len(names) or not all(math.isfinite(share) for share in shares):
            raise InputError(f"expected a finite weight for each of {len(names)} episodes, got {shares}")
        if not into:
            raise InputError("the merged episode needs a name, got ''")
        self._store()
        first = self._episodes[names[0]]
        mixed = Episode(self.config.rank, None, first.copy().frames, first.size)
        mixed.chunks = sum(self._episodes[name].chunks for name in names)
        if self._slot is not None:
            learned = [(self._values(name), share) for name, share in zip(names, shares, strict=True)]
            values = merge_values(self._slot.first_values(), learned, method, rank)
            mixed.rank = next(value.shape[0] for name, value in values.items() if ".lora_A." in name)
            self._slot.load(mixed)
            self._slot.put(values)
        self._episodes.pop(into, None)
        self._episodes[into] = mixed
        self.active = into
        return into

    def _values(self, name: str) -> dict[str, Tensor]:
        """The adapter's values of an episode that is not in the network."""
        state = self._episodes[name].bank
        assert state is not None
        return {key.removeprefix("now."): value for key, value in state["tensors"].items() if key.startswith("now.")}

    # --- files ---

    def save(self, folder: str | Path, name: str | None = None) -> Path:
        """Write an episode to a folder, to be resumed exactly; one that was there is replaced.

        `pytorch_lora_weights.safetensors` is a LoRA that diffusers and `visionzoo.diffusion.load_lora` read, with the settings as
        JSON in its metadata; `episode-….safetensors` holds optimizer, random numbers, latents and a few values of each weight
        of the network, by which `load` recognises it.

        Args:
            name: the episode; the active one if None.

        Raises:
            InputError: there is no such episode, or the folder cannot be created.
            VisionZooError: the folder cannot be written.
        """
        if name is None:
            self._current()
            name = self.active
        assert name is not None
        self._require(name)
        self._store()
        episode = self._episodes[name]
        settings, state = episode.to_file()
        settings |= {"name": name, "config": dataclasses.asdict(self.config)}
        layers: dict[str, LoraLayer] = {}
        values = {} if episode.bank is None else self._values(name)
        for down, value in values.items():
            layer, found, _ = down.partition(f".lora_A.{ADAPTER}.")
            if found:
                layers[layer] = LoraLayer(value, values[_up(down)], self.config.scale * episode.rank)
        place = write_episode(folder, layers, settings, state | base_sample(self.unet))
        if self.active is not None:
            self._load(self.active)
        return place

    @torch.inference_mode(False)
    def load(self, folder: str | Path, name: str | None = None) -> str:
        """Read an episode that `save` wrote and activate it; continued with the same chunks, it equals one that never stopped.

        Args:
            name: how to call it; by default as it was saved.

        Returns:
            Its name.

        Raises:
            InputError: the folder holds no episode or a damaged one, or one that was learned on another network or with other targets,
                rank or alpha. The memory is unchanged then.
        """
        settings, adapter, state = read_episode(folder)
        try:
            check_fits(folder, settings, adapter, state, self.unet, self.config)
            episode = Episode.from_file(settings, adapter, state, lr=self.config.lr)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder}: the episode memory is damaged ({error!r} is missing or wrong)") from error
        name = str(settings["name"]) if name is None else name
        self._store()
        before = self._episodes.get(name), self.active
        self._episodes[name] = episode
        try:
            self._load(name)
        except InputError as error:
            self._episodes.pop(name)
            if before[0] is not None:
                self._episodes[name] = before[0]
            self.activate(before[1])
            raise InputError(f"{folder}: {error}") from error
        return name

    def _require(self, name: str) -> None:
        if name not in self._episodes:
            raise unknown("episode", name, self._episodes)

    def _current(self) -> Episode:
        if self.active is None:
            raise InputError("no episode is active; call new(name) or activate(name) first")
        return self._episodes[self.active]

    def _load(self, name: str) -> None:
        if self._slot is not None:
            self._slot.load(self._episodes[name])
        self.active = name

    def _store(self) -> None:
        if self._slot is not None:
            self._slot.store()


def _up(down: str) -> str:
    return down.replace(".lora_A.", ".lora_B.")
