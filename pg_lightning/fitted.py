"""Fitted parts: what learns by regression or counting, beside the policy gradient."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pg_lightning.episodes import Batch


class Fitted(ABC):
    """Interface of a module that is fitted to each batch after the policy's step: an estimate never sees itself.

    Attributes:
        order: parts with a lower one are fitted first; counting (0) comes before regression (1).
    """

    order = 0

    @abstractmethod
    def fit(self, batch: "Batch") -> dict[str, float]:
        """Learn from the batch of all processes, in each of them alike; return metrics by name."""
