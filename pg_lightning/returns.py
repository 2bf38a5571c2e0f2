"""Return estimators: complete episodes -> an estimate of the return from each timestep on.

Hand one to ``Reinforce(returns=...)``.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from pg_lightning.episodes import Batch, Episodes
from pg_lightning.fitted import Fitted, fold_in
from pg_lightning.functional import discounted_sums, discounts_within
from pg_lightning.hparams import Recorded

Truncation = Literal["terminal", "bootstrap", "drop"]


class Values(NamedTuple):
    """A critic's values.

    Attributes:
        values: V(S_t) of every timestep ``[T]``, float64.
        final: V of the final observation of every episode ``[E]``, float64.
    """

    values: Tensor
    final: Tensor


class Returns(Recorded, ABC):
    """Interface of a return estimator.

    Args:
        truncation: how an episode that was cut by a time limit counts: ``terminal``, as if nothing followed (the
            article); ``bootstrap``, the critic's value of its final observation follows; ``drop``, it is left out,
            which is biased towards short episodes.
        restart_at_rewards: whether a return ends with the next reward that is not 0, as if each episode were many.

    Raises:
        ValueError: another truncation.
    """

    def __init__(self, truncation: Truncation, restart_at_rewards: bool = False) -> None:
        if truncation not in get_args(Truncation):
            raise ValueError(f"truncation must be one of {', '.join(get_args(Truncation))}, not {truncation!r}")
        self.truncation, self.restart_at_rewards, self._warned = truncation, restart_at_rewards, False

    @abstractmethod
    def __call__(self, episodes: Episodes, values: Values | None, gamma: float) -> Tensor:
        """Estimate the return of every timestep.

        Args:
            episodes: of one update.
            values: the critic's, where the baseline is a critic.
            gamma: discount factor, from 0 to 1.

        Returns:
            :math:`G_t` ``[T]``, float64.
        """

    def select(self, episodes: Episodes) -> Episodes:
        """Return the episodes to learn from.

        Raises:
            ValueError: truncated episodes are left out, and none is left.
        """
        if self.truncation != "drop" or not episodes.cut.any():
            return episodes
        if episodes.cut.all():
            raise ValueError(
                f"update {episodes.update}: all {len(episodes)} episodes were truncated, so truncation 'drop' leaves "
                "nothing to learn from: use 'terminal' or 'bootstrap'"
            )
        return episodes.select(~episodes.cut)

    def discounts(self, episodes: Episodes, factor: float) -> Tensor:
        """Return the factor with which each timestep's sum goes on in the next one: 0 where it ends ``[T]``."""
        discounts = discounts_within(episodes.lengths, factor)
        return discounts * (episodes.rewards == 0) if self.restart_at_rewards else discounts

    def _tails(self, episodes: Episodes, values: Values | None, gamma: float) -> Tensor:
        """Return what follows the last reward of every episode, discounted once ``[E]``."""
        if self.truncation == "bootstrap" and values is not None:
            goes_on = episodes.rewards[last_rows(episodes)] == 0 if self.restart_at_rewards else True
            # Where an episode terminated its final observation, and so its value, need not be finite.
            return torch.where(episodes.cut & goes_on, gamma * values.final, 0.0)
        if self.truncation == "bootstrap" and not self._warned:
            self._warned = True
            warnings.warn("truncation 'bootstrap' needs a critic: truncated episodes count as terminal", stacklevel=3)
        return torch.zeros(len(episodes), dtype=torch.float64, device=episodes.rewards.device)


class MonteCarlo(Returns):
    """Discounted sums of the rewards until the end of the episode: the article's returns.

    Args:
        truncation: how an episode that was cut by a time limit counts: ``terminal``, as if nothing followed (the
            article); ``bootstrap``, the critic's value of its final observation follows; ``drop``, it is left out,
            which is biased towards short episodes.
        restart_at_rewards: whether a return ends with the next reward that is not 0. In Pong each point is played anew,
            so what follows it is noise; where actions change what can be earned after a reward, it biases.
    """

    def __init__(self, truncation: Truncation = "terminal", restart_at_rewards: bool = False) -> None:
        super().__init__(truncation, restart_at_rewards)

    def __call__(self, episodes: Episodes, values: Values | None, gamma: float) -> Tensor:
        """Return :math:`G_t = R_{t+1} + γ G_{t+1}` ``[T]``."""
        rewards = episodes.rewards.double().index_add(0, last_rows(episodes), self._tails(episodes, values, gamma))
        return discounted_sums(rewards, self.discounts(episodes, gamma))


class GAE(Returns):
    r"""λ-returns, so that return minus value is the generalised advantage estimate.

    .. math:: G_t = V(S_t) + \sum_k (\gamma\lambda)^k \delta_{t+k}, \quad
        \delta_t = R_{t+1} + \gamma V(S_{t+1}) - V(S_t)

    Args:
        gae_lambda: λ, from 0 (one-step TD error) to 1 (Monte-Carlo).
        truncation: how the episode that was cut by a time limit counts: ``bootstrap``, the critic's value of its final
            observation follows; ``terminal``, as if nothing followed; ``drop``, it is left out.
        restart_at_rewards: whether a return ends with the next reward that is not 0, as in :class:`MonteCarlo`; the
            critic then learns what the next reward will be.

    Raises:
        ValueError: λ outside of [0, 1], or a baseline without a critic.

    Source: Schulman et al. (2016), "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
    """

    def __init__(
        self, gae_lambda: float = 0.95, truncation: Truncation = "bootstrap", restart_at_rewards: bool = False
    ) -> None:
        super().__init__(truncation, restart_at_rewards)
        if not 0 <= gae_lambda <= 1:
            raise ValueError(f"gae_lambda must be from 0 to 1, not {gae_lambda}")
        self.gae_lambda = gae_lambda

    def __call__(self, episodes: Episodes, values: Values | None, gamma: float) -> Tensor:
        """Return the λ-returns ``[T]``."""
        if values is None:
            raise ValueError("GAE needs a critic: use Reinforce(baseline=Critic()), or MonteCarlo returns")
        following = values.values.roll(-1) * self.discounts(episodes, gamma)  # [T]
        following[last_rows(episodes)] = self._tails(episodes, values, gamma)
        errors = episodes.rewards + following - values.values  # [T]
        return values.values + discounted_sums(errors, self.discounts(episodes, gamma * self.gae_lambda))


class ScaledRewards(Returns, Fitted, nn.Module):
    r"""Returns of rewards that are divided by the running standard deviation of the discounted returns.

    .. math:: \tilde R_t = R_t / \sigma, \quad \sigma^2 = \mathrm{Var}\Big(\sum_{k \ge 0} \gamma^k R_{t+k+1}\Big)

    The variance is that of all timesteps learnt from in the updates before, over all processes, each with the rewards
    up to the end of its episode; an update's own rewards are no part of its scale. In the first update, and while all
    returns are equal, the scale is 1. Nothing is subtracted: that would reward or punish long episodes.

    A critic's values and targets are in scaled units; it is fitted to returns in the scale of the next update. Episode
    returns and the running reward stay in the environment's units. The metric ``reward_scale`` is the update's
    :math:`\sigma`.

    Args:
        returns: estimates the returns from the scaled rewards; by default MonteCarlo.

    Raises:
        ValueError: rewards that would be scaled twice.

    Source: Engstrom et al. (2020), "Implementation Matters in Deep Policy Gradients", section 3, where the variance is
    that of discounted sums of the *past* rewards; mean and variance as in Chan, Golub & LeVeque (1979).
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    __call__ = nn.Module.__call__

    def __init__(self, returns: Returns | None = None) -> None:
        nn.Module.__init__(self)
        if isinstance(returns, ScaledRewards):
            raise ValueError("ScaledRewards in ScaledRewards would scale the rewards twice: leave one out")
        self.returns = returns or MonteCarlo()
        super().__init__(self.returns.truncation, self.returns.restart_at_rewards)
        for name in ("count", "mean", "m2"):  # Of all discounted returns so far.
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        """Divisor of the next update's rewards ``[]``, float64."""
        std = (self.m2 / self.count.clamp_min(1)).sqrt()
        return torch.where(std > 1e-9 * self.mean.abs(), std, 1.0)  # Equal returns may differ by rounding.

    def select(self, episodes: Episodes) -> Episodes:
        """Return the episodes that the inner estimator learns from."""
        return self.returns.select(episodes)

    def forward(self, episodes: Episodes, values: Values | None, gamma: float) -> Tensor:
        """Return the inner estimator's returns of the scaled rewards ``[T]``; the values are in scaled units."""
        self._gamma = gamma
        scaled = episodes.rewards.double() / self.scale.to(episodes.rewards.device)
        return self.returns(replace(episodes, rewards=scaled), values, gamma)

    @torch.no_grad()
    def fit(self, batch: Batch) -> dict[str, float]:
        """Fold in the discounted returns of a batch, and convert its returns to the new scale, for the critic."""
        episodes, before = batch.episodes, self.scale
        returns = discounted_sums(episodes.rewards, self.discounts(episodes, self._gamma)).to(self.mean)
        fold_in(returns, self.count, self.mean, self.m2)
        batch.returns = batch.returns * (before / self.scale).to(batch.returns.device)
        return {"reward_scale": before.item()}


def last_rows(episodes: Episodes) -> Tensor:
    """Return the row of every episode's last timestep ``[E]``."""
    return episodes.lengths.cumsum(0) - 1
