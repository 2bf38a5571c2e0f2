import itertools
import math

import pytest
import pytorch_lightning as pl
import torch
from torch.distributions import Categorical

from pg_lightning import CategoricalMLP, EpisodeDataModule, Reinforce, Returns, StandardizedReturns, TimestepBaseline
from pg_lightning.actors import make_actor
from pg_lightning.envs import make_vector_env
from pg_lightning.functional import summed_over_chunks
from pg_lightning.learners import make_gradient
from pg_lightning.policies import replay_masks
from pg_lightning.sampling import EpisodeSampler
from tests import naive
from tests.envs import TinyMDP
from tests.helpers import trainer, weights_of


def linear(observation_space, action_space):
    """A tabular softmax policy: one-hot observations, no hidden layer; its gradient can be enumerated."""
    return CategoricalMLP(observation_space, action_space, hidden_sizes=())


class Capture(pl.Callback):
    """Keeps what each update learnt from: its weights, its batch and its gradients."""

    def __init__(self):
        self.weights, self.batches, self.gradients, self.rescored = [], [], [], []

    def on_train_batch_start(self, trainer, agent, batch, batch_idx):
        episodes = batch.episodes
        assert episodes.update == trainer.global_step
        self.weights.append(weights_of(agent.policy))
        self.batches.append(batch)
        with torch.no_grad(), replay_masks(agent.policy, episodes.masks):
            self.rescored.append(agent.policy(episodes.observations).log_prob(episodes.actions))

    def on_before_optimizer_step(self, trainer, agent, optimizer):
        self.gradients.append([parameter.grad.clone() for parameter in agent.policy.parameters()])


def article_gradients(weights, episodes, gamma):
    """The article's loop over the same timesteps: one forward and one graph node each; mean over the episodes."""
    first, second = [weight.clone().requires_grad_() for weight in weights]
    losses = []
    rows = zip(episodes.observations, episodes.actions, episodes.masks[0], episodes.rewards.tolist(), strict=True)
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
    agent = Reinforce(
        "CartPole-v1",
        policy=lambda *spaces: CategoricalMLP(*spaces, dropout=0.6),
        advantage=StandardizedReturns(),
        gamma=0.98,
        chunk_size=chunk_size,
    )
    capture = Capture()
    data = EpisodeDataModule("CartPole-v1", num_envs=num_envs, episodes_per_update=episodes_per_update)
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


def enumerated_gradient(policy, gamma):
    """Expectation of sum_t grad log pi(A_t|S_t) G_t, over every trajectory there is."""
    expectation = 0.0
    for probability, log_probs, rewards in trajectories(policy):
        returns = naive.discounted(rewards, gamma).double()
        joint = torch.stack(log_probs)
        expectation = expectation + probability * joint.detach().sum().exp() * (joint * returns).sum()
    return torch.autograd.grad(expectation, policy.parameters())[0]


def agent_for(env_id, advantage, gamma=1.0, scale=1.0, **env_kwargs):
    agent = Reinforce(env_id, env_kwargs, policy=linear, advantage=advantage, gamma=gamma)
    with torch.no_grad():
        weight = agent.policy[0].weight
        weight.copy_(
            scale
            * torch.tensor([[0.4, -0.3, 0.1], [-0.2, 0.5, 0.0], [0.1, 0.1, 0.1]])[: weight.shape[0], : weight.shape[1]]
        )
    return agent


def estimates(agent, env_id, num_envs, updates, **env_kwargs):
    """The policy gradient [updates, *weight] that the agent follows in updates from the same weights."""
    sampler = EpisodeSampler(make_vector_env(env_id, num_envs, "sync", env_kwargs), num_envs)
    actor, parameters, found = make_actor(agent.policy), list(agent.policy.parameters()), []
    for update in range(updates):
        batch = agent.weigh(sampler.sample(actor, update))
        loss = summed_over_chunks(make_gradient(agent.policy), batch.chunks(agent.chunk_size), parameters)
        found.append(-torch.autograd.grad(loss, parameters)[0])
    return torch.stack(found).double()


def assert_unbiased(found, expected, precision):
    """The mean agrees within 4 standard errors, and these are small beside what is estimated."""
    errors = found.std(0) / math.sqrt(len(found))
    assert errors.norm() < precision * expected.norm()
    assert ((found.mean(0) - expected).abs() < 4 * errors + 1e-7).all()


def test_the_enumeration_is_the_gradient_of_the_expected_return():
    policy = agent_for("tests.envs:TinyMDP-v0", Returns()).policy
    expected_return = sum(
        probability * torch.stack(log_probs).sum().exp() * sum(rewards)
        for probability, log_probs, rewards in trajectories(policy)
    )
    assert sum(
        p * torch.stack(log_probs).sum().exp().item() for p, log_probs, _ in trajectories(policy)
    ) == pytest.approx(1)
    torch.testing.assert_close(
        enumerated_gradient(policy, 1.0), torch.autograd.grad(expected_return, policy.parameters())[0]
    )


@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_the_gradient_on_an_mdp_is_unbiased(gamma):
    agent = agent_for("tests.envs:TinyMDP-v0", Returns(), gamma)
    expected = enumerated_gradient(agent.policy, gamma).double()
    assert_unbiased(estimates(agent, "tests.envs:TinyMDP-v0", 100, 150), expected, 0.05)


@pytest.mark.parametrize("means", [(0.0, 1.0), (1.0, 2.0, 4.0)])
def test_the_gradient_on_a_bandit_is_unbiased(means):
    agent = agent_for("tests.envs:Bandit-v0", Returns(), means=means)
    probs = agent.policy(torch.ones(1, 1)).probs[0].detach().double()
    expected = probs * (torch.tensor(means).double() - probs @ torch.tensor(means).double())
    found = estimates(agent, "tests.envs:Bandit-v0", 100, 150, means=means)
    assert_unbiased(found, expected[:, None], 0.05)


def test_a_baseline_keeps_the_direction_on_a_bandit():
    """Own return in the mean: times (n - 1)/n. Scaled: over the standard deviation, which varies little for n = 200."""
    means, n = torch.tensor((1.0, 2.0, 4.0), dtype=torch.float64), 200
    agent = agent_for("tests.envs:Bandit-v0", TimestepBaseline(), means=tuple(means.tolist()))
    probs = agent.policy(torch.ones(1, 1)).probs[0].detach().double()
    deviation = (probs @ (means**2) - (probs @ means) ** 2 + 0.5**2).sqrt()
    expected = probs * (means - probs @ means) / deviation * (n - 1) / n
    found = estimates(agent, "tests.envs:Bandit-v0", n, 60, means=tuple(means.tolist())).squeeze(-1)
    mean, errors = found.mean(0), found.std(0) / math.sqrt(len(found))
    assert errors.norm() < 0.02 * expected.norm()
    assert torch.cosine_similarity(mean, expected, dim=0) > 0.999
    assert ((mean - expected).abs() < 4 * errors + 0.005 * expected.norm()).all()


def test_no_update_learns_from_an_older_policy():
    agent = Reinforce("CartPole-v1", policy=lambda *spaces: CategoricalMLP(*spaces, dropout=0.5, bias=True))
    capture = Capture()
    trainer(50, callbacks=[capture]).fit(agent, EpisodeDataModule("CartPole-v1", num_envs=4))
    assert [batch.episodes.update for batch in capture.batches] == list(range(50))
    for batch, rescored in zip(capture.batches, capture.rescored, strict=True):
        torch.testing.assert_close(rescored, batch.episodes.log_probs, atol=1e-5, rtol=0)
    for before, after in itertools.pairwise(capture.weights):
        assert not torch.equal(before[0], after[0])
