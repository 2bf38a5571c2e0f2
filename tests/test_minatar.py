"""MinAtar: ids and seeds. minatar is needed (the extra of that name)."""

import gymnasium as gym
import numpy as np
import pytest

from pg_lightning.envs import Environment

pytest.importorskip("minatar")


@pytest.mark.parametrize(("game", "channels", "actions"), [("Breakout", 4, 3), ("SpaceInvaders", 6, 4)])
def test_an_id_is_known_without_an_import(game, channels, actions):
    env = Environment(f"MinAtar/{game}-v1")
    assert env.observation_space == gym.spaces.Box(0, 1, (10, 10, channels), np.bool_)
    assert env.action_space == gym.spaces.Discrete(actions) and env.time_limit is None


def test_a_seed_decides_an_episode_where_no_action_is_repeated():
    """Also after another episode; a repeated action would be that one's last."""
    env = Environment("MinAtar/Breakout-v1", {"sticky_action_prob": 0.0}).make()
    episodes = []
    for _ in range(2):
        steps, ended = [env.reset(seed=3)[0]], False
        while not ended:
            observation, reward, ended, *_ = env.step(len(steps) % 3)
            steps.append(np.append(observation.ravel(), reward))
        episodes.append(np.concatenate([step.ravel() for step in steps]))
        env.reset(seed=4)
        env.step(1)
    assert np.array_equal(*episodes)
