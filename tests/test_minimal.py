"""``docs/minimal.py``: short enough to read, the same gradient as the package's, and it learns."""

import importlib.util
import itertools
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from pg_lightning import LeaveOneOut, MonteCarlo, PerBatch
from pg_lightning.gradients import summed_over_chunks
from tests.helpers import ROOT, episodes_of, plain

FILE = ROOT / "docs/minimal.py"


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_has_fewer_than_80_lines():
    assert len(FILE.read_text().splitlines()) < 80


def test_importing_it_trains_nothing(minimal, capsys):
    spec = importlib.util.spec_from_file_location("minimal_again", FILE)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert capsys.readouterr().out == "" and "minimal_again" not in sys.modules


def played(minimal, count, seed):
    """A network and episodes that it played, both converted to float64."""
    torch.manual_seed(seed)
    network, env = minimal.make_network(), gym.make("CartPole-v1")
    env.reset(seed=seed)
    episodes = [minimal.play(env, network) for _ in range(count)]
    doubled = [([each.astype(np.float64) for each in seen], *rest) for seen, *rest in episodes]
    return network.double(), doubled


@pytest.mark.parametrize(("count", "gamma"), [(2, 0.99), (5, 0.99), (16, 0.9), (3, 1.0)])
def test_its_gradient_is_the_packages(minimal, count, gamma):
    """On the same episodes, in float64; the longest episode is compared with the others where none still runs."""
    network, played_episodes = played(minimal, count, seed=count)
    minimal.policy_gradient_loss(network, played_episodes, gamma).backward()

    parts = {"returns": MonteCarlo(), "baseline": LeaveOneOut(), "normalization": PerBatch()}
    agent = plain("CartPole-v1", gamma=gamma, **parts).double()
    parameters = agent.learning_parameters()
    with torch.no_grad():
        for ours, theirs in zip(parameters, network.parameters(), strict=True):
            ours.copy_(theirs)
    observations, actions, rewards = zip(*played_episodes, strict=True)
    lengths = [len(each) for each in rewards]
    assert len(set(lengths)) > 1
    observations, actions = (torch.from_numpy(np.concatenate(each)) for each in (observations, actions))
    episodes = episodes_of([*itertools.chain(*rewards)], lengths, observations=observations, actions=actions)
    loss, _ = summed_over_chunks(agent.loss, agent.estimate(episodes).chunks(agent.chunk_size), parameters)
    loss.backward()

    for ours, theirs in zip(parameters, network.parameters(), strict=True):
        assert theirs.grad.norm() > 1e-3
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


def test_an_episode_is_whole_and_in_order(minimal):
    """Played again in the environment, the actions lead through the same observations to the end."""
    _, [(observations, actions, rewards)] = played(minimal, 1, seed=3)
    env = gym.make("CartPole-v1")
    env.reset(seed=3)
    observation, _ = env.reset()
    for t, action in enumerate(actions):
        assert observations[t].tolist() == observation.tolist()
        observation, reward, terminated, truncated, _ = env.step(action)
        assert reward == rewards[t]
        assert (terminated or truncated) == (t == len(actions) - 1)


def test_it_learns(minimal, capsys):
    mean_returns = minimal.train(updates=12)
    assert np.mean(mean_returns[-3:]) > 3 * mean_returns[0]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[0] == f"update   1   mean return {mean_returns[0]:6.1f}"
