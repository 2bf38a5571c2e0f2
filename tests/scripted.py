"""Environments that show, pay and do what a test tells them to, handed in as callables."""

import copy

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-1, 1, (2, 2), np.float32)
NESTED = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Tuple([spaces.MultiBinary(2), VECTOR])})


class Scripted(gym.Env):
    """Shows, pays and does what it is told to; remembers the actions that it got."""

    def __init__(self, space=VECTOR, shown=None, reward=1.0, actions=None, on_reset=None, on_step=None):
        self.observation_space, self.action_space = space, actions or spaces.Discrete(2)
        self.shown = space.sample() if shown is None else shown
        self.reward, self.on_reset, self.on_step, self.received = reward, on_reset, on_step, []

    def reset(self, *, seed=None, options=None):
        self.options = options
        if self.on_reset:
            self.on_reset()
        return self.shown, {}

    def step(self, action):
        self.received.append(action)
        if self.on_step:
            self.on_step()
        return self.shown, self.reward, False, False, {"unread": object()}


class Sampled(gym.Env):
    """Shows samples of a space of its own, which a seeded reset seeds."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = copy.deepcopy(space)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class Halved(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2


def raising(error):
    def run():
        raise error

    return run


class Panic(BaseException):
    """As raised by a simulator in Rust."""


class Unpicklable(RuntimeError):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")
        self.lock = lambda: None
