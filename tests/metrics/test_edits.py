"""The report about an edited video: equal to the single measures, in one pass, in bounded memory."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny_diffusion as tiny
from visionzoo.data.toy_world import ToyWorld
from visionzoo.errors import InputError, WeightsError
from visionzoo.metrics import ClipModel, RaftFlow, clip_scores, consistent, edit_report, masked_psnr, seam, warp_error

WALL = np.random.default_rng(0).uniform(0, 0.9, (24, 64, 3))


def source(count: int = 12) -> np.ndarray:
    """A wall that moves 2 pixels to the left per frame: (T, 24, 32, 3)."""
    return np.stack([WALL[:, 2 * number : 2 * number + 32] for number in range(count)])


def flows(count: int = 11) -> np.ndarray:
    found = np.zeros((count, 24, 32, 2), np.float32)
    found[..., 0] = -2
    return found


MASK = np.zeros((24, 32), bool)
MASK[5:15, 5:20] = True


def edited() -> np.ndarray:
    """The mask becomes white, and the second window is brighter."""
    video = source()
    video[:, MASK] = 1
    video[8:] += 0.1 * ~MASK[..., None]
    return video


def test_the_report_is_that_of_the_single_measures(tmp_path: Path) -> None:
    clip = ClipModel(tiny.save_clip(tmp_path / "clip"))
    prompts = {"prompt": "a white house", "source_prompt": "a blue house"}
    report = edit_report(iter(source()), iter(edited()), mask=MASK, flow=iter(flows()), clip=clip, batch=5, **prompts)
    assert report.frames == 12
    wanted = [masked_psnr(one, other, ~MASK) for one, other in zip(edited(), source(), strict=True)]
    assert report.psnr_outside is not None
    np.testing.assert_allclose(report.psnr_outside, wanted)
    assert wanted[0] == math.inf
    assert report.psnr_outside[8:] == pytest.approx(20)
    assert report.seam is not None
    assert report.seam.borders == (8,)
    assert report.seam.ratio == pytest.approx(seam(edited(), [8]).ratio)
    assert report.source_seam is not None
    assert report.source_seam.ratio == pytest.approx(seam(source(), [8]).ratio)
    assert report.warp is not None
    np.testing.assert_allclose(report.warp.per_pair, warp_error(edited(), flows()).per_pair)
    assert report.source_warp is not None
    assert report.source_warp.mean == pytest.approx(0, abs=1e-12)
    assert report.seam_of_warp[0] == pytest.approx(
        report.warp.per_pair[7] / np.median(np.delete(report.warp.per_pair, 7))
    )
    scores = clip_scores(edited(), clip, **prompts)
    assert report.clip is not None
    np.testing.assert_allclose(report.clip.target, scores.target, atol=1e-6)
    assert report.source_clip is not None
    np.testing.assert_allclose(report.source_clip.steps, clip_scores(source(), clip).steps, atol=1e-6)
    found = report.as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["measures"]["clip_frame_accuracy"]["edited"] == scores.frame_accuracy
    assert found["measures"]["warp_error"]["edited"] == pytest.approx(report.warp.mean)
    assert found["psnr_outside"][0] is None
    text = str(report)
    assert "| frame consistency (CLIP, clip) |" in text
    assert f"| PSNR outside the mask, dB | {report.mean_psnr_outside:.2f} |  |" in text
    assert f"| warp error (given flow) | {report.warp.mean:.6f} | 0.000000 |" in text


def test_only_what_is_asked_for_is_measured() -> None:
    report = edit_report(source(5), source(5))
    assert report.rows == []  # one window has no seam
    assert (report.clip, report.psnr_outside, report.seam, report.warp, report.motion) == (None,) * 5
    assert edit_report(source(5), source(5), windows=2).rows[0][2:] == (seam(source(5), [2, 4]).ratio,) * 2
    assert edit_report(source(5), source(5), windows=[3]).seam is not None
    assert edit_report(source(1), source(1), mask=~MASK, flow=[]).frames == 1


def test_masks_by_frame_and_a_mask_of_everything() -> None:
    masks = [np.ones_like(MASK), *[MASK] * 11]
    report = edit_report(source(), edited(), mask=iter(masks))
    assert report.psnr_outside is not None
    assert np.isnan(report.psnr_outside).tolist() == [True] + [False] * 11
    assert report.as_dict()["psnr_outside"][0] is None


def test_motion_by_an_estimator_leaves_out_what_becomes_hidden() -> None:
    """An estimator that knows the true flow of the toy world, and takes it backwards, too."""
    frames = list(ToyWorld.create(2, characters=1).film(3, actions=["go right"], size=(64, 96)))
    true = [torch.from_numpy(frame.flow).double() for frame in frames]
    rgb = [frame.rgb for frame in frames]

    def numbered(image: Tensor) -> int:
        return next(n for n, pixels in enumerate(rgb) if np.allclose(pixels / 255, image.movedim(0, -1), atol=1e-6))

    def flow(one: Tensor, two: Tensor) -> Tensor:
        first, second = numbered(one), numbered(two)
        return true[first] if first < second else -true[second]

    report = edit_report(rgb, rgb, flow=flow)
    visible = [consistent(there, -there) for there in true]
    wanted = warp_error(rgb, true, visible)
    assert report.warp is not None
    np.testing.assert_allclose(report.warp.per_pair, wanted.per_pair)
    np.testing.assert_allclose(report.warp.compared, wanted.compared)
    assert 0.5 < report.warp.compared.min() < 1
    assert report.motion is not None
    assert report.motion.endswith("flow")


def test_consistent_flow() -> None:
    there, back = torch.zeros(8, 10, 2), torch.zeros(8, 10, 2)
    there[..., 0], back[..., 0] = 2, -2
    found = consistent(there, back)
    assert found[:, :8].all()
    assert not found[:, 8:].any()  # they leave the image
    back[3, 5] = torch.tensor([3.0, 0.0])  # something else is there
    assert not consistent(there, back)[3, 3]
    there[0, 0] = math.nan
    assert not consistent(there, back)[0, 0]


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models.optical_flow import raft_small

    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


def test_raft_is_torchvisions(raft: Path) -> None:
    from torchvision.models.optical_flow import raft_small

    network: Any = raft_small(weights=None)
    network.load_state_dict(torch.load(raft, weights_only=True))
    estimate = RaftFlow(raft, updates=2)
    assert estimate.name == "RAFT-small, raft_small.pth"
    torch.manual_seed(1)
    one, two = torch.rand(2, 3, 128, 136).unbind(0)
    with torch.no_grad():
        wanted = network.eval()(2 * one[None] - 1, 2 * two[None] - 1, num_flow_updates=2)[-1][0].movedim(0, -1)
    torch.testing.assert_close(estimate(one, two), wanted)
    small = estimate(one[:, :61, :99], two[:, :61, :99])
    assert small.shape == (61, 99, 2)
    assert small.isfinite().all()


def test_other_weights_are_one_line(raft: Path, tmp_path: Path) -> None:
    state = torch.load(raft, weights_only=True)
    state.popitem()
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(WeightsError, match="does not fit torchvision's RAFT-small: 1 of 106 keys are missing"):
        RaftFlow(tmp_path / "broken.pth")
    with pytest.raises(InputError, match="updates must be at least 1, got 0"):
        RaftFlow(raft, updates=0)


def _endless(frame: np.ndarray, count: int) -> Iterator[np.ndarray]:
    return (frame + 0 for _ in range(count))


def test_memory_does_not_grow_with_the_video() -> None:
    """Frames, masks and flows are read in step and dropped."""
    frame, flow, mask = np.full((40, 40, 3), 0.5), np.zeros((40, 40, 2), np.float32), np.ones((40, 40), bool)
    mask[:10] = False
    peaks = []
    for count in (10, 60):
        tracemalloc.start()
        edit_report(
            _endless(frame, count),
            _endless(frame, count),
            mask=itertools.repeat(mask, count),
            flow=_endless(flow, count),
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 60_000, "one frame more would be 38,400 bytes per frame"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"edited": source(11)}, "there are 11 edited frames but more source frames; give equal numbers"),
        ({"edited": [*source(11), source()[0, :8]]}, "edited frame 11 is 32 x 8 pixels, edited frame 0 32 x 24"),
        ({"edited": np.zeros((12, 8, 8, 3))}, "the edited frames are 8 x 8 pixels and the source frames 32 x 24; resize one"),
        ({"source": [], "edited": []}, "the videos have no frames"),
        ({"source": "in.mp4"}, "source frames must be images"),
        ({"edited": None}, "edited frames must be images, .* got None"),
        ({"mask": [MASK] * 5}, "there are 5 masks but more frames"),
        ({"mask": [MASK] * 13}, "there are 12 frames but more masks"),
        ({"mask": np.ones((24, 32))}, "mask 0 is torch.float64, expected bool"),
        ({"mask": 3}, "mask must be a mask"),
        ({"flow": flows(5)}, "there are 5 flows but more frames"),
        ({"flow": flows(13)}, "there are 12 frames but more than 12 flows"),
        ({"flow": flows() * math.nan}, "flow 0 is NaN or infinite at every pixel"),
        ({"flow": 3}, "flow must be flows, one for each pair of frames, or an estimator such as RaftFlow, got 3"),
        ({"valid": [MASK]}, "valid belongs to given flows"),
        ({"flow": flows(), "valid": [MASK]}, "there are 1 masks of valid pixels but more frames"),
        ({"windows": 1}, "windows must be a length of at least 2"),
        ({"windows": "8"}, "windows must be .*, got '8'"),
        ({"windows": [12]}, "no border before frame 12"),
        ({"prompt": "a red hat"}, r"pass clip=ClipModel\(folder\)"),
        ({"source_prompt": "a red hat", "clip": "CLIP"}, "pass prompt, too"),
        ({"clip": "folder"}, "the CLIP model must be a visionzoo.metrics.ClipModel, got 'folder'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(settings: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"source": source(), "edited": source(), **settings}
    with pytest.raises(InputError, match=says) as caught:
        edit_report(**arguments)
    assert "\n" not in str(caught.value)
