import gymnasium as gym
import numpy as np
import pytest
import torch

from pg_lightning import LeaveOneOut, LinearBaseline, MeanBaseline, NoBaseline, TimestepBaseline
from tests.helpers import batch_of, episodes_of

RETURNS = torch.tensor([3.0, 2.0, 1.0, 5.0]).double()
TWO = {"rewards": [1.0] * 4, "lengths": [3, 1]}


def test_the_mean_over_the_update():
    assert MeanBaseline()(episodes_of(**TWO), RETURNS).tolist() == [2.75] * 4


def test_none():
    assert NoBaseline()(episodes_of(**TWO), RETURNS).tolist() == [0.0] * 4


def test_the_mean_at_the_same_timestep():
    assert TimestepBaseline()(episodes_of(**TWO), RETURNS).tolist() == [4.0, 2.0, 1.0, 4.0]


def test_the_other_episodes():
    assert LeaveOneOut()(episodes_of(**TWO), RETURNS).tolist() == [5.0, 5.0, 5.0, 3.0]


def test_a_single_episode_has_nothing_to_be_compared_with():
    alone = episodes_of([1.0] * 4, [4])
    with pytest.warns(UserWarning, match="the baseline is 0"):
        assert LeaveOneOut()(alone, RETURNS).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="there is only 1"):
        TimestepBaseline()(alone, RETURNS)


def test_a_linear_baseline_finds_a_linear_function():
    baseline = LinearBaseline()
    baseline.prepare(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), torch.nn.Module())
    observations = torch.randn(400, 2)
    steps = torch.arange(200).repeat(2) / 100
    returns = (2 * observations[:, 0] - observations[:, 1] ** 2 + steps + 4).double()
    episodes = episodes_of([1.0] * 400, [200, 200], observations=observations)
    assert not baseline(episodes, returns).any()  # Nothing is known yet.
    baseline.fit(batch_of(episodes, returns))
    torch.testing.assert_close(baseline(episodes, returns), returns, rtol=1e-3, atol=1e-3)
    final = 2 * episodes.final_observations[:, 0] - episodes.final_observations[:, 1] ** 2 + 2 + 4
    torch.testing.assert_close(baseline.values(episodes).final, final.double(), rtol=1e-3, atol=2e-3)


def test_a_penalty_that_is_none():
    with pytest.raises(ValueError, match="regularization must be more than 0"):
        LinearBaseline(0.0)
