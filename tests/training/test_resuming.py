"""In every system, a run that was stopped inside an epoch and resumed is bit-equal to an uninterrupted run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.resuming import check_resumed_inside_an_epoch, checkpoint, differences
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig
from visionzoo.training.run import run

RARELY = "trainer.check_val_every_n_epoch=9"
SHVIT = ["data.batch_size=16", "data.image_size=32", "trainer.max_epochs=4", RARELY]
SUPERGLOBAL = [
    "vars.classes=4",
    "data.images_per_class=8",
    "data.image_size=48",
    "data.batch_size=4",
    "data.lighting=0.1",
    RARELY,
]
DEHAZEXL = ["data.scenes=8", RARELY]
MCNET = [
    "data.repeats=4",
    "data.batch_size=2",
    "model.config={num_keypoints: 4, detector_channels: 4, detector_max_channels: 16, motion_channels: 4, motion_max_channels: 16, "
    "channels: 8, max_channels: 16, memory_channels: 8, identity_channels: 8, style_channels: 8}",
    RARELY,
]


@pytest.mark.parametrize(
    "more",
    [
        ["data.num_workers=0", "model.mixup=0.8", "model.cutmix=1.0"],
        ["data.num_workers=1", "data.repeats=3"],
        ["data.num_workers=0", "trainer.accumulate_grad_batches=2"],
    ],
    ids=["mixed", "workers and repeated augmentation", "accumulated"],
)
def test_shvit(tmp_path: Path, more: list[str]) -> None:
    check_resumed_inside_an_epoch("shvit/tiny", tmp_path, [*SHVIT, *more], steps=4, stop=1)


def test_a_run_that_max_steps_stops_inside_an_epoch(tmp_path: Path) -> None:
    """The checkpoint is from the end of training, where Lightning treats the epoch as finished."""
    words = [*SHVIT, "data.num_workers=0"]
    run("fit", ["shvit/tiny"], [*words, f"trainer.default_root_dir={tmp_path / 'straight'}", "trainer.max_steps=8"])
    for steps, more in ((6, []), (8, ["ckpt_path=last"])):
        run(
            "fit",
            ["shvit/tiny"],
            [*words, f"trainer.default_root_dir={tmp_path / 'cut'}", f"trainer.max_steps={steps}", *more],
        )
    straight, resumed = checkpoint(tmp_path / "straight"), checkpoint(tmp_path / "cut")
    assert straight["global_step"] == resumed["global_step"] == 8
    assert not differences(straight["state_dict"], resumed["state_dict"])


def test_superglobal(tmp_path: Path) -> None:
    check_resumed_inside_an_epoch("superglobal/tiny", tmp_path, SUPERGLOBAL)


def test_dehazexl(tmp_path: Path) -> None:
    check_resumed_inside_an_epoch("dehazexl/tiny", tmp_path, DEHAZEXL)


@pytest.mark.parametrize("gan", [0, 1])
def test_mcnet(tmp_path: Path, gan: int) -> None:
    """With two optimisers in manual optimisation, Lightning counts two steps per batch."""
    check_resumed_inside_an_epoch("mcnet/tiny", tmp_path, [*MCNET, f"model.gan={gan}"], steps_per_batch=1 + gan)


def test_modecgs(tmp_path: Path) -> None:
    """Stopped in the fine stage, while statistics for the next adjustment of the anchors are being collected."""
    words = [
        f"data.cache={tmp_path / 'data'}",
        "data.synthetic={frames: 16, size: 24, per_blob: 12, wall: 60}",
        "model.recipe={coarse_steps: 1, fine_steps: 9, grow_after: 0, grow_until: 99, adjust_after: 1, adjust_every: 3, "
        "gradient: 1.0e-9, success: 0.2, min_opacity: 0.3, "
        "intervals_after: 0, intervals_every: 2, intervals_threshold: 0.1, all_cameras: true}",
        "model.config.voxel_size=0.001",
        RARELY,
    ]
    check_resumed_inside_an_epoch("modecgs/tiny", tmp_path, words, steps=6, stop=3)
    start = SyntheticConfig(frames=16, size=24, per_blob=12, wall=60).count * 4  # its points are those of four times
    assert checkpoint(tmp_path / "cut")["state_dict"]["model.anchors.positions"].shape[0] not in (0, start)
    assert checkpoint(tmp_path / "cut")["state_dict"]["model.intervals.borders"].tolist() != [0, 0.25, 0.5, 0.75]
