"""Options of the command line: groups, links, defaults, and errors that suggest the right option."""

import difflib
import math
import pkgutil
import re
from typing import Any, NoReturn

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from pg_lightning import defaults
from pg_lightning.callbacks.checkpoint import RunCheckpoint
from pg_lightning.callbacks.lines import EpisodeLines
from pg_lightning.callbacks.stop import StopAtRewardThreshold
from pg_lightning.cli.resume import flatten
from pg_lightning.envs import Environment
from pg_lightning.hparams import describe
from pg_lightning.sampling.dataset import UPDATES_PER_EPOCH

ROOT = "runs"
"""Folder of all runs."""

TRAINER_DEFAULTS = {
    "default_root_dir": ROOT,
    "max_steps": 1000,
    "max_epochs": -1,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "enable_model_summary": False,
    "logger": {"class_path": "pytorch_lightning.loggers.CSVLogger"},
}

FIT = (
    f"Train. One update is one optimizer step, from complete episodes of the policy as it is. An epoch is "
    f"{UPDATES_PER_EPOCH:,} updates; --trainer.max_steps counts updates, --stop.max_env_steps env steps."
)
"""What ``fit --help`` says first."""

PRECISIONS = ("None", "32", "32-true", "64", "64-true", "bf16", "bf16-mixed")
"""Spellings of the precisions that an agent learns in; on a CPU Lightning would turn 16-mixed into another one."""

RENAMED = {
    "env": "env.id",
    "env_id": "env.id",
    "env_kwargs": "env.kwargs",
    "seed": "seed_everything",
    "lr": "optimizer.lr",
    "learning_rate": "optimizer.lr",
    "advantage": "model.baseline",
    "checkpoint": "ckpt_path",
    "resume": "ckpt_path",
    "root_dir": "trainer.default_root_dir",
}
"""Options that people type, by their last part, and their names here."""

NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|-inf$", re.IGNORECASE)
"""Values that begin like an option."""

UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)|ambiguous option: --([\w.]+) could match|argument \S+ --> ([\w.]+):"
    r'|Parser key "(env)":\s*Unable to load config'
)
"""Messages about an option that does not exist, that is set by another one, or that takes no value of its own."""


class ParserExit(SystemExit):
    """Regular end of the parser, after ``--help`` or ``--print_config``."""


class Parser(LightningArgumentParser):
    """Parser that raises its errors in one line, with the option that may have been meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = NEGATIVE  # argparse takes -1e9 for an option.

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End after help was printed."""
        raise ParserExit(status)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a ValueError, which :func:`pg_lightning.cli.main` prints in one line."""
        if unknown := UNKNOWN.match(message):
            option = next(filter(None, unknown.groups()))
            parser = getattr(ex, "subcommand_parser", None) or self
            close = suggestion(option, parser.known_options())
            message = f"there is no option --{option}; " + (f"did you mean --{close}?" if close else "see --help")
        raise ValueError(message) from None

    def known_options(self) -> list[str]:
        """List all options, also those of the classes that are the defaults."""
        return list(flatten(self.get_defaults().as_dict()))


def suggestion(unknown: str, known: list[str]) -> str | None:
    """Return the known option that was probably meant, ``None`` where none is close.

    >>> suggestion("lr", ["model.gamma", "optimizer.init_args.lr"])
    'optimizer.lr'
    >>> suggestion("model.env_id", ["env.id", "model.gamma"])
    'env.id'
    """
    last = unknown.rpartition(".")[2]
    lasts = RENAMED | {option.rpartition(".")[2]: option for option in reversed(known)}
    close = difflib.get_close_matches(last, lasts, n=1, cutoff=0.8)
    if close:
        return short(RENAMED.get(last) or lasts[close[0]])
    close = difflib.get_close_matches(unknown, known, n=1)
    return short(close[0]) if close else None


def add_arguments(parser: LightningArgumentParser) -> None:
    """Add the environment's, the callbacks' and the optimizer's options; link what several parts need."""
    parser.add_class_arguments(Environment, "env")
    parser.add_lightning_class_args(StopAtRewardThreshold, "stop")
    parser.add_lightning_class_args(EpisodeLines, "lines")
    parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
    parser.add_optimizer_args(nested_key="optimizer", link_to="model.optimizer")
    parser.add_lr_scheduler_args(nested_key="lr_scheduler", link_to="model.lr_scheduler")
    parser.set_defaults({f"model.{name}": describe(getattr(defaults, name)) for name in PARTS})
    parser.link_arguments("env", "model.env", apply_on="instantiate")
    parser.link_arguments("env", "data.env", apply_on="instantiate")
    parser.link_arguments("seed_everything", "data.seed")
    parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")


PARTS = ("policy", "baseline", "normalization", "direction")
"""Parts of the agent that have a default class."""

FOLLOWING = {"optimizer": ("direction", "optimizer"), "model.returns": ("baseline", "returns")}
"""Options whose class follows from another part of the agent, by an attribute of it."""


def implied(typed: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Return words that typed options imply.

    An option of a class that follows from another part implies that class. A class that is typed starts with its own
    defaults: the parser would hand on those that the class before it shares with it.

    Args:
        typed: options by name.
        base: configuration that they are laid over.
    """
    words, settings = list[str](), flatten(base) | typed
    for option, (part, attribute) in FOLLOWING.items():
        chosen = any(settings.get(name) is not None for name in (option, f"{option}.class_path"))
        if chosen or not any(name.startswith(f"{option}.") for name in typed):
            continue
        path = settings.get(f"model.{part}.class_path") or settings.get(f"model.{part}")
        path = str(path or describe(getattr(defaults, part))["class_path"])
        spec = describe(getattr(pkgutil.resolve_name(path if "." in path else f"pg_lightning.{path}"), attribute))
        given = [f"--{option}.{name}={value}" for name, value in spec["init_args"].items()]
        words += [f"--{option}", spec["class_path"], *given]
    return words + [f"--model.{part}=null" for part in PARTS if f"model.{part}" in typed]


def check_config(config: Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ValueError: a limit of 0, a negative or non-finite number where there can be none.
    """
    trainer = config.trainer
    if not 0 <= config.seed_everything < 2**32:
        raise ValueError(f"--seed_everything must be from 0 to {2**32 - 1}, not {config.seed_everything}")
    for name in ("max_steps", "max_epochs"):
        if (value := trainer[name]) is not None and value != -1 and value < 1:
            raise ValueError(f"--trainer.{name} must be at least 1, or -1 for no limit, not {value}")
    if trainer.limit_train_batches == 0:
        raise ValueError("--trainer.limit_train_batches must be more than 0: nothing would be learnt")
    if str(trainer.precision) not in PRECISIONS:
        raise ValueError(f"--trainer.precision must be 32-true, 64-true or bf16-mixed, not {trainer.precision}")
    if (value := trainer.gradient_clip_val) is not None and value < 0:
        raise ValueError(f"--trainer.gradient_clip_val must be at least 0, not {value}")
    for group in ("optimizer", "lr_scheduler", "stop", "lines", "checkpoint", "data", "trainer"):
        for name, value in flatten(config[group].as_dict() if config.get(group) else {}, f"{group}.").items():
            for number in value if isinstance(value, list | tuple) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"--{short(name)} must be a finite number, not {number}")


def short(option: str) -> str:
    """Leave out what need not be typed: ``optimizer.init_args.lr`` -> ``optimizer.lr``."""
    return option.replace(".init_args", "")
