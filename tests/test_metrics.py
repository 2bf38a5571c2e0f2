import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pg_lightning.metrics import RunningReward

FINITE = st.floats(-1e6, 1e6)


def weighted_mean(values, decay):
    """Mean of the values, the last with weight 1, the one before with weight d, and so on."""
    weights = decay ** np.arange(len(values))[::-1]
    return float((weights * values).sum() / weights.sum())


@given(values=st.lists(FINITE, min_size=1, max_size=60), decay=st.floats(0, 0.999), cut=st.integers(0, 60))
def test_without_an_initial_value_it_is_the_weighted_mean(values, decay, cut):
    running = RunningReward(decay)
    for part in (values[:cut], values[cut:]):
        if part:
            running.update(torch.tensor(part, dtype=torch.float64))
    assert running.compute().item() == pytest.approx(weighted_mean(np.array(values), decay), rel=1e-9, abs=1e-6)
    assert running.episodes == len(values)


@given(values=st.lists(FINITE, min_size=1, max_size=60), decay=st.floats(0, 0.999), initial=FINITE)
def test_with_an_initial_value_it_is_the_plain_recurrence(values, decay, initial):
    running, expected = RunningReward(decay, initial), initial
    running.update(torch.tensor(values, dtype=torch.float64))
    for value in values:
        expected = decay * expected + (1 - decay) * value
    assert running.compute().item() == expected and running.weight == 1


def test_exact_numbers():
    running = RunningReward(decay=0.5)
    running.update(torch.tensor([-491.0]))
    assert running.compute() == -491  # From 10, it would be -240.5.
    running.update(torch.tensor([9.0, 5]))
    assert running.compute().item() == pytest.approx((0.25 * -491 + 0.5 * 9 + 5) / 1.75)
    article = RunningReward(decay=0.99, initial=10)
    article.update(torch.tensor([20]))
    assert article.compute().item() == pytest.approx(10.1, rel=1e-15)


def test_a_saved_average_goes_on_as_if_nothing_had_happened(tmp_path):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=90))
    whole, first, second = RunningReward(0.9), RunningReward(0.9), RunningReward(0.9)
    whole.update(values[:40])
    first.update(values[:40])
    torch.save(dict(first.state_dict()), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    whole.update(values[40:])
    second.update(values[40:])
    assert second.compute() == whole.compute() and second.episodes == 90
    assert set(first.state_dict()) == {"value", "weight", "episodes"}


def test_another_decay_leaves_the_average_unbiased():
    first, second = RunningReward(0.99), RunningReward(0.5)
    first.update(torch.full((5,), 7.0))
    second.load_state_dict(first.state_dict())
    second.update(torch.full((1,), 7.0))
    assert second.compute().item() == pytest.approx(7.0, rel=1e-12)


def test_reset_forgets():
    running = RunningReward()
    running.update(torch.tensor([3.0]))
    running.reset()
    assert running.episodes == 0 and math.isnan(running.average())
    running.update(torch.tensor([5.0]))
    assert running.compute().item() == pytest.approx(5)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_change_nothing(number):
    running = RunningReward()
    running.update(torch.tensor([3.0]))
    with pytest.raises(ValueError, match=f"values must be finite, not {number}"):
        running.update(torch.tensor([1.0, number]))
    assert running.episodes == 1 and running.compute().item() == pytest.approx(3)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_decays_out_of_range(decay):
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
        RunningReward(decay)


@pytest.mark.parametrize("initial", [math.nan, math.inf, -math.inf])
def test_initial_values_that_are_not_finite(initial):
    with pytest.raises(ValueError, match=f"initial must be a finite number or None, not {initial}"):
        RunningReward(initial=initial)


@pytest.mark.parametrize("values", [torch.tensor([]), torch.tensor(1.0), torch.ones(2, 1)])
def test_values_of_another_shape(values):
    with pytest.raises(ValueError, match=r"values must be \[E\]"):
        RunningReward().update(values)
