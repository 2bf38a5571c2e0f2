"""Building environments: one interface, that of ``gymnasium.vector.VectorEnv``, whatever steps them."""

import os
import signal
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from pg_lightning.pools import EnvPoolEnv

Backend = Literal["auto", "native", "sync", "async", "envpool"]


class SingleEnv(VectorEnv):
    """One ordinary environment behind the vector interface. It resets in the step that ends an episode.

    Args:
        env: the environment; who knows that there is only one may step it itself.
    """

    num_envs = 1

    def __init__(self, env: gym.Env) -> None:
        self.env, self.spec, self.render_mode = env, env.spec, env.render_mode
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = gym.vector.utils.batch_space(env.observation_space, 1)
        self.action_space = gym.vector.utils.batch_space(env.action_space, 1)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start a new episode; return its first observation ``[1, *obs]``."""
        observation, info = self.env.reset(seed=seed, options=options)
        return np.asarray(observation)[None], info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take action ``[1, *act]``; everything that comes back has a leading dimension of 1."""
        observation, reward, terminated, truncated, info = self.env.step(actions[0])
        if terminated or truncated:
            observation, _ = self.env.reset()
        return np.asarray(observation)[None], np.array([reward]), np.array([terminated]), np.array([truncated]), info

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.env.close()


def env_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """Look up an environment; ``module:Env-v0`` imports the module first.

    Raises:
        ValueError: no such environment; the message says what Gymnasium says.
    """
    try:
        module, _, name = env_id.rpartition(":")
        if module:
            __import__(module)
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"env_id {env_id!r}: {error}") from error


def make_env(env_id: str, env_kwargs: dict[str, Any] | None = None) -> gym.Env:
    """Make one environment, brought into the form that policies are written for.

    Observations are a Box: those of other spaces are flattened, a Discrete one becoming one-hot. Discrete actions
    count from 0; Box actions are clipped to their bounds.

    Args:
        env_id: a Gymnasium id, or ``module:Env-v0``.
        env_kwargs: handed to the environment.

    Raises:
        ValueError: no such environment, or one that cannot be made with these arguments.
    """
    spec = env_spec(env_id)
    try:
        env = gym.make(spec, disable_env_checker=True, **(env_kwargs or {}))
    except (gym.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"env_id {env_id!r} with env_kwargs {env_kwargs or {}}: {error}") from error
    if not isinstance(env.observation_space, gym.spaces.Box):
        env = gym.wrappers.FlattenObservation(env)
        box = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
        env = gym.wrappers.TransformObservation(env, np.float32, box)
    actions = env.action_space
    if isinstance(actions, gym.spaces.Box):  # A policy scores what it sampled; the environment gets what it accepts.
        env = gym.wrappers.TransformAction(env, partial(np.clip, a_min=actions.low, a_max=actions.high), actions)
    if isinstance(actions, gym.spaces.Discrete) and actions.start != 0:
        env = gym.wrappers.TransformAction(env, partial(np.add, actions.start), gym.spaces.Discrete(actions.n))
    return env


def misshapen(observation: Any, shape: tuple[int, ...]) -> ValueError:
    """Say that an observation has another shape than its space; NumPy would stretch some to fit."""
    return ValueError(f"an observation of shape {np.shape(observation)} came, but the observation space has {shape}")


class _Shaped(gym.ObservationWrapper):
    """Refuses observations of another shape: workers hand over their numbers without it."""

    def observation(self, observation: Any) -> Any:
        """Return it as it is."""
        if np.shape(observation) != self.observation_space.shape:
            raise misshapen(observation, self.observation_space.shape)  # type: ignore[arg-type]
        return observation


def _make_worker_env(env_id: str, env_kwargs: dict[str, Any] | None, main_process: int) -> gym.Env:
    """Make an environment in a worker process, which leaves Ctrl-C to the main one and ends when that one says so.

    Workers inherit the handlers of signals, and those would have them live on.
    """
    if os.getpid() != main_process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return _Shaped(make_env(env_id, env_kwargs))


def make_vector_env(
    env_id: str, num_envs: int, backend: Backend = "auto", env_kwargs: dict[str, Any] | None = None
) -> VectorEnv:
    """Make environments that step together.

    Args:
        env_id: a Gymnasium id, or ``module:Env-v0``.
        num_envs: how many, at least 1.
        backend: ``native`` is the environment's own vectorised implementation, ``sync`` steps one after the other,
            ``async`` gives each a process, ``envpool`` takes EnvPool's C++ environments. ``auto`` takes an ordinary
            environment for a single one, the native one where there is one, else ``sync``.
        env_kwargs: handed to each environment.

    Raises:
        ValueError: no such environment, fewer than one, or no native implementation though it was asked for.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs}")
    spec = env_spec(env_id)
    env = make_env(env_id, env_kwargs)  # What cannot be made says so here, not in a worker's traceback.
    if backend == "auto" and num_envs == 1:
        return SingleEnv(env)
    env.close()
    observations, actions = env.unwrapped.observation_space, env.unwrapped.action_space
    as_it_is = (
        isinstance(observations, gym.spaces.Box) and isinstance(actions, gym.spaces.Discrete) and not actions.start
    )
    has_native = spec.vector_entry_point is not None and as_it_is
    if backend == "envpool":
        if (isinstance(actions, gym.spaces.Discrete) and not as_it_is) or not isinstance(observations, gym.spaces.Box):
            raise ValueError(f"backend envpool cannot serve the spaces of {env_id}: use --data.backend sync or async")
        return EnvPoolEnv(spec, num_envs, env, env_kwargs or {})
    if backend == "native" and not has_native:
        raise ValueError(f"{env_id} has no vectorised implementation of its own: use --data.backend sync or async")
    if backend == "native" or (backend == "auto" and has_native):
        return gym.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **(env_kwargs or {}))
    envs: VectorEnv
    if backend == "async":
        envs = gym.vector.AsyncVectorEnv([partial(_make_worker_env, env_id, env_kwargs, os.getpid())] * num_envs)
    else:
        envs = gym.vector.SyncVectorEnv([partial(make_env, env_id, env_kwargs)] * num_envs, copy=False)
    envs.spec = spec
    return envs


def spaces(env_id: str, env_kwargs: dict[str, Any] | None = None) -> tuple[gym.Space, gym.Space]:
    """Return the observation and the action space that a policy for this environment is built for."""
    env = make_env(env_id, env_kwargs)
    env.close()
    return env.observation_space, env.action_space


def reward_threshold(env_id: str) -> float | None:
    """Return the return at which the environment counts as solved, ``None`` where its spec names none."""
    return env_spec(env_id).reward_threshold
