"""Confirmation: a held-out evaluation decides whether an environment is solved."""

import time
from typing import Any, Literal

import pytorch_lightning as pl

from pg_lightning.episodes import Outcome
from pg_lightning.evaluation import Evaluation, evaluate
from pg_lightning.sampling.playing import play

UPDATES_BETWEEN = 10
"""Updates from one attempt to the next, at least."""


class Confirmation:
    """Plays fresh episodes with the policy that would be deployed, and compares their mean with the threshold.

    Every process plays the same episodes, so that all come to the same decision. Training is untouched by it.

    Args:
        episodes: to play in an attempt.
        actions: greedy ones, as ``act`` plays, or sampled ones, both without dropout.

    Attributes:
        attempts: made so far; each plays other episodes.
        result: of the attempt after the last update, ``None`` where there was none.
        next_update: the first one after which the next attempt may be made.
        env_steps: taken by all attempts.
        seconds: that all attempts took.

    Raises:
        ValueError: fewer than one episode; other actions.
    """

    def __init__(self, episodes: int = 100, actions: Literal["greedy", "sampled"] = "greedy") -> None:
        if episodes < 1:
            raise ValueError(f"confirm_episodes must be at least 1, or 0 for no confirmation, not {episodes}")
        if actions not in ("greedy", "sampled"):
            raise ValueError(f"confirm must be 'greedy' or 'sampled', not {actions!r}")
        self.episodes, self.actions = episodes, actions
        self.reset()

    def reset(self) -> None:
        """Forget all attempts, for a new run."""
        self.attempts, self.next_update, self.env_steps, self.seconds = 0, 0, 0, 0.0
        self.result: Evaluation | None = None

    def attempt(self, trainer: pl.Trainer, agent: Any, statistic: Any) -> None:
        """Play the episodes of the next attempt.

        Args:
            trainer: whose data module says how the environments are stepped.
            agent: with the policy.
            statistic: maps an Outcome to the values ``[E]`` that the threshold is compared with.
        """
        started, data = time.perf_counter(), trainer.datamodule  # type: ignore[attr-defined]
        settings = {name: getattr(data, name) for name in ("seed", "num_envs", "backend") if data is not None}
        env, draw = getattr(data, "env", None) or agent.env, self.attempts + 1  # validate plays the draw 0.
        try:
            episodes = play(agent.policy, env, self.episodes, greedy=self.actions == "greedy", draw=draw, **settings)
        except NotImplementedError:
            agent.print("The policy's distribution has no mode: sampled actions confirm that it has solved.")
            self.actions = "sampled"
            episodes = play(agent.policy, env, self.episodes, greedy=False, draw=draw, **settings)
        outcome: Outcome = episodes.outcome()
        self.result = evaluate(outcome._replace(returns=statistic(outcome).double()))
        self.attempts = draw
        self.env_steps += episodes.env_steps
        self.seconds += time.perf_counter() - started

    def exceeds(self, threshold: float) -> bool:
        """Tell whether the last update's attempt had a mean above the threshold."""
        return self.result is not None and self.result.mean > threshold

    def summary(self) -> dict[str, Any]:
        """Return the settings, the attempts, their cost and the last result, as plain data."""
        result = None if self.result is None else self.result._asdict()
        counts = {"attempts": self.attempts, "env_steps": self.env_steps, "seconds": round(self.seconds, 3)}
        return {"actions": self.actions, **counts, "result": result}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on."""
        return self.summary() | {"next_update": self.next_update}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the attempts from a checkpoint."""
        self.attempts, self.next_update = state["attempts"], state["next_update"]
        self.env_steps, self.seconds = state["env_steps"], state["seconds"]
        self.result = None if state["result"] is None else Evaluation(**state["result"])
