"""Scenes as static Gaussians: what baking keeps of a model, and that other programs read the same from every format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gaussforge
import gsply
import gsply_cpp
import numpy as np
import plyfile
import pytest
import torch
from gsplat.exporter import export_splats
from torch import Tensor
from torch.nn import functional as F

from tests.golden import seeded
from tests.models.test_modecgs_fit import TINY
from tests.tiny import modecgs
from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.models.modecgs import (
    Fit,
    FourDGaussians,
    FourDGaussiansConfig,
    Gaussians,
    MoDecGS,
    Recipe,
    batches,
    draw,
)
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, synthetic_capture
from visionzoo.models.modecgs.data import Frames
from visionzoo.models.modecgs.published import write_published
from visionzoo.models.modecgs.splats import FORMATS, bake, read_splats, splat_format, write_splats
from visionzoo.models.modecgs.splats.compressed import chunk_order
from visionzoo.models.modecgs.splats.moments import fit_harmonics, mean_shape, quaternions
from visionzoo.models.modecgs.splats.views import fibonacci_sphere
from visionzoo.splatting import rotation_matrices
from visionzoo.splatting.harmonics import basis

CENTER = torch.tensor([0.3, 0.2, -4.0])
VIEWMAT = torch.eye(4)
VIEWMAT[:3, 3] = -CENTER
K = torch.tensor([[70.0, 0, 32], [0, 70, 32], [0, 0, 1]])


def image(gaussians: Gaussians, center: Tensor = CENTER) -> Tensor:
    viewmat = VIEWMAT.clone()
    viewmat[:3, 3] = -center
    return draw(gaussians, viewmat, K, 64, 64).colors[0].clamp(0, 1)


def psnr(one: Tensor, other: Tensor) -> float:
    return -10 * float((one - other).square().mean().clamp_min(1e-12).log10())


def some(count: int = 600, degree: int | None = 3, spread: float = 1.0) -> Gaussians:
    """Random Gaussians; some are opaque, some flat."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    opacities = torch.rand(count, generator=generator).clamp_min(0.02)
    opacities[:3] = 1.0
    scales = (0.5 * normal(count, 3) - 3).exp()
    scales[3:6, 2] = 1e-4
    colors = (
        torch.rand(count, 3, generator=generator)
        if degree is None
        else (0.3 * normal(count, (degree + 1) ** 2, 3)).clamp(-0.98, 0.98)
    )
    means, quats = spread * normal(count, 3), F.normalize(normal(count, 4), dim=-1)
    return Gaussians(means, quats, scales, opacities, colors, sh_degree=degree)


# Baking


def test_for_one_camera_it_is_exactly_what_that_camera_sees() -> None:
    model = modecgs()
    for time in (0.0, 0.37, 1.0, None):
        with torch.no_grad():
            own = model(CENTER, time)
        baked = bake(model, time, camera=CENTER)
        drawn = own.opacities > 1 / 255
        torch.testing.assert_close(baked.means, own.means[drawn])
        torch.testing.assert_close(baked.scales, own.scales[drawn].abs())
        torch.testing.assert_close(baked.opacities, own.opacities[drawn])
        torch.testing.assert_close((baked.quats * own.quats[drawn]).sum(-1).abs(), torch.ones(len(baked)))
        assert psnr(image(baked), image(own)) > 70


def test_a_scene_that_looks_the_same_from_everywhere_loses_nothing() -> None:
    """Without the direction among the networks' inputs, one set of Gaussians is right for every camera."""
    model = modecgs_without_views()
    baked = bake(model, 0.6, centers=CENTER + 0.3 * fibonacci_sphere(12))
    for center in (CENTER, CENTER + torch.tensor([0.5, 0.1, 0.2])):
        with torch.no_grad():
            assert psnr(image(baked, center), image(model(center, 0.6), center)) > 60


def test_colours_follow_the_view_only_with_harmonics() -> None:
    model = modecgs_without_views(but_color=True)
    centers = CENTER + torch.tensor([[x, y, 0.0] for x in (-1.5, 0, 1.5) for y in (-1.5, 0, 1.5)])
    scores = []
    for degree in range(4):
        baked = bake(model, 0.25, centers=centers, sh_degree=degree)
        assert baked.colors.shape[1:] == ((degree + 1) ** 2, 3)
        assert baked.sh_degree == degree
        with torch.no_grad():
            scores.append(np.mean([psnr(image(baked, c), image(model(c, 0.25), c)) for c in centers]))
    assert scores == sorted(scores)
    assert scores[3] > scores[0] + 10
    assert scores[3] > 50


def modecgs_without_views(but_color: bool = False) -> MoDecGS:
    """A model whose networks do not read the direction, except that of the colours if so wanted."""
    model = MoDecGS(modecgs().config)
    model.load_state_dict(modecgs().state_dict())
    f = model.config.feature_dim
    with torch.no_grad():
        for name in ("opacity", "covariance", "color"):
            if not (but_color and name == "color"):
                getattr(model.networks, name)[0].weight[:, f : f + 3] = 0
    return model.eval()


def test_gaussians_are_those_of_a_file() -> None:
    baked = bake(modecgs(), 0.5)
    assert 0 < len(baked) <= modecgs().anchors.rows * modecgs().config.num_offsets
    assert all(value.isfinite().all() for value in baked.tensors)
    torch.testing.assert_close(baked.quats.norm(dim=-1), torch.ones(len(baked)))
    assert (baked.scales > 0).all()
    assert (baked.opacities > 1 / 255).all()
    assert (baked.opacities <= 1).all()


def test_chunks_of_anchors_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    whole = bake(modecgs(), 0.5)
    monkeypatch.setattr("visionzoo.models.modecgs.splats.baking.CHUNK", 100)
    parts = bake(modecgs(), 0.5, progress=lambda *done: seen.append(done))
    for one, other in zip(whole.tensors, parts.tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    slots = modecgs().anchors.rows * modecgs().config.num_offsets
    assert seen[0] == ("bake", 100, slots)
    assert seen[-1] == ("bake", slots, slots)


def test_a_camera_inside_an_anchor_spoils_nothing() -> None:
    model = modecgs()
    inside = model.anchors["positions"][7]
    baked = bake(model, None, centers=torch.stack([CENTER, inside]))
    assert all(value.isfinite().all() for value in baked.tensors)


def test_harmonics_of_4dgaussians_are_kept_or_cut() -> None:
    model = FourDGaussians(FourDGaussiansConfig(resolution=(6, 6, 6, 5), levels=(1,), channels=4, width=8, sh_degree=2))
    points = seeded.tensor("points", (80, 3)).numpy()
    model.initialize(points, np.abs(points) % 1)
    own = model.eval()(None, 0.5)
    assert torch.equal(bake(model, 0.5).colors, own.colors)
    assert torch.equal(bake(model, 0.5, sh_degree=1).colors, own.colors[:, :4])
    assert torch.equal(bake(model, None).means, model.table["means"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"time": 1.5}, r"the time must be in \[0, 1\], got 1.5"),
        ({"time": float("nan")}, r"the time must be in \[0, 1\], got nan"),
        ({"time": 0.5, "sh_degree": 4}, "the degree of harmonics must be between 0 and 3, got 4"),
    ],
)
def test_what_cannot_be_baked(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        bake(modecgs(), **arguments)


def test_an_invisible_scene_is_an_error() -> None:
    model = modecgs_without_views()
    with torch.no_grad():
        model.networks.opacity[2].weight.zero_()
        model.networks.opacity[2].bias.fill_(-1)
    with pytest.raises(InputError, match="no visible Gaussians at this time"):
        bake(model, 0.5)


def test_harmonics_of_a_colour_that_is_one_are_found() -> None:
    directions = fibonacci_sphere(64)[:, None].expand(-1, 5, -1)
    wanted = 0.1 * seeded.tensor("harmonics", (5, 16, 3))
    colors = 0.5 + torch.einsum("vnk,nkc->vnc", basis(3, directions), wanted)
    found = fit_harmonics(directions, colors, torch.ones(64, 5), 3)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-3)
    few = fit_harmonics(
        directions[:3], colors[:3], torch.ones(3, 5), 3
    )  # underdetermined: fits what was seen, stays small
    torch.testing.assert_close(
        0.5 + torch.einsum("vnk,nkc->vnc", basis(3, directions[:3]), few), colors[:3], atol=2e-3, rtol=0
    )
    assert few.abs().max() < 1.5


def test_the_mean_of_one_shape_is_that_shape() -> None:
    gaussians = some(40)
    quats, scales = mean_shape(
        torch.stack([gaussians.quats, -3 * gaussians.quats, torch.full_like(gaussians.quats, torch.nan)]),
        torch.stack([gaussians.scales, -gaussians.scales, gaussians.scales]),
        torch.tensor([1.0, 2.0, 0.0])[:, None].expand(-1, 40),
    )
    torch.testing.assert_close(
        covariances(quats, scales), covariances(gaussians.quats, gaussians.scales), atol=1e-6, rtol=1e-4
    )


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    axes = rotation_matrices(quats) * scales[:, None]
    return axes @ axes.mT


def test_quaternions_of_every_half_turn() -> None:
    wanted = F.normalize(
        torch.cat([torch.eye(4), some(50).quats, torch.tensor([[1e-4, 0, 0, 1], [0, 1, 1, 0.0]])]), dim=-1
    )
    found = quaternions(rotation_matrices(wanted))
    torch.testing.assert_close((found * wanted).sum(-1).abs(), torch.ones(len(wanted)))


@pytest.mark.slow
def test_a_trained_scene_keeps_its_quality_from_new_views(tmp_path: Path) -> None:
    """Of a monocular capture, each time was seen by one camera only: means over views lose detail there, not elsewhere."""
    capture = read_capture(synthetic_capture(tmp_path, SyntheticConfig(frames=6)))
    parts = {name: Frames(views) for name, views in (("train", capture.train), ("test", capture.test))}
    frames = {name: [part.frame(i) for i in range(len(part))] for name, part in parts.items()}
    torch.manual_seed(0)
    model = MoDecGS(TINY)
    model.initialize(capture.points.positions.astype(np.float32))
    recipe = Recipe(
        coarse_steps=40, fine_steps=60, batch_size=2, grow_until=0, decay_steps=60, field_rate=4, start_still=True
    )
    fit = Fit(model, recipe, capture.extent)
    for numbers in batches(len(frames["train"]), recipe):
        fit.step([frames["train"][i] for i in numbers])
    model.eval()
    centers = torch.stack([frame.center for frame in frames["train"]])
    scores: dict[str, list[float]] = {}
    for name, part in frames.items():
        for frame in part[::3]:
            with torch.no_grad():
                own = model(frame.center, frame.time)
            for kind, gaussians in (("own", own), ("baked", bake(model, frame.time, centers=centers))):
                drawn = draw(gaussians, frame.viewmat, frame.K, 64, 64).colors[0].permute(2, 0, 1).clamp(0, 1)
                scores.setdefault(f"{name} {kind}", []).append(psnr(drawn, frame.image))
    found = {name: float(np.mean(values)) for name, values in scores.items()}
    assert found["test baked"] > found["test own"] - 0.5, found
    assert found["train baked"] > found["train own"] - 4, found


# Files


TOLERANCES = {
    # centre, log of scale, angle in degrees, opacity, constant harmonic, others
    ".ply": (0, 1e-6, 0.1, 2e-6, 0, 0),
    ".compressed.ply": (4e-3, 4e-3, 0.3, 2.1e-3, 7e-3, 0.02),
    ".spz": (1e-6, 0.04, 0.3, 2.1e-3, 0.014, 0.005),
    ".splat": (0, 1e-6, 1.2, 2.1e-3, 7e-3, 0),
}


def compare(found: Gaussians, wanted: Gaussians, ending: str) -> None:
    """Both hold the same Gaussians, in any order, as exactly as the format allows."""
    center, scale, angle, opacity, constant, others = TOLERANCES[ending]
    assert len(found) == len(wanted)
    nearest = torch.cdist(wanted.means.double(), found.means.double()).argmin(1)
    assert len(nearest.unique()) == len(wanted)
    means, quats, scales, opacities, colors = (value[nearest] for value in found.tensors)
    assert (means - wanted.means).abs().max() <= center
    floor = -10 if ending == ".spz" else -20
    assert (scales.log() - wanted.scales.log().clamp_min(floor)).abs().max() <= scale
    cosine = (quats * F.normalize(wanted.quats, dim=-1)).sum(-1).abs().clamp_max(1)
    assert torch.rad2deg(2 * cosine.acos()).max() <= angle
    assert (opacities - wanted.opacities).abs().max() <= opacity
    harmonics = wanted.colors if wanted.sh_degree is not None else (wanted.colors[:, None] - 0.5) / basis(0, means[:1])
    assert (colors[:, 0] - harmonics[:, 0]).abs().max() <= constant
    bands = colors.shape[1]
    assert bands == (1 if ending == ".splat" else harmonics.shape[1])
    if bands > 1:
        assert (colors[:, 1:] - harmonics[:, 1:]).abs().max() <= others


@pytest.mark.parametrize("degree", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("ending", FORMATS)
def test_files_are_read_back(ending: str, degree: int | None, tmp_path: Path) -> None:
    gaussians = some(degree=degree)
    if ending == ".splat" and degree is not None:
        gaussians = replace(gaussians, colors=gaussians.colors.clamp(-1.7, 1.7))
    path = tmp_path / f"splats{ending}"
    facts = write_splats(gaussians, path)
    assert facts["gaussians"] == len(gaussians)
    assert facts["bytes"] == path.stat().st_size
    assert facts["sh_degree"] == (0 if ending == ".splat" else degree or 0)
    compare(read_splats(path), gaussians, ending)


@pytest.mark.parametrize("ending", FORMATS)
def test_an_image_of_what_was_read_is_the_same(ending: str, tmp_path: Path) -> None:
    baked = bake(modecgs(), 0.3, sh_degree=0 if ending == ".splat" else 3)
    path = tmp_path / f"splats{ending}"
    write_splats(baked, path)
    assert psnr(image(read_splats(path)), image(baked)) > (90 if ending == ".ply" else 38)


def of_arrays(means: Any, scales: Any, quats: Any, opacities: Any, constant: Any, others: Any) -> Gaussians:
    """What another program read, as numbers before activation."""
    columns = [constant.reshape(-1, 1, 3)]
    if others is not None and np.size(others):
        columns.append(np.asarray(others).reshape(len(means), -1, 3))
    values = (means, quats, np.exp(scales), 1 / (1 + np.exp(-opacities.reshape(-1))), np.concatenate(columns, axis=1))
    means, quats, scales, opacities, colors = (torch.tensor(np.array(value, np.float32)) for value in values)
    return Gaussians(
        means, F.normalize(quats, dim=-1), scales, opacities, colors, sh_degree=round(colors.shape[1] ** 0.5) - 1
    )


def by_gaussforge(path: Path, ending: str) -> Gaussians:
    forge, data = gaussforge.GaussForge(), path.read_bytes()
    if ending == ".splat":  # it returns no arrays of Gaussians without harmonics, but converts them
        converted = path.with_suffix(".ply")
        converted.write_bytes(forge.convert(data, "splat", "ply")["data"])
        return by_plyfile(converted, ".ply")
    found = forge.read(data, ending[1:])["data"]
    names = ("positions", "scales", "rotations", "alphas", "colors", "sh")
    columns = [np.frombuffer(found[name], np.float32) for name in names]
    count = found["numPoints"]
    shaped = [column.reshape(count, -1) for column in columns[:5]]
    return of_arrays(*shaped, columns[5].reshape(count, -1) if len(columns[5]) else None)


def by_plyfile(path: Path, ending: str) -> Gaussians:
    vertices = plyfile.PlyData.read(str(path))["vertex"]
    assert [p.name for p in vertices.properties][:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]

    def columns(*names: str) -> np.ndarray:
        return np.stack([vertices[name] for name in names], axis=1)

    rest = [p.name for p in vertices.properties if p.name.startswith("f_rest_")]
    others = columns(*rest).reshape(len(vertices), 3, -1).transpose(0, 2, 1) if rest else None
    return of_arrays(
        columns("x", "y", "z"), columns(*(f"scale_{i}" for i in range(3))), columns(*(f"rot_{i}" for i in range(4))),
        vertices["opacity"], columns("f_dc_0", "f_dc_1", "f_dc_2"), others,
    )  # fmt: skip


def by_gsply(path: Path, ending: str) -> Gaussians:
    """With its compiled readers, as the others take half a minute to compile themselves."""
    read = gsply_cpp.read_spz if ending == ".spz" else gsply_cpp.read_ply
    found = read(str(path))
    return of_arrays(*(np.asarray(found[name]) for name in ("means", "scales", "quats", "opacities", "sh0", "shN")))


def by_hand(path: Path, ending: str) -> Gaussians:
    raw = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 32)
    numbers, small = raw[:, :24].copy().view("<f4"), raw[:, 24:].astype(np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(small[:, 3] / (255 - small[:, 3]))
    colors = (small[:, :3] / 255 - 0.5) / 0.28209479177387814
    return of_arrays(numbers[:, :3], np.log(numbers[:, 3:]), (small[:, 4:] - 128) / 128, logits, colors, None)


@pytest.mark.parametrize(
    ("ending", "reader"),
    [
        (".ply", by_plyfile), (".ply", by_gsply), (".ply", by_gaussforge), (".compressed.ply", by_gaussforge),
        (".spz", by_gsply), (".spz", by_gaussforge), (".splat", by_gaussforge), (".splat", by_hand),
    ],
)  # fmt: skip
def test_other_programs_read_the_same(ending: str, reader: Callable[[Path, str], Gaussians], tmp_path: Path) -> None:
    gaussians = some()
    if ending == ".splat":
        gaussians = replace(gaussians, colors=gaussians.colors[:, :1].clamp(-1.7, 1.7), sh_degree=0)
    path = tmp_path / f"splats{ending}"
    write_splats(gaussians, path)
    compare(reader(path, ending), gaussians, ending)


@pytest.mark.slow
def test_gsply_reads_the_same_from_a_compressed_file(tmp_path: Path) -> None:
    """Its reader compiles itself for half a minute."""
    gaussians, path = some(), tmp_path / "splats.compressed.ply"
    write_splats(gaussians, path)
    found = gsply.plyread(path)
    compare(of_arrays(*found.unpack()[:2], *found.unpack()[2:]), gaussians, ".compressed.ply")


def raw_columns(gaussians: Gaussians) -> tuple[Tensor, ...]:
    """What other writers take: logits are finite."""
    opacities = gaussians.opacities.clamp(1e-6, 1 - 1e-6).logit()
    return (
        gaussians.means,
        gaussians.scales.log(),
        gaussians.quats.clone(),
        opacities,
        gaussians.colors[:, :1],
        gaussians.colors[:, 1:],
    )


def from_gsplat(gaussians: Gaussians, path: Path, ending: str) -> None:
    kind: Any = {".ply": "ply", ".compressed.ply": "ply_compressed", ".splat": "splat"}[ending]
    export_splats(*raw_columns(gaussians), format=kind, save_to=str(path))


def from_gsply(gaussians: Gaussians, path: Path, ending: str) -> None:
    means, scales, quats, opacities, constant, others = (value.numpy() for value in raw_columns(gaussians))
    data = gsply.GSData.from_arrays(means, scales, quats, opacities, constant[:, 0], others, format="ply")
    gsply.write_spz(path, data, version=int(ending[-1]), fractional_bits=20)


def from_plyfile(gaussians: Gaussians, path: Path, ending: str) -> None:
    """In an arbitrary order, with a column more; as text, big-endian, or of double numbers."""
    means, scales, quats, opacities, constant, others = (value.numpy() for value in raw_columns(gaussians))
    columns = {f"rot_{i}": quats[:, i] * 2 for i in range(4)}  # of any length
    columns |= {f"f_rest_{i}": others.transpose(0, 2, 1).reshape(len(means), -1)[:, i] for i in reversed(range(45))}
    columns |= {"opacity": opacities, "confidence": opacities} | {f"scale_{i}": scales[:, i] for i in range(3)}
    columns |= {axis: means[:, i] for i, axis in enumerate("xyz")} | {f"f_dc_{i}": constant[:, 0, i] for i in range(3)}
    kind = {"text": "f4", "big": ">f4", "double": "f8"}[ending]
    table = np.empty(len(means), [(name, "u1" if name == "confidence" else kind) for name in columns])
    for name, values in columns.items():
        table[name] = values if name != "confidence" else 1
    element = plyfile.PlyElement.describe(table, "vertex")
    plyfile.PlyData([element], text=ending == "text", byte_order=">" if ending == "big" else "<").write(str(path))


@pytest.mark.parametrize(
    ("writer", "variant", "ending"),
    [
        (from_gsplat, ".ply", ".ply"), (from_gsplat, ".compressed.ply", ".compressed.ply"), (from_gsplat, ".splat", ".splat"),
        (from_gsply, "version 3", ".spz"), (from_gsply, "version 4", ".spz"),
        (from_plyfile, "text", ".ply"), (from_plyfile, "big", ".ply"), (from_plyfile, "double", ".ply"),
    ],
)  # fmt: skip
def test_files_of_other_programs_are_read(
    writer: Callable[[Gaussians, Path, str], None],
    variant: str,
    ending: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gaussians = replace(some(), opacities=some().opacities.clamp_max(0.99))
    if ending == ".splat":
        gaussians = replace(gaussians, colors=gaussians.colors.clamp(-1.7, 1.7))
    path = tmp_path / f"splats{ending}"
    writer(gaussians, path, variant)
    # gsplat rounds the bytes of a .splat down, and misplaces the extremes of a scene by half a step of their first chunk
    rougher = {".splat": (0, 1e-6, 2.0, 4e-3, 0.014, 0), ".compressed.ply": (4e-3, 4e-3, 0.3, 2.1e-3, 0.014, 0.02)}
    if writer is from_gsplat:
        monkeypatch.setattr(f"{__name__}.TOLERANCES", TOLERANCES | rougher)
    compare(read_splats(path), gaussians, ending)


def test_what_nobody_draws_is_left_out(tmp_path: Path) -> None:
    gaussians = some(20)
    gaussians.opacities[4], gaussians.opacities[5], gaussians.opacities[6] = -0.5, 0.001, torch.nan
    gaussians.means[7, 1], gaussians.scales[8, 0], gaussians.colors[9, 0, 0] = torch.inf, torch.nan, torch.nan
    gaussians.scales[10] = 0
    kept = torch.tensor([*range(4), *range(10, 20)])
    for ending in FORMATS:
        path = tmp_path / f"splats{ending}"
        assert write_splats(gaussians, path)["gaussians"] == len(kept)
        assert len(read_splats(path)) == len(kept)
    with pytest.raises(InputError, match=r"not written, because none of the 20 Gaussians is visible"):
        write_splats(replace(gaussians, opacities=torch.zeros(20)), tmp_path / "none.ply")
    assert not (tmp_path / "none.ply").exists()


@pytest.mark.parametrize("ending", FORMATS)
def test_one_gaussian_and_equal_ones(ending: str, tmp_path: Path) -> None:
    """A range of 0 in a chunk is no division by 0."""
    for count in (1, 300):
        one = some(1, degree=1)
        same = Gaussians(*(value.expand(count, *value.shape[1:]) for value in one.tensors), sh_degree=1)
        path = tmp_path / f"{count}{ending}"
        write_splats(same, path)
        found = read_splats(path)
        assert len(found) == count
        assert (found.means - one.means).abs().max() < 1e-5
        assert (found.scales.log() - one.scales.log()).abs().max() < 0.04
        assert (found.opacities - one.opacities).abs().max() < 2.1e-3


def test_gaussians_that_are_not_finite_are_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "splats.ply"
    write_splats(some(30), path)
    data = plyfile.PlyData.read(str(path), mmap=False)
    data["vertex"]["x"][3], data["vertex"]["scale_1"][4], data["vertex"]["opacity"][5] = np.nan, 200, np.inf
    for i in range(4):
        data["vertex"][f"rot_{i}"][6] = 0
    data.write(str(path))
    with pytest.warns(UserWarning, match="3 of 30 Gaussians are not finite and were left out"):
        found = read_splats(path)
    assert len(found) == 27
    assert found.opacities.max() == 1  # an infinite logit is an opaque Gaussian


def test_a_scene_far_away_is_moved_for_spz(tmp_path: Path) -> None:
    gaussians = some(200)
    far = replace(gaussians, means=gaussians.means.double().add(torch.tensor([5e4, -3e3, 10.0])).float())
    facts = write_splats(far, tmp_path / "far.spz")
    offset = torch.tensor(facts["offset"])
    found = read_splats(tmp_path / "far.spz")
    assert (found.means + offset - far.means).abs().max() <= 0.01  # half a step of a float32 of this size
    assert found.means.abs().max() < 10
    given = write_splats(far, tmp_path / "given.spz", offset=np.array([5e4, 0, 0]))
    assert given["offset"] == [5e4, 0, 0]
    assert (read_splats(tmp_path / "given.spz").means + torch.tensor([5e4, 0, 0]) - far.means).abs().max() <= 0.01
    wide = replace(gaussians, means=5000 * gaussians.means)
    facts = write_splats(wide, tmp_path / "wide.spz")
    assert facts["position_step"] > 2**-12
    found = read_splats(tmp_path / "wide.spz").means + torch.tensor(facts["offset"])
    assert (found - wide.means).abs().max() <= facts["position_step"]


def test_each_chunk_of_a_compressed_file_is_compact() -> None:
    generator = np.random.default_rng(0)
    means = generator.uniform(size=(5000, 3)).astype(np.float32)
    means[:10] *= 1000  # outliers
    order = chunk_order(means)
    assert np.array_equal(np.sort(order), np.arange(5000))
    sizes = [np.ptp(means[order[i : i + 256]], axis=0).prod() for i in range(0, 5000, 256)]
    assert np.median(sizes) < 0.15
    assert (np.sort(chunk_order(np.zeros((700, 3), np.float32))) == np.arange(700)).all()
    assert len(chunk_order(np.zeros((0, 3), np.float32))) == 0


def test_harmonics_beyond_the_range_of_spz_are_counted(tmp_path: Path) -> None:
    gaussians = some(100)
    gaussians.colors[:25, 5] = 3.0
    assert write_splats(gaussians, tmp_path / "splats.spz")["clipped"] == pytest.approx(0.25 / 15, abs=1e-6)
    assert write_splats(some(100, degree=0), tmp_path / "plain.spz")["clipped"] == 0


def test_the_most_visible_gaussians_of_a_splat_come_first(tmp_path: Path) -> None:
    write_splats(some(200, degree=0), tmp_path / "a.splat")
    found = read_splats(tmp_path / "a.splat")
    visible = found.scales.log().sum(1) + found.opacities.log()
    assert (visible.diff() <= 0.02 + 0.15 * (found.opacities[1:] < 0.1)).all()


# Bad files


def bad(path: Path, what: str) -> Path:
    """A file of Gaussians with something wrong."""
    kind, _, problem = what.partition(" ")
    target = path / f"splats{kind}"
    write_splats(some(300), target)
    raw = target.read_bytes()
    if problem == "truncated":
        target.write_bytes(raw[:-7])
    elif problem == "cut in half":
        target.write_bytes(raw[: len(raw) // 2])
    elif problem == "header only":
        target.write_bytes(raw[:40])
    elif problem == "empty":
        target.write_bytes(b"")
    elif problem == "text":
        target.write_text("hello, world")
    elif problem == "noise":
        target.write_bytes(np.random.default_rng(0).integers(0, 256, 3200, dtype=np.uint8).tobytes())
    elif problem in ("point cloud", "mesh", "no vertices", "no rows", "no rotations", "lists"):
        vertices = np.zeros(0 if problem == "no rows" else 3, [(name, "f4") for name in "xyz"])
        elements = [plyfile.PlyElement.describe(vertices, "vertex")]
        if problem == "mesh":
            faces = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
            elements.append(plyfile.PlyElement.describe(faces, "face"))
        if problem == "lists":
            lists = np.array([([0.0, 1.0],)], dtype=[("x", "O")])
            elements = [plyfile.PlyElement.describe(lists, "vertex")]
        if problem in ("no rows", "no rotations"):
            names = ["x", "y", "z", "opacity", *(f"scale_{i}" for i in range(3)), *(f"f_dc_{i}" for i in range(3))]
            names += [] if problem == "no rotations" else [f"rot_{i}" for i in range(4)]
            table = np.zeros(len(vertices), [(name, "f4") for name in names])
            elements = [plyfile.PlyElement.describe(table, "vertex")]
        if problem == "no vertices":
            elements = [plyfile.PlyElement.describe(vertices, "points")]
        plyfile.PlyData(elements).write(str(target))
    elif problem == "anchors":
        target = write_published(modecgs(), path / "out") / "point_cloud.ply"
    elif problem == "chunks":
        data = plyfile.PlyData.read(str(target), mmap=False)
        chunk = plyfile.PlyElement.describe(data["chunk"].data[:1], "chunk")
        plyfile.PlyData([chunk, data["vertex"], data["sh"]]).write(str(target))
    elif problem == "no chunks":
        data = plyfile.PlyData.read(str(target), mmap=False)
        plyfile.PlyData([data["vertex"]]).write(str(target))
    elif problem == "harmonics":
        data = plyfile.PlyData.read(str(target), mmap=False)
        few = plyfile.PlyElement.describe(data["sh"].data[:2], "sh")
        plyfile.PlyData([data["chunk"], data["vertex"], few]).write(str(target))
    else:
        raise AssertionError(what)
    return target


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (".ply truncated", "is a damaged or truncated .ply file"),
        (".ply header only", "is a damaged or truncated .ply file"),
        (".ply empty", r"the file is empty \(0 bytes\), expected a file of Gaussians"),
        (".ply text", "is not a file of Gaussians; expected .compressed.ply, .ply, .spz, .splat"),
        (".ply point cloud", r"is a point cloud, expected Gaussians \(columns opacity"),
        (".ply mesh", "is a mesh, expected Gaussians"),
        (".ply no vertices", "has no vertices, expected Gaussians"),
        (".ply no rows", "holds no Gaussians; export it again"),
        (".ply no rotations", "has no columns rot_0, rot_1, rot_2, rot_3, expected Gaussians"),
        (".ply lists", "has lists among its vertices"),
        (".ply anchors", "holds anchors of MoDec-GS or Scaffold-GS.*give the whole output folder"),
        (".compressed.ply truncated", "is a damaged or truncated .ply file"),
        (".compressed.ply chunks", "has 1 chunks of 256 for 300 Gaussians"),
        (".compressed.ply no chunks", "is a compressed .ply without the ranges of its chunks"),
        (".compressed.ply harmonics", "has 45 harmonics for 2 of 300 Gaussians"),
        (".spz truncated", "is a damaged or truncated .spz file"),
        (".spz cut in half", "is a damaged or truncated .spz file"),
        (".spz empty", r"the file is empty \(0 bytes\)"),
        (".spz text", "is not a file of Gaussians"),
        (
            ".splat truncated",
            "is truncated, or is not a .splat file: its size must be a multiple of 32 bytes, got 9593",
        ),
        (".splat noise", "is not a .splat file, as most of its scales are not positive numbers"),
    ],
)
def test_bad_files_are_one_line(what: str, says: str, tmp_path: Path) -> None:
    path = bad(tmp_path, what)
    with pytest.raises(InputError, match=says) as caught:
        read_splats(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_paths_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file, expected a file of Gaussians"):
        read_splats(tmp_path / "none.ply")
    with pytest.raises(InputError, match="is a folder"):
        read_splats(tmp_path)
    with pytest.raises(InputError, match="the extension chooses the format and must be one of"):
        write_splats(some(3), tmp_path / "splats.obj")
    assert splat_format("A.COMPRESSED.PLY") == ".compressed.ply"


def test_without_gsply_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gsply", None)
    with pytest.raises(
        MissingDependencyError, match=r"reading and writing .spz files needs .* pip install 'visionzoo\[gs\]'"
    ):
        write_splats(some(3), tmp_path / "splats.spz")


def test_reading_leaves_torchs_threads_and_gsplys_backend_alone(tmp_path: Path) -> None:
    write_splats(some(100), tmp_path / "splats.spz")
    before = torch.get_num_threads()
    read_splats(tmp_path / "splats.spz")
    assert torch.get_num_threads() == before
    assert gsply.active_backend() == "python"
