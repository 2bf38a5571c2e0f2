"""The table of results: every environment's configuration, on seeds from 1000 on, beside what is published.

    python -m tests.benchmarks.results run                    # hours; type it again to go on
    python -m tests.benchmarks.results run --only hopper ant --seeds 3
    python -m tests.benchmarks.results write                  # docs/results.md, its figures and raw CSV

Each environment is one ``python train.py compare configs/NAME.yaml --seeds 1000:1010 --out runs/results/NAME``. Seeds
whose rows are in the docs already are not run again, if the configuration with all its defaults is still the same.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pg_lightning.cli.compare import hash_of
from pg_lightning.cli.tables import interval_of
from pg_lightning.plotting.common import COLOURS, png, read_columns
from pg_lightning.plotting.comparison import draw_band, draw_threshold
from pg_lightning.statistics import interquartile_mean, share
from tests.benchmarks.common import ROOT, machine, say, table

RUNS, DOCS = ROOT / "runs" / "results", ROOT / "docs" / "results"
POINTS = 40
"""Points of a learning curve that is kept in the docs."""

CLASSIC = [
    "cartpole",
    "cartpole_defaults",
    "acrobot",
    "mountain_car_continuous",
    "pendulum",
    "lunar_lander",
    "lunar_lander_continuous",
]
CLASSIC += ["bipedal_walker", "frozen_lake", "taxi", "mountain_car"]
MUJOCO = ["reacher", "swimmer", "inverted_pendulum", "inverted_double_pendulum"]
MUJOCO += ["hopper", "half_cheetah", "walker2d", "ant"]
FIRST = dict.fromkeys(["cartpole_defaults", "inverted_double_pendulum", "walker2d", "ant"], 1010)
FIRST |= {
    "lunar_lander_continuous": 1020,
    "lunar_lander": 1060,
    "taxi": 1020,
    "frozen_lake": 1020,
    "inverted_pendulum": 1020,
}
"""First seed, where it is not 1000: these configurations were changed after runs of the seeds before."""
SEEDS = dict.fromkeys(CLASSIC, 10) | dict.fromkeys(MUJOCO, 5) | {"inverted_pendulum": 10}

HELD = {"lunar_lander": 4}
"""Timesteps for which each action is held (``RepeatAction``): steps of the environment for a decision, or env step."""

CHANGED = {
    "reacher": "v5 rewards the distance after the step, not before it",
    "inverted_pendulum": "v5 gives no reward in the step of the fall, v2 to v4 do",
    "inverted_double_pendulum": "v5 gives no reward for standing in the step of the fall, v2 to v4 do",
    "hopper": "v5 gives the reward of being healthy only while it is",
    "walker2d": "v5 gives the reward of being healthy only while it is; both feet have the same friction",
    "ant": "v5 observes contact forces and takes off their cost, and rewards being healthy only while it is",
    "lunar_lander": "v3 resets the wind and the world with each episode, v2 does not",
    "lunar_lander_continuous": "v3 resets the wind and the world with each episode, v2 does not",
}
"""What the version that is used here changed for the return."""


MISSED = """\
- `lunar_lander_continuous`: one run of ten lands and does not come to rest.
- `walker2d`: the sampled return is below Tianshou's NPG and CleanRL's PPO, the greedy one above: the noise that is left
  at the end costs a third.
- `bipedal_walker`: no run passes 300; it walks, and some greedy policies fall early. Nothing was tuned.
- `hopper`: two of three further seeds (0 to 2, in [Benchmarks](benchmarks.md)) learnt to stand still, which pays 1,000.
- `ant`: sampled below the published figures of PPO and NPG, greedy above PPO's: actions cost 4 a step at a standard
  deviation of 1, staying alive pays 1, and the noise that is left at the end costs half.
- `frozen_lake`: solved greedily by all ten; sampled it is below the threshold on most, because of its entropy bonus.
"""
"""What is not reached, and why."""


def run(names: Sequence[str], seeds: int | None, workers: int) -> None:
    """Run the comparisons, one environment after the other."""
    for name in names:
        first = FIRST.get(name, 1000)
        last = first + (seeds or SEEDS[name])
        config = ROOT / "configs" / f"{name}.yaml"
        with redirect_stderr(StringIO()):
            config_hash = hash_of(["--config", str(config)])
        rows = read_rows(DOCS / f"{name}.csv")
        done = [int(row["seed"]) for row in rows if row["config_hash"] == config_hash]
        first = next((seed for seed in range(first, last) if seed not in done), last)
        say(f"{name}: seeds {first} to {last - 1}" if first < last else f"{name}: done")
        if first == last:
            continue
        command = [sys.executable, str(ROOT / "train.py"), "compare", str(config)]
        command += ["--seeds", f"{first}:{last}", "--workers", str(workers)]
        subprocess.run([*command, "--out", str(RUNS / name)], cwd=ROOT, stdout=subprocess.DEVNULL)


def gather(name: str, folder: Path) -> None:
    """Add the finished rows and thinned curves of an environment to the docs; those of another configuration go."""
    rows = {row["seed"]: row for row in read_rows(folder / "comparison.csv")}
    hashes, curves = {row["config_hash"] for row in rows.values()}, dict[str, list[str]]()
    if committed := read_rows(DOCS / f"{name}.csv"):
        kept = {row["seed"]: row for row in committed if row["config_hash"] in hashes}
        for line in (DOCS / f"{name}_curves.csv").read_text().splitlines()[1:]:
            curves.setdefault(line.partition(",")[0], []).append(line)
        rows = kept | rows
    for seed in rows:
        if (path := folder / name / f"seed_{seed}.csv").is_file():
            curves[seed] = thinned(seed, read_columns(path))
    order = sorted(rows, key=int)
    with (DOCS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[order[0]]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[seed] for seed in order)
    lines = ["seed,env_steps,seconds,return_mean", *(line for seed in order for line in curves[seed])]
    (DOCS / f"{name}_curves.csv").write_text("\n".join(lines) + "\n")


def thinned(seed: str, curve: dict[str, np.ndarray]) -> list[str]:
    """Return some points of a learning curve as lines of a CSV file."""
    kept = np.unique(np.linspace(0, len(curve["env_steps"]) - 1, POINTS).round().astype(int))
    points = zip(*(curve[column][kept] for column in ("env_steps", "seconds", "return_mean")), strict=True)
    return [f"{seed},{steps:.0f},{seconds:.4g},{mean:.5g}" for steps, seconds, mean in points]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file of finished runs: none, where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows: Sequence[dict[str, str]], column: str) -> list[float]:
    """Return a column of finished runs, without those that lack it."""
    return [float(row[column]) for row in rows if row.get(column)]


def final_row(name: str, rows: Sequence[dict[str, str]]) -> list[str]:
    """Turn an environment's runs into its row of the table of final policies."""
    steps = median_steps(name, numbers(rows, "env_steps"))
    cells = [f"`{name}`: {rows[0]['env_id']}", steps, str(len(rows))]
    for way in ("sampled_mean", "greedy_mean"):
        values = numbers(rows, way)
        cells += [f"{interval_of(interquartile_mean(values))}; {statistics.fmean(values):,.1f}"]
    if rows[0]["threshold"]:
        solved = sum(row["solved"] == "True" for row in rows)
        interval = share(solved, len(rows))
        cells += [f"{solved} of {len(rows)} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"]
    else:
        cells += ["no threshold"]
    published = [
        f"{row['figure']} ({row['kind']})" for row in read_rows(DOCS / "published.csv") if row["config"] == name
    ]
    return [*cells, "; ".join(published) or "none"]


def training_row(name: str, rows: Sequence[dict[str, str]]) -> list[str]:
    """Turn an environment's runs into its row of the table of training."""
    cells = [f"`{name}`"]
    for column in ("last_100_mean", "best_100_mean", "area_under_curve"):
        cells.append(interval_of(interquartile_mean(numbers(rows, column))))
    cells += [f"{statistics.median(numbers(rows, column)):,.0f}" for column in ("episodes", "updates", "seconds")]
    return [*cells, median_steps(name, numbers(rows, "solved_env_steps"))]


def median_steps(name: str, steps: Sequence[float]) -> str:
    """Write the median of some numbers of env steps, and what one is where an action is held for several."""
    held = f" of {HELD[name]} each" if name in HELD else ""
    return f"{statistics.median(steps):,.0f}{held}" if steps else ""


def draw(column: str, label: str, names: Sequence[str]) -> bytes:
    """Draw the learning curves of all environments, one panel each."""
    figure = Figure(figsize=(13, 2.7 * -(-len(names) // 4)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(-(-len(names) // 4), 4, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        rows: list[dict[str, Any]] = [dict(row) for row in read_rows(DOCS / f"{name}.csv")]
        points = read_columns(DOCS / f"{name}_curves.csv")
        points["env_steps"] = points["env_steps"] * HELD.get(name, 1)
        curves = [{key: values[points["seed"] == float(row["seed"])] for key, values in points.items()} for row in rows]
        draw_band(axes, curves, column, f"{len(curves)} seeds", COLOURS[0])
        rows[0]["threshold"] = float(rows[0]["threshold"]) if rows[0]["threshold"] else None
        draw_threshold(axes, rows)
        axes.set_title(f"{name} ({len(curves)} seeds)", fontsize="medium")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel(label)
    figure.supylabel("mean return of the last 100 training episodes")
    figure.suptitle("Mean over seeds, 95 % interval shaded; dashed: the environment's reward threshold")
    return png(figure)


TEXT = """\
# Results

One configuration per environment (`configs/`), the default recipe but for what its file names, seeds from {first} on,
which were never tuned on, and none left out. The rows were made by

```sh
pip install -c constraints.txt -e '.[compare,envpool]' 'gymnasium[box2d,mujoco]'
python -m tests.benchmarks.results run
python -m tests.benchmarks.results write
```

which is one `python train.py compare configs/NAME.yaml --seeds 1000:1010` for each environment. The seeds begin later
where a configuration was changed after a look at runs of the seeds before: {again}.
Raw rows and curves are in `docs/results/`, two CSV files for each environment. Fewer than 10 seeds are few: such
intervals are rough.

Some rows are of earlier commits, and a change of rounding since then makes another run of the same seed: CartPole's
come out again to the digit, MountainCarContinuous' do not (94.1 in place of 93.7 for seed 1000).

## The final policy at the budget

100 fresh episodes of the last policy of each run, with sampled and with greedy actions: the interquartile mean over the
seeds (the mean of their middle half), its 95 % bootstrap interval, and after the semicolon the plain mean. Env steps
are those *taken*, also by environments whose episodes are not learnt from; "of 4 each": decisions, each of which is
held for 4 steps of the environment, so 250,000 of them are up to 1,000,000 steps. "Over the threshold" counts runs
whose running reward passed the environment's own threshold and that 100 fresh greedy episodes confirmed, at any time of
the run, with the 95 % Wilson interval.

The published figures are of the kind that is named: a final greedy policy compares with ours, a training
return with the next table, a maximum over training with neither (it is never below the final figure). They are at the
same budget where no other is named; ± as published.

{final}

{missing}What each part of the recipe is worth is in the [ablation](ablation.md), and what was tried in the
[trials](trials.md). What falls short, and why:

{missed}

{changed}

## Training

Mean return of the last 100 training episodes at the end, the highest such mean in training, and the area under that
curve over the budget (interquartile means over seeds with 95 % intervals); medians of the rest. Seconds are those of
training, {where}, with other work on the machine: a rough figure. "Solved at" is the median of the runs that solved it.

{training}

![Learning curves by env steps](results/curves_env_steps.png)

![Learning curves by seconds of training](results/curves_seconds.png)
"""


def write() -> None:
    """Write the docs from the rows that there are."""
    DOCS.mkdir(exist_ok=True)
    for name in SEEDS:
        if (RUNS / name / "comparison.csv").is_file():
            gather(name, RUNS / name)
    names = [name for name in SEEDS if (DOCS / f"{name}.csv").is_file()]
    runs = {name: read_rows(DOCS / f"{name}.csv") for name in names}
    header = ["environment", "env steps", "seeds", "sampled", "greedy", "over the threshold", "published"]
    final = table(header, [final_row(name, rows) for name, rows in runs.items()])
    header = ["environment", "last 100 episodes", "best 100 episodes", "area under the curve"]
    header += ["episodes", "updates", "seconds", "solved at, env steps"]
    training = table(header, [training_row(name, rows) for name, rows in runs.items()])
    changes = dict.fromkeys(f"- {runs[name][0]['env_id']}: {text}." for name, text in CHANGED.items() if name in runs)
    changed = "The published figures are of older versions of these environments:\n\n" + "\n".join(changes)
    open_ = [f"`{name}.yaml`" for name in SEEDS if name not in names]
    missing = f"Not measured yet: {', '.join(open_)}.\n\n" if open_ else ""
    again = ", ".join(f"`{name}` at {seed}" for name, seed in FIRST.items())
    text = TEXT.format(
        missed=MISSED.strip(),
        again=again,
        missing=missing,
        first=1000,
        final=final,
        changed=changed,
        training=training,
        where=machine(),
    )
    (ROOT / "docs" / "results.md").write_text(text)
    for column, label in (("env_steps", "steps of the environment"), ("seconds", "seconds of training")):
        (DOCS / f"curves_{column}.png").write_bytes(draw(column, label, names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("--only", nargs="+", default=list(SEEDS), choices=list(SEEDS), metavar="NAME")
    parser.add_argument("--seeds", type=int, help="instead of 10, and 5 for MuJoCo")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.what == "run":
        run(options.only, options.seeds, options.workers)
    else:
        write()


if __name__ == "__main__":
    main()
