"""The packaged recipes: every one builds its model, its reader takes a scene in that layout, and training starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from visionzoo.models.modecgs import MoDecGS
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, SyntheticScene
from visionzoo.models.modecgs.captures.writing import (
    CapturedImage,
    write_blender,
    write_colmap,
    write_dynerf,
    write_nerfies,
)
from visionzoo.training.configuration import load_config
from visionzoo.training.run import run

RECIPES = ("hypernerf", "iphone", "nvidia", "dynerf", "dnerf", "fox")
SCENE = SyntheticConfig(frames=12, size=24, per_blob=12, wall=60)
STEPS = [
    "model.recipe.coarse_steps=1", "model.recipe.fine_steps=1", "trainer.max_steps=2", "trainer.accelerator=cpu",
    "trainer.callbacks=[]", "trainer.logger=false", "trainer.val_check_interval=null", "model.export=false",
]  # fmt: skip


def pictures(*, test: bool) -> list[CapturedImage]:
    scene = SyntheticScene(SCENE)
    found = []
    for number, time in enumerate(SCENE.times):
        truth = scene.truth(number, test=test)
        name = f"{'test' if test else 'train'}_{number:03d}"
        found.append(CapturedImage(name, truth.image, scene.camera(float(time), test=test), float(time), truth.seen))
    return found


def nerfies(folder: Path) -> Path:
    return write_nerfies(folder, pictures(test=False), pictures(test=True), SyntheticScene(SCENE).points())


def dycheck(folder: Path) -> Path:
    return write_nerfies(
        folder, pictures(test=False), pictures(test=True), SyntheticScene(SCENE).points(), dycheck=True
    )


def colmap(folder: Path) -> Path:
    return write_colmap(folder, pictures(test=False), SyntheticScene(SCENE).points())


def blender(folder: Path) -> Path:
    return write_blender(folder, pictures(test=False), pictures(test=True), SyntheticScene(SCENE).points())


def dynerf(folder: Path) -> Path:
    """Three fixed cameras."""
    scene = SyntheticScene(SCENE)
    fixed = []
    for place in (0.0, 0.25, 0.6):
        camera = scene.camera(place)
        fixed.append([replace(picture, camera=camera) for picture in pictures(test=False)])
    return write_dynerf(folder, fixed, scene.points())


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "hypernerf": (nerfies, "nerfies"),
    "iphone": (dycheck, "dycheck"),
    "nvidia": (colmap, "colmap"),
    "dynerf": (dynerf, "dynerf"),
    "dnerf": (blender, "blender"),
    "fox": (blender, "blender"),
}


def variants() -> list[tuple[str, str]]:
    """The settings that the comments of the recipes list: lines of a name and overrides."""
    found = []
    for recipe in RECIPES:
        text = resources.files("visionzoo.configs").joinpath(f"modecgs/{recipe}.yaml").read_text(encoding="utf-8")
        found += [(recipe, match[1]) for match in re.finditer(r"^#   [\w-]+ +((?:\w+\.[\w.]+=\S+ ?)+)$", text, re.M)]
    return found


def test_the_comments_list_the_published_exceptions():
    listed = variants()
    assert [recipe for recipe, _ in listed] == ["hypernerf"] * 6 + ["nvidia", "dynerf"]


@pytest.mark.parametrize(("recipe", "words"), [*((name, "") for name in RECIPES), *variants()])
def test_a_recipe_builds_its_model_and_ends_with_its_schedule(recipe: str, words: str):
    from visionzoo.models.modecgs import MoDecGSTraining, SceneData

    config = load_config([f"modecgs/{recipe}"], words.split())
    module = MoDecGSTraining(**config["model"]["init_args"])
    assert isinstance(module.model, MoDecGS)
    assert module.recipe.steps == config["trainer"]["max_steps"]
    assert SceneData(**config["data"]["init_args"]).batch_size == config["data"]["init_args"]["batch_size"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_on_a_scene_in_its_layout(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write, layout = LAYOUTS[recipe]
    folder = write(tmp_path / "scene")
    result = run("fit", [f"modecgs/{recipe}"], [f"data.root={folder}", "data.batch_size=1", *STEPS])
    assert result["train/loss"] > 0
    assert layout in capsys.readouterr().err
