import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pg_lightning.functional import (
    discounted_sums,
    discounts_within,
    episode_sums,
    leave_one_out,
    policy_gradient_loss,
    returns_to_go,
    standardize,
    standardize_episodes,
    timestep_discounts,
    timestep_indices,
    timestep_mean,
)
from pg_lightning.metrics import exponential_moving_average
from tests import naive

numbers = st.floats(-1e3, 1e3, width=32)
packed = st.lists(st.lists(numbers, min_size=1, max_size=40), min_size=1, max_size=6)
gammas = st.one_of(st.sampled_from([0.0, 1.0, 0.99]), st.floats(0, 1))


def pack(episodes, dtype=torch.float64):
    values = [value for episode in episodes for value in episode]
    return torch.tensor(values, dtype=dtype), torch.tensor([len(episode) for episode in episodes])


def test_five_rewards_of_one():
    returns = returns_to_go(torch.ones(5), torch.tensor([5]), 0.99)
    assert returns.tolist() == pytest.approx([4.90099501, 3.940399, 2.9701, 1.99, 1], abs=1e-12)


@given(packed, gammas)
def test_returns_are_those_of_a_backwards_loop(episodes, gamma):
    returns = returns_to_go(*pack(episodes), gamma)
    expected = []
    for episode in episodes:
        total, backwards = 0.0, []
        for reward in reversed(episode):
            total = reward + gamma * total
            backwards.append(total)
        expected += backwards[::-1]
    assert returns.dtype == torch.float64
    assert returns.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-8)


@given(packed, gammas)
def test_returns_obey_bellman_and_stay_within_their_episode(episodes, gamma):
    rewards, lengths = pack(episodes)
    returns = returns_to_go(rewards, lengths, gamma)
    ends = lengths.cumsum(0) - 1
    following = torch.cat([returns[1:], torch.zeros(1)])
    following[ends] = 0
    torch.testing.assert_close(returns, rewards + gamma * following, rtol=1e-9, atol=1e-8)


def test_returns_without_and_with_full_foresight():
    rewards, lengths = torch.tensor([3.0, -1.0, 4.0, 1.0, 5.0]), torch.tensor([3, 2])
    assert returns_to_go(rewards, lengths, 0).tolist() == [3, -1, 4, 1, 5]
    assert returns_to_go(rewards, lengths, 1).tolist() == [6, 3, 4, 6, 5]


def test_endless_ones_are_worth_the_geometric_series():
    returns = returns_to_go(torch.ones(5000), torch.tensor([5000]), 0.99)
    assert returns[0].item() == pytest.approx(1 / (1 - 0.99), rel=1e-12)
    assert returns[4000].item() == pytest.approx((1 - 0.99**1000) / (1 - 0.99), rel=1e-12)


def test_returns_leave_the_rewards_alone():
    rewards = torch.arange(6, dtype=torch.float64)
    returns_to_go(rewards, torch.tensor([6]), 0.5)
    assert rewards.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("gamma", [-0.01, 1.01, math.nan, math.inf])
def test_gamma_outside_of_its_range(gamma):
    with pytest.raises(ValueError, match="gamma must be from 0 to 1"):
        returns_to_go(torch.ones(2), torch.tensor([2]), gamma)


@pytest.mark.parametrize("function", [lambda v, n: returns_to_go(v, n, 0.9), standardize_episodes, timestep_mean])
@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        (torch.ones(3, 1), torch.tensor([3]), "one dimension each"),
        (torch.ones(3), torch.tensor(3), "one dimension each"),
        (torch.ones(3), torch.tensor([3, 0]), "at least 1"),
        (torch.ones(3), torch.tensor([4, -1]), "at least 1"),
        (torch.ones(3), torch.tensor([3.0]), "whole numbers"),
        (torch.ones(0), torch.tensor([], dtype=torch.int64), "at least one of them"),
        (torch.ones(3), torch.tensor([2]), "sum to 2 timesteps but .* has 3"),
    ],
)
def test_values_and_lengths_that_do_not_fit(function, values, lengths, message):
    with pytest.raises(ValueError, match=message):
        function(values, lengths)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_indices_count_the_way_loops_do(lengths):
    assert timestep_indices(np.array(lengths)).tolist() == [t for length in lengths for t in range(length)]


def test_standardize_episodes_gives_each_episode_mean_zero_and_deviation_one():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([2, 50, 7])
    values = torch.randn(59, generator=generator, dtype=torch.float64) * 30 + 400
    for episode in standardize_episodes(values, lengths).split(lengths.tolist()):
        assert episode.mean().item() == pytest.approx(0, abs=1e-9)
        assert episode.std().item() == pytest.approx(1, rel=1e-6)


def test_standardize_episodes_is_the_articles_formula():
    values = [4.90099501, 3.940399, 2.9701, 1.99, 1.0]
    returns = naive.discounted([1.0] * 5, 0.99).double()
    expected = (returns - returns.mean()) / (returns.std() + torch.finfo(torch.float32).eps)
    result = standardize_episodes(torch.tensor(values), torch.tensor([5]))
    assert result.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert result.dtype == torch.float32


@given(st.floats(-1e6, 1e6), st.integers(1, 30), st.sampled_from([torch.float32, torch.float64]))
def test_standardize_episodes_makes_zeros_of_what_does_not_vary(value, length, dtype):
    result = standardize_episodes(torch.full((length,), value, dtype=dtype), torch.tensor([length]))
    assert result.abs().max().item() < 1e-3


def test_standardize_episodes_of_a_single_timestep_is_zero():
    assert standardize_episodes(
        torch.tensor([7.0, 1.0, 3.0, -2e30]), torch.tensor([1, 2, 1])
    ).tolist() == pytest.approx([0, -(0.5**0.5), 0.5**0.5, 0])


@given(packed)
def test_timestep_mean_is_the_mean_over_who_still_runs(episodes):
    expected = []
    for episode in episodes:
        for t in range(len(episode)):
            running = [other[t] for other in episodes if len(other) > t]
            expected.append(sum(running) / len(running))
    assert timestep_mean(*pack(episodes)).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-8)


def test_loss_sums_timesteps_and_averages_episodes():
    log_probs, advantages = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0.5, -1.0, 4.0])
    assert policy_gradient_loss(log_probs, advantages, 1).item() == 10.5
    assert policy_gradient_loss(log_probs, advantages, 4).item() == 10.5 / 4


def test_gradient_of_the_loss_is_the_weighted_score():
    logits = torch.tensor([[0.3, -0.2], [1.0, 0.5]], requires_grad=True)
    log_probs = torch.log_softmax(logits, -1)[[0, 1], [0, 1]]
    policy_gradient_loss(log_probs, torch.tensor([2.0, -3.0]), 2).backward()
    probs = torch.softmax(logits.detach(), -1)
    score = torch.eye(2) - probs  # d log pi(a_t) / d logits_t, of the actions 0 and 1
    torch.testing.assert_close(logits.grad, -score * torch.tensor([[2.0], [-3.0]]) / 2)


@pytest.mark.parametrize("shapes", [((3,), (3, 1)), ((3, 1), (3,)), ((3, 1), (3, 1)), ((3,), (1,)), ((), ())])
def test_loss_refuses_to_broadcast(shapes):
    with pytest.raises(ValueError, match=r"must both be \[T\]"):
        policy_gradient_loss(torch.ones(shapes[0]), torch.ones(shapes[1]), 1)


@given(st.floats(-100, 100), st.lists(numbers, min_size=1, max_size=30), st.floats(0, 0.999))
def test_moving_average_is_the_recursion_and_its_closed_form(initial, values, decay):
    start = torch.tensor(initial, dtype=torch.float64)
    averages = exponential_moving_average(start, torch.tensor(values), decay)
    n = len(values)
    closed = decay**n * initial + (1 - decay) * sum(decay ** (n - 1 - i) * value for i, value in enumerate(values))
    assert averages[-1].item() == pytest.approx(closed, rel=1e-7, abs=1e-6)
    before = torch.cat([start[None], averages[:-1]])
    torch.testing.assert_close(averages, decay * before + (1 - decay) * torch.tensor(values).double())


@given(st.lists(st.tuples(numbers, st.floats(0, 1)), min_size=1, max_size=60))
def test_discounted_sums_are_those_of_a_backwards_loop(steps):
    values, discounts = [value for value, _ in steps], [discount for _, discount in steps[:-1]] + [0.0]
    total, backwards = 0.0, []
    for value, discount in zip(reversed(values), reversed(discounts), strict=True):
        total = value + discount * total
        backwards.append(total)
    sums = discounted_sums(torch.tensor(values), torch.tensor(discounts, dtype=torch.float64))
    assert sums.dtype == torch.float64
    assert sums.tolist() == pytest.approx(backwards[::-1], rel=1e-9, abs=1e-8)


@pytest.mark.parametrize(
    ("values", "discounts", "message"),
    [
        (torch.ones(3), torch.zeros(2), r"must both be \[T\]"),
        (torch.ones(3, 1), torch.zeros(3, 1), r"must both be \[T\]"),
        (torch.ones(2), torch.tensor([0.0, 0.5]), "the last discount must be 0"),
    ],
)
def test_discounts_that_do_not_fit(values, discounts, message):
    with pytest.raises(ValueError, match=message):
        discounted_sums(values, discounts)


def test_no_timesteps_have_no_sums():
    assert discounted_sums(torch.ones(0), torch.ones(0)).tolist() == []


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), gammas)
def test_discounts_of_timesteps(lengths, gamma):
    lengths = torch.tensor(lengths)
    within, since = discounts_within(lengths, gamma), timestep_discounts(lengths, gamma)
    expected = [(gamma if t < n - 1 else 0.0, gamma**t) for n in lengths.tolist() for t in range(n)]
    assert within.tolist() == [d for d, _ in expected]
    assert since.tolist() == pytest.approx([power for _, power in expected], rel=1e-12)
    assert within.dtype == since.dtype == torch.float64


@given(packed)
def test_sums_of_episodes(episodes):
    sums = episode_sums(*pack(episodes))
    assert sums.tolist() == pytest.approx([sum(episode) for episode in episodes], rel=1e-9, abs=1e-8)


@given(packed)
def test_leave_one_out_is_the_mean_over_the_others(episodes):
    expected = []
    for i, episode in enumerate(episodes):
        others = [other for j, other in enumerate(episodes) if j != i]
        everything = [value for other in others for value in other]
        for t in range(len(episode)):
            running = [other[t] for other in others if len(other) > t] or everything
            expected.append(sum(running) / len(running) if running else 0.0)
    assert leave_one_out(*pack(episodes)).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-7)


@given(packed, st.data())
def test_leave_one_out_does_not_see_an_episodes_own_returns(episodes, data):
    which = data.draw(st.integers(0, len(episodes) - 1))
    changed = [[value + 1e3 * (i == which) for value in episode] for i, episode in enumerate(episodes)]
    lengths = pack(episodes)[1]
    before, after = (leave_one_out(*pack(each)).split(lengths.tolist())[which] for each in (episodes, changed))
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-6)


def test_standardize_gives_all_timesteps_mean_zero_and_deviation_one():
    values = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 30 + 400
    result = standardize(values)
    assert result.mean().item() == pytest.approx(0, abs=1e-9)
    assert result.square().mean().item() == pytest.approx(1, rel=1e-6)
    torch.testing.assert_close(result, (values - values.mean()) / values.std(correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("value", [0.0, -3e30, 0.1])
def test_standardize_makes_zeros_of_equal_values(value, length):
    assert standardize(torch.full((length,), value)).tolist() == [0.0] * length
