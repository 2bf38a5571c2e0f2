"""Schedules: settings that change with the progress of a run, from 0 at its start to 1 at its end.

Progress is env steps taken / ``max_env_steps`` where the run has such a budget, else updates / ``max_steps``.
"""

import math
from abc import ABC, abstractmethod

from pg_lightning.hparams import Recorded


class Schedule(Recorded, ABC):
    """Interface of a schedule."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the value at a progress from 0 to 1."""


class Linear(Schedule):
    """Straight line from a first to a last value.

    Args:
        initial: value at the start of the run.
        final: value at its end.

    Raises:
        ValueError: a value that is not finite.

    >>> Linear(0.02)(0.25)
    0.015
    """

    def __init__(self, initial: float, final: float = 0.0) -> None:
        if not (math.isfinite(initial) and math.isfinite(final)):
            raise ValueError(f"initial and final must be finite numbers, not {initial} and {final}")
        self.initial, self.final = initial, final

    def __call__(self, progress: float) -> float:
        """Return the value on the line."""
        return self.initial + (self.final - self.initial) * progress


def check_positive(name: str, setting: float | Schedule) -> None:
    """Refuse a setting that is not more than 0 and finite; a schedule may have 0 at one end of the run.

    Raises:
        ValueError: with the setting's name.
    """
    ends = [setting(0.0), setting(1.0)] if isinstance(setting, Schedule) else [setting]
    if not all(0 <= value < math.inf for value in ends) or not any(ends):
        told = f"from {ends[0]} to {ends[1]}" if len(ends) > 1 else f"{setting}"
        raise ValueError(f"{name} must be more than 0 and finite, not {told}")


def value_of(setting: float | Schedule, progress: float | None) -> float:
    """Return the value of a number or a schedule.

    Raises:
        ValueError: a schedule in a run without an end, whose progress is unknown.
    """
    if not isinstance(setting, Schedule):
        return setting
    if progress is None:
        raise ValueError(
            "a schedule needs the end of the run: give StopAtRewardThreshold(max_env_steps=...) or "
            "Trainer(max_steps=...)"
        )
    return setting(min(progress, 1.0))
