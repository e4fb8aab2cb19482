"""Weights that people have: single files, LoRA, textual inversions, and models of other kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import tiny, tiny_diffusion
from tests.command import run
from tests.pipelines.edit.test_command import QUICK, TEXTS
from tests.pipelines.edit.test_files import clip, shown
from visionzoo.diffusion import load_embedding, load_lora
from visionzoo.diffusion.single_file import single_file_kind
from visionzoo.errors import InputError
from visionzoo.pipelines.edit import LOVEConPipeline
from visionzoo.weights import WeightsError

RED, BLUE = "a girl with a red shirt", "a girl with a blue shirt"
Parts = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd: Stable Diffusion; config: the same without weights; sd.safetensors: in one file; cn: a ControlNet; whole: all."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("sd", "config"):
        tiny_diffusion.save_stable_diffusion(folder / name)
    for file in (folder / "config").rglob("*.safetensors"):
        file.unlink()
    tiny_diffusion.save_single_file(folder / "sd.safetensors")
    tiny_diffusion.controlnet().save_pretrained(folder / "cn")
    tiny.edit().save_pretrained(folder / "whole")
    return folder


def save_lora(path: Path, width: int = 32) -> Path:
    """A LoRA of rank 2 of one layer, in kohya's format."""
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    generator = torch.Generator().manual_seed(0)
    state = {
        f"{name}.lora_down.weight": torch.randn(2, width, generator=generator),
        f"{name}.lora_up.weight": torch.randn(64, 2, generator=generator),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(state, path)
    return path


def edit(pipe: Any, prompt: str = BLUE, source_prompt: str = RED, **settings: Any) -> np.ndarray:
    video = list(np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8))
    given: dict[str, Any] = {"control": lambda frame: frame, "progress": lambda *_: None, "phrase": "", **settings}
    return np.stack(pipe(video, prompt, source_prompt, **{"steps": 1, "guidance": 1.0, "window": 2, **given}).frames)


def pipeline() -> LOVEConPipeline:
    found = {**tiny_diffusion.parts(), "controlnet": tiny_diffusion.controlnet()}
    return LOVEConPipeline(**{name: part for name, part in found.items() if part is not None}, mask_scale=16)


def command(capsys: Any, tmp_path: Path, *words: object, texts: tuple[str, ...] = TEXTS) -> tuple[int, str, str]:
    if not (tmp_path / "a.mp4").exists():
        clip(tmp_path / "a.mp4", 2)
    target = tmp_path / "b.mkv"
    return run(capsys, "edit", tmp_path / "a.mp4", "-o", target, *texts, *QUICK, "--phrase", "", "--overwrite", *words)


# Single files


def test_a_single_file_is_the_same_model_as_a_folder(folders: Path) -> None:
    made = [
        LOVEConPipeline.create(None, "cpu", checkpoint=folders / place, controlnet=folders / "cn", **more)
        for place, more in (("sd", {}), ("sd.safetensors", {"config": folders / "config"}))
    ]
    assert made[0].fingerprint == made[1].fingerprint
    assert np.array_equal(edit(made[0]), edit(made[1]))
    where = {"checkpoint": "sd.safetensors", "config": "config", "controlnet": "cn"}
    assert {name: made[1].arguments()[name] for name in where} == {n: str(folders / p) for n, p in where.items()}


def test_a_single_file_in_half_precision(folders: Path) -> None:
    pipe = LOVEConPipeline.from_single_file(
        folders / "sd.safetensors", config=folders / "config", controlnet=tiny_diffusion.controlnet(), dtype="bfloat16"
    )
    assert {pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype} == {torch.bfloat16}
    assert not pipe.unet.training


def test_the_command_takes_a_single_file(folders: Path, tmp_path: Path, capsys: Any) -> None:
    words = ("--controlnet", folders / "cn", "--checkpoint")
    assert command(capsys, tmp_path, *words, folders / "sd")[0] == 0
    want = shown(tmp_path / "b.mkv")
    code, _, err = command(capsys, tmp_path, *words, folders / "sd.safetensors", "--config", folders / "config")
    assert (code, err.count("\n")) == (0, 1)  # where it was saved
    assert np.array_equal(shown(tmp_path / "b.mkv"), want)


def test_single_files_that_cannot_be_used(folders: Path, tmp_path: Path) -> None:
    whole = {
        "model.diffusion_model.input_blocks.0.0.bias": torch.zeros(1),
        "first_stage_model.encoder.conv_in.bias": torch.zeros(1),
        "cond_stage_model.transformer.text_model.a": torch.zeros(1),
    }
    files: dict[str, dict[str, torch.Tensor]] = {
        "xl": {"conditioner.embedders.0.a": torch.zeros(1), **whole},
        "sd2": {"cond_stage_model.model.a": torch.zeros(1), **dict(list(whole.items())[:2])},
        "unet": dict(list(whole.items())[:1]),
        "other": {"a": torch.zeros(1)},
        "few": whole,
    }
    for name, state in files.items():
        save_file(state, tmp_path / f"{name}.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes((folders / "sd.safetensors").read_bytes()[:5000])
    save_lora(tmp_path / "lora.safetensors")
    right: dict[str, Any] = {"config": folders / "config", "controlnet": tiny_diffusion.controlnet()}
    for name, changes, reason in (
        ("xl", {}, r"xl\.safetensors: holds SDXL, expected Stable Diffusion 1\.5"),
        ("sd2", {}, "holds Stable Diffusion 2, expected"),
        ("unet", {}, "holds no autoencoder and no text encoder; expected the whole"),
        ("other", {}, "holds something else, expected"),
        ("lora", {}, "holds a LoRA, expected"),
        ("damaged", {}, r"damaged\.safetensors: "),
        ("few", {}, r"few\.safetensors: does not fit the configuration .*config \(.*\)"),
        ("gone", {}, r"gone\.safetensors: no such file"),
        ("few", {"config": None}, r"has no configuration and no tokenizer; give a folder with them, .* with --config"),
        ("few", {"controlnet": None}, "config: has no ControlNet; add one"),
        ("few", {"config": folders / "cn"}, r"cn: holds no pipeline: there is no model_index\.json"),
    ):
        with pytest.raises(InputError, match=reason) as error:
            LOVEConPipeline.from_single_file(tmp_path / f"{name}.safetensors", **{**right, **changes})
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="a configuration belongs to a checkpoint in a single file"):
        LOVEConPipeline.create("lovecon_nano", "cpu", config=folders / "config")
    with pytest.raises(InputError, match=r"gone\.safetensors: no such file"):
        LOVEConPipeline.create(None, "cpu", checkpoint=tmp_path / "gone.safetensors", **right)
    assert single_file_kind(folders / "sd.safetensors") == "Stable Diffusion 1.5"


# LoRA


def test_loras_of_the_command(folders: Path, tmp_path: Path, capsys: Any) -> None:
    """The strength after the colon is that of `load_lora`; at 0, the LoRA does nothing."""
    lora = save_lora(tmp_path / "pink.safetensors")
    results = []
    for words in ((), ("--lora", f"{lora}:0"), ("--lora", lora)):
        assert command(capsys, tmp_path, "--checkpoint", folders / "whole", *words)[0] == 0
        results.append(shown(tmp_path / "b.mkv"))
    plain, off, full = results
    assert np.array_equal(off, plain)
    assert not np.array_equal(full, plain)
    assert json.loads((tmp_path / "b.mkv.json").read_text())["options"]["loras"] == {"pink": 1.0}
    for words, reason in (
        ((f"{lora}:much",), "the strength after the colon must be a number, got 'much'"),
        ((tmp_path / "gone.safetensors",), "gone.safetensors: no such file"),
        (("",), "--lora: the path is empty"),
        ((save_lora(tmp_path / "wide.safetensors", 48),), "is it for another base model?"),
    ):
        code, _, err = command(capsys, tmp_path, "--checkpoint", folders / "whole", "--lora", *words)
        assert (code, err.count("\n")) == (2, 1)
        assert reason in err


def test_a_lora_given_by_path_is_made_again_elsewhere(folders: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "pink.safetensors")
    pipe = LOVEConPipeline.create(None, "cpu", checkpoint=folders / "whole", loras={str(lora): 0.5})
    arguments = pipe.arguments()
    assert arguments["loras"] == {str(lora): 0.5}
    again = LOVEConPipeline.create(**{key: value for key, value in arguments.items() if key != "task"})
    assert np.array_equal(edit(again), edit(pipe))
    load_lora(pipe, save_lora(tmp_path / "other.safetensors"))
    with pytest.raises(InputError, match="a LoRA was set in code"):
        pipe.arguments()


# Textual inversion


def test_a_textual_inversion_changes_its_word_only(tmp_path: Path) -> None:
    pipe = pipeline()
    plain = edit(pipe)
    vectors = torch.randn(2, tiny_diffusion.WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, tmp_path / "pink-hat.safetensors")
    assert load_embedding(pipe, tmp_path / "pink-hat.safetensors") == "<pink-hat>"
    torch.save({"name": "sks", "string_to_param": {"*": vectors[:1]}}, tmp_path / "b.pt")
    assert load_embedding(pipe, tmp_path / "b.pt") == "sks"
    assert np.array_equal(edit(pipe), plain)
    results = [edit(pipe, f"a girl with a {word} shirt") for word in ("<pink-hat>", "sks")]
    assert not np.array_equal(results[0], plain)
    assert not np.array_equal(results[1], results[0])
    with pytest.raises(InputError, match="unknown word 'bleu'"):
        edit(pipe, "a girl with a bleu <pink-hat>")
    pipe.unload_textual_inversion()
    assert np.array_equal(edit(pipe), plain)


def test_words_of_several_vectors_shift_the_columns_of_the_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visionzoo.pipelines.edit import pipeline as module

    pipe, seen = pipeline(), []
    save_file({"<two>": torch.randn(2, tiny_diffusion.WIDTH)}, tmp_path / "a.safetensors")
    load_embedding(pipe, tmp_path / "a.safetensors")
    inversion = module.Inversion

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[4])
        return inversion(*arguments)

    monkeypatch.setattr(module, "Inversion", watched)
    edit(pipe, "a <two> with a blue shirt", "a <two> with a red shirt", phrase=None)
    edit(pipe, "a <two> with a blue shirt", "a <two> with a red shirt", phrase="red")
    edit(pipe, "a girl with a red shirt", "a <two> with a red shirt", phrase="<two>")
    assert seen == [[6], [6], [2, 3]]


def test_the_command_takes_textual_inversions(folders: Path, tmp_path: Path, capsys: Any) -> None:
    save_file({"emb_params": torch.randn(1, tiny_diffusion.WIDTH)}, tmp_path / "wool.safetensors")
    save_file({"emb_params": torch.randn(1, 48)}, tmp_path / "wide.safetensors")
    words = ("--checkpoint", folders / "whole", "--embedding")
    texts = ("--prompt", "a girl with a <wool> shirt", "--source-prompt", RED)
    assert command(capsys, tmp_path, *words, tmp_path / "wool.safetensors", texts=texts)[0] == 0
    for file, reason in (
        ("wide.safetensors", "is for texts of width 48, but this model has 32; is it for another base model?"),
        ("gone.safetensors", "gone.safetensors: no such file"),
    ):
        code, _, err = command(capsys, tmp_path, *words, tmp_path / file)
        assert (code, err.count("\n")) == (2, 1)
        assert reason in err


def test_textual_inversions_given_by_path_are_made_again_elsewhere(folders: Path, tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(1, tiny_diffusion.WIDTH)}, tmp_path / "wool.safetensors")
    pipe = LOVEConPipeline.create(None, "cpu", checkpoint=folders / "whole", embeddings=[tmp_path / "wool.safetensors"])
    arguments = pipe.arguments()
    assert arguments["embeddings"] == [str(tmp_path / "wool.safetensors")]
    assert list(pipe.facts()["embeddings"]) == ["<wool>"]
    again = LOVEConPipeline.create(**{key: value for key, value in arguments.items() if key != "task"})
    assert again.facts() == pipe.facts()
    save_file({"emb_params": torch.ones(1, tiny_diffusion.WIDTH)}, tmp_path / "felt.safetensors")
    load_embedding(pipe, tmp_path / "felt.safetensors")
    with pytest.raises(InputError, match="a textual inversion was set in code"):
        pipe.arguments()


@pytest.mark.parametrize(
    ("state", "word", "reason"),
    [
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}, None, "holds no textual inversion"),
        ({"<a>": torch.full((1, 32), float("nan"))}, None, "has values that are NaN"),
        ({"<a>": torch.zeros(1, 32)}, "two words", "has no spaces"),
        ({"red</w>": torch.zeros(1, 32)}, None, "is taken; choose another"),
    ],
)
def test_textual_inversions_that_cannot_be_used(
    tmp_path: Path, state: dict[str, torch.Tensor], word: str | None, reason: str
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=reason):
        load_embedding(tiny.edit(), tmp_path / "a.safetensors", word)


# Models of other kinds


def test_folders_of_other_models_are_named(folders: Path, tmp_path: Path) -> None:
    index = json.loads((folders / "sd" / "model_index.json").read_text())
    for name, changes in (
        ("sdxl", {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}),
        ("sd2", {}),
        ("flux", {"_class_name": "FluxPipeline", "unet": [None, None], "transformer": ["diffusers", "Flux"]}),
    ):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(json.dumps({**index, **changes}))
        (tmp_path / name / "unet" / "config.json").write_text('{"cross_attention_dim": 1024}')
    for folder, given, reason in (
        (
            tmp_path / "sdxl",
            {"controlnet": folders / "cn"},
            r"sdxl: holds SDXL or a similar model \(StableDiffusionXLPipeline\)",
        ),
        (
            tmp_path / "sd2",
            {"controlnet": folders / "cn"},
            "sd2: holds Stable Diffusion 2, whose texts have the width 1024",
        ),
        (tmp_path / "flux", {"controlnet": folders / "cn"}, "flux: holds a FluxPipeline, which has no UNet"),
        (
            folders / "sd",
            {},
            r"sd: has no ControlNet; add one for this model with --controlnet FOLDER \(in Python: controlnet=",
        ),
    ):
        for call in (LOVEConPipeline.create, LOVEConPipeline.from_pretrained):
            with pytest.raises(WeightsError, match=reason) as error:
                if call is LOVEConPipeline.create:
                    LOVEConPipeline.create(None, "cpu", checkpoint=folder, **given)
                else:
                    LOVEConPipeline.from_pretrained(folder, **dict.fromkeys(given, tiny_diffusion.controlnet()))
            assert "\n" not in str(error.value)
