"""``runs``: a table of the runs below a folder, and those that are not needed any more deleted on request."""

import argparse
import fcntl
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pg_lightning.cli.help import command_parser
from pg_lightning.cli.parser import ROOT
from pg_lightning.cli.runs import RunFolder, is_run_name

DESCRIPTION = """\
List the runs below a folder, the newest last, and delete those that are listed with --prune.

  {program} runs                                        all runs below runs/
  {program} runs runs/CartPole-v1 --state interrupted
  {program} runs comparisons --older_than 30 --prune    deletes what it lists, after asking

running: a process writes it; interrupted: it can go on by --ckpt_path; ended: its limit or its goal is reached.
A run that is running is never deleted, nothing outside ROOT is, and no symbolic link is followed.
"""

STATES = ("running", "interrupted", "ended")


class Run(NamedTuple):
    """A run as it is listed.

    Attributes:
        path: of its folder.
        env_id: of its environment; "?" before its first checkpoint.
        seed: of the run.
        state: one of STATES.
        result: in a few words.
        size: of its files, in bytes; one with two names counts once.
        changed: when it was last written, in seconds since 1970.
    """

    path: Path
    env_id: str
    seed: str
    state: str
    result: str
    size: int
    changed: float


def main(arguments: list[str]) -> int:
    """List the runs; with ``--prune`` delete them. Returns the exit code."""
    options = parse(arguments)
    root = Path(options.root)
    if not root.is_dir():
        raise ValueError(f"runs: there is no folder {options.root!r}")
    oldest = time.time() - 86_400 * options.older_than
    found = [read_run(path) for path in run_folders(root)]
    runs = sorted(
        (run for run in found if options.state in (None, run.state) and run.changed <= oldest),
        key=lambda run: run.changed,
    )
    print(table(runs) if runs else f"No run in {root}" + " is of that kind" * bool(found))
    return prune(root, runs, options.yes) if options.prune else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options.

    Raises:
        ValueError: a wrong option.
    """
    parser = command_parser("runs [ROOT] [options]", DESCRIPTION)
    parser.add_argument("root", nargs="?", default=ROOT, metavar="ROOT", help="folder of the runs (default runs)")
    parser.add_argument("--state", choices=STATES, help="list those alone")
    parser.add_argument("--older_than", type=float, default=0.0, metavar="DAYS", help="list those not written since")
    parser.add_argument("--prune", action="store_true", help="delete what is listed, but for running ones")
    parser.add_argument("--yes", action="store_true", help="do not ask, for scripts")
    try:
        options, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"runs: {error}") from None
    if unknown:
        raise ValueError(f"runs: there is no option {unknown[0]}; see --help")
    if not options.older_than >= 0:
        raise ValueError(f"runs: --older_than must be at least 0 days, not {options.older_than}")
    return options


def run_folders(root: Path) -> Iterator[Path]:
    """Find the run folders below a folder: ``version_N`` with the files that a run writes; no link is followed."""
    for place, folders, files in os.walk(root):
        folders.sort()
        path = Path(place)
        regular = {name for name in files if not (path / name).is_symlink()}
        if (
            path != root
            and is_run_name(path.name)
            and (".lock" in regular or {"config.yaml", "summary.json"} <= regular)
        ):
            folders.clear()
            yield path


def read_run(path: Path) -> Run:
    """Read what is known of a run; nothing is imported, and a file that cannot be read tells nothing."""
    summary = dict[str, Any]()
    with suppress(OSError, ValueError):
        summary = json.loads((path / "summary.json").read_text())
    state = "running" if is_running(path) else "interrupted" if not_ended(summary) else "ended"
    files = {(one.st_dev, one.st_ino): one for one in map(os.lstat, files_of(path))}
    regular = [one for one in files.values() if stat.S_ISREG(one.st_mode)]
    changed = max((one.st_mtime for one in regular), default=path.stat().st_mtime)
    seed = summary.get("seed")
    return Run(
        path,
        str(summary.get("env_id", "?")),
        "?" if seed is None else str(seed),
        state,
        result_of(summary),
        sum(one.st_size for one in regular),
        changed,
    )


def files_of(path: Path) -> list[str]:
    """List the files below a run's folder, but for its lock; no link is followed."""
    return [os.path.join(place, name) for place, _, files in os.walk(path) for name in files if name != ".lock"]


def is_running(path: Path) -> bool:
    """Tell whether a process holds the lock of a run."""
    try:
        file = os.open(path / ".lock", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def not_ended(summary: dict[str, Any]) -> bool:
    """Tell whether a run that nobody writes was cut off: by a kill, or by a signal."""
    return summary.get("reason") in (None, "interrupted")


def result_of(summary: dict[str, Any]) -> str:
    """Say in a few words how far a run came."""
    if not summary:
        return "no checkpoint yet"
    if first := summary.get("first_solved"):
        return f"solved after {first['episodes']:,} episodes"
    value = summary.get("running_reward")
    reward = "" if value is None else f"running reward {value:.1f}"
    return f"{reward} after {summary.get('episodes', 0):,} episodes".strip()


def table(runs: Sequence[Run]) -> str:
    """Format runs, one a line."""
    header = ("folder", "environment", "seed", "state", "result", "size", "written")
    rows = [header]
    for run in runs:
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        rows.append((str(run.path), run.env_id, run.seed, run.state, run.result, size_of(run.size), written))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = {"seed", "size"}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ).rstrip()
        for row in rows
    )


def size_of(size: float) -> str:
    """Format a number of bytes.

    >>> size_of(900), size_of(1_234_567)
    ('1 kB', '1.2 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def prune(root: Path, runs: Sequence[Run], yes: bool) -> int:
    """Delete runs, after asking; return the exit code: 1 where one could not be deleted.

    Raises:
        ValueError: there is no terminal to ask at.
    """
    chosen = [run for run in runs if run.state != "running"]
    if not chosen:
        print("Nothing to delete")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError("runs --prune asks before it deletes, and there is no terminal: --yes answers for you")
        total = size_of(sum(run.size for run in chosen))
        if answer(f"Delete {len(chosen)} runs ({total})? [y/N] ") not in ("y", "yes"):
            print("Nothing was deleted")
            return 0
    failed = [run for run in chosen if not delete(run, root)]
    print(f"Deleted {len(chosen) - len(failed)} runs ({size_of(sum(r.size for r in chosen if r not in failed))})")
    return int(bool(failed))


def answer(question: str) -> str:
    """Ask; the end of the input is no answer."""
    try:
        return input(question).strip().lower()
    except EOFError:
        return ""


def delete(run: Run, root: Path) -> bool:
    """Delete a run's folder and the folders above it that are empty then, below ``root``; return whether it is gone.

    The run is locked first, so that no process can go on with it meanwhile; what another one has done to it since it
    was listed saves it.
    """
    path = run.path
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError("a symbolic link leads out of the folder")
        lock = RunFolder(path)
        try:
            if read_run(path).changed != run.changed:
                raise ValueError("it was written meanwhile")
            shutil.rmtree(path)
        finally:
            lock.release()
    except (OSError, ValueError) as error:
        print(f"{path} is left as it is: {error}", file=sys.stderr)
        return False
    for parent in path.parents:
        if parent == root or any(parent.iterdir()):
            break
        parent.rmdir()
    return True
