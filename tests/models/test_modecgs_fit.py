"""Fitting a scene: stages, order of frames, steps that are skipped, masks, and what it reaches on a synthetic scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.modecgs import Fit, Frame, MoDecGS, MoDecGSConfig, Recipe, batches, draw
from visionzoo.models.modecgs.captures import synthetic
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, SyntheticScene, synthetic_capture
from visionzoo.models.modecgs.data import Frames
from visionzoo.models.modecgs.model import build
from visionzoo.training.configuration import load_config

TINY = MoDecGSConfig(
    feature_dim=16,
    num_offsets=5,
    voxel_size=0.05,
    global_resolution=(16, 16, 16, 8),
    global_levels=(1,),
    global_channels=8,
    local_resolution=(24, 24, 24, 24),
    local_levels=(1,),
    local_channels=8,
    width=32,
    num_segments=4,
)
SMALL = SyntheticConfig(frames=6, size=24, per_blob=12, wall=60)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_capture(tmp_path_factory.mktemp("scene"), SMALL)


def fit_of(folder: Path, recipe: Recipe) -> tuple[Fit, list[Frame]]:
    torch.manual_seed(0)
    capture = read_capture(folder)
    model = MoDecGS(TINY)
    model.initialize(capture.points.positions.astype(np.float32))
    frames = Frames(capture.train)
    return Fit(model, recipe, capture.extent), [frames.frame(i) for i in range(len(frames))]


def test_the_loss_falls_and_the_stages_follow_each_other(small: Path):
    recipe = Recipe(coarse_steps=30, fine_steps=20, batch_size=2, decay_steps=50)
    fit, frames = fit_of(small, recipe)
    done = [fit.step([frames[i] for i in numbers]) for numbers in batches(len(frames), recipe)]
    assert [p.stage for p in done] == ["coarse"] * 30 + ["fine"] * 20
    assert [p.iteration for p in done] == list(range(1, 51))
    assert np.mean([p.loss for p in done[-5:]]) < 0.75 * np.mean([p.loss for p in done[:5]])


def test_adam_starts_again_with_the_fine_stage(small: Path):
    fit, frames = fit_of(small, Recipe(coarse_steps=3, fine_steps=3, batch_size=1))
    steps = []
    for i in range(6):
        fit.step(frames[i : i + 1])
        steps.append(int(fit.optimizer.state[fit.model.anchors["features"]]["step"]))
    assert steps == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("start_still", [False, True])
def test_the_fine_stage_can_begin_at_rest(small: Path, start_still: bool):
    """Its first images are then those of the coarse stage; otherwise the untrained fields move everything."""
    fit, frames = fit_of(small, Recipe(coarse_steps=20, fine_steps=10, batch_size=1, start_still=start_still))
    frame = frames[0]
    for _ in range(20):
        fit.step([frame])
    before = _psnr(fit.model, frame, "static")
    psnr = fit.step([frame]).psnr  # before the step
    assert (abs(psnr - before) < 0.05) == start_still
    for _ in range(5):
        fit.step([frame])
    assert not torch.equal(fit.model(frame.center, frame.time).means, fit.model(frame.center, None).means)


def test_a_step_is_seen_at_inference_without_a_change_of_mode(small: Path):
    """Deformed anchors are kept in `eval()` until a weight changes, which a fused optimizer does not count."""
    fit, frames = fit_of(small, Recipe(coarse_steps=0, fine_steps=2, batch_size=1))
    fit.model.eval()
    with torch.no_grad():
        before = fit.model(frames[0].center, frames[0].time)
    fit.step(frames[:1])
    with torch.no_grad():
        kept = fit.model(frames[0].center, frames[0].time)
        fit.model.clear_cache()
        fresh = fit.model(frames[0].center, frames[0].time)
    assert torch.equal(kept.means, fresh.means)
    assert not torch.equal(kept.means, before.means)


def test_every_epoch_shows_each_frame_once_and_resumes_anywhere():
    recipe = Recipe(coarse_steps=4, fine_steps=8, batch_size=3)
    every = list(batches(9, recipe))
    assert len(every) == 12
    for epoch in range(4):
        assert sorted(i for part in every[3 * epoch : 3 * epoch + 3] for i in part) == list(range(9))
    assert every[0:3] != every[3:6]
    for start in (1, 4, 11):
        assert list(batches(9, recipe, start)) == every[start:]


def test_a_step_that_is_not_finite_changes_nothing(small: Path):
    fit, frames = fit_of(small, Recipe(coarse_steps=30, fine_steps=0, batch_size=1))
    fit.step(frames[:1])
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    broken = replace(frames[1], image=torch.full_like(frames[1].image, torch.nan))
    done = fit.step([broken])
    assert done.skipped
    assert done.iteration == 2
    assert all(torch.equal(value, before[name]) for name, value in fit.model.state_dict().items())
    assert not fit.step(frames[2:3]).skipped
    with pytest.raises(
        VisionZooError, match="not finite in 20 steps in a row, up to iteration 23; lower the learning rate"
    ):
        for _ in range(20):
            fit.step([broken])


def test_masked_pixels_do_not_count(small: Path):
    """Whatever the truth is where the mask is 0, the loss and the gradients are the same."""
    losses = []
    for value in (0.0, 1.0):
        fit, frames = fit_of(small, Recipe(coarse_steps=5, fine_steps=0, batch_size=1))
        weight = torch.zeros(1, 24, 24)
        weight[:, :, :10] = 1
        image = torch.where(weight > 0, frames[0].image, torch.full_like(frames[0].image, value))
        losses.append([fit.step([replace(frames[0], image=image, weight=weight)]).psnr for _ in range(3)])
    # windows of the SSIM that reach over the border see the truth beyond it
    np.testing.assert_allclose(*losses, rtol=0.02)


def test_frames_of_one_segment_share_their_deformed_anchors(small: Path, monkeypatch: pytest.MonkeyPatch):
    fit, frames = fit_of(small, Recipe(coarse_steps=0, fine_steps=5, batch_size=4))
    calls = []
    canonical = fit.model.canonical
    monkeypatch.setattr(fit.model, "canonical", lambda time: calls.append(time) or canonical(time))
    fit.step([replace(frames[0], time=t) for t in (0.0, 0.1, 0.2, 0.6)])
    assert calls == [0.0, 0.6]


def test_images_beyond_the_limit_are_read_again(small: Path):
    capture = read_capture(small)
    one = capture.train[0].pixels().nbytes
    kept, read = Frames(capture.train, limit=2 * one), Frames(capture.train)
    for number in (0, 1, 2, 3, 0, 3):
        assert torch.equal(kept.frame(number).image, read.frame(number).image)
    assert len(kept._kept) == 2


def test_a_model_without_anchors_is_refused():
    with pytest.raises(InputError, match=r"the model has no anchors; call model\.initialize"):
        Fit(MoDecGS(TINY), Recipe(), 1.0)


def test_truth_of_the_synthetic_scene():
    """Depth, flow and covisibility agree with the geometry."""
    scene = SyntheticScene(replace(SMALL, size=48, blobs=1, wall=400))
    times = scene.config.times
    truth = scene.truth(2)
    camera, following = scene.camera(float(times[2])), scene.camera(float(times[3]))
    wall = scene.wall[np.abs(scene.wall[:, :2]).max(1) < 1.2] + 0.0
    pixels, depths = camera.project(wall)
    moved = following.project(wall)[0]
    blobs = camera.project(scene.means(float(times[2]))[: scene.config.blobs * scene.config.per_blob])[0]
    checked = 0
    for (x, y), depth, after in zip(pixels, depths, moved, strict=True):
        if not (2 < x < 46 and 2 < y < 46) or np.abs(blobs - (x, y)).max(1).min() < 10:
            continue
        assert truth.depth[int(y), int(x)] == pytest.approx(depth, abs=0.1)
        np.testing.assert_allclose(truth.flow[int(y), int(x)], after - (x, y), atol=0.5)
        checked += 1
    assert checked > 3
    assert truth.seen.all()
    assert 0.5 < scene.truth(2, test=True).seen.mean() <= 1


def test_another_process_may_write_the_same_scene_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write, others = synthetic.write_nerfies, []

    def slower(folder: Path, *arguments: Any, **options: Any) -> Path:
        monkeypatch.setattr(synthetic, "write_nerfies", write)
        others.append(synthetic_capture(tmp_path, SMALL))
        return write(folder, *arguments, **options)

    monkeypatch.setattr(synthetic, "write_nerfies", slower)
    assert synthetic_capture(tmp_path, SMALL) == others[0]
    assert list(tmp_path.iterdir()) == others
    assert len(read_capture(others[0]).train) == SMALL.frames


@pytest.mark.slow
def test_a_dynamic_fit_beats_a_static_one(tmp_path: Path):
    """The recipe modecgs/tiny: by 3 dB on training views, and by 1 dB on views of another camera, after as many steps.

    The scene has half of the Gaussians, and two thirds of the steps suffice for it.
    """
    arguments = load_config(["modecgs/tiny"])["model"]["init_args"]
    shorter = {"coarse_steps": 100, "fine_steps": 400, "decay_steps": 400}
    moving = Recipe(**arguments["recipe"] | shorter, batch_size=2)
    still = replace(moving, coarse_steps=moving.steps, fine_steps=0, decay_steps=moving.steps)
    capture = read_capture(synthetic_capture(tmp_path, SyntheticConfig(per_blob=30, wall=120, size=48)))
    parts = {name: Frames(views) for name, views in (("train", capture.train), ("test", capture.test))}
    frames = {name: [part.frame(i) for i in range(len(part))] for name, part in parts.items()}
    scores = {}
    for kind, recipe in (("static", still), ("dynamic", moving)):
        torch.manual_seed(0)
        model = build("modecgs", **arguments["config"])
        model.initialize(capture.points.positions.astype(np.float32))
        fit = Fit(model, recipe, capture.extent)
        for numbers in batches(len(frames["train"]), recipe):
            fit.step([frames["train"][i] for i in numbers])
        for name, part in frames.items():
            scores[kind, name] = np.mean([_psnr(model.eval(), frame, kind) for frame in part])
    assert scores["dynamic", "train"] >= scores["static", "train"] + 3
    assert scores["dynamic", "test"] >= scores["static", "test"] + 1


def test_the_fields_have_a_learning_rate_of_their_own(small: Path):
    """`field_rate` speeds up the fields and nothing else."""
    rates = {}
    for factor in (1.0, 4.0):
        fit, frames = fit_of(small, Recipe(coarse_steps=1, fine_steps=1, batch_size=1, field_rate=factor))
        fit.step(frames[:1])
        rates[factor] = {group["name"]: group["lr"] for group in fit.optimizer.param_groups}
    changed = {name: rates[4.0][name] / rate for name, rate in rates[1.0].items() if rates[4.0][name] != rate}
    assert changed == pytest.approx({"planes": 4.0, "deformation": 4.0})


@torch.no_grad()
def _psnr(model: MoDecGS, frame: Frame, kind: str) -> float:
    time = None if kind == "static" else frame.time
    height, width = frame.image.shape[1:]
    image = (
        draw(model(frame.center, time), frame.viewmat, frame.K, width, height).colors[0].permute(2, 0, 1).clamp(0, 1)
    )
    return -10 * float((image - frame.image).square().mean().log10())
