"""Pictures of a run."""

import csv
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_POINTS = 5000
"""Points drawn at most; of more episodes, evenly spaced ones are shown."""


def plot_learning_curve(episodes_csv: Path, image: IO[bytes], summary: dict[str, Any]) -> bool:
    """Draw each episode's return, its moving average, the running reward and the threshold.

    A second panel shows the lengths of the episodes, where they differ from the returns and from each other.

    Args:
        episodes_csv: written by ``RunRecorder``; the running reward is read from ``metrics.csv`` beside it, if any.
        image: where the PNG is written.
        summary: as in ``summary.json``.

    Returns:
        Whether there was an episode to draw.
    """
    columns = np.genfromtxt(episodes_csv, delimiter=",", skip_header=1, usecols=(0, 2, 3), ndmin=2).T
    if columns.size == 0:
        return False
    episodes, returns, lengths = columns
    kept = np.unique(np.linspace(0, len(episodes) - 1, MOST_POINTS).astype(int))
    panels = [("episode return", returns)]
    if not np.array_equal(returns, lengths) and np.ptp(lengths) > 0:
        panels.append(("episode length (timesteps)", lengths))
    figure = Figure(figsize=(9, 4 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    window = max(50, len(episodes) // 50)
    grid = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (label, values) in zip(grid, panels, strict=True):
        axes.plot(episodes[kept], values[kept], ".", markersize=3, alpha=0.35, label="each episode")
        axes.plot(episodes[kept], moving_average(values, window)[kept], label=f"mean of {window} episodes")
        axes.set(xlabel="episode", ylabel=label)
        axes.grid(alpha=0.3)
    reached, running_reward = running_rewards(episodes_csv.with_name("metrics.csv"))
    if len(reached):
        grid[0].plot(reached, running_reward, color="black", linewidth=2, label="running reward")
    if summary["threshold"] is not None:
        grid[0].axhline(summary["threshold"], color="grey", linestyle="--", label="reward threshold")
    for axes in grid:
        axes.legend(loc="best")
    figure.suptitle(title(summary))
    figure.savefig(image, dpi=100, format="png")
    return True


def title(summary: dict[str, Any]) -> str:
    """Name the environment and the seed, and say whether it was solved, where there is something to solve.

    >>> title({"env_id": "Maze-v0", "seed": 3, "episodes": 1200, "solved": None})
    'Maze-v0, seed 3: 1,200 episodes, no threshold'
    """
    solved = "solved and confirmed" if summary.get("confirmation") else "solved (not confirmed)"
    results = {True: solved + " after {} episodes", False: "not solved after {} episodes"}
    result = results.get(summary["solved"], "{} episodes, no threshold").format(f"{summary['episodes']:,}")
    return f"{summary['env_id']}, seed {summary['seed']}: {result}"


def running_rewards(metrics_csv: Path) -> tuple[list[float], list[float]]:
    """Read the number of episodes after each update, and the running reward then; two empty lists without the file."""
    if not metrics_csv.exists():
        return [], []
    rows = csv.DictReader(metrics_csv.read_text().splitlines())
    pairs = [(float(row["episodes"]), float(row["running_reward"])) for row in rows if row.get("running_reward")]
    return [episodes for episodes, _ in pairs], [value for _, value in pairs]


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with those before it, ``window`` at most.

    >>> moving_average(np.array([1.0, 3.0, 5.0]), window=2)
    array([1., 2., 4.])
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
