"""Default parts of :class:`~pg_lightning.reinforce.Reinforce`: the recipe of a bare ``Reinforce()``."""

from pg_lightning.baselines import LeaveOneOut as baseline
from pg_lightning.directions import Gradient as direction
from pg_lightning.normalizations import PerBatch as normalization
from pg_lightning.policies.policy import MLPPolicy as policy
from pg_lightning.returns import MonteCarlo as returns

__all__ = ["baseline", "direction", "normalization", "policy", "returns"]
