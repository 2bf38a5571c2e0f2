"""Stacks of the last frames, and a space that says so."""

from typing import Any

import gymnasium as gym
import numpy as np

from pg_lightning.envs.errors import EnvironmentFault


class FrameStackSpace(gym.spaces.Box):
    """Box ``[k, ...]`` of the last k frames, the newest last; before an episode's first one stands that one again.

    Whoever stores such observations needs the newest frames alone.
    """


class FrameStack(gym.wrappers.FrameStackObservation):
    """Shows the last frames ``[k, ...]`` of an environment that shows one: Gymnasium's wrapper, in another space.

    Args:
        env: with a Box of integers.
        stack_size: frames in a stack, k.

    Raises:
        EnvironmentFault: frames of other numbers than integers.
    """

    def __init__(self, env: gym.Env, stack_size: int) -> None:
        super().__init__(env, stack_size)
        box: Any = self.observation_space
        if np.dtype(box.dtype).kind not in "biu":
            raise EnvironmentFault(f"FrameStack needs frames of integers, such as uint8, not {box.dtype}")
        self.observation_space = FrameStackSpace(box.low, box.high, box.shape, box.dtype)
