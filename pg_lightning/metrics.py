"""The running reward, as a torchmetrics Metric."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pg_lightning.functional import exponential_moving_average


class RunningReward(Metric):
    """Exponential moving average over episodes, first to last; its state is part of a checkpoint.

    Args:
        decay: how much of the old average each episode keeps, at least 0 and below 1 (article: 0.99).
        initial: the average before the first episode (article: 10).

    Raises:
        ValueError: a decay outside of [0, 1).

    >>> running_reward = RunningReward(decay=0.99, initial=10)
    >>> running_reward.update(torch.tensor([8.0]))
    >>> round(running_reward.compute().item(), 2), running_reward.episodes.item()
    (9.98, 1)
    """

    full_state_update = False
    higher_is_better = True
    value: Tensor
    episodes: Tensor

    def __init__(self, decay: float = 0.99, initial: float = 10.0, **kwargs: Any) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False, **kwargs)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        self.decay = decay
        # Every process is handed the episodes of all processes, so there is nothing to reduce.
        self.add_state("value", torch.tensor(float(initial), dtype=torch.float64), persistent=True)
        self.add_state("episodes", torch.tensor(0), persistent=True)

    def update(self, values: Tensor) -> None:
        """Fold in the values of some episodes, first to last ``[E]``."""
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"values must be [E], one per episode, not of shape {tuple(values.shape)}")
        self.value = exponential_moving_average(self.value, values, self.decay)[-1]
        self.episodes = self.episodes + len(values)

    def compute(self) -> Tensor:
        """Return the moving average ``[]``, float64."""
        return self.value
