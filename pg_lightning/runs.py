"""Run folders: ``runs/<env_id>/version_N/``, what lies in them, and how a later run finds and continues them."""

import os
import re
import shutil
import warnings
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, newline="")
    os.replace(temporary, path)


def rewrite_csv(path: Path, header: list[str], column: str, last: int) -> list[str]:
    """Keep the whole rows of a CSV file whose ``column`` is at most ``last``; make it if there is none.

    Returns:
        Its header.
    """
    lines = path.read_bytes().decode().splitlines(keepends=True) if path.exists() else []
    head, *rows = lines or [",".join(header) + "\n"]
    header = head.strip().split(",")
    place = header.index(column)
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[place]) <= last]
    write_whole(path, "".join([head, *kept]))
    return header


def runs_of(root: Path, env_id: str) -> Path:
    """Return the folder of an environment's runs."""
    return root / re.sub(r"[^\w.-]+", "_", env_id)


def new_run_folder(root: Path, env_id: str) -> Path:
    """Make the next free ``version_N`` folder of an environment; two runs that start together get one each."""
    parent = runs_of(root, env_id)
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name[8:]) for path in parent.glob("version_*") if path.name[8:].isdigit()), default=-1) + 1
    while True:
        try:
            folder = parent / f"version_{number}"
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def discard(folder: Path) -> None:
    """Take back the folder of a run that never began, and its parents if they are empty."""
    shutil.rmtree(folder)
    for path in (folder.parent, folder.parent.parent):
        try:
            path.rmdir()
        except OSError:
            return


def run_folder(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, or ``None`` if it lies elsewhere."""
    folder = checkpoint.resolve().parent.parent
    if checkpoint.parent.name == "checkpoints" and (folder / "config.yaml").is_file():
        return checkpoint.parent.parent
    return None


def continue_csv(logger: CSVLogger, last: int) -> None:
    """Let a CSVLogger go on with the ``metrics.csv`` in its folder, which it would delete, up to step ``last``."""
    path = Path(logger.log_dir, "metrics.csv")
    kept = path.with_name("metrics.csv.kept")
    if kept.exists() and not path.exists():  # A kill came before it was put back.
        os.replace(kept, path)
    if not path.exists():
        return
    header = rewrite_csv(path, [], "step", last)
    os.replace(path, kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
        logger.experiment.metrics_keys = header
    os.replace(kept, path)
