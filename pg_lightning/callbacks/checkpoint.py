"""Checkpoints of a run, saved so that a kill cannot break them, and changed optimizer options on resume."""

import math
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from pg_lightning.callbacks.recorder import LIMITS, RunRecorder, end_reason
from pg_lightning.directions import Direction
from pg_lightning.hparams import build, describe


class RunCheckpoint(Checkpoint):
    """Saves ``checkpoints/last.ckpt`` in the run's folder after the first update, every few seconds and at the end.

    Each is written beside its place, flushed to the disk and then moved there, so that a kill leaves the old one or the
    new one, never a part. The rows of the CSV files are written just before the move. The last one but one is kept as
    ``previous.ckpt``; ``best.ckpt`` is the one with the highest running reward among those saved.

    Args:
        every_seconds: interval, in seconds of wall-clock time; 0 for after every update.

    Raises:
        ValueError: an interval that is negative or not finite.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        if not 0 <= every_seconds < math.inf:
            raise ValueError(f"every_seconds must be at least 0 and finite, not {every_seconds}")
        self.every_seconds, self.best = every_seconds, float("-inf")
        self._ended: str | None = None
        self._max_steps = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; a ``last.ckpt`` that training did not resume may be damaged and is not worth keeping."""
        self._due_at, self._good = 0.0, Path(trainer.ckpt_path or "").name == "last.ckpt"
        self._saved, self._max_steps = trainer.global_step, trainer.max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save if it is time; after the validation of this update, if one is due."""
        if not validation_is_due(trainer):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time, now that the rows of this update are complete."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state, unless it is saved."""
        if self._saved != trainer.global_step:
            self.save(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if lacks_a_monitored_metric(trainer):
            return
        due = time.monotonic() >= self._due_at or end_reason(trainer) is not None
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Save ``last.ckpt``, and ``best.ckpt`` if the running reward was never higher at a save."""
        value = float(trainer.callback_metrics.get("running_reward", float("-inf")))
        is_best, self.best = value > self.best, max(value, self.best)
        reason = end_reason(trainer)
        self._ended = reason if reason in LIMITS else None
        temporary = Path(trainer.default_root_dir, "checkpoints", "last.ckpt.tmp")
        recorder = next((c for c in trainer.callbacks if isinstance(c, RunRecorder)), None)  # type: ignore[attr-defined]
        try:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)  # A symbolic link would be followed.
            trainer.save_checkpoint(temporary, weights_only=False)
            if trainer.is_global_zero:
                if recorder is not None:
                    recorder.flush(trainer)
                put_in_place(temporary, is_best, keep=self._good)
        except BaseException:  # The disk is full: leave no part behind, and what was good as it was.
            if trainer.is_global_zero:
                with suppress(OSError):
                    temporary.unlink()
            raise
        self._due_at, self._good = time.monotonic() + self.every_seconds, True
        self._saved = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Return the highest running reward of a saved checkpoint, the limit of updates, and what ended the run."""
        return {"best": self.best, "ended": self._ended, "max_steps": self._max_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the highest running reward from a checkpoint."""
        self.best = state_dict["best"]


def validation_is_due(trainer: pl.Trainer) -> bool:
    """Tell whether Lightning is about to validate, before the next update."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def lacks_a_monitored_metric(trainer: pl.Trainer) -> bool:
    """Tell whether a ReduceLROnPlateau watches what is not there: Lightning steps it after this, and ends the run."""
    configs = [config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau and config.strict]
    return any(config.monitor not in trainer.callback_metrics for config in configs)


def put_in_place(temporary: Path, is_best: bool, keep: bool) -> None:
    """Flush a written checkpoint to the disk and move it to its place, ``last.ckpt``, with ``best.ckpt`` first.

    Args:
        temporary: of the file, beside its place.
        is_best: whether it is ``best.ckpt``, too.
        keep: whether the ``last.ckpt`` that was there is kept as ``previous.ckpt``.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    last = temporary.with_name("last.ckpt")
    if is_best:
        second_name(temporary, last.with_name("best.ckpt"))
    if keep and last.exists():
        second_name(last, last.with_name("previous.ckpt"))
    os.replace(temporary, last)
    folder = os.open(last.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def second_name(path: Path, name: Path) -> None:
    """Have a file appear under a second name, in place of what was there; a checkpoint is never changed in place."""
    spare = name.with_name(name.name + ".tmp")
    with suppress(FileNotFoundError):
        spare.unlink()
    try:
        os.link(path, spare)
    except OSError:  # No hard links here.
        shutil.copyfile(path, spare)
    os.replace(spare, name)
    with suppress(FileNotFoundError):  # Two names of the same file stay as they are.
        spare.unlink()


class OptimizerOptions(Callback):
    """On resume, lets options of the optimizer and the scheduler that differ from those of the checkpoint win over it.

    Another class of optimizer starts its state anew; so does, with a warning, an option that needs a state which the
    checkpoint lacks (such as ``amsgrad``). Other options of the scheduler start the scheduler anew.
    """

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] = {}
        self._wanted: list[dict[str, Any]] = []

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the checkpoint until there is an optimizer to compare it with."""
        self._checkpoint = checkpoint

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what differs, before the states of the checkpoint are restored; leave out those that do not fit."""
        checkpoint, self._checkpoint = self._checkpoint, {}
        if not checkpoint:
            return
        agent: Any = pl_module
        saved, now = checkpoint["hyper_parameters"], agent.hparams
        if saved["lr_scheduler"] != now["lr_scheduler"]:
            checkpoint["lr_schedulers"] = []
        default = describe(agent.direction.optimizer)
        implied = default if saved["direction"] == now["direction"] else optimizer_of(saved["direction"])
        before, after = saved["optimizer"] or implied, now["optimizer"] or default
        names = before["init_args"].keys() | after["init_args"].keys()
        changed = {name for name in names if before["init_args"].get(name) != after["init_args"].get(name)}
        groups, old_groups = trainer.optimizers[0].param_groups, saved_groups(checkpoint)
        sizes = [[len(group["params"]) for group in some] for some in (groups, old_groups)]
        shares = [[group.get("share") for group in some] for some in (groups, old_groups)]
        if shares[0] != shares[1] or any(saved[name] != now[name] for name in ("lr_scheduler", "lr_schedule")):
            changed.add("lr")  # That of the checkpoint is what the other schedule, or share, has made of it.
        anew = before["class_path"] != after["class_path"] or sizes[0] != sizes[1]
        if not anew and changed and (lacking := lacking_states(agent, checkpoint)):
            rank_zero_warn(
                f"the checkpoint's optimizer has no {', '.join(sorted(lacking))}, which the options of now need: "
                "its state starts anew"
            )
            anew = True
        if anew:
            checkpoint["optimizer_states"] = []
        if "lr" in changed:  # A scheduler computes from where it began.
            changed.add("initial_lr")
        self._wanted = [{name: group[name] for name in changed & group.keys()} for group in groups]
        self._anew = anew

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set what differs, now that optimizer and scheduler are restored."""
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        groups = trainer.optimizers[0].param_groups
        for group, wanted in zip(groups, self._wanted, strict=False):
            group.update(wanted)
        for scheduler in schedulers:
            if any("lr" in wanted for wanted in self._wanted):
                scheduler.base_lrs = [group["initial_lr"] for group in groups]
            elif self._wanted and self._anew:
                for group, lr in zip(groups, scheduler.get_last_lr(), strict=True):
                    group["lr"] = lr


def optimizer_of(direction: dict[str, Any]) -> dict[str, Any]:
    """Describe the default optimizer of a direction, given its spec; without a name if its module is not imported."""
    try:
        built = build(direction, Direction, name="direction", instance=True)
    except ValueError:
        return {"class_path": None, "init_args": {}}  # Unlike any other, so the optimizer starts anew.
    return describe(built.optimizer)


def saved_groups(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameter groups of a checkpoint's optimizer."""
    return [group for state in checkpoint["optimizer_states"] for group in state["param_groups"]]


def lacking_states(agent: Any, checkpoint: dict[str, Any]) -> set[str]:
    """Name the entries that the agent's optimizer keeps for a parameter and the checkpoint's states do not have."""
    parameters = [torch.nn.Parameter(torch.zeros_like(parameter)) for parameter in agent.learning_parameters()]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = (agent.make_optimizer or agent.direction.optimizer)(parameters)
    optimizer.step()
    needed = {name for state in optimizer.state.values() for name in state}
    held = [set(state) for saved in checkpoint["optimizer_states"] for state in saved["state"].values() if state]
    return set[str]().union(*(needed - names for names in held))
