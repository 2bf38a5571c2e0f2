"""Steps of all environments, kept in blocks, so that memory grows with what was sampled and never with a time limit."""

from typing import Any

import numpy as np
import torch

from pg_lightning.tree import Tree, tree_leaves, tree_map, tree_rows

BLOCK_STEPS, BLOCK_BYTES = 512, 8 * 2**20
"""A block holds so many steps at most, and so many bytes of observations."""


class _Block:
    """Room for the steps of a block, used again by later updates.

    Args:
        size: steps.
        num_envs: N.
        observations: of the first step, a tree of arrays ``[N, ...]``.
        floats: dtype in which floating-point observations are kept.
    """

    def __init__(self, size: int, num_envs: int, observations: Tree, floats: np.dtype) -> None:
        self.size = size
        self.observations = self._room(observations, floats)
        self.observation_rows = list(tree_rows(self.observations))  # A view takes as long to make as to fill.
        self.rewards = np.empty((size, num_envs))
        self.flags = np.zeros((2, size, num_envs), bool)  # Terminated, truncated.

    def _room(self, values: Tree, floats: np.dtype | None = None) -> Tree:
        return tree_map(
            lambda leaf: np.empty(
                (self.size, *leaf.shape), floats if floats is not None and leaf.dtype.kind == "f" else leaf.dtype
            ),
            values,
        )

    def shape_actions(self, actions: Tree, action_masks: tuple[np.ndarray, ...]) -> None:
        """Make room for the actions of all steps and their masks, given those of the first."""
        self.actions, self.action_masks = self._room(actions), self._room(action_masks)
        self.action_rows = list(tree_rows(self.actions))


class Steps:
    """Buffer of steps ``[S, N, ...]``; its blocks are used again by the next update.

    Args:
        num_envs: N.
        of_stacks: whether observations are stacks of frames ``[N, k, ...]``, of which the newest frame is kept.

    Attributes:
        block_size: steps in a block.
    """

    block_size = BLOCK_STEPS

    def __init__(self, num_envs: int, of_stacks: bool = False) -> None:
        self.num_envs, self.of_stacks = num_envs, of_stacks
        self._blocks: list[_Block] = []
        self._used, self._floats = 0, np.dtype(np.float32)
        self._newest: Tree = None

    def clear(self, floats: Any) -> None:
        """Start an update, whose floating-point observations are kept in the dtype ``floats``."""
        del self._blocks[self._used :]
        if self._floats != floats:
            self._floats, self._blocks = np.dtype(floats), []
        self._used = 0
        self._ends: list[tuple[int, np.ndarray, Tree]] = []

    def observe(self, step: int, observations: Tree) -> Tree:
        """Keep the observations of a step, a tree of ``[N, ...]``; return them as kept, stacks as they came."""
        stored = observations
        if self.of_stacks:
            stored = observations[:, -1]
            if step and observations.shape[1] > 1:
                _check_stacks(observations, self._newest)
        index = step % self.block_size
        if index == 0:
            self._open(tree_map(np.asarray, stored))
        row = self._now.observation_rows[index]
        self._newest = kept = _keep(row, stored) if isinstance(row, np.ndarray) else tree_map(_keep, row, stored)
        return observations if self.of_stacks else kept

    def _open(self, observations: Tree) -> None:
        """Go on to the next block; make it if there is none."""
        if self._used == 0 and not self._blocks:
            size = sum(leaf.nbytes for leaf in tree_leaves(observations))
            self.block_size = max(1, min(BLOCK_STEPS, BLOCK_BYTES // max(size, 1)))
        if self._used == len(self._blocks):
            self._blocks.append(_Block(self.block_size, self.num_envs, observations, self._floats))
        self._now = self._blocks[self._used]
        self._now.flags.fill(False)
        self._used += 1

    def write(self, step: int, actions: Tree, rewards: Any, action_masks: tuple[np.ndarray, ...] = ()) -> None:
        """Keep the actions and rewards of a step.

        Args:
            step: counted from the start of the update.
            actions: raw actions, a tree of ``[N, ...]``.
            rewards: ``[N]``.
            action_masks: ``(mask,)`` of the allowed actions ``[N, choices]``, or ``()``.
        """
        now, index = self._now, step % self.block_size
        if index == 0:
            now.shape_actions(actions, action_masks)
        if action_masks:
            now.action_masks[0][index] = action_masks[0]
        row = now.action_rows[index]
        if isinstance(row, np.ndarray):
            row[...] = actions
        else:
            tree_map(_keep, row, actions)
        now.rewards[index] = rewards

    def end(self, step: int, terminated: Any, truncated: Any, envs: np.ndarray, observations: Tree) -> None:
        """Keep that episodes have ended.

        Args:
            step: their last.
            terminated: ``[N]``.
            truncated: ``[N]``.
            envs: environments whose final observations are kept ``[K]``.
            observations: of all environments, a tree of ``[N, ...]``.
        """
        index = step % self.block_size
        self._now.flags[0, index], self._now.flags[1, index] = terminated, truncated
        if len(envs):
            rows = tree_map(lambda values: np.asarray(values)[envs], observations)
            self._ends.append((step, envs, tree_map(self._final, rows)))

    def _final(self, values: np.ndarray) -> np.ndarray:
        return values.astype(self._floats) if values.dtype.kind == "f" else values

    def flags(self, num_steps: int) -> np.ndarray:
        """Return whether an episode terminated, and whether it was truncated, in each step ``[2, S, N]``."""
        used = self._blocks[: self._used]
        return np.concatenate([block.flags for block in used], axis=1)[:, :num_steps]

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


def _check_stacks(stacks: np.ndarray, before: np.ndarray) -> None:
    """Refuse stacks ``[N, k, ...]`` that would be put together wrongly from the newest frame of each step ``[N, ...]``.

    Each must be the one before, moved on by a frame, unless it is an episode's first, or its environment stands still.
    """
    if np.array_equal(stacks[:, -2], before):
        return
    for stack, frame in zip(stacks, before, strict=True):
        if not any(np.array_equal(*pair) for pair in ((stack[-2], frame), (stack[-2], stack[-1]), (stack[-1], frame))):
            raise ValueError(
                "an observation is not the stack before it, moved on by a frame: a wrapper that leaves out or changes "
                "observations, such as RepeatAction, must come before FrameStack, not after it"
            )


def _keep(row: np.ndarray, values: Any) -> np.ndarray:
    """Fill the row ``[N, ...]`` of a step; return it."""
    values = np.asarray(values)
    if values.shape != row.shape:  # NumPy would stretch some to fit.
        raise ValueError(f"an observation of shape {values.shape[1:]} came, but {row.shape[1:]} before")
    row[...] = values
    return row
