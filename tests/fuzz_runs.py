"""Runs of the random test in processes of their own."""

import ctypes
import multiprocessing.util
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning.loggers.tensorboard  # noqa: F401 - So that the forked processes need not.

import pg_lightning.plotting.run
from pg_lightning.cli import CLI
from pg_lightning.cli import main as command_line
from tests import fuzz_envs  # noqa: F401
from tests.helpers import ROOT

TIMEOUT = 120.0
"""Seconds after which a run is said to hang."""


class Ended(NamedTuple):
    """How a run ended: the exit status that a shell sees, what it printed, and processes that it left behind."""

    code: int
    out: str
    err: str
    left: list[int]


def run(arguments: list[str], folder: Path, fresh: bool, before: Callable = int, during: Callable = int) -> Ended:
    """Run ``fit`` in a process of its own.

    Args:
        arguments: words after ``train.py``.
        folder: working directory.
        fresh: whether Python starts anew.
        before: called in the new process.
        during: called with the process id while the run goes on.
    """
    files = [folder / "out.txt", folder / "err.txt"]
    handles = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for path in files]
    if fresh:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pid = subprocess.Popen([sys.executable, ROOT / "train.py", *arguments], cwd=folder, env=environment,
            stdout=handles[0], stderr=handles[1], start_new_session=True, preexec_fn=before).pid  # fmt: skip
    else:
        pid = forked(arguments, folder, handles, before)
    for handle in handles:
        os.close(handle)
    during(pid)
    deadline = time.monotonic() + TIMEOUT
    while has_not_ended(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    deadline = time.monotonic() + 5
    while (left := members(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return Ended(status if status >= 0 else 128 - status, *(path.read_text() for path in files), left)


def has_not_ended(pid: int) -> bool:
    """Tell whether a child goes on; it stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def forked(arguments: list[str], folder: Path, handles: list[int], before: Callable) -> int:
    """Start a run in a forked process; return its id when it has begun."""
    reading, writing = os.pipe()
    if (pid := os.fork()) != 0:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        return pid
    code: object = 1
    try:
        os.setsid()
        multiprocessing.process._children.clear()  # Those of the process it comes from are not its own to wait for.
        os.chdir(folder)
        os.dup2(handles[0], 1)
        os.dup2(handles[1], 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        os.close(writing)
        warn_as_usual()
        hurry()
        command_line(arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    try:
        if isinstance(code, str):
            print(code, file=sys.stderr)
        multiprocessing.util._exit_function()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def warn_as_usual() -> None:
    """Print warnings as a new Python does; under pytest they would be errors, or recorded."""
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning, FutureWarning):
        warnings.simplefilter("ignore", category)

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = show


def hurry() -> None:
    """Leave out what takes two thirds of a short run: the parsers of the other commands, and the picture."""
    kept = {"fit": CLI.all_commands()["fit"]}
    CLI.all_commands = staticmethod(lambda: kept)
    pg_lightning.plotting.run.plot_learning_curve = lambda *_: None


def members(session: int) -> list[int]:
    """List the processes of a session, without those that are only waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def without_root_rights() -> None:
    """Have this process obey the rights of files even as root: drop CAP_DAC_OVERRIDE (1)."""
    if os.geteuid() == 0:
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, data) == 0 and libc.prctl(24, 1, 0, 0, 0) == 0
        data[0] &= ~2
        data[1] &= ~2
        assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
