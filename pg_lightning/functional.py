"""Policy gradients as pure functions: returns, standardising, baselines, the loss and its gradient in chunks.

All of them work on *packed* episodes: one row per timestep, the episodes one after the other, and ``lengths`` telling
where each ends. ``[T]`` is the number of timesteps of all episodes together, ``[E]`` the number of episodes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def _packed(values: Tensor, lengths: Tensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values ``[T]`` and positive whole lengths ``[E]`` that sum to T as arrays; refuse anything else.

    NumPy does what follows in a fifth of torch's time: its calls cost less, and so do its sums over segments.
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
    """Tell for every timestep its index t within its episode, counted from 0.

    Args:
        lengths: timesteps of each episode ``[E]``.

    Returns:
        Index of the timestep ``[T]``.

    >>> timestep_indices(np.array([1, 3]))
    array([0, 0, 1, 2])
    """
    return np.arange(lengths.sum()) - _starts(lengths).repeat(lengths)


def returns_to_go(rewards: Tensor, lengths: Tensor, gamma: float) -> Tensor:
    r"""Sum the discounted rewards from each timestep to the end of its episode.

    .. math:: G_t = \sum_{k=0}^{T-t-1} \gamma^k R_{t+k+1}

    By doubling instead of one step at a time: after round n every timestep holds the sum of its next :math:`2^n`
    rewards, so the longest episode costs log2(length) passes over the whole array.

    Args:
        rewards: ``rewards[t]`` is :math:`R_{t+1}` ``[T]``.
        lengths: timesteps of each episode ``[E]``.
        gamma: discount factor, from 0 to 1.

    Returns:
        Returns-to-go ``[T]``, float64.

    Raises:
        ValueError: gamma outside of [0, 1], or lengths that do not match the rewards.

    Source: Sutton & Barto (2018), section 3.3, equation 3.8.

    >>> returns_to_go(torch.ones(6), torch.tensor([5, 1]), gamma=0.99)
    tensor([4.9010, 3.9404, 2.9701, 1.9900, 1.0000, 1.0000], dtype=torch.float64)
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, not {gamma}")
    values, counts = _packed(rewards, lengths, "rewards")
    returns = values.astype(np.float64)
    steps_left = counts.repeat(counts) - timestep_indices(counts)
    span, discount, longest = 1, gamma, counts.max()
    while span < longest:
        returns[:-span] += discount * np.where(steps_left[:-span] > span, returns[span:], 0.0)
        span, discount = 2 * span, discount * discount
    return torch.from_numpy(returns).to(rewards.device)


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


def standardize(values: Tensor, lengths: Tensor) -> Tensor:
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

    >>> standardize(torch.tensor([1.0, 2.0, 3.0, 7.0]), torch.tensor([3, 1])).round(decimals=4)
    tensor([-1.,  0.,  1.,  0.])
    """
    array, counts = _packed(values, lengths, "values")
    starts = _starts(counts)
    shifted = array - array[starts].repeat(counts)  # Equal values are zeros, not rounding errors.
    centered = shifted - (np.add.reduceat(shifted, starts) / counts).repeat(counts)
    variance = np.add.reduceat(centered**2, starts) / np.maximum(counts - 1, 1)
    return torch.from_numpy(centered / (np.sqrt(variance) + EPS).repeat(counts)).to(values)


def timestep_baseline(returns: Tensor, lengths: Tensor) -> Tensor:
    r"""Average the returns of all episodes at the same timestep: a baseline that needs no critic.

    .. math:: b_t = \frac{1}{|\{i: T_i > t\}|} \sum_{i: T_i > t} G^i_t

    An episode's own return is part of the mean. That only scales its advantage by (n - 1)/n, with n the number of
    episodes still running at t; where a single episode is left its advantage is 0.

    Args:
        returns: returns-to-go ``[T]``.
        lengths: timesteps of each episode ``[E]``.

    Returns:
        Baseline of every timestep ``[T]``, of the same dtype.

    Raises:
        ValueError: lengths that do not match the returns.

    Source: Greensmith, Bartlett & Baxter (2004), "Variance Reduction Techniques for Gradient Estimates in
    Reinforcement Learning", section 4, for baselines that do not depend on the action.

    >>> timestep_baseline(torch.tensor([3.0, 2.0, 1.0, 5.0]), torch.tensor([3, 1]))
    tensor([4., 2., 1., 4.])
    """
    array, counts = _packed(returns, lengths, "returns")
    timesteps = timestep_indices(counts)
    means = np.bincount(timesteps, array) / np.bincount(timesteps)
    return torch.from_numpy(means[timesteps]).to(returns)


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, num_episodes: int) -> Tensor:
    r"""Weigh the log-probabilities by the advantages: its gradient is minus the policy gradient.

    .. math:: L = -\frac{1}{E} \sum_{i=1}^{E} \sum_t \log\pi(A^i_t \mid S^i_t)\, \hat A^i_t

    Summed over an episode's timesteps, averaged over the episodes. Given a part of the timesteps it returns that
    part's share of the loss, so parts add up to the whole.

    Args:
        log_probs: :math:`\log\pi(A_t|S_t)` ``[T]``, with gradients.
        advantages: a weight for every timestep ``[T]``, without gradients.
        num_episodes: E, the number of episodes of the whole update.

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
    return -(log_probs * advantages).sum() / num_episodes


def summed_over_chunks(
    gradient: Callable[[Any], tuple[Tensor, Sequence[Tensor | None]]],
    chunks: Iterable[Any],
    parameters: Sequence[Tensor],
) -> Tensor:
    """Add up the loss and the gradient of all chunks, one chunk at a time.

    The sum that comes back carries the summed gradient, so one ordinary ``backward()`` (Lightning's, with clipping,
    scaling and DDP) yields what the loss of everything at once would have yielded, in the memory of one chunk.

    Args:
        gradient: maps a chunk to its share of the loss ``[]`` and the gradient of that for each parameter, ``None``
            where it does not depend on it.
        chunks: what to call it with, one after the other.
        parameters: the tensors that the gradients belong to.

    Returns:
        The sum, a scalar ``[]`` with a gradient to every parameter.

    >>> weight = torch.tensor(3.0, requires_grad=True)
    >>> total = summed_over_chunks(lambda x: (torch.tensor(9.0 * x**2), [torch.tensor(6.0 * x**2)]), [1, 2], [weight])
    >>> total.backward(); total.item(), weight.grad.item()
    (45.0, 30.0)
    """
    return _SummedOverChunks.apply(gradient, chunks, *parameters)


def _plus(left: Any, right: Any) -> Any:
    """Add two tensors, either of which may be missing."""
    return right if left is None else left if right is None else left + right


class _SummedOverChunks(torch.autograd.Function):
    """See :func:`summed_over_chunks`."""

    @staticmethod
    def forward(ctx: Any, gradient: Callable[[Any], Any], chunks: Iterable[Any], *parameters: Tensor) -> Tensor:
        total: Any = None
        sums: list[Any] = [None] * len(parameters)
        for chunk in chunks:
            part, parts = gradient(chunk)
            total, sums = _plus(total, part), list(map(_plus, sums, parts))
        # None would have DDP wait for a gradient that never comes.
        filled = (torch.zeros_like(p) if whole is None else whole for p, whole in zip(parameters, sums, strict=True))
        ctx.save_for_backward(*filled)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, None, *(outer[0] * whole for whole in ctx.saved_tensors)


def exponential_moving_average(initial: Tensor, values: Tensor, decay: float) -> Tensor:
    r"""Fold values, first to last, into a moving average.

    .. math:: m_n = d^n m_0 + (1 - d) \sum_{i=1}^{n} d^{n-i} x_i

    the closed form of :math:`m_i = d\, m_{i-1} + (1 - d)\, x_i`.

    Args:
        initial: the average so far, :math:`m_0` ``[]``.
        values: what to fold in, first to last ``[N]``.
        decay: d, from 0 (only the last value counts) to below 1.

    Returns:
        The average after each value ``[N]``.

    Source: the running reward of PyTorch's REINFORCE example (``pytorch/examples``, reinforcement_learning).

    >>> exponential_moving_average(torch.tensor(10.0), torch.tensor([8.0, 9.98]), decay=0.99)
    tensor([9.9800, 9.9800])
    """
    average, averages = float(initial), []
    for value in values.tolist():
        average = decay * average + (1 - decay) * value
        averages.append(average)
    return initial.new_tensor(averages)
