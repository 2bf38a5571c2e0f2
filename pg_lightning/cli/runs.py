"""Run folders ``<root>/<environment>[/<experiment>]/version_N``: made, locked while they are written, found again."""

import fcntl
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

_locked = set[int]()
"""Open lock files of this process."""


def _close_in_child() -> None:
    """Leave the locks to the process that took them: a forked worker may live longer."""
    for file in _locked:
        os.close(file)
    _locked.clear()


os.register_at_fork(after_in_child=_close_in_child)


def folder_name(env_name: str) -> str:
    """Turn the name of an environment into that of a folder; no name leads out of the folder of all runs.

    >>> folder_name("ALE/Pong-v5"), folder_name("tests.envs:Counting-v0"), folder_name("..")
    ('ALE_Pong-v5', 'tests.envs_Counting-v0', '_')
    """
    return re.sub(r"[^\w.-]+", "_", env_name).lstrip(".")[:100] or "_"


def is_run_name(name: str) -> bool:
    """Tell whether a folder's name is that of a run.

    >>> is_run_name("version_12"), is_run_name("version_")
    (True, False)
    """
    return bool(re.fullmatch(r"version_\d+", name))


class RunFolder:
    """Folder of a run that this process writes, locked until :meth:`release`.

    Args:
        path: of an existing folder.
        made: folders that this process has made, outermost first; they are removed if the run never begins.

    Raises:
        ValueError: another process writes this run, or a symbolic link would lead the writing elsewhere.
    """

    def __init__(self, path: Path, made: list[Path] | None = None) -> None:
        self.path, self._made, self._lock = path, made or [], path / ".lock"
        if (path / "checkpoints").is_symlink():
            raise ValueError(f"{path / 'checkpoints'} is a symbolic link, which a run does not follow when it writes")
        self._file = self._take_lock()
        _locked.add(self._file)

    @classmethod
    def new(cls, parent: Path) -> "RunFolder":
        """Make the next free ``version_N`` below a folder; two runs that start together get one each."""
        made = list[Path]()
        for folder in (*reversed(parent.parents), parent):
            with suppress(FileExistsError):
                folder.mkdir()
                made.append(folder)
        versions = [int(path.name[8:]) for path in parent.glob("version_*") if path.name[8:].isdecimal()]
        number = max(versions, default=-1) + 1
        while True:
            path = parent / f"version_{number}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                continue
            return cls(path, [*made, path])

    def _take_lock(self) -> int:
        """Open and lock the lock file; it is gone when the run has ended, and its lock when the process has."""
        while True:
            file = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.stat(self._lock)):
                    os.ftruncate(file, 0)
                    os.write(file, str(os.getpid()).encode())
                    return file
            except FileNotFoundError:  # Its owner has just removed it.
                pass
            except OSError as error:
                pid = os.read(file, 32).decode() or "unknown"
                os.close(file)
                if isinstance(error, BlockingIOError):
                    raise ValueError(f"{self.path} is being written by another process (pid {pid})") from None
                raise
            os.close(file)

    def release(self) -> None:
        """Remove the lock file and unlock."""
        if self._file in _locked:
            _locked.remove(self._file)
            with suppress(OSError):
                self._lock.unlink()
            os.close(self._file)

    def discard(self) -> None:
        """Remove what this process has made, for a run that never began; parents only where they are empty."""
        if self._made:
            *parents, folder = self._made
            shutil.rmtree(folder, ignore_errors=True)
            for parent in reversed(parents):
                with suppress(OSError):
                    parent.rmdir()


def run_of(checkpoint: Path) -> Path | None:
    """Return the run folder of a checkpoint, ``None`` where it is in none."""
    path = checkpoint if len(checkpoint.parts) > 2 else checkpoint.absolute()
    if path.parent.name == "checkpoints" and (path.parent.parent / "config.yaml").is_file():
        return path.parent.parent
    return None


def newest_run(folder: Path, runs: str = "**/version_*") -> Path | None:
    """Return the run below a folder whose last checkpoint is the newest, ``None`` where there is none.

    Args:
        folder: with runs.
        runs: pattern of the folders of those that are considered; by default all, at any depth.
    """
    found = [path for file in ("last.ckpt", "previous.ckpt") for path in folder.glob(f"{runs}/checkpoints/{file}")]
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest and newest.parent.parent
