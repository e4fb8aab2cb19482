"""Files of Gaussians: what each format keeps, and that other programs read and write the same."""

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

from tests.models.gaussians import image, psnr, some
from tests.tiny import modecgs
from visionzoo.errors import InputError
from visionzoo.models.modecgs import Gaussians
from visionzoo.models.modecgs.splats import FORMATS, bake, read_splats, write_splats
from visionzoo.models.modecgs.splats.compressed import chunk_order
from visionzoo.splatting.harmonics import basis

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
