from pathlib import Path

import pytorch_lightning as pl

from pg_lightning.episodes import PER_EPISODE, PER_TIMESTEP
from pg_lightning.tree import tree_leaves

ROOT = Path(__file__).parents[1]


def trainer(max_steps=1, **settings):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    fixed = {"max_steps": max_steps, "max_epochs": -1, "accelerator": "cpu", "limit_val_batches": 0}
    return pl.Trainer(**quiet | fixed | settings)


def weights_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def tensors(sample):
    """Every tensor of some episodes, in the order of their fields and of the trees in them."""
    return [leaf for name in PER_TIMESTEP + PER_EPISODE for leaf in tree_leaves(getattr(sample, name))]
