"""Speed of learning on CartPole-v1, beside peers and the environment alone.

    python -m tests.benchmarks.throughput --rounds 3 --out FOLDER
    python -m tests.benchmarks.throughput --rounds 9 --against FOLDER    # a checkout of an older commit

Every case trains for the same number of seconds from its start, in a fresh process, with one thread. Rounds are
interleaved, so that what else the machine does touches all alike; round r uses seed r; the table shows medians.

Two numbers a row: env steps *taken* per second, and timesteps *learnt from* per second. "x naive" compares timesteps
learnt from, "% of limit" env steps taken. Speed depends on how long episodes are, and so on what was learnt by then:
that is the column beside it. A policy that collapsed makes a case look slow. Peers come with
``pip install 'pg_lightning[bench]'``.
"""

import argparse
from pathlib import Path
from typing import Any

from tests.benchmarks import against
from tests.benchmarks.cases import CASES, NUM_ENVS, Case
from tests.benchmarks.common import is_installed, machine, mean_length, measure, median, record, say, table

HEADER = [
    *["CartPole-v1", "env steps taken/s", "timesteps learnt from/s", "x naive", "% of limit"],
    *["timesteps per episode", "peak MiB"],
]


def measure_case(name: str, seed: int, seconds: float, until_solved: bool) -> dict[str, Any]:
    """Run a case in a fresh process, unless it needs a package that is not there."""
    needs = CASES[name].needs
    if needs is not None and not is_installed(needs[0]):
        return {"error": f"not installed (pip install {needs[1]})"}
    return measure("cases", name, seed, seconds, until_solved)


def rows_of(results: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """Turn each case's results into its row of the table."""
    rows = []
    well = {name: runs for name, runs in results.items() if runs_well(runs)}
    taken, learnt = (
        {name: median(runs, f"{key}_per_second") for name, runs in well.items()} for key in ("env_steps", "timesteps")
    )
    for name, runs in results.items():
        case = CASES[name]
        if name not in well:
            rows.append([case.label, runs[-1]["error"], *[""] * (len(HEADER) - 2)])
            continue
        limit = f"raw-{case.num_envs}"
        rows.append(
            [
                case.label,
                f"{taken[name]:,.0f}",
                f"{learnt[name]:,.0f}" if learnt[name] else "",
                f"{learnt[name] / learnt['naive']:.1f}" if learnt[name] and "naive" in learnt else "",
                f"{100 * taken[name] / taken[limit]:.0f}" if limit in taken else "",
                f"{median([{'length': mean_length(run)} for run in runs], 'length'):.0f}",
                f"{median(runs, 'peak_mib'):.0f}",
            ]
        )
    return rows


def runs_well(runs: list[dict[str, Any]]) -> bool:
    """Tell whether every run of a case answered."""
    return not any("error" in run for run in runs)


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw env steps taken per second against the number of environments, beside the limit."""
    from matplotlib.figure import Figure

    def points(cases: dict[str, Case]) -> tuple[list[int], list[float]]:
        there = {name: case for name, case in cases.items() if name in results and runs_well(results[name])}
        pairs = sorted((case.num_envs, median(results[name], "env_steps_per_second")) for name, case in there.items())
        return [envs for envs, _ in pairs], [speed for _, speed in pairs]

    curves = {
        "random actions, no learning": {name: case for name, case in CASES.items() if name.startswith("raw-")},
        "pg_lightning": {name: case for name, case in CASES.items() if name == "default" or name.startswith("envs-")},
        "pg_lightning, a torch module as policy": {name: CASES[name] for name in ("torch-1", "torch-64")},
    }
    peers = ("naive", "sb3-a2c", "sb3-ppo", "tianshou", "torchrl")
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for label, cases in curves.items():
        axes.plot(*points(cases), "o-", label=label)
    for name in peers:
        axes.plot(*points({name: CASES[name]}), "x", label=CASES[name].label)
    axes.set(xscale="log", yscale="log", xlabel="environments", ylabel="env steps taken per second, with learning")
    axes.set_title(f"CartPole-v1, one thread ({machine()})")
    axes.set_xticks(NUM_ENVS, labels=[str(n) for n in NUM_ENVS])
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of training in each run")
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--out", type=Path, help="folder for throughput.jsonl and throughput.png, or against.jsonl")
    parser.add_argument("--against", type=Path, help="checkout of an older commit to compare with, case by case")
    parser.add_argument("--full_length", action="store_true", help="with --against: all episodes have 500 timesteps")
    options = parser.parse_args()
    if options.against is not None:
        cases = options.only or list(against.CASES)
        if unknown := set(cases) - set(against.CASES):
            parser.error(f"--against takes the cases {', '.join(against.CASES)}, not {', '.join(sorted(unknown))}")
        if not (options.against / "train.py").is_file():
            parser.error(f"--against needs a checkout, but there is no {options.against / 'train.py'}")
        against.compare(options.against, cases, options.rounds, options.seconds, options.full_length, options.out)
        return
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only or CASES}
    for seed in range(options.rounds):
        for name, runs in results.items():
            runs.append(run := measure_case(name, seed, options.seconds, until_solved=False))
            record(options.out, "throughput.jsonl", {"case": name, "round": seed} | run)
            speed = run.get("error") or f"{run['env_steps_per_second']:,.0f} env steps/s"
            say(f"round {seed + 1}/{options.rounds}  {name}: {speed}")
    print(table(HEADER, rows_of(results)))
    if options.out is not None:
        plot(results, options.out / "throughput.png")


if __name__ == "__main__":
    main()
