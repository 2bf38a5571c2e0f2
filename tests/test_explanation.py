"""Steps of the derivation in ``docs/policy_gradients.md`` that no other test proves; float64, by enumeration."""

import math
from functools import partial

import gymnasium as gym
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from pg_lightning import MLPPolicy, RunningReward
from pg_lightning.diagnostics import sampled_kl
from pg_lightning.functional import leave_one_out, policy_gradient_loss, standardize_episodes, timestep_mean
from pg_lightning.policies.bodies import plain_layers
from pg_lightning.policies.dropout import ConsistentDropout, replay_masks
from pg_lightning.policies.heads import GaussianHead
from tests.envs import Chain
from tests.helpers import plain
from tests.test_gradient import agent_for, every_episode, packed

SMALL = partial(MLPPolicy, hidden_sizes=(6,), encoder=None, output_gain=1.0)
SEVEN = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(**settings):
    """A policy of two actions whose probabilities are far from equal."""
    torch.manual_seed(0)
    return plain("CartPole-v1", policy=partial(SMALL, **settings)).double().policy


def mean_score(policy, probs):
    """Sum over actions of some probabilities [T, 2] times the policy's score, summed over the states."""
    distribution = policy(SEVEN)
    log_probs = torch.stack([distribution.log_prob(torch.full((7,), action)) for action in (0, 1)], 1)  # [T, 2]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad((probs * log_probs).sum(), policy.parameters())])


def scores(policy):
    """The score of action 0, which is far from zero: what the averages are compared with."""
    return mean_score(policy, torch.tensor([[1.0, 0.0]]).double())


def test_a_score_averages_to_zero():
    policy = made()
    probs = policy(SEVEN).probs.detach()
    assert (probs - 0.5).abs().max() > 0.1 and scores(policy).norm() > 0.1
    assert mean_score(policy, probs).norm() < 1e-12


def test_rewards_of_the_past_have_no_part_in_the_gradient():
    """Exact: every episode of an MDP, weighed by the rewards before each action, then by those from it on."""
    agent = agent_for("tests.envs:Chain-v0").double()
    parameters, past, whole = agent.learning_parameters(), 0.0, 0.0
    for played in every_episode(Chain()):
        episodes, probability = packed(agent, [played])
        rewards = episodes.rewards
        before = rewards.cumsum(0) - rewards
        log_probs = agent.policy(episodes.observations).log_prob(episodes.actions)
        past = past + probability * torch.autograd.grad(log_probs @ before, parameters, retain_graph=True)[0]
        whole = whole + probability * torch.autograd.grad(log_probs.sum() * rewards.sum(), parameters)[0]
    assert past.norm() < 1e-12 < 0.1 < whole.norm()


def test_the_best_constant_baseline():
    """A bandit of three arms: the variance of its gradient as a function of the baseline, by enumeration."""
    probs, means = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([1.0, 2.0, 4.0]).double()

    def gradients(baseline):
        found = []
        for arm in range(3):
            logits = probs.log().requires_grad_()
            log_probs = Categorical(logits=logits).log_prob(torch.tensor([arm]))
            loss = policy_gradient_loss(log_probs, means[[arm]] - baseline, 1)
            found.append(-torch.autograd.grad(loss, logits)[0])
        return torch.stack(found)

    def variance(baseline):
        found = gradients(baseline)
        return (probs @ (found - probs @ found) ** 2).sum().item()

    squares = (torch.eye(3, dtype=torch.float64) - probs).square().sum(1)
    best = (probs @ (squares * means) / (probs @ squares)).item()
    assert variance(best) < min(variance(best - 1e-3), variance(best + 1e-3))
    assert variance(best) < variance((probs @ means).item()) < variance(0.0)
    torch.testing.assert_close(probs @ gradients(best), probs @ gradients(0.0))


numbers = st.floats(-100, 100)


@given(st.lists(st.lists(numbers, min_size=1, max_size=6), min_size=2, max_size=5))
def test_the_own_return_shrinks_the_advantage(episodes):
    returns = torch.tensor([value for episode in episodes for value in episode]).double()
    lengths = torch.tensor([len(episode) for episode in episodes])
    running = [sum(len(other) > t for other in episodes) for episode in episodes for t in range(len(episode))]
    factor = 1 - 1 / torch.tensor(running).double()
    included, left_out = (returns - baseline(returns, lengths) for baseline in (timestep_mean, leave_one_out))
    torch.testing.assert_close(included, factor * left_out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [2, 5, 40, 10_000])
def test_standardised_ones_run_from_root_3_to_minus_root_3(length):
    returns = torch.arange(length, 0, -1).double()
    weights = standardize_episodes(returns, torch.tensor([length]))
    first = (length - 1) / 2 / math.sqrt(length * (length + 1) / 12)
    assert weights[0].item() == pytest.approx(first, rel=1e-6)
    assert weights[-1].item() == pytest.approx(-first, rel=1e-6)
    assert (weights.diff() < 0).all()
    assert length < 10_000 or first == pytest.approx(math.sqrt(3), rel=1e-3)


def test_another_dropout_mask_leaves_a_score_that_does_not_average_to_zero():
    policy = made(dropout=0.5)
    kept, other = torch.rand(2, 7, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    assert sum(isinstance(module, ConsistentDropout) for module in policy.modules()) == 1
    with replay_masks(policy, [kept]):
        probs = policy(SEVEN).probs.detach()
    with replay_masks(policy, [kept]):
        assert mean_score(policy, probs).norm() < 1e-12
    with replay_masks(policy, [other]):
        assert mean_score(policy, probs).norm() > 0.1


def test_a_stale_score_pulls_to_or_from_the_old_policy():
    policy = made()
    old = Categorical(probs=policy(SEVEN).probs.detach())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    with plain_layers():
        divergence = kl_divergence(old, policy(SEVEN)).sum()
    slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(divergence, policy.parameters())])
    assert slope.norm() > 0.1
    torch.testing.assert_close(mean_score(policy, old.probs), -slope)


def test_the_sampled_divergence_is_the_divergence_on_average():
    old, new = (Categorical(logits=torch.randn(5, 3).double()) for _ in range(2))
    terms = sampled_kl(new.logits - old.logits)  # [T, actions]
    assert (terms >= 0).all()
    torch.testing.assert_close((old.probs * terms).sum(1), kl_divergence(old, new))


def test_the_score_of_a_log_std():
    head = GaussianHead(gym.spaces.Box(-1, 1, (1,)), initial_log_std=0.3).double()
    mean, action = torch.tensor([[0.4]]).double(), torch.tensor([[1.7]]).double()
    (found,) = torch.autograd.grad(head.distribution(mean).log_prob(action).sum(), head.log_std)
    assert found.item() == pytest.approx((1.7 - 0.4) ** 2 / math.exp(0.3) ** 2 - 1, rel=1e-6)


def test_by_the_articles_rule_a_perfect_agent_needs_300_episodes():
    running_reward, passed = RunningReward(decay=0.99, initial=10.0), []
    for _ in range(310):
        running_reward.update(torch.tensor([499.0]))
        passed.append(running_reward.average().item() > 475)
    assert passed.index(True) == 299  # The 300th.
    assert math.log(489 / 24) / -math.log(0.99) == pytest.approx(299.9, abs=0.05)
