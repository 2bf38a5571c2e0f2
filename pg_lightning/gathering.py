"""Experience of all processes: gathered over ranks through Lightning, in the order of the ranks."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pg_lightning.episodes import PER_EPISODE, PER_TIMESTEP, Batch, Episodes, Outcome
from pg_lightning.frames import stacked
from pg_lightning.tree import tree_map


def gather_episodes(module: pl.LightningModule, episodes: Episodes) -> Episodes:
    """Join the episodes of all processes, so that estimates are those of one process with all episodes.

    Args:
        module: attached to a Trainer; without one there is a single process.
        episodes: of this process.
    """
    if _is_alone(module):
        return episodes
    timesteps, counts, env_steps = _sizes(module, episodes)
    trees = {name: tree_map(partial(_gather, module, timesteps), getattr(episodes, name)) for name in PER_TIMESTEP}
    trees |= {name: tree_map(partial(_gather, module, counts), getattr(episodes, name)) for name in PER_EPISODE}
    return replace(episodes, **trees, env_steps=sum(env_steps))


def own_part(module: pl.LightningModule, batch: Batch, episodes: Episodes) -> Batch:
    """Return the part of a batch of all processes that belongs to this process's own episodes."""
    if _is_alone(module):
        return batch
    first = sum(_sizes(module, episodes)[0][: module.global_rank])
    rows = slice(first, first + episodes.num_timesteps)
    columns = {name: getattr(batch, name)[rows] for name in ("returns", "baseline", "advantages")}
    own = replace(batch, episodes=episodes, **columns, num_episodes=batch.num_episodes / module.trainer.world_size)
    own.whole = batch
    return own


def _is_alone(module: pl.LightningModule) -> bool:
    return module._trainer is None or module.trainer.world_size == 1


def _sizes(module: pl.LightningModule, episodes: Episodes) -> list[list[int]]:
    """Return the timesteps, the episodes and the env steps of each process."""
    sizes = torch.tensor([episodes.num_timesteps, len(episodes), episodes.env_steps], device=module.device)
    return module.all_gather(sizes).T.tolist()  # type: ignore[union-attr]


def _gather(module: pl.LightningModule, sizes: list[int], leaf: Tensor) -> Tensor:
    """Join the rows of all processes; each hands in as many as its size says, padded to the largest."""
    leaf = stacked(leaf)
    padded = torch.zeros(max(sizes), *leaf.shape[1:], dtype=leaf.dtype, device=module.device)
    padded[: len(leaf)] = leaf
    everywhere: Any = module.all_gather(padded[..., None].view(torch.uint8))  # Bytes: some types cannot be gathered.
    parts = everywhere.view(leaf.dtype)[..., 0]
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(leaf.device)


def gather_outcome(module: pl.LightningModule, outcome: Outcome) -> Outcome:
    """Join the outcomes of all processes, which have equally many episodes."""
    if module.trainer.world_size == 1:
        return outcome
    columns = torch.stack([column.double() for column in outcome[:3]]).to(module.device)  # [3, E]
    returns, lengths, truncated = torch.cat(list(module.all_gather(columns)), dim=1)
    env_steps: Any = module.all_gather(outcome.env_steps.to(module.device))
    return Outcome(returns, lengths.long(), truncated.bool(), env_steps.sum())


def sum_over_processes(module: pl.LightningModule, tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes."""
    if _is_alone(module):
        return tensor
    everywhere: Any = module.all_gather(tensor)
    return everywhere.sum(0)
