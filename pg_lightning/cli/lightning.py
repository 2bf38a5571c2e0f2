"""Commands of Lightning's command line, with run folders and resuming."""

import json
import os
import pkgutil
import sys
import time
from pathlib import Path
from typing import Any, Literal

import yaml
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pg_lightning.callbacks import GracefulInterrupt, ProgressLines, UpdateProgressBar
from pg_lightning.callbacks.checkpoint import OptimizerOptions
from pg_lightning.callbacks.pictures import draw
from pg_lightning.callbacks.predictions import PredictionWriter
from pg_lightning.callbacks.recorder import RunRecorder
from pg_lightning.callbacks.report import EvaluationReport
from pg_lightning.callbacks.video import record, recordable
from pg_lightning.cli.changes import going_on
from pg_lightning.cli.help import program
from pg_lightning.cli.loggers import place_logger, refuse_place
from pg_lightning.cli.parser import (
    HELP_OF,
    ROOT,
    TRAINER_DEFAULTS,
    HelpAll,
    Parser,
    add_arguments,
    check_config,
    check_name,
    implied,
)
from pg_lightning.cli.resume import (
    Resumed,
    already_ended,
    base_config,
    check_fits,
    find_checkpoint,
    open_checkpoint,
    typed_options,
)
from pg_lightning.cli.runs import RunFolder, folder_name
from pg_lightning.cli.trainer import RunTrainer
from pg_lightning.reinforce import Reinforce
from pg_lightning.sampling.dataset import EpisodeDataModule


class CLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict``, ``watch`` and ``export`` of a Reinforce agent.

    Attributes:
        words: that were typed, and later those that they imply.
        typed: options by name.
        base: configuration that they are laid over.
        run: folder that this process writes, ``None`` where it writes none.
        resumed: checkpoint to go on from.
        exit_code: of the process.
        pictures: whether the run's pictures are drawn, by class.
    """

    pictures = True
    run: RunFolder | None = None
    resumed: Resumed | None = None
    recorder: RunRecorder | None = None
    exit_code = 0

    def __init__(self, args: list[str] | None = None) -> None:
        exact = {"allow_abbrev": False}  # An abbreviated --ckpt_path would be Lightning's alone.
        self.words = [*(sys.argv[1:] if args is None else args)]
        self.command = next((word for word in self.words if word in self.all_commands()), None)
        try:
            self.open_checkpoint()
            super().__init__(
                model_class(self.typed.get("model_class", self.base.get("model_class"))),
                EpisodeDataModule,
                None,
                trainer_class=RunTrainer,
                trainer_defaults=TRAINER_DEFAULTS,
                parser_class=Parser,
                parser_kwargs=dict.fromkeys(self.subcommands(), exact) | exact,
                auto_configure_optimizers=False,
                args=args,
            )
        finally:
            if self.run is not None:
                if self.recorder is None or not self.recorder.begun:
                    self.run.discard()
                self.run.release()

    @staticmethod
    def all_commands() -> dict[str, set[str]]:
        """List the commands; ``weights_only`` is left out: a checkpoint is always read as data."""
        commands = LightningCLI.subcommands() | {key: {"model", "datamodule"} for key in ("watch", "export")}
        return {name: skipped | {"weights_only", "verbose"} for name, skipped in commands.items()}

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """List those whose parser is made: the command that was typed, or all. Each takes a fifth of a second."""
        commands = self.all_commands()
        return commands if self.command is None else {self.command: commands[self.command]}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        own = {"fit": {}, "validate": {"verbose": False}, "test": {"verbose": False}, "predict": {}}.get(subcommand)
        given = super()._prepare_subcommand_kwargs(subcommand)
        return given if own is None else given | {"weights_only": True} | own

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed."""
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of everything random: weights, environments, actions."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the environment, the callbacks and the optimizer."""
        add_arguments(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.command = subcommand  # type: ignore[attr-defined]
        parser.add_argument("--help-all", action=HelpAll, help="Show every option and exit.")
        if subcommand == "test":
            text = "Episodes to record, greedily, into videos/ of the run folder (mp4)."
            parser.add_argument("--video", type=int, default=0, help=text)
        if subcommand == "predict":
            text = "Of the episodes: npz, or minari for a data set with the actions as the environment took them."
            parser.add_argument("--format", type=Literal["npz", "minari"], default="npz", help=text)
        if subcommand != "fit":
            text = "Whether to play with an untrained policy, where no --ckpt_path is given."
            parser.add_argument("--untrained", type=bool, default=False, help=text)
        return parser

    def open_checkpoint(self) -> None:
        """Read the checkpoint that is named; lock its run's folder if training goes on there."""
        self.typed = typed = typed_options(self.words)
        self.root = Path(typed.get("trainer.default_root_dir") or ROOT)
        name = None if typed.get("name") in (None, "null") else str(typed["name"])
        check_name(name)
        self.base, named = dict[str, Any](), typed.get("ckpt_path")
        if self.command is None or named in (None, "null"):
            return
        if named == "auto" and self.command != "fit":
            raise ValueError(f"--ckpt_path auto is for fit; {self.command} takes a file, a run folder, last or best")
        if (path := find_checkpoint(str(named), self.root, typed.get("env.id"), name)) is not None:
            writes = is_first_process() and typed.get("trainer.fast_dev_run") in (None, "false", False)
            self.resumed = open_checkpoint(path, self.command == "fit" and writes)
            self.run = self.resumed.run
            self.base = base_config(self.resumed, self.command, typed)
        self.words += ["--ckpt_path", str(self.resumed.path) if self.resumed else "null"]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the options, on top of the configuration of the checkpoint that is named."""
        arguments, command = self.words, self.command
        refuse_place(self.typed)
        if command is not None:
            place = arguments.index(command) + 1
            laid_under = ["--config", json.dumps(self.base)] if self.base else []
            arguments[place:place] = [*laid_under, *implied(self.typed, self.base)]
        following = [*arguments[1:], "-"]
        words = [HELP_OF.get(w, w) if n.startswith("-") else w for w, n in zip(arguments, following, strict=True)]
        self.config = parser.parse_args(words)
        config = self.config[self.config["subcommand"]]
        check_config(config)
        if command != "fit" and config.ckpt_path is None and not config.untrained:
            raise ValueError(f"{command} needs --ckpt_path; --untrained true plays with an untrained policy")

    def _parse_ckpt_path(self) -> None:
        """Do nothing: :meth:`open_checkpoint` has, so that typed options win."""

    def before_instantiate_classes(self) -> None:
        """Choose the run's folder; have everything written there."""
        config = self.config[self.subcommand]
        saved = config.clone()
        saved.ckpt_path = None
        folder = self.resumed.folder if self.resumed else None
        self._config_text = self._parser("fit").dump(saved, skip_none=False) if self.subcommand == "fit" else ""
        if self.subcommand != "fit":
            config.trainer.logger = False
            config.trainer.limit_val_batches = config.trainer.limit_val_batches or None
        elif config.trainer.barebones or config.trainer.fast_dev_run:
            if config.trainer.barebones:
                config.trainer.logger = config.trainer.log_every_n_steps = None
            folder = None
        else:
            if self.run is None and is_first_process():
                root, env, name = config.trainer.default_root_dir, folder_name(config.env.id), config.name or ""
                parent = folder.parent if folder else Path(root, env, name)
                self.run = RunFolder.new(parent)
            folder = self.run.path if self.run else None
        if folder is not None:
            config.trainer.default_root_dir = str(folder)
            place_logger(config.trainer.logger, folder, config.name)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make the Trainer, with the callbacks that every run has."""
        config = self._get(self.config_init, "trainer")
        self.stop = self._get(self.config_init, "stop")
        callbacks = [self.stop, self._get(self.config_init, "lines")]
        checkpoints = config.enable_checkpointing is not False
        if self.subcommand == "fit" and not config.fast_dev_run:
            callbacks += [GracefulInterrupt()]
            if self.resumed is not None:
                callbacks += [OptimizerOptions()]
            if not config.barebones:
                source = self.resumed.folder if self.resumed else None
                every = None if checkpoints else 10.0
                self.recorder = RunRecorder(self._config_text, source, every, self.pictures)
                callbacks += [self.recorder]
                callbacks += [self._get(self.config_init, "checkpoint")] * checkpoints
        if config.enable_progress_bar is not False and not config.barebones:
            callbacks += [UpdateProgressBar() if sys.stdout.isatty() else ProgressLines()]
        if self.subcommand == "predict":
            callbacks += [PredictionWriter(self._get(self.config, "format"))]
        if self.subcommand in ("validate", "test"):
            path, update = (self.resumed.path, self.resumed.checkpoint["global_step"]) if self.resumed else (None, 0)
            callbacks += [EvaluationReport(path, update)]
        return self._instantiate_trainer({**config, **kwargs}, callbacks)

    def _before_any(self) -> None:
        """Refuse a checkpoint that does not fit, and a video of what cannot be recorded."""
        if self.resumed is not None:
            check_fits(self.model, self.resumed, self.subcommand == "fit")
        if self._get(self.config, "video"):
            recordable(self.model.env)

    before_fit = before_validate = before_test = before_predict = before_watch = before_export = _before_any

    def after_test(self) -> None:
        """Record a video, where one is asked for."""
        if episodes := self._get(self.config, "video"):
            folder = Path(self.trainer.default_root_dir, "videos")
            name = f"test_{self.resumed.checkpoint['global_step'] if self.resumed else 0}"
            for path in record(self.model, self.model.env, folder, name, episodes, self.datamodule.seed):
                print(f"Video: {path}")

    def fit(self, model: Any, **kwargs: Any) -> None:
        """Train, unless the run that is resumed has ended."""
        if self.resumed is not None:
            if (reason := already_ended(self.resumed, self.model, self.stop, self.trainer)) is not None:
                return self._say_ended(reason)
        self._say_begun()
        self.trainer.fit(model, **kwargs)
        self._say_where()

    def _say_begun(self) -> None:
        """Print the first line: the time, and which run it is."""
        if self.run is not None:
            text = f"Run folder: {self.run.path}"
            if self.resumed is not None:
                text = going_on(self.resumed, self.run.path, self.base, yaml.safe_load(self._config_text))
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}   {text}")

    def _say_ended(self, reason: str) -> None:
        """Say that there is nothing to do; draw the picture if a kill came before it."""
        assert self.resumed is not None
        if is_first_process():
            print(f"{self.resumed.folder or self.resumed.path} has already ended: {reason}")
        if self.pictures and (run := self.resumed.run) is not None and not (run.path / "learning_curve.png").exists():
            draw(run.path)

    def _say_where(self) -> None:
        """Print the closing lines: why the run ended, where it is, and how to go on if it was interrupted."""
        interrupts = [c for c in self.trainer.callbacks if isinstance(c, GracefulInterrupt)]  # type: ignore[attr-defined]
        number = interrupts[0].signal if interrupts else None
        self.exit_code = 0 if number is None else 128 + number
        if self.run is None or self.recorder is None or not self.recorder.begun:
            return
        print(f"Ended: {self.recorder.summary['reason']}. Run folder: {self.run.path}")
        last = self.run.path / "checkpoints" / "last.ckpt"
        if number is not None and last.exists():
            step = self.trainer.global_step
            print(f"Stopped after update {step}. Go on with: {program()} fit --ckpt_path {last}")


def model_class(path: str | None) -> type[Reinforce]:
    """Import the class of the agent by its path: ``Reinforce``, unless another is named.

    Raises:
        ValueError: it is no class derived from Reinforce, or there is none.
    """
    try:
        kind = Reinforce if path in (None, "null") else pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--model_class {path}: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Reinforce)):
        raise ValueError(f"--model_class must name a class derived from pg_lightning.Reinforce, not {path}")
    return kind


def is_first_process() -> bool:
    """Tell whether this is the process that writes, before the Trainer knows: the first of the first machine."""
    return rank_zero_only.rank == 0 and int(os.environ.get("NODE_RANK", 0)) == 0  # type: ignore[attr-defined]
