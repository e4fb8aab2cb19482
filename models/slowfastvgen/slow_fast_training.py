"""The slow-fast loop as a training for `visionzoo fit`: Algorithm 2 of arXiv 2410.23277."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visionzoo.data.augmented import stream_of
from visionzoo.diffusion import make_scheduler, noise_and_times, noise_of
from visionzoo.errors import InputError

from .adapters import TempLoRA
from .masked import masked_batch, masked_errors
from .sampling import sample_chunk
from .slow_fast import Pair, copied, remembered, slow_fast_pairs
from .slow_training import SlowLearning

__all__ = ["SlowFastLearning"]


class SlowFastLearning(SlowLearning):
    """Trains the video UNet to use the memory of the episode: it learns each pair of chunks with the memory of all before it.

    Each step takes a few episodes, and for each of them a new memory, as `slow_fast_pairs` describes. `form` chooses how:

    - "stream": the gradient of each pair is taken while the memory is in the network, gradients add up over all episodes of the
      step, and the network changes once at its end. No memory is ever stored.
    - "stored", as published: first all episodes are walked through, and the memory of each pair is copied; then the pairs are
      learned in random order, `slow_batch` of them in each change of the network. Without `slow_batch`, both forms give the same
      gradient.

    The data are those of `EpisodeData`. Further arguments are those of `SlowLearning`.

    Args:
        fast: fields of `TempLoRA`, e.g. {rank: 4}.
        form: see above.
        slow_batch: with "stored", pairs in each change of the network; None for all of a step.
        inner_data: what fast learning sees after the first chunk of a pair: the true next chunk (inferred), or a generated one,
            which takes `sample_steps` steps of sampling for each pair.

    Raises:
        InputError: an unknown field of `TempLoRA`, or a value outside its range.
    """

    def __init__(
        self,
        fast: dict[str, Any] | None = None,
        form: Literal["stream", "stored"] = "stream",
        slow_batch: int | None = None,
        inner_data: Literal["ground_truth", "generated"] = "ground_truth",
        **settings: Any,
    ):
        super().__init__(**settings)
        self.save_hyperparameters()
        self.automatic_optimization = False
        try:
            self.fast = TempLoRA(**(fast or {}))
        except TypeError as error:
            known = ", ".join(TempLoRA.__dataclass_fields__)
            raise InputError(f"model.fast has a field that TempLoRA lacks ({error}); it has: {known}") from error
        if slow_batch is not None and (slow_batch < 1 or form == "stream"):
            raise InputError(f"model.slow_batch must be at least 1, and needs model.form=stored, got {slow_batch}")

    def training_step(self, batch: list[dict[str, Any]], batch_idx: int) -> None:
        unet, h = self.model["unet"], self.hparams
        losses: list[Tensor] = []
        count = sum(len(episode["latents"]) - 1 for episode in batch)
        if h["form"] == "stream":
            for episode in batch:
                for pair in self._pairs(self.model, episode):
                    losses.append(self._add_gradient(episode, pair, count))
            self._change()
        else:
            stored = [(episode, copied(pair)) for episode in batch for pair in self._pairs(self.model, episode)]
            order = [stored[place] for place in torch.randperm(count)]
            size = h["slow_batch"] or count
            for first in range(0, count, size):
                some = order[first : first + size]
                for episode, pair in some:
                    with remembered(unet, pair.memory, self.fast):
                        losses.append(self._add_gradient(episode, pair, len(some)))
                self._change()
        loss = torch.stack(losses).mean()
        self.check_finite(loss)
        self.log_loss(loss, len(batch))

    def _pairs(self, networks: nn.ModuleDict, episode: dict[str, Any]) -> Iterator[Pair]:
        """The pairs of an episode, with the memory in the network while each is handed out."""
        chunks = list(episode["latents"].unsqueeze(1))
        with torch.no_grad():
            texts = list(self.encode(networks, episode["actions"]).unsqueeze(1))
            no_text = self.encode(networks, [""])
        generate = None
        if self.hparams["inner_data"] == "generated":
            generate = lambda pair: self._generated(networks, episode, pair, no_text)  # noqa: E731
        return slow_fast_pairs(
            networks["unet"], self.parts["scheduler"], chunks, texts, no_text, self.fast, generate=generate
        )

    def _generated(self, networks: nn.ModuleDict, episode: dict[str, Any], pair: Pair, no_text: Tensor) -> Tensor:
        unet, scheduler = networks["unet"], make_scheduler("ddim", self.parts["scheduler"])
        scheduler.set_timesteps(self.hparams["sample_steps"])
        streams = [stream_of(int(episode["stream"]), pair.number, 1)]
        noise = noise_of(streams, pair.future.shape[1:], pair.future.device)
        training = unet.training
        unet.eval()
        made = sample_chunk(unet, scheduler, noise, pair.past, pair.text, no_text, guidance=self.hparams["guidance"])
        unet.train(training)
        return made

    def _pair_loss(
        self, networks: nn.ModuleDict, episode: dict[str, Any], pair: Pair, times: Tensor | None = None
    ) -> Tensor:
        """The loss of slow learning of a pair (Eq. 2), with the memory that is in the network."""
        steps = self.parts["scheduler"].config["num_train_timesteps"]
        streams = [stream_of(int(episode["stream"]), pair.number)]
        noise, drawn = noise_and_times(streams, pair.future.shape[1:], steps, pair.future.device)
        latents = torch.cat([pair.past, pair.future], dim=2)
        past = pair.past.shape[2]
        noisy = masked_batch(
            self.parts["scheduler"], latents, past, timesteps=drawn if times is None else times, noise=noise
        )
        states = self.encode(networks, [episode["actions"][pair.number + 1]])
        predicted: Tensor = networks["unet"](noisy.latents, noisy.timesteps, states).sample
        return masked_errors(predicted, noisy).mean()

    def _add_gradient(self, episode: dict[str, Any], pair: Pair, count: int) -> Tensor:
        loss = self._pair_loss(self.model, episode, pair)
        self.manual_backward(loss / count)
        return loss.detach()

    def _change(self) -> None:
        """One step of slow learning."""
        optimizer: Any = self.optimizers()
        self.configure_gradient_clipping(optimizer)
        optimizer.step()
        optimizer.zero_grad()
        rates: Any = self.lr_schedulers()
        rates.step()
        self.update_average()

    def validation_step(self, batch: list[dict[str, Any]], batch_idx: int) -> None:
        """The loss of the pairs of held-out episodes with their memories, at the middle of the schedule."""
        times = torch.tensor([self.parts["scheduler"].config["num_train_timesteps"] // 2], device=self.device)
        for episode in batch:
            for pair in self._pairs(self.best, episode):
                with torch.no_grad():
                    self._losses.append(self._pair_loss(self.best, episode, pair, times)[None])

    def _draw_samples(self) -> None:
        """Nothing: a chunk alone does not show what the memory adds."""
