"""Command line: one entry for all commands, and errors in one line."""

import difflib
import importlib
import io
import logging
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from pg_lightning import __version__
from pg_lightning.cli.configs import by_name
from pg_lightning.cli.errors import from_another_process, interrupted, one_line, told_by_another
from pg_lightning.cli.help import overview
from pg_lightning.cli.lightning import CLI
from pg_lightning.cli.parser import ROOT, ParserExit

__all__ = ["CLI", "main", "run"]


COMMANDS = {
    "compare": "pg_lightning.cli.compare",
    "tune": "pg_lightning.cli.tune",
    "configs": "pg_lightning.cli.configs",
    "runs": "pg_lightning.cli.listing",
}
"""Commands beside those of Lightning's command line, and the modules with their ``main``."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; a mistake ends it with exit code 1 and one line.

    Args:
        args: words after ``train.py``; by default those that were typed.
    """
    with suppress(FileNotFoundError):  # The folder may be gone.
        # Modules in the working folder are found, as by ``python -m``, but shadow no installed one.
        if (here := os.getcwd()) not in sys.path and not sys.flags.safe_path:
            sys.path.append(here)
    with errors_in_one_line(ROOT):
        words = by_name(sys.argv[1:] if args is None else args)
    if words and words[0] in COMMANDS:
        quiet()
        with errors_in_one_line(ROOT):
            sys.exit(importlib.import_module(COMMANDS[words[0]]).main(words[1:]))
    known = [*CLI.all_commands(), *COMMANDS]
    if words == ["--version"]:
        print(__version__)
        return
    if words in (["-h"], ["--help"]):
        print(overview())
        return
    if not words or not (words[0].startswith("-") or words[0] in known):
        close = difflib.get_close_matches(words[0], known, n=1) if words else []
        what = f"there is no command {words[0]!r}" if words else "a command is missing"
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
        sys.exit(f"error: {what}; {hint}")
    if exit_code := run(words).exit_code:
        sys.exit(exit_code)


def run(args: list[str], kind: type[CLI] = CLI) -> CLI:
    """Run one of Lightning's commands; return the command line, of the given kind, with what it has made."""
    quiet()
    cli = kind.__new__(kind)
    with errors_in_one_line(ROOT, cli):
        cli.__init__(args)  # type: ignore[misc]
    return cli


@contextmanager
def errors_in_one_line(root: str, cli: CLI | None = None) -> Iterator[None]:
    """End the process with one line in place of a traceback.

    Args:
        root: folder of all runs, unless ``cli`` has another one.
        cli: command line that may have come as far as a Trainer with several processes.
    """
    started = time.time()
    try:
        yield
    except ParserExit:
        raise
    except BaseException as error:
        if isinstance(error, SystemExit) and cli is None:
            raise
        if interrupted(error):
            sys.exit(128 + signal.SIGINT)
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            sys.exit(128 + signal.SIGPIPE)
        if os.environ.get("PG_LIGHTNING_TRACEBACK"):
            raise
        folder = Path(getattr(cli, "root", root))
        world_size = cli.trainer.world_size if hasattr(cli, "trainer") else 1  # type: ignore[union-attr]
        if world_size > 1 and from_another_process(error) and told_by_another(folder, started):
            sys.exit(1)
        sys.exit(one_line(error, folder, world_size))


def reader_is_gone() -> bool:
    """Tell whether nobody reads what is printed any more, such as ``head``; nothing more is printed then."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def quiet() -> None:
    """Leave out what Lightning and Gymnasium say about themselves; keep the report of a profiler."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # In a file or a pipe, too, each line appears when it is printed.
        sys.stdout.reconfigure(line_buffering=True)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.all_gather is deprecated")
    # Lightning advises to hand in every callback that the checkpoint has a state of; testing needs none of them.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
    if not os.environ.get("PG_LIGHTNING_TRACEBACK"):  # Gymnasium shows a worker's traceback before it raises.
        warnings.filterwarnings("ignore", message=r"\x1b\[31mERROR", module=r"gymnasium\.vector")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # On networks this small a second thread costs more than it brings.
