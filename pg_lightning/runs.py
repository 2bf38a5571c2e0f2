"""Run folders: ``runs/<env_id>/version_N/``, what lies in them, and how a later run finds and continues them."""

import csv
import os
import re
import warnings
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def rewrite_csv(path: Path, header: list[str], column: str, last: int) -> list[str]:
    """Keep the rows of a CSV file whose ``column`` is at most ``last``; make it if there is none. Return its header."""
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if row[column] and int(row[column]) <= last]
            header = list(reader.fieldnames or header)
    lines = [header, *([row[name] for name in header] for row in rows)]
    write_whole(path, "".join(",".join(line) + "\n" for line in lines))
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


def remove_if_empty(folder: Path) -> None:
    """Take back a run folder that nothing was written to, and its parents if they too are empty."""
    for path in (folder, folder.parent, folder.parent.parent):
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
    if not path.exists():
        return
    header = rewrite_csv(path, [], "step", last)
    kept = path.with_name("metrics.csv.kept")
    os.replace(path, kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
        logger.experiment.metrics_keys = header
    os.replace(kept, path)
