"""Loggers of a run, which write to its folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace


def refuse_place(typed: Mapping[str, Any]) -> None:
    """Refuse a folder that is typed for a logger.

    Args:
        typed: options by name.

    Raises:
        ValueError: there is one.
    """
    for option, value in typed.items():
        if option.startswith("trainer.logger.") and option.endswith(".save_dir") and value not in (None, "null"):
            raise ValueError(
                "--trainer.logger.save_dir: a logger writes to its run's folder; --trainer.default_root_dir is the "
                "folder of all runs"
            )


def place_logger(loggers: Any, folder: Path, name: str | None) -> None:
    """Have the loggers of a parsed configuration write to the run's folder, under the name of the experiment."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if not isinstance(logger, Namespace) or "save_dir" not in logger.init_args:
            continue
        kind, settings = logger.class_path.rpartition(".")[2], logger.init_args
        settings.save_dir = str(folder)
        if kind == "MLFlowLogger":
            # MLflow 3 refuses a folder as its store without this.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            settings.save_dir = str(folder / "mlruns")
        if (title := {"MLFlowLogger": "run_name", "WandbLogger": "name"}.get(kind)) is not None:
            settings[title] = settings[title] or name
        if kind in ("CSVLogger", "TensorBoardLogger"):
            settings.name = settings.version = ""
        if kind == "CSVLogger":
            logger.class_path = "pg_lightning.callbacks.files.RunCSVLogger"
