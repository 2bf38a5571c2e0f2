"""Trains a configuration with many seeds, and says how many solved it and what that took.

python -m tests.benchmarks.seeds configs/cartpole.yaml --seeds 20
python -m tests.benchmarks.seeds configs/article.yaml --seeds 20 --against naive.jsonl --trainer.max_steps 1500
python -m tests.naive --seeds 20 --episodes 1500 > naive.jsonl

Every further option is handed to ``train.py fit``. ``--against`` compares the number of episodes with the naive loop's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, mannwhitneyu
from tqdm import tqdm

ROOT = Path(__file__).parents[2]


def train(config: Path, seed: int, options: list[str]) -> dict:
    """Run one fit in a folder of its own, as a user would; return its ``summary.json``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "train.py", "fit", "--config", config.resolve(), "--seed_everything", seed]
        quiet = ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", folder]
        subprocess.run([str(word) for word in [*command, *quiet, *options]], check=True, stdout=subprocess.DEVNULL)
        return json.loads(next(Path(folder).glob("*/version_0/summary.json")).read_text())


def describe(name: str, values: list[float]) -> str:
    """Median, quartiles and extremes of a quantity over the seeds."""
    low, first, median, third, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    return f"{name}: median {median:,.4g}, quartiles {first:,.4g} to {third:,.4g}, range {low:,.4g} to {high:,.4g}"


def report(runs: list[dict], against: list[dict] | None) -> None:
    """Print what the runs took, and whether the naive loop took as many episodes."""
    solved = sum(run["solved"] for run in runs)
    interval = binomtest(solved, len(runs)).proportion_ci(method="wilson")
    print(f"solved: {solved} of {len(runs)} seeds (95 % interval {interval.low:.0%} to {interval.high:.0%})")
    for name in ("episodes", "updates", "env_steps", "train_seconds", "env_steps_per_second"):
        print(describe(name, [run[name] for run in runs]))
    if against is not None:
        ours, naive = ([run["episodes"] for run in group] for group in (runs, against))
        print(describe(f"episodes of the naive loop ({len(naive)} seeds)", naive))
        print(f"same distribution of episodes: Mann-Whitney p = {mannwhitneyu(ours, naive).pvalue:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON lines of all runs")
    parser.add_argument("--against", type=Path, help="JSON lines of the naive loop")
    arguments, options = parser.parse_known_args()
    runs = [train(arguments.config, seed, options) for seed in tqdm(range(arguments.seeds), desc="Seeds")]
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(run) + "\n" for run in runs))
    naive = [json.loads(line) for line in arguments.against.read_text().splitlines()] if arguments.against else None
    report(runs, naive)
