"""Progress over updates: a bar on a terminal, lines in a log file."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar


class UpdateProgressBar(TQDMProgressBar):
    """Shows updates, episodes, running reward and env steps taken per second, refreshed ten times a second."""

    train_description = "Updates"

    def __init__(self) -> None:
        super().__init__()
        self._shown_at = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar over all updates of the run."""
        self.train_progress_bar = self.init_train_tqdm()
        self.train_progress_bar.reset(total=trainer.max_steps if trainer.max_steps > 0 else None)
        self.train_progress_bar.initial = trainer.global_step
        self._started, self._first_step = time.perf_counter(), int(pl_module.num_env_steps)  # type: ignore[arg-type]

    def on_train_epoch_start(self, *_: Any) -> None:
        """Do nothing: the bar counts updates, over all epochs."""

    def on_train_epoch_end(self, *_: Any) -> None:
        """Do nothing: the bar counts updates, over all epochs."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Refresh the bar if a tenth of a second has passed."""
        if time.perf_counter() - self._shown_at > 0.1:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the final state and close the bar."""
        self._show(trainer, pl_module)
        self.train_progress_bar.close()

    def on_exception(self, *_: Any) -> None:
        """Close the bar, so that a message gets a line of its own."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._shown_at = time.perf_counter()
        steps = int(pl_module.num_env_steps) - self._first_step  # type: ignore[arg-type]
        shown = {"episodes": f"{int(pl_module.num_episodes):,}"}  # type: ignore[arg-type]
        if "running_reward" in trainer.callback_metrics:
            shown["running_reward"] = f"{trainer.callback_metrics['running_reward'].item():.1f}"
        shown["env_steps/s"] = f"{steps / (self._shown_at - self._started):,.0f}"
        self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_postfix_str(", ".join(f"{name}={value}" for name, value in shown.items()))


class ProgressLines(ProgressBar):
    """Prints a line every few seconds, for a log file: updates, env steps taken, running reward, env steps per second.

    Args:
        every_seconds: interval in seconds; 0 for after every update.
    """

    is_enabled = False  # There is no bar that other lines would have to be printed around.

    def __init__(self, every_seconds: float = 5.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._shown_at, self._shown_steps = 0.0, 0

    def enable(self) -> None:
        """Do nothing: lines are printed by the first process alone."""

    def disable(self) -> None:
        """Do nothing."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._shown_at, self._shown_steps = time.perf_counter(), int(pl_module.num_env_steps)  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Print the line if it is time; its rate is that since the line before."""
        now, steps = time.perf_counter(), int(pl_module.num_env_steps)  # type: ignore[arg-type]
        if (passed := now - self._shown_at) < self.every_seconds:
            return
        line = f"Update {trainer.global_step:6,d}   env steps {steps:11,d}"
        if "running_reward" in trainer.callback_metrics:
            line += f"   running reward {trainer.callback_metrics['running_reward'].item():9.2f}"
        pl_module.print(f"{line}   {(steps - self._shown_steps) / passed:9,.0f} env steps/s")
        self._shown_at, self._shown_steps = now, steps
