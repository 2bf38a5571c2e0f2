"""The critic: what it predicts, when it is fitted, and what a checkpoint holds of it."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch

from pg_lightning import GAE, Critic, EpisodeDataModule, Linear, NormalizeObservations, Reinforce
from tests.helpers import batch_of, episodes_of, trainer

SPACE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


def made(**arguments):
    critic = Critic(**arguments)
    critic.prepare(SPACE, torch.nn.Module())
    return critic


def sampled(update=0, count=600):
    generator = torch.Generator().manual_seed(update)
    observations = torch.randn(count, 2, generator=generator) * 3 + 5
    returns = (observations[:, 0] * 40 + observations[:, 1].square() * 10).double()
    return batch_of(episodes_of([1.0] * count, [count // 2] * 2, observations=observations, update=update), returns)


def test_it_learns_the_returns():
    torch.manual_seed(0)
    critic = made()
    for update in range(120):  # After 60, five starts in twelve are not there yet.
        critic.fit(sampled(update))
    fresh = sampled(99)
    residual = fresh.returns - critic.values(fresh.episodes).values
    assert residual.var() / fresh.returns.var() < 0.02


def test_values_are_those_of_the_update_before():
    critic, batch = made(), sampled()
    before = critic.values(batch.episodes)
    assert critic(batch.episodes, batch.returns) is before.values  # Computed once.
    assert before.values.shape == (600,) and before.final.shape == (2,) and before.values.dtype == torch.float64
    critic.fit(batch)
    assert not torch.equal(critic.values(batch.episodes).values, before.values)


def test_targets_are_divided_by_the_standard_deviation_of_all_returns():
    critic, first, second = made(), sampled(1), sampled(2)
    critic.fit(first), critic.fit(second)
    both = torch.cat([first.returns, second.returns])
    assert critic.std.item() == pytest.approx(both.std(correction=0).item(), rel=1e-9)


@pytest.mark.parametrize("number", [-1.0, 3e8, 1e-9, 0.0])
def test_equal_returns_are_divided_by_their_size(number):
    critic, batch = made(), sampled()
    critic.fit(batch_of(batch.episodes, torch.full_like(batch.returns, number)))
    assert critic.std.item() == pytest.approx(abs(number) or 1.0)


def test_its_parameters_do_not_wait_for_a_gradient():
    critic = made()
    critic.fit(sampled())
    assert not any(p.requires_grad or p.grad is not None for p in critic.parameters())


def test_a_checkpoint_goes_on_exactly():
    torch.manual_seed(0)
    critic = made()
    for update in range(3):
        critic.fit(sampled(update))
    saved = copy.deepcopy(critic.state_dict())
    torch.manual_seed(1)
    resumed = made()
    resumed.load_state_dict(saved)
    for update in (3, 4):
        critic.fit(sampled(update)), resumed.fit(sampled(update))
    for name, tensor in critic.state_dict().items():
        if name != "_extra_state":
            assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_it_is_fitted_after_the_step():
    agent = Reinforce("CartPole-v1", returns=GAE(), baseline=Critic())
    seen = []
    fit = agent.baseline.fit

    def watched(batch):
        seen.append((agent.policy.state_dict()["body.0.weight"].clone(), fit(batch)))
        return {}

    agent.baseline.fit = watched
    before = agent.policy.state_dict()["body.0.weight"].clone()
    trainer(2).fit(agent, EpisodeDataModule(num_envs=4))
    assert len(seen) == 2 and not torch.equal(seen[0][0], before)
    assert torch.equal(seen[1][0], agent.policy.state_dict()["body.0.weight"])


def test_its_learning_rate_falls_with_the_progress_of_the_run():
    agent, rates = Reinforce("CartPole-v1", baseline=Critic(lr=Linear(0.4))), []
    fit = agent.baseline.fit

    def watched(batch):
        fit(batch)
        rates.append(agent.baseline.optimizer.param_groups[0]["lr"])
        return {}

    agent.baseline.fit = watched
    trainer(4).fit(agent, EpisodeDataModule(num_envs=2))
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_a_schedule_without_an_end_is_refused_before_anything_is_learnt():
    agent = Reinforce("CartPole-v1", baseline=Critic(lr=Linear(0.4)))
    before = copy.deepcopy(agent.state_dict())
    with pytest.raises(ValueError, match="a schedule needs the end of the run"):
        trainer(-1, max_epochs=1).fit(agent, EpisodeDataModule(num_envs=2))
    assert agent.num_episodes == 0 and all(torch.equal(before[name], now) for name, now in tensors_of(agent))


def tensors_of(agent):
    return [(name, value) for name, value in agent.state_dict().items() if torch.is_tensor(value)]


def test_it_goes_on_in_another_precision():
    """What its optimizer remembers is converted with it; it remained float32."""
    agent = Reinforce("CartPole-v1", baseline=Critic())
    for precision in ("32-true", "64-true"):
        trainer(2, precision=precision).fit(agent, EpisodeDataModule(num_envs=2))
    moments = agent.baseline.get_extra_state()["state"].values()
    assert len(moments) == 6 and all(one["exp_avg"].dtype == torch.float64 for one in moments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"lr": 0},
        {"lr": float("inf")},
        {"lr": Linear(1e-3, -1e-3)},
        {"lr": Linear(0.0)},
        {"epochs": 0},
        {"minibatch_size": 0},
        {"hidden_sizes": (0,)},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="must be"):
        made(**arguments)


def test_statistics_are_those_of_all_observations():
    encoder = NormalizeObservations(SPACE, clip=2.0)
    parts = [sampled(update, 20 + 2 * update) for update in range(4)]
    assert torch.equal(encoder(parts[0].episodes.observations), parts[0].episodes.observations)  # Nothing is known yet.
    for part in parts:
        encoder.fit(part)
    everything = torch.cat([part.episodes.observations for part in parts]).double()
    torch.testing.assert_close(encoder.mean, everything.mean(0))
    torch.testing.assert_close(encoder.m2 / encoder.count, everything.var(0, correction=0))
    scaled = (everything - everything.mean(0)) / (everything.var(0, correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(encoder(everything.float()), scaled.clamp(-2, 2).float(), rtol=1e-4, atol=1e-5)


def test_only_numbers_are_normalised():
    space = gym.spaces.Dict({"kind": gym.spaces.Discrete(3), "where": SPACE})
    encoder = NormalizeObservations(space)
    observations = {"kind": torch.tensor([0, 2, 2, 1]), "where": torch.randn(4, 2) * 7 + 3}
    episodes = episodes_of([1.0] * 4, [4])
    episodes.observations = observations
    encoder.fit(batch_of(episodes, torch.ones(4).double()))
    features = encoder(observations)
    assert features[:, :3].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
    torch.testing.assert_close(features[:, 3:].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
