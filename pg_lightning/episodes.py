"""The complete episodes of one update, packed one after the other."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from operator import or_
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from pg_lightning.functional import episode_sums


@dataclass(eq=False)
class Episodes:
    r"""Everything one update sampled. Shapes are checked at construction.

    Attributes:
        observations: :math:`S_t` ``[T, *obs]``.
        actions: :math:`A_t` ``[T, *act]``, as the policy's distribution sampled them.
        log_probs: behaviour log-probs ``[T]``: :math:`\log\pi(A_t|S_t)` of the policy that acted.
        rewards: ``rewards[t]`` is :math:`R_{t+1}` ``[T]``.
        masks: for each dropout layer of the policy, in module order, which units it kept ``[T, *units]``, bool.
        lengths: timesteps of each episode ``[E]``.
        terminated: whether the MDP ended the episode ``[E]``.
        truncated: whether it was cut from outside, as by a time limit ``[E]``.
        update: index of the update they were sampled for: optimizer steps taken by then.

    Raises:
        ValueError: where a shape does not fit the others.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    masks: tuple[Tensor, ...]
    lengths: Tensor
    terminated: Tensor
    truncated: Tensor
    update: int

    def __post_init__(self) -> None:
        """Refuse rows that do not belong together."""
        per_timestep = [self.observations, self.actions, self.log_probs, self.rewards, *self.masks]
        if len({len(rows) for rows in per_timestep}) != 1:
            raise ValueError(f"not one row per timestep each: {[tuple(rows.shape) for rows in per_timestep]}")
        if self.rewards.ndim != 1 or self.log_probs.ndim != 1:
            raise ValueError(
                f"one number per timestep each: rewards {tuple(self.rewards.shape)}, "
                f"log_probs {tuple(self.log_probs.shape)}"
            )
        if self.lengths.shape != self.terminated.shape or self.lengths.shape != self.truncated.shape:
            raise ValueError(
                f"not one entry per episode each: lengths {tuple(self.lengths.shape)}, "
                f"terminated {tuple(self.terminated.shape)}, truncated {tuple(self.truncated.shape)}"
            )
        lengths = self.lengths.tolist()
        if sum(lengths) != len(self.rewards):
            raise ValueError(f"lengths sum to {sum(lengths)}, but there are {len(self.rewards)} timesteps")
        if lengths and min(lengths) < 1:
            raise ValueError(f"every episode must last at least 1 timestep; lengths are {lengths}")
        if not all(map(or_, self.terminated.tolist(), self.truncated.tolist())):
            raise ValueError("every episode must be complete: terminated or truncated")

    def __len__(self) -> int:
        """Return the number of episodes, E."""
        return len(self.lengths)

    @property
    def num_timesteps(self) -> int:
        """Timesteps of all episodes together, T: the environment steps that were taken."""
        return len(self.rewards)

    @cached_property
    def returns(self) -> Tensor:
        """Undiscounted sum of each episode's rewards ``[E]``, float64."""
        return episode_sums(self.rewards.double(), self.lengths)

    def outcome(self) -> "Outcome":
        """Return what each episode came to."""
        return Outcome(self.returns, self.lengths, self.truncated)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor, as ``torch.Tensor.to`` does; Lightning calls it to bring a batch to its device."""
        if args == (self.rewards.device,):
            return self
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(*args, **kwargs) for name, value in values.items() if isinstance(value, Tensor)}
        masks = tuple(mask.to(*args, **kwargs) for mask in self.masks)
        return type(self)(**(values | moved | {"masks": masks}))


class Outcome(NamedTuple):
    """What each episode of an update came to, over all processes.

    Attributes:
        returns: undiscounted sum of the rewards ``[E]``, float64.
        lengths: timesteps ``[E]``.
        truncated: whether it was cut from outside ``[E]``.
    """

    returns: Tensor
    lengths: Tensor
    truncated: Tensor

    def statistics(self) -> dict[str, float]:
        """Return the mean return and length (timesteps), and the fraction truncated."""
        names = "episode_return", "episode_length", "truncated"
        return {name: sum(values.tolist()) / len(values) for name, values in zip(names, self, strict=True)}


class Chunk(NamedTuple):
    """Some timesteps of a batch, as many as learn at a time.

    Attributes:
        observations: ``[C, *obs]``.
        actions: ``[C, *act]``.
        masks: for each dropout layer, which units it kept ``[C, *units]``.
        advantages: ``[C]``.
        num_episodes: E, of the whole batch.
    """

    observations: Tensor
    actions: Tensor
    masks: list[Tensor]
    advantages: Tensor
    num_episodes: int


class Batch(NamedTuple):
    """What one ``training_step`` learns from: the episodes and the weight of each of their timesteps.

    Attributes:
        episodes: with their behaviour log-probs, the observations and the actions these belong to.
        advantages: normalised returns ``[T]``, float32.
    """

    episodes: Episodes
    advantages: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move it to a device."""
        return Batch(self.episodes.to(device), self.advantages.to(device))

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Cut the batch into runs of at most ``size`` timesteps, views rather than copies."""
        episodes = self.episodes
        per_timestep = [episodes.observations, episodes.actions, self.advantages, *episodes.masks]
        for observations, actions, advantages, *masks in zip(*(rows.split(size) for rows in per_timestep), strict=True):
            yield Chunk(observations, actions, masks, advantages, len(episodes))
