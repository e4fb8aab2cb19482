"""The inverse dynamics network learns, resumes bit for bit and is tested; plans are followed by what it reads off frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import visionzoo
from tests.training.resuming import check_resumed_inside_an_epoch
from visionzoo.data.toy_world import ACTIONS, ToyWorld
from visionzoo.data.toy_world.camera import OPPOSITE
from visionzoo.errors import InputError
from visionzoo.models.slowfastvgen import (
    ActionPairsData,
    ActionReport,
    InverseDynamics,
    action_probabilities,
    drawn_world,
    follow_goals,
    read_actions,
    there_and_back,
)
from visionzoo.training.run import run

TINY = "slowfastvgen/tiny_inverse_dynamics"
GOALS = ["go left", "zoom in"]


class Told(InverseDynamics):
    """Knows the actions of the next calls."""

    def __init__(self, actions: list[str]):
        super().__init__(visionzoo.create_model("toy_actions", channels=(4, 4)).config)
        self.actions = actions

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        told, self.actions = self.actions[: len(pairs)], self.actions[len(pairs) :]
        return 9 * torch.nn.functional.one_hot(torch.tensor([ACTIONS.index(each) for each in told]), 7).float()


def test_pairs_have_the_action_between_them() -> None:
    data = ActionPairsData(worlds=2, size=64, val_worlds=2, test_worlds=1)
    pairs, actions = data.training[0, 1]
    assert pairs.shape == (7, 2, 3, 64, 64)
    assert torch.equal(data.training[0, 1][0], pairs)
    assert not torch.equal(data.training[1, 1][0], pairs)
    for pair, action in zip(*data.validation[0], strict=True):
        still = torch.equal(pair[0, :, :12], pair[1, :, :12])  # above the characters, who walk while the camera waits
        assert still == (ACTIONS[action] == "wait")
    assert set(actions.tolist()) <= set(range(7))


def test_the_recipe_learns_and_is_tested(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = [f"trainer.default_root_dir={tmp_path}"]
    first = run("fit", [TINY], [*root, "trainer.max_steps=1"])
    after = run("fit", [TINY], root)
    assert after["train/loss"] < 0.95 * first["train/loss"]
    capsys.readouterr()
    result = run("test", [TINY], [*root, f"model.checkpoint={tmp_path / 'weights.safetensors'}"])
    assert result["pairs"] == 4 * 7
    assert 0 < result["accuracy"] < 1
    assert "| go left |" in capsys.readouterr().out


def test_resuming_inside_an_epoch(tmp_path: Path) -> None:
    words = ["data.val_worlds=1", "data.worlds=16", "trainer.check_val_every_n_epoch=9", "trainer.max_epochs=2"]
    check_resumed_inside_an_epoch(TINY, tmp_path, words, steps=3, stop=1)


def test_the_report_counts_actions() -> None:
    report = ActionReport(("go left", "wait"), ((3, 1), (0, 4)))
    assert (report.pairs, report.accuracy) == (8, 7 / 8)
    assert "87.50% of 8 actions are right" in str(report)
    assert "| go left | 75.0% | 3 | 1 |" in str(report)
    assert report.as_dict()["accuracy"] == 7 / 8


def test_probabilities_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network: Any = visionzoo.create_model("toy_actions", channels=(4, 8)).eval()
    frames = np.random.default_rng(0).integers(0, 256, (6, 40, 52, 3), np.uint8)
    found = action_probabilities(network, frames)
    assert found.shape == (5, 7)
    assert found.sum(1) == pytest.approx(np.ones(5))
    assert action_probabilities(network, frames, batch=2) == pytest.approx(found, abs=1e-6)
    assert read_actions(network, list(frames)) == [ACTIONS[index] for index in found.argmax(1)]


# Plans


def test_a_plan_that_is_read_rightly_comes_back() -> None:
    goals = there_and_back(GOALS)
    assert goals == ["go left", "zoom in", "zoom out", "go right"]
    world = ToyWorld.create(3)
    first = next(world.film(1, size=(64, 64), start=3.0).frames(motion=False)).rgb
    chunks = list(drawn_world(world, frames=3, start=3.0)(first, goals))
    assert [chunk.shape for chunk in chunks] == [(3, 64, 64, 3)] * 4
    assert np.array_equal(chunks[0][-1], world.film(4, size=(64, 64), actions=["go left"], start=3.0)[3].rgb)
    plan = follow_goals(lambda *_: chunks, Told([goal for goal in goals for _ in range(3)]), first, goals)
    assert plan.accuracy == 1
    assert plan.distances == pytest.approx(np.zeros(5), abs=1e-6)
    assert plan.from_start == pytest.approx(0, abs=1e-6)
    assert plan.farthest == pytest.approx(18**0.5)  # three steps to the left, three of the zoom


def test_a_plan_that_is_read_wrongly_does_not() -> None:
    goals = there_and_back(GOALS)
    told = [goal for goal in goals for _ in range(3)]
    told[-3:] = ["wait", "go left", "go right"]
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    plan = follow_goals(lambda *_: [frames] * 4, Told(told), frames[0], goals)
    assert plan.accuracy == pytest.approx(10 / 12)
    assert plan.actions[3] == ("wait", "go left", "go right")
    assert plan.distances == pytest.approx([0, 0, 0, 0, 3], abs=1e-6)
    assert plan.from_start == pytest.approx(3)
    assert plan.as_dict()["from_start"] == plan.from_start


def test_the_bundled_network_finds_the_way_back() -> None:
    """On frames of a held-out world, also where they are blurred and dark."""
    network: Any = visionzoo.create_model("toy_actions", pretrained=True).eval()
    world = ToyWorld.create(6, "test", places=3, characters=1)
    goals = there_and_back(["go left", "zoom in", "go in", "wait"])
    first = next(world.film(1, size=(96, 96), start=3.0).frames(motion=False)).rgb
    drawn = drawn_world(world, frames=4, start=3.0)
    plan = follow_goals(drawn, network, first, goals)
    assert plan.accuracy >= 30 / 32
    assert plan.from_start < 3

    def worse(image: Any, goals: Any) -> Any:
        for chunk in drawn(image, goals):
            yield np.stack([cv2.GaussianBlur(frame, (0, 0), 0.8) // 5 * 4 for frame in chunk])

    assert follow_goals(worse, network, cv2.GaussianBlur(first, (0, 0), 0.8) // 5 * 4, goals).accuracy >= 28 / 32


def test_every_action_has_a_way_back() -> None:
    for action in ACTIONS:
        forth = ["zoom in", "go in", action]  # in front of which every action has its full effect
        goals = there_and_back(forth)
        frames = np.zeros((2, 64, 64, 3), np.uint8)
        plan = follow_goals(lambda *_: [frames] * 6, Told([goal for goal in goals for _ in range(2)]), frames[0], goals)  # noqa: B023
        assert goals[3] == OPPOSITE[action]
        assert plan.from_start == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActionPairsData(worlds=0), "data.worlds must be at least 1, got 0"),
        (lambda: visionzoo.create_model("toy_actions", channel=(8,)), "channels"),
        (lambda: visionzoo.create_model("toy_actions", grid=0), "must be positive numbers"),
        (lambda: visionzoo.create_model("toy_actions", actions=("wait", "wait")), "must be two or more different ones"),
        (lambda: read_actions(Told([]), [np.zeros((8, 8, 3), np.uint8)]), "an action lies between two frames"),
        (lambda: read_actions(Told([]), [np.zeros((8, 8, 3))]), r"frame 0 is float64 of shape \(8, 8, 3\)"),
        (
            lambda: read_actions(Told(["wait"]), [np.zeros((8, side, 3), np.uint8) for side in (8, 9)]),
            "frame 1 is 9 x 8 pixels, frame 0 8 x 8",
        ),
        (lambda: there_and_back(["go up"]), "action 1 is 'go up'; the actions are: go left"),
        (lambda: there_and_back([]), "there are no sub-goals"),
        (
            lambda: follow_goals(lambda *_: [], Told([]), np.zeros((8, 8, 3), np.uint8), ["wait"]),
            "the generator made 0 chunks for 1 sub-goals",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
