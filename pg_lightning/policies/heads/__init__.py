"""Heads: from a network's outputs to a distribution over actions, one class per action space.

A head samples in NumPy while acting and scores in torch while learning. To add one, subclass :class:`Head` and enter it
in :data:`HEADS`.
"""

import gymnasium as gym

from pg_lightning.policies.heads.base import HEADS, Head, make_head, to_env
from pg_lightning.policies.heads.beta import BetaHead
from pg_lightning.policies.heads.composite import CompositeHead
from pg_lightning.policies.heads.discrete import BernoulliHead, CategoricalHead, MultiCategoricalHead, gumbel_noise
from pg_lightning.policies.heads.gaussian import GaussianHead, PredictedStdGaussianHead, SquashedGaussianHead

HEADS |= {
    gym.spaces.Discrete: CategoricalHead,
    gym.spaces.MultiDiscrete: MultiCategoricalHead,
    gym.spaces.MultiBinary: BernoulliHead,
    gym.spaces.Box: GaussianHead,
    gym.spaces.Tuple: CompositeHead,
    gym.spaces.Dict: CompositeHead,
}

__all__ = [
    "HEADS",
    "BernoulliHead",
    "BetaHead",
    "CategoricalHead",
    "CompositeHead",
    "GaussianHead",
    "Head",
    "MultiCategoricalHead",
    "PredictedStdGaussianHead",
    "SquashedGaussianHead",
    "gumbel_noise",
    "make_head",
    "to_env",
]
