"""Resuming: which checkpoint ``--ckpt_path`` means, its configuration, and whether there is more to do."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from pg_lightning.checkpoint_file import read_checkpoint
from pg_lightning.cli.runs import RunFolder, folder_name, newest_run, run_of
from pg_lightning.envs import Environment
from pg_lightning.sampling.dataset import UPDATES_PER_EPOCH

TRUSTED = ("pg_lightning", "torch", "pytorch_lightning")
"""Packages that are imported because a checkpoint names them."""

EVALUATED = ("seed_everything", "env", "data", "model", "model_class")
"""Parts of a run's configuration that validate, test and predict take over."""


class Resumed(NamedTuple):
    """Checkpoint to go on from.

    Attributes:
        path: of the file.
        checkpoint: its content.
        folder: run folder that it is in, or ``None``.
        run: that folder, locked, where training goes on in it; ``None`` where it opens another one.
    """

    path: Path
    checkpoint: dict[str, Any]
    folder: Path | None
    run: RunFolder | None


def typed_options(arguments: list[str]) -> dict[str, Any]:
    """Collect the options of a command line and of its ``--config`` files; nothing that they name is imported.

    >>> typed_options(["fit", "--env.id", "Acrobot-v1", "--optimizer={lr: 0.1}"])
    {'env.id': 'Acrobot-v1', 'optimizer': '{lr: 0.1}', 'optimizer.lr': 0.1}
    """
    options = dict[str, Any]()
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        value = value if equals or following.startswith("--") else following
        if name in ("c", "config"):
            with suppress(OSError, yaml.YAMLError):  # The parser says what is wrong with it.
                options |= flatten(_loaded(value))
            continue
        options[name] = value
        if value.startswith("{") or Path(value).suffix in (".yaml", ".yml"):
            with suppress(OSError, yaml.YAMLError):
                options |= {f"{name}.{key}": item for key, item in flatten(_loaded(value)).items()}
    return {name.removeprefix("fit."): value for name, value in options.items()}


def _loaded(value: str) -> Any:
    """Read YAML: the value itself, or the file that it names."""
    return yaml.safe_load(value if value.startswith("{") else Path(value).read_text())


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Name each value in nested dicts by its path, joined by dots."""
    if not isinstance(config, Mapping):
        return {prefix[:-1]: config} if prefix else {}
    flat = dict[str, Any]()
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.")
    return flat


def find_checkpoint(named: str, root: Path, env_name: str | None, name: str | None = None) -> Path | None:
    """Find the checkpoint that ``--ckpt_path`` names.

    Args:
        named: a file; a run folder, for its last checkpoint; ``last`` or ``best``: that of the newest run; ``auto``:
            the last one of the newest run that a command of this environment and this name would have begun.
        root: folder of all runs.
        env_name: consider this environment's runs only; those of all, or with ``auto`` of the default one, if ``None``.
        name: consider this experiment's runs only; those of all, or with ``auto`` of none, if ``None``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an empty name.
    """
    if not named:
        raise ValueError("--ckpt_path is empty: give a file, a run folder, last, best or auto")
    if named == "auto":
        folder = newest_run(root / folder_name(str(env_name or Environment().name)), f"{name or '.'}/version_*")
        return folder and folder / "checkpoints" / "last.ckpt"
    if named in ("last", "best"):
        runs = root / folder_name(str(env_name)) if env_name else root
        folder = newest_run(runs, f"**/{name}/version_*" if name else "**/version_*")
        if folder is None:
            what = "run" if name is None else f"run of the experiment {name}"
            raise FileNotFoundError(
                f"--ckpt_path {named}: there is nothing to resume; no {what} in {runs} has a last.ckpt"
            )
        path = folder / "checkpoints" / ("best.ckpt" if named == "best" else "last.ckpt")
        if named == "best" and not path.is_file():
            raise FileNotFoundError(f"--ckpt_path best: the newest run, {folder}, has no best.ckpt")
        return path
    path = Path(named)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
        if not path.is_file() and not path.with_name("previous.ckpt").is_file():
            raise FileNotFoundError(f"--ckpt_path: {named} is not a run folder: there is no {path}")
    elif not path.is_file() and not (path.name == "last.ckpt" and path.with_name("previous.ckpt").is_file()):
        raise FileNotFoundError(f"--ckpt_path: there is no checkpoint file {named!r}")
    return path


def open_checkpoint(path: Path, writes: bool) -> Resumed:
    """Read a checkpoint; where training goes on in its run's folder, lock that folder first.

    Training goes on there from the newest readable checkpoint of a run: ``last.ckpt``, or ``previous.ckpt`` where that
    cannot be read, with a warning.

    Args:
        path: of the checkpoint.
        writes: whether this process is going to train and to write.

    Raises:
        ValueError: the checkpoint cannot be read; another process writes the run.
    """
    folder = run_of(path)
    run = RunFolder(folder) if writes and folder and path.name in ("last.ckpt", "previous.ckpt") else None
    try:
        last, previous = path.with_name("last.ckpt"), path.with_name("previous.ckpt")
        if path.name == "last.ckpt" and previous.is_file():
            try:
                checkpoint = read_checkpoint(path)
            except (ValueError, FileNotFoundError) as error:
                checkpoint, path = read_checkpoint(previous), previous
                rank_zero_warn(f"{error}; going on from {previous} instead")
        else:
            checkpoint = read_checkpoint(path)
            if run is not None and path.name == "previous.ckpt" and is_readable(last):
                run.release()
                run = None
    except BaseException:
        if run is not None:
            run.release()
        raise
    return Resumed(path, checkpoint, folder, run)


def is_readable(path: Path) -> bool:
    """Tell whether a checkpoint can be read."""
    with suppress(ValueError, FileNotFoundError):
        read_checkpoint(path)
        return True
    return False


def base_config(resumed: Resumed, command: str, typed: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that typed options are laid over: of the run's folder, or else of the checkpoint.

    A run's ``config.yaml`` is as trusted as a ``--config`` file; a checkpoint is data.

    Raises:
        ValueError: a file that is no configuration; a checkpoint that names what is not imported here.
    """
    if resumed.folder is not None:
        config = yaml.safe_load((resumed.folder / "config.yaml").read_text())
        if not isinstance(config, dict):
            raise ValueError(f"{resumed.folder / 'config.yaml'} is not a configuration")
    else:
        config = trusted_config(config_of(resumed.checkpoint), typed, resumed.path)
    return config if command == "fit" else {name: config[name] for name in EVALUATED if name in config}


def config_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Turn the settings in a checkpoint into a configuration."""
    model = {name: value for name, value in checkpoint["hyper_parameters"].items() if value is not None}
    config = {name: model.pop(name) for name in ("env", "optimizer", "lr_scheduler") if name in model}
    data = dict(checkpoint.get("datamodule_hyper_parameters") or {})
    if (seed := data.pop("seed", None)) is not None:
        config["seed_everything"] = seed
    data.pop("env", None)
    callbacks = checkpoint.get("callbacks") or {}
    config["stop"] = (callbacks.get("StopAtRewardThreshold") or {}).get("settings") or {}
    if (max_steps := (callbacks.get("RunCheckpoint") or {}).get("max_steps")) is not None:
        config["trainer"] = {"max_steps": max_steps}
    return config | {"data": data, "model": model}


def trusted_config(config: dict[str, Any], typed: dict[str, Any], path: Path) -> dict[str, Any]:
    """Leave out what was typed anew; refuse what would import a module only because the checkpoint says so.

    Raises:
        ValueError: a module that is neither imported, nor one of TRUSTED, nor named on the command line.
    """
    words = [str(value) for value in typed.values()]
    named = {word.rpartition(mark)[0] for word in words for mark in ":."} - {""}
    for place, name, module in list(modules_in(config)):
        if module in sys.modules or module in named or module.split(".")[0] in TRUSTED:
            continue
        part, _, rest = place.partition(".")
        option = ".".join([part, *rest.split(".")[:1]]) if part in ("model", "env") else part
        if option not in typed and f"{option}.class_path" not in typed:
            raise ValueError(
                f"checkpoint {path} names {name}, and the module {module} is not imported because a file says so: "
                f"if you trust it, name it yourself: --{option} {name}"
            )
        (config[part] if "." in option else config).pop(option.rpartition(".")[2], None)
    return config


def modules_in(config: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """Find the modules that a configuration names: yield the place, the name and the module."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            where = f"{place}.{key}" if place else str(key)
            if key == "class_path" and isinstance(value, str):
                yield place, value, value.rpartition(".")[0]
            elif where == "env.id" and isinstance(value, str) and ":" in value:
                yield where, value, value.rpartition(":")[0]
            elif where == "env.wrappers":
                yield from ((where, name, str(name).rpartition(".")[0]) for name in value or ())
            else:
                yield from modules_in(value, where)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from modules_in(value, place)


def check_fits(agent: pl.LightningModule, resumed: Resumed, trains: bool) -> None:
    """Refuse a checkpoint of another policy, and one without the state of the optimizer where training goes on.

    Raises:
        ValueError: the checkpoint does not fit.
    """
    path, checkpoint = resumed.path, resumed.checkpoint
    if trains and not (checkpoint.get("optimizer_states") and "lr_schedulers" in checkpoint and "loops" in checkpoint):
        raise ValueError(
            f"checkpoint {path} has no optimizer state: it can be tested, but training cannot go on from it"
        )
    here, there = shapes(agent.state_dict()), shapes(checkpoint["state_dict"])
    for name in here | there:
        if here.get(name) != there.get(name):
            raise ValueError(
                f"checkpoint {path} is of another policy: its {name} is {there.get(name, 'missing')}, "
                f"the configured one's {here.get(name, 'missing')}"
            )


def shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a state, without what modules keep beside them."""
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("_extra_state")}


def already_ended(resumed: Resumed, agent: Any, stop: Any, trainer: pl.Trainer) -> str | None:
    """Say why there is nothing more to do under the options of now, ``None`` where there is.

    Args:
        resumed: the checkpoint.
        agent: as configured.
        stop: the StopAtRewardThreshold as configured.
        trainer: with the limits of now.
    """
    checkpoint, step = resumed.checkpoint, resumed.checkpoint["global_step"]
    if (state := checkpoint["callbacks"].get(stop.state_key)) is not None:
        stop.setup(None, agent, "fit")
        stop.load_state_dict(state)
        if stop.solved and stop.end_when_solved:
            return f"{stop.verdict()} (--stop.threshold)"
    env_steps = int(checkpoint["state_dict"]["num_env_steps"])
    if stop.max_env_steps is not None and env_steps >= stop.max_env_steps:
        return f"{env_steps:,} env steps were taken (--stop.max_env_steps {stop.max_env_steps})"
    if 0 < trainer.max_steps <= step:
        return f"{step:,} updates were made (--trainer.max_steps {trainer.max_steps})"
    epochs, limit = trainer.max_epochs or -1, trainer.limit_train_batches
    updates = limit if isinstance(limit, int) else int(UPDATES_PER_EPOCH * limit)
    if 0 < epochs * updates <= step:
        return f"{step:,} updates were made, {updates:,} an epoch (--trainer.max_epochs {epochs})"
    return None
