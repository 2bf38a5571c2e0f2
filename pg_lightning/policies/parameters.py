"""Parameters of distributions, by names that say what they are: the outputs of an exported policy."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Bernoulli, Beta, Categorical, Distribution, Independent, Normal

from pg_lightning.policies.head_distributions import DiagonalGaussian, JointDistribution
from pg_lightning.tree import tree_named


def parameters_of(distribution: Distribution, place: str = "") -> dict[str, Tensor]:
    """Return the parameters of a distribution by name; those of an entry of a joint one are named ``mean/key``."""
    if isinstance(distribution, JointDistribution):
        parts = tree_named(place, distribution.parts)
        return {name: value for key, part in parts.items() for name, value in parameters_of(part, key).items()}
    if isinstance(distribution, Independent):
        return parameters_of(distribution.base_dist, place)
    named = next((named for kind, named in PARAMETERS.items() if isinstance(distribution, kind)), _own_names)
    return {f"{name}{place}": value for name, value in named(distribution).items()}


def _own_names(distribution: Distribution) -> dict[str, Tensor]:
    return {name: getattr(distribution, name) for name in distribution.arg_constraints}


def _gaussian(distribution: DiagonalGaussian) -> dict[str, Tensor]:
    mean = distribution.mean
    return {"mean": mean, "log_std": distribution.log_std.expand_as(distribution.flat_mean).reshape(mean.shape)}


PARAMETERS: dict[type[Distribution], Callable[[Any], dict[str, Tensor]]] = {
    Categorical: lambda distribution: {"log_probs": distribution.logits},
    Bernoulli: lambda distribution: {"logits": distribution.logits},
    DiagonalGaussian: _gaussian,
    Normal: lambda distribution: {"mean": distribution.loc, "log_std": distribution.scale.log()},
    Beta: lambda distribution: {"alpha": distribution.concentration1, "beta": distribution.concentration0},
}
"""Names of the parameters of each kind of distribution; of any other kind, torch's own names."""
