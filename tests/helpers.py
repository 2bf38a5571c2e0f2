from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from pg_lightning import Gradient, LeaveOneOut, MLPPolicy, Reinforce
from pg_lightning.episodes import PER_EPISODE, PER_TIMESTEP, Batch, Episodes
from pg_lightning.tree import tree_leaves

ROOT = Path(__file__).parents[1]


ARTICLES = partial(MLPPolicy, hidden_sizes=(128,), activation="relu", bias=False, init="default", encoder=None)
"""The article's network, without dropout."""


def plain(env=None, policy=ARTICLES, **parts):
    """Agent with the parts of configs/cartpole.yaml: the plain policy gradient."""
    return Reinforce(env, policy, **{"baseline": LeaveOneOut(), "direction": Gradient()} | parts)


def trainer(max_steps=1, **settings):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    fixed = {"max_steps": max_steps, "max_epochs": -1, "accelerator": "cpu", "limit_val_batches": 0}
    return pl.Trainer(**quiet | fixed | settings)


def weights_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def tensors(sample):
    """Every tensor of some episodes, in the order of their fields and of the trees in them."""
    return [leaf for name in PER_TIMESTEP + PER_EPISODE for leaf in tree_leaves(getattr(sample, name))]


def episodes_of(rewards, lengths, truncated=None, observations=None, actions=None, log_probs=None, update=0):
    """Episodes with these rewards [T] and lengths [E]; the other fields are filled in."""
    count, truncated = len(rewards), torch.tensor(truncated if truncated is not None else [False] * len(lengths))
    if observations is None:
        observations = torch.arange(2.0 * count).reshape(count, 2)
    return Episodes(
        observations=observations,
        actions=torch.zeros(count, dtype=torch.long) if actions is None else actions,
        log_probs=torch.zeros(count) if log_probs is None else log_probs,
        rewards=torch.tensor(rewards).double(),
        dropout_masks=(),
        lengths=torch.tensor(lengths),
        terminated=~truncated,
        truncated=truncated,
        final_observations=observations[torch.tensor(lengths).cumsum(0) - 1] + 1,
        env_steps=count,
        update=update,
    )


def batch_of(episodes, returns):
    """A batch with these returns [T], a baseline of zero and advantages equal to the returns."""
    zeros = torch.zeros_like(returns)
    return Batch(episodes, returns, zeros, returns, len(episodes), episodes.outcome())
