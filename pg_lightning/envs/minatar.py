"""MinAtar: five Atari games on 10 x 10 pixels, with a channel for each kind of thing on the screen.

``pip install 'pg_lightning[minatar]'``. Ids such as ``MinAtar/Breakout-v1`` (the actions that matter) and ``-v0`` (all
six) are known without an import. Freeway ends after 2,500 timesteps; the others have no time limit. They repeat the
last action with probability 0.1, at the start of an episode the last one of the episode before: only with
``--env.kwargs '{sticky_action_prob: 0.0}'`` is a resumed run exact.

Source: Young & Tian (2019), "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning
Experiments".
"""

import gymnasium as gym

NAMESPACE = "MinAtar/"
"""Beginning of the ids that MinAtar registers."""


def register() -> None:
    """Register the games.

    Raises:
        ModuleNotFoundError: minatar is not installed.
    """
    try:
        from minatar.gym import register_envs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("MinAtar's games need: pip install 'pg_lightning[minatar]'") from error
    if f"{NAMESPACE}Breakout-v1" not in gym.registry:
        register_envs()
