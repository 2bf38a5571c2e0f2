"""Advantage estimators: complete episodes -> one weight per timestep.

Hand one to ``Reinforce(advantage=...)``. Those with settings keep them in attributes named like their arguments, so
that a checkpoint can name them.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from pg_lightning.episodes import Episodes
from pg_lightning.functional import EPS, returns_to_go, standardize, timestep_baseline


class Advantage(ABC):
    """What an advantage estimator looks like."""

    @abstractmethod
    def __call__(self, episodes: Episodes, gamma: float) -> Tensor:
        """Return one weight for every timestep ``[T]``."""


class StandardizedReturns(Advantage):
    """The article's weights: returns-to-go, standardised within each episode.

    It raises what came early in an episode and lowers what came late, whether the episode went well or not; that is
    enough for CartPole, where the first actions of a long episode were good ones.
    """

    def __call__(self, episodes: Episodes, gamma: float) -> Tensor:
        """Return the standardised returns-to-go ``[T]``."""
        return standardize(returns_to_go(episodes.rewards, episodes.lengths, gamma), episodes.lengths)


class TimestepBaseline(Advantage):
    """Returns-to-go minus the mean over the update's episodes at the same timestep, scaled to unit variance.

    It compares an episode with the others at the same moment, so it needs several episodes per update. On several
    processes each compares its own.
    """

    def __call__(self, episodes: Episodes, gamma: float) -> Tensor:
        """Return the advantages ``[T]``; zeros where nothing can be compared."""
        if len(episodes) < 2:
            raise ValueError(
                "TimestepBaseline compares the episodes of an update, but there is only 1: use more "
                "(--data.episodes_per_update) or StandardizedReturns (--model.advantage)"
            )
        returns = returns_to_go(episodes.rewards, episodes.lengths, gamma)
        advantages = returns - timestep_baseline(returns, episodes.lengths)
        return advantages / (advantages.std(correction=0) + EPS)


class Returns(Advantage):
    """Plain returns-to-go, neither shifted nor scaled: the textbook's REINFORCE."""

    def __call__(self, episodes: Episodes, gamma: float) -> Tensor:
        """Return the returns-to-go ``[T]``."""
        return returns_to_go(episodes.rewards, episodes.lengths, gamma)
