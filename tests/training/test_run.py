"""`visionzoo fit|validate|test|predict`: configurations found, merged, checked and run."""

from __future__ import annotations

import json
import math

import pytest

from visionzoo.errors import InputError, VisionZooError
from visionzoo.training.configuration import load_config, packaged_configs, split_overrides
from visionzoo.training.run import run


def _yaml(path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# Configuration


def test_packaged_configurations_all_load():
    names = packaged_configs()
    assert {
        f"superglobal/{n}" for n in ("roxford", "rparis", "roxford_1m", "gldv2_arcface", "tiny", "tiny_eval")
    } <= set(names)
    for name in names:
        config = load_config([name])
        assert config["model"]["class_path"].startswith("visionzoo.")
        assert "vars" not in config


def test_a_packaged_name_may_be_written_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(["configs/superglobal/tiny.yaml"]) == load_config(["superglobal/tiny"])


def test_files_merge_overrides_win_and_interpolations_follow(tmp_path):
    first = _yaml(
        tmp_path / "a.yaml",
        "vars: {width: 3}\nmodel: {class_path: x.Y, init_args: {dim: '${vars.width}', lr: 1}}\nseed_everything: 1\n",
    )
    second = _yaml(tmp_path / "b.yaml", "model: {init_args: {lr: 2}}\n")
    config = load_config([first, second], ["vars.width=5"])
    assert config == {"model": {"class_path": "x.Y", "init_args": {"dim": 5, "lr": 2}}, "seed_everything": 1}
    assert type(config["model"]) is dict  # plain values, so that checkpoints hold nothing else
    assert load_config([first, second], ["model.lr=0.5"])["model"]["init_args"]["lr"] == 0.5
    assert load_config([first], ["model.init_args.lr=7"])["model"]["init_args"]["lr"] == 7


def test_interpolation_follows_an_override_of_its_source():
    config = load_config(["superglobal/roxford_1m"], ["data.root=/images", "model.name=superglobal_r101"])
    assert config["data"]["init_args"]["distractor_list"] == "/images/revisitop1m.txt"
    assert config["data"]["init_args"]["distractors"].endswith("superglobal_r101")


def test_settings_of_list_items():
    word = "trainer.callbacks[0].init_args.every_n_train_steps=5"
    (callback,) = load_config(["shvit/tiny"], [word])["trainer"]["callbacks"]
    assert callback["init_args"]["every_n_train_steps"] == 5
    assert callback["init_args"]["save_last"] is True


def test_overrides_in_three_spellings():
    words = ["a.b=1", "--c.d=2", "--e", "3", "--f.g", "-1", "h[0].i=x y"]
    assert split_overrides(words) == ["a.b=1", "c.d=2", "e=3", "f.g=-1", "h[0].i=x y"]
    for wrong in (["a"], ["--a"], ["--a", "--b=1"], ["=1"], ["1=2"]):
        with pytest.raises(InputError, match="write key=value"):
            split_overrides(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1\n", r"c\.yaml, line \d: not valid YAML"),
        ("model: {lr: '${vars.nope}'}\n", "nope"),
        ("- a\n- b\n", "expected the sections"),
        ("just text\n", "no setting 'just text'; known: model"),
        ("modle: {}\n", "no setting 'modle'; did you mean model?"),
        ("colour: red\n", "no setting 'colour'; known: model, data, trainer"),
    ],
)
def test_a_wrong_file_is_a_one_line_error_with_its_name(tmp_path, text, message):
    file = _yaml(tmp_path / "c.yaml", text)
    with pytest.raises(InputError, match=message) as caught:
        load_config([file])
    assert "\n" not in str(caught.value)


def test_an_override_that_is_no_yaml_is_one_line():
    with pytest.raises(InputError, match=r"superglobal/tiny with model\.checkpoint=\{a\}/b: ") as caught:
        load_config(["superglobal/tiny"], ["model.checkpoint={a}/b"])
    assert "\n" not in str(caught.value)


def test_missing_files_name_near_ones():
    with pytest.raises(
        InputError, match=r"superglobal/tinny: no such configuration file; did you mean superglobal/tiny"
    ):
        load_config(["superglobal/tinny"])
    with pytest.raises(InputError, match="give --config FILE, or a packaged recipe: .*superglobal/tiny"):
        load_config([])


# Settings that cannot be used


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.margn=0.1", r"model \(SuperGlobalTraining\) has no setting 'margn'; did you mean margin"),
        ("data.batchsize=2", r"data \(SuperGlobalData\) has no setting 'batchsize'; did you mean batch_size"),
        ("trainer.max_epoch=1", r"trainer has no setting 'max_epoch'; did you mean max_epochs"),
        ("trainer.max_epochs=abc", r"trainer\.max_epochs must be int or nothing, got abc"),
        ("model.lr=fast", r"model\.lr must be float, got fast"),
        ("data.layout=folder", r"data\.layout must be Literal\['folders'"),
        ("model.config.bacbone=x", "SuperGlobalConfig has no field 'bacbone'"),
        ("vars.classes=1", "ArcFace needs two classes or more"),
        ("data.class_path=os.system", r"class_path 'os\.system' is not in the packages visionzoo, lightning, torch"),
        ("data.class_path=visionzoo.models.superglobal.Nothing", "there is no class"),
        ("trainer.logger.class_path=evil.Logger", r"'evil\.Logger' is not in"),
        ("ckpt_path=nothing.ckpt", r"nothing\.ckpt: no such checkpoint"),
        ("ckpt_path=last", r"ckpt_path=last: outputs/superglobal/tiny holds no checkpoint"),
        ("vars.output=1", r"vars\.output: the configuration does not use this value; known: vars\.classes"),
        ("data.classes=9", r"the data has 9 classes, but model\.num_classes is 8"),
    ],
)
def test_a_wrong_setting_is_a_one_line_error(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VisionZooError, match=message) as caught:
        run("fit", ["superglobal/tiny"], [word])
    assert "\n" not in str(caught.value)


def test_classes_of_another_package_load_if_trusted(tmp_path, monkeypatch):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('this was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["data.class_path=mine.Data"]
    with pytest.raises(InputError, match="VISIONZOO_CONFIG_PACKAGES=mine"):
        run("fit", ["superglobal/tiny"], words)
    monkeypatch.setenv("VISIONZOO_CONFIG_PACKAGES", "other, mine")
    with pytest.raises(RuntimeError, match="this was imported"):
        run("fit", ["superglobal/tiny"], words)


@pytest.mark.parametrize(
    ("subcommand", "recipe", "message"),
    [
        ("test", "shvit/s1_imagenet", "SHViTTraining does not support `visionzoo test`, only fit, validate"),
        ("predict", "mcnet/tiny", "MCNetTraining does not support `visionzoo predict`, only fit, validate, test"),
        ("fit", "superglobal/roxford", "RevisitedData does not support `visionzoo fit`, only test, predict"),
    ],
)
def test_unsupported_requests_are_one_line_errors(subcommand, recipe, message):
    with pytest.raises(InputError, match=message):
        run(subcommand, [recipe])


SMALL_VIDEO = [
    "model.base=null",
    "model.config={channels: [8, 16], plain: 1, head: 8, groups: 4, latent_size: 8, text_width: 16, text_layers: 1}",
    "data.vae=null",
]

COLOR = [
    "vars.base=null",
    "data.vae=inflated",
    "model.memory_encoder=null",
    "model.sketch_dit=null",
    "model.vae=inflated",
]

WITHOUT_FILES = {
    "longanimation/memory": COLOR,
    "longanimation/reward": [*COLOR, "model.memory_fusion=null"],
    "longanimation/sketch_dit": COLOR,
    "lovecon/controlnet": ["vars.base=null"],
    "mcnet/vox256": ["model.vgg=null", "model.perceptual=0", "model.pixel=1"],
    "superglobal/gldv2_arcface": ["model.num_classes=5"],
    "shvit/s4_512": ["model.pretrained=false"],
    "slowfastvgen/slow": SMALL_VIDEO,
    "slowfastvgen/slow_fast": SMALL_VIDEO,
    "shvit/xs_lite0": ["model.teacher=null", "model.distillation=none", "model.similarity=0", "model.maps=0"],
}
"""Settings with which a recipe needs no weights of other networks."""

DATA = {
    **{f"longanimation/{stage}": ["data.table=nowhere"] for stage in ("memory", "reward", "sketch_dit")},
    "lovecon/rife": ["data.photos=nowhere"],
    "lovecon/tiny_rife": ["data.photos=nowhere"],
    "slowfastvgen/slow": ["data.episodes=nowhere", "data.val_episodes=nowhere"],
    "slowfastvgen/slow_fast": ["data.episodes=nowhere", "data.val_episodes=nowhere"],
}
"""Settings of missing data, for recipes whose data have another setting than `data.root`."""


DRAWN = [
    name
    for name in packaged_configs()
    if name.startswith("toy_world/")
    or name in ("lovecon/nano", "lovecon/tiny_controlnet", "slowfastvgen/nano", "slowfastvgen/tiny_slow_fast")
    or name in ("longanimation/vae", "longanimation/tiny_vae", "longanimation/nano")
    or name.endswith("inverse_dynamics")
]
"""Recipes that draw their data."""


@pytest.mark.parametrize(
    "name",
    [name for name in packaged_configs() if not name.endswith(("/tiny", "/tiny_eval")) and name not in DRAWN],
)
def test_every_recipe_without_its_data_is_one_line(name, tmp_path, monkeypatch):
    """A recipe gets as far as its data, which are missing."""
    monkeypatch.chdir(tmp_path)
    subcommand = "test" if "RevisitedData" in load_config([name])["data"]["class_path"] else "fit"
    words = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=auto"]
    words += DATA.get(name, ["data.root=nowhere"])
    with pytest.raises(VisionZooError, match="nowhere") as caught:
        run(subcommand, [name], [*words, *WITHOUT_FILES.get(name, [])])
    assert "\n" not in str(caught.value)


LITTLE = {
    "longanimation/nano": [
        "vars.vae=inflated",
        "data.windows=1",
        "data.val_windows=1",
        "data.frames=9",
        "data.history=4",
        "data.size=64",
        "model.sample_steps=1",
    ],
    "longanimation/vae": ["data.clips=2", "data.val_clips=1", "data.val_frames=9"],
    "lovecon/nano": ["data.frames=2", "data.val_frames=1", "model.sample_steps=1"],
    "slowfastvgen/inverse_dynamics": ["data.worlds=1", "data.val_worlds=1"],
    "slowfastvgen/nano": ["data.worlds=4", "data.val_worlds=1", "model.sample_steps=1"],
    "toy_world/parts": ["data.worlds=2", "data.takes=1", "data.val_frames=1"],
    "toy_world/text_to_image": ["data.frames=2", "data.val_frames=1", "model.sample_steps=1"],
    "toy_world/vae": ["data.frames=2", "data.val_frames=1"],
}
"""Settings with which a recipe draws little."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DRAWN if "/tiny" not in name])
def test_recipes_that_draw_their_data_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["trainer.fast_dev_run=true", "data.batch_size=1", *LITTLE[name]]
    assert "train/loss" in run("fit", [name], words)


def test_unknown_subcommand():
    with pytest.raises(InputError, match="there is no subcommand 'train'"):
        run("train", ["superglobal/tiny"])


# Runs


def test_evaluation_end_to_end_with_distractors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plain = run("test", ["superglobal/tiny_eval"])
    table = capsys.readouterr().out
    assert "rtoy: 5 queries, 55 images; model superglobal_r50" in table
    assert "reranked" in table
    assert plain["distractors"] == 0
    assert 0 < plain["stages"]["single_stage"]["M"]["map"] < 100

    words = ["--data.distractors", "out"]
    with pytest.raises(InputError, match="out: no descriptors there; make them with: visionzoo predict"):
        run("test", ["superglobal/tiny_eval"], words)
    described = run("predict", ["superglobal/tiny_eval"], words)
    assert described == {"folder": "out", "images": 40, "shards": 3}
    assert len(list((tmp_path / "out").glob("descriptors-*.npy"))) == 3
    assert run("predict", ["superglobal/tiny_eval"], words) == described  # nothing left to do

    capsys.readouterr()
    crowded = run("test", ["superglobal/tiny_eval"], words, json=True)
    assert json.loads(capsys.readouterr().out) == crowded  # stdout is JSON and nothing else
    assert crowded["distractors"] == 40
    for level in "EMH":  # a distractor is never right: it can only push images down
        without, with_them = (r["stages"]["single_stage"][level]["map"] for r in (plain, crowded))
        assert with_them <= without
    assert crowded["stages"]["single_stage"]["H"]["map"] < plain["stages"]["single_stage"]["H"]["map"]


def test_a_missing_image_is_reported_before_work_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"data.root={tmp_path}/data", "model.rerank_top=0"]
    only = run("test", ["superglobal/tiny_eval"], words)
    assert list(only["stages"]) == ["single_stage"]
    (tmp_path / "data" / "rtoy" / "jpg" / "rtoy_0003.jpg").unlink()
    with pytest.raises(InputError, match=r"rtoy_0003\.jpg of 60 images are missing"):
        run("test", ["superglobal/tiny_eval"], words)


@pytest.mark.slow
def test_fit_then_validate_from_its_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["trainer.max_epochs=1", "data.images_per_class=8", "data.image_size=48"]
    fitted = run("fit", ["superglobal/tiny"], small)
    assert {"train/loss_epoch", "val/mAP", "val/recall@1"} <= set(fitted)
    assert (tmp_path / "outputs/superglobal/tiny/config.yaml").is_file()
    assert "val/mAP" in capsys.readouterr().out
    again = run("validate", ["superglobal/tiny"], [*small, "ckpt_path=last"])
    assert again["val/mAP"] == pytest.approx(fitted["val/mAP"])
    assert math.isfinite(again["val/recall@1"])
    with pytest.raises(VisionZooError, match="does not fit the configuration: .* have another shape"):
        run("validate", ["superglobal/tiny"], [*small, "ckpt_path=last", "model.config.dim=32"])


@pytest.mark.parametrize("name", ["shvit/s1_imagenet", "mcnet/vox256", "superglobal/gldv2_arcface"])
def test_data_are_looked_for_before_a_process_starts_for_each_device(name, tmp_path, monkeypatch):
    from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_SubprocessScriptLauncher, "launch", lambda *_, **__: pytest.fail("processes were started"))
    words = ["trainer.accelerator=cpu", "trainer.devices=2", *WITHOUT_FILES.get(name, [])]
    with pytest.raises(InputError, match=r"data/\w+(: no such folder|/train_clean\.csv: )"):
        run("fit", [name], words)
    assert not list(tmp_path.iterdir())


def test_a_folder_and_an_empty_file_are_no_configurations(tmp_path):
    (tmp_path / "recipes").mkdir()
    with pytest.raises(InputError, match=r"recipes: is a folder, expected a configuration file \(YAML\)$"):
        load_config([tmp_path / "recipes"])
    empty = _yaml(tmp_path / "recipes" / "mine.yaml", "# nothing yet\n")
    with pytest.raises(InputError, match=r"is a folder, .*; give one of its files, e\.g\. .*mine\.yaml$"):
        load_config([tmp_path / "recipes"])
    with pytest.raises(InputError, match=r"mine\.yaml: holds no settings; expected the sections model, data, trainer"):
        load_config(["shvit/tiny", empty])
