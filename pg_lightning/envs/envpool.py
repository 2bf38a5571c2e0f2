"""EnvPool's C++ environments behind Gymnasium's vector interface (``pip install 'pg_lightning[envpool]'``)."""

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from pg_lightning.envs.errors import environment_errors

if TYPE_CHECKING:
    from pg_lightning.envs.environment import Environment

DIFFERENT = ("CarRacing-v3", "Humanoid-v4", "HumanoidStandup-v4")
"""Environments with the same spaces under the same id, but other observations (tests/test_envpool_dynamics.py)."""

NO_LIMIT = 2**31 - 1
"""EnvPool's time limit of an environment that has none."""


class EnvPoolEnvs(VectorEnv):
    """Environments that EnvPool steps on all cores, in the autoreset mode NEXT_STEP.

    The step that ends an episode returns its final observation, the next one starts an episode and ignores the action.
    A pool cannot be seeded again, so a seeded reset makes another one: about a millisecond for classic control and
    Box2D, a tenth of a second for 64 MuJoCo environments. A seed decides everything, whatever the number of threads.
    Episodes are not those of Gymnasium for the same seed, and an episode that terminates in the very step of the time
    limit counts as truncated. Infos are not collected.

    Args:
        environment: with an id that EnvPool has, too, and without wrappers; its kwargs must mean something to both.
        num_envs: number of environments.

    Raises:
        ValueError: EnvPool does not have the environment, or has it with other spaces or arguments.
        ModuleNotFoundError: EnvPool is not installed.
    """

    def __init__(self, environment: "Environment", num_envs: int) -> None:
        name, other, spec = environment.name, "use the backend sync or async", environment.registration()
        if spec is None or environment.wrappers or spec.additional_wrappers:
            raise ValueError(f"EnvPool takes neither callables nor wrappers, as {name} has them: {other}")
        try:
            import envpool
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("backend envpool needs EnvPool: pip install 'pg_lightning[envpool]'") from error
        if spec.id not in envpool.list_all_envs():
            raise ValueError(f"EnvPool has no {spec.id}: {other}")
        limit = environment.time_limit
        if limit is not None and envpool.make_spec(spec.id).config.max_episode_steps == NO_LIMIT:
            raise ValueError(f"EnvPool's {spec.id} takes no time limit: {other}")  # It takes one, and ignores it.
        self.spec, self.num_envs, self._make = spec, num_envs, partial(envpool.make_gymnasium, spec.id)
        self._settings = {"num_threads": 0, "max_episode_steps": limit or NO_LIMIT, **(environment.kwargs or {})}
        self._where = f"EnvPool's {spec.id} with {self._settings}"
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self._pool = self._make_pool(seed=0)
        observations, actions = environment.observation_space, environment.action_space
        with warnings.catch_warnings(action="ignore"):  # On the precision of the observations' bounds.
            theirs = self._pool.observation_space, self._pool.action_space
        if not (_agree(observations, theirs[0]) and _agree(actions, theirs[1]) and _same_bounds(actions, theirs[1])):
            raise ValueError(f"EnvPool's {spec.id} has other spaces than Gymnasium's: {other}")
        self.single_observation_space, self.single_action_space = observations, actions
        self.observation_space = gym.vector.utils.batch_space(observations, num_envs)
        self.action_space = gym.vector.utils.batch_space(actions, num_envs)

    def _make_pool(self, seed: int) -> Any:
        with environment_errors(self._where):
            return self._make(num_envs=self.num_envs, seed=seed, **self._settings)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start episodes, environment i with ``seed + i``; return their first observations ``[N, ...]``."""
        if seed is not None:
            self._pool = self._make_pool(seed)
        with warnings.catch_warnings(action="ignore"):  # A new pool makes its spaces here.
            return self._in_space(self._pool.reset()[0]), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take the actions ``[N, ...]``."""
        observations, rewards, terminated, truncated, _ = self._pool.step(actions)
        return self._in_space(observations), rewards, terminated, truncated, {}

    def _in_space(self, observations: np.ndarray) -> np.ndarray:
        """Give observations the number type of their space: EnvPool has int32 where Gymnasium has int64."""
        return observations.astype(self.single_observation_space.dtype, copy=False)

    def close_extras(self, **kwargs: Any) -> None:
        """Drop the pool: that ends its threads."""
        self._pool = None


def stands_in(environment: "Environment") -> bool:
    """Tell whether EnvPool may take the place of an environment unasked, if it has its id and its spaces.

    Its environments were written after Gymnasium's own, and compared with these alone: what somebody else registered
    under the same id may be anything.
    """
    spec = environment.registration()
    is_gymnasiums = spec is not None and str(spec.entry_point).startswith("gymnasium.envs.")
    return spec is not None and is_gymnasiums and spec.id not in DIFFERENT


def _agree(ours: gym.Space, theirs: gym.Space) -> bool:
    """Tell whether two spaces are the same Discrete, or Boxes of one shape and kind of number."""
    if isinstance(ours, gym.spaces.Discrete):
        return ours == theirs
    both_boxes = isinstance(ours, gym.spaces.Box) and isinstance(theirs, gym.spaces.Box)
    return both_boxes and ours.shape == theirs.shape and ours.dtype.kind == theirs.dtype.kind  # type: ignore[union-attr]


def _same_bounds(ours: gym.Space, theirs: gym.Space) -> bool:
    """Tell whether actions have the same bounds, up to the precision of their number types."""
    if not (isinstance(ours, gym.spaces.Box) and isinstance(theirs, gym.spaces.Box)):
        return True
    return np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high)
