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
    """Environments that EnvPool steps on all cores.

    As in :class:`~pg_lightning.envs.vector.SyncEnvs` there is no autoreset: an environment whose episode has ended is
    not stepped before ``reset(options={"reset_mask": mask})``, and all arrays are used again by the next call.

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

    skips_idle = True
    """An environment that owes no episode is not stepped."""

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
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._pool = self._make_pool(seed=0)
        observations, actions = environment.observation_space, environment.action_space
        with warnings.catch_warnings(action="ignore"):  # On the precision of the observations' bounds.
            theirs = self._pool.observation_space, self._pool.action_space
        if not (_agree(observations, theirs[0]) and _agree(actions, theirs[1]) and _same_bounds(actions, theirs[1])):
            raise ValueError(f"EnvPool's {spec.id} has other spaces than Gymnasium's: {other}")
        self.single_observation_space, self.single_action_space = observations, actions
        self.observation_space = gym.vector.utils.batch_space(observations, num_envs)
        self.action_space = gym.vector.utils.batch_space(actions, num_envs)
        self._observations = np.zeros((num_envs, *(observations.shape or ())), observations.dtype)
        self._rewards, self._live = np.zeros(num_envs), np.arange(num_envs, dtype=np.int32)
        self._terminated, self._truncated = np.zeros((2, num_envs), bool)

    def _make_pool(self, seed: int) -> Any:
        with environment_errors(self._where):
            return self._make(num_envs=self.num_envs, seed=seed, **self._settings)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start episodes: in all environments, or where ``options["reset_mask"]`` (bool ``[N]``) is true.

        Args:
            seed: environment i gets ``seed + i``.
            options: EnvPool takes none but the mask.

        Returns:
            Observations ``[N, ...]`` of all environments, and no infos.
        """
        if seed is not None:
            self._pool = self._make_pool(seed)
        started = np.arange(self.num_envs, dtype=np.int32)
        if options and "reset_mask" in options:
            started = started[options["reset_mask"]]
        with warnings.catch_warnings(action="ignore"):  # A new pool makes its spaces here.
            self._observations[started] = self._pool.reset(started)[0]
        self._terminated[started] = self._truncated[started] = False
        self._find_live()
        return self._observations, {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take the actions ``[N, ...]``; those of environments whose episode has ended are ignored."""
        live = self._live
        self._rewards.fill(0)
        observations, self._rewards[live], terminated, truncated, _ = self._pool.step(actions[live], live)
        self._observations[live] = observations  # EnvPool has int32 where Gymnasium has int64.
        if terminated.any() or truncated.any():
            self._terminated[live], self._truncated[live] = terminated, truncated
            self._find_live()
        return self._observations, self._rewards, self._terminated, self._truncated, {}

    def _find_live(self) -> None:
        """Find the environments that the next step takes."""
        self._live = np.flatnonzero(~(self._terminated | self._truncated)).astype(np.int32)

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
