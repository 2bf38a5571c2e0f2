"""Scripted environment and faulty policies of the random test: ``tests.fuzz_envs:Fuzz-v0``, set by plain arguments."""

import copy
import sys

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
OBSERVATIONS = {
    "vector": VECTOR,
    "matrix": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    "bytes": spaces.Box(0, 255, (5,), np.uint8),
    "scalar": spaces.Box(0, 1, (), np.float32),
    "image": spaces.Box(0, 255, (16, 16, 3), np.uint8),
    "discrete": spaces.Discrete(4, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)}),
    "tuple": spaces.Tuple([spaces.MultiBinary(2), spaces.Dict({"c": VECTOR})]),
}
FLOATS = ("vector", "matrix", "scalar", "dict", "tuple")
ACTIONS = {
    "discrete": spaces.Discrete(2),
    "shifted": spaces.Discrete(3, start=5),
    "one": spaces.Discrete(1),
    "multidiscrete": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-2, 2, (2,), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (1, 2), np.float64),
    "integers": spaces.Box(0, 5, (2,), np.int32),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "dict": spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (1,), np.float32)}),
    "tuple": spaces.Tuple([spaces.MultiBinary(2), spaces.Discrete(3)]),
}
LENGTHS = ("random", "one", "fixed", "endless")
REWARDS = ("random", "constant", "zero", "large", "array", "integer")
WRONG_SHAPE, WRONG_DTYPE = np.zeros((7, 7), np.float32), np.array("left")


class Fuzz(gym.Env):
    """Random observations of a space, episodes and rewards of a kind, and a fault once ``at`` steps were taken.

    Args:
        observations: name of the observation space.
        actions: name of the action space.
        lengths: of episodes; "endless" needs a time limit.
        rewards: kind of rewards.
        truncate: whether episodes end as cut by a limit.
        fault: what goes wrong.
        at: steps of this environment before it goes wrong.
    """

    made = 0

    def __init__(
        self, observations="vector", actions="discrete", lengths="random", rewards="random", truncate=False,
        fault=None, at=0,
    ):  # fmt: skip
        Fuzz.made += 1
        self.observation_space, self.action_space = (
            copy.deepcopy(table[name]) for table, name in ((OBSERVATIONS, observations), (ACTIONS, actions))
        )
        self.lengths, self.rewards, self.truncate, self.fault, self.at, self.taken = (
            lengths, rewards, truncate, fault, at, 0,
        )  # fmt: skip
        if fault == "init":
            raise RuntimeError("no simulator here")
        if fault == "exit in init":
            sys.exit(0)
        if fault == "no space":
            del self.observation_space
        if fault == "other actions" and Fuzz.made > 1:
            self.action_space = spaces.Discrete(7)

    def _observation(self):
        if self.taken >= self.at:
            if self.fault == "nan observation":
                return fill(self.observation_space.sample(), np.nan)
            if self.fault in ("wrong shape", "wrong dtype", "no observation"):
                return {"wrong shape": WRONG_SHAPE, "wrong dtype": WRONG_DTYPE, "no observation": None}[self.fault]
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = (
            int(self.np_random.integers(1, 9)) if self.lengths == "random" else 1 if self.lengths == "one" else 4
        )
        if self.fault == "reset":
            raise KeyError("start")
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        if self.taken >= self.at:
            self._fail()
        self.taken, self.left = self.taken + 1, self.left - 1
        ended = self.left <= 0 and self.lengths != "endless"
        return self._observation(), self._reward(), ended and not self.truncate, ended and self.truncate, {}

    def _fail(self):
        if self.fault == "raise":
            raise RuntimeError("the simulator\nlost its licence")
        if self.fault == "exit":
            sys.exit(0)
        if self.fault == "panic":
            raise Panic("out of bounds")
        if self.fault == "changing actions":
            self.action_space = spaces.Discrete(9, start=-4)

    def _reward(self):
        if self.taken > self.at and self.fault in BAD_REWARDS:
            return BAD_REWARDS[self.fault]
        value = self.np_random.normal()
        return {
            "random": float(value), "constant": 1.5, "zero": 0.0, "large": 1e6 * float(value),
            "array": np.array([value]), "integer": int(10 * value),
        }[self.rewards]  # fmt: skip


class Panic(BaseException):
    """As raised by a simulator in Rust."""


BAD_REWARDS = {
    "nan reward": np.nan,
    "infinite reward": -np.inf,
    "huge reward": 1e300,
    "reward of two": np.zeros(2),
    "reward of text": "1",
    "no reward": None,
}


def fill(observation, value):
    """Set every floating-point number of a nested observation."""
    if isinstance(observation, dict):
        return {key: fill(item, value) for key, item in observation.items()}
    if isinstance(observation, tuple):
        return tuple(fill(item, value) for item in observation)
    return np.full_like(observation, value) if np.asarray(observation).dtype.kind == "f" else observation


class Own(nn.Module):
    """A user's policy for vectors and two actions: a linear layer with something before it."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.first, self.logits = nn.Linear(3, 16), nn.Linear(16, 2)
        with torch.no_grad():
            self.logits.weight.mul_(5)

    def middle(self, hidden):
        return hidden

    def forward(self, observations):
        return Categorical(logits=self.logits(self.middle(torch.tanh(self.first(observations)))))


class BatchNorm(Own):
    def __init__(self, *spaces):
        super().__init__(*spaces)
        self.norm = nn.BatchNorm1d(16)

    def middle(self, hidden):
        return self.norm(hidden)


class FunctionalDropout(Own):
    def middle(self, hidden):
        return F.dropout(hidden, 0.5, self.training)


class Noisy(Own):
    def middle(self, hidden):
        return hidden + torch.randn_like(hidden)


class HiddenState(Own):
    last = None

    def middle(self, hidden):
        last = self.last if self.last is not None and self.last.shape == hidden.shape else torch.zeros_like(hidden)
        self.last = (hidden + 0.9 * last).detach()
        return hidden + 0.9 * last


class NanWeights(Own):
    def __init__(self, *spaces):
        super().__init__(*spaces)
        nn.init.constant_(self.logits.weight, torch.nan)


class Plain(Own):
    def forward(self, observations):
        return self.logits(torch.tanh(self.first(observations)))


class Raising(Own):
    def middle(self, hidden):
        raise IndexError("no such\nlayer")


class Unmakeable(Own):
    def __init__(self, *spaces):
        raise RuntimeError("no weights here")


def no_policy(observation_space, action_space):
    return "a policy"


gym.register("Fuzz-v0", entry_point=Fuzz)
