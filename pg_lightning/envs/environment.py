"""Environment of a run: an id or a callable, with arguments, a time limit and wrappers."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from pg_lightning.envs import atari, minatar
from pg_lightning.envs.errors import EnvironmentFault, environment_errors
from pg_lightning.envs.masks import ACTION_MASK
from pg_lightning.envs.vector import make_vector


class _Facts(NamedTuple):
    """Properties read from one environment that was made for it."""

    observation_space: gym.Space
    action_space: gym.Space
    reward_threshold: float | None
    time_limit: int | None


@dataclass(frozen=True)
class Environment:
    """Environment to learn in, given once to data and model alike.

    Observations and actions are those of the environment itself: the policy encodes the ones and converts the others.
    Nothing is imported or made before a space, a threshold or an environment is asked for.

    Args:
        id: a Gymnasium id, ``module:Env-v0`` to import the module first, or (from Python) a callable that makes an
            environment, such as its class.
        kwargs: arguments of the environment.
        max_episode_steps: timesteps after which an episode is cut (truncated), counted below the wrappers; by default
            the environment's own limit. The one that a callable's environment brings with it stays.
        wrappers: import paths of wrapper classes, or (from Python) callables that take an environment and return one;
            the first is the innermost.

    Raises:
        ValueError: an argument out of range.
    """

    id: str | Callable[..., gym.Env] = "CartPole-v1"
    kwargs: dict[str, Any] | None = None
    max_episode_steps: int | None = None
    wrappers: list[str | Callable[[gym.Env], gym.Env]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) and not callable(self.id):
            hint = ": hand in a callable that makes one" if isinstance(self.id, gym.Env) else ""
            raise ValueError(f"env.id must be a Gymnasium id or a callable, not {self.id!r}{hint}")
        for value in (self.id, self.kwargs, *(self.wrappers if isinstance(self.wrappers, list | tuple) else ())):
            if _is_marked(value):
                raise ValueError(f"{value} is an object that no file can hold: hand the environment in again (env=...)")
        # Run folders are named after ids: no part of one may lead out of the folder of all runs.
        if isinstance(self.id, str) and {"", ".", ".."} & {*re.split(r"[/\\]", self.id.rpartition(":")[2])}:
            raise ValueError(f"env.id must be a Gymnasium id such as CartPole-v1, not {self.id!r}")
        if self.kwargs is not None and not isinstance(self.kwargs, dict):
            raise ValueError(f"env.kwargs must be a dict, not {self.kwargs!r}")
        if isinstance(self.id, str) and "max_episode_steps" in (self.kwargs or {}):
            raise ValueError("env.kwargs are the environment's own: give max_episode_steps as env.max_episode_steps")
        limit = self.max_episode_steps
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ValueError(f"env.max_episode_steps must be an integer of at least 1 timestep, not {limit!r}")
        if self.wrappers is not None and not isinstance(self.wrappers, list | tuple):
            raise ValueError(f"env.wrappers must be a list, not {self.wrappers!r}")
        for wrapper in self.wrappers or ():
            if not isinstance(wrapper, str) and not callable(wrapper):
                raise ValueError(f"env.wrappers must hold import paths or callables, not {wrapper!r}")

    @property
    def name(self) -> str:
        """Id, or name of the callable, for messages."""
        return self.id if isinstance(self.id, str) else _name(self.id)

    @property
    def observation_space(self) -> gym.Space:
        """Observation space, as the wrapped environment has it."""
        return self._facts.observation_space

    @property
    def action_space(self) -> gym.Space:
        """Action space, as the wrapped environment has it."""
        return self._facts.action_space

    @property
    def reward_threshold(self) -> float | None:
        """Return at which the environment counts as solved, without wrappers; ``None`` where it has none."""
        return self._facts.reward_threshold

    @property
    def time_limit(self) -> int | None:
        """Timesteps after which an episode is cut, as far as Gymnasium knows; ``None`` where it is not."""
        return self._facts.time_limit

    @cached_property
    def _facts(self) -> _Facts:
        env = self.make()
        with environment_errors(f"environment {self.name!r}"):
            spec = self.registration() or env.spec
            threshold, limit = (spec.reward_threshold, spec.max_episode_steps) if spec else (None, None)
            facts = _Facts(env.observation_space, env.action_space, threshold, self.max_episode_steps or limit)
        with suppress(Exception):  # This one was never played: that it cannot be closed says nothing of a run.
            env.close()
        return facts

    @cached_property
    def has_action_masks(self) -> bool:
        """Whether it tells which actions are allowed, in the ``action_mask`` of an observation or of an info."""
        if isinstance(self.observation_space, gym.spaces.Dict) and ACTION_MASK in self.observation_space.spaces:
            return True
        env = self.make()
        with environment_errors(f"environment {self.name!r}"):
            _, info = env.reset(seed=0)
        with suppress(Exception):
            env.close()
        return ACTION_MASK in info

    def registration(self) -> EnvSpec | None:
        """Look up the id in Gymnasium's registry; ``module:Env-v0`` imports the module first.

        Returns:
            ``None`` for a callable.

        Raises:
            ValueError: no such environment, or the module cannot be imported.
        """
        if not isinstance(self.id, str):
            return None
        with environment_errors(f"environment {self.id!r}"):
            module, _, name = self.id.rpartition(":")
            if module:
                importlib.import_module(module)
            else:
                for package in (atari, minatar):
                    if name.startswith(package.NAMESPACE):
                        package.register()
            return gym.spec(name)

    def make(self, **extra_kwargs: Any) -> gym.Env:
        """Make one environment, with its time limit and wrappers.

        Args:
            **extra_kwargs: further arguments of the environment, such as ``render_mode``.

        Raises:
            ValueError: no such environment, or it cannot be made: one line with the reason.
        """
        spec = self.registration()
        kwargs = (self.kwargs or {}) | extra_kwargs
        with environment_errors(f"environment {self.name!r}" + (f" with kwargs {kwargs}" if kwargs else "")):
            if spec is not None:
                env = gym.make(spec, self.max_episode_steps, disable_env_checker=True, **kwargs)
            else:
                env = _check_made(self.id(**kwargs))  # type: ignore[operator]
                if self.max_episode_steps is not None:
                    env = gym.wrappers.TimeLimit(env, self.max_episode_steps)
            for wrapper in self.wrappers or ():
                with environment_errors(f"wrapper {wrapper if isinstance(wrapper, str) else _name(wrapper)}"):
                    env = _check_made((pkgutil.resolve_name(wrapper) if isinstance(wrapper, str) else wrapper)(env))
            for space in ("observation_space", "action_space"):
                if not isinstance(getattr(env, space, None), gym.Space):
                    raise EnvironmentFault(f"it has no {space}")
        return env

    def make_vector(self, num_envs: int, backend: str = "auto") -> VectorEnv:
        """Make environments that step together: see :func:`pg_lightning.envs.make_vector`."""
        return make_vector(self, num_envs, backend)

    def with_time_limit(self, steps: int) -> "Environment":
        """Return this environment, with a time limit where it has none.

        Args:
            steps: timesteps after which an episode is cut, counted above the wrappers.
        """
        if self.time_limit is not None:
            return self
        if not self.wrappers:  # Where every backend that takes a time limit can have it.
            return replace(self, max_episode_steps=steps)
        limit = partial(gym.wrappers.TimeLimit, max_episode_steps=steps)
        return replace(self, wrappers=[*self.wrappers, limit])

    def spec(self) -> dict[str, Any]:
        """Describe the environment as plain data, from which ``Environment(**spec)`` builds it again.

        An object that has no import path stands there as ``<name>``, which ``Environment`` refuses.
        """
        return {
            "id": self.id if isinstance(self.id, str) else f"<{self.name.strip('<>')}>",
            "kwargs": deepcopy(self.kwargs) if _is_plain(self.kwargs) else f"<{', '.join(self.kwargs or ())}>",
            "max_episode_steps": self.max_episode_steps,
            "wrappers": None if self.wrappers is None else [_import_path(wrapper) for wrapper in self.wrappers],
        }

    @property
    def unnamed(self) -> list[str]:
        """Fields that plain data cannot hold: of a callable, a local wrapper, an object among the arguments."""
        parts = {name: value if isinstance(value, list) else [value] for name, value in self.spec().items()}
        return [name for name, values in parts.items() if any(map(_is_marked, values))]


def as_environment(value: Environment | str | Callable[..., gym.Env] | Mapping[str, Any] | None) -> Environment:
    """Return an Environment for an id, a callable, a spec (a dict of plain data), or ``None`` (the default).

    Raises:
        ValueError: none of these.

    >>> as_environment("Acrobot-v1").name
    'Acrobot-v1'
    """
    if isinstance(value, Environment):
        return value
    if value is None:
        return Environment()
    if isinstance(value, Mapping):
        if unknown := value.keys() - {field.name for field in fields(Environment)}:
            raise ValueError(f"an environment has no setting {', '.join(map(repr, sorted(unknown)))}")
        return Environment(**value)
    return Environment(value)


def _check_made(env: Any) -> gym.Env:
    """Return what was made, if it is an environment."""
    if not isinstance(env, gym.Env):
        raise EnvironmentFault(f"it made {type(env).__name__} instead of a gymnasium.Env")
    return env


def _name(function: Any) -> str:
    """Return the name of a class, a function, a partial or a callable object."""
    return getattr(function, "__name__", None) or _name(getattr(function, "func", type(function)))


def _import_path(wrapper: str | Callable[..., Any]) -> str:
    """Return the path under which Python imports a callable, ``<name>`` where there is none."""
    if isinstance(wrapper, str):
        return wrapper
    path = f"{getattr(wrapper, '__module__', '')}.{getattr(wrapper, '__qualname__', '')}"
    with suppress(ImportError, AttributeError, ValueError):
        if pkgutil.resolve_name(path) is wrapper:
            return path
    return f"<{_name(wrapper).strip('<>')}>"


def _is_marked(value: Any) -> bool:
    """Tell whether a value stands for an object that plain data cannot hold."""
    return isinstance(value, str) and value.startswith("<")


def _is_plain(value: Any) -> bool:
    """Tell whether a value is made of dicts, lists, tuples, strings, numbers, booleans and ``None`` alone."""
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)
