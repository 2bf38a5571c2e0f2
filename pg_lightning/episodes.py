"""The complete episodes of one update, packed one after the other, and what is learnt from them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import or_
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pg_lightning.frames import rows_together, stacked
from pg_lightning.functional import episode_sums
from pg_lightning.policies.dropout import replay_masks
from pg_lightning.tree import Tree, tree_leaves, tree_map

PER_TIMESTEP = ("observations", "actions", "log_probs", "rewards", "dropout_masks", "action_masks")
PER_EPISODE = ("final_observations", "lengths", "terminated", "truncated")


@dataclass(eq=False)
class Episodes:
    r"""Everything one update sampled. Shapes are checked at construction.

    Attributes:
        observations: :math:`S_t`, a tree of ``[T, ...]``, as the environment emits them; stacks of frames are
            :class:`~pg_lightning.frames.FrameStacks`.
        actions: :math:`A_t`, a tree of ``[T, ...]``, as the policy's distribution sampled them.
        log_probs: behaviour log-probs ``[T]``: :math:`\log\pi(A_t|S_t)` of the policy while it acted.
        rewards: ``rewards[t]`` is :math:`R_{t+1}` ``[T]``, float64.
        dropout_masks: for each dropout layer of the policy, in module order, the units it kept ``[T, *units]``, bool.
        lengths: timesteps of each episode ``[E]``.
        terminated: whether the MDP ended the episode ``[E]``.
        truncated: whether it was cut from outside, as by a time limit ``[E]``.
        final_observations: what followed each episode's last action, a tree of ``[E, ...]``.
        env_steps: environment steps taken to sample them; surplus episodes count here, but not in T.
        update: index of the update they were sampled for: optimizer steps taken by then.
        action_masks: ``(mask,)`` where the environment says which actions are allowed, else ``()``. The mask is bool
            ``[T, choices]``: one column for each action of a Discrete space, those of a MultiDiscrete side by side.

    Raises:
        ValueError: where a shape does not fit the others.
    """

    observations: Tree
    actions: Tree
    log_probs: Tensor
    rewards: Tensor
    dropout_masks: tuple[Tensor, ...]
    lengths: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observations: Tree
    env_steps: int
    update: int
    action_masks: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rows that do not belong together."""
        per_timestep = [leaf for name in PER_TIMESTEP for leaf in tree_leaves(getattr(self, name))]
        if len({len(rows) for rows in per_timestep}) != 1:
            raise ValueError(f"not one row per timestep each: {[tuple(rows.shape) for rows in per_timestep]}")
        if self.rewards.ndim != 1 or self.log_probs.ndim != 1:
            raise ValueError(
                f"one number per timestep each: rewards {tuple(self.rewards.shape)}, "
                f"log_probs {tuple(self.log_probs.shape)}"
            )
        per_episode = [leaf for name in PER_EPISODE for leaf in tree_leaves(getattr(self, name))]
        if len({len(rows) for rows in per_episode}) != 1:
            raise ValueError(f"not one row per episode each: {[tuple(rows.shape) for rows in per_episode]}")
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
        """Timesteps of all episodes together, T: those that are learnt from."""
        return len(self.rewards)

    @cached_property
    def returns(self) -> Tensor:
        """Undiscounted sum of each episode's rewards ``[E]``, float64."""
        return episode_sums(self.rewards.double(), self.lengths)

    @property
    def cut(self) -> Tensor:
        """Whether each episode would have gone on: it was truncated, and did not terminate ``[E]``."""
        return self.truncated & ~self.terminated

    def outcome(self) -> "Outcome":
        """Summarise each episode by its return, length and end."""
        return Outcome(self.returns, self.lengths, self.truncated, torch.tensor(self.env_steps))

    def select(self, keep: Tensor) -> Self:
        """Return the episodes where ``keep`` (bool ``[E]``) is true."""
        rows = keep.repeat_interleave(self.lengths)
        trees = {name: tree_map(lambda leaf: leaf[rows], getattr(self, name)) for name in PER_TIMESTEP}
        return replace(self, **trees, **{n: tree_map(lambda leaf: leaf[keep], getattr(self, n)) for n in PER_EPISODE})

    def map(self, function: Any) -> Self:
        """Apply a function to every tensor."""
        trees = {name: tree_map(function, getattr(self, name)) for name in PER_TIMESTEP + PER_EPISODE}
        return replace(self, **trees)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor, as ``torch.Tensor.to`` does; Lightning calls it to bring a batch to its device."""
        return self if args == (self.rewards.device,) else self.map(lambda tensor: tensor.to(*args, **kwargs))


class Outcome(NamedTuple):
    """Results of an update's episodes, over all processes.

    Attributes:
        returns: undiscounted sum of the rewards ``[E]``, float64.
        lengths: timesteps ``[E]``.
        truncated: whether it was cut from outside ``[E]``.
        env_steps: environment steps taken ``[]``.
    """

    returns: Tensor
    lengths: Tensor
    truncated: Tensor
    env_steps: Tensor

    def statistics(self) -> dict[str, float]:
        """Return the mean return and length (timesteps), and the fraction truncated."""
        names = "episode_return", "episode_length", "truncated"
        return {name: sum(values.tolist()) / len(values) for name, values in zip(names, self[:3], strict=True)}


class Chunk(NamedTuple):
    """Some timesteps of a batch, as many as are learnt from at a time.

    Attributes:
        observations: a tree of ``[C, ...]``.
        actions: a tree of ``[C, ...]``.
        log_probs: behaviour log-probs ``[C]``.
        advantages: ``[C]``.
        dropout_masks: for each dropout layer, the units it kept ``[C, *units]``.
        action_masks: ``(mask,)`` of the allowed actions ``[C, choices]``, or ``()``.
        num_episodes: divisor of the loss, of the whole batch.
    """

    observations: Tree
    actions: Tree
    log_probs: Tensor
    advantages: Tensor
    dropout_masks: tuple[Tensor, ...]
    action_masks: tuple[Tensor, ...]
    num_episodes: float

    def rows(self, rows: slice) -> "Chunk":
        """Return some of its timesteps, as views."""
        return self._replace(**{n: tree_map(lambda leaf: leaf[rows], getattr(self, n)) for n in self._fields[:-1]})

    def distribution(self, policy: nn.Module) -> Distribution:
        """Return the policy's distributions at its observations, under the dropout masks that it acted with."""
        with replay_masks(policy, self.dropout_masks):
            return policy(stacked(self.observations), *self.action_masks)

    def split(self, size: int) -> "Iterator[Chunk]":
        """Cut it into runs of at most ``size`` timesteps, fewer of large images; frames are stacked."""
        size = rows_together(self.observations, size)
        for start in range(0, len(self.log_probs), size):
            run = self.rows(slice(start, start + size))
            yield run._replace(observations=stacked(run.observations))


def checked(name: str, value: Any, episodes: Episodes) -> Tensor:
    """Return what a part estimates; refuse anything but constant numbers, one per timestep ``[T]``.

    Raises:
        ValueError: with the name of what was estimated.
    """
    shape = episodes.rewards.shape
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor [T], not {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} must be [T] = {list(shape)}, not {list(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must be floating-point numbers, not {value.dtype}")
    if value.requires_grad:
        raise ValueError(f"{name} must not carry a gradient: detach what a baseline or a return estimates")
    return value


@dataclass(eq=False)
class Batch:
    """Input of one ``training_step``: the episodes and an advantage for each of their timesteps.

    Attributes:
        episodes: with their behaviour log-probs, and the observations and actions that these belong to.
        returns: estimated return of every timestep ``[T]``: the target of a critic.
        baseline: of every timestep ``[T]``.
        advantages: normalised advantages ``[T]``.
        num_episodes: divisor of the loss: the mean number of episodes of a process.
        outcome: results of all episodes that were played, those that are not learnt from too.
        progress: of the run before the batch, from 0 to 1; ``None`` where its end is unknown.
    """

    episodes: Episodes
    returns: Tensor
    baseline: Tensor
    advantages: Tensor
    num_episodes: float
    outcome: Outcome
    progress: float | None = None
    _whole: "Batch | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Refuse anything but constant numbers per timestep."""
        for name in ("returns", "baseline", "advantages"):
            checked(name, getattr(self, name), self.episodes)

    @property
    def whole(self) -> "Batch":
        """Return the batch of all processes; this one where there is a single process."""
        return self._whole or self  # A reference to itself would keep its memory until the garbage collector comes.

    @whole.setter
    def whole(self, batch: "Batch") -> None:
        self._whole = batch

    def to(self, device: torch.device) -> "Batch":
        """Move it to a device."""
        if self.advantages.device == device:
            return self
        moved = {name: getattr(self, name).to(device) for name in ("episodes", "returns", "baseline", "advantages")}
        batch = replace(self, **moved)
        batch._whole = self._whole and self._whole.to(device)
        return batch

    def chunk(self) -> Chunk:
        """Return all timesteps as one chunk."""
        e = self.episodes
        masks = e.dropout_masks, e.action_masks
        return Chunk(e.observations, e.actions, e.log_probs, self.advantages, *masks, self.num_episodes)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Cut the batch into runs of at most ``size`` timesteps: views, not copies."""
        return self.chunk().split(size)

    def spaced(self, most: int | None) -> Chunk:
        """Return so many timesteps at most, evenly spaced over all episodes."""
        count = self.episodes.num_timesteps
        step = 1 if most is None else -(-count // most)
        return self.chunk().rows(slice(None, None, step)) if step > 1 else self.chunk()
