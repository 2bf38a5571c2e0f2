"""Optimizer of a policy, with the parameter groups and the scheduler that Lightning takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pg_lightning.directions import Direction, step_shares


def configure_optimizers(
    policy: nn.Module,
    direction: Direction,
    make_optimizer: Callable[..., Optimizer] | None,
    make_scheduler: Callable[..., Any] | None,
) -> Any:
    """Make what ``LightningModule.configure_optimizers`` returns.

    Args:
        policy: with the parameters to optimize.
        direction: names the optimizer where none is given.
        make_optimizer: called with the parameters.
        make_scheduler: called with the optimizer; it steps once per update.

    Raises:
        ValueError: an optimizer that evaluates the loss again after a step.
    """
    optimizer = (make_optimizer or direction.optimizer)(_parameter_groups(policy, direction))
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS evaluates the loss again after each step, on episodes of an older policy: use Adam")
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = group["lr"] * group.get("share", 1.0)
    if make_scheduler is None:
        return optimizer
    scheduler = make_scheduler(optimizer)
    return [optimizer], [{"scheduler": scheduler, "interval": "step", **_monitored(scheduler)}]


def _parameter_groups(policy: nn.Module, direction: Direction) -> list[Any]:
    """Group the parameters by their share of the step, where the direction does not apply it itself."""
    shares = {} if direction.sets_step else step_shares(policy)
    slow = [{"params": [p], "share": shares[name]} for name, p in policy.named_parameters() if name in shares]
    others = [p for name, p in policy.named_parameters() if name not in shares]
    return [{"params": others}, *slow] if slow else others


def _monitored(scheduler: Any) -> dict[str, str]:
    """Name the metric that a ReduceLROnPlateau watches, where the scheduler is one."""
    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    return {"monitor": getattr(scheduler, "monitor", "loss")} if plateau else {}
