"""Files of a run folder: whole or not there at all, CSV tables that grow with the checkpoints, never through a link."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all; a symbolic link is replaced, not followed."""
    temporary = path.with_name(path.name + ".tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()
    try:
        with temporary.open("xb") as file:  # "x" opens what it has made itself, never a link.
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:  # The disk is full: leave no part behind.
        with suppress(OSError):
            temporary.unlink()
        raise


def append(path: Path, content: str) -> None:
    """Append to a file; a symbolic link is refused with an OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), "wb") as file:
        file.write(content.encode())


class Table:
    """CSV file whose new rows wait in memory until :meth:`flush`.

    The first flush writes the whole file, with the rows of the run that training resumes; later ones append.

    Args:
        path: of the file.
        columns: names of the columns; by default those of the rows so far, sorted.

    Attributes:
        rows: that wait.
        columns: names of the columns.
    """

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        self.path, self.rows = path, list[dict[str, Any]]()
        self._fixed, self.columns = bool(columns), list(columns)
        self._source, self._kept, self._begun = path, 0, False

    def __len__(self) -> int:
        """Return the number of rows, on the disk and waiting."""
        return self._kept + len(self.rows)

    def resume(self, source: Path, rows: int | None) -> None:
        """Take over the first rows of a file, or all, at the first flush; a kill may have left more, or half a line."""
        if rows is None and source.exists():
            with source.open(newline="") as file:
                rows = sum(1 for _ in csv.DictReader(file))
        self._source, self._kept = source, rows or 0

    def flush(self) -> None:
        """Write the rows that wait."""
        kept = None if self._begun else self._read(self._source)
        columns = self.columns if self._fixed else sorted({*self.columns, *(name for row in self.rows for name in row)})
        if not columns:
            return
        if kept is None and columns != self.columns:
            kept = self._read(self.path)
        if kept is None:
            append(self.path, _text(columns, self.rows))
        else:
            write_whole(self.path, ",".join(columns) + "\n" + _text(columns, [*kept, *self.rows]))
        self._kept, self.rows, self.columns, self._begun = len(self), [], columns, True

    def _read(self, source: Path) -> list[dict[str, str]]:
        """Return the rows of a file that are to be kept."""
        if self._kept == 0 or not source.exists():
            self._kept = 0
            return []
        with source.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(islice(reader, self._kept))
        if not self._fixed:
            self.columns = list(reader.fieldnames or ())
        self._kept = len(rows)
        return rows


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Format rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writerows(rows)
    return text.getvalue()


class RunCSVLogger(Logger):
    """CSVLogger of a run folder: writes ``metrics.csv`` when the run's checkpoint is saved, and continues it on resume.

    Lightning's own deletes the file of a run that is resumed, and writes on its own.

    Args:
        save_dir: the run's folder.
        name: part of paths that callbacks build; the file does not depend on it.
        version: the same.
        prefix: of the names of all metrics.
        flush_logs_every_n_steps: accepted as Lightning's CSVLogger does; rows are written with the checkpoints.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike,
        name: str = "",
        version: int | str | None = "",
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__()
        self._save_dir, self._name, self._version, self._prefix = os.fspath(save_dir), name, version, prefix
        self.table = Table(Path(save_dir, "metrics.csv"))

    @property
    def name(self) -> str:
        """Part of paths that callbacks build."""
        return self._name

    @property
    def version(self) -> int | str | None:
        """Part of paths that callbacks build."""
        return self._version

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return self._save_dir

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        row = {f"{self._prefix}-{name}" if self._prefix else name: _plain(value) for name, value in metrics.items()}
        self.table.rows.append(row | {"step": step or 0})


def _plain(value: Any) -> Any:
    """Turn a tensor of one number into the number."""
    return value.item() if hasattr(value, "item") else value
