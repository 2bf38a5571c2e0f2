"""Plots. The only file that imports matplotlib."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WINDOW = 50
"""Episodes of the moving average."""

MOST_POINTS = 5000
"""Points drawn at most; of more episodes, evenly spaced ones are shown."""


def plot_learning_curve(episodes_csv: Path, path: Path, summary: dict[str, Any]) -> None:
    """Draw each episode's length and its moving average, and below it each episode's return against the threshold.

    Args:
        episodes_csv: written by ``RunRecorder``.
        path: of the PNG to write.
        summary: as in ``summary.json``.
    """
    columns = np.genfromtxt(episodes_csv, delimiter=",", skip_header=1, usecols=(0, 2, 3), ndmin=2).T
    if columns.size == 0:
        return
    episodes, returns, lengths = columns
    kept = np.unique(np.linspace(0, len(episodes) - 1, MOST_POINTS).astype(int))
    panels: list[tuple[str, np.ndarray, float | None]] = [("episode length (timesteps)", lengths, None)]
    if not np.array_equal(returns, lengths):
        panels.append(("episode return", returns, summary["threshold"]))
    figure = Figure(figsize=(9, 4 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, values, threshold) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        axes.plot(episodes[kept], values[kept], ".", markersize=3, alpha=0.35, label="each episode")
        axes.plot(episodes[kept], moving_average(values, WINDOW)[kept], linewidth=2, label=f"mean of {WINDOW} episodes")
        if threshold is not None:
            axes.axhline(threshold, color="grey", linestyle="--", label="reward threshold")
        axes.set(xlabel="episode", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    outcome = "solved" if summary["solved"] else "not solved"
    figure.suptitle(f"{summary['env_id']}, seed {summary['seed']}: {outcome} after {summary['episodes']:,} episodes")
    figure.savefig(path, dpi=100)


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with those before it, ``window`` at most.

    >>> moving_average(np.array([1.0, 3.0, 5.0]), window=2)
    array([1., 2., 4.])
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
