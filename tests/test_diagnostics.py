"""The gradient's variance against hand computations, enumeration of updates, and two processes."""

from functools import partial

import gymnasium as gym
import pytest
import torch

from pg_lightning import EpisodeDataModule, MLPPolicy, NoBaseline, NoNormalization, Reinforce
from pg_lightning.cli import main
from pg_lightning.diagnostics import entropy, gradient_variance
from pg_lightning.policies import GaussianHead, SquashedGaussianHead
from pg_lightning.policies.head_distributions import JointDistribution
from pg_lightning.policies.heads import HEADS
from tests.envs import Spaces
from tests.helpers import batch_of, episodes_of, trainer
from tests.test_gradient import Capture, agent_for, estimates, gradient


def ALONE(tensor):
    return tensor


def bandit(**settings):
    """A softmax policy over three arms that stays as it is, every arm's logit a weight of its own."""
    still = partial(torch.optim.SGD, lr=0.0)
    return agent_for("tests.envs:Bandit-v0", kwargs={"means": (1.0, 2.0, 4.0)}, optimizer=still, **settings)


@pytest.mark.parametrize(("count", "every"), [(10, 1), (16, 1), (40, 3)])
def test_the_variance_on_a_bandit_by_hand(count, every):
    """The gradient of an episode with arm a and return G is -(onehot(a) - p) G; up to 16 episodes of E, evenly."""
    agent, capture = bandit(gradient_variance=True), Capture()
    trainer(1, callbacks=[capture]).fit(agent, EpisodeDataModule(num_envs=2, episodes_per_update=count))
    episodes = capture.batches[0].episodes
    probs = agent.policy(torch.ones(1, 1)).probs[0].double()
    gradients = -(torch.eye(3)[episodes.actions] - probs) * episodes.rewards[:, None]
    kept = gradients[::every]
    assert len(kept) == {10: 10, 16: 16, 40: 14}[count]
    expected = ((kept - kept.mean(0)) ** 2).sum() / (len(kept) - 1) / count
    assert agent.metrics["grad_variance"] == pytest.approx(expected.item(), rel=1e-5)
    mean = gradients.mean(0)
    assert agent.metrics["grad_norm"] == pytest.approx(mean.norm().item(), rel=1e-5)


def test_it_is_the_variance_over_updates():
    agent, found = bandit(), []

    def noted(episodes):
        batch = agent.estimate(episodes)
        over = 4096, agent.learning_parameters(), ALONE
        found.append(gradient_variance(agent.loss, batch, *over)["grad_variance"])
        return gradient(agent, episodes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.test_gradient.gradient", lambda agent, episodes: noted(episodes))
        gradients = estimates(agent, 16, 200)
    assert torch.tensor(found).mean().item() == pytest.approx(gradients.var(0).sum().item(), rel=0.15)


def played(agent, lengths):
    """A batch of random episodes of CartPole's shape."""
    count, generator = sum(lengths), torch.Generator().manual_seed(0)
    observations = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    actions = torch.randint(0, 2, (count,), generator=generator)
    episodes = episodes_of([1.0] * count, lengths, observations=observations, actions=actions)
    return batch_of(episodes, torch.randn(count, generator=generator, dtype=torch.float64))


def test_episodes_of_many_timesteps_in_chunks():
    torch.manual_seed(0)
    agent = Reinforce("CartPole-v1", policy=partial(MLPPolicy, hidden_sizes=(8,)), entropy_coef=0.1).double()
    batch, parameters = played(agent, [7, 1, 4]), agent.learning_parameters()
    gradients = []
    for rows in (slice(0, 7), slice(7, 8), slice(8, 12)):
        loss, _ = agent.loss(batch.chunk().rows(rows)._replace(num_episodes=1))
        gradients.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    expected = torch.stack(gradients).var(0).sum().item() / 3
    for size in (1, 3, 4096):
        found = gradient_variance(agent.loss, batch, size, parameters, ALONE)
        assert found == {"grad_variance": pytest.approx(expected, rel=1e-9)}


def test_over_processes_the_sums_are_joined():
    """Two processes with the same episodes: every gradient counts twice, and E is that of both."""
    agent = Reinforce("CartPole-v1", policy=partial(MLPPolicy, hidden_sizes=(8,))).double()
    parameters = agent.learning_parameters()
    batch, both = played(agent, [7, 1, 4]), played(agent, [7, 1, 4])
    alone = gradient_variance(agent.loss, batch, 4096, parameters, ALONE)["grad_variance"]
    batch.whole = batch_of(episodes_of([1.0] * 24, [7, 1, 4] * 2), both.returns.repeat(2))
    joined = gradient_variance(agent.loss, batch, 4096, parameters, lambda sums: sums * 2)["grad_variance"]
    assert joined == pytest.approx(alone * (3 * 2) * 2 / (6 * 5), rel=1e-9)


def test_equal_gradients_have_no_variance():
    agent = Reinforce("CartPole-v1", policy=partial(MLPPolicy, hidden_sizes=(8,)))
    episodes = episodes_of([1.0] * 6, [1] * 6, observations=torch.ones(6, 4) / 3)
    found = gradient_variance(agent.loss, batch_of(episodes, torch.ones(6)), 1, agent.learning_parameters(), ALONE)
    assert 0 <= found["grad_variance"] < 1e-12


def test_one_episode_has_no_variance_and_a_warning_says_so():
    agent = Reinforce("CartPole-v1", gradient_variance=True, baseline=NoBaseline(), normalization=NoNormalization())
    with pytest.warns(UserWarning, match="variance needs at least 2 episodes per update"):
        trainer(1).fit(agent, EpisodeDataModule(num_envs=1))
    assert "grad_variance" not in agent.metrics


def test_it_is_off_by_default_and_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["fit", "--data.num_envs", "2", "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
    for options, logged in (([], False), (["--model.gradient_variance", "true"], True)):
        main([*common, *options])
        folder = tmp_path / f"runs/CartPole-v1/version_{int(logged)}"
        assert ("grad_variance" in (folder / "metrics.csv").read_text()) is logged
    first, second = (tmp_path / f"runs/CartPole-v1/version_{number}/checkpoints/last.ckpt" for number in (0, 1))
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (first, second)]
    tensors = {name: value for name, value in weights[0].items() if isinstance(value, torch.Tensor)}
    assert tensors and all(torch.equal(value, weights[1][name]) for name, value in tensors.items())


class Unknown(torch.distributions.Categorical):
    """A distribution whose entropy torch does not know."""

    def entropy(self):
        raise NotImplementedError


def test_the_estimated_entropy_and_its_gradient_are_right_in_the_mean():
    logits = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    exact = torch.distributions.Categorical(logits=logits)
    estimates = [entropy(Unknown(logits=logits), torch.tensor([action])) for action in range(3)]
    mean = sum(p * one for p, one in zip(exact.probs[0].detach(), estimates, strict=True))
    torch.testing.assert_close(mean, exact.entropy())
    torch.testing.assert_close(*(torch.autograd.grad(one.sum(), logits)[0] for one in (mean, exact.entropy())))


def test_of_independent_parts_only_those_without_an_exact_entropy_are_estimated():
    logits = torch.tensor([[0.3, -1.0, 2.0]])
    known, unknown = torch.distributions.Categorical(logits=logits), Unknown(logits=logits)
    joint = JointDistribution({"known": known, "unknown": unknown})
    found = entropy(joint, {"known": torch.tensor([1]), "unknown": torch.tensor([0])})
    torch.testing.assert_close(found, known.entropy() - known.log_prob(torch.tensor([0])))


class Two(Spaces):
    """One action of two kinds; the reward is the discrete one."""

    def __init__(self):
        super().__init__(actions=gym.spaces.Dict(a=gym.spaces.Discrete(3), b=gym.spaces.Box(-1, 1, (2,))))

    def step(self, action):
        return self.observation_space.sample(), float(action["a"]), True, False, {}


@pytest.mark.parametrize(("head", "low"), [(GaussianHead, 3.7), (SquashedGaussianHead, 1.5)])
def test_the_entropy_of_a_run_is_that_of_its_policy(head, low, monkeypatch):
    """log 3 of the discrete action, and 2.84 at most of the other one, of two dimensions; squashed it has less."""
    monkeypatch.setitem(HEADS, gym.spaces.Box, head)
    agent = Reinforce(Two, entropy_coef=0.01)
    trainer(1).fit(agent, EpisodeDataModule(num_envs=16))
    assert low < agent.metrics["entropy"] < 4.1
