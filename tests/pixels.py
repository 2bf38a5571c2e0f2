"""Catch: a small game of pixels whose best return is known. ``tests.pixels:Catch-v0``."""

import gymnasium as gym
import numpy as np

from pg_lightning.envs.frames import FrameStack

SIDE = 6


class Catch(gym.Env):
    """A ball falls, a pixel per step, straight or aslant, off the walls; a paddle of 1 pixel is to catch it.

    The frame shows both, 1 on 0, and not whether the ball flies left or right: two frames do. The last step pays 1
    for a ball that was caught and -1 for one that was not. The paddle can always be there in time.
    """

    action_space = gym.spaces.Discrete(3)  # Left, stay, right.

    def __init__(self, dtype="uint8"):
        self.observation_space = gym.spaces.Box(0, 1, (SIDE, SIDE), dtype)

    def _frame(self):
        frame = np.zeros((SIDE, SIDE), self.observation_space.dtype)
        frame[self.row, self.column] = frame[-1, self.paddle] = 1
        return frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.paddle = 0, SIDE // 2
        self.column, self.slope = int(self.np_random.integers(SIDE)), int(self.np_random.integers(-1, 2))
        return self._frame(), {}

    def step(self, action):
        self.paddle = min(max(self.paddle + int(action) - 1, 0), SIDE - 1)
        if not 0 <= self.column + self.slope < SIDE:
            self.slope = -self.slope
        self.row, self.column = self.row + 1, self.column + self.slope
        ended = self.row == SIDE - 1
        reward = (1.0 if self.column == self.paddle else -1.0) if ended else 0.0
        return self._frame(), reward, ended, False, {}


def stacked(env):
    """The last two frames ``[2, 6, 6]``, of which each is stored once."""
    return FrameStack(env, 2)


def plainly_stacked(env):
    """The same by Gymnasium's wrapper, all of which is stored."""
    return gym.wrappers.FrameStackObservation(env, 2)


gym.register("Catch-v0", Catch)
