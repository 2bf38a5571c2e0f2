"""Pictures of a run: drawn into its folder, and handed to loggers."""

import gc
import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger

from pg_lightning.callbacks.files import write_whole


def draw(folder: Path) -> list[Path]:
    """Draw ``learning_curve.png`` and ``diagnostics.png`` of a run into its folder; return those that were drawn."""
    from pg_lightning.plotting.run import plot_diagnostics, plot_learning_curve  # So that little waits for matplotlib.

    summary = json.loads((folder / "summary.json").read_text())
    drawn = {
        "learning_curve.png": plot_learning_curve(folder / "episodes.csv", summary),
        "diagnostics.png": plot_diagnostics(folder / "metrics.csv", summary),
    }
    pictures = {folder / name: image for name, image in drawn.items() if image is not None}
    for path, image in pictures.items():
        write_whole(path, image)
    # Errors that matplotlib keeps in circles keep their callers' variables: the batch, which can be of 300 MB.
    gc.collect()
    return list(pictures)


def log_pictures(trainer: pl.Trainer, paths: list[Path]) -> None:
    """Hand pictures to the loggers that take images."""
    for logger in trainer.loggers:
        there: Any = logger
        for path in paths:
            if isinstance(logger, TensorBoardLogger):
                there.experiment.add_image(path.stem, pixels(path), trainer.global_step, dataformats="HWC")
            elif isinstance(logger, MLFlowLogger):
                there.experiment.log_artifact(there.run_id, str(path))
            elif hasattr(logger, "log_image"):
                there.log_image(path.stem, [str(path)], step=trainer.global_step)


def pixels(path: Path) -> Any:
    """Read a picture: uint8 ``[H, W, 3]``."""
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype("uint8")
