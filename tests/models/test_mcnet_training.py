"""Training of MCNet: a run learns, resumes bit for bit and exports weights that animate; the published recipe; tests of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visionzoo
from visionzoo.errors import InputError, VisionZooError
from visionzoo.metrics.restoration import psnr
from visionzoo.models.mcnet import MCNet, MCNetTraining
from visionzoo.models.mcnet.losses import perceptual_loss, pixel_loss
from visionzoo.training.run import load_config, run
from visionzoo.weights import read_metadata

SMALL = load_config(["mcnet/tiny"], ["data.root=x"])["model"]["init_args"]["config"]


@pytest.fixture
def talking(tmp_path: Path) -> Path:
    """Two clips of a blob with a dark mouth that moves over a ramp."""
    down, across = np.mgrid[:128, :128].astype(np.float32)
    colours = np.array([[220, 170, 140], [150, 200, 120]], np.float32)
    for clip, colour in enumerate(colours):
        folder = tmp_path / "talking" / f"id{clip}#drawn#0#9.mp4"
        folder.mkdir(parents=True)
        for number in range(10):
            image = np.stack([across, down, 255 - across], -1) * 0.6
            y, x = 64 + 18 * np.sin(0.7 * number + clip), 64 + 22 * np.cos(0.5 * number)
            for radius, shift, shade in ((34, 0, colour), (9, 14, np.array([60, 20, 30], np.float32))):
                inside = np.clip(radius - np.hypot(down - y - shift, across - x), 0, 1)[..., None]
                image = image * (1 - inside) + shade * inside
            Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:03}.png")
    return tmp_path / "talking"


def _fit(root: Path, folder: Path, *words: str) -> dict[str, Any]:
    return run("fit", ["mcnet/tiny"], [f"data.root={root}", f"trainer.default_root_dir={folder}", *words])


@pytest.mark.slow
def test_the_tiny_run_learns_to_move_real_faces(tmp_path: Path) -> None:
    """On the two sample clips, copying the source gives 20.7 dB, and a run gave 23.4 dB."""
    result = run("fit", ["mcnet/tiny"], [f"trainer.default_root_dir={tmp_path / 'run'}"])
    assert result["val/psnr_source"] == pytest.approx(20.67, abs=0.05)
    assert result["val/psnr"] > result["val/psnr_source"] + 1.5
    weights = tmp_path / "run" / "weights.safetensors"
    assert read_metadata(weights)["model"] == "mcnet"
    assert visionzoo.pipeline("reenact", checkpoint=weights, device="cpu").size == 128
    words = [f"model.checkpoint={weights}", f"model.config={json.dumps(SMALL)}"]
    report = run("test", ["mcnet/tiny"], [*words, "data.test_frames=4"])
    assert len(report["pairs"]) == 8
    assert report["mean"]["psnr"] > 18
    assert report["mean"]["lpips"] is None
    assert report["published"]["MCNet"]["psnr"] == 31.942


def test_a_test_compares_the_outputs_of_the_network(talking: Path, tmp_path: Path) -> None:
    module = MCNetTraining("mcnet", SMALL, perceptual=0, pixel=1)
    module.export_weights(tmp_path / "w.safetensors")
    words = [
        f"data.root={talking}",
        f"model.checkpoint={tmp_path / 'w.safetensors'}",
        f"model.config={json.dumps(SMALL)}",
    ]
    report = run("test", ["mcnet/tiny"], [*words, "data.test_frames=2", "data.batch_size=3"])
    frames = [
        torch.from_numpy(np.array(Image.open(talking / "id0#drawn#0#9.mp4" / f"{number:03}.png"))).permute(2, 0, 1)
        for number in (0, 9)
    ]
    source, driving = (frame[None].float() / 255 for frame in frames)
    model = visionzoo.create_model("mcnet", checkpoint=tmp_path / "w.safetensors", **SMALL)
    assert isinstance(model, MCNet)
    with torch.no_grad():
        want = (model.eval()(source, driving) * 255).round() / 255
    assert report["pairs"][1]["psnr"] == pytest.approx(psnr(want[0], driving[0]), abs=0.01)
    assert report["pairs"][1]["l1"] == pytest.approx(float((want - driving).abs().mean()), abs=1e-4)


def test_a_resumed_run_is_bit_equal(talking: Path, tmp_path: Path) -> None:
    words = ["data.repeats=4", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=3"]
    _fit(talking, tmp_path / "whole", *words)
    _fit(talking, tmp_path / "cut", *words, "trainer.max_epochs=1")
    _fit(talking, tmp_path / "cut", *words, "ckpt_path=last")
    whole, cut = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    assert whole["global_step"] == cut["global_step"] == 4
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][key]), key


def test_positions_stay_exact_under_autocast() -> None:
    """bfloat16 rounds positions in [-1, 1] to 1/256; keypoints, flow and the equivariance losses must not be rounded like that."""
    module = MCNetTraining("mcnet", SMALL, perceptual=0, pixel=1)
    torch.manual_seed(0)
    source, driving = torch.rand(2, 1, 3, 128, 128).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        points = module.model.detect(driving)
        animated = module.model.reenact(source, driving)
        terms = module.terms(animated, driving, points, points, torch.Generator().manual_seed(0))
    for exact in (*points, animated.motion.candidates, animated.motion.flow, animated.prediction):
        assert exact.dtype == torch.float32
        assert not torch.equal(exact, exact.bfloat16().float())
    assert terms["equivariance_value"].dtype == torch.float32
    torch.stack(list(terms.values())).sum().backward()
    gradients = [p.grad for p in module.model.detector.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_the_fused_form_runs_under_autocast() -> None:
    torch.manual_seed(0)
    model = visionzoo.create_model("mcnet", **SMALL).eval()
    assert isinstance(model, MCNet)
    source, driving = torch.rand(2, 1, 3, 128, 128).unbind()
    with torch.inference_mode():
        want = model.fuse()(source, driving)
        with torch.autocast("cpu", torch.bfloat16):
            made = model.fuse()(source, driving)
    assert made.dtype == torch.float32
    assert psnr(made[0], want[0]) > 35


def test_adversarial_training_moves_both_networks(talking: Path, tmp_path: Path) -> None:
    words = ["data.repeats=2", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=3", "model.gan=1"]
    _fit(talking, tmp_path / "gan", *words)
    state = torch.load(tmp_path / "gan" / "checkpoints" / "last.ckpt", weights_only=True)
    torch.manual_seed(0)
    assert len(state["optimizer_states"]) == 2
    for optimizer in state["optimizer_states"]:
        moments = [entry["exp_avg"].abs().max() for entry in optimizer["state"].values()]
        assert len(moments) > 10
        assert max(moments) > 0
    assert state["lr_schedulers"][0]["last_epoch"] == 1


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_losses_are_the_weighted_terms() -> None:
    torch.manual_seed(0)
    module = MCNetTraining("mcnet", SMALL, perceptual=0, pixel=3, memory=5, keypoint_distance=0)
    source, driving = torch.rand(2, 2, 3, 128, 128)
    cache, points = module.model.encode_source(source), module.model.detect(driving)
    animated = module.model.render(cache, points)
    rng = torch.Generator().manual_seed(1)
    terms = module.terms(animated, driving, cache.keypoints, points, rng)
    assert set(terms) == {"pixel", "equivariance_value", "equivariance_jacobian", "memory"}
    assert float(terms["pixel"].detach()) == pytest.approx(
        3 * float(pixel_loss(animated.prediction.detach(), driving)), rel=1e-6
    )
    again = module.terms(animated, driving, cache.keypoints, points, torch.Generator().manual_seed(1))
    assert terms["equivariance_value"] == again["equivariance_value"]
    assert pixel_loss(driving, driving) == 0


def test_gradients_are_clipped_by_network(monkeypatch: pytest.MonkeyPatch) -> None:
    module = MCNetTraining("mcnet", SMALL, perceptual=0, pixel=1, clip_norm=0.5)
    for parameter in module.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.configure_gradient_clipping(None)
    for part in (module.model.detector, module.model.generator):
        norm = torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm()
        assert norm == pytest.approx(0.5, rel=1e-3)


def test_a_step_without_a_finite_loss_is_skipped() -> None:
    module = MCNetTraining("mcnet", SMALL, perceptual=0, pixel=1)
    frames = torch.rand(2, 3, 128, 128)
    frames[0, 0, 0, 0] = torch.nan
    assert module.training_step((frames, frames), 0) is None


def test_the_published_recipe() -> None:
    config = load_config(["mcnet/vox256"], [])
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    assert (model["lr"], model["betas"], model["decay_epochs"], model["clip_norm"]) == (2e-4, [0.5, 0.999], [80], 10.0)
    weights = [model[name] for name in ("perceptual", "equivariance_value", "equivariance_jacobian", "memory")]
    assert weights == [10.0] * 4
    assert (data["size"], data["batch_size"], data["repeats"], trainer["max_epochs"]) == (256, 8, 75, 100)


def test_missing_settings_are_reported(talking: Path, tmp_path: Path) -> None:
    with pytest.raises(VisionZooError, match=r"needs model.vgg=vgg19-dcbb9e9d.pth"):
        _fit(talking, tmp_path, "model.perceptual=10")
    with pytest.raises(InputError, match="no loss compares images"):
        MCNetTraining("mcnet", SMALL, perceptual=0)
    with pytest.raises(InputError, match="must be an MCNet"):
        MCNetTraining("shvit_s1", pixel=1)
    with pytest.raises(VisionZooError, match="has random weights"):
        run("test", ["mcnet/tiny"], [f"data.root={talking}"])


def test_a_vgg_file_is_used(tmp_path: Path) -> None:
    from torchvision.models import vgg19

    torch.manual_seed(0)
    torch.save(vgg19(weights=None).features.state_dict(prefix="features."), tmp_path / "vgg.pth")
    module = MCNetTraining("mcnet", SMALL, vgg=str(tmp_path / "vgg.pth"))
    assert module.vgg is not None
    image = torch.rand(1, 3, 128, 128)
    assert perceptual_loss(module.vgg, image, image) == 0
    assert not any(parameter.requires_grad for parameter in module.vgg.parameters())
    assert len(module.configure_optimizers()[0][0].param_groups[0]["params"]) == len(list(module.model.parameters()))
