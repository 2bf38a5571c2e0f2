"""Callbacks that write what a run was: its episodes, its summary and its learning curve."""

import csv
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pg_lightning.callbacks import StopAtRewardThreshold, agent_of
from pg_lightning.episodes import Batch, Episodes
from pg_lightning.reinforce import Reinforce
from pg_lightning.runs import rewrite_csv, write_whole


class RunRecorder(Callback):
    """Writes what the run was into its folder: ``episodes.csv``, ``summary.json`` and ``learning_curve.png``.

    The folder is the Trainer's ``default_root_dir``. A resumed run goes on with the files it finds there.
    """

    def __init__(self) -> None:
        self.seconds, self._rows = 0.0, list[tuple[Any, ...]]()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open ``episodes.csv``; forget what it says of episodes after the checkpoint that training goes on from."""
        agent = agent_of(trainer)
        self._started = time.perf_counter()
        self._folder = Path(trainer.default_root_dir)
        self._path = self._folder / "episodes.csv"
        if trainer.is_global_zero:
            header = ["episode", "update", "return", "length", "truncated"]
            rewrite_csv(self._path, header, "episode", int(agent.num_episodes) - 1)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Note the update's episodes."""
        agent = agent_of(trainer)
        values = list(zip(*(column.tolist() for column in agent.outcome), strict=True))
        first = int(agent.num_episodes) - len(values)
        self._rows += [(first + i, trainer.global_step, *row) for i, row in enumerate(values)]
        if len(self._rows) > 10_000:
            self._flush(trainer)

    def _flush(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self._rows:
            with self._path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(self._rows)
        self._rows.clear()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write down what was sampled until then, if that is still possible."""
        with suppress(OSError):
            self._flush(trainer)

    def _train_seconds(self) -> float:
        return self.seconds + time.perf_counter() - self._started

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Bring the files up to the checkpoint, so that one never knows more than the other."""
        self._flush(trainer)
        agent_of(trainer).log_update()
        for logger in trainer.loggers:
            logger.save()

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds trained so far, for the checkpoint."""
        return {"seconds": self._train_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seconds trained so far from a checkpoint."""
        self.seconds = state_dict["seconds"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the summary and draw the learning curve."""
        seconds = self._train_seconds()
        if not trainer.is_global_zero:
            return
        agent = agent_of(trainer)
        self._flush(trainer)
        summary = summarize(trainer, agent) | {
            "train_seconds": round(seconds, 3),
            "env_steps_per_second": round(int(agent.num_env_steps) / seconds),
        }
        write_whole(self._folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        from pg_lightning.plotting import plot_learning_curve  # Here, so that nothing else waits for matplotlib.

        plot_learning_curve(self._path, self._folder / "learning_curve.png", summary)


def summarize(trainer: pl.Trainer, agent: Reinforce) -> dict[str, Any]:
    """Say what came out of a run, as plain data."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    stop = next((callback for callback in callbacks if isinstance(callback, StopAtRewardThreshold)), None)
    return {
        "env_id": agent.hparams["env_id"],
        "seed": getattr(trainer.datamodule, "seed", None),  # type: ignore[attr-defined]
        "solved": stop is not None and stop.solved,
        "threshold": stop and stop.threshold,
        "running_reward": stop and stop.running_reward.value.item(),
        "episodes": int(agent.num_episodes),
        "env_steps": int(agent.num_env_steps),
        "updates": trainer.global_step,
    }


class PredictionWriter(Callback):
    """Writes the episodes that ``predict`` played to ``episodes.npz`` in the Trainer's ``default_root_dir``."""

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Episodes, *_: Any
    ) -> None:
        """Write the file and say where it is."""
        names = ("observations", "actions", "rewards", "lengths", "terminated", "truncated")
        path = Path(trainer.default_root_dir, "episodes.npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{name: getattr(batch, name).cpu().numpy() for name in names})
        print(f"{len(batch)} greedy episodes, mean return {batch.returns.mean():.2f}: {path}")
