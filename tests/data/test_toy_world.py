"""The toy world: the same everywhere, with truths that agree with each other."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from visionzoo.data.toy_world import ACTIONS, COLORS, ToyWorld, vocabulary
from visionzoo.data.toy_world.chance import SPLITS, Chance, split_of
from visionzoo.data.toy_world.characters import random_character
from visionzoo.data.toy_world.places import KINDS, palettes
from visionzoo.errors import InputError

SUMS = {
    ((128, 128), 2): "6d9e86cd 5048e98c 6d4bf97f 25329a36 3adb751c",
    ((96, 160), 3): "402ecb3b ea141cb3 ed64ba29 850a4842 d6b30b91",
    ((240, 320), 4): "036020f4 6bd91d1f 412d9622 39724e20 af28fd5a",
}
"""Checksums of colours, lines, regions, flow and its validity, seen with OpenCV 4.14 and 5.0."""


@pytest.mark.parametrize(("size", "supersampling"), SUMS)
def test_frames_have_the_same_bytes_on_every_machine(size: tuple[int, int], supersampling: int):
    sums = [hashlib.sha256() for _ in range(5)]
    for seed in range(4):
        clip = ToyWorld.create(seed, "test", characters=2).film(20, size=size, supersampling=supersampling)
        for frame in clip:
            for total, part in zip(sums, (frame.rgb, frame.ink, frame.regions, frame.flow, frame.valid), strict=True):
                total.update(np.ascontiguousarray(part).tobytes())
    assert " ".join(total.hexdigest()[:8] for total in sums) == SUMS[size, supersampling]


def test_frames_by_index_are_those_of_the_whole_clip():
    clip = ToyWorld.create(3, characters=2).film(70)
    for number, frame in enumerate(clip):
        if number in (0, 31, 32, 69):
            alone = clip[number]
            for name in ("rgb", "ink", "regions", "instances", "flow", "valid"):
                np.testing.assert_array_equal(getattr(alone, name), getattr(frame, name), err_msg=name)
            assert (alone.caption, alone.action) == (frame.caption, frame.action)
    assert len(list(clip.frames(60))) == 10
    assert (clip[-1].rgb == clip[69].rgb).all()


def test_slices_are_lists_of_frames():
    clip = ToyWorld.create(3).film(12, size=(64, 64))
    frames = [frame.rgb for frame in clip]
    for chosen in (slice(1, 3), slice(-2, None), slice(None, None, 5), slice(3, 0, -1), slice(5, 5), slice(7, 2)):
        some = clip[chosen]
        assert len(some) == len(frames[chosen])
        for one, other in zip(some, frames[chosen], strict=True):
            np.testing.assert_array_equal(one.rgb, other)
    with pytest.raises(IndexError):
        clip[12]


def test_without_motion_the_pictures_are_the_same():
    clip = ToyWorld.create(3, characters=2).film(4)
    for frame, still in zip(clip, clip.frames(motion=False), strict=True):
        np.testing.assert_array_equal(frame.rgb, still.rgb)
        assert still.flow.size == still.valid.size == 0


@pytest.mark.parametrize("action", [action for action in ACTIONS if action != "wait"])
def test_the_flow_leads_to_the_same_point_of_the_next_frame(action: str):
    """In the next frame, at the end of a pixel's flow, there is the same region and nearly the same colour."""
    opposite = {"go out": "go in", "zoom out": "zoom in"}.get(action)
    actions = [opposite, action] if opposite else [action]
    clip = ToyWorld.create(5, characters=2).film(14, actions=actions, start=9.0)
    pair = list(clip.frames(9, 11)) if opposite else list(clip.frames(4, 6))
    now, after = pair
    assert after.action == action
    assert np.abs(now.flow).max() > 0.5
    y, x = np.indices(now.valid.shape)
    column = np.rint(x + now.flow[..., 0]).astype(int).clip(0, 127)
    row = np.rint(y + now.flow[..., 1]).astype(int).clip(0, 127)
    assert now.valid.mean() > 0.9
    assert (after.regions[row, column] == now.regions)[now.valid].all()
    place = np.stack([x + now.flow[..., 0], y + now.flow[..., 1]], axis=-1) / 63.5 - 1
    image = torch.from_numpy(after.rgb).permute(2, 0, 1)[None].float()
    warped = grid_sample(image, torch.from_numpy(place)[None].float(), align_corners=True)[0].permute(1, 2, 0).numpy()
    moved = np.abs(warped - now.rgb)[now.valid].mean()
    still = np.abs(after.rgb.astype(float) - now.rgb)[now.valid].mean()
    assert moved < 5
    assert moved < 0.7 * still


def test_flat_colours_are_those_of_the_frame_away_from_lines():
    clip = ToyWorld.create(1, characters=2).film(8)
    table = np.array([region.rgb for region in clip.regions], np.uint8)
    for frame in clip:
        paper = frame.ink == 255
        assert paper.mean() > 0.5
        near = np.abs(table[frame.regions].astype(int) - frame.rgb)[paper].max(axis=-1)
        assert (near == 0).mean() > 0.99
        for number, part in ((region.number, region) for region in clip.regions if region.color):
            assert part.rgb == COLORS[part.color]
            assert number == part.number


def test_the_camera_has_a_speed():
    world = ToyWorld.create(3, "test", places=2)
    middle = (world.places[0].left + world.places[-1].right) / 2
    settings = {"actions": ["go right", "zoom in"], "hold": 4, "start": middle}
    once, half = (world.film(9, speed=speed, **settings).cameras for speed in (1.0, 0.5))
    assert np.allclose(once[4, 0] - middle, 2 * (half[4, 0] - middle))
    assert np.allclose(once[8, 2], half[8, 2] ** 2)
    slow = world.film(32, speed=0.5, returns=True, hold=4)
    assert np.array_equal(slow.cameras[1:], slow.cameras[:0:-1])
    with pytest.raises(InputError, match="speed"):
        world.film(9, speed=0)


def test_a_path_that_returns_shows_the_same_frames():
    clip = ToyWorld.create(2, characters=0).film(128, returns=True)
    there, back = clip[24], clip[104]
    np.testing.assert_array_equal(clip.cameras[24], clip.cameras[104])
    np.testing.assert_array_equal(there.rgb, back.rgb)
    assert len(np.unique(clip.cameras, axis=0)) > 40


def test_captions_say_what_is_visible():
    clip = ToyWorld.create(1, places=("park",), characters=1).film(40)
    character = clip.characters[0]
    named = [frame for frame in clip if character.kind in frame.caption.split()]
    assert len(named) > 10
    for frame in named:
        assert character.text() in frame.caption
        assert "in a park" in frame.caption
        assert frame.doing[0] in frame.caption
        shown = {clip.regions[number] for number in np.unique(frame.regions)}
        for color, name in re.findall(r"an? (\w+) (tree|bench|lantern|bush|ball)", frame.caption):
            assert any((part.object, part.color) == (name, color) for part in shown)


def test_captions_fit_into_the_vocabulary_and_into_77_tokens():
    words, longest = set(vocabulary()), 0
    for seed in range(12):
        clip = ToyWorld.create(seed, places=2, characters=4).film(25)
        for number in (0, 24):
            tokens = re.findall(r"\w+|,", clip[number].caption)
            assert words.issuperset(tokens)
            longest = max(longest, len(tokens))
    assert 40 < longest <= 75
    assert {word for action in ACTIONS for word in action.split()} <= words


@pytest.mark.parametrize("kind", KINDS)
def test_every_split_has_palettes_of_its_own(kind: str):
    found = [palettes(kind, split) for split in SPLITS]
    assert all(found)
    assert len({number for numbers in found for number in numbers}) == sum(map(len, found))


def test_characters_of_a_split_never_occur_in_another():
    keys = {split: {random_character(Chance("some", split, n), split).key for n in range(300)} for split in SPLITS}
    for split, found in keys.items():
        assert all(split_of("character", *key) == split for key in found)
        assert not any(found & other for name, other in keys.items() if name != split)
    worlds = [ToyWorld.create(4, split) for split in SPLITS]
    assert len({world.places[0].landmarks[0].x for world in worlds}) == 3


@pytest.mark.parametrize(
    ("size", "characters"), [((64, 64), 0), ((64, 200), 1), ((270, 480), 6)], ids=["small", "wide", "many"]
)
def test_other_sizes_and_long_worlds(size: tuple[int, int], characters: int):
    clip = ToyWorld.create(0, places=24, characters=characters).film(3, size=size)
    frame = clip[2]
    assert frame.rgb.shape == (*size, 3)
    assert frame.flow.shape == (*size, 2)
    assert frame.rgb.std() > 10


def test_more_shapes_than_a_byte_can_number():
    """In a very wide frame more than 254 shapes are visible at once."""
    world = ToyWorld.create(0, places=24, characters=6)
    wide, narrow = world.film(2, size=(64, 1920), start=60.0), world.film(2, size=(64, 128), start=60.0)
    assert len(np.unique(wide[0].regions)) > 100
    middle = slice(960 - 64, 960 + 64)
    same = (wide[0].rgb[:, middle] == narrow[0].rgb).all(axis=-1)
    people = (wide[0].instances[:, middle] <= 6) & (wide[0].instances[:, middle] > 0)
    people |= (narrow[0].instances <= 6) & (narrow[0].instances > 0)  # they act relative to what is visible
    assert same[~people].mean() > 0.9  # lines around the characters differ, too


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToyWorld.create(0, "tests"), "did you mean|train, validation"),
        (lambda: ToyWorld.create(0, places=("park", "moon")), "moon"),
        (lambda: ToyWorld.create(0, places="park"), r"places must be a number or a list of kinds, such as \['park'\]"),
        (lambda: ToyWorld.create(-1), "seed must be at least 0, got -1"),
        (lambda: ToyWorld.create(1.5), "seed must be a whole number, got 1.5"),
        (lambda: ToyWorld.create(0, characters="two"), "characters must be a number from 0 to 6, or a list"),
        (lambda: ToyWorld.create(0).film(4.5), "frames must be a whole number, got 4.5"),
        (lambda: ToyWorld.create(0).film(size=128), r"size must be \(height, width\) in whole pixels"),
        (lambda: ToyWorld.create(0).film(size=(128.5, 64)), r"size must be \(height, width\) in whole pixels"),
        (lambda: ToyWorld.create(0).film(actions="go left"), r"actions must be a list, such as \['go left'\]"),
        (lambda: ToyWorld.create(0, places=0), "1 to 24 places, got 0"),
        (lambda: ToyWorld.create(0, characters=7), "0 to 6 characters, got 7"),
        (lambda: ToyWorld.create(0).film(0), "frames must be from 1"),
        (lambda: ToyWorld.create(0).film(size=(63, 128)), "height of a frame must be from 64 to 1920 pixels, got 63"),
        (
            lambda: ToyWorld.create(0).film(size=(128, 1921)),
            "width of a frame must be from 64 to 1920 pixels, got 1921",
        ),
        (lambda: ToyWorld.create(0).film(actions=["go left", "jump"]), "action 2 is 'jump'; the actions are: go left"),
        (lambda: ToyWorld.create(0).film(start=-5.0), "start must be from 1 to"),
        (lambda: ToyWorld.create(0).film(supersampling=9), "supersampling must be from 1 to 4, got 9"),
        (lambda: ToyWorld.create(0).film(4)[4], "index out of range"),
        (lambda: list(ToyWorld.create(0).film(4).frames(2, 9)), "frames 0 to 3, not 2 to 8"),
    ],
)
def test_what_the_world_does_not_have_is_refused(make, message: str):
    with pytest.raises((InputError, IndexError), match=message):
        make()


def test_numbers_of_numpy_make_the_same_world():
    ours = ToyWorld.create(np.int64(3), places=np.int64(2), characters=np.int64(1)).film(
        np.int64(1), size=np.array([64, 72])
    )
    assert np.array_equal(ours[0].rgb, ToyWorld.create(3, places=2, characters=1).film(1, size=(64, 72))[0].rgb)
