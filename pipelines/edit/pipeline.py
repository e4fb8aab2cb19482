"""Text-driven editing of long videos (LOVECon, arXiv:2310.09711) with Stable Diffusion and a ControlNet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from numpy.typing import NDArray

from visionzoo.config import configure
from visionzoo.devices import pick_device, pick_dtype
from visionzoo.diffusion import (
    DiffusionTaskPipeline,
    SingleFile,
    check_words,
    decode_stream,
    encode_text,
)
from visionzoo.diffusion.folders import INDEX
from visionzoo.errors import InputError
from visionzoo.io.video import read_frames
from visionzoo.jobs import Progress
from visionzoo.models.lovecon import IFNet, Interpolator, phrase_columns, smooth_video

from ...models.lovecon.control_folder import load_controlnet
from .editing import Editing
from .inversion import Inversion
from .options import EditOptions, check_kept
from .parts import check_checkpoint, open_smoother
from .source import Control, Mask, prepare, resized
from .work import WorkFolder

__all__ = ["EditResult", "LOVEConPipeline"]

Pixels = NDArray[np.uint8]

PUBLISHED_GUIDANCE = 12.0

SAMPLERS = ("ddim", "dpm++")
"""Schedulers whose latents are those of the inversion, scaled alike and without added noise, so that they can be fused with it."""


@dataclass(frozen=True)
class EditResult:
    """An edited video.

    Attributes:
        frames: (H, W, 3) uint8, one for each frame of the source.
        masks: (N, h, w) float32 in [0, 1] at the size of the latents: what the edit changes (in a background edit, what it keeps);
            None without a mask.
        options: the settings.
    """

    frames: list[Pixels]
    masks: NDArray[np.float32] | None
    options: EditOptions


class LOVEConPipeline(SingleFile, DiffusionTaskPipeline, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin):
    """Edits a video by text: windows of frames that look at each other, the inverted source, and a mask from its attention.

    >>> pipe = LOVEConPipeline.create("lovecon_nano")
    >>> result = pipe("girl.mp4", "a girl with a blue shirt", "a girl with a red shirt")
    >>> for frame in pipe.stream(frames, EditOptions(prompt, source_prompt)):  # a long video, window by window
    ...     writer.write(frame)

    Args:
        vae, text_encoder, tokenizer, unet: those of Stable Diffusion 1.5, or of a model of the same kind.
        controlnet: a ControlNetModel for this UNet.
        scheduler: only its noise schedule is used: LOVECon samples with DDIM unless `set_scheduler` chooses another.
        interpolator: an `IFNet` that smooths the result; None: nothing is smoothed.
        least_channels: layers of the UNet with fewer channels attend within each frame; None: those of the second level.
        mask_scale: side in pixels of the image that a token of the mask covers: those layers of the UNet are used for masks.
        guidance: scale of classifier-free guidance if the options give none.

    Attributes:
        sampler: what samples, "ddim" or "dpm++"; see `set_scheduler`.

    Raises:
        InputError: parts that do not belong together, or those of another kind of model.
    """

    task: ClassVar[str] = "edit"
    kind: ClassVar[str] = "video editing"
    default_model: ClassVar[str] = "lovecon_nano"
    files: ClassVar[str] = "visionzoo.pipelines.edit.files:EditJob"

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components: ClassVar[list[str]] = ["interpolator"]

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        controlnet: Any,
        scheduler: Any,
        interpolator: Any = None,
        least_channels: int | None = None,
        mask_scale: int = 32,
        guidance: float = PUBLISHED_GUIDANCE,
    ):
        super().__init__()
        self.sampler = "ddim"
        self._paths: dict[str, str] = {}
        _check_family(unet, controlnet, text_encoder)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            # diffusers saves and loads only parts of its own kind
            interpolator=Interpolator.of(interpolator) if isinstance(interpolator, IFNet) else interpolator,
        )
        self.register_to_config(least_channels=least_channels, mask_scale=mask_scale, guidance=guidance)

    @classmethod
    def create(cls, model: Any = None, device: str = "auto", dtype: str = "auto", *arguments: Any, **more: Any) -> Self:
        """See `DiffusionTaskPipeline.create`.

        Args:
            model, device, dtype, *arguments: see there.
            **more: settings from there, and parts. `controlnet` may be the folder of a ControlNet, and `interpolator` a file with
                weights of RIFE, the name of a model that interpolates frames, or "none".
        """
        chosen = pick_device(device)
        paths = {
            name: str(more[name]) for name in ("controlnet", "interpolator") if isinstance(more.get(name), str | Path)
        }
        checkpoint = more.get("checkpoint", arguments[0] if arguments else None)
        if checkpoint is not None and (Path(checkpoint) / INDEX).is_file():
            check_checkpoint(Path(checkpoint), has_controlnet=more.get("controlnet") is not None)
        if "controlnet" in paths:
            more["controlnet"] = load_controlnet(paths["controlnet"], pick_dtype(dtype, chosen))
        if "interpolator" in paths:
            more["interpolator"] = open_smoother(paths["interpolator"])
        pipe = super().create(model, device, dtype, *arguments, **more)
        pipe._paths, pipe._given = paths, [name for name in pipe._given if name not in paths]
        return pipe

    @classmethod
    def check_index(cls, folder: Path, given: Sequence[str]) -> None:
        check_checkpoint(folder, has_controlnet="controlnet" in given)
        super().check_index(folder, given)

    @property
    def least_channels(self) -> int:
        """Layers of the UNet with fewer channels attend within each frame."""
        given, channels = self.config["least_channels"], self.unet.config["block_out_channels"]
        return channels[min(1, len(channels) - 1)] if given is None else given

    @property
    def mask_scale(self) -> int:
        """Side in pixels of the image that a token of the mask covers."""
        return self.config["mask_scale"]

    def set_scheduler(self, name: str, **settings: Any) -> None:
        """Sample with "ddim", as published, or "dpm++", which is more exact; see `visionzoo.diffusion.make_scheduler`.

        Args:
            name: which.
            **settings: of DDIM, whose noise schedule and timesteps both use.

        Raises:
            InputError: another scheduler.
        """
        if name not in SAMPLERS:
            raise InputError(
                f"LOVECon samples with the schedulers {' and '.join(SAMPLERS)}, not with {name}: latents are fused with those of the "
                "inverted source, so they must be scaled alike, and no noise may be added"
            )
        super().set_scheduler("ddim", **settings)
        self.sampler = name

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "sampler": self.sampler}

    def arguments(self) -> dict[str, Any]:
        chosen = {} if self.sampler == "ddim" else {"scheduler": self.sampler}
        return {**super().arguments(), **chosen, **self._paths}

    # Sizes

    @property
    def unit(self) -> int:
        """Both sides of frames are multiples of this number of pixels, so that the UNet can halve their latents."""
        levels = len(self.unet.config["block_out_channels"])
        return max(self.factor * 2 ** (levels - 1), self.mask_scale)

    @property
    def factor(self) -> int:
        """How much smaller latents are than frames, along each side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def working_size(self, height: int, width: int, short_side: int | None = None) -> tuple[int, int]:
        """The size (height, width) in which to edit a video of `height` x `width`: nearly the same shape, multiples of `unit`.

        Args:
            short_side: length of the shorter side in pixels, rounded to a multiple; None: what the UNet was trained for.

        Raises:
            InputError: a short side below `unit`.
        """
        sample = self.unet.config["sample_size"]
        short = short_side or (sample if isinstance(sample, int) else min(sample)) * self.factor
        if short < self.unit:
            raise InputError(f"the shorter side must be at least {self.unit} pixels for this model, got {short}")
        scale = round(short / self.unit) * self.unit / min(height, width)
        return tuple(max(self.unit, round(side * scale / self.unit) * self.unit) for side in (height, width))  # pyright: ignore[reportReturnType]

    # Editing

    def __call__(
        self,
        video: str | Path | Iterable[Pixels],
        prompt: str = "",
        source_prompt: str = "",
        *,
        control: str | Control | Iterable[Pixels] = "canny",
        mask: Mask | None = None,
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
        options: EditOptions | None = None,
        **settings: Any,
    ) -> EditResult:
        """Edit a video and hold the result in memory; `stream` is for long ones, and `run` for files.

        Args:
            video: a file, whose frames are resized to `working_size`, or frames (H, W, 3) uint8, all of one size that is a multiple
                of `unit`.
            prompt, source_prompt: see `EditOptions`.
            control, mask, progress, callback_on_step_end: see `stream`.
            options: instead of the prompts.
            **settings: other fields of `EditOptions`, e.g. edit="style", steps=20.

        Raises:
            InputError: see `stream`.
        """
        chosen = configure(options, settings) if options else EditOptions(prompt, source_prompt, **settings)
        frames = self._read(video) if isinstance(video, str | Path) else video
        with WorkFolder.open(None) as work:
            edited = list(
                self.stream(
                    frames,
                    chosen,
                    control=control,
                    mask=mask,
                    folder=work.path,
                    progress=progress,
                    callback_on_step_end=callback_on_step_end,
                )
            )
            return EditResult(edited, work.masks(), chosen)

    def _read(self, path: str | Path) -> Iterator[Pixels]:
        size = None
        for frame in read_frames(path):
            size = size or self.working_size(*frame.pixels.shape[:2])
            yield resized(frame.pixels, size)

    def stream(
        self,
        frames: Iterable[Pixels],
        options: EditOptions,
        *,
        control: str | Control | Iterable[Pixels] = "canny",
        mask: Mask | None = None,
        folder: str | Path | None = None,
        source: str = "",
        progress: Progress | None = None,
        callback_on_step_end: Any = None,
    ) -> Iterator[Pixels]:
        """Edit frames one window at a time; neither the video nor its latents are in memory.

        Args:
            frames: (H, W, 3) uint8 or PIL images of one size, both sides multiples of `unit`.
                They are read once, before the first result.
            options: how to edit.
            control: name of a control (see `visionzoo.models.lovecon.control`), a function from a frame to a control frame, or
                ready-made control frames (H, W, 3) uint8, one for each frame.
            mask: what to edit (in a background edit: what to keep), instead of the attention to words: a function from a frame to
                (H, W), or one such array for each frame; bool, or 0 to 255 uint8, or floats from 0 to 1.
            folder: keep the work files here, so that the same call continues an interrupted edit, with equal results; None: in a
                temporary folder.
            source: identifies the frames, and control frames and masks that are not made by name, when an edit continues, e.g. by
                paths and times of files.
            progress: called with ("reading" | "inverting" | "editing", done, total); "reading" has a total of 0.
            callback_on_step_end: as in diffusers, called after each denoising step of a window with its `latents`.

        Yields:
            (H, W, 3) uint8, one for each frame.

        Raises:
            InputError: words that the model or the source prompt does not know, frames or controls that do not fit, or no frames.
        """
        if self.sampler != "ddim" and options.memory == "bank":
            raise InputError(
                f"the memory bank works with the scheduler ddim, not with {self.sampler}, which looks back at steps"
            )
        check_kept(options, has_mask=mask is not None)
        texts = [options.source_prompt, options.prompt, options.negative_prompt]
        for text in texts:
            check_words(self.tokenizer, text)
        texts = [self._with_vectors(text) for text in texts]
        columns = self._columns(options, *texts[:2]) if mask is None else []
        states = encode_text(self.tokenizer, self.text_encoder, texts)
        with WorkFolder.open(folder) as work:
            identity = {"source": source, "weights": self.fingerprint}
            prepared = prepare(
                self, frames, control, mask, work, identity, batch_size=options.batch_size, progress=progress
            )
            inversion = Inversion(self, prepared, options, states[:1], columns, work, identity)
            inversion.run(progress)
            editing = Editing(self, prepared, inversion, options, states[[2, 1]], work, callback_on_step_end)
            latents = editing.results(progress)
            decoded = decode_stream(self.vae, latents, batch_size=options.batch_size)
            if options.smoothing != "none" and self.interpolator is not None:
                decoded = smooth_video(decoded, self.interpolator, mode=options.smoothing)
            yield from decoded

    def _with_vectors(self, text: str) -> str:
        """The text with a token for each vector of its textual inversions."""
        this: Any = self
        return this.maybe_convert_prompt(text, self.tokenizer)

    def _columns(self, options: EditOptions, source_prompt: str, prompt: str) -> list[int]:
        """Positions of the tokens whose attention makes the mask; none without a mask."""
        if options.phrase is None and options.edit == "attribute":
            return replaced_columns(self.tokenizer, source_prompt, prompt)
        phrase = self._with_vectors(options.phrase or "")
        return phrase_columns(self.tokenizer, source_prompt, phrase) if phrase.strip() else []


def replaced_columns(tokenizer: Any, before: str, after: str) -> list[int]:
    """Positions of the tokens of `before` that are not in their place in `after`; the start token has position 0.

    "a girl with a red shirt" and "a girl with a blue shirt" give the position of "red".
    """
    ids = [tokenizer(text, truncation=True)["input_ids"] for text in (before, after)]
    codes = SequenceMatcher(None, *ids, autojunk=False).get_opcodes()
    return [place for kind, start, stop, _, _ in codes if kind in ("replace", "delete") for place in range(start, stop)]


def _check_family(unet: Any, controlnet: Any, text_encoder: Any) -> None:
    """Raise `InputError` unless the networks belong together, as those of Stable Diffusion 1.5 do."""
    if unet.config.get("addition_embed_type") is not None:
        raise InputError(
            "this UNet is of SDXL or a similar model, with a second text encoder; LOVECon needs Stable Diffusion 1.5 or a model of "
            "the same kind, and a ControlNet for it"
        )
    widths = {
        "UNet": unet.config["cross_attention_dim"],
        "ControlNet": controlnet.config["cross_attention_dim"],
        "text encoder": text_encoder.config.hidden_size,
    }
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InputError(
            f"these networks do not belong together: their texts differ in width ({told}). Stable Diffusion 1.5 and its ControlNets "
            "have 768, Stable Diffusion 2 has 1024, SDXL has 2048; use parts of the same one"
        )
    if tuple(unet.config["block_out_channels"]) != tuple(controlnet.config["block_out_channels"]):
        raise InputError(
            f"the ControlNet has levels of {tuple(controlnet.config['block_out_channels'])} channels, and the UNet of "
            f"{tuple(unet.config['block_out_channels'])}; use a ControlNet for this UNet"
        )
