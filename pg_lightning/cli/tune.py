"""``tune``: a search for the options of a configuration, by Optuna, over several seeds each."""

import argparse
import io
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pg_lightning.callbacks.files import write_whole
from pg_lightning.cli.compare import name_of, refuse_seed, seeds_of, word_of
from pg_lightning.cli.engines import on_this_machine, say_how_to_go_on
from pg_lightning.cli.errors import condense
from pg_lightning.cli.help import command_parser, program
from pg_lightning.cli.jobs import Job, hash_of, parsed_config
from pg_lightning.cli.runs import folder_name

DESCRIPTION = """\
Search for the options of a configuration that give the best final policy, on the mean over several seeds.

  {program} tune --config cartpole --space space.yaml --trials 50

space.yaml names options of fit and their range:

  optimizer.init_args.lr: {log: [0.0001, 0.1]}
  model.gamma: {linear: [0.9, 0.999]}
  data.num_envs: {categorical: [8, 16, 64]}

The study is in OUT/study.db, or the database that --storage names: several processes and machines that type the same
command share it, and what was killed goes on. The best configuration is OUT/best.yaml, which fit --config takes.
Every further option is handed to fit; limit the runs by --stop.max_env_steps.
"""

MEASURES = ("sampled_mean", "greedy_mean", "last_100_mean", "area_under_curve")
"""Figures of a run that can be maximised: those of a comparison's rows."""

HEARTBEAT = 30
"""Seconds between two signs of life of a trial's process; twice that long without one, and the trial is retried."""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the options of ``tune`` itself."""
    made = command_parser("tune --space SPACE [options] [options of fit]", DESCRIPTION)
    made.add_argument("--config", action="append", default=[], help="configuration file of fit (default: the defaults)")
    made.add_argument("--space", type=Path, help="YAML file of the options to search and their ranges")
    made.add_argument("--trials", type=int, default=50, help="of the study, over all processes (default 50)")
    made.add_argument("--seeds", default="3", help="of each trial: how many, or a range such as 1000:1010 (default 3)")
    made.add_argument(
        "--measure", choices=MEASURES, default=MEASURES[0], help="what is maximised (default %(default)s)"
    )
    made.add_argument("--out", type=Path, help="folder of the results (default tuning/<name of the config>)")
    made.add_argument("--storage", help="URL of the study's database (default: sqlite, in the folder of the results)")
    made.add_argument("--workers", type=int, default=1, help="processes for the seeds of a trial (default 1)")
    made.add_argument("--eval_episodes", type=int, default=100, help="of each run's final evaluation (default 100)")
    return made


def main(arguments: list[str]) -> int:
    """Run the trials that are missing; return the exit code: 1 where no trial succeeded."""
    try:
        options, fit = parser().parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"tune: {error}") from None
    if options.space is None:
        raise ValueError("tune needs --space, a YAML file of the options to search; see --help")
    if min(options.trials, options.workers, options.eval_episodes) < 1:
        raise ValueError("--trials, --workers and --eval_episodes must be at least 1")
    refuse_seed("tune", fit)
    space, seeds = read_space(options.space), seeds_of(options.seeds)
    fit = [word for config in options.config for word in ("--config", config)] + fit
    refuse_unknown(space, fit)
    settings = {"configuration": hash_of(fit), "space": space, "measure": options.measure, "seeds": list(seeds)}
    name = folder_name(Path((options.config or ["defaults"])[-1]).stem)
    out = options.out or Path("tuning", name)
    out.mkdir(parents=True, exist_ok=True)
    study = open_study(options, name, out)
    if (before := study.user_attrs.get("settings", settings)) != settings:
        changed = ", ".join(key for key in settings if settings[key] != before[key])
        raise ValueError(f"the study in {out} was begun with another {changed}: give another --out")
    study.set_user_attr("settings", settings)

    import optuna

    def trial_value(trial: Any) -> float:
        words = [*fit, *words_of(suggested(trial, space))]
        try:
            config_hash = hash_of(words)
        except ValueError as error:
            raise RunFailed(f"trial {trial.number}: {error}") from None
        folder = out / "runs" / config_hash
        jobs = [Job(config_hash, tuple(words), s, str(folder), config_hash, options.eval_episodes) for s in seeds]
        values = list[float]()
        for row in on_this_machine(jobs, options.workers):
            if "error" in row:
                raise RunFailed(f"trial {trial.number}, seed {row['seed']}: {row['error']}")
            values.append(row.get(options.measure, -math.inf))
            trial.report(sum(values) / len(values), len(values))
            if len(values) < len(jobs) and trial.should_prune():
                raise optuna.TrialPruned
        return sum(values) / len(values)

    def value_or_line(trial: Any) -> float:
        try:
            return trial_value(trial)
        except RunFailed as failed:
            print(f"error: {condense(str(failed))}", file=sys.stderr)
            raise

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
    limit = optuna.study.MaxTrialsCallback(options.trials, states=ended)
    done = len(study.get_trials(deepcopy=False, states=ended))
    if done < options.trials:
        callbacks = [limit, lambda study, trial: print(line_of(study, trial), flush=True)]
        with say_how_to_go_on():
            study.optimize(value_or_line, callbacks=callbacks, catch=(RunFailed,))
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if not complete:
        print(f"error: none of {options.trials} trials succeeded; see the lines above", file=sys.stderr)
        return 1
    write_best(study, fit, space, out)
    return 0


class RunFailed(Exception):
    """A run of a trial ended with an error; the study goes on."""


def refuse_unknown(space: Mapping[str, Mapping[str, Any]], fit: Sequence[str]) -> None:
    """Refuse a space with an option that does not exist, before a trial is run.

    Raises:
        ValueError: there is one.
    """
    for option, one in space.items():
        ((_, bounds),) = one.items()
        try:
            hash_of([*fit, *words_of({option: bounds[0]})])
        except ValueError as error:  # A value that cannot be had alone may go with others: its trial says so.
            if any(word in str(error) for word in ("there is no option", "is not accepted")):
                raise ValueError(f"--space: {condense(str(error))}") from None


def open_study(options: argparse.Namespace, name: str, out: Path) -> Any:
    """Open the study, or make it.

    Raises:
        ImportError: optuna is not installed.
        ValueError: a storage that cannot be opened.
    """
    try:
        import optuna
    except ImportError:
        raise ImportError("tune needs optuna: pip install 'pg_lightning[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # A trial that failed has a line of its own.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # Of the heartbeat.
    url = options.storage or f"sqlite:///{out / 'study.db'}"
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None  # Others may be writing.
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=3)
    try:
        storage = optuna.storages.RDBStorage(
            url, patience, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=retry
        )
    except Exception as error:
        raise ValueError(f"--storage {url} cannot be opened: {str(error).splitlines()[0]}") from error
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )


def read_space(path: Path) -> dict[str, dict[str, Any]]:
    """Read the options to search and their ranges.

    Raises:
        ValueError: no mapping of options to ``log``, ``linear`` or ``categorical`` with values.
    """
    try:
        space = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"--space {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(space, dict) or not space:
        raise ValueError(f"--space {path} must map options of fit to ranges; see --help")
    for option, one in space.items():
        kind, values = next(iter(one.items())) if isinstance(one, Mapping) and len(one) == 1 else ("", [])
        numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
        is_range = numbers and len(values) == 2 and values[0] < values[1]
        if kind == "categorical" and isinstance(values, list) and values:
            continue
        if kind not in ("log", "linear") or not is_range or (kind == "log" and values[0] <= 0):
            raise ValueError(
                f"--space {path}: {option} must be {{log: [low, high]}}, {{linear: [low, high]}} or "
                f"{{categorical: [...]}} with low < high, and 0 < low for log; not {one}"
            )
    return space


def suggested(trial: Any, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ask a trial for its values, by option."""
    values = dict[str, Any]()
    for option, one in space.items():
        ((kind, bounds),) = one.items()
        if kind == "categorical":  # By name: a database keeps numbers and strings alone.
            named = {name_of(bound): bound for bound in bounds}
            values[option] = named[trial.suggest_categorical(option, list(named))]
        elif all(isinstance(bound, int) for bound in bounds):
            values[option] = trial.suggest_int(option, *bounds, log=kind == "log")
        else:
            values[option] = trial.suggest_float(option, *bounds, log=kind == "log")
    return values


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Write options and their values as words of a command line."""
    return [word for option, value in values.items() for word in (f"--{option}", word_of(value))]


def line_of(study: Any, trial: Any) -> str:
    """Say how a trial went, and the best one so far."""
    value = "" if trial.value is None else f" {trial.value:.2f}"
    settings = ", ".join(f"{name.rpartition('.')[2]}={_short(value)}" for name, value in trial.params.items())
    done = [one for one in study.get_trials(deepcopy=False) if one.state.name == "COMPLETE"]
    best = f"; best {max(one.value for one in done):.2f}" if done else ""
    return f"Trial {trial.number}: {trial.state.name.lower()}{value} ({settings}){best}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_best(study: Any, fit: list[str], space: Mapping[str, Any], out: Path) -> None:
    """Write the best configuration, and draw how much each option matters and how the search went."""
    from pg_lightning.plotting.tuning import plot_study

    words = words_of(suggested(study.best_trial, space))  # A finished trial answers with the values that it had.
    config = parsed_config([*fit, *words])
    note = f"# Trial {study.best_trial.number} of {len(study.trials)}: {study.best_value:.2f}. {' '.join(words)}\n"
    write_whole(out / "best.yaml", note + yaml.safe_dump(config, sort_keys=False))
    image = io.BytesIO()
    plot_study(study, image)
    write_whole(out / "tuning.png", image.getvalue())
    print(f"Best: {study.best_value:.2f}. Train with: {program()} fit --config {out / 'best.yaml'}")
