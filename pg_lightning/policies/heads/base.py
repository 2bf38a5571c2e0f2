"""Interface of a head, the table of heads, and the conversion of raw actions for any policy."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pg_lightning.hparams import Recorded
from pg_lightning.tree import Tree


class Head(Recorded, nn.Module, ABC):
    """Interface of a head.

    Args:
        space: of the actions.

    Attributes:
        num_outputs: numbers that the network computes for each observation, O.
    """

    num_outputs: int

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.space = space

    @abstractmethod
    def distribution(self, outputs: Tensor) -> Distribution:
        """Return the distribution over raw actions, a tree of ``[T, ...]``, given outputs ``[T, O]``."""

    @abstractmethod
    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> Tree:
        """Draw the noise of some steps, a tree of ``[steps, N, ...]``."""

    @abstractmethod
    def sample(self, outputs: np.ndarray, noise: Tree) -> Tree:
        """Sample raw actions, a tree of ``[N, ...]``, given outputs ``[N, O]`` and one step's noise."""

    @abstractmethod
    def mode(self, outputs: np.ndarray) -> Tree:
        """Return the most probable raw actions, a tree of ``[N, ...]``."""

    def masked(self, outputs: Any, action_mask: Any) -> Any:
        """Forbid actions: their logits become the lowest number of the dtype, which keeps the entropy finite.

        Args:
            outputs: ``[T, O]``, of NumPy or torch.
            action_mask: whether each choice is allowed ``[T, O]``, bool; those of a MultiDiscrete space side by side.

        Raises:
            ValueError: a head without choices to forbid.
        """
        raise ValueError(f"{type(self).__name__} takes no action mask: they are for Discrete and MultiDiscrete spaces")

    def to_env(self, actions: Tree) -> Tree:
        """Turn raw actions into those that the environment accepts."""
        return to_env(self.space, actions)

    def step_shares(self) -> dict[str, float]:
        """Map names of parameters to their share of each step, 1 for those that are not named."""
        return {}


def mask_logits(logits: Any, action_mask: Any) -> Any:
    """Replace the logits of forbidden actions by the lowest number of their dtype.

    >>> mask_logits(np.zeros((1, 2), np.float32), np.array([[True, False]]))
    array([[ 0.0000000e+00, -3.4028235e+38]], dtype=float32)
    """
    if isinstance(logits, Tensor):
        return logits.masked_fill(~action_mask, torch.finfo(logits.dtype).min)
    return np.where(action_mask, logits, np.finfo(logits.dtype).min)


HEADS: dict[type[gym.Space], Callable[[Any], Head]] = {}
"""The head of each kind of action space."""


def make_head(space: gym.Space) -> Head:
    """Make the head of an action space.

    Raises:
        ValueError: there is none for it.
    """
    for kind in type(space).__mro__:
        if kind in HEADS:
            return HEADS[kind](space)
    known = ", ".join(kind.__name__ for kind in HEADS)
    raise ValueError(
        f"no head for the action space {space}: heads exist for {known}; wrap the environment "
        "(Environment(wrappers=...)), or hand in a policy of your own (Reinforce(policy=...))"
    )


def to_env(space: gym.Space, actions: Tree) -> Tree:
    """Turn raw actions, as a distribution samples them, into those that an environment accepts.

    Args:
        space: of the actions.
        actions: a tree of arrays, or of tensors where a policy is exported, ``[N, ...]``.

    Returns:
        Indices shifted by the space's start; numbers clipped to its bounds, and rounded for an integer Box; each in the
        space's dtype.

    >>> to_env(gym.spaces.Discrete(3, start=1), np.array([0, 2]))
    array([1, 3])
    >>> to_env(gym.spaces.Box(-1, 1, (1,)), np.array([[0.5], [7.0]]))
    array([[0.5],
           [1. ]], dtype=float32)
    """
    if isinstance(space, gym.spaces.Dict):
        return {key: to_env(part, actions[key]) for key, part in space.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(to_env(part, action) for part, action in zip(space, actions, strict=True))
    if isinstance(space, gym.spaces.Box):
        return clip_to_box(actions, *box_limits(space), space.dtype)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        actions = actions + like(space.start, actions) if space.start.any() else actions
    return cast(actions, space.dtype)


def box_limits(space: gym.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of a Box as numbers that a float can be clipped to and then cast to its dtype."""
    if space.dtype.kind == "f":
        return space.low, space.high
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    # The bounds of int64 are no floats: the nearest ones may lie outside.
    exact = 2.0**53
    return (
        np.where(np.abs(low) > exact, np.nextafter(low, np.inf), low),
        np.where(np.abs(high) > exact, np.nextafter(high, -np.inf), high),
    )


def clip_to_box(actions: Any, low: np.ndarray, high: np.ndarray, dtype: np.dtype) -> Any:
    """Round actions ``[N, *act]`` for an integer dtype, clip them, and cast them."""
    if isinstance(actions, Tensor):
        actions = actions.round() if dtype.kind in "iu" else actions
        return cast(actions.maximum(like(low, actions)).minimum(like(high, actions)), dtype)
    if dtype.kind in "iu":
        actions = np.rint(actions)
    return np.minimum(np.maximum(actions, low), high).astype(dtype)


def like(values: Any, other: Any) -> Any:
    """Turn NumPy's numbers into a tensor on the device of another one; beside an array they stay as they are."""
    return torch.as_tensor(values, device=other.device) if isinstance(other, Tensor) else values


def cast(actions: Any, dtype: Any) -> Any:
    """Turn an array or a tensor into a dtype of NumPy's."""
    if isinstance(actions, Tensor):
        return actions.to(getattr(torch, np.dtype(dtype).name))
    return np.asarray(actions).astype(dtype, copy=False)
