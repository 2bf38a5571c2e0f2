"""Distributions of the heads that torch lacks, or has slower: Gaussians over vectors, squashed ones, joint ones."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.nn.functional import softplus

from pg_lightning.tree import Tree, tree_leaves, tree_map


class Bernoulli(torch.distributions.Bernoulli):
    """Bernoulli distribution whose mode is 0 where both values are equally probable; torch's is NaN there.

    Args:
        logits: of a 1.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    @property
    def mode(self) -> Tensor:
        """The more probable value."""
        return (self.logits > 0).to(self.logits.dtype)


class Beta(torch.distributions.Beta):
    """Beta distribution whose mode is its peak, for parameters that both exceed 1; torch's cannot be exported."""

    @property
    def mode(self) -> Tensor:
        """Peak of the density."""
        alpha, beta = self.concentration1, self.concentration0
        return (alpha - 1) / (alpha + beta - 2)


class DiagonalGaussian(Distribution):
    r"""Gaussian over actions of any shape, with independent components.

    .. math:: \log\pi(a|s) = -\sum_i \frac{(a_i - \mu_i)^2}{2 \sigma_i^2} + \log \sigma_i + \frac{1}{2} \log 2\pi

    Args:
        mean: :math:`\mu` ``[T, A]``.
        log_std: :math:`\log\sigma`, ``[T, A]``, or ``[A]`` where all timesteps share it: that is faster.
        event_shape: of an action, with A components.

    >>> DiagonalGaussian(torch.zeros(3, 2), torch.zeros(2), (2,)).log_prob(torch.zeros(3, 2))
    tensor([-1.8379, -1.8379, -1.8379])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, mean: Tensor, log_std: Tensor, event_shape: tuple[int, ...]) -> None:
        self.flat_mean, self.log_std = mean, log_std
        super().__init__(mean.shape[:1], torch.Size(event_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean ``[T, *act]``."""
        return self.flat_mean.reshape(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        """Mode ``[T, *act]``: the mean."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """Variance ``[T, *act]``."""
        return (2 * self.log_std).exp().expand_as(self.flat_mean).reshape(self.batch_shape + self.event_shape)

    @cached_property
    def _precision(self) -> Tensor:
        return (-2 * self.log_std).exp()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples ``[*sample_shape, T, *act]`` that carry gradients."""
        shape = torch.Size(sample_shape)
        noise = torch.randn(shape + self.flat_mean.shape, dtype=self.flat_mean.dtype, device=self.flat_mean.device)
        return (self.flat_mean + self.log_std.exp() * noise).reshape(shape + self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``[..., T]`` of raw actions ``[..., T, *act]``."""
        errors = value.reshape(*value.shape[: value.ndim - len(self.event_shape)], -1) - self.flat_mean  # (..., T, A)
        # A product and a sum: autocast would round a matrix product to bfloat16.
        squares = (errors.square() * self._precision).sum(-1)  # (..., T)
        return -0.5 * (squares + errors.shape[-1] * math.log(2 * math.pi)) - self.log_std.sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy ``[T]``, in nats."""
        size = self.flat_mean.shape[-1]
        return (self.log_std.sum(-1) + 0.5 * size * math.log(2 * math.pi * math.e)).expand(self.batch_shape)


class SquashedGaussian(DiagonalGaussian):
    r"""Gaussian whose samples x are squashed to actions :math:`\tanh x`, of any shape, with independent components.

    Samples and values are the x, which stay finite where the tanh is saturated; the density is that of the action:

    .. math:: \log\pi(\tanh x|s) = \log \mathcal{N}(x; \mu, \sigma) - \sum_i \log(1 - \tanh^2 x_i)

    The entropy has no closed form. The mode is the mean before the tanh, as is common.

    Args:
        mean: :math:`\mu` ``[T, A]``.
        log_std: :math:`\log\sigma`, ``[T, A]`` or ``[A]``.
        event_shape: of an action, with A components.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``[..., T]`` of the actions, given them before the tanh ``[..., T, *act]``."""
        flat = value.reshape(*value.shape[: value.ndim - len(self.event_shape)], -1)
        # log(1 - tanh² x), without a difference of numbers that are nearly the same.
        return super().log_prob(value) - 2 * (math.log(2) - flat - softplus(-2 * flat)).sum(-1)

    def entropy(self) -> Tensor:
        """Raise: there is no closed form."""
        raise NotImplementedError("the entropy of a squashed Gaussian has no closed form")


class JointDistribution(Distribution):
    """Independent distributions over the entries of a Dict or Tuple space.

    Args:
        parts: a dict or tuple, nested or not, of distributions with one batch shape ``[T]``.

    >>> parts = {"a": Bernoulli(torch.zeros(3)), "b": Bernoulli(torch.zeros(3))}
    >>> JointDistribution(parts).log_prob({"a": torch.ones(3), "b": torch.zeros(3)})
    tensor([-1.3863, -1.3863, -1.3863])
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, parts: Tree) -> None:
        self.parts = parts
        super().__init__(tree_leaves(parts)[0].batch_shape, validate_args=False)

    @property
    def mode(self) -> Tree:
        """Most probable value of every entry, a tree of ``[T, ...]``."""
        return tree_map(lambda part: part.mode, self.parts)

    def sample(self, sample_shape: Any = ()) -> Tree:
        """Draw samples, a tree of ``[*sample_shape, T, ...]``."""
        return tree_map(lambda part: part.sample(sample_shape), self.parts)

    def log_prob(self, value: Tree) -> Tensor:
        """Return the log-probability ``[T]`` of a tree of ``[T, ...]``."""
        return sum(tree_leaves(tree_map(lambda part, own: part.log_prob(own), self.parts, value)))

    def entropy(self) -> Tensor:
        """Return the entropy ``[T]``, where all entries have one."""
        return sum(tree_leaves(tree_map(lambda part: part.entropy(), self.parts)))


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _kl_gaussian(p: DiagonalGaussian, q: DiagonalGaussian) -> Tensor:
    """Kullback-Leibler divergence ``[T]``; a tanh after both leaves it as it is."""
    ratio = (2 * (p.log_std - q.log_std)).exp()
    squares = (p.flat_mean - q.flat_mean).square() * q._precision
    return (0.5 * (ratio + squares - 1) - p.log_std + q.log_std).sum(-1)


@register_kl(JointDistribution, JointDistribution)
def _kl_joint(p: JointDistribution, q: JointDistribution) -> Tensor:
    """Sum of the divergences of all entries ``[T]``."""
    return sum(tree_leaves(tree_map(kl_divergence, p.parts, q.parts)))
