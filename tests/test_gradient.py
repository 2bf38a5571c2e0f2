import itertools
import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.distributions import Categorical

from pg_lightning import (
    GAE,
    Critic,
    EpisodeDataModule,
    Episodes,
    EpisodeSampler,
    LeaveOneOut,
    MLPPolicy,
    NoBaseline,
    NoNormalization,
    PerEpisode,
    Reinforce,
    TimestepBaseline,
)
from pg_lightning.gradients import summed_over_chunks
from pg_lightning.policies.dropout import replay_masks
from pg_lightning.sampling.actors import make_actor
from tests import naive
from tests.envs import Chain, Row, TinyMDP
from tests.helpers import ARTICLES, plain, trainer, weights_of

linear = partial(ARTICLES, hidden_sizes=())
"""A tabular softmax policy: one-hot observations, no hidden layer; its gradient can be enumerated."""


class Capture(pl.Callback):
    """Keeps what each update learnt from: its weights, its batch and its gradients."""

    def __init__(self):
        self.weights, self.batches, self.gradients, self.rescored = [], [], [], []

    def on_train_batch_start(self, trainer, agent, batch, batch_idx):
        episodes = batch.episodes
        assert episodes.update == trainer.global_step
        self.weights.append(weights_of(agent.policy))
        self.batches.append(batch)
        with torch.no_grad(), replay_masks(agent.policy, episodes.dropout_masks):
            self.rescored.append(agent.policy(episodes.observations).log_prob(episodes.actions))

    def on_before_optimizer_step(self, trainer, agent, optimizer):
        self.gradients.append([parameter.grad.clone() for parameter in agent.policy.parameters()])


def article_gradients(weights, episodes, gamma):
    """The article's loop over the same timesteps: one forward and one graph node each; mean over the episodes."""
    first, second = [weight.clone().requires_grad_() for weight in weights]
    losses = []
    rows = zip(
        episodes.observations, episodes.actions, episodes.dropout_masks[0], episodes.rewards.tolist(), strict=True
    )
    for length in episodes.lengths.tolist():
        log_probs, rewards = [], []
        for observation, action, kept, reward in itertools.islice(rows, length):
            hidden = (first @ observation) * kept / (1 - 0.6)
            log_probs.append(Categorical(torch.softmax(second @ torch.relu(hidden), -1)).log_prob(action))
            rewards.append(reward)
        losses.append(naive.article_loss(log_probs, rewards, gamma))
    return torch.autograd.grad(sum(losses) / len(losses), [first, second])


@pytest.mark.parametrize(
    ("num_envs", "episodes_per_update", "chunk_size"), [(1, 1, 8192), (1, 3, 8192), (4, 10, 8192), (4, 10, 7)]
)
def test_the_gradient_is_the_articles(num_envs, episodes_per_update, chunk_size):
    pl.seed_everything(3, verbose=False)
    agent = plain(
        "CartPole-v1",
        policy=partial(ARTICLES, dropout=0.6),
        baseline=NoBaseline(),
        normalization=PerEpisode(),
        gamma=0.98,
        chunk_size=chunk_size,
    )
    capture = Capture()
    data = EpisodeDataModule(num_envs=num_envs, episodes_per_update=episodes_per_update)
    trainer(3, callbacks=[capture]).fit(agent, data)
    for weights, batch, gradients in zip(capture.weights, capture.batches, capture.gradients, strict=True):
        assert len(batch.episodes) == episodes_per_update
        for found, expected in zip(gradients, article_gradients(weights, batch.episodes, 0.98), strict=True):
            assert expected.norm() > 1e-3
            assert (found - expected).norm() < 1e-5 * expected.norm()


def trajectories(policy):
    """Every trajectory of the MDP: how probable its transitions are, its log-probs and its rewards."""
    log_probs = policy(torch.eye(3)).logits.double()

    def extend(state, t):
        if state == 2 or t == TinyMDP.HORIZON:
            yield 1.0, []
            return
        for action, following in itertools.product(range(2), range(3)):
            for probability, rest in extend(following, t + 1):
                yield probability * TinyMDP.NEXT[state, action, following], [(state, action), *rest]

    for probability, steps in extend(0, 0):
        yield probability, [log_probs[step] for step in steps], [TinyMDP.REWARD[step] for step in steps]


def enumerated_gradient(policy, gamma, discount_states=False):
    """Expectation of sum_t grad log pi(A_t|S_t) G_t (times gamma**t, if told to), over every trajectory there is."""
    expectation = 0.0
    for probability, log_probs, rewards in trajectories(policy):
        returns = naive.discounted(rewards, gamma).double()
        if discount_states:
            returns = returns * gamma ** torch.arange(len(rewards))
        joint = torch.stack(log_probs)
        expectation = expectation + probability * joint.detach().sum().exp() * (joint * returns).sum()
    return torch.autograd.grad(expectation, policy.parameters())[0]


def agent_for(env, baseline=None, **settings):
    env_kwargs = settings.pop("kwargs", None)
    env = {"id": env, "kwargs": env_kwargs}
    settings = {"gamma": 1.0, "normalization": NoNormalization()} | settings
    agent = plain(env, policy=linear, baseline=baseline or NoBaseline(), **settings)
    with torch.no_grad():
        weight = agent.policy.body[0].weight
        values = torch.tensor([[0.4, -0.3, 0.1], [-0.2, 0.5, 0.0], [0.1, 0.1, 0.1]])
        weight.copy_(values[: weight.shape[0], : weight.shape[1]])
    return agent


def gradient(agent, episodes):
    """The policy gradient [*weight] that the agent would follow from these episodes."""
    batch, parameters = agent.estimate(episodes), agent.learning_parameters()
    loss, _ = summed_over_chunks(agent.loss, batch.chunks(agent.chunk_size), parameters)
    return -torch.autograd.grad(loss, parameters)[0]


def estimates(agent, num_envs, updates):
    """The policy gradient [updates, *weight] that the agent follows in updates from the same weights."""
    sampler = EpisodeSampler(agent.env.make_vector(num_envs, "sync"), num_envs)
    actor = make_actor(agent.policy, agent.env.action_space)
    return torch.stack([gradient(agent, sampler.sample(actor, update)) for update in range(updates)]).double()


def assert_unbiased(found, expected, precision):
    """The mean agrees within 4 standard errors, and these are small beside what is estimated."""
    errors = found.std(0) / math.sqrt(len(found))
    assert errors.norm() < precision * expected.norm()
    assert ((found.mean(0) - expected).abs() < 4 * errors + 1e-7).all()


def test_the_enumeration_is_the_gradient_of_the_expected_return():
    policy = agent_for("tests.envs:TinyMDP-v0").policy
    everything = list(trajectories(policy))
    assert sum(p * torch.stack(log_probs).sum().exp().item() for p, log_probs, _ in everything) == pytest.approx(1)
    for gamma in (1.0, 0.7):
        expected_return = sum(
            probability
            * torch.stack(log_probs).sum().exp()
            * sum(gamma**t * reward for t, reward in enumerate(rewards))
            for probability, log_probs, rewards in trajectories(policy)
        )
        torch.testing.assert_close(
            enumerated_gradient(policy, gamma, discount_states=True),
            torch.autograd.grad(expected_return, policy.parameters())[0],
        )


@pytest.mark.parametrize("baseline", [NoBaseline, LeaveOneOut])
@pytest.mark.parametrize(("gamma", "discount_states"), [(0.7, False), (0.7, True), (1.0, False)])
def test_the_gradient_on_an_mdp_is_unbiased(gamma, discount_states, baseline):
    agent = agent_for("tests.envs:TinyMDP-v0", baseline(), gamma=gamma, discount_states=discount_states)
    expected = enumerated_gradient(agent.policy, gamma, discount_states).double()
    assert_unbiased(estimates(agent, 100, 150), expected, 0.05)


@pytest.mark.parametrize("means", [(0.0, 1.0), (1.0, 2.0, 4.0)])
def test_the_gradient_on_a_bandit_is_unbiased(means):
    agent = agent_for("tests.envs:Bandit-v0", kwargs={"means": means})
    probs = agent.policy(torch.ones(1, 1)).probs[0].detach().double()
    expected = probs * (torch.tensor(means).double() - probs @ torch.tensor(means).double())
    assert_unbiased(estimates(agent, 100, 150), expected[:, None], 0.05)


@pytest.mark.parametrize(("baseline", "share"), [(TimestepBaseline(), 4 / 5), (LeaveOneOut(), 1.0)])
def test_a_baseline_on_a_bandit(baseline, share):
    """Where all episodes last one timestep, the own return in the mean of n is a factor (n - 1) / n alone."""
    means = torch.tensor((1.0, 2.0, 4.0), dtype=torch.float64)
    agent = agent_for("tests.envs:Bandit-v0", baseline, kwargs={"means": tuple(means.tolist())})
    probs = agent.policy(torch.ones(1, 1)).probs[0].detach().double()
    expected = probs * (means - probs @ means) * share
    assert_unbiased(estimates(agent, 5, 1500), expected[:, None], 0.05)


def every_episode(env):
    """Every episode of an environment in which nothing is random: observations, actions and rewards."""
    prefixes = [()]
    while prefixes:
        prefix = prefixes.pop()
        (observation, _), observations, rewards, ended = env.reset(), [], [], False
        for action in prefix:
            observations.append(observation)
            observation, reward, ended, _, _ = env.step(action)
            rewards.append(reward)
        if ended:
            yield observations, prefix, rewards
        else:
            prefixes += [(*prefix, action) for action in range(int(env.action_space.n))]


def packed(agent, played):
    """Episodes of what was played, one after the other, and their probability under the agent's policy."""
    observations = torch.as_tensor(np.array([each for observations, _, _ in played for each in observations])).double()
    actions = torch.tensor([action for _, actions, _ in played for action in actions])
    rewards = torch.tensor([reward for _, _, rewards in played for reward in rewards], dtype=torch.float64)
    ends = torch.ones(len(played), dtype=torch.bool)
    log_probs = agent.policy(observations).log_prob(actions).detach()
    lengths = torch.tensor([len(rewards) for _, _, rewards in played])
    episodes = Episodes(
        observations=observations,
        actions=actions,
        log_probs=log_probs,
        rewards=rewards,
        dropout_masks=(),
        lengths=lengths,
        terminated=ends,
        truncated=~ends,
        final_observations=observations[lengths.cumsum(0) - 1],
        env_steps=len(rewards),
        update=0,
    )
    return episodes, log_probs.sum().exp()


def expected_update(agent, env, episodes_per_update):
    """Expectation of the gradient that the agent follows, over every batch of so many episodes."""
    total = certainty = 0.0
    for played in itertools.product(list(every_episode(env)), repeat=episodes_per_update):
        episodes, probability = packed(agent, played)
        total, certainty = total + probability * gradient(agent, episodes), certainty + probability
    assert certainty.item() == pytest.approx(1, abs=1e-12)
    return total


def gradient_of_objective(agent, env, gamma):
    """Gradient of the expected discounted return: sum over every episode of its probability times its return."""
    objective = 0.0
    for observations, actions, rewards in every_episode(env):
        distribution = agent.policy(torch.as_tensor(np.array(observations)).double())
        probability = distribution.log_prob(torch.tensor(actions)).sum().exp()
        objective = objective + probability * sum(gamma**t * reward for t, reward in enumerate(rewards))
    return torch.autograd.grad(objective, agent.learning_parameters())[0]


@pytest.mark.parametrize("episodes_per_update", [2, 4])
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_A9_leave_one_out_is_unbiased_and_the_mean_at_a_timestep_is_not(episodes_per_update, gamma):
    """Exact: all 4, or 16, or 256 batches of an MDP whose episodes last 1, 2 or 3 timesteps."""
    right, updates = None, {}
    for baseline in (NoBaseline(), LeaveOneOut(), TimestepBaseline()):
        agent = agent_for("tests.envs:Chain-v0", baseline, gamma=gamma, discount_states=True).double()
        right = gradient_of_objective(agent, Chain(), gamma)
        updates[type(baseline)] = expected_update(agent, Chain(), episodes_per_update)
    for unbiased in (NoBaseline, LeaveOneOut):
        torch.testing.assert_close(updates[unbiased], right, rtol=1e-10, atol=1e-12)
    biased = updates[TimestepBaseline]
    scale = (biased * right).sum() / right.square().sum()
    assert (biased / scale - right).norm() > 0.03 * right.norm(), "another direction, not only another scale"


@pytest.mark.parametrize("episodes_per_update", [1, 2])
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_a_fixed_critic_is_unbiased_with_lambda_one_and_not_below(episodes_per_update, gamma):
    """Exact, as above: whatever the critic predicts, it is no part of the expected gradient, but through bootstrap."""
    torch.manual_seed(4)
    found = {}
    for gae_lambda in (1.0, 0.5):
        settings = {"returns": GAE(gae_lambda), "gamma": gamma, "discount_states": True}
        agent = agent_for("tests.envs:Chain-v0", Critic(), **settings).double()
        values = agent.baseline.value(torch.arange(3))
        assert values.std() > 0.1
        right = gradient_of_objective(agent, Chain(), gamma)
        found[gae_lambda] = expected_update(agent, Chain(), episodes_per_update)
    torch.testing.assert_close(found[1.0], right, rtol=1e-10, atol=1e-12)
    assert (found[0.5] - right).norm() > 0.03 * right.norm()


class OneParameter(nn.Module):
    """Takes action 0 with probability p = sigmoid(theta), whatever it sees."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, observations):
        logits = torch.stack([self.theta, torch.zeros_like(self.theta)])
        return Categorical(logits=logits.expand(len(observations), 2))


@pytest.mark.parametrize(
    ("gamma", "discount_states", "slope"), [(0.5, True, 0.25), (0.5, False, -0.5), (1.0, False, 6.5), (1.0, True, 6.5)]
)
def test_A10_without_gamma_to_the_t_the_worst_policy_is_learnt(gamma, discount_states, slope):
    """Five states in a row that look alike, p = P(a1): dJ/dp = 0.25, but -0.5 without gamma**t."""
    agent = plain(
        "tests.envs:Row-v0",
        policy=OneParameter,
        baseline=NoBaseline(),
        normalization=NoNormalization(),
        gamma=gamma,
        discount_states=discount_states,
    ).double()
    p = torch.sigmoid(agent.policy.theta.detach())
    assert len(list(every_episode(Row()))) == 2 + 2 * 8
    found = expected_update(agent, Row(), 1) / (p * (1 - p))
    assert found.item() == pytest.approx(slope, abs=1e-12)
    objective = gradient_of_objective(agent, Row(), gamma) / (p * (1 - p))
    assert objective.item() == pytest.approx({0.5: 0.25, 1.0: 6.5}[gamma], abs=1e-12)


def test_gamma_to_the_t_is_left_out_by_default():
    assert Reinforce().discount_states is False


def test_no_update_learns_from_an_older_policy():
    agent = plain("CartPole-v1", policy=partial(MLPPolicy, dropout=0.5, bias=True))
    capture = Capture()
    trainer(50, callbacks=[capture]).fit(agent, EpisodeDataModule(num_envs=4))
    assert [batch.episodes.update for batch in capture.batches] == list(range(50))
    for batch, rescored in zip(capture.batches, capture.rescored, strict=True):
        torch.testing.assert_close(rescored, batch.episodes.log_probs, atol=1e-5, rtol=0)
    for before, after in itertools.pairwise(capture.weights):
        assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("size", [1, 3, 10, 11, 100])
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_chunks_add_up_to_the_whole(size, scale):
    torch.manual_seed(0)
    net, unused = torch.nn.Linear(4, 1, dtype=torch.float64), torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    inputs = torch.randn(11, 4, dtype=torch.float64)
    parameters = [*net.parameters(), unused]

    def loss(rows):
        return net(rows).tanh().square().sum()

    (scale * loss(inputs)).backward()
    expected = [net.weight.grad.clone(), net.bias.grad.clone(), torch.zeros(2, dtype=torch.float64)]
    net.zero_grad()

    total, seen = summed_over_chunks(lambda rows: (loss(rows), len(rows)), inputs.split(size), parameters)
    assert sum(seen) == 11
    (scale * total).backward()
    assert total.item() == pytest.approx(loss(inputs).item(), rel=1e-6)
    for parameter, right in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, right)


def test_chunks_hold_one_graph_at_a_time():
    """A loss whose graph counts itself: none is alive when the next chunk begins."""
    alive, weight = [], torch.ones((), requires_grad=True)

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            alive.append(1)
            return value * 1

        @staticmethod
        def backward(ctx, gradient):
            alive.pop()
            return gradient

    def loss(chunk):
        assert not alive
        return Watch.apply(weight) * chunk, None

    total, _ = summed_over_chunks(loss, [1.0, 2.0, 3.0], [weight])
    assert not alive
    total.backward()
    assert weight.grad == 6


def test_a_loss_without_a_gradient_leaves_zeros():
    weight = torch.ones(3, requires_grad=True)
    total, _ = summed_over_chunks(lambda chunk: (torch.tensor(chunk), None), [1.0, 2.0], [weight])
    total.backward()
    assert total == 3 and weight.grad.tolist() == [0, 0, 0]
