"""Policy gradients as pure functions: returns, baselines, standardisation and the loss.

All of them work on *packed* episodes: one row per timestep, the episodes one after the other, and ``lengths`` telling
where each ends. ``[T]`` is the number of timesteps of all episodes together, ``[E]`` the number of episodes.
"""

import numpy as np
import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def _packed(values: Tensor, lengths: Tensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values ``[T]`` and positive whole lengths ``[E]`` that sum to T as arrays; refuse anything else.

    NumPy takes a fifth of torch's time for what follows: its calls cost less, and so do its sums over segments.
    """
    if values.ndim != 1 or lengths.ndim != 1:
        raise ValueError(
            f"{name} [T] and lengths [E] have one dimension each, not {tuple(values.shape)}, {tuple(lengths.shape)}"
        )
    counts: np.ndarray = lengths.numpy(force=True)
    if counts.dtype.kind != "i" or len(counts) == 0 or counts.min() < 1:
        raise ValueError(f"lengths [E] must be whole numbers of at least 1, and at least one of them; got {lengths}")
    if counts.sum() != len(values):
        raise ValueError(f"lengths sum to {counts.sum()} timesteps but {name} has {len(values)}")
    return values.numpy(force=True), counts


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Return the row of each episode's first timestep ``[E]``."""
    return lengths.cumsum() - lengths


def timestep_indices(lengths: np.ndarray) -> np.ndarray:
    """Count the timesteps t of every episode, from 0.

    Args:
        lengths: timesteps of each episode ``[E]``.

    Returns:
        Index of every timestep within its episode ``[T]``.

    >>> timestep_indices(np.array([1, 3]))
    array([0, 0, 1, 2])
    """
    return np.arange(lengths.sum()) - _starts(lengths).repeat(lengths)


def discounted_sums(values: Tensor, discounts: Tensor) -> Tensor:
    r"""Solve the recurrence behind every return: Monte-Carlo, bootstrapped, λ-return and GAE differ in their discounts.

    .. math:: y_t = x_t + d_t\, y_{t+1}

    A discount of 0 ends a sum, as at an episode's last timestep. Solved by doubling: after round n every row holds the
    sum over its next :math:`2^n` rows, so the longest sum costs log2(length) passes.

    Args:
        values: :math:`x_t` ``[T]``.
        discounts: :math:`d_t` ``[T]``, from 0 to 1; the last one must be 0.

    Returns:
        :math:`y_t` ``[T]``, float64.

    Raises:
        ValueError: shapes that differ, or a last discount that is not 0.

    Source: Sutton & Barto (2018), equation 3.9; per-timestep discounts as in section 12.8.

    >>> discounted_sums(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.0, 0.0]))
    tensor([1.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    if values.shape != discounts.shape or values.ndim != 1:
        raise ValueError(f"values and discounts must both be [T], not {tuple(values.shape)}, {tuple(discounts.shape)}")
    sums = values.numpy(force=True).astype(np.float64)
    factors = discounts.numpy(force=True).astype(np.float64)
    if len(factors) and factors[-1] != 0:
        raise ValueError(f"the last discount must be 0, as the last episode ends there; it is {factors[-1]}")
    span = 1
    while factors.any():
        sums[:-span] += factors[:-span] * sums[span:]
        factors[:-span] *= factors[span:]  # The product of the next 2 * span discounts.
        span *= 2
    return torch.from_numpy(sums).to(values.device)


def discounts_within(lengths: Tensor, gamma: float) -> Tensor:
    """Discount every timestep by gamma, but each episode's last one by 0.

    Args:
        lengths: timesteps of each episode ``[E]``.
        gamma: discount factor, from 0 to 1.

    Returns:
        Discounts ``[T]``, float64, for :func:`discounted_sums`.

    >>> discounts_within(torch.tensor([3, 1]), 0.9)
    tensor([0.9000, 0.9000, 0.0000, 0.0000], dtype=torch.float64)
    """
    discounts = torch.full((int(lengths.sum()),), gamma, dtype=torch.float64, device=lengths.device)
    discounts[lengths.cumsum(0) - 1] = 0.0
    return discounts


def timestep_discounts(lengths: Tensor, gamma: float) -> Tensor:
    r"""Discount every timestep t of its episode by :math:`\gamma^t` ``[T]``, float64.

    >>> timestep_discounts(torch.tensor([3, 1]), 0.5)
    tensor([1.0000, 0.5000, 0.2500, 1.0000], dtype=torch.float64)
    """
    return torch.from_numpy(gamma ** timestep_indices(lengths.numpy(force=True))).to(lengths.device)


def returns_to_go(rewards: Tensor, lengths: Tensor, gamma: float) -> Tensor:
    r"""Sum the discounted rewards from each timestep to the end of its episode.

    .. math:: G_t = \sum_{k=0}^{T-t-1} \gamma^k R_{t+k+1} = R_{t+1} + \gamma G_{t+1}

    Args:
        rewards: ``rewards[t]`` is :math:`R_{t+1}` ``[T]``.
        lengths: timesteps of each episode ``[E]``.
        gamma: discount factor, from 0 to 1.

    Returns:
        Returns-to-go ``[T]``, float64.

    Raises:
        ValueError: gamma outside of [0, 1], or lengths that do not match the rewards.

    Source: Sutton & Barto (2018), section 3.3, equations 3.8 and 3.9.

    >>> returns_to_go(torch.ones(6), torch.tensor([5, 1]), gamma=0.99)
    tensor([4.9010, 3.9404, 2.9701, 1.9900, 1.0000, 1.0000], dtype=torch.float64)
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, not {gamma}")
    _packed(rewards, lengths, "rewards")
    return discounted_sums(rewards, discounts_within(lengths, gamma))


def episode_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum each episode's values.

    Args:
        values: one floating-point value per timestep ``[T]``.
        lengths: timesteps of each episode ``[E]``.

    Returns:
        The sums ``[E]``, of the same dtype.

    Raises:
        ValueError: lengths that do not match the values.

    >>> episode_sums(torch.tensor([1.0, 2.0, 3.0, 7.0]), torch.tensor([3, 1]))
    tensor([6., 7.])
    """
    array, counts = _packed(values, lengths, "values")
    return torch.from_numpy(np.add.reduceat(array, _starts(counts))).to(values.device)


def standardize_episodes(values: Tensor, lengths: Tensor) -> Tensor:
    r"""Shift and scale each episode's values to mean 0 and standard deviation 1.

    .. math:: (x_t - \bar x) / (s + \epsilon), \quad s^2 = \sum_t (x_t - \bar x)^2 / (T - 1)

    with :math:`\epsilon` the float32 machine epsilon. An episode of one timestep, or of equal values, becomes zeros.

    Args:
        values: one value per timestep ``[T]``.
        lengths: timesteps of each episode ``[E]``.

    Returns:
        Standardised values ``[T]``, of the same dtype.

    Raises:
        ValueError: lengths that do not match the values.

    Source: the scaling that PyTorch's REINFORCE example made common (``pytorch/examples``, reinforcement_learning).

    >>> standardize_episodes(torch.tensor([1.0, 2.0, 3.0, 7.0]), torch.tensor([3, 1])).round(decimals=4)
    tensor([-1.,  0.,  1.,  0.])
    """
    array, counts = _packed(values, lengths, "values")
    starts = _starts(counts)
    shifted = array - array[starts].repeat(counts)  # Equal values are zeros, not rounding errors.
    centered = shifted - (np.add.reduceat(shifted, starts) / counts).repeat(counts)
    variance = np.add.reduceat(centered**2, starts) / np.maximum(counts - 1, 1)
    return torch.from_numpy(centered / (np.sqrt(variance) + EPS).repeat(counts)).to(values)


def standardize(values: Tensor) -> Tensor:
    r"""Shift and scale all values together to mean 0 and standard deviation 1.

    Args:
        values: one value per timestep ``[T]``.

    Returns:
        :math:`(x - \bar x) / (s + \epsilon)` ``[T]``, s the population's standard deviation; equal values become 0.

    >>> standardize(torch.tensor([1.0, 2.0, 3.0, 2.0])).round(decimals=4)
    tensor([-1.4142,  0.0000,  1.4142,  0.0000])
    """
    centered = values - values[:1]  # Equal values are zeros, not rounding errors.
    centered = centered - centered.mean()
    return centered / (centered.std(correction=0) + EPS)


def timestep_mean(returns: Tensor, lengths: Tensor) -> Tensor:
    r"""Average the returns of all episodes at the same timestep: a baseline without a critic, biased by its own return.

    .. math:: b_t = \frac{1}{|\{i: T_i > t\}|} \sum_{i: T_i > t} G^i_t

    The own return is part of the mean, which biases the gradient with few episodes; :func:`leave_one_out` is unbiased.

    Args:
        returns: returns-to-go ``[T]``.
        lengths: timesteps of each episode ``[E]``.

    Returns:
        Baseline of every timestep ``[T]``, of the same dtype.

    Raises:
        ValueError: lengths that do not match the returns.

    Source: Greensmith, Bartlett & Baxter (2004), "Variance Reduction Techniques for Gradient Estimates in
    Reinforcement Learning", section 4, for baselines that do not depend on the action.

    >>> timestep_mean(torch.tensor([3.0, 2.0, 1.0, 5.0]), torch.tensor([3, 1]))
    tensor([4., 2., 1., 4.])
    """
    array, counts = _packed(returns, lengths, "returns")
    timesteps = timestep_indices(counts)
    means = np.bincount(timesteps, array) / np.bincount(timesteps)
    return torch.from_numpy(means[timesteps]).to(returns)


def leave_one_out(returns: Tensor, lengths: Tensor) -> Tensor:
    r"""Average the returns of the *other* episodes at the same timestep: an unbiased baseline without a critic.

    .. math:: b^i_t = \frac{1}{|\{j \ne i: T_j > t\}|} \sum_{j \ne i,\, T_j > t} G^j_t

    Where no other episode still runs, it is the mean over all timesteps of the others; with a single episode it is 0.
    Either way it depends on the other episodes alone, so that it does not bias the gradient.

    Args:
        returns: returns-to-go ``[T]``.
        lengths: timesteps of each episode ``[E]``.

    Returns:
        Baseline of every timestep ``[T]``, of the same dtype.

    Raises:
        ValueError: lengths that do not match the returns.

    Source: Kool, van Hoof & Welling (2019), "Buy 4 REINFORCE Samples, Get a Baseline for Free!".

    >>> leave_one_out(torch.tensor([3.0, 2.0, 1.0, 5.0]), torch.tensor([3, 1]))
    tensor([5., 5., 5., 3.])
    """
    array, counts = _packed(returns, lengths, "returns")
    array = array.astype(np.float64)
    timesteps = timestep_indices(counts)
    others = np.bincount(timesteps)[timesteps] - 1
    sums = np.bincount(timesteps, array)[timesteps] - array
    totals = array.sum() - np.add.reduceat(array, _starts(counts))
    elsewhere = (totals / np.maximum(len(array) - counts, 1)).repeat(counts)
    baseline = np.where(others > 0, sums / np.maximum(others, 1), elsewhere * (len(counts) > 1))
    return torch.from_numpy(baseline).to(returns)


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, num_episodes: float) -> Tensor:
    r"""Weigh the log-probabilities by the advantages: its gradient is minus the policy gradient.

    .. math:: L = -\frac{1}{E} \sum_{i=1}^{E} \sum_t \log\pi(A^i_t \mid S^i_t)\, \hat A^i_t

    Summed over an episode's timesteps, averaged over the episodes. Given a part of the timesteps it returns that
    part's share of the loss, so parts add up to the whole.

    Args:
        log_probs: :math:`\log\pi(A_t|S_t)` ``[T]``, with gradients.
        advantages: a weight for every timestep ``[T]``, without gradients.
        num_episodes: E, episodes of the whole update (of several processes: their mean).

    Returns:
        The loss, a scalar ``[]``.

    Raises:
        ValueError: shapes that differ (they would broadcast silently).

    Source: Williams (1992), REINFORCE; Sutton & Barto (2018), section 13.3, equation 13.8.

    >>> policy_gradient_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.5, 1.0]), num_episodes=1)
    tensor(2.5000)
    """
    if log_probs.shape != advantages.shape or log_probs.ndim != 1:
        raise ValueError(
            f"log_probs and advantages must both be [T], not {tuple(log_probs.shape)} and {tuple(advantages.shape)}"
        )
    return torch.dot(log_probs.to(advantages.dtype), advantages / -num_episodes)  # Faster than a product and a sum.
