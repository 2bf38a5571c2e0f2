"""Callback that prints how training goes, a line every so many episodes."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pg_lightning.callbacks.stop import StopAtRewardThreshold


class EpisodeLines(Callback):
    """Prints a line every so many episodes: index, length and return of the last one, and the running reward.

    Where :class:`StopAtRewardThreshold` averages the last timestep, the line has the article's wording, and "average
    length" is that average.

    Args:
        every_n_episodes: interval in episodes; 0 for never. An update of many episodes prints one line at most.

    Raises:
        ValueError: a negative number.
    """

    def __init__(self, every_n_episodes: int = 500) -> None:
        if every_n_episodes < 0:
            raise ValueError(f"every_n_episodes must be at least 0, not {every_n_episodes}")
        self.every_n_episodes = every_n_episodes

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the line if it is time."""
        outcome, last = outputs["outcome"], int(pl_module.num_episodes) - 1  # type: ignore[arg-type]
        if self.every_n_episodes == 0 or last % self.every_n_episodes >= len(outcome.lengths):
            return
        stop = next((c for c in trainer.callbacks if isinstance(c, StopAtRewardThreshold)), None)  # type: ignore[attr-defined]
        average = stop.running_reward.average().item() if stop else None
        length = int(outcome.lengths[-1])
        if stop and stop.statistic == "last_timestep":
            line = f"Episode {last:6d}   last length {length:5d}   average length {average:8.2f}"
        else:
            line = f"Episode {last:6d}   length {length:5d}   return {outcome.returns[-1].item():9.2f}"
            line += f"   running reward {average:9.2f}" if stop else ""
        pl_module.print(line)
