"""Diagnostics of an update: policy lag, entropy, KL divergence of the step, explained and gradient variance."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pg_lightning.episodes import Batch, Chunk
from pg_lightning.gradients import Loss, summed_over_chunks
from pg_lightning.policies.head_distributions import JointDistribution
from pg_lightning.tree import Tree, tree_leaves, tree_map

STEP_TIMESTEPS = 1024
"""Timesteps at most on which a step is measured."""

GRADIENT_EPISODES = 16
"""Episodes at most, of each process, from which the gradient's variance is estimated."""


def relative_lag(log_probs: Tensor, recorded: Tensor) -> float:
    r"""Return the largest difference between log-probs and those recorded while acting, relative to their size.

    .. math:: \max_t |\log\pi_t - \log\pi^{recorded}_t| / (1 + |\log\pi^{recorded}_t|)

    >>> relative_lag(torch.tensor([-1.0, -3.0]), torch.tensor([-1.0, -1.0]))
    1.0
    """
    return ((log_probs - recorded).abs() / (1 + recorded.abs())).max().item()


def entropy(distribution: Distribution, actions: Tree) -> Tensor:
    r"""Return the entropy of every timestep ``[C]``, from its one action where the distribution has no exact one.

    The estimate is :math:`-\log\pi(A)`, whose own gradient is 0 in the mean; that of the entropy is the mean of
    :math:`-\log\pi(A) \nabla\log\pi(A)`, which is the gradient here.

    Args:
        distribution: of the policy.
        actions: that it sampled, a tree of ``[C, ...]``.

    >>> entropy(torch.distributions.Normal(torch.zeros(1), 1.0), torch.zeros(1))
    tensor([1.4189])
    """
    if isinstance(distribution, JointDistribution):
        return sum(tree_leaves(tree_map(entropy, distribution.parts, actions)))
    try:
        return distribution.entropy()
    except NotImplementedError:
        log_probs = distribution.log_prob(actions)
        return -log_probs.detach() * (1 + log_probs - log_probs.detach())


def sampled_kl(log_ratio: Tensor) -> Tensor:
    r"""Estimate a KL divergence of every timestep ``[C]`` from the action taken by the old policy.

    .. math:: r_t - 1 - \log r_t, \quad r_t = \pi_{new}(A_t|S_t) / \pi_{old}(A_t|S_t)

    Args:
        log_ratio: :math:`\log r_t` ``[C]``.

    Source: Schulman (2020), "Approximating KL Divergence"; it is unbiased and never negative.

    >>> sampled_kl(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7183])
    """
    return log_ratio.exp() - 1 - log_ratio


@torch.no_grad()
def measure_step(policy: nn.Module, sample: Chunk) -> Tensor:
    r"""Return the KL divergence of a step that was just taken, and the entropy after it, means over timesteps ``[2]``.

    The divergence is estimated from the actions taken, see :func:`sampled_kl`.
    """
    distribution = sample.distribution(policy)
    log_probs = distribution.log_prob(sample.actions)  # [C]
    log_ratio = (log_probs - sample.log_probs).double()
    return torch.stack([sampled_kl(log_ratio).mean(), entropy(distribution, sample.actions).double().mean()])


def explained_variance(baseline: Tensor, returns: Tensor) -> float:
    r"""Return the share of the returns' variance that the baseline explains: 1 at best, 0 for a constant.

    >>> explained_variance(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    1.0
    """
    spread = returns.var(correction=0)
    return 1.0 - ((returns - baseline).var(correction=0) / spread).item() if spread > 0 else 0.0


def gradient_variance(
    loss: Loss,
    batch: Batch,
    chunk_size: int,
    parameters: Sequence[Tensor],
    over_processes: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    r"""Estimate the variance of an update's gradient from the gradients of single episodes.

    .. math:: \frac{1}{E} \sum_j \frac{1}{N - 1} \sum_{i=1}^{N} (g_{ij} - \bar g_j)^2

    the trace of the covariance matrix of the mean of E independent episodes' gradients, with :math:`g_i` the gradient
    of episode i's own loss, j a parameter, and N episodes, evenly spaced over the E of the update. Advantages count as
    given: that those of one update are normalised together, or compared with each other, is left out.
    ``grad_norm ** 2 / grad_variance`` is the signal-to-noise ratio of the update.

    Args:
        loss: maps a chunk to its share of the loss ``[]``.
        batch: of this process.
        chunk_size: timesteps that are differentiated together.
        parameters: to differentiate by.
        over_processes: adds up a tensor over all processes.

    Returns:
        The metric ``grad_variance``; none, with a warning, where there are fewer than 2 episodes.

    Source: Greensmith, Bartlett & Baxter (2004), "Variance Reduction Techniques for Gradient Estimates in
    Reinforcement Learning", section 3, for the variance of a gradient estimate as the sum over its components.
    """
    lengths = batch.episodes.lengths
    spans = list(zip((lengths.cumsum(0) - lengths).tolist(), lengths.tolist(), strict=True))
    spaced = spans[:: -(-len(spans) // GRADIENT_EPISODES)]
    sums: Tensor | None = None  # Of the gradients [P], of their squared norms, and of the episodes.
    for start, length in spaced:
        episode = batch.chunk().rows(slice(start, start + length))._replace(num_episodes=1.0)
        value, _ = summed_over_chunks(loss, episode.split(chunk_size), parameters)
        gradient = torch.cat([part.reshape(-1).double() for part in torch.autograd.grad(value, parameters)])  # [P]
        terms = torch.cat([gradient, torch.stack([gradient @ gradient, gradient.new_ones(())])])
        sums = terms if sums is None else sums + terms
    assert sums is not None
    sums = over_processes(sums)
    total, (squares, count) = sums[:-2], sums[-2:]
    if count < 2:
        warnings.warn("the gradient's variance needs at least 2 episodes per update; it is not measured", stacklevel=2)
        return {}
    trace = ((squares - total @ total / count) / (count - 1)).clamp_min(0)  # Rounding may leave less than 0.
    return {"grad_variance": trace.item() / len(batch.whole.episodes)}
