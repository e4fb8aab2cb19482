"""Action-driven long videos whose memory learns while they are made (SlowFast-VGen, arXiv 2410.23277)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.config import configure
from visionzoo.diffusion import (
    DiffusionTaskPipeline,
    check_frame_size,
    check_words,
    decode_stream,
    encode_stream,
    encode_text,
    make_scheduler,
)
from visionzoo.diffusion.folders import INDEX
from visionzoo.errors import InputError, WeightsError
from visionzoo.io.files import write_text
from visionzoo.jobs import Progress
from visionzoo.models.slowfastvgen import EpisodeMemory, SlowFastUNet
from visionzoo.models.slowfastvgen.adapter_slot import take_out
from visionzoo.models.slowfastvgen.adapters import ADAPTER

from .actions import check_action, check_actions
from .generation import EPISODE, Chunk, Generation
from .options import GenerateOptions
from .saved_episode import load_episode
from .settings import Settings, settings_for
from .source import Fit, check_fit, fitted, frames_of

__all__ = ["BASE", "GeneratedVideo", "SlowFastVGenPipeline"]

Pixels = NDArray[np.uint8]

BASE = (
    "a copy of the repository ali-vilab/text-to-video-ms-1.7b of the Hugging Face hub (CC-BY-NC-4.0: not for commercial use) with "
    "model_index.json and the folders scheduler, text_encoder, tokenizer, unet and vae"
)
"""What to download for videos of the real world, as part of messages."""


@dataclass(frozen=True)
class GeneratedVideo:
    """A generated video.

    Attributes:
        frames: (H, W, 3) uint8: those that were given, as the autoencoder shows them, then the new ones.
        given: number of given frames.
        actions: of the chunks.
        losses: those of fast learning after each chunk.
        episode: continues the video (`take`), and saves it; it has the memory.
    """

    frames: list[Pixels]
    given: int
    actions: list[str]
    losses: list[tuple[float, ...]]
    episode: Generation

    @property
    def memory(self) -> EpisodeMemory | None:
        """The memory, in which the episode is called "episode"; None without fast learning."""
        return self.episode.memory


class SlowFastVGenPipeline(DiffusionTaskPipeline):
    """Continues an image or a video by actions, chunk after chunk, with a memory in weights that learns from each chunk.

    >>> pipe = SlowFastVGenPipeline.create("slowfastvgen_nano")
    >>> video = pipe("park.png", ["go left", "go left", "go right", "go right"])
    >>> for chunk in pipe.stream("park.png", keys()):  # actions may be typed while the video is made
    ...     show(chunk.frames)

    Args:
        vae, text_encoder, tokenizer, unet: those of ModelScope's text-to-video model, or of a model of the same kind.
        scheduler: samples; DDIM if it would clip latents.
        window: largest number of frames that the UNet sees at once, past and new; 32 as published.
        frames_per_chunk, past_frames, steps, guidance: what is used if the options give nothing. The paper states none of them;
            16, 16, 50 and 9 are inferred from ModelScope's settings and the window.
        fps: frames per second of the videos; 8 as in ModelScope's (inferred).
        actions: all actions that the UNet was trained with; None: any text.

    Raises:
        InputError: parts that do not belong together, or a UNet of another kind.
    """

    task: ClassVar[str] = "generate"
    kind: ClassVar[str] = "video generation"
    default_model: ClassVar[str] = "slowfastvgen_nano"
    files: ClassVar[str] = "visionzoo.pipelines.generate.files:GenerateJob"

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        window: int = 32,
        frames_per_chunk: int = 16,
        past_frames: int = 16,
        steps: int = 50,
        guidance: float = 9.0,
        fps: float = 8.0,
        actions: Sequence[str] | None = None,
    ):
        super().__init__()
        unet = SlowFastUNet.of(unet)
        _check_family(vae, unet, text_encoder)
        if scheduler.config.get("clip_sample"):
            scheduler = make_scheduler("ddim", scheduler)
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(
            window=window,
            frames_per_chunk=frames_per_chunk,
            past_frames=past_frames,
            steps=steps,
            guidance=guidance,
            fps=fps,
            actions=None if actions is None else list(actions),
        )

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write the pipeline to a folder; see the base class. The UNet has the name of diffusers' class, which loads it, too.

        Memories of episodes are not part of it; save them by themselves.
        """
        take_out(self.unet)
        super().save_pretrained(save_directory, **kwargs)
        for path, changed in (
            (Path(save_directory) / INDEX, {"unet": ["diffusers", "UNet3DConditionModel"]}),
            (Path(save_directory) / "unet" / "config.json", {"_class_name": "UNet3DConditionModel"}),
        ):
            found = json.loads(path.read_text(encoding="utf-8"))
            write_text(
                path, json.dumps({**found, **changed}, indent=2, sort_keys=True) + "\n"
            )  # as diffusers writes it

    @classmethod
    def _check_folder(cls, folder: Path) -> dict[str, Any]:
        try:
            return super()._check_folder(folder)
        except InputError as error:
            raise WeightsError(f"{error}; for videos of the real world, expected {BASE}") from error

    @property
    def actions(self) -> list[str] | None:
        """All actions that the model knows; None if it takes any text."""
        return self.config["actions"]

    @property
    def factor(self) -> int:
        """How much smaller latents are than frames, along each side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames that the UNet was trained with."""
        sample = self.unet.config["sample_size"]
        height, width = (sample, sample) if isinstance(sample, int) else sample
        return height * self.factor, width * self.factor

    def facts(self) -> dict[str, Any]:
        own = ("window", "frames_per_chunk", "past_frames", "steps", "guidance", "actions")
        facts = {**super().facts(), **{name: self.config[name] for name in own}}
        loras = {name: scale for name, scale in facts.pop("loras", {}).items() if name != ADAPTER}  # that is the memory
        return {**facts, **({"loras": loras} if loras else {})}

    # Generating

    def __call__(
        self,
        source: Any,
        actions: str | Iterable[str],
        *,
        options: GenerateOptions | None = None,
        episode: str | Path | None = None,
        size: tuple[int, int] | None = None,
        fit: Fit = "crop",
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
        callback_on_chunk_end: Callable[[Chunk], object] | None = None,
        **settings: Any,
    ) -> GeneratedVideo:
        """Generate a video and hold its frames; `stream` is for long ones, and `run` for files.

        Args:
            source, actions, episode, size, fit, progress, callback_on_step_end: see `stream`.
            options: how to generate.
            callback_on_chunk_end: called with each `Chunk`.
            **settings: fields of `GenerateOptions`, e.g. steps=20, fast_learning=False.

        Raises:
            InputError: see `stream`.
        """
        chosen = configure(options or GenerateOptions(), settings)
        given: list[Tensor] = []
        video = self.begin(
            source,
            chosen,
            episode=episode,
            size=size,
            fit=fit,
            progress=progress,
            callback_on_step_end=callback_on_step_end,
            on_given=given.append,
        )
        frames = [frame for latents in given for frame in self.decode(latents, chosen.batch_size)]
        count, taken, losses = len(frames), [], []
        for chunk in self._chunks(video, actions, progress):
            frames += chunk.frames
            taken.append(chunk.action)
            losses.append(chunk.losses)
            if callback_on_chunk_end is not None:
                callback_on_chunk_end(chunk)
        return GeneratedVideo(frames, count, taken, losses, video)

    def stream(
        self,
        source: Any,
        actions: str | Iterable[str],
        options: GenerateOptions | None = None,
        *,
        episode: str | Path | None = None,
        size: tuple[int, int] | None = None,
        fit: Fit = "crop",
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
    ) -> Iterator[Chunk]:
        """Generate chunk after chunk; the frames of one chunk are in memory, however long the video gets.

        Args:
            source: path of an image or a video, a PIL image, an array (H, W, 3) uint8, or several of them one after another;
                None continues `episode` with its last frames.
            actions: texts, one for each chunk; an iterator is asked for the next one when a chunk is finished.
            options: how to generate.
            episode: folder of a saved episode, which is continued; None begins a new one.
            size: height and width of the frames, multiples of `factor`; None: the model's own.
            fit: how a source of another size is used: "crop" scales it and cuts off what is outside, "stretch" scales both sides,
                "exact" raises an error.
            progress: called with ("reading" | "generating", done, total); the total is 0 where it is not known.
            callback_on_step_end: as in diffusers, called after each denoising step with its `latents` (1, C, F, h, w).

        Yields:
            Chunks; each is learned before it is yielded.

        Raises:
            InputError: actions that the model does not know, sizes or numbers of frames that do not fit, or an unreadable source.
        """
        video = self.begin(
            source,
            options or GenerateOptions(),
            episode=episode,
            size=size,
            fit=fit,
            progress=progress,
            callback_on_step_end=callback_on_step_end,
        )
        yield from self._chunks(video, actions, progress)

    def begin(
        self,
        source: Any,
        options: GenerateOptions | None = None,
        *,
        episode: str | Path | None = None,
        size: tuple[int, int] | None = None,
        fit: Fit = "crop",
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
        on_given: Callable[[Tensor], object] | None = None,
    ) -> Generation:
        """Read and encode the source; the result makes a chunk for each action, e.g. for each key that somebody presses.

        Args:
            source, options, episode, size, fit, progress, callback_on_step_end: see `stream`.
            on_given: called with the latents (n, C, h, w) of the source, batch by batch.

        Raises:
            InputError: see `stream`.
        """
        settings = settings_for(options or GenerateOptions(), self.config)
        check_fit(fit)
        video = Generation(self, settings, memory=self.memory_for(settings), callback=callback_on_step_end)
        if episode is not None:
            load_episode(episode, video)
        elif source is None:
            raise InputError("nothing to continue: give an image, a video, or the folder of a saved episode")
        if source is None:
            return video
        height, width = size or self.frame_size
        check_frame_size(self.vae, height, width)
        read = 0
        frames = (fitted(frame, (height, width), fit) for frame in frames_of(source))
        for latents in encode_stream(self.vae, frames, batch_size=settings.batch_size):
            video.show(latents)
            read += len(latents)
            if on_given is not None:
                on_given(latents)
            if progress is not None:
                progress("reading", read, 0)
        if not read:
            raise InputError("the source has no frames; give an image, or a video with at least one frame")
        return video

    def _chunks(self, video: Generation, actions: str | Iterable[str], progress: Progress | None) -> Iterator[Chunk]:
        """A chunk for each action, until a callback asks to end."""
        if isinstance(actions, str):
            actions = [actions]
        total = 0
        if isinstance(actions, Sequence):
            actions = check_actions(actions, self.actions)
            for action in actions:
                check_words(self.tokenizer, action)
            total = len(actions) * video.settings.steps
        video.tick = self.counter("generating", total, progress)
        for action in actions:
            chunk = video.take(action)
            if chunk is None:
                return
            yield chunk

    def decode(self, latents: Tensor, batch_size: int = 8) -> Iterator[Pixels]:
        """The frames (H, W, 3) uint8 of latents (n, C, h, w), a batch at a time."""
        return decode_stream(self.vae, latents, batch_size=batch_size)

    def memory_for(self, settings: Settings) -> EpisodeMemory | None:
        """A memory for a new episode; None without fast learning."""
        if not settings.options.fast_learning:
            return None
        config = settings.options.temp_lora()
        memory = EpisodeMemory(self.unet, config, scheduler=self.scheduler, no_text=self.encode_action(""))
        memory.new(EPISODE)
        memory.activate(None)
        return memory

    def encode_action(self, text: str) -> Tensor:
        """The hidden states of an action, or of no text (""), (1, tokens, width).

        Raises:
            InputError: an action or words that the model does not know.
        """
        if text:
            text = check_action(text, self.actions)
            check_words(self.tokenizer, text)
        return encode_text(self.tokenizer, self.text_encoder, [text])


def _check_family(vae: Any, unet: Any, text_encoder: Any) -> None:
    """Raise `InputError` unless the networks belong together, as those of ModelScope's text-to-video model do."""
    widths = unet.config["cross_attention_dim"], text_encoder.config.hidden_size
    if widths[0] != widths[1]:
        raise InputError(
            f"these networks do not belong together: the UNet takes texts of width {widths[0]}, and the text encoder gives "
            f"{widths[1]}; use all parts of one folder"
        )
    channels = unet.config["in_channels"], vae.config["latent_channels"]
    if channels[0] != channels[1]:
        raise InputError(
            f"these networks do not belong together: the UNet takes latents of {channels[0]} channels, and the autoencoder gives "
            f"{channels[1]}; use all parts of one folder"
        )
