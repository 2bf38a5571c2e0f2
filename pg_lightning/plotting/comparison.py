"""Figures of a comparison: learning curves with bands, and the final return of every run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pg_lightning.plotting.common import COLOURS, png, read_columns
from pg_lightning.statistics import interquartile_mean, mean_band

GRID = 200
"""Points of an averaged curve."""


def plot_comparison(rows: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    """Draw the figures of a comparison, those of each environment apart.

    Args:
        rows: of finished runs; ``folder`` is where the curve of each is, ``seed_N.csv``.

    Returns:
        PNG images by file name.
    """
    images = dict[str, bytes]()
    environments = list(dict.fromkeys(row["env_id"] for row in rows))
    for env_id in environments:
        here = [row for row in rows if row["env_id"] == env_id]
        part = f"_{env_id.replace('/', '_').replace(':', '_')}" if len(environments) > 1 else ""
        images[f"learning_curves{part}.png"] = learning_curves(env_id, here)
        images[f"final_returns{part}.png"] = final_returns(env_id, here)
    return images


def learning_curves(env_id: str, rows: Sequence[dict[str, Any]]) -> bytes:
    """Draw the mean learning curve of each configuration, by env steps and by seconds of training."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys(row["name"] for row in rows))
    for axes, (column, label) in zip(
        panels, [("env_steps", "env steps taken"), ("seconds", "seconds of training")], strict=True
    ):
        for index, name in enumerate(names):
            curves = [read_columns(curve_of(row)) for row in rows if row["name"] == name]
            draw_band(axes, curves, column, f"{name} ({len(curves)} seeds)", COLOURS[index % len(COLOURS)])
        draw_threshold(axes, rows)
        axes.set_xlabel(label)
        if column == "env_steps":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean return of the last 100 episodes")
    panels[0].legend(loc="best", fontsize="small")
    figure.suptitle(f"{env_id}: mean over seeds, 95 % interval shaded (a run that has ended keeps its last value)")
    return png(figure)


def draw_band(axes: Axes, curves: Sequence[dict[str, np.ndarray]], column: str, label: str, colour: str) -> None:
    """Draw the mean of some runs' curves, and its interval."""
    grid = np.linspace(0, max(curve[column][-1] for curve in curves), GRID)
    mean, low, high = mean_band(np.stack([np.interp(grid, curve[column], curve["return_mean"]) for curve in curves]))
    axes.plot(grid, mean, color=colour, linewidth=1.8, label=label)
    if len(curves) > 1:
        axes.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)


def final_returns(env_id: str, rows: Sequence[dict[str, Any]]) -> bytes:
    """Draw the final policy's mean return of every run, and the interquartile mean with its interval."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    ways = [way for way in ("sampled", "greedy") if any(f"{way}_mean" in row for row in rows)]
    figure = Figure(figsize=(9, 1.3 + 0.55 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(ways), sharex=True, sharey=True, squeeze=False)[0]
    for axes, way in zip(panels, ways, strict=True):
        for place, name in enumerate(names):
            values = [row[f"{way}_mean"] for row in rows if row["name"] == name and f"{way}_mean" in row]
            colour, offsets = COLOURS[place % len(COLOURS)], np.linspace(-0.18, 0.18, len(values))
            axes.plot(values, place + offsets, ".", color=colour, alpha=0.5)
            value, low, high = interquartile_mean(values)
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(value, place, "D", color=colour, markeredgecolor="white")
        if (threshold := rows[0]["threshold"]) is not None:
            axes.axvline(threshold, color="grey", linestyle="--", label="reward threshold")
            axes.legend(loc="best", fontsize="small")
        axes.set(xlabel=f"final return, {way} actions", yticks=range(len(names)), yticklabels=names)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    figure.suptitle(f"{env_id}: each run, interquartile mean and 95 % interval", fontsize="medium")
    return png(figure)


def draw_threshold(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the reward threshold, where there is one."""
    if (threshold := rows[0]["threshold"]) is not None:
        axes.axhline(threshold, color="grey", linestyle="--", label="reward threshold")


def curve_of(row: dict[str, Any]) -> Path:
    """Return the file of a finished run's learning curve."""
    return Path(row["folder"], f"seed_{row['seed']}.csv")
