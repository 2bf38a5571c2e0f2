"""Heads of the spaces with a finite number of actions: Discrete, MultiDiscrete and MultiBinary."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from pg_lightning.policies.distributions import Categorical
from pg_lightning.policies.head_distributions import Bernoulli
from pg_lightning.policies.heads.base import Head, cast, mask_logits

TINY = np.finfo(np.float32).tiny


def gumbel_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard Gumbel noise, float32: the argmax of logits plus it is a sample of their softmax."""
    exponential = rng.standard_exponential(shape, dtype=np.float32)
    return -np.log(np.maximum(exponential, TINY))


class CategoricalHead(Head):
    """Softmax over a Discrete space.

    Args:
        space: Discrete, with any start.
    """

    def __init__(self, space: gym.spaces.Discrete) -> None:
        super().__init__(space)
        self.num_outputs, self.start = int(space.n), int(space.start)

    def to_env(self, actions: Any) -> Any:
        """Shift indices by the start, in the space's dtype: the same as in general, without its cost per step."""
        shifted = actions + self.start if self.start else actions
        return shifted if shifted.dtype == self.space.dtype else cast(shifted, self.space.dtype)

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return a Categorical over indices ``[T]``, given logits ``[T, actions]``."""
        return Categorical(logits=outputs)

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> np.ndarray:
        """Draw standard Gumbel noise ``[steps, N, actions]``."""
        return gumbel_noise(rng, (steps, num_envs, self.num_outputs))

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Sample indices ``[N]`` by the Gumbel-max trick."""
        return np.add(outputs, noise).argmax(1)

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Return the most probable indices ``[N]``."""
        return outputs.argmax(1)

    def masked(self, outputs: Any, action_mask: Any) -> Any:
        """Forbid actions, given whether each is allowed ``[T, actions]``."""
        return mask_logits(outputs, action_mask)


class MultiCategoricalHead(Head):
    """Softmax over each part of a MultiDiscrete space; the parts are independent.

    Args:
        space: MultiDiscrete of any shape, with any starts.
    """

    columns: Tensor

    def __init__(self, space: gym.spaces.MultiDiscrete) -> None:
        super().__init__(space)
        self.shape, sizes = space.nvec.shape, space.nvec.ravel()
        self.num_parts = len(sizes)
        self.num_outputs, self.most = int(sizes.sum()), int(sizes.max())
        # Parts with fewer choices than others are filled up with impossible ones.
        self.places = np.flatnonzero(np.arange(self.most) < sizes[:, None])
        self.is_full = len(self.places) == self.most * len(sizes)
        self.register_buffer("columns", torch.from_numpy(self.places), persistent=False)

    def _padded(self, outputs: np.ndarray) -> np.ndarray:
        """Lay out values ``[N, O]`` as ``[N, *parts, choices]``."""
        if not self.is_full:
            padded = np.full((len(outputs), self.num_parts * self.most), np.finfo(outputs.dtype).min, outputs.dtype)
            padded[:, self.places] = outputs
            outputs = padded
        return outputs.reshape(len(outputs), *self.shape, self.most)

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return independent Categoricals over indices ``[T, *parts]``, given all logits side by side ``[T, O]``."""
        if not self.is_full:
            padded = outputs.new_full((outputs.shape[0], self.num_parts * self.most), torch.finfo(outputs.dtype).min)
            outputs = padded.index_copy(1, self.columns, outputs)
        logits = outputs.reshape(-1, *self.shape, self.most)
        return Independent(Categorical(logits), len(self.shape), validate_args=False)

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> np.ndarray:
        """Draw standard Gumbel noise ``[steps, N, O]``."""
        return gumbel_noise(rng, (steps, num_envs, self.num_outputs))

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Sample indices ``[N, *parts]`` by the Gumbel-max trick."""
        return self._padded(np.add(outputs, noise)).argmax(-1)

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Return the most probable indices ``[N, *parts]``."""
        return self._padded(outputs).argmax(-1)

    def masked(self, outputs: Any, action_mask: Any) -> Any:
        """Forbid choices, given whether each is allowed, all parts side by side ``[T, O]``."""
        return mask_logits(outputs, action_mask)


class BernoulliHead(Head):
    """Sigmoid of each bit of a MultiBinary space; the bits are independent.

    Args:
        space: MultiBinary of any shape.
    """

    def __init__(self, space: gym.spaces.MultiBinary) -> None:
        super().__init__(space)
        self.shape, self.num_outputs = space.shape, int(np.prod(space.shape))

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return independent Bernoullis over bits ``[T, *bits]`` as floats, given logits ``[T, O]``."""
        bits = Bernoulli(outputs.reshape(-1, *self.shape))
        return Independent(bits, len(self.shape), validate_args=False)

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> np.ndarray:
        """Draw standard logistic noise ``[steps, N, O]``: a logit that exceeds it is a 1."""
        one, other = gumbel_noise(rng, (2, steps, num_envs, self.num_outputs))
        return one - other

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Sample bits ``[N, *bits]``, as floats."""
        return (outputs > noise).astype(outputs.dtype).reshape(-1, *self.shape)

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Return the most probable bits ``[N, *bits]``, as floats."""
        return (outputs > 0).astype(outputs.dtype).reshape(-1, *self.shape)
