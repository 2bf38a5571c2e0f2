"""Seconds until the article's rule says solved, on CartPole-v1: running reward 0.99/0.01 from 10 exceeds 475.

    python -m tests.benchmarks.solve --seeds 5 --limit 120 --out FOLDER

Seconds of training, without imports and construction; each run in a fresh process, with one thread. The same rule is
applied to peers as their episodes end, and to this package's default instead of its own, bias-corrected one. A run that
the limit ended counts as slower than all others. The article's agent and the naive loop count as the article does,
timesteps from 0, which is one less per episode.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import CASES
from tests.benchmarks.common import median, record, say, table
from tests.benchmarks.throughput import measure_case, runs_well

DEFAULT = ["default", "article", "torch-64", "naive", "sb3-a2c", "sb3-ppo", "tianshou", "torchrl"]

HEADER = [
    "CartPole-v1",
    "solved",
    "seconds",
    "slowest",
    "env steps taken",
    "timesteps learnt from",
    "episodes",
    "peak MiB",
]


def row_of(name: str, runs: list[dict[str, Any]], limit: float) -> list[Any]:
    """Turn a case's runs into its row of the table."""
    if not runs_well(runs):
        return [CASES[name].label, runs[-1]["error"], *[""] * (len(HEADER) - 2)]
    times = [run["seconds"] if run["solved"] else math.inf for run in runs]

    def seconds(value: float) -> str:
        return f"{value:.2f}" if value < math.inf else f"> {limit:g}"

    solved = [run for run in runs if run["solved"]]
    counts = [f"{median(solved, key):,.0f}" if solved else "" for key in ("env_steps", "timesteps", "episodes")]
    return [
        CASES[name].label,
        f"{len(solved)}/{len(runs)}",
        seconds(statistics.median(times)),
        seconds(max(times)),
        *counts,
        f"{median(runs, 'peak_mib'):.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=120, help="seconds of training after which a run is given up")
    parser.add_argument("--only", nargs="+", default=DEFAULT, choices=list(CASES), metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder for solve.jsonl")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name, runs in results.items():
            runs.append(run := measure_case(name, seed, options.limit, until_solved=True))
            record(options.out, "solve.jsonl", {"case": name, "seed": seed, "limit": options.limit} | run)
            outcome = run.get("error") or f"{'solved' if run['solved'] else 'not solved'} in {run['seconds']:.2f} s"
            say(f"seed {seed}  {name}: {outcome}")
    print(table(HEADER, [row_of(name, runs, options.limit) for name, runs in results.items()]))


if __name__ == "__main__":
    main()
