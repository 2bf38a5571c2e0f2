"""Policies: encoder, body and head; dropout whose masks are replayed."""

from pg_lightning.policies.bodies import MLPBody
from pg_lightning.policies.cnn import CNNBody
from pg_lightning.policies.distributions import Categorical
from pg_lightning.policies.dropout import ConsistentDropout
from pg_lightning.policies.encoders import ENCODERS, Encoder, ImageEncoder
from pg_lightning.policies.heads import (
    HEADS,
    BernoulliHead,
    BetaHead,
    CategoricalHead,
    CompositeHead,
    GaussianHead,
    Head,
    MultiCategoricalHead,
    PredictedStdGaussianHead,
    SquashedGaussianHead,
)
from pg_lightning.policies.policy import CNNPolicy, MLPPolicy, Policy, PolicyFactory

__all__ = [
    "ENCODERS",
    "HEADS",
    "BernoulliHead",
    "BetaHead",
    "CNNBody",
    "CNNPolicy",
    "Categorical",
    "CategoricalHead",
    "CompositeHead",
    "ConsistentDropout",
    "Encoder",
    "GaussianHead",
    "Head",
    "ImageEncoder",
    "MLPBody",
    "MLPPolicy",
    "MultiCategoricalHead",
    "Policy",
    "PolicyFactory",
    "PredictedStdGaussianHead",
    "SquashedGaussianHead",
]
