"""Trains a configuration with many seeds, and says how many solved it and what that took.

    python -m tests.benchmarks.seeds configs/cartpole.yaml --seeds 20
    python -m tests.benchmarks.seeds configs/article.yaml --seeds 20 --against naive.jsonl --trainer.max_steps 1500
    python -m tests.naive --seeds 20 --episodes 1500 > naive.jsonl

All seeds run in this process, one after the other, or each in a fresh one (``--fresh``): the same weights, the seconds
of training then with what a process does for the first time. Every further option is handed to ``train.py fit``.
``--against`` compares the number of episodes with the naive loop's.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, mannwhitneyu
from tqdm import tqdm

from tests.benchmarks.common import ENVIRONMENT, ROOT, table

HEADER = ["configuration", "solved", "updates", "episodes", "seconds of training", "slowest", "share solved, 95 %"]


def train(config: Path, seed: int, fresh: bool, options: Sequence[str]) -> dict[str, Any]:
    """Run one fit in a folder of its own, as a user would; return its ``summary.json``."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["fit", "--config", str(config.resolve()), "--seed_everything", str(seed), *options]
        arguments += ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", folder]
        if fresh:
            command = [sys.executable, str(ROOT / "train.py"), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        else:
            from pg_lightning.cli import main

            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                main(arguments)
        return json.loads(next(Path(folder).glob("**/version_0/summary.json")).read_text())


def quartiles(values: Sequence[float], digits: int = 0) -> str:
    """Median, and the quartiles in brackets."""
    first, median, third = (f"{value:,.{digits}f}" for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{median} ({first} to {third})"


def row_of(name: str, runs: Sequence[dict[str, Any]]) -> list[str]:
    """Turn the runs into a row of the table; the last column is the Wilson interval."""
    solved, times = sum(bool(run["solved"]) for run in runs), [run["seconds"] for run in runs]
    interval = binomtest(solved, len(runs)).proportion_ci(method="wilson")
    counts = [quartiles([run[key] for run in runs]) if key in runs[0] else "" for key in ("updates", "episodes")]
    share = f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"
    return [name, f"{solved} of {len(runs)}", *counts, quartiles(times, 2), f"{max(times):.2f}", share]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, default=20, help="0 to this number less 1")
    parser.add_argument("--fresh", action="store_true", help="a fresh process for each seed")
    parser.add_argument("--out", type=Path, help="JSON lines of all runs, written as they end")
    parser.add_argument("--against", type=Path, help="JSON lines of the naive loop")
    arguments, options = parser.parse_known_args()
    runs = []
    for seed in tqdm(range(arguments.seeds), desc="Seeds"):
        runs.append(train(arguments.config, seed, arguments.fresh, options))
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
    rows = [row_of(" ".join([f"`{arguments.config}`", *options]), runs)]
    naive: list[dict[str, Any]] = []
    if arguments.against:
        naive = [json.loads(line) for line in arguments.against.read_text().splitlines()]
        rows.append(row_of("the naive loop of the article's agent", naive))
    print(table(HEADER, rows))
    for name in ("env_steps", "timesteps", "env_steps_per_second", "timesteps_per_second"):
        print(f"{name}: {quartiles([run[name] for run in runs])}")
    unsolved = [run["seed"] for run in runs if not run["solved"]]
    print(f"not solved: seeds {', '.join(map(str, unsolved))}" if unsolved else "all solved")
    if naive:
        ours, theirs = ([run["episodes"] for run in group] for group in (runs, naive))
        print(f"same distribution of episodes: Mann-Whitney p = {mannwhitneyu(ours, theirs).pvalue:.3f}")


if __name__ == "__main__":
    main()
