"""Ablation: the configurations of two environments with one part changed at a time, at 300,000 steps of theirs.

    python -m tests.benchmarks.ablation run                 # half an hour and more; type it again to go on
    python -m tests.benchmarks.ablation write               # docs/ablation.md and its raw CSV

Each line of the table is one ``python train.py compare`` with the options that stand in it.
"""

import argparse
import csv
import math
import subprocess
import sys
from collections.abc import Sequence

from pg_lightning.cli.tables import interval_of
from pg_lightning.statistics import Estimate, interquartile_mean, probability_of_improvement
from tests.benchmarks.common import ROOT, say, table
from tests.benchmarks.results import numbers, read_rows

RUNS, DOCS = ROOT / "runs" / "ablation", ROOT / "docs"
FIRST = 2000
STEPS = {"hopper": 300_000, "lunar_lander": 75_000}
"""Budgets in env steps: 300,000 steps of both environments, as LunarLander's actions are held for four."""
COLUMNS = ("environment", "change", "seed", "sampled_mean", "greedy_mean", "last_100_mean", "seconds")

CHANGES = {
    "none": "",
    "plain gradient, Adam": "--model.direction Gradient",
    "no critic: leave-one-out": "--model.baseline LeaveOneOut",
    "observations not normalised": (
        "--model.policy.encoder null --model.baseline Critic --model.baseline.encoder null"
    ),
    "λ = 1": "--model.returns.gae_lambda 1",
    "truncation the other way": "",
    "half the episodes per update": "--data.num_envs 4",
    "twice the episodes per update": "--data.num_envs 16",
    "actions not held": "",
}
"""What is changed, and its options. The plain gradient has its default Adam, the fitting learning rate of Gradient."""

OWN = {
    ("hopper", "truncation the other way"): "--model.returns GAE --model.returns.truncation terminal",
    ("lunar_lander", "truncation the other way"): "--model.returns.truncation bootstrap",
    ("hopper", "λ = 1"): "--model.returns GAE --model.returns.gae_lambda 1",
    ("lunar_lander", "no critic: leave-one-out"): "--model.baseline LeaveOneOut --model.returns MonteCarlo",
    ("lunar_lander", "actions not held"): (
        "--env.wrappers null --model.gamma 0.999 --model.returns.gae_lambda 0.98 --stop.max_env_steps 300000"
    ),
}
"""Options that differ with the environment: LunarLander's configuration has a GAE that counts truncation as terminal;
Hopper's is the default, which goes on with the critic's value."""

CONCLUSIONS: dict[tuple[str, str], str] = {
    ("hopper", "plain gradient, Adam"): "lower in four of five pairs of runs, and lowest of all",
    ("hopper", "no critic: leave-one-out"): "no difference that five seeds can show",
    ("hopper", "observations not normalised"): "lower in two of three pairs, which five seeds cannot tell from chance",
    ("hopper", "λ = 1"): "no difference that five seeds can show",
    ("hopper", "truncation the other way"): "no difference that five seeds can show",
    ("hopper", "half the episodes per update"): "no difference that five seeds can show",
    ("hopper", "twice the episodes per update"): "no difference that five seeds can show",
    ("lunar_lander", "plain gradient, Adam"): "lower in most pairs of runs, and lowest of all",
    ("lunar_lander", "no critic: leave-one-out"): "lower in four of five pairs, which may still be chance",
    ("lunar_lander", "observations not normalised"): "lower in most pairs of runs",
    ("lunar_lander", "λ = 1"): "no difference that five seeds can show",
    ("lunar_lander", "truncation the other way"): "no difference that five seeds can show",
    ("lunar_lander", "half the episodes per update"): "lower in most pairs of runs",
    ("lunar_lander", "twice the episodes per update"): "higher in most pairs of runs",
    ("lunar_lander", "actions not held"): "lower in nearly all pairs of runs",
}
"""One sentence for each line, written after it was measured."""


def run(environments: Sequence[str], seeds: int, workers: int) -> None:
    """Run what is missing."""
    for environment in environments:
        for change, options in CHANGES.items():
            words = OWN.get((environment, change), options).split()
            if change != "none" and not words:
                continue
            say(f"{environment}, {change}:")
            command = [sys.executable, str(ROOT / "train.py"), "compare", str(ROOT / "configs" / f"{environment}.yaml")]
            command += ["--seeds", f"{FIRST}:{FIRST + seeds}", "--workers", str(workers)]
            command += ["--out", str(RUNS / environment / change)]
            command += ["--stop.max_env_steps", str(STEPS[environment]), *words]
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def gather() -> None:
    """Copy the rows of all finished comparisons into one file of the docs; those of other environments stay."""
    rows = [row for row in read_rows(DOCS / "ablation.csv") if not (RUNS / row["environment"]).is_dir()]
    for environment in STEPS:
        for change in CHANGES:
            path = RUNS / environment / change / "comparison.csv"
            for row in read_rows(path):
                rows.append({"environment": environment, "change": change} | {name: row[name] for name in COLUMNS[2:]})
    with (DOCS / "ablation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def lines(environment: str, rows: Sequence[dict[str, str]]) -> list[list[str]]:
    """Return the lines of an environment's table."""
    base, found = numbers([row for row in rows if row["change"] == "none"], "sampled_mean"), list[list[str]]()
    for change, options in CHANGES.items():
        here = [row for row in rows if row["change"] == change]
        if not here:
            continue
        sampled, greedy = numbers(here, "sampled_mean"), numbers(here, "greedy_mean")
        cells = [change, f"`{words}`" if (words := OWN.get((environment, change), options)) else "", str(len(here))]
        cells += [interval_of(interquartile_mean(sampled)), interval_of(interquartile_mean(greedy))]
        cells += ["" if change == "none" else percent(probability_of_improvement(sampled, base))]
        found.append([*cells, CONCLUSIONS.get((environment, change), "")])
    return found


def percent(share: Estimate) -> str:
    """Write a share with its interval, where it has one."""
    interval = "" if math.isnan(share.low) else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return f"{100 * share.value:.0f} %{interval}"


TEXT = """\
# Ablation

What each part of the recipe is worth at 300,000 steps of the environment: the configuration with one change at a time.
Interquartile mean over seeds of the final policy's return, with 95 % bootstrap intervals; "better" is the probability
that a run with the change ends higher (sampled) than one without. The seeds begin at {first}; so few are rough. Raw
rows: `docs/ablation.csv`.

Both come out lowest without the natural gradient, Hopper by no more than five seeds can tell. On LunarLander held
actions, normalised observations and more episodes per update matter, too. No change is better in both by more than
chance, so the defaults of the classes stay as they are.

```sh
python -m tests.benchmarks.ablation run
python -m tests.benchmarks.ablation write
```
"""


def write() -> None:
    """Write the docs from the rows that there are."""
    if RUNS.is_dir():
        gather()
    text, rows = TEXT.format(first=FIRST), read_rows(DOCS / "ablation.csv")
    header = ["change", "options", "seeds", "sampled", "greedy", "better", "so"]
    for environment in STEPS:
        if here := lines(environment, [row for row in rows if row["environment"] == environment]):
            text += f"\n## `configs/{environment}.yaml`\n\n{table(header, here)}\n"
    (DOCS / "ablation.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("--only", nargs="+", default=list(STEPS), choices=list(STEPS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.what == "run":
        run(options.only, options.seeds, options.workers)
    else:
        write()


if __name__ == "__main__":
    main()
