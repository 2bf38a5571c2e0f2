"""Stacks of frames of which each frame is stored once: observations of pixels in a fraction of the memory."""

from typing import Any, Self

import torch
from torch import Tensor

from pg_lightning.tree import Tree, tree_leaves, tree_map

CHUNK_BYTES = 2**24
"""Bytes of observations, as float32, that are worked on together; only images are so large that it matters."""


class FrameStacks:
    """Leaf of an observation tree that behaves like a tensor ``[T, k, ...]``, but holds each frame once.

    Rows are chosen as those of a tensor, which copies no frame; :func:`stacked` makes the tensor.

    Args:
        frames: ``[F, ...]``.
        rows: places of each stack's frames ``[T, k]``.

    >>> stacks = FrameStacks.of_episodes(torch.tensor([5, 6, 7, 1, 2]), torch.tensor([3, 2]), 3)
    >>> stacks[1:4].stacked()
    tensor([[5, 5, 6],
            [5, 6, 7],
            [1, 1, 1]])
    """

    def __init__(self, frames: Tensor, rows: Tensor) -> None:
        self.frames, self.rows = frames, rows

    @classmethod
    def of_episodes(cls, frames: Tensor, lengths: Tensor, k: int) -> Self:
        """Stack the last k frames of every timestep; before an episode's first one stands that one again.

        Args:
            frames: the newest of every timestep ``[T, ...]``.
            lengths: timesteps of each episode ``[E]``.
            k: frames in a stack.
        """
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)  # [T]
        rows = torch.arange(len(frames))[:, None] + torch.arange(1 - k, 1)  # [T, k]
        return cls(frames, rows.maximum(first[:, None]))

    def stacked(self) -> Tensor:
        """Copy the frames together ``[T, k, ...]``."""
        return self.frames.index_select(0, self.rows.flatten()).view(self.shape)

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor that it stands for ``[T, k, ...]``."""
        return torch.Size([*self.rows.shape, *self.frames.shape[1:]])

    @property
    def device(self) -> torch.device:
        """Device of the frames."""
        return self.frames.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the frames."""
        return self.frames.dtype

    def is_floating_point(self) -> bool:
        """Tell whether the frames are floating-point numbers."""
        return self.frames.is_floating_point()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> "FrameStacks":
        return FrameStacks(self.frames, self.rows[rows])

    def to(self, *args: Any, **kwargs: Any) -> "FrameStacks":
        """Move it to a device."""
        frames = self.frames.to(*args, **kwargs)
        return FrameStacks(frames, self.rows.to(frames.device))

    def numpy(self, force: bool = False) -> Any:
        """Return the tensor that it stands for as an array."""
        return self.stacked().numpy(force=force)


def stacked(observations: Tree) -> Tree:
    """Return observations in which every leaf is a tensor."""
    return tree_map(lambda leaf: leaf.stacked() if isinstance(leaf, FrameStacks) else leaf, observations)


def rows_together(observations: Tree, most: int) -> int:
    """Return how many timesteps to work on together: ``most``, or as many as :data:`CHUNK_BYTES` allow.

    >>> rows_together(torch.zeros(3, 4), 4096), rows_together(torch.zeros(3, 210, 160, 3, dtype=torch.uint8), 4096)
    (4096, 41)
    """
    numbers = sum(leaf.shape[1:].numel() for leaf in tree_leaves(observations))
    return max(1, min(most, CHUNK_BYTES // (4 * max(numbers, 1))))
