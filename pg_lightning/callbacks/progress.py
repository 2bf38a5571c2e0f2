"""Progress bar over updates."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


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
