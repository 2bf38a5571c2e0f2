"""Every environment that Gymnasium registers learns, is tested, and plays what act would play, without a warning."""

import re
import warnings
from contextlib import suppress

import gymnasium as gym
import numpy as np
import pytest
import torch

from pg_lightning import Reinforce
from pg_lightning.cli import main
from pg_lightning.envs import Environment
from pg_lightning.policies.dropout import evaluating
from pg_lightning.sampling import EpisodeSampler
from pg_lightning.sampling.actors import make_actor
from pg_lightning.tree import tree_map
from tests.runs import folder  # noqa: F401

EXTRAS = ("classic_control", "toy_text", "box2d", "mujoco")
"""Folders of Gymnasium's environments that need the extras classic-control, toy-text, box2d and mujoco alone."""

with warnings.catch_warnings(action="ignore"), suppress(ImportError):
    import Box2D  # noqa: F401  # Its import would not survive pytest, which makes errors of warnings.


def newest():
    """Ids of the newest version of each environment that needs nothing beyond the extras."""
    versions = {}
    for spec in gym.registry.values():
        module = str(spec.entry_point).partition(":")[0]
        if module.startswith(tuple(f"gymnasium.envs.{extra}." for extra in EXTRAS)):
            versions[spec.name] = max(versions.get(spec.name, 0), spec.version)
    return [f"{name}-v{version}" for name, version in sorted(versions.items())]


ENVIRONMENTS = newest()


def test_the_list():
    print(*ENVIRONMENTS)
    assert len(ENVIRONMENTS) == 27, ENVIRONMENTS


class Checking(gym.Wrapper):
    """Refuses an action that is not of the action space; keeps what it got and showed."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self.trace = [(observation, info.get("action_mask"), None)]
        return observation, info

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        observation, reward, terminated, truncated, info = super().step(action)
        self.trace[-1] = (*self.trace[-1][:2], action)
        self.trace.append((observation, info.get("action_mask"), None))
        return observation, reward, terminated, truncated, info


def swept(env_id, capfd):
    """Learn for three updates, test, and compare act with what sampling plays greedily."""
    env = ["--env.id", env_id, "--env.max_episode_steps", "200"]
    options = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    main(["fit", *env, *options, "--data.num_envs", "4", "--trainer.max_steps", "3"])
    main(["test", "--ckpt_path", "last", *options, "--data.eval_episodes", "2"])
    out, err = capfd.readouterr()
    said = re.sub("WARNING: compiler attribute 'settotalmass'.*", "", out + err)  # MuJoCo on Gymnasium's HalfCheetah.
    assert re.search(r"^greedy +2 ", out, re.MULTILINE) and not re.search("warn|deprecat|error", said, re.IGNORECASE), (
        said
    )
    agent = Reinforce.load_from_checkpoint(f"runs/{env_id}/version_0/checkpoints/last.ckpt")
    checked = Environment(env_id, max_episode_steps=200, wrappers=[Checking])
    for greedy in (True, False):
        sampler = EpisodeSampler(checked.make_vector(1), 2)
        with evaluating(agent.policy):
            sampler.sample(make_actor(agent.policy, agent.env.action_space, greedy), 0)
        for one in sampler.envs.envs if greedy else ():
            for observation, mask, action in one.trace[:-1]:
                chosen = agent.act(observation, action_mask=mask)
                assert agent.env.action_space.contains(chosen)
                tree_map(np.testing.assert_array_equal, chosen, action)
        sampler.close()
    assert torch.isfinite(torch.cat([parameter.flatten() for parameter in agent.parameters()])).all()


def test_one_of_them(capfd):
    swept("Taxi-v4", capfd)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_all_of_them(env_id, capfd):
    swept(env_id, capfd)
