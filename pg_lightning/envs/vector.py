"""Vector environments: one after the other, a process each, or Gymnasium's own implementation."""

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from pg_lightning.envs.envpool import EnvPoolEnvs, stands_in
from pg_lightning.envs.errors import EnvironmentFault, environment_errors
from pg_lightning.envs.masks import MaskRows, mask_alone
from pg_lightning.envs.rows import as_reward, empty_rows, has_only_arrays, row_writer, splitter
from pg_lightning.tree import tree_map

if TYPE_CHECKING:
    from pg_lightning.envs.environment import Environment


class SyncEnvs(VectorEnv):
    """Environments in this process, stepped one after the other; little more than a loop over their steps.

    There is no autoreset: the caller restarts environments by ``reset(options={"reset_mask": mask})``. An environment
    whose episode has ended is not stepped before that: its observation, terminated and truncated stay, its reward is 0.
    All arrays that ``reset`` and ``step`` return are reused by the next call: copy what must be kept. Of the infos only
    an ``action_mask`` is collected. Observations are trees of arrays ``[N, ...]`` as their space nests; of Text, Graph
    and Sequence spaces they are object arrays ``[N]``.

    Args:
        envs: environments with the same spaces.

    Raises:
        ValueError: their spaces differ.
    """

    skips_idle = True
    """An environment that owes no episode is not stepped."""

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        self.envs, self.num_envs, first = list(envs), len(envs), envs[0]
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        for env in self.envs[1:]:
            if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                raise EnvironmentFault("environments that step together must have the same spaces")
        self.observation_space = gym.vector.utils.batch_space(first.observation_space, self.num_envs)
        self.action_space = gym.vector.utils.batch_space(first.action_space, self.num_envs)
        self.spec, self.render_mode = first.unwrapped.spec, first.render_mode
        self.metadata = {**first.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self._observations = empty_rows(first.observation_space, self.num_envs)
        self._write = row_writer(first.observation_space, self._observations)
        self._split = splitter(first.action_space)
        self._rewards = np.zeros(self.num_envs)
        self._terminated, self._truncated = np.zeros((2, self.num_envs), bool)
        self._ended = [False] * self.num_envs  # A list: its items are read faster than an array's.
        self._masks = MaskRows(self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start episodes: in all environments, or where ``options["reset_mask"]`` (bool ``[N]``) is true.

        Args:
            seed: environment i gets ``seed + i``.
            options: handed on to the environments, without the mask.

        Returns:
            Observations ``[N, ...]`` and infos of all environments.
        """
        which: Iterable[int] = range(self.num_envs)
        if options and "reset_mask" in options:
            which = options["reset_mask"].nonzero()[0].tolist()
            options = {key: value for key, value in options.items() if key != "reset_mask"} or None
        for i in which:
            observation, info = self.envs[i].reset(seed=None if seed is None else seed + i, options=options)
            self._write(i, observation)
            self._masks.write(i, info)
            self._ended[i] = self._terminated[i] = self._truncated[i] = False
        return self._observations, self._masks.infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take the actions ``[N, ...]``, those of Discrete spaces as Python integers.

        Returns:
            Observations ``[N, ...]``, rewards float64 ``[N]``, terminated and truncated bool ``[N]``, and infos.
        """
        rewards, ended, has_masks = self._rewards, self._ended, bool(self._masks.infos)
        for i, action in enumerate(self._split(actions)):
            if ended[i]:
                rewards[i] = 0.0
                continue
            observation, reward, terminated, truncated, info = self.envs[i].step(action)
            self._write(i, observation)
            if has_masks:
                self._masks.write(i, info)
            rewards[i] = reward if isinstance(reward, float) else as_reward(reward)
            if terminated or truncated:
                ended[i], self._terminated[i], self._truncated[i] = True, bool(terminated), bool(truncated)
        return self._observations, rewards, self._terminated, self._truncated, self._masks.infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


class _WorkerEnv(gym.Env):
    """Environment in a worker process. It is made by the first reset, and what it raises is handed over as an info.

    Gymnasium's worker would print a traceback, die of a ``sys.exit``, and wait forever for an error that cannot be
    pickled; and it copies observations as raw memory, whatever their shape.
    """

    def __init__(self, environment: "Environment", main_process: int) -> None:
        self.observation_space, self.action_space = environment.observation_space, environment.action_space
        self._environment = environment
        self._env: Any = None
        self._write = row_writer(self.observation_space, empty_rows(self.observation_space, 1))
        self._split = splitter(self.action_space)
        if os.getpid() != main_process:  # Gymnasium also makes one in the main process, to read its spaces.
            # Workers inherit handlers with which they would live on. They leave Ctrl-C to the main process.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start an episode."""
        try:
            if self._env is None:
                self._env = self._environment.make()
            with environment_errors():
                observation, info = self._env.reset(seed=seed, options=options)
                self._write(0, observation)
            return observation, mask_alone(info)
        except EnvironmentFault as fault:
            return self.observation_space.sample(), _as_info(fault)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Take an action."""
        try:
            with environment_errors():
                # Gymnasium sends NumPy scalars; the environment gets what SyncEnvs would give it.
                (action,) = self._split(tree_map(lambda value: np.asarray(value)[None], action))
                observation, reward, terminated, truncated, info = self._env.step(action)
                self._write(0, observation)
                return observation, as_reward(reward), bool(terminated), bool(truncated), mask_alone(info)
        except EnvironmentFault as fault:
            return self.observation_space.sample(), 0.0, False, False, _as_info(fault)

    def close(self) -> None:
        """Close the environment; what fails here comes too late to matter."""
        with suppress(Exception, SystemExit):
            self._env.close()


def _work(*args: Any) -> None:
    """Serve the main process; end without a word when it is gone, as Gymnasium's worker alone would not."""
    with suppress(EOFError, ConnectionError):
        _async_worker(*args)


def _as_info(fault: EnvironmentFault) -> dict[str, str]:
    return {"fault": str(fault), "traceback": "".join(traceback.format_exception(fault))}


class AsyncEnvs(AsyncVectorEnv):
    """Environments in a process each, by Gymnasium's AsyncVectorEnv in the autoreset mode NEXT_STEP.

    The step that ends an episode returns its final observation, the next one starts an episode and ignores the action.
    Observations are views of shared memory, overwritten by the next step: copy what must be kept. Of the infos
    only an ``action_mask`` is collected.

    Args:
        environment: made in each process by the first reset.
        num_envs: number of processes.

    Raises:
        ValueError: an observation space that shared memory cannot hold; later, whatever an environment raised, or a
            process that died.
    """

    def __init__(self, environment: "Environment", num_envs: int) -> None:
        if not has_only_arrays(environment.observation_space):
            raise ValueError(f"the backend async cannot carry the observations of {environment.name}: use sync")
        make = partial(_WorkerEnv, environment, os.getpid())
        with environment_errors(f"environment {environment.name!r}, backend async"):
            self._call(super().__init__, [make] * num_envs, copy=False, worker=_work)
        self.spec = environment.registration()

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start episodes in all environments, environment i with ``seed + i``."""
        return self._call(super().reset, seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take the actions ``[N, ...]``."""
        return self._call(super().step, actions)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of Gymnasium; raise the fault of an environment, or name the process that died."""
        try:
            result = method(*args, **kwargs)
        except (EOFError, ConnectionError) as error:
            for process in self.processes:
                process.join(0.1)  # Its exit code comes a moment after the end of its pipe.
            died = [f"{i} (exit code {one.exitcode})" for i, one in enumerate(self.processes) if not one.is_alive()]
            raise EnvironmentFault(f"the process of an environment died: {', '.join(died)}") from error
        if result is not None and "fault" in (infos := result[-1]):
            first = infos["_fault"].argmax()
            raise EnvironmentFault(infos["fault"][first]) from RuntimeError(
                f"in a worker:\n{infos['traceback'][first]}"
            )
        return result

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Close the environments; processes that have died or owe an answer are not asked, but ended."""
        if self._state != AsyncState.DEFAULT or not all(process.is_alive() for process in self.processes):
            self._state, terminate = AsyncState.DEFAULT, True  # In another state Gymnasium waits for the answer.
        super().close_extras(timeout, terminate)


def _make_sync(environment: "Environment", num_envs: int) -> SyncEnvs:
    return SyncEnvs([environment.make() for _ in range(num_envs)])


def _make_native(environment: "Environment", num_envs: int) -> VectorEnv:
    """Make the vectorised implementation that the environment's author registered."""
    name, other = environment.name, "use the backend sync or async"
    spec = environment.registration()
    if spec is None or spec.vector_entry_point is None:
        raise ValueError(f"{name} has no vectorised implementation of its own: {other}")
    if environment.wrappers or spec.additional_wrappers:
        raise ValueError(f"the vectorised implementation of {name} takes no wrappers: {other}")
    limit = {} if environment.max_episode_steps is None else {"max_episode_steps": environment.max_episode_steps}
    kwargs = (environment.kwargs or {}) | limit
    # What Gymnasium warns of, a missing autoreset mode, is refused below.
    with environment_errors(f"environment {name!r}, backend native"), warnings.catch_warnings(action="ignore"):
        envs = gym.make_vec(spec, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    spaces = environment.observation_space, environment.action_space
    if (envs.single_observation_space, envs.single_action_space) != spaces:
        raise ValueError(f"the vectorised implementation of {name} has other spaces than {name} itself: {other}")
    if not isinstance(envs.metadata.get("autoreset_mode"), AutoresetMode):
        raise ValueError(f"the vectorised implementation of {name} does not tell its autoreset mode: {other}")
    return envs


BACKENDS: dict[str, Callable[["Environment", int], VectorEnv]] = {
    "sync": _make_sync,
    "native": _make_native,
    "async": AsyncEnvs,
    "envpool": EnvPoolEnvs,
}
"""Makers of vector environments by name. An entry added here can be chosen like the others."""

WINDOWLESS = ("native", "envpool")
"""Backends that take a ``render_mode`` and draw nothing."""


def make_vector(environment: "Environment", num_envs: int, backend: str = "auto") -> VectorEnv:
    """Make environments that step together.

    Args:
        environment: made ``num_envs`` times.
        num_envs: number of environments, at least 1.
        backend: ``native`` is the vectorised implementation that the environment brings with it, ``sync`` steps one
            after the other, ``async`` gives each a process, ``envpool`` takes EnvPool's C++ environments. For two or
            more environments ``auto`` takes ``native``, else ``envpool`` in the place of Gymnasium's own environments,
            wherever that has the same spaces; else ``sync``.

    Returns:
        Gymnasium's interface, and two attributes: ``backend``, the one that was taken, and ``name`` of the environment.

    Raises:
        ValueError: an unknown backend, one that cannot serve the environment, or an environment that cannot be made.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs}")
    if backend not in BACKENDS and backend != "auto":
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, not {backend!r}")
    _ = environment.observation_space  # Made once here: a failure in a worker would not show its reason.
    if backend == "auto":
        for faster in ("native", *["envpool"] * stands_in(environment)) if num_envs > 1 else ():
            with suppress(ValueError, ImportError):
                return _make(faster, environment, num_envs)
        backend = "sync"
    return _make(backend, environment, num_envs)


def _make(backend: str, environment: "Environment", num_envs: int) -> VectorEnv:
    if backend in WINDOWLESS and (environment.kwargs or {}).get("render_mode") == "human":
        raise ValueError(f"the backend {backend} opens no window for {environment.name}: use sync or async")
    envs = BACKENDS[backend](environment, num_envs)
    envs.backend, envs.name = backend, environment.name  # type: ignore[attr-defined]
    return envs
