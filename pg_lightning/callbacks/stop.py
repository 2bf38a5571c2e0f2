"""Callbacks that end a run, at a reward threshold or a budget of env steps, and print how it goes."""

import math
from copy import deepcopy
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from pg_lightning.callbacks.confirm import UPDATES_BETWEEN, Confirmation
from pg_lightning.episodes import Outcome
from pg_lightning.metrics import RunningReward


class StopAtRewardThreshold(Callback):
    """Keeps the running reward over episodes, and ends training once it exceeds the threshold.

    A held-out evaluation of the policy as it would be deployed decides whether the environment is solved; where it is
    not, training goes on, and another attempt is made 10 updates later at the earliest.

    Args:
        threshold: running reward to exceed; by default the environment's own reward threshold. Without either, training
            is not ended for its reward.
        decay: share of the running reward that each episode keeps, at least 0 and below 1.
        initial: running reward before the first episode (article: 10). By default there is none, and the running
            reward is bias-corrected: free of its start.
        statistic: what is averaged over episodes: the undiscounted return, or the index of the last timestep, counted
            from 0, as the article does. The latter is no return, and needs a threshold of its own.
        min_episodes: episodes to see before the environment can count as solved.
        max_env_steps: env steps, taken in all processes, after which training ends, at the end of an update.
        confirm_episodes: fresh episodes that confirm a solution; 0 for none: the running reward decides alone.
        confirm: greedy actions, as ``act`` plays, or sampled ones, both without dropout.
        end_when_solved: whether training ends then; otherwise it goes on to its other limits.

    Attributes:
        threshold: the one in use, from ``setup`` on; ``None`` where there is none.
        running_reward: the metric.
        confirmation: the held-out evaluation; ``None`` where there is none.
        solved: whether the running reward exceeded the threshold after the last update, and that was confirmed; where
            training goes on nevertheless, whether that was so after any update.
        first_solved: what was counted when it was solved first, and by what measure; ``None`` before.
        reason: why training ends: "solved", "max_env_steps", or ``None`` where it goes on.

    Raises:
        ValueError: an argument out of range or not finite.
    """

    def __init__(
        self,
        threshold: float | None = None,
        decay: float = 0.99,
        initial: float | None = None,
        statistic: Literal["return", "last_timestep"] = "return",
        min_episodes: int = 100,
        max_env_steps: int | None = None,
        confirm_episodes: int = 100,
        confirm: Literal["greedy", "sampled"] = "greedy",
        end_when_solved: bool = True,
    ) -> None:
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"threshold must be a finite number or None, not {threshold}")
        if statistic not in ("return", "last_timestep"):
            raise ValueError(f"statistic must be 'return' or 'last_timestep', not {statistic!r}")
        if min_episodes < 0:
            raise ValueError(f"min_episodes must be at least 0, not {min_episodes}")
        if max_env_steps is not None and max_env_steps < 1:
            raise ValueError(f"max_env_steps must be at least 1 or None, not {max_env_steps}")
        self.running_reward = RunningReward(decay, initial)
        self.threshold, self.statistic = threshold, statistic
        self.min_episodes, self.max_env_steps = min_episodes, max_env_steps
        self.settings = {
            "threshold": threshold,
            "decay": decay,
            "initial": initial,
            "statistic": statistic,
            "min_episodes": min_episodes,
            "max_env_steps": max_env_steps,
            "confirm_episodes": confirm_episodes,
            "confirm": confirm,
            "end_when_solved": end_when_solved,
        }
        self.end_when_solved = end_when_solved
        self.first_solved: dict[str, Any] | None = None
        self.confirmation = Confirmation(confirm_episodes, confirm) if confirm_episodes else None
        self.reason: Literal["solved", "max_env_steps"] | None = None
        self.is_fitting = True

    @property
    def solved(self) -> bool:
        """Whether the threshold was exceeded after the last update, and that was confirmed where it is to be."""
        if self.threshold is None:
            return False
        if not self.end_when_solved and self.first_solved is not None:
            return self.first_solved["threshold"] >= self.threshold  # On resume there may be a higher one.
        return self.passed and (self.confirmation is None or self.confirmation.exceeds(self.threshold))

    @property
    def passed(self) -> bool:
        """Whether the running reward exceeded the threshold, over enough episodes, after the last update."""
        # At least one: an initial value is nobody's reward.
        if self.threshold is None or self.running_reward.episodes.item() < max(1, self.min_episodes):
            return False
        return self.running_reward.average().item() > self.threshold

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look up the environment's reward threshold if none was given; tell the agent where the run ends."""
        pl_module.max_env_steps = self.max_env_steps  # type: ignore[assignment]
        self.is_fitting = stage == "fit"
        if stage != "fit" or self.settings["threshold"] is not None:
            return
        agent: Any = pl_module
        threshold = agent.env.reward_threshold
        self.threshold = threshold if threshold is not None and math.isfinite(threshold) else None
        if self.statistic != "return" and self.threshold is not None:
            raise ValueError(
                f"statistic 'last_timestep' cannot be compared with the environment's own reward threshold "
                f"{self.threshold:g}, which is a return: give a threshold, or use statistic 'return'"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a resumed run that had ended, before another update; start anew with a new run."""
        if trainer.global_step == 0:
            self.running_reward.reset()
            self.first_solved = None
            if self.confirmation is not None:
                self.confirmation.reset()
        # Only here: set in on_fit_start, Lightning would skip on_train_start and on_train_end too.
        self._end_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Fold in the update's episodes; end training if they solved the environment or used up the budget."""
        agent: Any = pl_module
        self.running_reward.update(self._values(outputs["outcome"]))
        value = self.running_reward.average()
        trainer.callback_metrics["running_reward"] = value
        agent.metrics["running_reward"] = value.item()
        self._confirm(trainer, agent)
        if self.solved and (self.first_solved is None or self.first_solved["threshold"] < (self.threshold or 0)):
            counts = {name: int(getattr(agent, f"num_{name}")) for name in ("episodes", "env_steps")}
            measure = self.verdict()
            self.first_solved = {
                "threshold": self.threshold,
                "update": trainer.global_step,
                **counts,
                "measure": measure,
            }
        self._end_if_due(trainer, pl_module)

    def _values(self, outcome: Outcome) -> Tensor:
        """Return what is averaged, of each episode ``[E]``."""
        return outcome.returns if self.statistic == "return" else outcome.lengths - 1

    def _confirm(self, trainer: pl.Trainer, agent: Any) -> None:
        """Have a passed threshold confirmed, where an attempt is due; say so if it was not."""
        if self.confirmation is None or self.threshold is None or (self.solved and not self.end_when_solved):
            return
        self.confirmation.result = None
        if not self.passed or trainer.global_step < self.confirmation.next_update:
            return
        self.confirmation.attempt(trainer, agent, self._values)
        if not self.confirmation.exceeds(self.threshold):
            self.confirmation.next_update = trainer.global_step + UPDATES_BETWEEN
            what = f"{self.confirmation.result} of {self.confirmation.actions} actions do not exceed {self.threshold:g}"
            agent.print(f"Not confirmed (attempt {self.confirmation.attempts}): {what}; training goes on")

    def _end_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End training where the state that a checkpoint restores says so: before a resumed update as after it."""
        self.reason = None
        if self.solved and self.end_when_solved:
            self.reason = "solved"
        elif self.max_env_steps is not None and int(pl_module.num_env_steps) >= self.max_env_steps:  # type: ignore[arg-type]
            self.reason = "max_env_steps"
        if self.reason is not None:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the verdict."""
        pl_module.print(verdict(self, trainer))

    def state_dict(self) -> dict[str, Any]:
        """Return the running reward, the verdict and the settings, for the checkpoint."""
        confirmation = self.confirmation and self.confirmation.state_dict()
        return {
            "running_reward": dict(self.running_reward.state_dict()),
            "confirmation": confirmation,
            "solved": self.solved,
            "first_solved": self.first_solved,
            "reason": self.reason,
            "settings": self.settings,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the running reward from a checkpoint, to go on with it; an evaluation has no use for it.

        The verdict follows from it and from the settings of now: a solved run with a higher threshold goes on.

        Raises:
            ValueError: the running reward of another statistic.
        """
        if not self.is_fitting:
            return
        if (before := state_dict["settings"]["statistic"]) != self.statistic:
            raise ValueError(
                f"statistic {self.statistic!r} cannot go on with the checkpoint's running reward of {before!r}"
            )
        # A copy, because the metric works in place.
        self.running_reward.load_state_dict(deepcopy(state_dict["running_reward"]))
        self.first_solved = state_dict["first_solved"]
        if self.confirmation is not None and (state := state_dict.get("confirmation")) is not None:
            self.confirmation.load_state_dict(state)

    def verdict(self) -> str:
        """Say in a few words that the environment is solved, and by what measure."""
        if self.confirmation is None:
            value = self.running_reward.average().item()
            return f"solved (not confirmed): the running reward {value:.2f} exceeds {self.threshold:g}"
        return f"solved and confirmed: {self.confirmation.result} exceeds {self.threshold:g}"


def verdict(stop: StopAtRewardThreshold, trainer: pl.Trainer) -> str:
    """Say in one line whether the environment was solved, and what ended training if it is a limit.

    Without a threshold there is nothing to solve.
    """
    episodes, value = int(stop.running_reward.episodes), stop.running_reward.average().item()
    after = f"after {episodes:,} episodes"
    if episodes == 0:
        line = "No episode was played"
    elif stop.threshold is None:
        line = f"Ended {after}: the running reward is {value:.2f}; there is no threshold to reach"
    elif stop.solved:
        solved, _, measure = (stop.first_solved["measure"] if stop.first_solved else stop.verdict()).partition(": ")
        first = stop.first_solved["episodes"] if stop.first_solved else episodes
        line = f"{solved.capitalize()} after {first:,} episodes: {measure}"
    elif stop.passed:
        line = f"Not solved {after}: the running reward {value:.2f} exceeds {stop.threshold:g}, which was not confirmed"
    elif value > stop.threshold:
        line = (
            f"Not solved {after}: the running reward {value:.2f} exceeds {stop.threshold:g}, but at least "
            f"{stop.min_episodes:,} episodes are needed"
        )
    else:
        line = f"Not solved {after}: the running reward {value:.2f} does not exceed {stop.threshold:g}"
    if stop.reason == "max_env_steps":
        line += f"; max_env_steps={stop.max_env_steps:,} is reached"
    elif stop.reason is None and 0 < trainer.max_steps <= trainer.global_step:
        line += f"; max_steps={trainer.max_steps:,} is reached"
    if stop.confirmation is not None and stop.confirmation.attempts > stop.solved:
        line += f"; attempts to confirm: {stop.confirmation.attempts}"
    return line + "."
