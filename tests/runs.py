"""Helpers for tests of the command line: short runs, what is in their folders, other processes."""

import csv
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pg_lightning.cli import main
from tests.helpers import ROOT

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--lines.every_n_episodes", "0"]
LONG = [*QUIET, "--stop.threshold", "1e9", "--env.max_episode_steps", "10"]
FEW = [*LONG, "--data.num_envs", "2", "--checkpoint.every_seconds", "0"]
PLAIN = ["--model.direction", "Gradient"]
RUN = Path("runs/CartPole-v1/version_0")
HEALTHY = ["--env.id", "tests.envs:Broken-v0", "--env.kwargs", '{"what": "nothing"}']
BROKEN = Path("runs/tests.envs_Broken-v0/version_0")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run each test in a folder of its own; import this name to have it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder):
    """Every file below a folder, and its bytes."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def error(*arguments):
    """The one line with which a command line ends."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, str) and "\n" not in ended.value.code
    return ended.value.code


def checkpoint(run=RUN, name="last"):
    """A checkpoint of a run."""
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def rows(run, name):
    """The rows of a run's CSV file."""
    return list(csv.DictReader((run / name).read_text().splitlines()))


def updates_of(run):
    """The updates in metrics.csv and in episodes.csv, each once."""
    return [int(row["step"]) for row in rows(run, "metrics.csv")], list(
        dict.fromkeys(int(row["update"]) for row in rows(run, "episodes.csv"))
    )


def forked(arguments, patch=lambda: None):
    """Run the command line in a forked process; return how that ended."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            patch()
            main(list(arguments))
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def other(*arguments):
    """Run the command line in a process that may import from the working folder; return its code, stdout and stderr."""
    if (pid := os.fork()) == 0:
        sys.stdout, sys.stderr = (open(name, "w") for name in ("stdout", "stderr"))
        sys.path.insert(0, os.getcwd())
        warnings.simplefilter("default")
        code = 0
        try:
            main(list(arguments))
        except SystemExit as ended:
            print(ended.code, file=sys.stderr) if isinstance(ended.code, str) else None
            code = 1 if isinstance(ended.code, str) else ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    texts = [Path(name).read_text() for name in ("stdout", "stderr")]
    for name in ("stdout", "stderr"):
        Path(name).unlink()
    return SimpleNamespace(returncode=code, stdout=texts[0], stderr=texts[1])


def typed(*arguments):
    """Run ``python train.py`` as a user does; return the completed process."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.getcwd()}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
