from dataclasses import fields
from pathlib import Path

import pytorch_lightning as pl

from pg_lightning import Episodes

ROOT = Path(__file__).parents[1]


def trainer(max_steps=1, **settings):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    fixed = {"max_steps": max_steps, "max_epochs": -1, "accelerator": "cpu", "limit_val_batches": 0}
    return pl.Trainer(**quiet | fixed | settings)


def weights_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def tensors(sample):
    """Every tensor of some episodes, in the order of their fields."""
    values = [getattr(sample, field.name) for field in fields(Episodes) if field.name != "update"]
    return [tensor for value in values for tensor in (value if isinstance(value, tuple) else (value,))]
