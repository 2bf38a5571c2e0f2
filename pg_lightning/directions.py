"""Directions: from the averaged gradient to the step that the optimizer takes. ``Reinforce(direction=...)``."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pg_lightning.episodes import Batch
from pg_lightning.fisher import FisherProduct, conjugate_gradient
from pg_lightning.hparams import Recorded
from pg_lightning.schedules import Schedule, value_of

Sum = Callable[[Tensor], Tensor]
"""Adds up a tensor over all processes."""


class Direction(Recorded, ABC):
    """Interface of a direction; it may replace the gradients of the policy's parameters, before clipping."""

    optimizer: Any
    """Makes the optimizer that fits the direction, where none is given."""

    sets_step = False
    """Whether it sets the length of the step and the shares of it itself; an optimizer or clipping changes that."""

    @abstractmethod
    def __call__(self, policy: nn.Module, batch: Batch, progress: float | None, over_processes: Sum) -> None:
        """Change ``parameter.grad`` in place, given the gradient averaged over all processes.

        Args:
            policy: with gradients.
            batch: of the update.
            progress: of the run, from 0 to 1; ``None`` where its end is unknown.
            over_processes: adds up a tensor over all processes.
        """


class Gradient(Direction):
    """The gradient itself; Adam by default."""

    optimizer = partial(torch.optim.Adam, lr=0.02)

    def __call__(self, policy: nn.Module, batch: Batch, progress: float | None, over_processes: Sum) -> None:
        """Leave the gradients as they are."""


class NaturalGradient(Direction):
    r"""Natural gradient, scaled so that the step moves the policy by a given Kullback-Leibler divergence.

    .. math:: \Delta\theta = -\sqrt{2\delta / x^\top F x}\; x, \quad x = s \odot (F + \lambda I)^{-1} g

    with g the gradient, F the Fisher matrix averaged over timesteps, :math:`\delta` = ``max_kl``, :math:`\lambda` =
    ``damping``, and s the step shares of the policy's head. Solved by conjugate gradient on Fisher-vector products.

    Args:
        max_kl: mean KL divergence between the policies before and after a step, in nats: a number or a schedule.
        damping: added to the Fisher matrix while solving, not while scaling.
        cg_iterations: of the conjugate gradient.
        max_timesteps: timesteps that the Fisher matrix is averaged over, evenly spaced; null for all.

    Raises:
        ValueError: an argument out of range.

    Source: Kakade (2001), "A Natural Policy Gradient"; the scaling is that of Schulman et al. (2015), "Trust Region
    Policy Optimization", appendix C.
    """

    optimizer = partial(torch.optim.SGD, lr=1.0)
    sets_step = True

    def __init__(
        self,
        max_kl: float | Schedule = 0.02,
        damping: float = 0.1,
        cg_iterations: int = 10,
        max_timesteps: int | None = 4096,
    ) -> None:
        if not isinstance(max_kl, Schedule) and not (max_kl > 0 and math.isfinite(max_kl)):
            raise ValueError(f"max_kl must be more than 0 and finite, not {max_kl}")
        if not (damping >= 0 and math.isfinite(damping)):
            raise ValueError(f"damping must be at least 0 and finite, not {damping}")
        if cg_iterations < 1:
            raise ValueError(f"cg_iterations must be at least 1, not {cg_iterations}")
        if max_timesteps is not None and max_timesteps < 1:
            raise ValueError(f"max_timesteps must be at least 1, or null for all, not {max_timesteps}")
        self.max_kl, self.damping = max_kl, damping
        self.cg_iterations, self.max_timesteps = cg_iterations, max_timesteps

    def __call__(self, policy: nn.Module, batch: Batch, progress: float | None, over_processes: Sum) -> None:
        """Replace the gradients by the scaled natural direction."""
        radius = value_of(self.max_kl, progress)
        named = [(name, p) for name, p in policy.named_parameters() if p.grad is not None]
        gradient = torch.cat([p.grad.reshape(-1).double() for _, p in named])  # type: ignore[union-attr]
        if not gradient.any():  # All returns are equal: there is nothing to learn.
            return
        fisher = FisherProduct(policy, [p for _, p in named], batch.spaced(self.max_timesteps), over_processes)
        direction = conjugate_gradient(lambda v: fisher(v) + self.damping * v, gradient, self.cg_iterations)
        direction = direction * _shares(policy, named)
        curvature = (direction @ fisher(direction)).clamp_min(torch.finfo(torch.float64).tiny)
        step = direction * (2 * radius / curvature).sqrt()
        for (_, parameter), part in zip(named, step.split([p.numel() for _, p in named]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)


def step_shares(policy: nn.Module) -> dict[str, float]:
    """Map names of the policy's parameters to their share of each step, as its head sets them; 1 for all others."""
    head = getattr(policy, "head", None)
    return {f"head.{name}": share for name, share in head.step_shares().items()} if head is not None else {}


def _shares(policy: nn.Module, named: list[tuple[str, nn.Parameter]]) -> Tensor:
    """Return the step share of every number of some parameters ``[numbers]``."""
    shares = step_shares(policy)
    return torch.cat([torch.full_like(p, shares.get(name, 1.0)).reshape(-1).double() for name, p in named])
