"""Kills, full disks and hostile checkpoints: what is good stays, and nothing foreign runs."""

import ctypes
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pg_lightning import Reinforce
from pg_lightning.cli import main
from tests.helpers import ROOT

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--stop.threshold", "1e9"]
FEW = [*QUIET, "--data.num_envs", "2", "--checkpoint.every_seconds", "0"]
LAST = Path("runs/CartPole-v1/version_0/checkpoints/last.ckpt")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_killed_runs_end_like_the_uninterrupted_one(tmp_path):
    command = [sys.executable, "-m", "tests.kills", "--kills", "6", "--settings", "2", "--updates", "30", "--json"]
    done = subprocess.run([*command, "--tmpdir", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tallies = json.loads(done.stdout)
    assert sum(sum(tally["kills"].values()) for tally in tallies) == 6
    assert sum(tally["exact"] for tally in tallies) == 6
    assert all(tally["unreadable"] == tally["too_many_lost"] == 0 for tally in tallies)


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def hostile(kind):
    """A checkpoint that is whole but for a pickle, or a class to be called, that would make a file."""
    main(["fit", *FEW, "--trainer.max_steps", "1"])
    checkpoint = torch.load(LAST, weights_only=True)
    path = Path("hostile.ckpt").absolute()
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    else:
        torch.save(checkpoint | {"callbacks": Evil()}, path)
    return path


@pytest.mark.parametrize("kind", ["pickle", "checkpoint"])
def test_a_malicious_checkpoint_executes_nothing(kind):
    path = hostile(kind)
    for command in ("fit", "test"):
        with pytest.raises(SystemExit) as ended:
            main([command, *QUIET, "--ckpt_path", str(path)])
        assert re.fullmatch(r"error: .*hostile.ckpt cannot be read.*", ended.value.code)
    with pytest.raises(ValueError, match="cannot be read"):
        Reinforce.load_from_checkpoint(path)
    assert not Path("executed").exists()
    (pickle.loads(path.read_bytes()) if kind == "pickle" else torch.load(path, weights_only=False))
    assert Path("executed").exists(), "it would not have done anything anyway"


@pytest.mark.parametrize("name", ["policy", "returns", "baseline", "optimizer", "lr_scheduler"])
def test_a_checkpoint_cannot_name_a_function_to_call(name):
    main(["fit", *FEW, "--trainer.max_steps", "1"])
    checkpoint = torch.load(LAST, weights_only=True)
    command = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "executed"]}}
    checkpoint["hyper_parameters"][name] = command
    torch.save(checkpoint, "hostile.ckpt")
    with pytest.raises((ValueError, TypeError)):
        Reinforce.load_from_checkpoint("hostile.ckpt").configure_optimizers()
    with pytest.raises(SystemExit) as ended:
        main(["fit", *QUIET, "--ckpt_path", "hostile.ckpt", "--trainer.max_steps", "2"])
    assert re.fullmatch("error: .*", ended.value.code)
    assert not Path("executed").exists()


def limited(arguments, limit):
    """Run in a process whose files may be no larger: like a disk that is full."""

    def limit_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, ROOT / "train.py", "fit", *arguments]
    # Coverage would fail to write its own file, too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=limit_files, env=environment)


def test_a_full_disk_leaves_the_last_checkpoint():
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    before = LAST.read_bytes()
    done = limited(["--ckpt_path", "last", "--trainer.max_steps", "9"], 10_000)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert LAST.read_bytes() == before
    assert not list(LAST.parent.glob("*.tmp"))
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "3"])
    assert torch.load(LAST, weights_only=True)["global_step"] == 3


def without_root_rights():
    """Have the next program obey the rights of files even as root: drop CAP_DAC_OVERRIDE (1) from its bounds."""
    if os.geteuid() == 0:
        libc, drop_from_bounds = ctypes.CDLL(None, use_errno=True), 24
        assert libc.prctl(drop_from_bounds, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize("resumed", [True, False])
def test_a_read_only_folder(resumed):
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    before = {path: path.read_bytes() for path in LAST.parents[1].rglob("*") if path.is_file()}
    folders = [LAST.parent, LAST.parents[1], LAST.parents[2]]
    options = ["--ckpt_path", "last", "--trainer.max_steps", "3"] if resumed else FEW
    for folder in folders:
        folder.chmod(0o500)
    try:
        done = subprocess.run(
            [sys.executable, ROOT / "train.py", "fit", *options],
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=without_root_rights,
        )
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*Permission denied.*\n", done.stderr), done.stderr
    assert {path: path.read_bytes() for path in LAST.parents[1].rglob("*") if path.is_file()} == before
    assert len(list(LAST.parents[2].iterdir())) == 1
