"""Pictures of a run."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pg_lightning.plotting.common import COLOURS, png, read_columns

MOST_POINTS = 5000
"""Points drawn at most; of more episodes, evenly spaced ones are shown."""


def plot_learning_curve(episodes_csv: Path, summary: dict[str, Any]) -> bytes | None:
    """Draw each episode's return, its moving average, the running reward and the threshold.

    A second panel shows the lengths of the episodes, where they differ from the returns and from each other.

    Args:
        episodes_csv: written by ``RunRecorder``; the running reward is read from ``metrics.csv`` beside it, if any.
        summary: as in ``summary.json``.

    Returns:
        A PNG image, ``None`` where there is no episode to draw.
    """
    columns = read_columns(episodes_csv)
    if not columns:
        return None
    episodes, returns, lengths = (columns[name] for name in ("episode", "return", "length"))
    kept = np.unique(np.linspace(0, len(episodes) - 1, MOST_POINTS).astype(int))
    panels = [("episode return", returns)]
    if not np.array_equal(returns, lengths) and np.ptp(lengths) > 0:
        panels.append(("episode length (timesteps)", lengths))
    figure = Figure(figsize=(9, 2 + 2.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    window = max(50, len(episodes) // 50)
    heights = [2, 1][: len(panels)]
    grid = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, values) in zip(grid, panels, strict=True):
        axes.plot(episodes[kept], values[kept], ".", color=COLOURS[5], markersize=3, alpha=0.35, label="each episode")
        mean = moving_average(values, window)[kept]
        axes.plot(episodes[kept], mean, color=COLOURS[0], label=f"mean of {window} episodes")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    reached, running_reward = running_rewards(episodes_csv.with_name("metrics.csv"))
    if len(reached):
        grid[0].plot(reached, running_reward, color=COLOURS[1], linewidth=2, label="running reward")
    if summary["threshold"] is not None:
        grid[0].axhline(summary["threshold"], color="grey", linestyle="--", label="reward threshold")
    grid[-1].set_xlabel("episode")
    grid[0].legend(loc="best", fontsize="small")
    figure.suptitle(title(summary))
    return png(figure)


DIAGNOSTICS = {
    "grad_norm": "gradient norm",
    "grad_variance": "gradient variance",
    "kl": "KL divergence of the step",
    "entropy": "entropy",
    "explained_variance": "explained variance",
    "lr": "learning rate",
}
"""Metrics of the second picture, and what they are called there."""


def plot_diagnostics(metrics_csv: Path, summary: dict[str, Any]) -> bytes | None:
    """Draw the metrics of the updates: gradient, step, entropy, critic, learning rate.

    Args:
        metrics_csv: of the run.
        summary: as in ``summary.json``.

    Returns:
        A PNG image, ``None`` where there is nothing to draw.
    """
    if not metrics_csv.exists():
        return None
    rows = list(csv.DictReader(metrics_csv.read_text().splitlines()))
    columns = {name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)] for name in DIAGNOSTICS}
    curves = {name: np.array(points).T for name, points in columns.items() if points}
    drawn = {name: curve for name, curve in curves.items() if np.ptp(curve[1]) > 0}  # A constant needs no picture.
    if not drawn:
        return None
    figure = Figure(figsize=(11, 2.7 * -(-len(drawn) // 3)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(-(-len(drawn) // 3), 3, sharex=True, squeeze=False).ravel()
    for axes, (name, (updates, values)) in zip(panels, drawn.items(), strict=False):
        kept = np.unique(np.linspace(0, len(updates) - 1, MOST_POINTS).astype(int))
        axes.plot(updates[kept], values[kept], color=COLOURS[0], linewidth=1)
        if name in ("grad_norm", "grad_variance") and (values > 0).all():
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(values.min(), np.median(values) / 1e3) / 2)  # Near 0 where all returns are equal.
        axes.tick_params(labelbottom=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(DIAGNOSTICS[name], fontsize="medium")
        axes.grid(alpha=0.3)
    for axes in panels[len(drawn) :]:
        axes.remove()
    figure.supxlabel("update", fontsize="medium")
    figure.suptitle(title(summary))
    return png(figure)


def title(summary: dict[str, Any]) -> str:
    """Name the environment and the seed, and say whether it was solved, where there is something to solve.

    >>> title({"env_id": "Maze-v0", "seed": 3, "episodes": 1200, "solved": None})
    'Maze-v0, seed 3: 1,200 episodes, no threshold'
    """
    solved = "solved and confirmed" if summary.get("confirmation") else "solved (not confirmed)"
    results = {True: solved + " after {} episodes", False: "not solved after {} episodes"}
    episodes = (summary.get("first_solved") or summary)["episodes"] if summary["solved"] else summary["episodes"]
    result = results.get(summary["solved"], "{} episodes, no threshold").format(f"{episodes:,}")
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
