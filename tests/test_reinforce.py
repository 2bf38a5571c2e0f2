import math
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from pg_lightning import (
    CategoricalMLP,
    ConsistentDropout,
    EpisodeDataModule,
    Reinforce,
    Returns,
    StandardizedReturns,
    StopAtRewardThreshold,
    TimestepBaseline,
    make_env,
)
from pg_lightning.actors import make_actor
from pg_lightning.envs import make_vector_env
from pg_lightning.sampling import EpisodeSampler
from tests.envs import GaussianPolicy, OwnPolicy, ScaledReturns
from tests.helpers import trainer, weights_of

OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def train(agent, max_steps=3, num_envs=4, callbacks=(), env_id="CartPole-v1", **settings):
    fitted = trainer(max_steps, callbacks=list(callbacks))
    fitted.fit(agent, EpisodeDataModule(env_id, num_envs=num_envs, **settings))
    return fitted


def saved(agent, path, **settings):
    """Train a little, and save a checkpoint."""
    train(agent, **settings).save_checkpoint(path / "agent.ckpt", weights_only=False)
    return path / "agent.ckpt"


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


def test_cartpole_is_solved_in_a_few_lines():
    pl.seed_everything(0, verbose=False)
    agent, stop = Reinforce("CartPole-v1"), StopAtRewardThreshold()
    fitted = train(agent, max_steps=60, num_envs=64, callbacks=[stop])
    assert stop.solved and fitted.global_step < 60
    assert stop.running_reward.compute() > 475
    assert agent.num_episodes == 64 * fitted.global_step
    env, returns = gym.make("CartPole-v1"), []
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total, ended = total + reward, terminated or truncated
        returns.append(total)
    assert np.mean(returns) > 450


def test_a_trained_agent_is_loaded_back(tmp_path):
    agent = Reinforce(
        "CartPole-v1",
        policy=partial(CategoricalMLP, hidden_sizes=[9, 7], bias=True, dropout=0.5),
        advantage=ScaledReturns(0.5),
        gamma=0.9,
        optimizer=partial(torch.optim.SGD, lr=0.001),
        chunk_size=50,
    )
    again = Reinforce.load_from_checkpoint(saved(agent, tmp_path))
    assert same_weights(agent, again)
    assert str(again.policy) == str(agent.policy)
    assert (type(again.advantage), again.advantage.scale) == (ScaledReturns, 0.5)
    assert (again.gamma, again.chunk_size) == (0.9, 50)
    assert again.num_episodes == 12 and again.num_env_steps == agent.num_env_steps > 12
    optimizer = again.configure_optimizers()
    assert (type(optimizer), optimizer.defaults["lr"]) == (torch.optim.SGD, 0.001)
    for observation in OBSERVATIONS:
        probs = again.policy.eval()(torch.from_numpy(observation)[None]).probs
        assert again.act(observation) == agent.act(observation) == probs.argmax()


def test_acting_leaves_the_agent_as_it_was_and_drops_nothing():
    agent = Reinforce("CartPole-v1", policy=partial(CategoricalMLP, dropout=0.6)).train()
    agent.policy[1].eval()
    modes = [module.training for module in agent.modules()]
    assert len({int(agent.act(OBSERVATIONS[0])) for _ in range(30)}) == 1
    assert [module.training for module in agent.modules()] == modes


def test_acting_can_sample():
    torch.manual_seed(0)
    agent = Reinforce("CartPole-v1")
    probability = agent.policy(torch.from_numpy(OBSERVATIONS[:1])).probs[0, 1].item()
    ones = sum(int(agent.act(OBSERVATIONS[0], greedy=False)) for _ in range(1000))
    assert abs(ones - 1000 * probability) < 4 * math.sqrt(1000 * probability * (1 - probability))


FLAT = ["Acrobot-v1", "tests.envs:Broken-v0", "FrozenLake-v1"]


@pytest.mark.parametrize(
    ("env_id", "policy"),
    [
        *((env_id, policy) for env_id in FLAT for policy in (CategoricalMLP, OwnPolicy)),
        ("tests.envs:Spaces-v0", CategoricalMLP),
    ],
)
def test_what_was_trained_can_act_in_the_same_environment(env_id, policy):
    env_kwargs = {"number": 0.0} if "Broken" in env_id else None
    agent, env = Reinforce(env_id, env_kwargs, policy=policy), make_env(env_id, env_kwargs)
    sampler = EpisodeSampler(make_vector_env(env_id, 1, env_kwargs=env_kwargs), 1)
    sampler.sample(make_actor(agent.policy), 0)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        action = agent.act(observation)
        assert env.action_space.contains(action.item() if action.shape == () else action)
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break


def test_a_users_own_policy_learns_and_is_loaded_back(tmp_path):
    agent = Reinforce("CartPole-v1", policy=partial(OwnPolicy, units=5))
    assert any(isinstance(module, ConsistentDropout) for module in agent.policy.modules())
    before = weights_of(agent)
    again = Reinforce.load_from_checkpoint(saved(agent, tmp_path))
    assert not any(map(torch.equal, before, weights_of(agent)))
    assert type(again.policy) is OwnPolicy and same_weights(agent, again)
    assert [agent.act(x) for x in OBSERVATIONS] == [again.act(x) for x in OBSERVATIONS]


def test_continuous_actions_learn(tmp_path):
    agent = Reinforce("Pendulum-v1", policy=GaussianPolicy)
    before = weights_of(agent)
    path = saved(agent, tmp_path, env_id="Pendulum-v1", num_envs=2)
    assert not any(map(torch.equal, before, weights_of(agent)))
    again = Reinforce.load_from_checkpoint(path)
    assert again.act(np.ones(3, np.float32)) == pytest.approx(agent.act(np.ones(3, np.float32)))
    assert again.act(np.ones(3, np.float32)).shape == (1,)


def test_a_policy_without_a_name_must_be_handed_in_again(tmp_path):
    def make(*spaces):
        return CategoricalMLP(*spaces, hidden_sizes=(3,))

    agent = Reinforce("CartPole-v1", policy=make)
    path = saved(agent, tmp_path)
    with pytest.raises(ValueError, match=r"could not name its policy: load_from_checkpoint\(path, policy=...\)"):
        Reinforce.load_from_checkpoint(path)
    assert same_weights(agent, Reinforce.load_from_checkpoint(path, policy=make))


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": type("Nameless", (Returns,), {"__qualname__": "f.<locals>.Nameless"})()},
        {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1.0)},
    ],
    ids=["advantage", "optimizer"],
)
def test_nothing_else_without_a_name_is_silently_replaced(tmp_path, settings):
    path = saved(Reinforce("CartPole-v1", **settings), tmp_path)
    with pytest.raises(ValueError, match=next(iter(settings))):
        Reinforce.load_from_checkpoint(path)


def test_arguments_of_the_environment_that_are_not_plain():
    agent = Reinforce("tests.envs:Spaces-v0", {"actions": gym.spaces.Discrete(4)})
    assert agent.policy[-1].out_features == 4


class Misshapen(ScaledReturns):
    def __call__(self, episodes, gamma):
        return super().__call__(episodes, gamma)[:, None]


def test_an_advantage_of_another_shape():
    with pytest.raises(ValueError, match=r"advantages must be \[T\] = \[\d+\], not \[\d+, 1\]"):
        train(Reinforce("CartPole-v1", advantage=Misshapen()))


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_gamma_outside_of_its_range(gamma):
    with pytest.raises(ValueError, match="gamma must be from 0 to 1"):
        Reinforce("CartPole-v1", gamma=gamma)


@pytest.mark.parametrize("chunk_size", [0, -5])
def test_chunks_of_no_timesteps(chunk_size):
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1 timestep, not {chunk_size}"):
        Reinforce("CartPole-v1", chunk_size=chunk_size)


def test_the_learning_rate_is_scheduled_once_per_update():
    class Rates(pl.Callback):
        rates = []

        def on_before_optimizer_step(self, trainer, agent, optimizer):
            self.rates.append(optimizer.param_groups[0]["lr"])

    halve = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    agent = Reinforce("CartPole-v1", optimizer=partial(torch.optim.Adam, lr=0.08), lr_scheduler=halve)
    train(agent, max_steps=4, callbacks=[Rates()])
    assert Rates.rates == [0.08, 0.04, 0.02, 0.01]


@pytest.mark.parametrize("advantage", [StandardizedReturns(), TimestepBaseline()])
def test_the_size_of_chunks_does_not_change_what_is_learnt(advantage):
    learnt = []
    for chunk_size in (8192, 64, 7):
        pl.seed_everything(0, verbose=False)
        policy = partial(CategoricalMLP, dropout=0.5)
        agent = Reinforce("CartPole-v1", policy=policy, advantage=advantage, chunk_size=chunk_size)
        train(agent, max_steps=5)
        learnt.append((weights_of(agent), agent.num_env_steps.item()))
    for weights, steps in learnt[1:]:
        assert steps == learnt[0][1]
        for one, other in zip(weights, learnt[0][0], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_frozen_parameters_stay_and_the_others_learn():
    agent = Reinforce("CartPole-v1", policy=partial(CategoricalMLP, hidden_sizes=[8]))
    agent.policy[0].weight.requires_grad_(False)
    before = weights_of(agent)
    train(agent)
    assert [torch.equal(a, b) for a, b in zip(before, weights_of(agent), strict=True)] == [True, False]


def test_metrics_say_what_the_update_was():
    agent = Reinforce("tests.envs:Bandit-v0", {"means": [2.0, 2.0], "noise": 0.0}, advantage=Returns())
    nn.init.zeros_(agent.policy[-1].weight)
    data = EpisodeDataModule(
        "tests.envs:Bandit-v0", {"means": [2.0, 2.0], "noise": 0.0}, num_envs=2, episodes_per_update=6
    )
    trainer(1).fit(agent, data)
    expected = {
        "episode_return": 2,
        "episode_length": 1,
        "truncated": 0,
        "entropy": math.log(2),
        "loss": 2 * math.log(2),
    }
    assert agent.metrics == pytest.approx(expected | {"episodes": 6, "env_steps": 6}, rel=1e-6)
