"""Encoders: from raw observations to the numbers that a network reads, one class per observation space.

To add one, subclass :class:`Encoder` and enter it in :data:`ENCODERS`; where it shall run in NumPy while acting, enter
its twin in :data:`pg_lightning.policies.twins.TWINS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from pg_lightning.envs.frames import FrameStackSpace
from pg_lightning.hparams import Recorded
from pg_lightning.policies.cnn import CNNBody, Layers
from pg_lightning.tree import Tree


class Encoder(Recorded, nn.Module, ABC):
    """Interface of an encoder.

    Args:
        space: of the observations.

    Attributes:
        num_features: numbers per observation, F.
    """

    num_features: int
    _dtype: Tensor

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("_dtype", torch.zeros(()), persistent=False)

    @property
    def is_number(self) -> list[bool]:
        """Whether each feature is a number of a Box, which may be shifted and scaled ``[F]``."""
        return [False] * self.num_features

    @abstractmethod
    def forward(self, observations: Tree) -> Tensor:
        """Map raw observations, a tree of ``[T, ...]``, to features ``[T, F]`` in the module's dtype."""


class FlattenEncoder(Encoder):
    """Numbers of a Box, or bits of a MultiBinary space, in one row.

    Args:
        space: of any shape.
    """

    def __init__(self, space: gym.spaces.Box | gym.spaces.MultiBinary) -> None:
        super().__init__(space)
        self.num_features = int(np.prod(space.shape))

    @property
    def is_number(self) -> list[bool]:
        """True for a Box ``[F]``."""
        return [isinstance(self.space, gym.spaces.Box)] * self.num_features

    def forward(self, observations: Tensor) -> Tensor:
        """Map ``[T, *obs]`` to ``[T, F]``."""
        return observations.reshape(observations.shape[0], self.num_features).to(self._dtype.dtype)


class OneHotEncoder(Encoder):
    """One-hot coding of a Discrete or MultiDiscrete space.

    Args:
        space: with any start.
    """

    first: Tensor

    def __init__(self, space: gym.spaces.Discrete | gym.spaces.MultiDiscrete) -> None:
        super().__init__(space)
        discrete = isinstance(space, gym.spaces.Discrete)
        sizes = np.array([space.n]) if discrete else space.nvec.ravel()  # type: ignore[union-attr]
        self.num_features = int(sizes.sum())
        # Column of the one of each part: its first column, plus the value less the start.
        first = sizes.cumsum() - sizes - np.ravel(space.start)
        self.register_buffer("first", torch.from_numpy(first), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Map ``[T]`` or ``[T, *parts]`` to ``[T, F]``."""
        count = observations.shape[0]  # Unlike len, it stays a variable where the policy is exported.
        columns = observations.reshape(count, -1).long() + self.first  # [T, parts]
        features = torch.zeros(count, self.num_features, dtype=self._dtype.dtype, device=columns.device)
        return features.scatter_(1, columns, 1.0)


class TextEncoder(Encoder):
    """One-hot coding of each character of a Text space; places after the end of a text are zeros only.

    Args:
        space: its longest text and its characters decide the number of features.
    """

    codes: Tensor

    def __init__(self, space: gym.spaces.Text) -> None:
        super().__init__(space)
        self.register_buffer("codes", torch.tensor(sorted(map(ord, space.character_set))), persistent=False)
        self.num_features = space.max_length * len(self.codes)

    def forward(self, observations: Tensor) -> Tensor:
        """Map code points ``[T, max_length]``, 0 after the end, to ``[T, F]``."""
        return (observations[..., None] == self.codes).flatten(1).to(self._dtype.dtype)


class ImageEncoder(Encoder):
    """Convolutional features of images, whose pixels are scaled to [0, 1].

    Args:
        space: Box of finite bounds, of shape ``[height, width, channels]``, ``[channels, height, width]`` (channels are
            fewer than the other end, or frames of a :class:`FrameStack`) or ``[height, width]``.
        layers: channels, kernel size, stride and padding of each convolution; by default those of :class:`CNNBody`.

    Raises:
        ValueError: a space of other dimensions, or with bounds that are infinite or equal.
    """

    def __init__(self, space: gym.spaces.Box, layers: Layers | None = None) -> None:
        super().__init__(space)
        if not isinstance(space, gym.spaces.Box) or len(space.shape) not in (2, 3) or not space.is_bounded():
            raise ValueError(f"images are a Box of 2 or 3 dimensions with finite bounds, not {space}")
        shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)
        self.channels_first = shape[0] < shape[2] or isinstance(space, FrameStackSpace)
        first, second, third = shape
        self.cnn = CNNBody((first, second, third) if self.channels_first else (third, first, second), layers)
        self.low, self.width = float(space.low.min()), float(space.high.max()) - float(space.low.min())
        if not self.width:
            raise ValueError(f"pixels that can only be {self.low:g} show nothing: {space}")
        self.num_features = self.cnn.num_outputs

    def forward(self, observations: Tensor) -> Tensor:
        """Map images ``[T, *obs]`` to ``[T, F]``."""
        images = observations if observations.ndim == 4 else observations[..., None]
        images = images if self.channels_first else images.permute(0, 3, 1, 2)  # (T, channels, height, width)
        images = images.to(self._dtype.dtype)
        # Most images begin at 0, and some end at 1: what would change nothing is left out, as it takes time.
        images = images - self.low if self.low != 0 else images
        return self.cnn(images / self.width if self.width != 1 else images)


class ConcatenateEncoder(Encoder):
    """Features of all entries of a Dict or Tuple space, side by side.

    The entry ``action_mask`` of a Dict is left out: it is for the head.

    Args:
        space: of spaces that have an encoder.
    """

    def __init__(self, space: gym.spaces.Dict | gym.spaces.Tuple) -> None:
        super().__init__(space)
        keys: list[Any] = list(space.keys()) if isinstance(space, gym.spaces.Dict) else list(range(len(space)))
        self.keys = [key for key in keys if key != "action_mask"]
        self.parts = nn.ModuleList(make_encoder(space[key]) for key in self.keys)
        self.num_features = sum(part.num_features for part in self.parts)  # type: ignore[misc]

    @property
    def is_number(self) -> list[bool]:
        """Those of all entries ``[F]``."""
        return [number for part in self.parts for number in part.is_number]  # type: ignore[union-attr]

    def forward(self, observations: Tree) -> Tensor:
        """Map a dict or tuple of ``[T, ...]`` to ``[T, F]``."""
        return torch.cat([part(observations[key]) for key, part in zip(self.keys, self.parts, strict=True)], dim=1)


def box_encoder(space: gym.spaces.Box) -> Encoder:
    """Make the encoder of a Box: for images (uint8, 3 dimensions) convolutions, else its numbers in one row."""
    is_image = space.dtype == np.uint8 and len(space.shape) == 3
    return ImageEncoder(space) if is_image else FlattenEncoder(space)


ENCODERS: dict[type[gym.Space], Callable[[Any], Encoder]] = {
    gym.spaces.Box: box_encoder,
    gym.spaces.MultiBinary: FlattenEncoder,
    gym.spaces.Discrete: OneHotEncoder,
    gym.spaces.MultiDiscrete: OneHotEncoder,
    gym.spaces.Text: TextEncoder,
    gym.spaces.Dict: ConcatenateEncoder,
    gym.spaces.Tuple: ConcatenateEncoder,
}
"""The encoder of each kind of observation space."""


def make_encoder(space: gym.Space) -> Encoder:
    """Make the encoder of an observation space.

    Raises:
        ValueError: there is none for it.
    """
    for kind in type(space).__mro__:
        if kind in ENCODERS:
            return ENCODERS[kind](space)
    known = ", ".join(kind.__name__ for kind in ENCODERS)
    # What has no fixed shape, such as a Graph or a Sequence, cannot be stored for a policy either.
    policy = ", or hand in a policy of your own (Reinforce(policy=...))" if space.shape is not None else ""
    raise ValueError(
        f"no encoder for the observation space {space}: encoders exist for {known}; wrap the environment, so that it "
        f"emits one of them (Environment(wrappers=...)){policy}"
    )
