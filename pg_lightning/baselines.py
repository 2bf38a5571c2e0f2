"""Baselines: subtracted from the returns, they lower the variance of the gradient.

Hand one to ``Reinforce(baseline=...)``. A baseline does not bias the gradient where it depends on the timestep's own
action in no way: not through the episode's own return either.
"""

import warnings
from abc import ABC, abstractmethod

import gymnasium as gym
import torch
from torch import Tensor, nn

from pg_lightning.episodes import Batch, Episodes
from pg_lightning.fitted import Fitted
from pg_lightning.frames import stacked
from pg_lightning.functional import leave_one_out, timestep_indices, timestep_mean
from pg_lightning.hparams import Recorded
from pg_lightning.policies.encoders import make_encoder
from pg_lightning.returns import MonteCarlo, Returns, Values
from pg_lightning.tree import Tree, tree_map


class Baseline(Recorded, ABC):
    """Interface of a baseline b(S_t)."""

    returns: type[Returns] = MonteCarlo
    """Estimator that fits the baseline, where none is given."""

    @abstractmethod
    def __call__(self, episodes: Episodes, returns: Tensor) -> Tensor:
        """Return the baseline of every timestep ``[T]``, given the returns ``[T]`` of all episodes of the update."""

    def prepare(self, observation_space: gym.Space, policy: nn.Module) -> None:
        """Make what depends on the environment and the policy, such as a critic's networks."""

    def values(self, episodes: Episodes) -> Values | None:
        """Return a critic's values; ``None`` where there is no critic."""
        return None


class NoBaseline(Baseline):
    """Zero: the textbook's REINFORCE, and the article's."""

    def __call__(self, episodes: Episodes, returns: Tensor) -> Tensor:
        """Return zeros ``[T]``."""
        return torch.zeros_like(returns)


class MeanBaseline(Baseline):
    """Mean return over all timesteps of the update.

    The timestep's own return is part of the mean, which biases the gradient's direction with few timesteps.
    """

    def __call__(self, episodes: Episodes, returns: Tensor) -> Tensor:
        """Return the mean ``[T]``."""
        return torch.full_like(returns, returns.mean().item())


class TimestepBaseline(Baseline):
    """Mean return of the update's episodes at the same timestep.

    The episode's own return is part of the mean, which biases the direction of the gradient with few episodes.
    :class:`LeaveOneOut` compares with the others only.
    """

    def __call__(self, episodes: Episodes, returns: Tensor) -> Tensor:
        """Return the mean over the episodes that still run at t ``[T]``."""
        if len(episodes) < 2:
            raise ValueError(
                "TimestepBaseline compares the episodes of an update, but there is only 1: use more "
                "(EpisodeDataModule(episodes_per_update=...)), or another baseline (Reinforce(baseline=NoBaseline()))"
            )
        return timestep_mean(returns, episodes.lengths)


class LeaveOneOut(Baseline):
    """Mean return of the *other* episodes of the update at the same timestep: unbiased, without a critic.

    With a single episode per update there is nothing to compare: the baseline is 0, and one warning says so.
    """

    def __call__(self, episodes: Episodes, returns: Tensor) -> Tensor:
        """Return the mean over the other episodes that still run at t ``[T]``."""
        if len(episodes) < 2:
            warnings.warn(
                "LeaveOneOut compares the episodes of an update, but there is only 1: the baseline is 0 "
                "(use more episodes_per_update, or another baseline)",
                stacklevel=2,
            )
        return leave_one_out(returns, episodes.lengths)


class LinearBaseline(Baseline, Fitted, nn.Module):
    r"""Linear function of features of observation and time, a least-squares fit to the returns of the last update.

    .. math:: b(S_t) = w^\top (o,\ o^2,\ \tau,\ \tau^2,\ \tau^3,\ 1), \quad \tau = t / 100

    with o the encoded observation, clipped to [-10, 10]. Zero in the first update.

    Args:
        regularization: ridge penalty on the weights.

    Raises:
        ValueError: a penalty that is not more than 0.

    Source: Duan et al. (2016), "Benchmarking Deep Reinforcement Learning for Continuous Control", appendix A.
    """

    order = 1
    weights: Tensor
    __call__ = nn.Module.__call__

    def __init__(self, regularization: float = 1e-5) -> None:
        super().__init__()
        if not regularization > 0:
            raise ValueError(f"regularization must be more than 0, not {regularization}")
        self.regularization = regularization

    def prepare(self, observation_space: gym.Space, policy: nn.Module) -> None:
        """Make the encoder and the weights."""
        self.encoder = make_encoder(observation_space)
        self.register_buffer("weights", torch.zeros(2 * self.encoder.num_features + 4, dtype=torch.float64))

    @torch.no_grad()
    def _features(self, observations: Tree, timesteps: Tensor) -> Tensor:
        encoded = (
            self.encoder(tree_map(lambda leaf: leaf.to(self.weights.device), observations)).double().clamp(-10, 10)
        )
        time = timesteps.to(encoded)[:, None] / 100
        return torch.cat([encoded, encoded**2, time, time**2, time**3, torch.ones_like(time)], dim=1)

    def _of(self, episodes: Episodes) -> Tensor:
        steps = torch.from_numpy(timestep_indices(episodes.lengths.numpy(force=True)))
        return self._features(stacked(episodes.observations), steps)

    def forward(self, episodes: Episodes, returns: Tensor) -> Tensor:
        """Return the predicted returns ``[T]``."""
        return (self._of(episodes) @ self.weights).to(returns)

    def values(self, episodes: Episodes) -> Values:
        """Return the predicted returns ``[T]``, and those from the final observations on ``[E]``."""
        final = self._features(episodes.final_observations, episodes.lengths)
        both = (self._of(episodes) @ self.weights, final @ self.weights)
        return Values(*(values.to(episodes.rewards.device) for values in both))

    def fit(self, batch: Batch) -> dict[str, float]:
        """Solve the normal equations for the returns of a batch."""
        features, returns = self._of(batch.episodes), batch.returns.to(self.weights)
        penalty = self.regularization * len(returns) * torch.eye(features.shape[1], dtype=torch.float64)
        self.weights = torch.linalg.solve(features.T @ features + penalty.to(features), features.T @ returns)
        return {}
