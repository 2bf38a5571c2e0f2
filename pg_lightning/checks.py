"""Checks that stop a run in which a policy would not learn from what it did."""

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from pg_lightning.directions import Direction
from pg_lightning.schedules import value_of

LAG_LIMIT, LAG_LIMIT_AUTOCAST = 1e-3, 0.1
"""Largest difference between recorded and recomputed log-probs, relative to 1 + |log π|."""

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def check_numbers(trainer: Any) -> None:
    """Refuse, with a ValueError, a device or a precision without the numbers that are needed."""
    if trainer.strategy.root_device.type == "mps":
        raise ValueError("Apple's GPUs have no float64, in which returns are computed: use accelerator 'cpu'")
    if trainer.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {trainer.precision}")


def have_convolutions_repeat(trainer: Any) -> None:
    """Have a GPU's convolutions come out alike each time, and about alike for few rows (acting) and many (learning)."""
    if trainer.strategy.root_device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False


def check_start(agent: Any) -> None:
    """Refuse, with a ValueError, what would go wrong in the run that begins."""
    check_loader(agent.trainer)
    check_step_length(agent.trainer, agent.direction, agent.make_optimizer is not None)
    for part in (*agent.modules(), agent.direction):
        for setting in vars(part).values():
            value_of(setting, agent.progress)  # Raises where a schedule has no end.


def check_loader(trainer: Any) -> None:
    """Refuse, with a ValueError, a loader that would sample with an older policy than the one that learns."""
    if getattr(trainer.train_dataloader, "num_workers", 0) > 0:
        raise ValueError(
            "num_workers must be 0: a worker's copy of the policy never learns. Hand the EpisodeDataset itself to the "
            "Trainer; for environments in processes of their own use backend 'async'."
        )
    if trainer.num_training_batches == float("inf"):
        raise ValueError(
            "the training dataset needs a __len__: without one Lightning fetches a batch ahead, sampled by the policy "
            "before the last update"
        )


def check_accumulation(trainer: Any) -> None:
    """Refuse, with a ValueError, gradient accumulation: the same episodes would be learnt from again and again."""
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "accumulate_grad_batches must be 1, also through GradientAccumulationScheduler: use more "
            "episodes_per_update instead"
        )


def check_step_length(trainer: Any, direction: Direction, has_optimizer: bool) -> None:
    """Warn where something else changes a step whose length the direction sets."""
    if direction.sets_step and (trainer.gradient_clip_val or has_optimizer):
        warnings.warn(
            f"{type(direction).__name__} sets the length of the step by max_kl, which does not hold "
            + ("under gradient clipping" if trainer.gradient_clip_val else "with an optimizer of one's own"),
            stacklevel=2,
        )


def check_lag(lag: float, update: int, autocast: bool) -> None:
    """Stop, with a ValueError, if the policy that learns is not the policy that acted."""
    limit = LAG_LIMIT_AUTOCAST if autocast else LAG_LIMIT
    if not lag <= limit:
        raise ValueError(
            f"update {update}: the policy scores its own actions differently than when it took them (policy_lag "
            f"{lag:.2g}, limit {limit:g}); weights unchanged. Usual reasons: BatchNorm, dropout other than nn.Dropout, "
            "hidden state, noise in the policy's forward, outputs of half precision, or too large for float32 (try a "
            "lower learning rate)"
        )


def check_fitted(module: nn.Module, update: int) -> None:
    """Stop, with a ValueError, before numbers of a fitted part that are not finite are saved."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise ValueError(
            f"update {update}: {type(module).__name__} was fitted to numbers that are not finite any more; are the "
            "rewards too large?"
        )


def checked_norm(policy: nn.Module, update: int) -> float:
    """Return the norm of a policy's gradient; stop, with a ValueError, if it is not finite."""
    named = [(name, p.grad) for name, p in policy.named_parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([gradient for _, gradient in named]).item()
    if not math.isfinite(norm):
        bad = next((name for name, gradient in named if not torch.isfinite(gradient).all()), "the policy")
        raise ValueError(f"update {update}: the gradient of {bad} is not finite; weights unchanged")
    return norm


def check_hyper_parameters(values: Any, place: str = "") -> None:
    """Refuse, with a ValueError that names it, a hyper-parameter that cannot be read from a checkpoint as data."""
    if isinstance(values, Mapping | list | tuple):
        items = values.items() if isinstance(values, Mapping) else enumerate(values)
        for name, value in items:
            check_hyper_parameters(value, f"{place}.{name}" if place else str(name))
    elif type(values) not in (bool, int, float, str, type(None)) and not isinstance(values, torch.Tensor):
        raise ValueError(
            f"the hyper-parameter {place} is a {type(values).__name__}, which a checkpoint cannot hold as data: save "
            "numbers, strings, lists and dicts of them (save_hyperparameters)"
        )


def made_policy(make_policy: Any, spaces: tuple[gym.Space, gym.Space]) -> nn.Module:
    """Make the policy; refuse, with a ValueError, what is none."""
    try:
        inspect.signature(make_policy).bind(*spaces)
    except TypeError as error:
        name = getattr(make_policy, "__name__", make_policy)
        raise ValueError(f"policy {name} is made of an observation space and an action space, but: {error}") from None
    except ValueError:  # Without a signature.
        pass
    policy = make_policy(*spaces)
    if not isinstance(policy, nn.Module):
        raise ValueError(f"policy must make an nn.Module, not {type(policy).__name__}")
    return policy
