"""Default parts of :class:`~pg_lightning.reinforce.Reinforce`, chosen to learn on many kinds of environments.

Observations and returns are normalised, a critic estimates advantages by GAE, and one natural-gradient step per update
moves the policy by a fixed Kullback-Leibler divergence; the log-std of a Gaussian moves slower than the mean. The
returns follow from the baseline, the optimizer from the direction.
"""

from pg_lightning.critic import Critic as baseline
from pg_lightning.directions import NaturalGradient as direction
from pg_lightning.normalizations import PerBatch as normalization
from pg_lightning.policies.policy import MLPPolicy as policy

__all__ = ["baseline", "direction", "normalization", "policy"]
