"""EnvPool, where it is installed: whole episodes, a seed that decides everything, and Gymnasium's spaces."""

import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from pg_lightning.envs import Environment, EnvironmentFault


def test_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"backend envpool needs EnvPool: pip install 'pg_lightning\[envpool\]'"
    ):
        Environment().make_vector(2, "envpool")


@pytest.mark.parametrize(
    "environment", [Environment(lambda: gym.make("CartPole-v1")), Environment(wrappers=[lambda env: env])]
)
def test_callables_and_wrappers(environment):
    with pytest.raises(ValueError, match=r"EnvPool takes neither callables nor wrappers.*use the backend sync"):
        environment.make_vector(2, "envpool")


def rollout(envs, seed, steps=60):
    """Everything that comes back from a reset and some steps, with actions that the seed decides."""
    rng = np.random.default_rng(0)
    rows = [envs.reset(seed=seed)[0].copy()]
    for _ in range(steps):
        space = envs.single_action_space
        shape = (envs.num_envs, *space.shape)
        actions = rng.integers(0, space.n, shape) if space.shape == () else rng.uniform(space.low, space.high, shape)
        rows += [part.copy() for part in envs.step(actions.astype(space.dtype))[:4]]
    return rows


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_a_seed_decides_everything(env_id):
    pytest.importorskip("envpool")
    envs = Environment(env_id).make_vector(3, "envpool")
    first, other = rollout(envs, 4), rollout(envs, 5)
    assert envs.backend == "envpool" and envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    for again in (rollout(envs, 4), rollout(Environment(env_id).make_vector(3, "envpool"), 4)):
        assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
    space = envs.single_observation_space
    assert first[0].shape == (3, *space.shape) and first[0].dtype == space.dtype
    assert space.contains(first[0][0] if space.shape else first[0].item(0))
    envs.close()


def test_cartpole_moves_as_it_does_in_gymnasium():
    """Positions follow velocities by Euler's rule, up to the final observation; none crosses into the next episode."""
    pytest.importorskip("envpool")
    rows = rollout(Environment().make_vector(4, "envpool"), 0, steps=200)
    before, ended, endings = rows[0], np.zeros(4, bool), 0
    for observations, rewards, terminated, truncated in zip(*[iter(rows[1:])] * 4, strict=True):
        moved = before[:, 0] + 0.02 * before[:, 1]
        np.testing.assert_allclose(observations[~ended, 0], moved[~ended], rtol=1e-5, atol=1e-7)
        assert (np.abs(observations[ended]) <= 0.05).all()  # A first observation.
        assert rewards.tolist() == (~ended).tolist() and not truncated.any()
        out = (np.abs(observations[:, 0]) > 2.4) | (np.abs(observations[:, 2]) > 0.2095)
        assert terminated.tolist() == out.tolist()  # The final observation is the one out of bounds.
        before, ended, endings = observations, terminated, endings + terminated.sum()
    assert endings > 10


@pytest.mark.parametrize(("limit", "length"), [(20, 20), (None, 200)])
def test_a_time_limit_truncates(limit, length):
    pytest.importorskip("envpool")
    envs = Environment("Pendulum-v1", max_episode_steps=limit).make_vector(2, "envpool")
    truncated = np.array(rollout(envs, 0, steps=length)[4::4])
    assert truncated[-1].all() and not truncated[:-1].any()


def test_without_a_time_limit_nothing_is_cut(monkeypatch):
    """Not even by EnvPool's own limit, which is 200 here."""
    pytest.importorskip("envpool")
    monkeypatch.setitem(gym.registry, "Pendulum-v1", replace(gym.spec("Pendulum-v1"), max_episode_steps=None))
    truncated = np.array(rollout(Environment("Pendulum-v1").make_vector(2, "envpool"), 0, steps=300)[4::4])
    assert not truncated.any()


def test_an_environment_that_would_ignore_its_time_limit():
    pytest.importorskip("envpool")
    assert Environment("CliffWalking-v1").make_vector(1, "envpool").reset(seed=0)[0].tolist() == [36]
    with pytest.raises(ValueError, match=r"EnvPool's CliffWalking-v1 takes no time limit: use the backend sync"):
        Environment("CliffWalking-v1", max_episode_steps=9).make_vector(1, "envpool")


def test_actions_of_float32_reach_environments_of_float64():
    pytest.importorskip("envpool")
    pytest.importorskip("mujoco")
    envs = Environment("Hopper-v5").make_vector(2, "envpool")
    rows = rollout(envs, 0, steps=3)
    assert rows[1].dtype == np.float64 and not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("tests.envs:Counting-v0", "EnvPool has no Counting-v0: use the backend sync or async"),
        ("Blackjack-v1", "EnvPool's Blackjack-v1 has other spaces than Gymnasium's: use the backend sync or async"),
    ],
)
def test_what_envpool_cannot_serve(env_id, message):
    pytest.importorskip("envpool")
    with pytest.raises(ValueError, match=message):
        Environment(env_id).make_vector(2, "envpool")


def test_arguments_that_it_does_not_take():
    pytest.importorskip("envpool")
    with pytest.raises(EnvironmentFault, match=r"^EnvPool's CartPole-v1 with .*: TypeError: .*sutton_barto_reward"):
        Environment(kwargs={"sutton_barto_reward": True}).make_vector(2, "envpool")
