"""Callbacks: stop at the reward threshold, print, show progress, end gracefully."""

import signal
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.profilers import PassThroughProfiler

from pg_lightning.envs import reward_threshold
from pg_lightning.episodes import Batch
from pg_lightning.metrics import RunningReward
from pg_lightning.reinforce import Reinforce


class NoProfiler(PassThroughProfiler):
    """Measures nothing, like Lightning's default, but makes no context anew for each of the 60 hooks of an update."""

    _context = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager:  # type: ignore[override]
        """Return a context that does nothing."""
        return self._context


def agent_of(trainer: pl.Trainer) -> Reinforce:
    """Return the agent that is trained."""
    assert isinstance(trainer.lightning_module, Reinforce)
    return trainer.lightning_module


class StopAtRewardThreshold(Callback):
    """Keeps the running reward over episodes, and ends training once it exceeds the threshold.

    Args:
        threshold: running reward to exceed; by default the environment's own reward threshold. Without either, training
            is never ended.
        decay: how much of the running reward each episode keeps, at least 0 and below 1.
        initial: running reward before the first episode.
        statistic: what is averaged over episodes: the undiscounted return, or the index of the last timestep, counted
            from 0, as the article does.

    Raises:
        ValueError: a decay outside of [0, 1).
    """

    def __init__(
        self,
        threshold: float | None = None,
        decay: float = 0.99,
        initial: float = 10.0,
        statistic: Literal["return", "last_timestep"] = "return",
    ) -> None:
        self.threshold, self.statistic, self.solved = threshold, statistic, False
        self.running_reward = RunningReward(decay, initial)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look up the environment's reward threshold if none was given."""
        if self.threshold is None:
            self.threshold = reward_threshold(pl_module.hparams["env_id"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Fold in the update's episodes; stop if that solved the environment."""
        agent = agent_of(trainer)
        outcome = agent.outcome
        self.running_reward.update(outcome.returns if self.statistic == "return" else outcome.lengths - 1)
        value = self.running_reward.value  # What compute() returns, without its ceremony at every update.
        agent.metrics["running_reward"] = value.item()
        trainer.callback_metrics["running_reward"] = value
        self.solved = self.threshold is not None and value.item() > self.threshold
        self.last_length = int(outcome.lengths[-1])
        if self.solved:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if the environment was solved."""
        if self.solved:
            pl_module.print(
                f"Solved after {pl_module.num_episodes} episodes: the running reward "
                f"{self.running_reward.compute():.2f} exceeds {self.threshold:g}; "
                f"the last episode lasted {self.last_length} timesteps."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the running reward, for the checkpoint."""
        return {"running_reward": dict(self.running_reward.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the running reward from a checkpoint."""
        self.running_reward.load_state_dict(state_dict["running_reward"])


class EpisodeLines(Callback):
    """Prints a line every so many episodes: index and length of the last one, and the running reward.

    Args:
        every_n_episodes: how often, counted in episodes; 0 for never. An update of many episodes prints one line at
            most.

    Raises:
        ValueError: a negative number.
    """

    def __init__(self, every_n_episodes: int = 500) -> None:
        if every_n_episodes < 0:
            raise ValueError(f"every_n_episodes must be at least 0, not {every_n_episodes}")
        self.every_n_episodes = every_n_episodes

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Print the line if it is time."""
        if self.every_n_episodes == 0:
            return
        agent = agent_of(trainer)
        lengths, last = agent.outcome.lengths, int(agent.num_episodes) - 1
        if last % self.every_n_episodes < len(lengths):
            average = agent.metrics.get("running_reward", agent.metrics["episode_return"])
            length = int(lengths[-1])
            agent.print(f"Episode {last:6d}   last length {length:5d}   average length {average:8.2f}")


class UpdateProgressBar(TQDMProgressBar):
    """Shows updates, episodes, running reward and environment steps per second, ten times a second."""

    train_description = "Updates"

    def __init__(self) -> None:
        super().__init__()
        self._shown_at = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Open the bar over all updates of the run."""
        self.train_progress_bar = self.init_train_tqdm()
        trainer = self.trainer
        self.train_progress_bar.reset(total=trainer.max_steps if trainer.max_steps > 0 else None)
        self.train_progress_bar.initial = trainer.global_step
        self._started, self._first_step = time.perf_counter(), agent_of(trainer).num_env_steps.item()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Do nothing: the bar counts updates, over all epochs."""

    def on_train_epoch_end(self, *_: Any) -> None:
        """Do nothing: the bar counts updates, over all epochs."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Refresh the bar if a tenth of a second has passed."""
        if time.perf_counter() - self._shown_at > 0.1:
            self._show(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the final state and close the bar."""
        self._show(trainer)
        self.train_progress_bar.close()

    def on_exception(self, *_: Any) -> None:
        """Close the bar, so that a message gets a line of its own."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()

    def _show(self, trainer: pl.Trainer) -> None:
        agent = agent_of(trainer)
        self._shown_at = time.perf_counter()
        speed = (int(agent.num_env_steps) - self._first_step) / (self._shown_at - self._started)
        self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_postfix_str(
            f"episodes={int(agent.num_episodes):,}, running_reward={agent.metrics.get('running_reward', 0):.1f}, "
            f"env_steps/s={speed:,.0f}"
        )


class GracefulInterrupt(Callback):
    """Ends training after the running update on Ctrl-C or SIGTERM; a second Ctrl-C ends it at once.

    Attributes:
        signal: number of the signal that came, or ``None``.
    """

    signal: int | None = None

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: Any) -> None:
            if self.signal == number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number
            pl_module.print("Stopping after this update (Ctrl-C again to stop at once) ...")

        self._previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End training if a signal came, to whichever process."""
        if trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.on_train_end(trainer, pl_module)
