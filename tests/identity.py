"""Identity tasks: an observation names one of four targets, the action must name it, too. One class for all spaces."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

TARGETS, STEPS = 4, 8
IMAGE = Box(0, 255, (6, 6, 1), np.uint8)
VECTOR = Box(-1, 1, (3,), np.float32)


def _image(target, rng):
    """A bright square in one of the four corners, on a grey of random brightness."""
    image = np.full((6, 6, 1), int(60 * rng.random()), np.uint8)
    row, column = divmod(target, 2)
    image[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 250
    return image


def _vector(target, rng):
    first, second = divmod(target, 2)
    return np.array([1.6 * first - 0.8, 1.6 * second - 0.8, 2 * rng.random() - 1], np.float32)


OBSERVATIONS = {
    "vector": (VECTOR, _vector),
    "image": (IMAGE, _image),
    "discrete": (Discrete(TARGETS, start=-2), lambda target, rng: target - 2),
    "dict": (
        Dict(frame=IMAGE, noise=VECTOR),
        lambda target, rng: {"frame": _image(target, rng), "noise": rng.uniform(-1, 1, 3).astype(np.float32)},
    ),
    "tuple": (
        Tuple((Discrete(2, start=1), MultiBinary(1))),
        lambda target, rng: (1 + target // 2, np.array([target % 2], np.int8)),
    ),
}
"""Space of each kind, and the function from a target to an observation."""


def _closeness(space, unit):
    """Reward of numbers: 1 at the target, a quarter of the way from the middle to a bound, less the squared error."""

    def reward(target, action):
        errors = (
            unit(value) - (0.25 if sign else -0.25)
            for value, sign in zip(action.tolist(), divmod(target, 2), strict=True)
        )
        return 1 - sum(error**2 for error in errors) / 2

    return space, reward


def _within(low, high):
    return lambda action: (2 * action - low - high) / (high - low)


def _bits(target, action):
    first, second = action.tolist()
    return ((target // 2 == first) + (target % 2 == second)) / 2


BOUNDED = _closeness(Box(-1, 3, (2,), np.float32), _within(-1, 3))
INDEX = Discrete(TARGETS, start=3), lambda target, action: float(action == target + 3)
PARTS = MultiDiscrete([2, 2], start=[1, 5]), lambda target, action: _bits(target, action - [1, 5])

ACTIONS = {
    "discrete": INDEX,
    "multidiscrete": PARTS,
    "multibinary": (MultiBinary(2), _bits),
    "box": BOUNDED,
    "integers": _closeness(Box(-10, 10, (2,), np.int32), _within(-10, 10)),
    "infinite": _closeness(Box(-np.inf, np.inf, (2,), np.float64), lambda action: action),
    "tuple": (
        Tuple((INDEX[0], BOUNDED[0])),
        lambda target, action: INDEX[1](target, action[0]) + BOUNDED[1](target, action[1]),
    ),
    "dict": (
        Dict(parts=PARTS[0], numbers=BOUNDED[0]),
        lambda target, action: PARTS[1](target, action["parts"]) + BOUNDED[1](target, action["numbers"]),
    ),
    "masked": INDEX,
}
"""Space of each kind, and the reward given the target and the action; the best one is 1, or 2 for two entries."""


class Identity(gym.Env):
    """Eight timesteps, each with a new target.

    In the kind ``masked`` one action is forbidden at a time; where it is the target, its neighbour earns the reward.
    The mask is an entry of a Dict observation, or else in the info. No action is allowed in the end.
    """

    def __init__(self, observations: str, actions: str) -> None:
        self.observation_space, self._show = OBSERVATIONS[observations]
        self.action_space, self._reward = ACTIONS[actions]
        self.masked, self.in_observation = actions == "masked", observations == "dict"
        if self.masked and self.in_observation:
            self.observation_space = Dict({**self.observation_space.spaces, "action_mask": MultiBinary(TARGETS)})

    def _emit(self):
        self.target = int(self.np_random.integers(TARGETS))
        observation, info = self._show(self.target, self.np_random), {}
        if self.masked:
            self.mask = np.ones(TARGETS, np.int8)
            self.mask[self.np_random.integers(TARGETS)] = 0
            self.mask *= self.t < STEPS
            if self.in_observation:
                observation["action_mask"] = self.mask
            else:
                info = {"action_mask": self.mask}
        return observation, info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._emit()

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float(self._reward(self.target, action))
        if self.masked:
            index = action - self.action_space.start
            assert self.mask[index], "a masked action was taken"
            reward = float(action == self.action_space.start + self.best(self.target, self.mask))
        self.t += 1
        observation, info = self._emit()
        return observation, reward, self.t == STEPS, False, info

    @staticmethod
    def best(target, mask):
        """The target, or where that is forbidden the one with the same first bit."""
        return target if mask[target] else target ^ 1

    def optimum(self):
        """Largest return of an episode."""
        return STEPS * (2 if isinstance(self.action_space, Dict | Tuple) else 1)

    def random_return(self, episodes=100):
        """Mean return of actions that are drawn from the action space."""
        self.action_space.seed(0)
        total = 0.0
        for episode in range(episodes):
            self.reset(seed=episode)
            ended = False
            while not ended:
                mask = (self.mask,) if self.masked else ()
                _, reward, ended, _, _ = self.step(self.action_space.sample(*mask))
                total += reward / episodes
        return total
