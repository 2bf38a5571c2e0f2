"""Gaussian heads of a Box, and what all heads of a Box share."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from pg_lightning.policies.head_distributions import DiagonalGaussian, SquashedGaussian
from pg_lightning.policies.heads.base import Head, box_limits, clip_to_box, like

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0
"""Limits of a log-std, where it is predicted or set: smaller noise explores nothing, and its scores are huge."""


def _checked(initial_log_std: float, log_std_share: float) -> tuple[float, float]:
    """Refuse settings of a log-std that are out of range."""
    if not MIN_LOG_STD <= initial_log_std <= MAX_LOG_STD:
        raise ValueError(f"initial_log_std must be from {MIN_LOG_STD:g} to {MAX_LOG_STD:g}, not {initial_log_std}")
    if not 0 <= log_std_share <= 1:
        raise ValueError(f"log_std_share must be from 0 to 1, not {log_std_share}")
    return float(initial_log_std), log_std_share


class BoxHead(Head):
    """Base of the heads of a Box.

    Raw actions have the units in which networks compute: where a component has two finite bounds, -1 and 1 mean its low
    and its high; any other component is in the environment's units. The environment gets actions clipped to the bounds
    and, for an integer Box, rounded (-1 and 1 then mean half a number beyond the bounds, so that each integer has the
    same room). What is stored and scored is the raw action.

    Args:
        space: of any shape, dtype and bounds.
    """

    bounded_only = False

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space)
        bounded = space.bounded_below & space.bounded_above
        if self.bounded_only and not bounded.all():
            raise ValueError(f"{type(self).__name__} needs finite bounds, which {space} has not: use GaussianHead")
        self.shape, self.size = space.shape, int(np.prod(space.shape))
        self.low, self.high = box_limits(space)
        margin = 0.5 if space.dtype.kind in "iu" else 0.0
        low, high = np.where(bounded, self.low, -1.0), np.where(bounded, self.high, 1.0)
        self.offset, self.scale = low / 2 + high / 2, high / 2 - low / 2 + margin * bounded
        self.is_unit = bool((self.offset == 0).all() and (self.scale == 1).all())

    def units(self, actions: Any) -> Any:
        """Turn raw actions into the units in which -1 and 1 are the bounds."""
        return actions

    def to_env(self, actions: Any) -> Any:
        """Scale raw actions ``[N, *act]`` to the bounds, round them for an integer Box, clip and cast them."""
        actions = self.units(actions)
        if isinstance(actions, Tensor):
            actions = actions.double()  # As NumPy's become by the scale.
        if not self.is_unit:
            actions = actions * like(self.scale, actions) + like(self.offset, actions)
        return clip_to_box(actions, self.low, self.high, self.space.dtype)  # type: ignore[arg-type]

    def shaped(self, values: Any) -> Any:
        """Give values ``[T, A]`` the shape of actions ``[T, *act]``."""
        return values if len(self.shape) == 1 else values.reshape(values.shape[0], *self.shape)


class GaussianHead(BoxHead):
    """Gaussian over a Box with one standard deviation for all observations.

    The network computes the mean, which the bounds do not limit: the environment gets the sample clipped.

    Args:
        space: of any shape, dtype and bounds.
        initial_log_std: natural logarithm of the standard deviation before the first update, in units of half the width
            of the bounds.
        log_std_share: share of each step that the log-std takes, 1 for as much as the other parameters. At full speed
            the noise vanishes before the mean has learnt much.
    """

    def __init__(self, space: gym.spaces.Box, initial_log_std: float = 0.0, log_std_share: float = 0.2) -> None:
        super().__init__(space)
        initial_log_std, self.log_std_share = _checked(initial_log_std, log_std_share)
        self.num_outputs = self.size
        self.log_std = nn.Parameter(torch.full((self.size,), initial_log_std))

    def distribution(self, outputs: Tensor) -> DiagonalGaussian:
        """Return a Gaussian over raw actions ``[T, *act]``, given means ``[T, A]``."""
        return DiagonalGaussian(outputs, self.log_std, self.shape)

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> np.ndarray:
        """Draw Gaussian noise ``[steps, N, A]`` of the standard deviation as it is now."""
        noise = rng.standard_normal((steps, num_envs, self.size), dtype=np.float32)
        return noise * np.exp(self.log_std.numpy(force=True))

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Add noise to means ``[N, A]``."""
        return self.shaped(outputs + noise)

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Return the means ``[N, *act]``."""
        return self.shaped(outputs)

    def step_shares(self) -> dict[str, float]:
        """Map ``log_std`` to its share."""
        return {"log_std": self.log_std_share}


class PredictedStdGaussianHead(BoxHead):
    r"""Gaussian over a Box whose mean and log-std the network computes from the observation.

    .. math:: \log\sigma(s) = \mathrm{clip}(c + k\, y(s), -5, 2)

    Args:
        space: of any shape, dtype and bounds.
        initial_log_std: c, in units of half the width of the bounds.
        log_std_share: k, which slows the log-std down: the noise would vanish before the mean has learnt much.
    """

    def __init__(self, space: gym.spaces.Box, initial_log_std: float = 0.0, log_std_share: float = 0.2) -> None:
        super().__init__(space)
        self.num_outputs = 2 * self.size
        self.initial_log_std, self.log_std_share = _checked(initial_log_std, log_std_share)

    def _log_std(self, values: Any) -> Any:
        return (self.initial_log_std + self.log_std_share * values).clip(MIN_LOG_STD, MAX_LOG_STD)

    def distribution(self, outputs: Tensor) -> DiagonalGaussian:
        """Return a Gaussian over raw actions ``[T, *act]``, given means and y ``[T, 2A]``."""
        mean, values = outputs.split(self.size, dim=1)
        return DiagonalGaussian(mean, self._log_std(values), self.shape)

    def noise(self, rng: np.random.Generator, steps: int, num_envs: int) -> np.ndarray:
        """Draw standard Gaussian noise ``[steps, N, A]``."""
        return rng.standard_normal((steps, num_envs, self.size), dtype=np.float32)

    def sample(self, outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Scale noise by the standard deviations and add it to the means."""
        mean, values = outputs[:, : self.size], outputs[:, self.size :]
        return self.shaped(mean + np.exp(self._log_std(values)) * noise)

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Return the means ``[N, *act]``."""
        return self.shaped(outputs[:, : self.size])


class SquashedGaussianHead(GaussianHead):
    """Gaussian squashed by tanh into the bounds of a Box, with one standard deviation for all observations.

    Raw actions are those before the tanh, so that none is infinite; the density is that after it.

    Args:
        space: with finite bounds.
        initial_log_std: natural logarithm of the standard deviation, before the tanh.
        log_std_share: share of each step that the log-std takes, 1 for as much as the other parameters.

    Raises:
        ValueError: an infinite bound.
    """

    bounded_only = True
    sample, mode = GaussianHead.sample, GaussianHead.mode  # Raw actions are those of the Gaussian.

    def distribution(self, outputs: Tensor) -> SquashedGaussian:
        """Return a squashed Gaussian over raw actions ``[T, *act]``, given means before the tanh ``[T, A]``."""
        return SquashedGaussian(outputs, self.log_std, self.shape)

    def units(self, actions: Any) -> Any:
        """Squash raw actions into (-1, 1)."""
        return actions.tanh() if isinstance(actions, Tensor) else np.tanh(actions)
