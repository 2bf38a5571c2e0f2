"""Playing: complete episodes of a policy as it is deployed, below every evaluation, confirmation and video."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv
from torch import nn

from pg_lightning.envs import Environment, as_environment
from pg_lightning.episodes import Episodes
from pg_lightning.policies.dropout import evaluating
from pg_lightning.sampling.actors import PolicyError, make_actor
from pg_lightning.sampling.sampler import EVALUATION_UPDATE, EpisodeSampler

MAX_STEPS = 10_000
"""Timesteps after which an evaluation cuts an episode of an environment that has no time limit."""


def play(
    policy: nn.Module,
    env: Environment | str | Callable[..., gym.Env] | Mapping[str, Any],
    episodes: int = 100,
    seed: int = 0,
    greedy: bool = True,
    num_envs: int = 8,
    backend: str = "auto",
    max_steps: int | None = MAX_STEPS,
    draw: int = 0,
) -> Episodes:
    """Play complete episodes with a policy in eval mode; the state of torch's generator is left as it was.

    Args:
        policy: maps observations to a Distribution.
        env: what is played.
        episodes: how many.
        seed: of the environments and of sampled actions.
        greedy: whether to take the most probable action, rather than to sample one.
        num_envs: environments that step together, at most.
        backend: what steps them, see :func:`pg_lightning.envs.make_vector`.
        max_steps: timesteps after which an episode of an environment without a time limit is cut; ``None`` for never.
        draw: index of the evaluation: another one of the same seed plays other episodes.

    Returns:
        The episodes, which share no seed with those of training.

    Raises:
        ValueError: fewer than one episode; the environment or the policy failed.
        NotImplementedError: greedy, and the policy's distribution has no mode.
    """
    if episodes < 1:
        raise ValueError(f"at least 1 episode must be played, not {episodes}")
    together = -(-episodes // -(-episodes // num_envs))  # As many rounds as with num_envs, shared equally.
    sampler = EpisodeSampler(evaluation_envs(as_environment(env), together, backend, max_steps), episodes, seed)
    try:
        return play_on(sampler, policy, greedy, draw)
    finally:
        sampler.close()


def play_on(sampler: EpisodeSampler, policy: nn.Module, greedy: bool, draw: int = 0) -> Episodes:
    """Play the quota of a sampler, as :func:`play` does."""
    actor = make_actor(policy, sampler.envs.single_action_space, greedy)
    with evaluating(policy), torch.random.fork_rng(devices=[]):
        try:
            return sampler.sample(actor, EVALUATION_UPDATE + draw)
        except PolicyError as error:
            if greedy and isinstance(origin(error), NotImplementedError):
                raise NotImplementedError(
                    "the policy's distribution has no mode, so it cannot play greedily"
                ) from error
            raise


def origin(error: BaseException) -> BaseException:
    """Return the error that was the first cause of this one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def evaluation_envs(env: Environment, num_envs: int, backend: str, max_steps: int | None) -> VectorEnv:
    """Make environments for an evaluation, with a time limit where they have none of their own.

    A backend that takes no time limit gives way to sync.
    """
    limited = env if max_steps is None else env.with_time_limit(max_steps)
    try:
        return limited.make_vector(num_envs, backend)
    except (ValueError, ImportError):
        if limited is env:
            raise
        return limited.make_vector(num_envs, "sync")
