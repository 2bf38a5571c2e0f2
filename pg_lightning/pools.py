"""EnvPool's C++ environments behind the vector interface (``pip install 'pg_lightning[envpool]'``)."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv


class EnvPoolEnv(VectorEnv):
    """Environments that EnvPool steps, on all cores.

    A pool cannot be seeded anew, so a seeded reset makes another one: about a millisecond for classic control and
    Box2D, a tenth of a second for 64 MuJoCo environments. Episodes are complete and a seed decides everything, whatever
    the number of threads. They are not those of Gymnasium for the same seed, and an episode that terminates in the very
    step of the time limit counts as truncated.

    Args:
        spec: of Gymnasium, for the id and the time limit.
        num_envs: how many.
        env: an environment of Gymnasium with this id; observations and actions must be alike.
        env_kwargs: handed to EnvPool.

    Raises:
        ValueError: EnvPool does not have the environment, or it has other spaces.
        ModuleNotFoundError: EnvPool is not installed.
    """

    def __init__(
        self, spec: gym.envs.registration.EnvSpec, num_envs: int, env: gym.Env, env_kwargs: dict[str, Any]
    ) -> None:
        try:
            import envpool
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("backend envpool needs EnvPool: pip install 'pg_lightning[envpool]'") from error
        if spec.id not in envpool.list_all_envs():
            raise ValueError(f"EnvPool has no {spec.id}: use --data.backend sync or async")
        self.spec, self.num_envs, self._make = spec, num_envs, envpool.make_gymnasium
        self._settings = {"num_threads": 0, "max_episode_steps": spec.max_episode_steps, **env_kwargs}
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self._pool = self._make_pool(seed=0)
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        with warnings.catch_warnings(action="ignore"):  # On the precision of the observations' bounds.
            observations, actions = self._pool.observation_space, self._pool.action_space
        if observations.shape != env.observation_space.shape or type(actions) is not type(env.action_space):
            raise ValueError(f"EnvPool's {spec.id} has other spaces: use --data.backend sync or async")
        self.observation_space = gym.vector.utils.batch_space(env.observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(env.action_space, num_envs)
        self._box = env.action_space if isinstance(env.action_space, gym.spaces.Box) else None

    def _make_pool(self, seed: int) -> Any:
        try:
            return self._make(self.spec.id, num_envs=self.num_envs, seed=seed, **self._settings)  # type: ignore[union-attr]
        except (TypeError, AssertionError) as error:
            raise ValueError(f"EnvPool cannot make {self.spec.id} with these env_kwargs: {error}") from error  # type: ignore[union-attr]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start new episodes, environment i with seed + i; return their first observations ``[N, *obs]``."""
        if seed is not None:
            self._pool = self._make_pool(seed)
        with warnings.catch_warnings(action="ignore"):  # A new pool makes its spaces here.
            return self._pool.reset()[0], {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take an action in each environment; an episode's end is followed by a step that only resets."""
        if self._box is not None:
            actions = np.clip(actions, self._box.low, self._box.high)
        observations, rewards, terminated, truncated, _ = self._pool.step(actions)
        return observations, rewards, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the pool: that ends its threads."""
        self._pool = None
