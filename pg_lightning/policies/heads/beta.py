"""Beta head of a bounded Box."""

from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.nn.functional import softplus

from pg_lightning.policies.head_distributions import Beta
from pg_lightning.policies.heads.gaussian import BoxHead

EDGE = 1e-6
"""Samples keep this distance from 0 and 1, where the density of a Beta distribution may be 0."""


class BetaHead(BoxHead):
    r"""Beta distribution over a bounded Box: no probability beyond the bounds, so nothing is clipped.

    .. math:: \alpha = 1 + \mathrm{softplus}(x), \quad \beta = 1 + \mathrm{softplus}(y)

    Both exceed 1, so that the density has one peak. Raw actions are in (0, 1), for low to high.

    Args:
        space: with finite bounds.

    Raises:
        ValueError: an infinite bound.

    Source: Chou, Maturana & Scherer (2017), "Improving Stochastic Policy Gradients in Continuous Control with Deep
    Reinforcement Learning using the Beta Distribution".
    """

    bounded_only = True

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space)
        self.num_outputs = 2 * self.size

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return a Beta distribution over raw actions ``[T, *act]``, given x and y ``[T, 2A]``."""
        alpha, beta = (self.shaped(1 + EDGE + softplus(part)) for part in outputs.split(self.size, dim=1))
        return Independent(Beta(alpha, beta, validate_args=False), len(self.shape), validate_args=False)

    def _parameters_of(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = 1 + EDGE + np.logaddexp(0, outputs)
        return both[:, : self.size], both[:, self.size :]

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> Any:
        """Return the generator itself for each step: a Beta sample is no simple function of noise drawn beforehand."""
        return np.full(steps, rng, dtype=object)

    def sample(self, outputs: np.ndarray, noise: Any) -> np.ndarray:
        """Sample raw actions ``[N, *act]``."""
        sample = noise.beta(*self._parameters_of(outputs)).astype(outputs.dtype)
        return self.shaped(sample.clip(EDGE, 1 - EDGE))

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Return the peaks of the density ``[N, *act]``."""
        alpha, beta = self._parameters_of(outputs)
        return self.shaped(((alpha - 1) / (alpha + beta - 2)).clip(EDGE, 1 - EDGE))

    def units(self, actions: Any) -> Any:
        """Map (0, 1) to (-1, 1)."""
        return 2 * actions - 1
