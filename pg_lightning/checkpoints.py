"""Checkpoints: saved so that a kill cannot break them, found again, and read without running what they carry."""

import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from pg_lightning.runs import runs_of


class RunCheckpoint(Checkpoint):
    """Saves ``checkpoints/last.ckpt`` in the run's folder every few seconds and at the end, and the best one.

    Each is written beside its place, flushed to the disk and then moved there, so that a kill leaves the old one or the
    new one, never a part. The last one but one is kept as ``previous.ckpt``; ``best.ckpt`` is the one with the highest
    running reward among those saved.

    Args:
        every_seconds: how often, in seconds of wall-clock time; 0 for after every update.

    Raises:
        ValueError: a negative number.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        if every_seconds < 0:
            raise ValueError(f"every_seconds must be at least 0, not {every_seconds}")
        self.every_seconds, self.best = every_seconds, float("-inf")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; a ``last.ckpt`` that training did not go on from may be damaged and is not worth keeping."""
        self._saved_at, self._good = time.monotonic(), Path(trainer.ckpt_path or "").name == "last.ckpt"

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save if it is time."""
        due = time.monotonic() - self._saved_at >= self.every_seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state."""
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save ``last.ckpt``, and ``best.ckpt`` if the running reward was never higher at a save."""
        value = float(trainer.callback_metrics.get("running_reward", float("-inf")))
        is_best, self.best = value > self.best, max(value, self.best)
        folder = Path(trainer.default_root_dir, "checkpoints")
        for name in ["best.ckpt"] * is_best + ["last.ckpt"]:
            temporary = folder / f"{name}.tmp"
            try:
                trainer.save_checkpoint(temporary, weights_only=False)
                if trainer.is_global_zero:
                    put_in_place(temporary, folder / name, keep=name == "last.ckpt" and self._good)
            except OSError:  # The disk is full: leave no part behind, and what was good as it was.
                temporary.unlink(missing_ok=True)
                raise
        self._saved_at, self._good = time.monotonic(), True

    def state_dict(self) -> dict[str, Any]:
        """Return the highest running reward of a saved checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        self.best = state_dict["best"]


def put_in_place(temporary: Path, path: Path, keep: bool) -> None:
    """Flush a written file to the disk and move it to its place; what was there may be kept as ``previous.ckpt``."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    if keep and path.exists():
        spare = path.with_name("previous.ckpt.tmp")
        spare.unlink(missing_ok=True)
        try:
            os.link(path, spare)  # A second name, so that there is a last.ckpt at any moment.
        except OSError:  # No hard links here: for a moment there is only the previous one.
            os.replace(path, spare)
        os.replace(spare, path.with_name("previous.ckpt"))
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class OptimizerOptions(Callback):
    """On resuming, lets options of the optimizer that are no longer those of the checkpoint win over it.

    Another class of optimizer or other options of the learning-rate scheduler mean that these start anew.
    """

    def __init__(self) -> None:
        self.changed: dict[str, Any] = {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compare what the checkpoint was trained with to what is configured now."""
        saved, now = checkpoint["hyper_parameters"], pl_module.hparams
        if saved["lr_scheduler"] != now["lr_scheduler"]:
            checkpoint["lr_schedulers"] = []
        if not saved["optimizer"] or not now["optimizer"]:
            return
        if saved["optimizer"]["class_path"] != now["optimizer"]["class_path"]:
            checkpoint["optimizer_states"] = []
            return
        before, after = saved["optimizer"]["init_args"], now["optimizer"]["init_args"]
        self.changed = {name: value for name, value in after.items() if before.get(name) != value}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set what has changed, now that the optimizer is restored."""
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            group.update(self.changed)


def find_checkpoint(named: str, root: Path, env_id: str | None) -> Path:
    """Find the checkpoint that ``--ckpt_path`` names.

    Args:
        named: a file, or ``last`` or ``best``: that of the newest run. Where a ``last.ckpt`` cannot be read, or a kill
            came between two moves, ``previous.ckpt`` beside it takes its place, with a warning.
        root: the folder of all runs.
        env_id: consider this environment's runs only.

    Raises:
        FileNotFoundError: there is none.
        ValueError: what there is cannot be read.
    """
    path = Path(named)
    if named in ("last", "best"):
        runs = runs_of(root, env_id) if env_id else root
        names = ("last.ckpt", "previous.ckpt") if named == "last" else ("best.ckpt",)
        found = [path for name in names for path in runs.glob(f"**/version_*/checkpoints/{name}")]
        if not found:
            raise FileNotFoundError(
                f"--ckpt_path {named}: there is nothing to resume; no run in {runs} has a {named}.ckpt"
            )
        newest = max(found, key=lambda path: path.stat().st_mtime_ns)
        path = newest.with_name(f"{named}.ckpt")
    previous = path.with_name("previous.ckpt")
    if path.name != "last.ckpt" or not previous.is_file():
        if not path.is_file():
            raise FileNotFoundError(f"--ckpt_path: there is no checkpoint file {named!r}")
        return path
    try:
        read_checkpoint(path)
    except ValueError as error:
        read_checkpoint(previous)
        rank_zero_warn(f"{error}; going on from {previous} instead")
        return previous
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint without running any code that it might carry.

    Raises:
        ValueError: it is not a whole checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if "state_dict" not in checkpoint or "global_step" not in checkpoint:
            raise KeyError("it holds no training state")
    except Exception as error:  # Whatever a broken file makes the unpickler do.
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is damaged or no checkpoint"
        ) from error
    return checkpoint


def check_fits(agent: pl.LightningModule, checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse, with a ValueError, a checkpoint whose tensors are not those of this agent."""
    here = {name: tuple(tensor.shape) for name, tensor in agent.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    for name in here | there:
        if here.get(name) != there.get(name):
            raise ValueError(
                f"checkpoint {path} is of another policy: its {name} is {there.get(name, 'missing')}, "
                f"the configured one's {here.get(name, 'missing')}"
            )
