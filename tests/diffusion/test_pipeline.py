"""The base of diffusion pipelines: a task of visionzoo and a pipeline of diffusers in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image
from transformers import CLIPTextModel

from tests import tiny_diffusion
from tests.diffusion.text_to_image import Gain, TextToImage
from visionzoo import registry
from visionzoo.cards import ModelCard, WeightSource
from visionzoo.diffusion import generators, initial_noise
from visionzoo.errors import InputError
from visionzoo.jobs import sidecar
from visionzoo.weights import WeightsError, read_checkpoint, save_safetensors


@pytest.fixture
def registered(stable_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model tiny_draw, whose weights are the tiny Stable Diffusion."""
    registry.list_models()
    source = WeightSource("tiny_draw.random", "tiny_draw", "none", bundled=str(stable_diffusion_folder))
    card = ModelCard("tiny_draw", "draw", "Random.", "text", "images", 1, weights=(source,))
    entry = registry.ModelEntry(card, "tests:none")
    monkeypatch.setitem(registry._models, "tiny_draw", entry)


@pytest.fixture
def pipe(stable_diffusion_folder: Path) -> TextToImage:
    made = TextToImage.create(checkpoint=stable_diffusion_folder, device="cpu")
    made.set_progress_bar_config(disable=True)
    return made


# Made and saved


def test_it_is_made_by_name_from_a_folder_or_from_a_stock_pipeline(
    registered: None, pipe: TextToImage, stable_diffusion_folder: Path
) -> None:
    want = pipe("a red boat", steps=2)
    named = TextToImage.create(device="cpu")
    assert (named.name, named.checkpoint, pipe.name, pipe.checkpoint) == (
        "tiny_draw",
        None,
        "custom",
        str(stable_diffusion_folder),
    )
    stock = StableDiffusionPipeline.from_pretrained(stable_diffusion_folder, safety_checker=None)
    for again in (named, TextToImage.create(stock, device="cpu"), TextToImage.from_pretrained("tiny_draw.random")):
        assert np.array_equal(again("a red boat", steps=2, progress=lambda *_: None), want)
        assert again.fingerprint == pipe.fingerprint
        assert not any(part.training for part in again.components.values() if isinstance(part, torch.nn.Module))


def test_the_image_is_that_of_stock_diffusers(pipe: TextToImage) -> None:
    stock = tiny_diffusion.stable_diffusion()
    want = stock(
        "a red boat",
        64,
        64,
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=initial_noise((1, 4, 8, 8), 7),
        output_type="np",
    ).images
    ours = pipe("a red boat", seed=7)
    assert np.abs(ours - want * 255).max() <= 0.51  # rounding to bytes


def test_saved_content_loads_here_and_in_diffusers(pipe: TextToImage, tmp_path: Path) -> None:
    """With a part of our own, and text in the form that old versions of transformers read."""
    pipe.register_modules(gain=Gain(2.0))
    pipe.set_scheduler("euler")
    want = pipe("a red boat")
    pipe.save_pretrained(tmp_path / "p")
    again = TextToImage.create(checkpoint=tmp_path / "p", device="cpu")
    assert np.array_equal(again("a red boat", progress=lambda *_: None), want)
    assert again.facts() == {**pipe.facts(), "checkpoint": str(tmp_path / "p")}
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (tmp_path / "p" / "tokenizer").iterdir()}
    keys = read_checkpoint(tmp_path / "p" / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in keys)
    again.save_pretrained(tmp_path / "q")
    one, other = (
        {path.relative_to(tmp_path / n): path.read_bytes() for path in (tmp_path / n).rglob("*.*")} for n in "pq"
    )
    assert one == other
    assert not any(str(tmp_path).encode() in content for content in one.values())
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "p", safety_checker=None, feature_extractor=None)
    assert torch.equal(stock.unet.conv_in.weight, pipe.unet.conv_in.weight)


def test_a_part_of_our_own_is_found_without_being_imported(
    pipe: TextToImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers looks only at modules that are loaded already; here the name is one that it does not know."""
    pipe.register_modules(gain=Gain(2.0))
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["gain"] == ["tests.diffusion.text_to_image", "Gain"]
    (tmp_path / "visionzoo_gain.py").write_text("from tests.diffusion.text_to_image import Gain\n")  # and no ModelMixin
    index["gain"] = ["visionzoo.gone", "Gain"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        InputError, match=r"model_index\.json: names visionzoo\.gone\.Gain for the gain, which does not exist"
    ):
        TextToImage.create(checkpoint=tmp_path, device="cpu")
    import visionzoo

    monkeypatch.setattr(visionzoo, "__path__", [*visionzoo.__path__, str(tmp_path)])
    index["gain"] = ["visionzoo.visionzoo_gain", "Gain"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    again = TextToImage.create(checkpoint=tmp_path, device="cpu", dtype="float16")
    assert float(again.gain.gain.detach()) == 2
    assert again.gain.dtype == again.unet.dtype == torch.float16


def test_parts_made_in_code_are_put_into_eval_mode() -> None:
    parts = {name: part for name, part in tiny_diffusion.parts().items() if part is not None}
    parts["unet"].train()
    pipe = TextToImage(**parts)
    assert not pipe.unet.training


def test_a_folder_with_a_models_name_does_not_hide_the_model(
    registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny_draw").mkdir()
    monkeypatch.chdir(tmp_path)
    for model in (None, "tiny_draw"):
        assert TextToImage.create(model, device="cpu").name == "tiny_draw"


def test_what_cannot_be_opened_is_refused(registered: None, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    create = TextToImage.create
    with pytest.raises(InputError, match="there is no model 'tiny_drawn'; did you mean tiny_draw"):
        create("tiny_drawn")
    with pytest.raises(InputError, match="shvit_s1 is not a drawing model; use tiny_draw"):
        create("shvit_s1")
    with pytest.raises(InputError, match="expected a pipeline of diffusers or the name of a model, got Linear"):
        create(torch.nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="there is no scheduler 'eular'"):
        create(scheduler="eular")
    with pytest.raises(InputError, match="has no part or setting 'vea'; it has vae, "):
        create(vea=None)
    with pytest.raises(InputError, match="unknown offload 'disk'"):
        create(offload="disk")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="gone: no such folder"):
        create(checkpoint=tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: is a file, expected a folder in the layout of diffusers"):
        create(checkpoint=tmp_path / "file")
    with pytest.raises(InputError, match=r"holds no pipeline: there is no model_index\.json"):
        create(checkpoint=tmp_path)
    (tmp_path / "model_index.json").write_text("[")
    with pytest.raises(InputError, match="holds no saved drawing pipeline"):
        create(checkpoint=tmp_path)
    (tmp_path / "model_index.json").write_text((stable_diffusion_folder / "model_index.json").read_text())
    with pytest.raises(WeightsError, match=f"{tmp_path}: has no folder vae with the AutoencoderKL; copy or download"):
        create(checkpoint=tmp_path)
    (tmp_path / "pipeline.json").write_text('{"task": "erase", "model": "custom"}')
    with pytest.raises(InputError, match="holds no saved drawing pipeline .it is for the task erase"):
        create(checkpoint=tmp_path)
    with pytest.raises(
        InputError, match="a DDPMPipeline has no vae and no text_encoder and no tokenizer, which a TextToImage"
    ):
        create(DDPMPipeline(tiny_diffusion.unet(), tiny_diffusion.scheduler()))


def remove_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def remove_vocabulary(folder: Path) -> None:
    for path in (folder / "tokenizer").iterdir():
        path.rename(path.with_suffix(".old"))


def point_elsewhere(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\n"
    )


def truncate(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def drop_a_key(folder: Path) -> None:
    _change(folder / "unet" / "diffusion_pytorch_model.safetensors", lambda value: None)


def drop_a_key_of_text(folder: Path) -> None:
    _change(folder / "text_encoder" / "model.safetensors", lambda value: None)


def shorten_text(folder: Path) -> None:
    _change(folder / "text_encoder" / "model.safetensors", lambda value: value[:-1])


def _change(path: Path, change: Any) -> None:
    state = read_checkpoint(path)
    key = max(state)
    changed = {**state, key: change(state[key])}
    save_safetensors({key: value for key, value in changed.items() if value is not None}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_weights, r"unet: holds no weights of the UNet2DConditionModel"),
        (remove_vocabulary, r"tokenizer: holds no vocabulary of the CLIPTokenizer, e\.g\. tokenizer\.json"),
        (point_elsewhere, r"diffusion_pytorch_model\.safetensors: is a Git LFS pointer"),
        (truncate, r"cannot be loaded \(.*vae.*"),
        (
            drop_a_key,
            r"(unet: does not fit UNet2DConditionModel: 1 key is missing, e\.g\. up_blocks|cannot be loaded .*UNet2DCond)",
        ),
        (
            drop_a_key_of_text,
            r"text_encoder: does not fit CLIPTextModel: 1 key is missing, e\.g\. (text_model\.)?final_layer_norm",
        ),
        (shorten_text, r"text_encoder: does not fit CLIPTextModel: "),
    ],
)
def test_a_damaged_folder_is_refused(damage: Any, message: str, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    """diffusers and transformers load some of these with random weights, or with an empty tokenizer."""
    shutil.copytree(stable_diffusion_folder, tmp_path / "p")
    damage(tmp_path / "p")
    with pytest.raises(WeightsError, match=message) as caught:
        TextToImage.create(checkpoint=tmp_path / "p", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_folder_of_one_variant_loads(pipe: TextToImage, tmp_path: Path) -> None:
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert all(".fp16." in path.name for path in tmp_path.rglob("*.safetensors"))
    again = TextToImage.create(checkpoint=tmp_path, device="cpu", dtype="float16")
    assert again.fingerprint == pipe.fingerprint
    keys = read_checkpoint(tmp_path / "text_encoder" / "model.fp16.safetensors")
    assert all(key.startswith("text_model.") for key in keys)


def test_it_moves_and_offloads_only_where_there_is_an_accelerator(
    pipe: TextToImage, stable_diffusion_folder: Path
) -> None:
    assert pipe.to("cpu") is pipe
    assert pipe.to(torch.float64).unet.dtype == torch.float64
    with pytest.raises(InputError, match="cuda:99"):
        pipe.to("cuda:99")
    if not torch.cuda.is_available():
        with pytest.warns(UserWarning, match="nothing is offloaded"):
            pipe.enable_model_cpu_offload()
        made = TextToImage.create(checkpoint=stable_diffusion_folder, device="auto", offload="model")
        assert made.device.type == "cpu"


# Seeds and steps


def test_an_image_depends_on_its_seed_not_on_its_batch(pipe: TextToImage) -> None:
    both = pipe(["a red boat", "a cat"], seed=3)
    assert np.abs(both[1].astype(int) - pipe("a cat", seed=4)[0]).max() <= 1
    assert np.array_equal(pipe("a cat", seed=4), pipe("a cat", seed=torch.Generator().manual_seed(4)))
    assert not np.array_equal(pipe("a cat", seed=4), pipe("a cat", seed=5))
    with pytest.raises(InputError, match="expected 2 generators"):
        generators([torch.Generator()], 2)
    with pytest.raises(InputError, match="the seed must be a whole number"):
        generators(-1)


def test_callbacks_of_diffusers_work(pipe: TextToImage) -> None:
    seen: list[Any] = []

    def zero(
        pipeline: Any, index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        seen.append((pipeline is pipe, index, int(timestep), list(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    first, second = (pipe("a cat", seed=seed, callback_on_step_end=zero) for seed in (0, 1))
    assert np.array_equal(first, second)
    assert seen[:3] == [(True, index, int(t), ["latents"]) for index, t in enumerate(pipe.scheduler.timesteps)]
    with pytest.raises(InputError, match="callback_on_step_end has no tensor 'prompt_embeds'; it has latents"):
        pipe("a cat", callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5))
    with pytest.raises(InputError, match="has no tensor 'x'"):
        pipe("a cat", callback_on_step_end=lambda *_: {"x": torch.zeros(1)})


def test_a_callback_ends_early_with_the_result_so_far(pipe: TextToImage) -> None:
    steps: list[int] = []

    def stop(pipeline: Any, index: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        steps.append(index)
        pipeline._interrupt = index == 1
        return {}

    assert pipe("a cat", steps=5, callback_on_step_end=stop).shape == (1, 64, 64, 3)
    assert steps == [0, 1]
    pipe("a cat", steps=2, callback_on_step_end=lambda *_: steps.append(9))
    assert steps == [0, 1, 9, 9]


def test_progress_is_reported_and_its_error_cancels(pipe: TextToImage) -> None:
    told: list[Any] = []
    pipe("a cat", progress=lambda *what: told.append(what))
    assert told == [("denoising", number, 3) for number in (1, 2, 3)]

    class Stop(Exception): ...

    def cancel(what: str, done: int, of: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        pipe("a cat", progress=cancel)


def test_schedulers_by_name(pipe: TextToImage, stable_diffusion_folder: Path) -> None:
    made = TextToImage.create(checkpoint=stable_diffusion_folder, device="cpu", scheduler="dpm++")
    assert made.facts()["scheduler"]["class"] == "DPMSolverMultistepScheduler"
    assert made.facts()["scheduler"]["beta_schedule"] == "scaled_linear"
    assert made.arguments()["scheduler"] == "dpm++"
    assert "scheduler" not in pipe.arguments()
    made.scheduler = DDIMScheduler()
    with pytest.raises(InputError, match="--engine ray needs .* the scheduler was set in code"):
        made.arguments()
    made.set_scheduler("dpm++")
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert not np.array_equal(made("a cat", progress=lambda *_: None), pipe("a cat"))


# Files


def test_files_of_prompts_become_images_with_sidecars(pipe: TextToImage, tmp_path: Path) -> None:
    """A failed file is a warning, an interruption keeps what is finished, and the same call resumes."""
    (tmp_path / "in").mkdir()
    for name, prompt in {"a": "a red boat", "b": "a purple boat", "c": "a cat", "d": "a hat"}.items():
        (tmp_path / "in" / f"{name}.txt").write_text(prompt)

    def stop(result: Any) -> None:
        if result.source.endswith("c.txt"):
            raise KeyboardInterrupt

    with (
        pytest.warns(UserWarning, match="unknown word 'purple'"),
        pytest.raises(KeyboardInterrupt, match="3 of 4 files are finished: run the same command again to resume"),
    ):
        pipe.run(tmp_path / "in", tmp_path / "out", progress=False, on_result=stop, seed=2)
    with pytest.warns(UserWarning, match="unknown word 'purple'"):
        results = pipe.run(tmp_path / "in", tmp_path / "out", progress=False, seed=2)
    assert [result.skipped for result in results] == [True, False, True, False]
    record = json.loads(sidecar(tmp_path / "out" / "a.png").read_text())["options"]
    assert {key: record[key] for key in ("weights", "seed", "prompt", "model")} == {
        "weights": pipe.fingerprint,
        "seed": 2,
        "prompt": "a red boat",
        "model": "custom",
    }
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "d.png")), pipe("a hat", seed=2)[0])
    with pytest.raises(InputError, match="exists already"):
        pipe.run(tmp_path / "in" / "a.txt", tmp_path / "out" / "a.png", progress=False)


def test_a_loaded_lora_or_an_unsaveable_part_is_named_when_saving(pipe: TextToImage, tmp_path: Path) -> None:
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q"], r=2))
    assert pipe.facts()["loras"] == {"default": 1.0}
    with pytest.raises(InputError, match="but a LoRA was set in code; save"):
        pipe.arguments()
    with pytest.raises(InputError, match="a LoRA is loaded in the unet"):
        pipe.save_pretrained(tmp_path / "p")
    pipe.unet.delete_adapters("default")
    pipe.gain = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"the gain \(Linear\) has no save_pretrained"):
        pipe.save_pretrained(tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_the_text_encoder_is_loaded_exactly(pipe: TextToImage, tmp_path: Path) -> None:
    pipe.to(torch.float16).save_pretrained(tmp_path)
    loaded = CLIPTextModel.from_pretrained(tmp_path / "text_encoder").half()  # transformers 4 loads as float32
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in pipe.text_encoder.state_dict().items())
    assert read_checkpoint(tmp_path / "text_encoder" / "model.safetensors").popitem()[1].dtype == torch.float16
