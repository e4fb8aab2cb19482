"""The one-euro filter equals the published one, separately for every element."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionzoo.errors import InputError
from visionzoo.faces import OneEuroFilter


def reference(values, times, min_cutoff, beta, derivative_cutoff):
    """The paper's algorithm 1 and 2 for one number at a time."""
    result = [values[0]]
    speed = 0.0
    for index in range(1, len(values)):
        step = times[index] - times[index - 1]

        def alpha(cutoff, step=step):
            tau = 1.0 / (2.0 * math.pi * cutoff)
            return 1.0 / (1.0 + tau / step)

        rate = (values[index] - result[-1]) / step
        a = alpha(derivative_cutoff)
        speed = a * rate + (1.0 - a) * speed
        a = alpha(min_cutoff + beta * abs(speed))
        result.append(a * values[index] + (1.0 - a) * result[-1])
    return result


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(0.001, 1)), min_size=1, max_size=20),
    st.floats(0.01, 10),
    st.floats(0, 10),
    st.floats(0.1, 10),
)
def test_as_the_scalar_reference(steps, min_cutoff, beta, derivative_cutoff) -> None:
    values, times = [value for value, _ in steps], np.cumsum([step for _, step in steps])
    smooth = OneEuroFilter(min_cutoff, beta, derivative_cutoff)
    ours = [float(smooth.filter(value, float(time))) for value, time in zip(values, times, strict=True)]
    np.testing.assert_allclose(ours, reference(values, times, min_cutoff, beta, derivative_cutoff), atol=1e-9)


@pytest.mark.parametrize("shape", [(), (3,), (2, 15, 2), (0, 4)])
def test_elements_are_filtered_separately(shape) -> None:
    rng = np.random.default_rng(0)
    stream = rng.normal(size=(12, *shape))
    smooth = OneEuroFilter(0.8, 0.3)
    ours = np.stack([smooth.filter(x, n / 25) for n, x in enumerate(stream)])
    for place in np.ndindex(*shape):
        wanted = reference(stream[(slice(None), *place)], [n / 25 for n in range(12)], 0.8, 0.3, 1.0)
        np.testing.assert_allclose(ours[(slice(None), *place)], wanted, atol=1e-12)


def test_tensors_stay_tensors() -> None:
    stream = torch.randn(5, 1, 15, 2)
    smooth, plain = OneEuroFilter(1.0, 0.5), OneEuroFilter(1.0, 0.5)
    for number, x in enumerate(stream):
        result = smooth.filter(x, number / 25)
        assert result.dtype == torch.float32
        np.testing.assert_allclose(result.numpy(), plain.filter(x.double().numpy(), number / 25), atol=1e-5)


def test_jitter_goes_and_movement_stays() -> None:
    rng = np.random.default_rng(1)
    times = np.arange(200) / 25
    truth = np.where(times < 4, 0.0, np.minimum((times - 4) * 2, 1.0))
    smooth = OneEuroFilter(min_cutoff=0.5, beta=5.0)
    result = np.array([smooth.filter(x, t) for x, t in zip(truth + rng.normal(0, 0.01, 200), times, strict=True)])
    assert result[25:100].std() < 0.006
    assert abs(result[150:].mean() - 1) < 0.01
    assert np.abs(result - truth).max() < 0.25


def test_reset_starts_again() -> None:
    smooth = OneEuroFilter()
    smooth.filter(np.zeros(3), 5.0)
    smooth.filter(np.ones(3), 6.0)
    smooth.reset()
    np.testing.assert_array_equal(smooth.filter(np.full(2, 7.0), 1.0), [7, 7])


def test_the_filter_shares_no_memory_with_its_input_or_output() -> None:
    smooth = OneEuroFilter()
    first = np.zeros(2)
    given_back = smooth.filter(first, 0.0)
    first += 100
    given_back += 100
    np.testing.assert_array_equal(smooth.filter(np.zeros(2), 1.0), [0, 0])


def test_whole_numbers_are_filtered_as_floats() -> None:
    smooth = OneEuroFilter()
    smooth.filter(np.array([0, 0]), 0.0)
    assert 0 < smooth.filter(np.array([1, 1]), 0.1)[0] < 1


def test_a_refused_value_leaves_the_filter_as_it_was() -> None:
    smooth, other = OneEuroFilter(), OneEuroFilter()
    for one in (smooth, other):
        one.filter(np.zeros(2), 0.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        smooth.filter(np.array([np.nan, 0]), 1.0)
    with pytest.raises(InputError, match="times must increase, got 0.0 s after 0.0 s"):
        smooth.filter(np.zeros(2), 0.0)
    with pytest.raises(InputError, match=r"shape \(2,\) of earlier values, got \(3,\)"):
        smooth.filter(np.zeros(3), 1.0)
    np.testing.assert_array_equal(smooth.filter(np.ones(2), 1.0), other.filter(np.ones(2), 1.0))


@pytest.mark.parametrize("settings", [(0, 0, 1), (1, -1, 1), (1, 0, 0), (math.inf, 0, 1), (1, math.nan, 1)])
def test_settings_out_of_range(settings) -> None:
    with pytest.raises(InputError, match="above 0 Hz"):
        OneEuroFilter(*settings)
    with pytest.raises(InputError, match="finite"):
        OneEuroFilter().filter(0.0, math.nan)
