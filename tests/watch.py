"""What a run does just now, told through memory that it shares with the process that kills it."""

import mmap
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from pg_lightning import Reinforce
from pg_lightning.callbacks.checkpoint import RunCheckpoint
from pg_lightning.cli import main as train
from tests.helpers import ROOT

PHASES = ["starting", "sampling", "updating", "saving", "not known"]
STARTING, SAMPLING, UPDATING, SAVING, NOT_KNOWN = range(5)


class Watch:
    """What a run does just now, in memory shared with the process that kills it."""

    def __init__(self, updates: int, fresh: bool) -> None:
        self.fresh = fresh
        self._numbers = np.frombuffer(mmap.mmap(-1, 8 * (updates + 4)), np.float64)
        self.phase = self._numbers[0:1]
        self.since = self._numbers[1:2]  # When the last checkpoint was saved, or else training began.
        self.done = self._numbers[2:3]  # Updates completed,
        self.times = self._numbers[3:]  # and when.

    def install(self, copies: Path | None) -> None:
        """In the forked process: have training say what it does, and keep a copy of each checkpoint."""
        begin, end = RunCheckpoint.on_train_start, RunCheckpoint.on_train_batch_end
        save, step = RunCheckpoint.save, Reinforce.training_step

        def on_train_start(*arguments):
            begin(*arguments)
            self.since[0], self.phase[0] = time.monotonic(), SAMPLING

        def training_step(*arguments):
            self.phase[0] = UPDATING
            return step(*arguments)

        def on_train_batch_end(callback, trainer, *arguments):
            self.times[trainer.global_step], self.done[0] = time.monotonic(), trainer.global_step
            end(callback, trainer, *arguments)
            self.phase[0] = SAMPLING

        def save_checkpoint(callback, trainer, *arguments):
            self.phase[0] = SAVING
            save(callback, trainer, *arguments)
            self.since[0] = time.monotonic()
            if copies is not None:
                shutil.copy(Path(trainer.default_root_dir, "checkpoints/last.ckpt"), copies / f"{trainer.global_step}")

        RunCheckpoint.on_train_start, RunCheckpoint.on_train_batch_end = on_train_start, on_train_batch_end
        RunCheckpoint.save, Reinforce.training_step = save_checkpoint, training_step

    def start(self, folder: Path, arguments: list[str], copies: Path | None = None) -> int:
        """Start a run; return its process id."""
        self._numbers[:] = 0
        if self.fresh and copies is None:
            return self._start_fresh(folder, arguments)
        if (pid := os.fork()) != 0:
            return pid
        try:
            os.chdir(folder)
            log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            self.install(copies)
            train(["fit", *arguments])
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        print(end="", flush=True)
        os._exit(code)

    def _start_fresh(self, folder: Path, arguments: list[str]) -> int:
        """Start a run as a user does; its lines tell when training has begun."""
        self.log = folder / "log.txt"
        command = [sys.executable, ROOT / "train.py", "fit", *arguments, "--lines.every_n_episodes", "1"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        with self.log.open("a") as log:
            self.size = log.tell()
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        return self.process.pid

    def begun(self) -> bool:
        """Tell whether the run has begun to train."""
        if self.fresh and self.phase[0] == STARTING and self.log.stat().st_size > self.size:
            self.phase[0] = NOT_KNOWN
        return self.phase[0] != STARTING
