"""``compare``: configurations and variations of them, with many seeds each, in one table and a few figures."""

import argparse
import contextlib
import csv
import io
import itertools
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from pg_lightning.callbacks.files import write_whole
from pg_lightning.cli.configs import by_name
from pg_lightning.cli.engines import ENGINES, say_how_to_go_on
from pg_lightning.cli.help import command_parser, program
from pg_lightning.cli.jobs import Job, hash_of
from pg_lightning.cli.parser import NEGATIVE
from pg_lightning.cli.runs import folder_name
from pg_lightning.cli.tables import markdown
from pg_lightning.plotting.comparison import plot_comparison

DESCRIPTION = """\
Train configurations with many seeds each, and compare them: a table (comparison.md, comparison.csv) and figures.

  {program} compare article --vary model.policy.init_args.dropout=0,0.6 --seeds 20
  {program} compare cartpole --vary model.baseline=NoBaseline,LeaveOneOut --seeds 1000:1010
  {program} compare a.yaml b.yaml --seeds 10 --stop.max_env_steps 100000

What is finished is not run again, and what was killed goes on from its last checkpoint: type the same command again.
CONFIG is a configuration file of fit; none means the defaults. Every further option is handed to fit.
"""


WRITE_EVERY = 30.0
"""Seconds between two tables while the runs go on: their intervals are bootstrapped, which takes a while."""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the options of ``compare`` itself."""
    made = command_parser("compare [CONFIG ...] [options] [options of fit]", DESCRIPTION)
    text = "an option of fit and its values: scalars joined by commas, or a YAML list; every combination is run"
    made.add_argument("--vary", action="append", default=[], metavar="OPTION=VALUES", help=text)
    made.add_argument(
        "--seeds", default="10", help="their number, from 0 on, or a range such as 1000:1010 (default 10)"
    )
    made.add_argument("--out", type=Path, help="folder of the results (default comparisons/<name of the first config>)")
    made.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    made.add_argument("--on", choices=ENGINES, default="here", help="this machine, or the Ray cluster at RAY_ADDRESS")
    text = "episodes of each run's final evaluation, sampled and greedy (default 100)"
    made.add_argument("--eval_episodes", type=int, default=100, help=text)
    return made


def main(arguments: list[str]) -> int:
    """Run a comparison; return the exit code: 1 where a run failed."""
    configs, options, fit = parse(arguments)
    seeds, variants = seeds_of(options.seeds), variants_of(configs, options.vary, fit)
    if options.eval_episodes < 1 or options.workers < 1:
        raise ValueError("--eval_episodes and --workers must be at least 1")
    out = options.out or Path("comparisons", folder_name(Path((configs or ["defaults"])[0]).stem))
    jobs = [
        Job(name, tuple(words), seed, str(out / folder_name(name)), config_hash, options.eval_episodes)
        for name, words in variants.items()
        for config_hash in [hash_of(words)]
        for seed in seeds
    ]
    rows = {job: row for job in jobs if (row := job.finished_row()) is not None}
    failed = list[dict[str, Any]]()
    waiting = sorted((job for job in jobs if job not in rows), key=lambda job: job.seed)  # All variants grow alike.
    named = {(job.name, job.seed): job for job in waiting}
    written_at = time.monotonic()
    if others := ", ".join(sorted(written_names(out) - variants.keys())):
        print(
            f"{out} held a comparison of {others}: its table will be replaced; --out FOLDER keeps both", file=sys.stderr
        )
    # On a terminal alone: in a log file a bar is a mess.
    with (
        say_how_to_go_on(),
        tqdm(total=len(jobs), initial=len(rows), desc="Runs", unit="run", mininterval=0, disable=None) as bar,
    ):
        if rows and bar.disable:
            print(f"{len(rows)} of {len(jobs)} runs are finished already")
        for row in ENGINES[options.on](waiting, min(options.workers, max(1, len(waiting)))):
            if "error" in row:
                failed.append(row)
            else:
                rows[named[row["name"], row["seed"]]] = row
            if rows and time.monotonic() > written_at + WRITE_EVERY:
                write_results(out, jobs, rows, arguments)
                written_at = time.monotonic()
            if bar.disable:
                print(f"{len(rows) + len(failed)} of {len(jobs)} runs: {row['name']}, seed {row['seed']}", flush=True)
            bar.set_postfix_str(f"{row['name']}, seed {row['seed']}")
            bar.update()
    for row in failed:
        print(f"{row['name']}, seed {row['seed']}: {row['error']}", file=sys.stderr)
    if rows:
        print(write_results(out, jobs, rows, arguments, figures=True))
        print(f"Results: {out}")
    return int(bool(failed))


def parse(arguments: list[str]) -> tuple[list[str], argparse.Namespace, list[str]]:
    """Part the configurations, the options of ``compare``, and those of ``fit``.

    Raises:
        ValueError: a wrong option of ``compare``.
    """
    configs = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    named = [by_name(["--config", config])[1] for config in configs]
    try:
        options, fit = parser().parse_known_args(arguments[len(named) :])
    except argparse.ArgumentError as error:
        raise ValueError(f"compare: {error}") from None
    refuse_seed("compare", fit)
    return named, options, fit


def refuse_seed(command: str, fit: Sequence[str]) -> None:
    """Refuse a seed among the options of ``fit``: ``--seeds`` names them.

    Raises:
        ValueError: there is one.
    """
    for option in ("--seed", "--seed_everything"):
        if any(word == option or word.startswith(f"{option}=") for word in fit):
            raise ValueError(
                f"{command} runs the seeds that --seeds names; give --seeds 5:6 for the seed 5, not {option}"
            )


def seeds_of(text: str) -> range:
    """Read ``20`` as the seeds 0 to 19, ``1000:1010`` as 1000 to 1009.

    >>> list(seeds_of("3")), list(seeds_of("7:9"))
    ([0, 1, 2], [7, 8])
    """
    if not (found := re.fullmatch(r"(?:(\d+):)?(\d+)", text)):
        raise ValueError(f"--seeds must be a number or a range such as 1000:1010, not {text!r}")
    seeds = range(int(found[1] or 0), int(found[2]))
    if not seeds:
        raise ValueError(f"--seeds {text} names no seed")
    return seeds


def variants_of(configs: Sequence[str], vary: Sequence[str], fit: Sequence[str] = ()) -> dict[str, list[str]]:
    """Name every combination of a configuration and varied options, and return the words that ``fit`` takes for it.

    Options of all runs, ``fit``, come before those that are varied, which may belong to a class that they choose; only
    those that belong to a class that is varied come after.

    >>> variants_of(["configs/a.yaml"], ["optimizer.init_args.lr=0.1,0.2"])["lr=0.2"]
    ['--config', 'configs/a.yaml', '--optimizer.init_args.lr', '0.2']
    """
    varied = [one.removeprefix("--").partition("=") for one in vary]
    names = [f"--{option}" for option, _, _ in varied]
    before, after = list[str](), list[str]()
    part = before
    for word in fit:
        if word.startswith("-") and not NEGATIVE.match(word):
            inside = word.startswith(tuple(f"{name}." for name in names))
            part = after if inside and word.partition("=")[0] not in names else before
        part.append(word)
    files = [(Path(config).stem, ["--config", config]) for config in configs] or [("", [])]
    choices = [[(name, [*words, *before]) for name, words in files]]
    for typed, (option, equals, text) in zip(vary, varied, strict=True):
        values = values_of(text) if equals else []
        if not values:
            raise ValueError(f"--vary needs an option and its values, such as model.gamma=0.9,0.99; not {typed!r}")
        short = option.rpartition(".")[2]
        choices.append([(f"{short}={name_of(value)}", [f"--{option}", word_of(value)]) for value in values])
    variants = dict[str, list[str]]()
    for combination in itertools.product(*choices):
        name = ", ".join(part for part, _ in combination if part) or "defaults"
        if len(configs) == 1 and vary:  # One configuration needs no name in every row.
            name = name.partition(", ")[2]
        if name in variants:
            raise ValueError(f"two configurations have the same name: {name}")
        variants[name] = [*(word for _, words in combination for word in words), *after]
    return variants


def values_of(text: str) -> list[Any]:
    """Read a YAML list, or scalars joined by commas.

    >>> values_of("0,0.6"), values_of("[[64], [64, 64]]"), values_of("[pg_lightning.NoBaseline]")
    ([0, 0.6], [[64], [64, 64]], ['pg_lightning.NoBaseline'])
    """
    try:
        return yaml.safe_load(text if text.startswith("[") else f"[{text}]")
    except yaml.YAMLError:
        raise ValueError(f"--vary cannot read the values {text!r}: give a YAML list") from None


def name_of(value: Any) -> str:
    """Name a value for a table: ``pg_lightning.NoBaseline`` -> ``NoBaseline``."""
    if isinstance(value, dict) and "class_path" in value:
        settings = ", ".join(f"{name}={name_of(one)}" for name, one in value.get("init_args", {}).items())
        return name_of(value["class_path"]) + (f"({settings})" if settings else "")
    if isinstance(value, str) and re.fullmatch(r"[\w.]+\.[A-Za-z_]\w*", value):
        return value.rpartition(".")[2]
    return word_of(value)


def word_of(value: Any) -> str:
    """Write a value as a word of a command line."""
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip()


def written_names(out: Path) -> set[str]:
    """Return the names in the table that a folder holds."""
    with contextlib.suppress(OSError, ValueError, csv.Error), (out / "comparison.csv").open(newline="") as file:
        return {row.get("name") or "" for row in csv.DictReader(file)}
    return set()


def write_results(
    out: Path, jobs: Sequence[Job], rows: dict[Job, dict[str, Any]], arguments: Sequence[str], figures: bool = False
) -> str:
    """Write the table of all rows, that of the configurations with its command, and the figures; return the second."""
    ordered = [rows[job] | {"folder": job.folder} for job in jobs if job in rows]
    text, table = io.StringIO(), [{k: v for k, v in row.items() if k != "folder"} for row in ordered]
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in table for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_whole(out / "comparison.csv", text.getvalue())
    summary = markdown(ordered)
    command = shlex.join([*program().split(), "compare", *arguments])
    write_whole(out / "comparison.md", f"{summary}\n\nMade by `{command}`.\n")
    if figures:
        for name, image in plot_comparison(ordered).items():
            write_whole(out / name, image)
    return summary
