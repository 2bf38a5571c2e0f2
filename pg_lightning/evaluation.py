"""Evaluation: what the returns of some complete episodes say of a policy."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pg_lightning.episodes import Outcome

RESAMPLES = 10_000
"""Bootstrap samples of a confidence interval."""


def bootstrap_interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return a bootstrap confidence interval of the mean, by percentiles.

    Args:
        values: independent observations ``[n]``.
        level: probability that the interval covers.
        seed: of the resampling, so that the same values have the same interval.

    Raises:
        ValueError: no values.

    Source: Efron & Tibshirani (1993), "An Introduction to the Bootstrap", section 13.3.

    >>> bootstrap_interval(np.array([2.0, 2.0, 2.0]))
    (2.0, 2.0)
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least 1 value")
    rng = np.random.default_rng(seed)
    means = np.asarray(values, float)[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Evaluation(NamedTuple):
    """Statistics of an evaluation's episodes; a return is the undiscounted sum of an episode's rewards.

    Attributes:
        episodes: how many.
        mean: of the returns.
        low, high: 95 % bootstrap interval of the mean.
        std: standard deviation of the returns.
        min, max: smallest and largest return.
        length: mean number of timesteps.
        truncated: share of the episodes that were cut from outside.
    """

    episodes: int
    mean: float
    low: float
    high: float
    std: float
    min: float
    max: float
    length: float
    truncated: float

    def __str__(self) -> str:
        """Mean, interval and count: ``499.1 [498.2, 499.8] over 100 episodes``."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}] over {self.episodes:,} episodes"


def evaluate(outcome: Outcome) -> Evaluation:
    """Summarise the returns and lengths of some episodes."""
    returns = outcome.returns.double().numpy(force=True)
    low, high = bootstrap_interval(returns)
    return Evaluation(
        len(returns),
        returns.mean().item(),
        low,
        high,
        returns.std(ddof=1).item() if len(returns) > 1 else 0.0,
        returns.min().item(),
        returns.max().item(),
        outcome.lengths.double().mean().item(),
        outcome.truncated.double().mean().item(),
    )


def evaluation_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Format evaluations as a table, one row for each, by name.

    >>> print(evaluation_table({"greedy": Evaluation(2, 9.0, 8.0, 10.0, 1.4, 8.0, 10.0, 9.0, 0.5)}))
    actions  episodes  mean  95 % interval   std   min    max  length  truncated
    greedy          2  9.00  8.00 to 10.00  1.40  8.00  10.00     9.0       50 %
    """
    header = ["actions", "episodes", "mean", "95 % interval", "std", "min", "max", "length", "truncated"]
    rows = [
        [
            name,
            f"{one.episodes:,}",
            f"{one.mean:,.2f}",
            f"{one.low:,.2f} to {one.high:,.2f}",
            *(f"{value:,.2f}" for value in (one.std, one.min, one.max)),
            f"{one.length:,.1f}",
            f"{one.truncated:.0%}".replace("%", " %"),
        ]
        for name, one in evaluations.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        first, *others = zip(row, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]))
    return "\n".join(lines)
