"""Callback that writes a run's files: configuration, episodes, metrics, summary, learning curve."""

import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Timer

from pg_lightning.callbacks.files import RunCSVLogger, Table, write_whole
from pg_lightning.callbacks.interrupt import GracefulInterrupt
from pg_lightning.callbacks.pictures import draw, log_pictures
from pg_lightning.callbacks.stop import StopAtRewardThreshold

LIMITS = ("solved", "max_env_steps", "max_steps", "max_epochs")
"""Reasons for which a run has ended: resumed with the same options, it does not go on."""


DRAW_EVERY = 60.0
"""Seconds between two drawings while training goes on; each takes about one."""


class RunRecorder(Callback):
    """Writes ``config.yaml``, ``episodes.csv``, ``times.csv``, ``summary.json`` and pictures into the run's folder.

    The folder is the Trainer's ``default_root_dir``. The files change only when a checkpoint is saved, just before it
    moves to its place (``RunCheckpoint`` calls :meth:`flush`), so that all of them belong to the same update; in a run
    without checkpoints, after its first update, every few seconds and at the end. The pictures are drawn then, once a
    minute at most, and at the end.

    Args:
        config: text of ``config.yaml``; by default there is no such file.
        source: folder of the run that is resumed; the rows of its CSV files up to the checkpoint are taken over.
        every_seconds: interval of a run without ``RunCheckpoint``; ``None`` where there is one.
        pictures: whether the pictures are drawn.

    Attributes:
        begun: whether the files are there.
        seconds: of training, before this process.
    """

    def __init__(
        self,
        config: str | None = None,
        source: Path | None = None,
        every_seconds: float | None = None,
        pictures: bool = True,
    ) -> None:
        self.config, self.source, self.every_seconds, self.pictures = config, source, every_seconds, pictures
        self.begun, self.seconds = False, 0.0
        self.tables, self._rows = list[Table](), dict[str, int]()
        self._started = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out what there is to continue; nothing is written yet."""
        self._started, self._due_at, self._drawn_at = time.perf_counter(), 0.0, time.monotonic()
        self.folder = Path(trainer.default_root_dir)
        columns = ["episode", "update", "return", "length", "truncated"]
        self.episodes = Table(self.folder / "episodes.csv", columns)
        self.times = Table(self.folder / "times.csv", ["update", "env_steps", "seconds"])
        metrics = [logger.table for logger in trainer.loggers if isinstance(logger, RunCSVLogger)]
        self.tables = [self.episodes, self.times, *metrics]
        if self.source is not None:
            for table in self.tables:
                table.resume(self.source / table.path.name, self._rows.get(table.path.name))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the update's episodes, and the seconds of training until now."""
        returns, lengths, truncated, _ = (column.tolist() for column in outputs["outcome"])
        first = int(pl_module.num_episodes) - len(lengths)  # type: ignore[arg-type]
        for place, row in enumerate(zip(returns, lengths, truncated, strict=True)):
            values = (first + place, trainer.global_step, *row)
            self.episodes.rows.append(dict(zip(self.episodes.columns, values, strict=True)))
        steps, seconds = int(pl_module.num_env_steps), round(self.train_seconds(), 4)  # type: ignore[arg-type]
        self.times.rows.append({"update": trainer.global_step, "env_steps": steps, "seconds": seconds})
        if self.every_seconds is not None and time.monotonic() >= self._due_at:
            self.flush(trainer)
            self._due_at = time.monotonic() + self.every_seconds

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the files up to the last update, where no checkpoint does."""
        if self.every_seconds is not None:
            self.flush(trainer)

    def flush(self, trainer: pl.Trainer) -> None:
        """Bring the files up to this update."""
        if not trainer.is_global_zero:
            self.episodes.rows.clear()
            self.times.rows.clear()
            return
        log_if_due(trainer)
        if self.config is not None:
            write_whole(self.folder / "config.yaml", self.config)
            self.config = None
        for table in self.tables:
            table.flush()
        for logger in trainer.loggers:
            logger.save()
        self.summary = summarize(trainer, self.train_seconds())
        write_whole(self.folder / "summary.json", json.dumps(self.summary, indent=2) + "\n")
        self.begun = True
        if self.pictures and time.monotonic() >= self._drawn_at + DRAW_EVERY:
            draw(self.folder)
            self._drawn_at = time.monotonic()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the pictures, and hand them to the loggers."""
        if self.pictures and trainer.is_global_zero and self.begun:
            log_pictures(trainer, draw(self.folder))

    def train_seconds(self) -> float:
        """Return the seconds of training, of all processes that resumed the run one after the other."""
        return self.seconds + time.perf_counter() - self._started

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the seconds of training and the number of rows into the checkpoint."""
        log_if_due(trainer)
        rows = {table.path.name: len(table) for table in self.tables}
        checkpoint["callbacks"][self.state_key] = {"seconds": self.train_seconds(), "rows": rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seconds of training and the number of rows from a checkpoint."""
        self.seconds, self._rows = state_dict["seconds"], state_dict["rows"]


def log_if_due(trainer: pl.Trainer) -> None:
    """Have this update's metrics logged, if they are to be, before the module does it at the end of the update."""
    agent: Any = trainer.lightning_module
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if every and (trainer.global_step % every == 0 or end_reason(trainer) is not None):
        agent.log_update()


def end_reason(trainer: pl.Trainer) -> str | None:
    """Return why training ends after this update: one of LIMITS, another word, or ``None`` where it goes on."""
    if 0 < trainer.max_steps <= trainer.global_step:
        limit = "max_steps"
    elif 0 < (trainer.max_epochs or -1) * trainer.num_training_batches <= trainer.global_step:
        limit = "max_epochs"
    else:
        limit = None
    if not trainer.should_stop or not trainer.fit_loop._can_stop_early:
        return limit
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    reasons = [callback.reason for callback in callbacks if isinstance(callback, StopAtRewardThreshold)]
    if reason := next(filter(None, reasons), limit):
        return reason
    if any(isinstance(callback, GracefulInterrupt) and callback.signal is not None for callback in callbacks):
        return "interrupted"
    if any(isinstance(callback, Timer) and (callback.time_remaining() or 1) <= 0 for callback in callbacks):
        return "max_time"
    return "stopped by a callback"


def summarize(trainer: pl.Trainer, seconds: float) -> dict[str, Any]:
    """Return the results of a run up to this update as plain data."""
    agent: Any = trainer.lightning_module
    stop = next((c for c in trainer.callbacks if isinstance(c, StopAtRewardThreshold)), None)  # type: ignore[attr-defined]
    env_steps, timesteps = int(agent.num_env_steps), int(agent.num_timesteps)
    return {
        "env_id": agent.env.name,
        "seed": getattr(trainer.datamodule, "seed", None),  # type: ignore[attr-defined]
        "solved": None if stop is None or stop.threshold is None else stop.solved,
        "first_solved": stop and stop.first_solved,
        "reason": end_reason(trainer),
        "confirmation": stop and stop.confirmation and stop.confirmation.summary(),
        "threshold": stop and stop.threshold,
        "running_reward": stop and stop.running_reward.average().item(),
        "episodes": int(agent.num_episodes),
        "updates": trainer.global_step,
        "env_steps": env_steps,
        "timesteps": timesteps,
        "seconds": round(seconds, 3),
        "env_steps_per_second": round(env_steps / seconds),
        "timesteps_per_second": round(timesteps / seconds),
    }
