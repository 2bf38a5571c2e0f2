"""Small scripted environments: ``tests.envs:Counting-v0`` and the like, whose every number is known beforehand."""

import os
import signal
import sys
import time

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from pg_lightning import MonteCarlo
from pg_lightning.envs import SyncEnvs


class Counting(gym.Env):
    """Episodes of scripted lengths, in turn; an observation says ``[index, *divmod(seed, 2**16), episode, t]``.

    The reward of a timestep is 100 * episode + t + action / 2. A seeded reset starts the script again.
    """

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(0, 2**24, (5,), np.float32)

    def __init__(self, index: int = 0, lengths: tuple[int, ...] = (3,), truncate: bool = False) -> None:
        self.index, self.lengths, self.truncate, self.taken = index, tuple(lengths), truncate, 0

    def _observation(self) -> np.ndarray:
        return np.array([self.index, *divmod(self.seeded, 2**16), self.episode, self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seeded, self.episode = seed, -1
        self.episode, self.t = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        reward = 100.0 * self.episode + self.t + action / 2
        self.t, self.taken = self.t + 1, self.taken + 1
        length = self.lengths[self.episode % len(self.lengths)]
        assert self.t <= length, "stepped beyond the end of an episode"
        ended = self.t == length
        return self._observation(), reward, ended and not self.truncate, ended and self.truncate, {}


def counting_vector_env(lengths: list[tuple[int, ...]], mode: AutoresetMode | str, wrap=lambda env: env) -> VectorEnv:
    """One :class:`Counting` per script, wrapped and stepped together: in a mode of Gymnasium's, or by our SyncEnvs."""
    make = [lambda index=index, script=script: wrap(Counting(index, script)) for index, script in enumerate(lengths)]
    if mode == "ours":
        return SyncEnvs([one() for one in make])
    return SyncVectorEnv(make, autoreset_mode=mode)


class Nested(gym.Wrapper):
    """Shows :class:`Counting`'s observation ``[index, *seed, episode, t]`` as a dict of an array and a tuple."""

    observation_space = gym.spaces.Dict(
        {
            "place": gym.spaces.Box(0, 2**24, (3,), np.float32),
            "time": gym.spaces.Tuple([gym.spaces.Discrete(10**6), gym.spaces.Box(0, 2**24, (1,), np.float32)]),
        }
    )

    def _nest(self, values):
        return {"place": values[:3], "time": (int(values[3]), values[4:])}

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        return self._nest(observation), info

    def step(self, action):
        observation, *rest = self.env.step(action)
        return self._nest(observation), *rest


class RandomLength(gym.Env):
    """Episodes of a random length, and a random observation: the same again after a reset with the same seed."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 9))
        return self.np_random.standard_normal(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        return self.np_random.standard_normal(2, np.float32), float(action), self.left == 0, False, {}


class Broken(gym.Env):
    """Emits a number that is not finite in the third timestep: as the reward, or as what it then shows."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def __init__(self, what: str = "rewards", number: float = np.nan) -> None:
        self.what, self.number = what, number

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1), {}

    def step(self, action):
        self.t += 1
        shown = self.number if self.what == "observations" and self.t == 2 else self.t
        reward = self.number if self.what == "rewards" and self.t == 3 else 1.0
        return np.full(1, shown, np.float64), reward, self.t == 5, False, {}


class Endless(gym.Env):
    """Never ends by itself: a time limit cuts it."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


class Bandit(gym.Env):
    """One timestep, as many arms as means; the rewards are Gaussian around them."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def __init__(self, means: tuple[float, ...] = (0.0, 1.0), noise: float = 0.5) -> None:
        self.means, self.noise, self.action_space = means, noise, gym.spaces.Discrete(len(means))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), self.means[action] + self.noise * self.np_random.normal(), True, False, {}


class TinyMDP(gym.Env):
    """Three states shown one-hot, two actions. From state 0 on; state 2, or the horizon, ends an episode."""

    HORIZON = 4
    NEXT = np.array([[[0.2, 0.7, 0.1], [0.6, 0.1, 0.3]], [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]])  # [state, action, next]
    REWARD = np.array([[1.0, -0.5], [0.2, 2.0]])  # [state, action]
    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(0, 1, (3,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.t = 0, 0
        return np.eye(3, dtype=np.float32)[0], {}

    def step(self, action):
        reward = float(self.REWARD[self.state, action])
        self.state = int(self.NEXT[self.state, action].cumsum().searchsorted(self.np_random.random()))
        self.t += 1
        shown = np.eye(3, dtype=np.float32)[self.state]
        return shown, reward, self.state == 2, self.state != 2 and self.t == self.HORIZON, {}


class Chain(gym.Env):
    """States 0, 1, 2: action 0 goes on, action 1 ends, both end in state 2. Nothing is random but the policy."""

    REWARD = np.array([[1.0, -0.5], [-1.0, 3.0], [6.0, -2.0]])  # [state, action]
    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.state = 0
        return 0, {}

    def step(self, action):
        reward, ended = float(self.REWARD[self.state, action]), action == 1 or self.state == 2
        self.state += not ended
        return self.state, reward, ended, False, {}


class Row(gym.Env):
    """Five states in a row that look alike. Left out, gamma**t teaches the worst policy (Nota & Thomas, 2020).

    State 0: a1 earns 1, a2 nothing, both go on. State 1: a1 earns -2.5 and leads through two idle states to a reward of
    8 in the fifth step; a2 earns nothing and ends.
    """

    action_space = gym.spaces.Discrete(2)  # a1 is action 0, a2 is action 1.
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        reward = {0: (1.0, 0.0), 1: (-2.5, 0.0), 4: (8.0, 8.0)}.get(self.t, (0.0, 0.0))[action]
        ended = self.t == 4 or (self.t == 1 and action == 1)
        self.t += 1
        return np.ones(1, np.float32), reward, ended, False, {}


class Spaces(gym.Env):
    """Any spaces; an episode is one timestep, its reward the action as the environment received it."""

    def __init__(self, observations: gym.Space | None = None, actions: gym.Space | None = None) -> None:
        self.observation_space = observations or gym.spaces.Box(-1, 1, (2, 3), np.float64)
        self.action_space = actions or gym.spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        assert not isinstance(action, np.ndarray) or action.dtype == self.action_space.dtype
        return self.observation_space.sample(), float(np.sum(action)), True, False, {}


class NativeSpaces(VectorEnv):
    """A vectorised implementation of :class:`Spaces` of its own, like the one CartPole has."""

    def __init__(self, num_envs: int = 1, **kwargs) -> None:
        one = Spaces(**kwargs)
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = gym.vector.utils.batch_space(one.observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(one.action_space, num_envs)


class OwnPolicy(nn.Module):
    """A policy as a user writes it: any module that returns a Categorical, with an ordinary dropout."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, units: int = 16, p: float = 0.3) -> None:
        super().__init__()
        inputs, actions = observation_space.shape[0], int(action_space.n)
        self.body = nn.Sequential(nn.Linear(inputs, units), nn.Tanh(), nn.Dropout(p), nn.Linear(units, actions))

    def forward(self, observations):
        return Categorical(logits=self.body(observations))


class GaussianPolicy(nn.Module):
    """For Box actions: a Normal of each component, joined by Independent unless told otherwise."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, independent: bool = True) -> None:
        super().__init__()
        self.mean = nn.Linear(observation_space.shape[0], action_space.shape[0])
        self.log_std = nn.Parameter(nn.init.constant_(self.mean.bias.new_empty(action_space.shape[0]), -0.5))
        self.independent = independent

    def forward(self, observations):
        normal = Normal(self.mean(observations), self.log_std.exp())
        return Independent(normal, 1) if self.independent else normal


class ScaledReturns(MonteCarlo):
    """A return estimator as a user writes it, with a setting that it keeps under another name."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.factor = scale

    def __call__(self, episodes, values, gamma):
        return self.factor * super().__call__(episodes, values, gamma)


for made in (Counting, RandomLength, Broken, Bandit, TinyMDP, Chain, Row, Spaces):
    gym.register(f"{made.__name__}-v0", entry_point=made)
gym.register("Endless-v0", entry_point=Endless, max_episode_steps=6)
gym.register("Native-v0", entry_point=Spaces, vector_entry_point=NativeSpaces)


SHAPES = {"shape": (7,), "stretch": (), "dimension": (1, 1)}


class Failing(Endless):
    """Raises, hangs, dies or shows an observation of another kind, in the fourth timestep of the third episode."""

    def __init__(self, how: str = "raise", closing: str = "") -> None:
        self.how, self.closing, self.episode = how, closing, 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return super().reset()

    def step(self, action):
        self.t += 1
        if self.episode < 3 or self.t < 4:
            return *super().step(action)[:2], self.t == 5, False, {}
        if self.how == "raise":
            raise RuntimeError("the simulator lost its licence")
        if self.how == "refuse":
            raise ConnectionRefusedError("no licence server")
        if self.how == "dtype":
            return np.array(["left"]), 1.0, False, False, {}
        if self.how == "exit":
            sys.exit(0)
        if self.how == "hang":
            time.sleep(1000)
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(SHAPES[self.how], np.float32), 1.0, False, False, {}

    def close(self):
        if not self.episode:
            return  # It was made for its spaces only.
        if self.closing == "raise":
            raise RuntimeError("this comes too late")
        if self.closing == "hang":
            time.sleep(1000)


gym.register("Failing-v0", entry_point=Failing)
