"""Files of Gaussians that cannot be read or written: one line each that says why."""

from __future__ import annotations

from pathlib import Path

import gsply
import numpy as np
import plyfile
import pytest
import torch

from tests.models.gaussians import some
from tests.tiny import modecgs
from visionzoo.errors import InputError, MissingDependencyError
from visionzoo.models.modecgs.published import write_published
from visionzoo.models.modecgs.splats import read_splats, splat_format, write_splats


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
