"""The command line: LightningCLI with its links, run folders, resuming, and errors in one line."""

import difflib
import inspect
import json
import logging
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import torch
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pg_lightning.advantages import TimestepBaseline
from pg_lightning.callbacks import (
    EpisodeLines,
    GracefulInterrupt,
    NoProfiler,
    StopAtRewardThreshold,
    UpdateProgressBar,
)
from pg_lightning.checkpoints import OptimizerOptions, RunCheckpoint, check_fits, find_checkpoint, read_checkpoint
from pg_lightning.dataset import EpisodeDataModule
from pg_lightning.messages import condense
from pg_lightning.recording import PredictionWriter, RunRecorder
from pg_lightning.reinforce import Reinforce, default_optimizer
from pg_lightning.runs import (
    continue_csv,
    discard,
    new_run_folder,
    run_folder,
    write_whole,
)
from pg_lightning.specs import describe

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "max_steps": 1000,
    "max_epochs": -1,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "enable_model_summary": False,
    "logger": {"class_path": "pytorch_lightning.loggers.CSVLogger"},
}

DEFAULT_ENV_ID = inspect.signature(EpisodeDataModule).parameters["env_id"].default

USER_ERRORS = (ValueError, TypeError, OSError, ImportError, gym.error.Error, MisconfigurationException)
"""What a user's mistake raises: one line tells it. Anything else is ours, and shows its traceback."""


class Parser(LightningArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what :func:`main` prints in one line."""
        if unknown := re.match(r"unrecognized arguments: (--[\w.]+)", message):
            close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message = f"there is no option {unknown[1]}; " + (f"did you mean {close[0]}?" if close else "see --help")
        raise ValueError(message)


class SaveConfig(SaveConfigCallback):
    """Saves the configuration, as a fresh run would need it, to ``config.yaml`` in the run's folder."""

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Write the file, for a fit."""
        if stage == "fit" and not trainer.fast_dev_run:
            text = self.parser.dump(self.config, skip_none=False)
            write_whole(Path(trainer.default_root_dir, self.config_filename), text)


class CLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` of a Reinforce agent on an EpisodeDataModule."""

    folder: Path | None = None
    resumed: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.claimed: Path | None = None
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            if self.claimed is not None and (not hasattr(self, "trainer") or self.trainer.global_step == 0):
                discard(self.claimed)
            raise

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out ``weights_only``: a checkpoint is always loaded without running what it might carry."""
        return {name: skipped | {"weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of everything random: weights, environments, actions."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks' and the optimizer's options, and give what two parts need to both."""
        parser.add_lightning_class_args(StopAtRewardThreshold, "stop")
        parser.add_lightning_class_args(EpisodeLines, "lines")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_optimizer_args(nested_key="optimizer", link_to="model.optimizer")
        parser.add_lr_scheduler_args(nested_key="lr_scheduler", link_to="model.lr_scheduler")
        parser.set_defaults({"optimizer": describe(default_optimizer), "model.advantage": describe(TimestepBaseline())})
        parser.link_arguments("data.env_id", "model.env_id")
        parser.link_arguments("data.env_kwargs", "model.env_kwargs")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; where a checkpoint is named, parse again on top of the configuration of the run that saved it."""
        arguments = list(sys.argv[1:] if args is None else args)
        self.config = parser.parse_args(arguments)
        command = self.config["subcommand"]
        if not 0 <= (seed := self.config[command].seed_everything) < 2**32:
            raise ValueError(f"--seed_everything must be from 0 to {2**32 - 1}, not {seed}")
        named = self.config[command].ckpt_path
        if named is None:
            return
        config = self.config[command]
        env_id_typed = "--data.env_id" in " ".join(arguments) or config.data.env_id != DEFAULT_ENV_ID
        root = Path(config.trainer.default_root_dir)
        self.resumed = find_checkpoint(named, root, config.data.env_id if env_id_typed else None)
        folder = run_folder(self.resumed)
        checkpoint = read_checkpoint(self.resumed)
        base = str(folder / "config.yaml") if folder else json.dumps(config_of(checkpoint))
        place = arguments.index(command) + 1
        arguments[place:place] = ["--config", base]
        self.config = parser.parse_args([*arguments, "--ckpt_path", str(self.resumed)])
        self.folder = folder

    def _parse_ckpt_path(self) -> None:
        """Do nothing: :meth:`parse_arguments` has, in an order in which what is typed wins."""

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder and send everything that is written there."""
        config = self.config[self.subcommand]
        self.config_to_save = config.clone()
        self.config_to_save.ckpt_path = None
        if self.subcommand == "fit" and self.folder is None and not config.trainer.fast_dev_run and is_first_process():
            self.folder = self.claimed = new_run_folder(Path(config.trainer.default_root_dir), config.data.env_id)
        if self.subcommand != "fit":
            config.trainer.logger = False
            config.trainer.limit_val_batches = config.trainer.limit_val_batches or None
        if self.folder is not None:
            config.trainer.default_root_dir = str(self.folder)
            place_logger(config.trainer.logger, self.folder)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make the Trainer, with the callbacks that every run has."""
        config = self._get(self.config_init, "trainer")
        callbacks = [self._get(self.config_init, "stop"), self._get(self.config_init, "lines")]
        if self.subcommand == "fit" and not config.fast_dev_run:
            callbacks += [RunRecorder(), GracefulInterrupt()]
            if self.resumed is not None:
                callbacks += [OptimizerOptions()]
            if config.enable_checkpointing is not False:
                callbacks += [self._get(self.config_init, "checkpoint")]
        if config.enable_progress_bar is not False:
            callbacks += [UpdateProgressBar()]
        if self.subcommand == "predict":
            callbacks += [PredictionWriter()]
        self.config[self.subcommand] = self.config_to_save
        return self._instantiate_trainer({**config, "profiler": config.profiler or NoProfiler(), **kwargs}, callbacks)

    def _before_any(self) -> None:
        """Refuse a checkpoint of another policy."""
        if self.resumed is not None:
            check_fits(self.model, read_checkpoint(self.resumed), self.resumed)

    before_validate = before_test = before_predict = _before_any

    def before_fit(self) -> None:
        """Go on with the metrics of the run that is resumed."""
        self._before_any()
        if self.resumed is not None and self.trainer.is_global_zero:
            step = read_checkpoint(self.resumed)["global_step"]
            for logger in self.trainer.loggers:
                if isinstance(logger, CSVLogger):
                    continue_csv(logger, step)

    def after_fit(self) -> None:
        """Say where the run lies, and how to go on if it was interrupted."""
        if self.folder is None or not self.trainer.is_global_zero:
            return
        interrupt = next(callback for callback in self.trainer.callbacks if isinstance(callback, GracefulInterrupt))  # type: ignore[attr-defined]
        if interrupt.signal is None:
            print(f"Run folder: {self.folder}")
            return
        last = self.folder / "checkpoints" / "last.ckpt"
        print(f"Stopped after update {self.trainer.global_step}. Go on with: python train.py fit --ckpt_path {last}")
        sys.exit(128 + interrupt.signal)


def is_first_process() -> bool:
    """Tell whether this is the process that writes, before the Trainer knows: the first of the first machine."""
    return rank_zero_only.rank == 0 and int(os.environ.get("NODE_RANK", 0)) == 0  # type: ignore[attr-defined]


def place_logger(loggers: Any, folder: Path) -> None:
    """Have the loggers of a parsed configuration write to the run's folder."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace) and "save_dir" in logger.init_args:
            kind = logger.class_path.rpartition(".")[2]
            logger.init_args.save_dir = str(folder)
            if kind == "MLFlowLogger":
                # MLflow 3 wants to be told that a folder will do.
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
                logger.init_args.save_dir = str(folder / "mlruns")
            if kind in ("CSVLogger", "TensorBoardLogger"):
                logger.init_args.name = logger.init_args.version = ""


def config_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Turn the hyper-parameters of a checkpoint that lies in no run folder into a configuration."""
    model = {name: value for name, value in checkpoint.get("hyper_parameters", {}).items() if value is not None}
    config = {"data": {name: model.pop(name) for name in ("env_id", "env_kwargs") if name in model}}
    config |= {name: model.pop(name) for name in ("optimizer", "lr_scheduler") if name in model}
    return config | {"model": model}


def main(args: list[str] | None = None) -> None:
    """Run the command line; exit with code 1 and one line where the user can mend what is wrong.

    Args:
        args: what was typed behind ``train.py``; by default what really was.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # Lightning's advice to hand in every callback that the checkpoint has a state of; testing needs none of them.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
    if not os.environ.get("PG_LIGHTNING_TRACEBACK"):  # Gymnasium shows a worker's traceback before it raises.
        warnings.filterwarnings("ignore", message=r"\x1b\[31mERROR", module=r"gymnasium\.vector")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # On networks this small a second thread costs more than it brings.
    try:
        CLI(
            Reinforce,
            EpisodeDataModule,
            SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=args,
        )
    except USER_ERRORS as error:
        if os.environ.get("PG_LIGHTNING_TRACEBACK"):
            raise
        sys.exit(f"error: {condense(str(error))}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
