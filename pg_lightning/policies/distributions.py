"""Categorical distribution for policies: normalised only when needed, with a fast log-probability."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.utils import lazy_property

from pg_lightning.policies.fused import differentiable_once, fusible


class Categorical(torch.distributions.Categorical):
    r"""Categorical distribution over actions, given by logits.

    The same as ``torch.distributions.Categorical``, but the logits are normalised on first use only, and

    .. math:: \log\pi(a|s) = z_a - \log \textstyle\sum_b e^{z_b}

    is computed on ``[actions, T]``, where a softmax is cheaper (measured from 2 to 512 actions), with its gradient
    :math:`\mathrm{onehot}(a) - \mathrm{softmax}(z)`.

    Args:
        logits: unnormalised log-probabilities z ``[..., actions]``.
        validate_args: whether to check logits and values, as in ``torch.distributions``.

    >>> Categorical(torch.zeros(3, 2)).log_prob(torch.tensor([0, 1, 1]))
    tensor([-0.6931, -0.6931, -0.6931])
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = False) -> None:
        self._param, self._num_events = logits, logits.shape[-1]
        Distribution.__init__(self, logits.shape[:-1], validate_args=validate_args)

    @property
    def unnormalized(self) -> Tensor:
        """Logits as they were given ``[..., actions]``."""
        return self._param

    @lazy_property
    def logits(self) -> Tensor:
        """Normalised log-probabilities ``[..., actions]``."""
        return self._param - self._param.logsumexp(-1, keepdim=True)

    @property
    def mode(self) -> Tensor:
        """Most probable actions ``[...]``: by the logits, of which rounded probabilities may make equals."""
        return self._param.argmax(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Categorical":
        """Return the distribution with its batch dimensions expanded."""
        return Categorical(self._param.expand(*batch_shape, self._num_events), self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probabilities of actions ``[...]``."""
        if not fusible(self._param) or value.shape != self.batch_shape:
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        return _LogProb.apply(self._param, value.long())

    def entropy(self) -> Tensor:
        """Return the entropies ``[...]``."""
        return _Entropy.apply(self._param) if fusible(self._param) else super().entropy()


class _LogProb(torch.autograd.Function):
    """Log-probability of a categorical distribution, computed on ``[actions, T]``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, actions: Tensor) -> Tensor:
        """Map logits ``[..., actions]`` and actions ``[...]`` to log-probabilities ``[...]``."""
        log_probs = logits.reshape(-1, logits.shape[-1]).t().log_softmax(0)  # (actions, T)
        ctx.save_for_backward(log_probs, actions, logits)  # The logits for differentiable_once.
        chosen = torch.empty_like(actions, dtype=logits.dtype, memory_format=torch.contiguous_format)
        torch.gather(log_probs, 0, actions.reshape(1, -1), out=chosen.view(1, -1))
        return chosen

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Multiply the gradient ``[...]`` by onehot - softmax."""
        log_probs, actions, _ = ctx.saved_tensors
        rows, shape = gradient.reshape(1, -1), (*actions.shape, len(log_probs))
        gradients = log_probs.exp().mul_(-rows).scatter_add_(0, actions.reshape(1, -1), rows)  # (actions, T)
        return gradients.t().reshape(shape), None


class _Entropy(torch.autograd.Function):
    """Entropy of a categorical distribution, computed on ``[actions, T]``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        """Map logits ``[..., actions]`` to entropies ``[...]``."""
        log_probs = logits.reshape(-1, logits.shape[-1]).t().log_softmax(0)  # (actions, T)
        # A forbidden action has probability 0 and a log-probability that may be -inf.
        log_probs = log_probs.clamp_min_(torch.finfo(logits.dtype).min)
        probs = log_probs.exp()  # (actions, T)
        entropy = -(probs * log_probs).sum(0)  # (T)
        ctx.save_for_backward(probs, log_probs, entropy, logits)  # The logits for differentiable_once.
        return entropy.reshape(logits.shape[:-1])

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Multiply the gradient ``[...]`` by -p (log p + H)."""
        probs, log_probs, entropy, logits = ctx.saved_tensors
        gradients = (log_probs + entropy).mul_(probs).mul_(-gradient.reshape(-1))  # (actions, T)
        return (gradients.t().reshape(logits.shape),)
