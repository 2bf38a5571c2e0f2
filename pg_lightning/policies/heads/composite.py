"""Head of Tuple and Dict spaces."""

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor, nn

from pg_lightning.policies.head_distributions import JointDistribution
from pg_lightning.policies.heads.base import Head, make_head
from pg_lightning.tree import Tree


class CompositeHead(Head):
    """Heads of all entries of a Dict or Tuple space, independent of each other given the observation.

    Log-probabilities, entropies and KL divergences add up; actions are dicts or tuples.

    Args:
        space: of spaces that have a head.
    """

    def __init__(self, space: gym.spaces.Dict | gym.spaces.Tuple) -> None:
        super().__init__(space)
        self.keys: list[Any] = list(space.keys()) if isinstance(space, gym.spaces.Dict) else list(range(len(space)))
        self.parts: list[Head] = nn.ModuleList(make_head(space[key]) for key in self.keys)  # type: ignore[assignment]
        ends = np.cumsum([0, *(part.num_outputs for part in self.parts)]).tolist()
        self.num_outputs, self.slices = ends[-1], [slice(*ends) for ends in pairwise(ends)]

    def _nested(self, values: list[Any]) -> Tree:
        """Nest one value of each entry as the space does."""
        return dict(zip(self.keys, values, strict=True)) if isinstance(self.space, gym.spaces.Dict) else tuple(values)

    def distribution(self, outputs: Tensor) -> JointDistribution:
        """Return the joint distribution, given the outputs of all parts side by side ``[T, O]``."""
        parts = [part.distribution(outputs[:, columns]) for part, columns in zip(self.parts, self.slices, strict=True)]
        return JointDistribution(self._nested(parts))

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> Tree:
        """Draw the noise of all parts, in their order."""
        return tuple(part.noise(rng, steps, num_envs) for part in self.parts)

    def sample(self, outputs: np.ndarray, noise: Tree) -> Tree:
        """Sample raw actions of all parts."""
        each = zip(self.parts, self.slices, noise, strict=True)
        return self._nested([part.sample(outputs[:, columns], own) for part, columns, own in each])

    def mode(self, outputs: np.ndarray) -> Tree:
        """Return the most probable raw actions of all parts."""
        each = zip(self.parts, self.slices, strict=True)
        return self._nested([part.mode(outputs[:, columns]) for part, columns in each])

    def to_env(self, actions: Tree) -> Tree:
        """Turn the raw actions of each part into those that the environment accepts."""
        return self._nested([part.to_env(actions[key]) for part, key in zip(self.parts, self.keys, strict=True)])

    def step_shares(self) -> dict[str, float]:
        """Collect the shares of all parts, under the names of their parameters here."""
        each = enumerate(self.parts)
        return {f"parts.{i}.{name}": share for i, part in each for name, share in part.step_shares().items()}
