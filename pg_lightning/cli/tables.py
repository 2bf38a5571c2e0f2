"""Tables of a comparison, in Markdown."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pg_lightning.statistics import Estimate, interquartile_mean, probability_of_improvement, share

FEW_SEEDS = 10
"""Below so many seeds the table says that they are few."""


def grouped(rows: Sequence[dict[str, Any]], key: str) -> dict[Any, list[dict[str, Any]]]:
    """Group rows by a column, in the order of their first ones."""
    groups = dict[Any, list[dict[str, Any]]]()
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of all configurations, and what the pairs of the same environment say of each other."""
    parts = []
    for env_id, here in grouped(rows, "env_id").items():
        variants = grouped(here, "name")
        lines = [f"### {env_id}", "", *summary_table(variants)]
        if len(variants) > 1:
            lines += [
                "",
                "Probability that a run of the row has a higher final return (sampled) than one of the column:",
            ]
            lines += ["", *pairs_table(variants)]
        if (least := min(map(len, variants.values()))) < FEW_SEEDS:
            lines += ["", f"{least} seeds are few: the intervals are rough."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def summary_table(variants: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return one line a configuration: how many runs solved it and what that took, and the final returns."""
    header = ["configuration", "seeds", "env steps", "solved", "share solved"]
    header += [f"{what} to solve" for what in ("episodes", "env steps", "seconds")]
    header += ["final return, sampled", "mean", "final return, greedy", "mean"]
    table = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for name, runs in variants.items():
        solved = [run for run in runs if run["solved"]]
        cells = [name, str(len(runs)), f"{np.median([run['env_steps'] for run in runs]):,.0f}"]
        if runs[0]["threshold"] is None:
            cells += ["no threshold"] + [""] * 4
        else:
            interval = share(len(solved), len(runs))
            cells += [f"{len(solved)} of {len(runs)}", f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"]
            for figure, digits in (("episodes", 0), ("env_steps", 0), ("seconds", 1)):
                cells.append(quartiles([run[f"solved_{figure}"] for run in solved], digits))
        for way in ("sampled", "greedy"):
            values = [run[f"{way}_mean"] for run in runs if f"{way}_mean" in run]
            cells += [interval_of(interquartile_mean(values)), f"{np.mean(values):,.1f}"] if values else ["", ""]
        table.append(cells)
    caption = [
        "",
        "Env steps: median of those taken. To solve: median of the runs that solved it, quartiles in brackets. Final "
        "return: interquartile mean over the seeds of each final policy's mean return, 95 % bootstrap interval in "
        "brackets, and the plain mean beside it. Too few runs have no interval.",
    ]
    return ["| " + " | ".join(cells) + " |" for cells in table] + caption


def pairs_table(variants: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the probability of improvement of each configuration over each other one."""
    returns = {name: [run["sampled_mean"] for run in runs] for name, runs in variants.items()}
    table = [["", *returns], ["---"] + ["---:"] * len(returns)]
    for name, ours in returns.items():
        others = [
            "" if other == name else interval_of(probability_of_improvement(ours, theirs), 2)
            for other, theirs in returns.items()
        ]
        table.append([name, *others])
    return ["| " + " | ".join(cells) + " |" for cells in table]


def quartiles(values: Sequence[float], digits: int) -> str:
    """Median, and the quartiles in brackets; nothing without values.

    >>> quartiles([1, 2, 3, 4, 5], 0)
    '3 (2 to 4)'
    """
    if not values:
        return ""
    low, median, high = (f"{value:,.{digits}f}" for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{median} ({low} to {high})"


def interval_of(estimate: Estimate, digits: int = 1) -> str:
    """Format a number and its interval, where it has one.

    >>> interval_of(Estimate(499.1, 498.2, 499.8))
    '499.1 [498.2, 499.8]'
    """
    value, low, high = (f"{number:,.{digits}f}" for number in estimate)
    return value if math.isnan(estimate.low) else f"{value} [{low}, {high}]"
