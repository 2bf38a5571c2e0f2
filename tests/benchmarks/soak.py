"""What is left behind: memory, open files and processes over many tiny updates.

    python -m tests.benchmarks.soak --minutes 30 --backend auto
    python -m tests.benchmarks.soak --minutes 30 --backend async

Two environments, episodes of at most 8 timesteps, a checkpoint every second. The slope of the resident memory is fitted
by least squares to what was noted every 10 seconds after the first tenth of the run.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.callbacks import Callback

from tests.benchmarks.common import max_time, table

EVERY = 10.0
"""Seconds between two notes."""


def children() -> int:
    """Count the processes that this one has started and that still live."""
    return sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children"))


def note() -> list[float]:
    """Return the resident memory in MiB, open files, threads and child processes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    open_files, threads = (len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task"))
    return [pages * resource.getpagesize() / 2**20, open_files, threads, children()]


class Notes(Callback):
    """Takes notes while training."""

    def __init__(self) -> None:
        self.rows, self.next, self.updates = list[list[float]](), time.monotonic(), 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.updates = trainer.global_step
        if time.monotonic() >= self.next:
            self.next += EVERY
            self.rows.append([time.monotonic(), *note()])


NOTES = Notes()


def notes() -> Notes:
    """Hand the notes to the command line."""
    return NOTES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    from pg_lightning.cli import main as fit
    from tests.benchmarks import soak  # Not __main__, so that the command line finds the same notes.
    from tests.benchmarks.cases import with_envs

    before = note()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        data = [*with_envs(2), "--env.max_episode_steps", "8", "--data.backend", options.backend]
        limits = [*max_time(60 * options.minutes), "--stop.threshold", "1e9"]
        quiet = ["--trainer.enable_progress_bar", "false", "--lines.every_n_episodes", "0"]
        callback = ["--trainer.callbacks", "tests.benchmarks.soak.notes"]
        fit(["fit", *data, *limits, *quiet, *callback, "--checkpoint.every_seconds", "1"])
        os.chdir("/")
    rows = np.array(soak.NOTES.rows)
    late = rows[len(rows) // 10 :]
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * 3600
    header = ["", "memory MiB", "open files", "threads", "child processes"]
    named: dict[str, Any] = {"before": before, "first note": rows[0, 1:], "last note": rows[-1, 1:], "after": note()}
    print(table(header, [[name, f"{row[0]:.1f}", *map(int, row[1:])] for name, row in named.items()]))
    print(f"{soak.NOTES.updates:,} updates in {options.minutes:g} minutes, backend {options.backend}; ", end="")
    print(f"memory {slope:+.2f} MiB/hour, from {late[:, 1].min():.1f} to {late[:, 1].max():.1f}")


if __name__ == "__main__":
    main()
