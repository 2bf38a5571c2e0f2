"""Diagnostics of an update: policy lag, entropy, the KL divergence of the step, explained variance."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pg_lightning.episodes import Chunk

STEP_TIMESTEPS = 1024
"""Timesteps at most on which a step is measured."""


def relative_lag(log_probs: Tensor, recorded: Tensor) -> float:
    r"""Return the largest difference between log-probs and those recorded while acting, relative to their size.

    .. math:: \max_t |\log\pi_t - \log\pi^{recorded}_t| / (1 + |\log\pi^{recorded}_t|)

    >>> relative_lag(torch.tensor([-1.0, -3.0]), torch.tensor([-1.0, -1.0]))
    1.0
    """
    return ((log_probs - recorded).abs() / (1 + recorded.abs())).max().item()


def entropy(distribution: Distribution, log_probs: Tensor) -> Tensor:
    """Return the entropy of every timestep ``[C]``, from its one action where the distribution has no exact one."""
    try:
        return distribution.entropy()
    except NotImplementedError:
        return -log_probs


@torch.no_grad()
def measure_step(policy: nn.Module, sample: Chunk) -> Tensor:
    r"""Return the KL divergence of a step that was just taken, and the entropy after it, means over timesteps ``[2]``.

    The divergence is estimated from the actions taken:

    .. math:: \frac{1}{C} \sum_t (r_t - 1 - \log r_t), \quad r_t = \pi_{new}(A_t|S_t) / \pi_{old}(A_t|S_t)

    Source: Schulman (2020), "Approximating KL Divergence"; it is unbiased and never negative.
    """
    distribution = sample.distribution(policy)
    log_probs = distribution.log_prob(sample.actions)  # [C]
    log_ratio = (log_probs - sample.log_probs).double()
    return torch.stack([(log_ratio.exp() - 1 - log_ratio).mean(), entropy(distribution, log_probs).double().mean()])


def explained_variance(baseline: Tensor, returns: Tensor) -> float:
    r"""Return the share of the returns' variance that the baseline explains: 1 at best, 0 for a constant.

    >>> explained_variance(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    1.0
    """
    spread = returns.var(correction=0)
    return 1.0 - ((returns - baseline).var(correction=0) / spread).item() if spread > 0 else 0.0
