"""Report of ``validate`` and ``test``: a table on the terminal and a file."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pg_lightning.callbacks.files import write_whole
from pg_lightning.evaluation import evaluation_table


class EvaluationReport(Callback):
    """Prints a table of the evaluation, and writes ``evaluation.json`` in the Trainer's ``default_root_dir``.

    Args:
        checkpoint: path of the checkpoint that is evaluated, for the file; ``None`` for an untrained policy.
        update: that the checkpoint was saved after.
    """

    def __init__(self, checkpoint: Path | None = None, update: int = 0) -> None:
        self.checkpoint, self.update = checkpoint, update

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table, write the file and say where it is."""
        if not trainer.is_global_zero:
            return
        agent: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        print(evaluation_table(agent.evaluations))
        report = {
            "env_id": agent.env.name,
            "checkpoint": self.checkpoint and str(self.checkpoint),
            "update": self.update,
            "seed": getattr(data, "seed", None),
            **{way: evaluation._asdict() for way, evaluation in agent.evaluations.items()},
        }
        path = Path(trainer.default_root_dir, "evaluation.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(report, indent=2) + "\n")
        print(f"Evaluation: {path}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same for ``validate``."""
        if trainer.state.fn == "validate":
            self.on_test_end(trainer, pl_module)
