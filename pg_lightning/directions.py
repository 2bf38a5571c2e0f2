"""Directions: from the averaged gradient to the step that the optimizer takes. ``Reinforce(direction=...)``."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from pg_lightning.diagnostics import sampled_kl
from pg_lightning.episodes import Batch, Chunk
from pg_lightning.fisher import CHUNK, FisherProduct, conjugate_gradient, frozen
from pg_lightning.hparams import Recorded
from pg_lightning.policies.heads import Head
from pg_lightning.schedules import Schedule, check_positive, value_of

Sum = Callable[[Tensor], Tensor]
"""Adds up a tensor over all processes."""

KL_TOLERANCE = 1.5
"""Factor of max_kl that the measured divergence of a step may reach in a line search."""


class Direction(Recorded, ABC):
    """Interface of a direction; it may replace the gradients of the policy's parameters, before clipping."""

    optimizer: Any
    """Makes the optimizer that fits the direction, where none is given."""

    sets_step = False
    """Whether it sets the length of the step and the shares of it itself; an optimizer or clipping changes that."""

    @abstractmethod
    def __call__(
        self, policy: nn.Module, batch: Batch, progress: float | None, over_processes: Sum
    ) -> dict[str, float]:
        """Change ``parameter.grad`` in place, given the gradient averaged over all processes.

        Args:
            policy: with gradients.
            batch: of the update.
            progress: of the run, from 0 to 1; ``None`` where its end is unknown.
            over_processes: adds up a tensor over all processes.

        Returns:
            Metrics of the update by name, equal in all processes.
        """


class Gradient(Direction):
    """The gradient itself; Adam by default."""

    optimizer = partial(torch.optim.Adam, lr=0.02)

    def __call__(
        self, policy: nn.Module, batch: Batch, progress: float | None, over_processes: Sum
    ) -> dict[str, float]:
        """Leave the gradients as they are."""
        return {}


class NaturalGradient(Direction):
    r"""Natural gradient, scaled so that the step moves the policy by a given Kullback-Leibler divergence.

    .. math:: \Delta\theta = -\sqrt{2\delta / x^\top F x}\; x, \quad x = s \odot (F + \lambda I)^{-1} g

    with g the gradient, F the Fisher matrix averaged over timesteps, :math:`\delta` = ``max_kl``, :math:`\lambda` =
    ``damping``, and s the step shares of the policy's head. Solved by conjugate gradient on Fisher-vector products.

    With ``backtracks`` a line search follows: the step is halved, at most so often, until the surrogate
    :math:`\frac{1}{T} \sum_t (r_t - 1) \hat A_t`, :math:`r_t = \pi_{new}(A_t|S_t) / \pi_{old}(A_t|S_t)`, is more than 0
    and the mean KL divergence, measured at the same timesteps, is at most 1.5 ``max_kl``. Where no length serves, no
    step is taken. The metric ``line_search_backtracks`` counts the halvings, and ``line_search_success`` is 1 where a
    step is taken, else 0. The divergence is exact where torch knows it, else estimated from the actions taken.

    Args:
        max_kl: mean KL divergence between the policies before and after a step, in nats: a number or a schedule.
        damping: added to the Fisher matrix while solving, not while scaling.
        cg_iterations: of the conjugate gradient.
        max_timesteps: timesteps that the Fisher matrix, and the line search, are averaged over, evenly spaced; null for
            all.
        backtracks: halvings of the step at most; 0 for no line search.

    Raises:
        ValueError: an argument out of range.

    Source: Kakade (2001), "A Natural Policy Gradient"; scaling and line search are those of Schulman et al. (2015),
    "Trust Region Policy Optimization", appendix C, where the measured divergence must not exceed ``max_kl`` itself. The
    tolerance of 1.5 is that of ``trpo_mpi`` in OpenAI Baselines: a full step comes out at about ``max_kl``, a little
    more or less.
    """

    optimizer = partial(torch.optim.SGD, lr=1.0)
    sets_step = True

    def __init__(
        self,
        max_kl: float | Schedule = 0.02,
        damping: float = 0.1,
        cg_iterations: int = 10,
        max_timesteps: int | None = 4096,
        backtracks: int = 0,
    ) -> None:
        check_positive("max_kl", max_kl)
        if not (damping >= 0 and math.isfinite(damping)):
            raise ValueError(f"damping must be at least 0 and finite, not {damping}")
        if cg_iterations < 1:
            raise ValueError(f"cg_iterations must be at least 1, not {cg_iterations}")
        if max_timesteps is not None and max_timesteps < 1:
            raise ValueError(f"max_timesteps must be at least 1, or null for all, not {max_timesteps}")
        if backtracks < 0:
            raise ValueError(f"backtracks must be at least 0, not {backtracks}")
        self.max_kl, self.damping, self.backtracks = max_kl, damping, backtracks
        self.cg_iterations, self.max_timesteps = cg_iterations, max_timesteps

    def __call__(
        self, policy: nn.Module, batch: Batch, progress: float | None, over_processes: Sum
    ) -> dict[str, float]:
        """Replace the gradients by the scaled natural direction."""
        radius = value_of(self.max_kl, progress)
        named = [(name, p) for name, p in policy.named_parameters() if p.grad is not None]
        gradient = torch.cat([p.grad.reshape(-1).double() for _, p in named])  # type: ignore[union-attr]
        if not gradient.any():  # All returns are equal: there is nothing to learn.
            return self._line_search_metrics(0, False)
        sample = batch.spaced(self.max_timesteps)
        fisher = FisherProduct(policy, [p for _, p in named], sample, over_processes)
        direction = conjugate_gradient(lambda v: fisher(v) + self.damping * v, gradient, self.cg_iterations)
        direction = direction * _shares(policy, named)
        curvature = (direction @ fisher(direction)).clamp_min(torch.finfo(torch.float64).tiny)
        step = direction * (2 * radius / curvature).sqrt()
        for (_, parameter), part in zip(named, step.split([p.numel() for _, p in named]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        if not self.backtracks:
            return {}
        return self._line_search(Surrogate(policy, sample, over_processes), [p for _, p in named], radius)

    @torch.no_grad()
    def _line_search(self, surrogate: "Surrogate", parameters: list[nn.Parameter], radius: float) -> dict[str, float]:
        """Halve the gradients until the step serves, or set them to 0; the parameters stay as they are."""
        before = [parameter.clone() for parameter in parameters]
        try:
            for halvings in range(self.backtracks + 1):
                for parameter, old in zip(parameters, before, strict=True):
                    parameter.copy_(old).sub_(parameter.grad)  # type: ignore[arg-type]
                improvement, divergence = surrogate()
                if improvement > 0 and divergence <= KL_TOLERANCE * radius:  # False where one is NaN.
                    return self._line_search_metrics(halvings, True)
                for parameter in parameters:
                    parameter.grad.mul_(0.5 if halvings < self.backtracks else 0.0)  # type: ignore[union-attr]
        finally:
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)
        return self._line_search_metrics(self.backtracks, False)

    def _line_search_metrics(self, halvings: int, success: bool) -> dict[str, float]:
        metrics = {"line_search_backtracks": float(halvings), "line_search_success": float(success)}
        return metrics if self.backtracks else {}


class Surrogate:
    r"""Improvement of the surrogate objective and KL divergence, between a policy as it was and as it is now.

    .. math:: \frac{1}{T} \sum_t (r_t - 1) \hat A_t, \quad r_t = \pi_{now}(A_t|S_t) / \pi_{before}(A_t|S_t)

    Args:
        policy: as it is before.
        sample: timesteps to average over.
        over_processes: adds up a tensor over all processes.

    Source: Schulman et al. (2015), "Trust Region Policy Optimization", equation 14.
    """

    def __init__(self, policy: nn.Module, sample: Chunk, over_processes: Sum) -> None:
        self.policy, self.over_processes = policy, over_processes
        constant = frozen(policy)
        with torch.no_grad():
            parts = [(part, part.distribution(constant)) for part in sample.split(CHUNK)]
            self.parts = [(part, before, before.log_prob(part.actions)) for part, before in parts]
        self.count = over_processes(torch.tensor(float(len(sample.log_probs)), dtype=torch.float64))

    @torch.no_grad()
    def __call__(self) -> tuple[float, float]:
        """Return the improvement and the divergence, in nats, means over the timesteps of all processes."""
        try:
            sums = sum(self._sums(*part) for part in self.parts)
        except ValueError:  # A distribution with validate_args refuses its parameters, as it does NaN.
            sums = torch.full((2,), float("nan"), dtype=torch.float64, device=self.parts[0][2].device)
        improvement, divergence = (self.over_processes(sums) / self.count).tolist()  # type: ignore[arg-type]
        return improvement, divergence

    def _sums(self, part: Chunk, before: Distribution, log_probs: Tensor) -> Tensor:
        """Return improvement and divergence, summed over some timesteps ``[2]``."""
        now = part.distribution(self.policy)
        log_ratio = (now.log_prob(part.actions) - log_probs).double()  # [C]
        return torch.stack([(log_ratio.expm1() * part.advantages).sum(), _divergence(before, now, log_ratio).sum()])


def _divergence(before: Distribution, now: Distribution, log_ratio: Tensor) -> Tensor:
    """Return the KL divergence of every timestep ``[C]``, float64; from its one action where torch does not know it."""
    try:
        return kl_divergence(before, now).double()
    except NotImplementedError:
        return sampled_kl(log_ratio)


def step_shares(policy: nn.Module) -> dict[str, float]:
    """Map names of the policy's parameters to their share of each step, as its head sets them; 1 for all others."""
    head = getattr(policy, "head", None)  # A policy of one's own may have any module of this name.
    return {f"head.{name}": share for name, share in head.step_shares().items()} if isinstance(head, Head) else {}


def _shares(policy: nn.Module, named: list[tuple[str, nn.Parameter]]) -> Tensor:
    """Return the step share of every number of some parameters ``[numbers]``."""
    shares = step_shares(policy)
    return torch.cat([torch.full_like(p, shares.get(name, 1.0)).reshape(-1).double() for name, p in named])
