"""Options of the command line: groups, links, defaults, and errors that suggest the right option."""

import argparse
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
from pg_lightning.cli.help import short_help
from pg_lightning.cli.resume import flatten
from pg_lightning.cli.runs import is_run_name
from pg_lightning.envs import Environment
from pg_lightning.hparams import describe

ROOT = "runs"
"""Folder of all runs."""

TRAINER_DEFAULTS = {
    "default_root_dir": ROOT,
    "accelerator": "cpu",  # Small networks gain nothing from a GPU.
    "max_steps": 1000,
    "max_epochs": -1,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "enable_model_summary": False,
    "logger": {"class_path": "pytorch_lightning.loggers.CSVLogger"},
}

PRECISIONS = ("None", "32", "32-true", "64", "64-true", "bf16", "bf16-mixed")
"""Spellings of the precisions that an agent learns in; on a CPU Lightning would turn 16-mixed into another one."""

MEANT = {
    "env.id": "env env_id env_name env.name environment task gym",
    "env.kwargs": "env_kwargs env_args",
    "env.max_episode_steps": "time_limit horizon episode_length",
    "seed_everything": "seed",
    "name": "exp exp_name experiment experiment_name run_name",
    "optimizer.lr": "lr learning_rate",
    "optimizer": "optim",
    "model.policy": "network net",
    "model.policy.hidden_sizes": "hidden hidden_size hidden_dim units layers net_arch",
    "model.baseline": "advantage",
    "model.gamma": "discount discount_factor",
    "model.entropy_coef": "entropy ent_coef entropy_coefficient",
    "model.returns.gae_lambda": "lambda lam gae_lambda",
    "model.direction.max_kl": "kl max_kl target_kl",
    "data.num_envs": "n_envs envs",
    "data.episodes_per_update": "batch_size episodes_per_batch",
    "stop.max_env_steps": "steps env_steps num_steps timesteps total_timesteps max_timesteps",
    "trainer.max_steps": "updates num_updates iterations episodes num_episodes n_episodes max_episodes",
    "trainer.max_epochs": "epochs num_epochs",
    "trainer.accelerator": "device",
    "trainer.devices": "gpus num_processes",
    "trainer.default_root_dir": "root_dir root log_dir logdir out out_dir output_dir",
    "ckpt_path": "checkpoint ckpt resume load",
}
"""Options, and what people type instead of them: a whole name, or its last part."""

RENAMED = {typed: option for option, names in MEANT.items() for typed in names.split()}
"""Names that people type, and the options that they mean."""

REMARKS = {
    "trainer.max_steps": " (It counts updates, of --data.episodes_per_update episodes each.)",
}
"""What to say of an option where another unit was probably meant."""

NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|-inf$", re.IGNORECASE)
"""Values that begin like an option."""

UNKNOWN = re.compile(
    r"unrecognized arguments: --([\w.]+)(?:[= ](?!-)(\S+))?|ambiguous option: --([\w.]+) could match"
    r"|argument \S+ --> ([\w.]+):"
    r'|Parser key "(env)":\s*Unable to load config',
    re.IGNORECASE,
)
"""Messages about an option that does not exist, that is set by another one, or that takes no value of its own."""

TORCH_CLASSES = re.compile(r",\s+known\s+subclasses:\s+torch\.nn\.Module,.*?(?=\)\n  --)", re.DOTALL)
"""Layers of torch, which are no policies, in the help of ``--model.policy``."""


class ParserExit(SystemExit):
    """Regular end of the parser, after ``--help`` or ``--print_config``."""


class HelpAll(argparse._HelpAction):
    """Option that prints the help of all options."""

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print it and end."""
        print(TORCH_CLASSES.sub("", parser.format_help()))
        parser.exit()


class Parser(LightningArgumentParser):
    """Parser that raises its errors in one line, with the option that may have been meant.

    Attributes:
        command: that it is of; the parser of a class, or of the command line as a whole, has none.
    """

    command: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = NEGATIVE  # argparse takes -1e9 for an option.

    def print_help(self, *args: Any) -> None:
        """Print the options that a beginner needs; ``--help-all`` prints all."""
        if self.command is None:
            super().print_help(*args)
        else:
            print(short_help(self.command, self.get_defaults().as_dict()))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End after help was printed."""
        raise ParserExit(status)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a ValueError, which :func:`pg_lightning.cli.main` prints in one line."""
        if unknown := UNKNOWN.match(message):
            option, value = next(filter(None, (unknown[1], *unknown.groups()[2:]))), unknown[2] or ""
            parser = getattr(ex, "subcommand_parser", None) or self
            close = parser.suggestion(option)
            message = f"there is no option --{option}; "
            if close is None:
                message += "see --help"
            else:
                message += f"did you mean --{close}{adapted(close, value)}?{remark(close, option)}"
        raise ValueError(message) from None

    def known_options(self) -> list[str]:
        """List all options, also those of the classes that are the defaults."""
        return list(flatten(self.get_defaults().as_dict()))

    def suggestion(self, unknown: str) -> str | None:
        """Return the option that was probably meant, ``None`` where none is close."""
        if self.command in ("validate", "test", "predict") and RENAMED.get(unknown) == "trainer.max_steps":
            return "data.eval_episodes"
        return suggestion(unknown, self.known_options())


def suggestion(unknown: str, known: list[str]) -> str | None:
    """Return the known option that was probably meant, ``None`` where none is close.

    >>> suggestion("lr", ["model.gamma", "optimizer.init_args.lr"])
    'optimizer.lr'
    >>> suggestion("model.env_id", ["env.id", "model.gamma"])
    'env.id'
    """
    known = [option.removesuffix(".class_path") for option in known]
    last = unknown.rpartition(".")[2]
    if meant := RENAMED.get(unknown) or RENAMED.get(last):
        return meant
    lasts = {option.rpartition(".")[2]: option for option in reversed(known)} | RENAMED
    if close := difflib.get_close_matches(last, lasts, n=1, cutoff=0.8):
        return short(lasts[close[0]])
    close = difflib.get_close_matches(unknown, known, n=1)
    return short(close[0]) if close else None


def adapted(option: str, value: str) -> str:
    """Return the value to type behind a suggested option, where it is not the one that was typed.

    >>> adapted("model.policy.hidden_sizes", "64"), adapted("model.gamma", "0.9")
    (' [64]', '')
    """
    is_list = option.endswith(".hidden_sizes") and value and not value.startswith("[")
    return f" [{value}]" if is_list else ""


def remark(option: str, typed: str) -> str:
    """Return what to say of a suggested option, where the typed name has another unit."""
    return REMARKS.get(option, "") if "episode" in typed else ""


def add_arguments(parser: LightningArgumentParser) -> None:
    """Add the environment's, the callbacks' and the optimizer's options; link what several parts need."""
    text = (
        "Of the experiment: a new run's folder is <root>/<environment>/NAME/version_N; last and best are of its runs."
    )
    parser.add_argument("--name", type=str | None, default=None, help=text)
    text = "Class of the agent, derived from pg_lightning.Reinforce, such as my_module.MyReinforce."
    parser.add_argument("--model_class", type=str | None, default=None, help=text)
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

HELP_OF = {
    f"--model.{part}.help": f"--model.{part}.help={describe(getattr(defaults, part))['class_path']}" for part in PARTS
}
"""Words that ask for the help of a part, which without a class mean that of the default one."""

FOLLOWING = {"optimizer": ("direction", "optimizer"), "model.returns": ("baseline", "returns")}
"""Options whose class follows from another part of the agent, by an attribute of it."""


def implied(typed: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Return words that typed options imply.

    An option of a class that follows from another part implies that class. A class that is typed, or that a
    configuration file names, starts with its own defaults: the parser would hand on those of the default class.

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
    classes = [*(f"model.{part}" for part in PARTS), "trainer.logger"]
    return words + [f"--{one}=null" for one in classes if {one, f"{one}.class_path"} & typed.keys()]


def check_config(config: Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ValueError: a limit of 0, a negative or non-finite number where there can be none.
    """
    trainer = config.trainer
    check_name(config.name)
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


def check_name(name: str | None) -> None:
    """Refuse a name of an experiment that is no name of a folder.

    Raises:
        ValueError: an empty name, path separators, a leading dot, or the name of a run.
    """
    if name is not None and (not re.fullmatch(r"\w[\w.-]{,99}", name) or is_run_name(name)):
        raise ValueError(
            f"--name must be the name of a folder: up to 100 letters, digits, '_', '-' and '.', which is not the "
            f"first, and not version_N; not {name!r}"
        )


def short(option: str) -> str:
    """Leave out what need not be typed: ``optimizer.init_args.lr`` -> ``optimizer.lr``."""
    return option.replace(".init_args", "")
