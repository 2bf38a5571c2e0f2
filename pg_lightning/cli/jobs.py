"""Runs of a comparison: one seed of one configuration each, in a folder of its own, not run again once finished."""

import contextlib
import hashlib
import json
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from pg_lightning.callbacks.files import write_whole
from pg_lightning.checkpoint_file import read_checkpoint
from pg_lightning.cli import run
from pg_lightning.cli.lightning import CLI
from pg_lightning.cli.resume import flatten
from pg_lightning.cli.runs import newest_run
from pg_lightning.evaluation import evaluate
from pg_lightning.plotting.common import read_columns
from pg_lightning.sampling.playing import play

CURVE_POINTS = 100
"""Points of a learning curve that is kept with a finished run."""

CURVE_EPISODES = 100
"""Episodes whose mean return is a point of the curve."""


class Job(NamedTuple):
    """One run.

    Attributes:
        name: of the configuration.
        arguments: of ``fit``, without the seed.
        seed: of the run.
        folder: of the configuration's rows and runs.
        config_hash: of the configuration with all defaults, so that another one is run anew.
        eval_episodes: episodes of the final evaluation, each sampled and greedy.
    """

    name: str
    arguments: tuple[str, ...]
    seed: int
    folder: str
    config_hash: str
    eval_episodes: int

    @property
    def row_path(self) -> Path:
        """File of the finished run's row; the learning curve is beside it as ``.csv``."""
        return Path(self.folder, f"seed_{self.seed}.json")

    @property
    def root(self) -> Path:
        """Folder of the run; one of another configuration is no run to go on with."""
        return self.row_path.with_suffix("") / self.config_hash

    def finished_row(self) -> dict[str, Any] | None:
        """Return the row of this run, ``None`` where it is not finished, or was of another configuration."""
        try:
            row = json.loads(self.row_path.read_text())
        except (OSError, ValueError):
            return None
        return row if row.get("config_hash") == self.config_hash else None


class Compared(CLI):
    """Command line of a run in a comparison, which draws figures of all its runs instead of pictures of each."""

    pictures = False


class Parsed(CLI):
    """Command line that is parsed and built, and not run."""

    def before_instantiate_classes(self) -> None:
        """Make no run folder."""
        self._config_text = ""

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing."""


def parsed_config(arguments: list[str]) -> dict[str, Any]:
    """Return the configuration that options of ``fit`` lead to, with all defaults, but for the seed and the place.

    Raises:
        ValueError: a wrong option.
    """
    cli = Parsed(["fit", *arguments])
    config = yaml.safe_load(cli._parser("fit").dump(cli.config["fit"], skip_none=False))
    del config["seed_everything"], config["trainer"]["default_root_dir"]
    if isinstance(logger := config["trainer"].get("logger"), dict):
        logger["init_args"].pop("save_dir", None)
    return config


def hash_of(arguments: list[str]) -> str:
    """Return a hash of the configuration that options of ``fit`` lead to; options that are null are no part of it.

    Raises:
        ValueError: a wrong option, before anything is run.
    """
    settings = {name: value for name, value in flatten(parsed_config(arguments)).items() if value is not None}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def run_job(job: Job) -> dict[str, Any]:
    """Run one seed as ``fit`` does, evaluate the final policy as ``test`` does, and leave a row and a curve.

    A run that was interrupted goes on from its last checkpoint.

    Returns:
        The row, or ``{"error": message}`` of a run that failed.
    """
    if (row := job.finished_row()) is not None:
        return row
    root = job.root
    root.mkdir(parents=True, exist_ok=True)
    resumed = newest_run(root) is not None
    places = ["--seed_everything", str(job.seed), "--trainer.default_root_dir", str(root), "--ckpt_path", "auto"]
    arguments = ["fit", *job.arguments, *places, "--trainer.enable_progress_bar", "false"]
    try:
        with (root / "output.txt").open("a") as output, contextlib.redirect_stdout(output):
            cli = run_unlocked(arguments)
            folder = newest_run(root)
            if folder is None:
                raise ValueError("the run left no checkpoint")
            row = finished(job, cli, folder, resumed)
    except SystemExit as error:
        if error.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt from None
        return {"name": job.name, "seed": job.seed, "error": str(error.code)}
    except Exception as error:
        return {"name": job.name, "seed": job.seed, "error": f"{type(error).__name__}: {error}"}
    write_whole(job.row_path, json.dumps(row) + "\n")
    return row


def run_unlocked(arguments: list[str], patience: float = 10.0) -> CLI:
    """Run a command line; wait for a process of a killed comparison to leave the run folder."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return run(arguments, Compared)
        except SystemExit as error:
            if "is being written by another process" not in str(error.code) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def finished(job: Job, cli: CLI, folder: Path, resumed: bool) -> dict[str, Any]:
    """Write the curve of a finished run, evaluate its last checkpoint, and return its row."""
    summary = json.loads((folder / "summary.json").read_text())
    if summary["reason"] == "interrupted":  # By a signal: the run goes on when the comparison does.
        raise KeyboardInterrupt(cli.exit_code)
    columns = learning_curve(folder)
    lines = [",".join(columns), *(",".join(f"{value:.6g}" for value in row) for row in zip(*columns.values()))]  # noqa: B905
    write_whole(job.row_path.with_suffix(".csv"), "\n".join(lines) + "\n")
    agent, data = cli.model, cli.datamodule
    agent.load_state_dict(read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"])
    figures = dict[str, float]()
    for way in ("sampled", "greedy"):
        settings = {"num_envs": min(data.num_envs, job.eval_episodes), "backend": data.backend}
        with contextlib.suppress(NotImplementedError):  # A policy without a mode has no greedy figures.
            episodes = play(agent.policy, agent.env, job.eval_episodes, job.seed, way == "greedy", **settings)
            one = evaluate(episodes.outcome())
            figures |= {f"{way}_mean": one.mean, f"{way}_std": one.std, f"{way}_episodes": one.episodes}
    if first := summary["first_solved"]:
        times = read_columns(folder / "times.csv")
        seconds = float(times["seconds"][np.searchsorted(times["update"], first["update"])])
        figures |= {"solved_episodes": first["episodes"], "solved_env_steps": first["env_steps"]}
        figures |= {"solved_seconds": seconds}
    kept = ("env_id", "solved", "reason", "threshold", "episodes", "updates", "env_steps", "timesteps", "seconds")
    return {
        "name": job.name,
        "seed": job.seed,
        "config_hash": job.config_hash,
        **{name: summary[name] for name in kept},
        **figures,
        "last_100_mean": columns["return_mean"][-1],
        "best_100_mean": max(columns["return_mean"]),
        "area_under_curve": area(columns),
        "resumed": resumed,
    }


def learning_curve(folder: Path, points: int = CURVE_POINTS) -> dict[str, list[float]]:
    """Read a run's learning curve: the mean return of the last 100 episodes at evenly spaced env steps."""
    episodes, times = (read_columns(folder / f"{name}.csv") for name in ("episodes", "times"))
    counts = np.searchsorted(episodes["update"], times["update"], side="right")  # Episodes after each update.
    sums = np.concatenate([[0.0], episodes["return"].cumsum()])
    means = (sums[counts] - sums[np.maximum(counts - CURVE_EPISODES, 0)]) / np.minimum(counts, CURVE_EPISODES)
    places = np.linspace(times["env_steps"][0], times["env_steps"][-1], points)
    kept = np.unique(np.searchsorted(times["env_steps"], places))
    curve = {"env_steps": times["env_steps"], "seconds": times["seconds"], "episodes": counts, "return_mean": means}
    return {name: values[kept].astype(float).tolist() for name, values in curve.items()}


def area(columns: dict[str, list[float]]) -> float:
    """Mean of a learning curve over the env steps."""
    steps, means = np.asarray(columns["env_steps"]), np.asarray(columns["return_mean"])
    if len(steps) < 2:
        return float(means[0])
    return float(np.trapezoid(means, steps) / (steps[-1] - steps[0]))
