"""Parts that are fitted to data by regression or counting, in addition to the policy gradient."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

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


def fold_in(values: Tensor, count: Tensor, mean: Tensor, m2: Tensor) -> None:
    r"""Update a running mean and sum of squared deviations in place.

    Args:
        values: new numbers ``[T, ...]``.
        count: of the numbers before ``[]``.
        mean: of these ``[...]``.
        m2: sum of their squared deviations from the mean ``[...]``.

    Source: Welford (1962), in the batch form of Chan, Golub & LeVeque (1979).

    >>> import torch
    >>> count, mean, m2 = torch.zeros(3, dtype=torch.float64)
    >>> for values in (torch.tensor([1.0, 2.0]), torch.tensor([6.0])):
    ...     fold_in(values.double(), count, mean, m2)
    >>> count.item(), mean.item(), m2.item()
    (3.0, 3.0, 14.0)
    """
    new, new_mean = len(values), values.mean(0)
    total, delta = count + new, new_mean - mean
    m2 += ((values - new_mean) ** 2).sum(0) + delta**2 * count * new / total
    mean += delta * new / total
    count.copy_(total)
