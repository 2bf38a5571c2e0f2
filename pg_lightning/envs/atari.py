"""Atari games of the Arcade Learning Environment, and wrappers that prepare their frames.

``pip install 'pg_lightning[atari]'`` brings ale-py and the games. Ids such as ``ALE/Pong-v5`` are known without an
import. They take each action for 4 frames, repeat the last action with probability 0.25 (sticky actions, Machado et
al., 2018; EnvPool's Atari games do not), start without no-ops, and pay the game's own rewards, which are not clipped.

The wrappers are functions that :class:`Environment` takes by import path. They need grey frames:
``--env.kwargs '{obs_type: grayscale}' --env.wrappers [pg_lightning.envs.atari.pong_stack]``.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from pg_lightning.envs.errors import EnvironmentFault
from pg_lightning.envs.frames import FrameStack

NAMESPACE = "ALE/"
"""Beginning of the ids that ale-py registers."""

PONG_FIELD = slice(35, 195, 2), slice(None, None, 2)
"""Pong's field on the screen, every other pixel: 80 x 80."""

PONG_BACKGROUNDS = (87, 107)
"""Grey of Pong's field while the game runs, and before it begins."""

PONG_MOVES = (2, 3)
"""Pong's actions up and down; the other four stand still or do the same again."""


def register() -> None:
    """Register the games, without the line that the emulator would print.

    Raises:
        ModuleNotFoundError: ale-py is not installed.
    """
    try:
        import ale_py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Atari games need ale-py: pip install 'pg_lightning[atari]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gym.register_envs(ale_py)


def pong_frames(env: gym.Env) -> gym.Env:
    """Show Pong's field as 80 x 80 pixels: 1 for ball and paddles, 0 for the background; uint8.

    Source: Karpathy (2016), "Deep Reinforcement Learning: Pong from Pixels", ``prepro``.
    """
    space = gym.spaces.Box(0, 1, (80, 80), np.uint8)
    return gym.wrappers.TransformObservation(_grey(_pong(env)), _pong_frame, space)


def pong_stack(env: gym.Env) -> gym.Env:
    """Show the last two of :func:`pong_frames`, ``[2, 80, 80]``: a single one does not tell where the ball flies."""
    return FrameStack(pong_frames(env), 2)


def pong_difference(env: gym.Env) -> gym.Env:
    """Show by how much :func:`pong_frames` changed since the last one, ``[80, 80]`` of -1, 0 or 1; at first all 0.

    The reference's observation. What stands still is not seen.
    """
    return _Difference(pong_frames(env))


def pong_up_or_down(env: gym.Env) -> gym.Env:
    """Leave two actions, up (0) and down (1), as the reference does."""
    return gym.wrappers.TransformAction(_pong(env), lambda action: PONG_MOVES[action], gym.spaces.Discrete(2))


def atari_stack(env: gym.Env) -> gym.Env:
    """Show the last four frames of any game, grey and at half the size, uint8: ``[4, 105, 80]`` of most games.

    A pixel is the mean of four.
    """
    height, width = _grey(env).observation_space.shape  # type: ignore[misc]
    space = gym.spaces.Box(0, 255, (height // 2, width // 2), np.uint8)
    return FrameStack(gym.wrappers.TransformObservation(env, _halved, space), 4)


def _grey(env: gym.Env) -> gym.Env:
    """Return an environment whose observations are grey frames; refuse any other."""
    shape = env.observation_space.shape
    if shape is None or len(shape) != 2:
        raise EnvironmentFault(
            f"it reads grey frames, [height, width], not {shape}: give --env.kwargs '{{obs_type: grayscale}}'"
        )
    return env


def _pong(env: gym.Env) -> gym.Env:
    """Return an environment that is Pong; refuse any other."""
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    if "pong" not in name.lower():
        raise EnvironmentFault(
            f"its field and its actions are Pong's, not those of {name}: give --env.wrappers "
            "'[pg_lightning.envs.atari.atari_stack]'"
        )
    return env


def _pong_frame(screen: np.ndarray) -> np.ndarray:
    field = screen[PONG_FIELD]
    return ((field != PONG_BACKGROUNDS[0]) & (field != PONG_BACKGROUNDS[1])).view(np.uint8)


def _halved(screen: np.ndarray) -> np.ndarray:
    height, width = screen.shape
    blocks = screen.reshape(height // 2, 2, width // 2, 2)
    return (blocks.sum((1, 3), np.uint16) >> 2).astype(np.uint8)


class _Difference(gym.Wrapper):
    """Shows what changed between frames of zeros and ones, int8."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        shape = env.observation_space.shape
        assert shape is not None
        self.observation_space = gym.spaces.Box(-1, 1, shape, np.int8)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
        """Start an episode."""
        frame, info = self.env.reset(**options)
        self._before = frame.view(np.int8)
        return np.zeros_like(self._before), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        """Take an action."""
        frame, *rest = self.env.step(action)
        before, self._before = self._before, frame.view(np.int8)
        return self._before - before, *rest
