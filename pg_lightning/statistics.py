"""Statistics of runs with many seeds: location, intervals, and whether a difference is real. Needs scipy.

Source: Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice": interquartile
mean, stratified bootstrap, probability of improvement.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2_000
"""Bootstrap samples of an interval."""


LEAST_VALUES, LEAST_PAIRED = 3, 5
"""Runs from which an interval is given, and those of each side from which a comparison has one: the bootstrap of fewer
says nothing, and of two groups that do not overlap that all is certain."""


class Estimate(NamedTuple):
    """A number with its 95 % confidence interval, not a number where there are too few runs for one."""

    value: float
    low: float
    high: float


def interquartile_mean(values: Sequence[float]) -> Estimate:
    """Mean of the middle half of the values, with a bootstrap interval.

    >>> interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]).value
    3.5
    """
    from scipy.stats import trim_mean

    sample = np.asarray(values, float)
    rng = np.random.default_rng(0)
    means = trim_mean(sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))], 0.25, axis=1)
    return _estimate(trim_mean(sample, 0.25).item(), means, len(sample) >= LEAST_VALUES)


def share(successes: int, trials: int) -> Estimate:
    """Share of successes, with the Wilson score interval.

    >>> round(share(20, 20).low, 2)
    0.84
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Probability that a run of ours is better than a run of theirs, a draw counting half, with a bootstrap interval.

    >>> probability_of_improvement([3, 4], [1, 2]).value
    1.0
    """
    better = np.sign(np.subtract.outer(np.asarray(ours, float), np.asarray(theirs, float))) / 2 + 0.5  # [n, m]
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(size, size=(RESAMPLES, size)) for size in better.shape)  # Each group by itself.
    resampled = better[rows[:, :, None], columns[:, None, :]].mean((1, 2))
    return _estimate(better.mean().item(), resampled, min(better.shape) >= LEAST_PAIRED)


def mean_band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of curves ``[n, points]`` at each point, and its bootstrap interval: three arrays ``[points]``."""
    rng = np.random.default_rng(0)
    means = curves[rng.integers(len(curves), size=(RESAMPLES // 4, len(curves)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return curves.mean(0), low, high


def _estimate(value: float, resampled: np.ndarray, enough: bool) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975]) if enough else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))
