"""Each action held for several timesteps."""

from typing import Any

import gymnasium as gym


class RepeatAction(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Take each action several times in a row, or until the episode ends; the rewards are added up.

    The policy decides less often, so there are fewer decisions to learn from one return, and what needs the same action
    for long is found by chance sooner. Steps are counted as decisions: those of the environment are up to ``times`` as
    many. Without a line of code: ``--env.wrappers '[pg_lightning.RepeatAction]'``.

    Args:
        env: whose actions are held.
        times: timesteps of the environment for each action.

    Raises:
        ValueError: ``times`` is less than 1.

    >>> env = RepeatAction(gym.make("CartPole-v1"), times=3)
    >>> _ = env.reset(seed=0)
    >>> env.step(1)[1]
    3.0
    """

    def __init__(self, env: gym.Env, times: int = 4) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1 timestep, not {times}")
        gym.utils.RecordConstructorArgs.__init__(self, times=times)
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Hold an action; the observation and the info are those after it."""
        total: Any = 0.0
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info
