"""Running reward, as a torchmetrics Metric."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def exponential_moving_average(initial: Tensor, values: Tensor, decay: float) -> Tensor:
    r"""Fold values, first to last, into a moving average.

    .. math:: m_n = d^n m_0 + (1 - d) \sum_{i=1}^{n} d^{n-i} x_i

    the closed form of :math:`m_i = d\, m_{i-1} + (1 - d)\, x_i`.

    Args:
        initial: the average so far, :math:`m_0` ``[]``.
        values: what to fold in, first to last ``[N]``.
        decay: d, from 0 (only the last value counts) to below 1.

    Returns:
        The average after each value ``[N]``.

    Source: the running reward of PyTorch's REINFORCE example (``pytorch/examples``, reinforcement_learning).

    >>> exponential_moving_average(torch.tensor(10.0), torch.tensor([8.0, 9.98]), decay=0.99)
    tensor([9.9800, 9.9800])
    """
    average, averages = float(initial), []
    for value in values.tolist():
        average = decay * average + (1 - decay) * value
        averages.append(average)
    return initial.new_tensor(averages)


class RunningReward(Metric):
    r"""Exponential moving average over episodes, first to last; its state is part of a checkpoint.

    .. math:: m_n = d\, m_{n-1} + (1 - d)\, x_n, \quad \hat m_n = m_n / w_n, \quad w_n = d\, w_{n-1} + (1 - d)

    Without an initial value :math:`m_0 = w_0 = 0`, so :math:`w_n = 1 - d^n` and the average is free of where it started
    (bias-corrected). With one, :math:`m_0` is that value and :math:`w_0 = 1`, the plain recurrence.

    Args:
        decay: d, the share of the old average that each episode keeps, at least 0 and below 1 (article: 0.99).
        initial: the average before the first episode (article: 10); by default there is none.

    Raises:
        ValueError: a decay outside of [0, 1), an initial value that is not finite.

    Source: the running reward of PyTorch's REINFORCE example; the correction is that of Kingma & Ba (2015), "Adam",
    section 3.

    >>> running_reward = RunningReward(decay=0.99)
    >>> running_reward.update(torch.tensor([8.0, 8.0]))
    >>> round(running_reward.compute().item(), 2), running_reward.episodes.item()
    (8.0, 2)
    >>> running_reward = RunningReward(decay=0.99, initial=10)
    >>> running_reward.update(torch.tensor([8.0]))
    >>> round(running_reward.compute().item(), 2)
    9.98
    """

    full_state_update = False
    higher_is_better = True
    value: Tensor
    weight: Tensor
    episodes: Tensor

    def __init__(self, decay: float = 0.99, initial: float | None = None, **kwargs: Any) -> None:
        super().__init__(compute_with_cache=False, sync_on_compute=False, **kwargs)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        if initial is not None and not math.isfinite(initial):
            raise ValueError(f"initial must be a finite number or None, not {initial}")
        self.decay = decay
        start, weight = (0.0, 0.0) if initial is None else (float(initial), 1.0)
        # Every process gets the episodes of all processes, so there is nothing to reduce.
        self.add_state("value", torch.tensor(start, dtype=torch.float64), persistent=True)
        self.add_state("weight", torch.tensor(weight, dtype=torch.float64), persistent=True)
        self.add_state("episodes", torch.tensor(0), persistent=True)

    def update(self, values: Tensor) -> None:
        """Fold in the values of some episodes, first to last ``[E]``.

        Raises:
            ValueError: another shape, no value, or one that is not finite.
        """
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"values must be [E], one per episode, not of shape {tuple(values.shape)}")
        value = exponential_moving_average(self.value, values, self.decay)[-1].item()
        if not math.isfinite(value):  # One that is not finite stays in the average.
            raise ValueError(f"values must be finite, not {values[~torch.isfinite(values)][0].item()}")
        # In place: setting an attribute of a module takes five times as long.
        self.value.fill_(value)
        self.weight.fill_(1 - (1 - self.weight.item()) * self.decay ** len(values))
        self.episodes.add_(len(values))

    def average(self) -> Tensor:
        """Return the moving average ``[]``, float64; NaN where there was neither an episode nor an initial value."""
        return self.value / self.weight

    def compute(self) -> Tensor:
        """Return :meth:`average`, which spares the cost of torchmetrics' wrapper."""
        return self.average()
