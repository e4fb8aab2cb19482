"""Policies keep the elements that their descriptions state, for any tags; configs name policies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.memory import (
    AnchorsAndRecent,
    Drop,
    EvenSample,
    Fifo,
    Never,
    Pool,
    Prototypes,
    SimilarityMerge,
    TensorBank,
    TimeWindow,
    Usage,
)
from visionzoo.memory.buffers import Tags
from visionzoo.memory.consolidate import consolidator_config, consolidator_from_config
from visionzoo.memory.policies import Policy, policy_config, policy_from_config

from .naive_bank import Element, keep

POLICIES = st.one_of(
    st.builds(lambda n, h: Fifo(n, min(n, h)), st.integers(0, 9), st.integers(0, 4)),
    st.builds(lambda n, h: Usage(n, min(n, h)), st.integers(0, 9), st.integers(0, 4)),
    st.builds(AnchorsAndRecent, st.integers(0, 3), st.integers(0, 4), st.integers(1, 4)),
    st.builds(EvenSample, st.integers(1, 6)),
    st.builds(TimeWindow, st.one_of(st.none(), st.integers(-3, 4)), st.one_of(st.none(), st.integers(4, 9))),
    st.just(Never()),
)


def tags_of(times: Sequence[float], uses: Sequence[float] | None = None, lives: list[int] | None = None) -> Tags:
    tags = Tags.empty(len(times))
    tags.ids[:], tags.times[:] = np.arange(len(times)), times
    tags.uses[:] = 0 if uses is None else uses
    tags.lives[:] = 0 if lives is None else lives
    return tags


@settings(deadline=None, max_examples=150)
@given(
    POLICIES, st.lists(st.tuples(st.integers(-4, 12), st.integers(0, 3), st.integers(0, 3)), max_size=16), st.booleans()
)
def test_a_policy_keeps_what_its_definition_says(
    policy: Policy, elements: list[tuple[int, int, int]], in_order: bool
) -> None:
    if in_order:
        elements = sorted(elements, key=lambda e: e[0])
    times, uses, lives = ([e[i] for e in elements] for i in range(3))
    nothing = torch.zeros(0)
    naive = [Element(i, t, 0, False, nothing, nothing, u, life) for i, (t, u, life) in enumerate(elements)]
    kept = policy.keep(tags_of(times, uses, lives))
    assert kept.tolist() == [e.id for e in keep(policy, naive)]
    if policy.keeps_all(len(elements)):
        assert len(kept) == len(elements)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3), st.integers(0, 4), st.integers(1, 4), st.lists(st.integers(0, 3), max_size=25))
def test_evicting_anchors_and_recent_frames_as_they_come_equals_selecting_from_all(
    n_anchor: int, n_recent: int, stride: int, steps: list[int]
) -> None:
    """For any stride, no frame is dropped that a later read would need."""
    policy, times = AnchorsAndRecent(n_anchor, n_recent, stride), np.cumsum(steps).astype(float)
    held: list[float] = []
    for time in times.tolist():
        held.append(time)
        held = [held[i] for i in policy.keep(tags_of(held)).tolist()]
    assert held == [float(times[i]) for i in policy.keep(tags_of(times.tolist()))]


def test_an_even_sample_of_a_whole_video_is_a_uniform_linspace() -> None:
    kept = EvenSample(650).keep(tags_of([float(t) for t in range(2001)]))
    wanted = np.linspace(0, 2000, 650)
    assert kept[0] == 0
    assert kept[-1] == 2000
    assert len(set(kept.tolist())) == 650
    assert np.abs(kept - wanted).max() <= 0.5


def test_an_even_sample_stays_spread_out_while_the_video_continues() -> None:
    held: list[float] = []
    for time in range(1000):
        held.append(float(time))
        held = [held[i] for i in EvenSample(20).keep(tags_of(held)).tolist()]
    gaps = np.diff(held)
    assert (held[0], held[-1]) == (0.0, 999.0)
    assert gaps.max() < 6 * 999 / 19


def test_usage_is_divided_by_life_and_new_elements_stay() -> None:
    tags = tags_of([0, 0, 0, 0, 0], uses=[4.0, 3.0, 0.0, 1.0, 1.0], lives=[8, 3, 0, 2, 2])
    # 0.5, 1.0, new, 0.5, 0.5: of equal ones, the earliest is evicted
    assert Usage(4).keep(tags).tolist() == [1, 2, 3, 4]
    assert Usage(4, hysteresis=2).keep(tags).tolist() == [1, 2]
    tags.times[3] = -1  # … but age goes before index
    assert Usage(4).keep(tags).tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize(
    "policy",
    [Fifo(5), Fifo(5, 2), Usage(7, 3), AnchorsAndRecent(1, 6, 3), EvenSample(650), TimeWindow(None, 2.5), Never()],
)
def test_a_config_names_a_policy(policy: Policy) -> None:
    config = policy_config(policy)
    assert config["policy"] == policy.name
    assert policy_from_config(config) == policy
    assert policy_from_config(policy) is policy
    assert TensorBank(2, 2, 1000, policy=config).policy == policy


@pytest.mark.parametrize("consolidator", [Prototypes(128), Prototypes(3, 0.5), SimilarityMerge(2), Pool(4), Drop()])
def test_a_config_names_a_consolidator(consolidator: object) -> None:
    assert consolidator_from_config(consolidator_config(consolidator)) == consolidator  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"policy": "lifo", "n": 5}, "'lifo'; known: fifo, usage, anchors_and_recent, even_sample"),
        ({"n": 5}, "no policy None; known: fifo"),
        ({"policy": "fifo", "size": 5}, "no field 'size'; known: n, hysteresis"),
        ({"policy": "usage"}, "needs 'n'"),
        ({"policy": "fifo", "n": "5"}, "n must be an integer of at least"),
        ({"policy": "fifo", "n": -1}, "n must be an integer of at least 0, got -1"),
        ({"policy": "usage", "n": 5, "hysteresis": 6}, "hysteresis 6 is more than n, 5"),
        ({"policy": "anchors_and_recent", "n_anchor": 1, "n_recent": 1, "stride": 0}, "stride must be an integer"),
        ({"policy": "time_window", "t0": 3, "t1": 2}, "t0 must not be later"),
    ],
)
def test_a_wrong_config_error_lists_the_known_names(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy_from_config(config)


def test_an_unregistered_policy_is_not_saved() -> None:
    class Mine(Never):
        name = "mine"

    with pytest.raises(InputError, match="Mine is not a registered policy"):
        policy_config(Mine())
