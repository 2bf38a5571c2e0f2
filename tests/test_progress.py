"""Progress of a run: a bar on a terminal, plain lines in a file."""

import os
import pty
import re
import sys
import termios

import pytest

from pg_lightning import EpisodeDataModule, StopAtRewardThreshold
from pg_lightning.callbacks import ProgressLines
from pg_lightning.cli import main
from tests.helpers import plain, trainer
from tests.runs import LONG, folder  # noqa: F401

SHORT = [word for word in LONG if word not in LONG[:2]] + ["--data.num_envs", "2", "--trainer.max_steps", "3"]


def test_a_line_has_the_numbers_of_the_run(capsys):
    agent, lines = plain("CartPole-v1"), ProgressLines(every_seconds=0)
    callbacks = [StopAtRewardThreshold(threshold=1e9), lines]
    trainer(3, callbacks=callbacks, enable_progress_bar=True).fit(agent, EpisodeDataModule(num_envs=2))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Update ")]
    number = r" +([\d,.]+)"
    found = [
        re.fullmatch(f"Update{number}   env steps{number}   running reward{number}  {number} env steps/s", line)
        for line in printed
    ]
    assert [match[1] for match in found] == ["1", "2", "3"]
    steps = [int(match[2].replace(",", "")) for match in found]
    assert steps == sorted(steps) and steps[-1] == int(agent.num_env_steps)
    assert float(found[-1][3]) == pytest.approx(callbacks[0].running_reward.average().item(), abs=0.01)


def test_the_interval_is_kept(capsys):
    trainer(3, callbacks=[ProgressLines(every_seconds=1e9)], enable_progress_bar=True).fit(
        plain("CartPole-v1"), EpisodeDataModule(num_envs=2)
    )
    assert "Update" not in capsys.readouterr().out


def in_a_process(terminal):
    """What a forked run prints: on a terminal, or into a pipe."""
    pid, source = pty.fork() if terminal else pipe_fork()
    if pid == 0:
        if terminal:
            termios.tcsetwinsize(1, (24, 100))
        sys.stdout = os.fdopen(1, "w", closefd=False)
        try:
            main(["fit", *SHORT])
        finally:
            sys.stdout.flush()
            os._exit(0)
    text = b""
    try:
        while part := os.read(source, 4096):
            text += part
    except OSError:  # What Linux says at the end of a terminal.
        pass
    os.close(source)
    assert os.waitpid(pid, 0)[1] == 0
    return text.decode()


def pipe_fork():
    """Fork with both outputs in a pipe."""
    source, target = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(target, 1)
        os.dup2(target, 2)
    os.close(target)
    return pid, source


def test_F4_a_bar_on_a_terminal_and_no_fragments_elsewhere():
    assert "env_steps/s=" in in_a_process(terminal=True)
    text = in_a_process(terminal=False)
    assert "\r" not in text and "env_steps/s=" not in text
    assert text.splitlines()[-1] == "Ended: max_steps. Run folder: runs/CartPole-v1/version_1"
