"""Frame pairs of talking heads: layouts, pairs, published pair lists, and errors."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter
from visionzoo.models.mcnet.data import Clip, ClipReader, FramePairs, TalkingHeads, find_clips, read_pair_list


def frame(number: int, tint: int = 0, side: int = 128) -> np.ndarray:
    """A ramp with a brightness given by `number`."""
    ramp = np.linspace(0, 60, side, dtype=np.float32)[None, :, None] + np.zeros((side, 1, 3), np.float32)
    return (ramp + 10 * number + [tint, 0, 0]).clip(0, 255).astype(np.uint8)


def folder(path: Path, frames: int = 5, tint: int = 0) -> Path:
    path.mkdir(parents=True)
    for number in range(frames):
        Image.fromarray(frame(number, tint)).save(path / f"{number:07}.png")
    return path


def video(path: Path, frames: int = 5) -> Path:
    with VideoWriter(path, fps=25, lossless=True) as writer:
        for number in range(frames):
            writer.write(frame(number))
    return path


@pytest.fixture
def voxceleb(tmp_path: Path) -> Path:
    for person in range(3):
        for tube in range(2):
            folder(tmp_path / "train" / f"id{person}#v#{tube}#9.mp4", tint=40 * person)
    folder(tmp_path / "test" / "id9#v#0#9.mp4", 4)
    return tmp_path


def level(image: torch.Tensor) -> float:
    return float(image[1].mean() * 255 - 30) / 10


def test_an_item_is_two_frames_of_one_identity_in_order(voxceleb: Path) -> None:
    pairs = FramePairs(find_clips(voxceleb / "train"), ClipReader(128), 0, augment=False)
    assert len(pairs) == 3
    numbers = []
    for epoch in range(30):
        source, driving = pairs[epoch, 1]
        assert source.shape == driving.shape == (3, 128, 128)
        assert abs(float((source[0] - source[1]).mean() * 255) - 40) < 1
        numbers.append((round(level(source)), round(level(driving))))
    assert all(first <= second for first, second in numbers)
    assert {number for pair in numbers for number in pair} == {0, 1, 2, 3, 4}
    by_clip = FramePairs(find_clips(voxceleb / "train"), ClipReader(128), 0, by_identity=False)
    assert len(by_clip) == 6


def test_what_a_pair_is_depends_on_seed_epoch_and_index_alone(voxceleb: Path) -> None:
    clips = find_clips(voxceleb / "train")
    one, other = (FramePairs(clips, ClipReader(128), 3) for _ in range(2))
    _ = other[7, 7], other[1, 0]
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(one[2, 1], other[2, 1], strict=True))
    assert not torch.equal(one[2, 1][0], FramePairs(clips, ClipReader(128), 4)[2, 1][0])


def test_changes_are_those_of_the_recipe(voxceleb: Path) -> None:
    pairs = FramePairs(find_clips(voxceleb / "train"), ClipReader(128), 0)
    swapped = mirrored = different = 0
    for epoch in range(200):
        source, driving = pairs[epoch, 0]
        slope = [float(image[..., -20:].mean() - image[..., :20].mean()) for image in (source, driving)]
        assert slope[0] * slope[1] > 0, "both frames are mirrored or none"
        mirrored += slope[0] < 0
        different += abs(level(source) - level(driving)) > 0.5
        swapped += level(source) > level(driving) + 0.5
    assert 30 < mirrored < 70  # a quarter
    assert 0.35 < swapped / different < 0.65


def test_a_video_gives_the_same_as_its_frames(tmp_path: Path) -> None:
    frames, film = Clip(folder(tmp_path / "a")), Clip(video(tmp_path / "b.mp4"))
    plain, cached = ClipReader(128), ClipReader(128, tmp_path / "cache")
    assert plain.count(frames) == plain.count(film) == cached.count(film) == 5
    want = plain.read(frames, [3, 0])
    for reader in (plain, cached, pickle.loads(pickle.dumps(cached))):
        assert np.abs(reader.read(film, [3, 0]).astype(int) - want).max() <= 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert ClipReader((64, 32)).read(film, [0]).shape == (1, 64, 32, 3)


def test_the_module_takes_voxceleb_and_plain_folders(voxceleb: Path) -> None:
    data = TalkingHeads(str(voxceleb), size=128, batch_size=4, num_workers=0, repeats=3, val_pairs=5)
    data.setup()
    batches = list(data.train_dataloader())
    assert [tuple(batch[0].shape) for batch in batches] == [(4, 3, 128, 128)] * 2
    assert sum(len(batch[0]) for batch in data.val_dataloader()) == 5
    loader = data.val_dataloader()
    batches = []
    for epoch in (0, 3):
        loader.sampler.set_epoch(epoch)  # pyright: ignore
        batches.append(torch.cat([torch.stack(batch) for batch in loader], 1))
    assert torch.equal(*batches), "the same pairs in every epoch"
    data.setup("test")
    source, driving, names, crosses = next(iter(data.test_dataloader()))
    assert [round(level(image)) for image in driving] == [0, 1, 2, 3]
    assert [round(level(image)) for image in source] == [0, 0, 0, 0]
    assert set(names) == {"id9#v#0#9.mp4"}
    assert not crosses.any()
    few = TalkingHeads(str(voxceleb / "train"), size=128, num_workers=0, repeats=3, test_frames=2)
    few.setup("test")
    assert len(few.test_set) == 12  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("header", ["source,driving\n", "distance,driving,source\n", ""])
def test_a_published_pair_list(tmp_path: Path, header: str) -> None:
    for name in ("one", "two"):
        folder(tmp_path / "vox1_frames" / "test" / f"{name}.mp4", 3)
    away = "/data/somebody/vox1_frames/test/"
    row = [f"{away}one.mp4/0000002.png", f"{away}two.mp4/0000001.png"]
    cells = ["0.1", row[1], row[0]] if header.startswith("distance") else row
    (tmp_path / "list.csv").write_text(f"{header}{','.join(cells)}\n\n")
    for root in (tmp_path, tmp_path / "vox1_frames"):
        ((source, first, driving, second),) = read_pair_list(tmp_path / "list.csv", root)
        assert (source.path.name, first, driving.path.name, second) == ("one.mp4", 2, "two.mp4", 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no pairs"),
        ("source,driving\n", "names no pairs"),
        ("a/1.png\n", "line 1 has 1 columns"),
        ("one/0000000.png,one/9.png\n", r"line 1: no frame one/9\.png under"),
        ("one/0000000.png,../../etc/x.png\n", "line 1: no frame etc/x"),
    ],
)
def test_a_bad_pair_list_is_explained(tmp_path: Path, text: str, reason: str) -> None:
    folder(tmp_path / "one", 1)
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_pair_list(tmp_path / "list.csv", tmp_path)


def test_unusable_inputs_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; expected videos or folders"):
        find_clips(tmp_path / "none")
    with pytest.raises(InputError, match="holds neither videos"):
        find_clips(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="broken.mp4"):
        ClipReader(128).count(find_clips(tmp_path)[0])
    with pytest.raises(InputError, match="multiple of 128"):
        TalkingHeads(str(tmp_path), size=200)
    few = TalkingHeads(str(folder(tmp_path / "set" / "a").parent), size=128, repeats=1, num_workers=0)
    few.setup()
    with pytest.raises(InputError, match="do not fill a batch of 8"):
        few.train_dataloader()
