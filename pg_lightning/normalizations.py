"""Normalisations of the advantages. Hand one to ``Reinforce(normalization=...)``."""

from abc import ABC, abstractmethod

from torch import Tensor

from pg_lightning.functional import standardize, standardize_episodes
from pg_lightning.hparams import Recorded


class Normalization(Recorded, ABC):
    """Interface of a normalisation."""

    @abstractmethod
    def __call__(self, advantages: Tensor, lengths: Tensor) -> Tensor:
        """Shift and scale advantages ``[T]`` of episodes of some lengths ``[E]``."""


class NoNormalization(Normalization):
    """Advantages as they are: the gradient is that of the expected return, unbiased."""

    def __call__(self, advantages: Tensor, lengths: Tensor) -> Tensor:
        """Return the advantages ``[T]``."""
        return advantages


class PerEpisode(Normalization):
    """Mean 0 and standard deviation 1 within each episode: the article's scaling.

    It raises what came early in an episode and lowers what came late, whether the episode went well or not; that is
    enough for CartPole, where the first actions of a long episode were good ones.
    """

    def __call__(self, advantages: Tensor, lengths: Tensor) -> Tensor:
        """Return the standardised advantages ``[T]``."""
        return standardize_episodes(advantages, lengths)


class PerBatch(Normalization):
    """Mean 0 and standard deviation 1 over all timesteps of the update."""

    def __call__(self, advantages: Tensor, lengths: Tensor) -> Tensor:
        """Return the standardised advantages ``[T]``."""
        return standardize(advantages)
