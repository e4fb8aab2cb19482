"""`visionzoo test` of fitted scenes: measures, sizes and speeds per scene, their mean, and published numbers that are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from visionzoo.errors import InputError, WeightsError
from visionzoo.models.modecgs import FourDGaussians, FourDGaussiansConfig, Frame
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, synthetic_capture
from visionzoo.models.modecgs.compact import write_scene
from visionzoo.models.modecgs.evaluation import PUBLISHED, Measures, Report, evaluate_scene, measure_sizes, view_image
from visionzoo.models.modecgs.losses import ssim_map
from visionzoo.models.modecgs.model import build
from visionzoo.models.modecgs.published import write_published
from visionzoo.training.configuration import load_config
from visionzoo.training.run import run

SMALL = SyntheticConfig(frames=6, size=24, per_blob=12, wall=60)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, one and two, and a model of each, as scene.vzgs."""
    root = tmp_path_factory.mktemp("scenes")
    for seed, name in enumerate(("one", "two")):
        folder = synthetic_capture(root, SyntheticConfig(frames=6, size=24, per_blob=12, wall=60, seed=seed))
        folder.rename(root / name)
        torch.manual_seed(seed)
        model = build("modecgs", **load_config(["modecgs/tiny"])["model"]["init_args"]["config"])
        model.initialize(read_capture(root / name).points.positions.astype(np.float32))
        write_scene(model, root / name / "scene.vzgs")
    return root


def test_a_test_of_several_scenes_prints_a_row_for_each_and_what_is_published(
    scenes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(scenes)
    words = ["data.root=.", "data.scenes=[one,two]", "model.checkpoint=./{scene}/scene.vzgs"]
    report = run("test", ["modecgs/tiny"], words)
    shown = capsys.readouterr().out
    assert [scene["name"] for scene in report["scenes"]] == ["one", "two"]
    for name in ("psnr", "ssim", "masked_psnr", "vzgs_mb", "folder_mb", "fps", "fps_with_io"):
        values = [scene["mean"][name] for scene in report["scenes"]]
        assert report["mean"][name] == pytest.approx(np.mean(values))
        assert min(values) > 0
    lines = shown.splitlines()
    assert lines[0].split()[:2] == ["PSNR", "SSIM"]
    assert [line.split()[0] for line in lines[1:4]] == ["one", "two", "mean"]
    assert f"{report['mean']['psnr']:.2f}" in lines[3]
    assert "model.lpips_vgg=vgg16-397923af.pth model.lpips_alex=alexnet-owt-7be5be79.pth" in shown
    assert "MS-SSIM and D-SSIM need 161 x 161 pixels" in shown
    assert "not available" in next(line for line in lines if line.startswith("MoDec-GS"))
    json.dumps(report)


def test_scenes_need_weights_each(scenes: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(scenes)
    with pytest.raises(InputError, match=r"lists 2 scenes, .* give model\.checkpoint with \{scene\} in it"):
        run("test", ["modecgs/tiny"], ["data.root=.", "data.scenes=[one,two]", "model.checkpoint=one/scene.vzgs"])
    with pytest.raises(InputError, match="has random weights; give model.checkpoint=FILE"):
        run("test", ["modecgs/tiny"], ["data.root=one"])
    with pytest.raises(InputError, match="three: no such folder"):
        run("test", ["modecgs/tiny"], ["data.root=.", "data.scenes=[three]", "model.checkpoint=./{scene}/scene.vzgs"])
    with pytest.raises(InputError, match=r"data\.scenes is for tests"):
        run("fit", ["modecgs/tiny"], ["data.root=.", "data.scenes=[one]"])
    with pytest.raises(WeightsError, match=r"no file nowhere\.pth; download"):
        run(
            "test",
            ["modecgs/tiny"],
            ["data.root=one", "model.checkpoint=one/scene.vzgs", "model.lpips_vgg=nowhere.pth"],
        )


def test_checkpoints_of_every_kind_give_the_same_scores(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lightning's checkpoint, exported weights, the compact file with little loss, and the published folder."""
    monkeypatch.chdir(tmp_path)
    words = [f"data.root={scenes / 'one'}", "trainer.max_steps=4", "model.recipe.coarse_steps=2"]
    run("fit", ["modecgs/tiny"], words)
    out = tmp_path / "outputs/modecgs/tiny"
    found = {}
    for name, word in (
        ("ckpt", "ckpt_path=last"),
        ("weights", f"model.checkpoint={out}/weights.safetensors"),
        ("vzgs", f"model.checkpoint={out}/scene.vzgs"),
    ):
        found[name] = run("test", ["modecgs/tiny"], [words[0], word])["mean"]["psnr"]
    assert found["ckpt"] == pytest.approx(found["weights"], abs=1e-6)
    assert found["vzgs"] == pytest.approx(found["weights"], abs=0.3)


def test_a_4dgaussians_folder_is_measured_too(scenes: Path, tmp_path: Path):
    points = read_capture(scenes / "one").points
    model = FourDGaussians(FourDGaussiansConfig(resolution=(8, 8, 8, 6), levels=(1,), channels=4, width=16))
    model.initialize(points.positions.astype(np.float32), points.colours.astype(np.float32))
    folder = write_published(model, tmp_path / "out")
    expected = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    report = run("test", ["modecgs/tiny"], [f"data.root={scenes / 'one'}", f"model.checkpoint={tmp_path / 'out'}"])
    (scene,) = report["scenes"]
    assert scene["rows"] == len(points)
    assert scene["mean"]["folder_mb"] == pytest.approx(expected)


def frame(size: int, *, masked: bool = False) -> Frame:
    draw = torch.Generator().manual_seed(0)
    weight = (torch.rand(1, size, size, generator=draw) > 0.5).float() if masked else None
    return Frame(torch.rand(3, size, size, generator=draw), torch.eye(4), torch.eye(3), 0.0, weight)


def test_images_are_rounded_to_8_bits_before_they_are_measured():
    truth = frame(32)
    bits = (truth.image * 255).round() / 255
    within = (bits + 0.4 / 255).clamp(0, 1)  # rounds back
    scores = Measures().score(within, Frame(bits, truth.viewmat, truth.K, 0.0))
    assert scores == {"psnr": math.inf, "ssim": pytest.approx(1)}


def test_ssim_is_that_of_the_loss_and_d_ssim_follows_from_ms_ssim():
    truth = frame(161, masked=True)
    noisy = (truth.image + 0.1 * torch.randn(3, 161, 161, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    scores = Measures().score(noisy, truth)
    rounded = (noisy * 255).round() / 255
    assert scores["ssim"] == pytest.approx(float(ssim_map(rounded.double(), truth.image.double()).mean()))
    assert scores["d_ssim"] == pytest.approx((1 - scores["ms_ssim"]) / 2)
    assert 0 < scores["ms_ssim"] < 1
    assert {"masked_psnr", "masked_ssim"} <= scores.keys()


def test_published_numbers_are_only_those_that_could_be_read():
    """Everything else is shown as not available."""
    known = {
        (layout, row.system): {k: v for k, v in vars(row).items() if isinstance(v, float | int)}
        for layout, rows in PUBLISHED.items()
        for row in rows
    }
    assert {key: value for key, value in known.items() if value} == {
        ("nerfies", "4DGaussians"): {"psnr": 27.44, "ssim": 0.797, "lpips": 0.302, "mb": 72.65},
        ("nerfies", "MoDec-GS"): {"psnr": 27.78, "ssim": 0.827, "lpips": 0.219, "mb": 40.82},
        ("blender", "4DGaussians"): {"fps": 82},
        ("blender", "Deformable-3DGS"): {"psnr": 41.14, "ssim": 0.9938, "lpips": 0.007, "mb": 10.2, "fps": 179},
    }


def test_sizes_are_those_of_the_files(scenes: Path):
    from visionzoo.models.modecgs.compact import read_scene

    model = read_scene(scenes / "one" / "scene.vzgs").model
    sizes = measure_sizes(model)
    assert sizes["vzgs_mb"] == pytest.approx((scenes / "one" / "scene.vzgs").stat().st_size / 1e6, rel=0.02)
    assert sizes["folder_mb"] > sizes["vzgs_mb"]


def test_one_test_view_is_enough(scenes: Path):
    from visionzoo.models.modecgs.compact import read_scene

    model = read_scene(scenes / "one" / "scene.vzgs").model
    capture = read_capture(scenes / "one")
    score = evaluate_scene(model, "one", "dycheck", capture.test[:1])
    assert len(score.views) == 1
    assert score.speeds["fps"] >= score.speeds["fps_with_io"] > 0
    text = str(Report([score]))
    assert "1 test view of 24 x 24 pixels" in text
    assert view_image(model, frame(24)).shape == (3, 24, 24)
