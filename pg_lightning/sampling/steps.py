"""Steps of all environments, kept in blocks, so that memory grows with what was sampled and never with a time limit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pg_lightning.tree import Tree, tree_leaves, tree_map

BLOCK_STEPS, BLOCK_BYTES = 512, 8 * 2**20
"""A block holds so many steps at most, and so many bytes of observations."""


class Steps:
    """Buffer of steps ``[S, N, ...]``; blocks are used again by the next update.

    Args:
        num_envs: N.

    Attributes:
        block_size: steps in a block.
    """

    block_size = BLOCK_STEPS

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self._blocks: list[SimpleNamespace] = []
        self._used, self._floats = 0, np.dtype(np.float32)

    def clear(self, floats: Any) -> None:
        """Start an update, whose floating-point observations are kept in the dtype ``floats``."""
        del self._blocks[self._used :]
        if self._floats != floats:
            self._floats, self._blocks = np.dtype(floats), []
        self._used = 0
        self._ends: list[tuple[int, np.ndarray, Tree]] = []

    def observe(self, step: int, observations: Tree) -> Tree:
        """Keep the observations of a step, a tree of ``[N, ...]``; return them as they are kept."""
        index = step % self.block_size
        if index == 0:
            self._open(observations)
        kept = self._now.observations
        if isinstance(kept, np.ndarray):
            if np.shape(observations) != kept.shape[1:]:
                raise _misshapen(observations, kept)
            kept[index] = observations
            return kept[index]
        return tree_map(lambda leaf, values: _keep(leaf, index, values), kept, observations)

    def _open(self, observations: Tree) -> None:
        """Go on to the next block; make it if there is none."""
        if self._used == 0 and not self._blocks:
            size = sum(np.asarray(leaf).nbytes for leaf in tree_leaves(observations))
            self.block_size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // max(size, 1)))
        if self._used == len(self._blocks):
            self._blocks.append(
                SimpleNamespace(
                    observations=tree_map(self._room, observations),
                    actions=None,
                    rewards=np.empty((self.block_size, self.num_envs)),
                    terminated=np.empty((self.block_size, self.num_envs), bool),
                    truncated=np.empty((self.block_size, self.num_envs), bool),
                )
            )
        self._now = self._blocks[self._used]
        self._now.actions = None
        self._used += 1

    def _room(self, values: Any) -> np.ndarray:
        """Make room for the values of a block of steps."""
        values = np.asarray(values)
        dtype = self._floats if values.dtype.kind == "f" else values.dtype
        return np.empty((self.block_size, *values.shape), dtype)

    def write(
        self,
        step: int,
        actions: Tree,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        action_masks: tuple[np.ndarray, ...] = (),
    ) -> None:
        """Keep the rest of a step.

        Args:
            step: counted from the start of the update.
            actions: raw actions, a tree of ``[N, ...]``.
            rewards: ``[N]``.
            terminated: ``[N]``.
            truncated: ``[N]``.
            action_masks: ``(mask,)`` of the allowed actions ``[N, choices]``, or ``()``.
        """
        now, index = self._now, step % self.block_size
        if now.actions is None:
            now.actions, now.action_masks = tree_map(
                lambda leaf: np.empty((self.block_size, *leaf.shape), leaf.dtype), (actions, action_masks)
            )
        if action_masks:
            now.action_masks[0][index] = action_masks[0]
        if isinstance(now.actions, np.ndarray):
            now.actions[index] = actions
        else:
            tree_map(lambda leaf, values: _keep(leaf, index, values), now.actions, actions)
        now.rewards[index], now.terminated[index], now.truncated[index] = rewards, terminated, truncated

    def end(self, step: int, envs: np.ndarray, observations: Tree) -> None:
        """Keep the final observations of some environments ``[K]``, given those of all, a tree of ``[N, ...]``."""
        if not len(envs):
            return
        if isinstance(observations, np.ndarray) and observations.dtype == object:
            # Gymnasium's, after a reset in the same step: one tree for each environment.
            rows = tree_map(lambda *values: np.stack(values), *observations[envs])
        else:
            rows = tree_map(lambda values: np.asarray(values)[envs], observations)
        self._ends.append((step, envs, tree_map(self._final, rows)))

    def _final(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self._floats) if values.dtype.kind == "f" else values

    def ended(self, num_steps: int) -> np.ndarray:
        """Tell whether an episode ended in each step ``[S, N]``."""
        return np.concatenate([block.terminated | block.truncated for block in self._blocks[: self._used]])[:num_steps]

    def take(self, name: str, rows: np.ndarray) -> Tree:
        """Copy rows, counted step by step over all environments ``[T]``, as a tree of tensors ``[T, ...]``."""
        trees = [getattr(block, name) for block in self._blocks[: self._used]]
        return tree_map(lambda *blocks: self._gather(blocks, rows), *trees)

    def _gather(self, blocks: tuple[np.ndarray, ...], rows: np.ndarray) -> torch.Tensor:
        flat = [block.reshape(-1, *block.shape[2:]) for block in blocks]
        if len(flat) == 1:
            return torch.from_numpy(flat[0].take(rows, axis=0))
        gathered = np.empty((len(rows), *flat[0].shape[1:]), flat[0].dtype)
        which, places = np.divmod(rows, self.block_size * self.num_envs)
        for index, block in enumerate(flat):
            chosen = np.flatnonzero(which == index)
            gathered[chosen] = block.take(places[chosen], axis=0)
        return torch.from_numpy(gathered)

    def final_observations(self, rows: np.ndarray) -> Tree:
        """Return what followed the last timesteps of some episodes (rows ``[E]``), a tree of ``[E, ...]``."""
        ended = np.concatenate([step * self.num_envs + envs for step, envs, _ in self._ends])
        order = np.argsort(ended)
        places = order[np.searchsorted(ended, rows, sorter=order)]
        observations = [values for _, _, values in self._ends]
        return tree_map(lambda *parts: torch.from_numpy(np.concatenate(parts)[places]), *observations)


def _keep(leaf: np.ndarray, index: int, values: Any) -> np.ndarray:
    """Write values ``[N, ...]`` into a row of a block; return the row."""
    if np.shape(values) != leaf.shape[1:]:
        raise _misshapen(values, leaf)
    leaf[index] = values
    return leaf[index]


def _misshapen(values: Any, leaf: np.ndarray) -> ValueError:
    """Say that an observation changed its shape; NumPy would stretch some to fit."""
    return ValueError(f"an observation of shape {np.shape(values)[1:]} came, but {leaf.shape[2:]} before")
