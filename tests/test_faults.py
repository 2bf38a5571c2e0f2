"""Environments and policies that fail in a run: one line says whose fault it was, in which update and step."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from pg_lightning import Environment, EpisodeSampler, MLPPolicy
from pg_lightning.cli import main
from pg_lightning.sampling.actors import PolicyError, make_actor
from pg_lightning.sampling.watchdog import watchdog
from tests.envs import Endless
from tests.helpers import ROOT

BACKENDS = {
    "single": ["--data.num_envs", "1", "--model.baseline", "pg_lightning.NoBaseline"],
    "sync": ["--data.num_envs", "2", "--data.backend", "sync"],
    "async": ["--data.num_envs", "2", "--data.backend", "async"],
}
SHAPE = r"an observation of shape {} came, but the (observation )?space has (shape )?\(1,\)"
FAULTS = {
    ("raise", "single"): "step 3: .*RuntimeError: the simulator lost its licence",
    ("raise", "sync"): "step 3: .*RuntimeError: the simulator lost its licence",
    ("raise", "async"): "step 3: .*RuntimeError: the simulator lost its licence",
    ("hang", "sync"): "step 3: .*TimeoutError: nothing came back within 0.5 s",
    ("hang", "async"): "step 3: .*TimeoutError: nothing came back within 0.5 s",
    ("die", "async"): "step 3: .*the process of an environment died",
    ("exit", "sync"): r"step 3: .*sys.exit\(0\)",
    ("exit", "async"): r"step 3: .*sys.exit\(0\)",
    ("refuse", "single"): "step 3: .*ConnectionRefusedError: no licence server",
    ("shape", "sync"): "step 3: .*" + SHAPE.format(r"\(7,\)"),
    ("shape", "async"): "step 3: .*" + SHAPE.format(r"\(7,\)"),
    ("stretch", "sync"): "step 3: .*" + SHAPE.format(r"\(\)"),
    ("stretch", "async"): "step 3: .*" + SHAPE.format(r"\(\)"),
    ("dimension", "sync"): "step 3: .*" + SHAPE.format(r"\(1, 1\)"),
    ("dtype", "sync"): "step 3: .*U4",
    ("dtype", "async"): "step 3: .*U4",
}


@pytest.mark.parametrize(("how", "backend"), FAULTS)
def test_a_fault_is_named_and_the_checkpoint_stays(how, backend, tmp_path, capfd):
    options = ["--env.id", "tests.envs:Failing-v0", "--env.kwargs", f'{{"how":"{how}"}}', *BACKENDS[backend]]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--lines.every_n_episodes", "0"]
    folder = ["--trainer.default_root_dir", str(tmp_path), "--checkpoint.every_seconds", "0"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *options, *quiet, *folder, "--data.step_timeout", "0.5"])
    line = str(ended.value.code)
    assert re.match(f"error: Failing-v0, update 2, {FAULTS[how, backend]}", line) and "\n" not in line
    assert "environment failed" in line and "policy" not in line
    assert capfd.readouterr().err == ""
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert len((last.parents[1] / "metrics.csv").read_text().splitlines()) == 3


class Stumbles(nn.Module):
    """Raises in its third pass."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.linear, self.passes = nn.Linear(1, 2), 0

    def forward(self, observations):
        self.passes += 1
        if self.passes == 3:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return torch.distributions.Categorical(logits=self.linear(observations))


def sampler_of(environment, backend="sync", num_envs=2, episodes=2, **settings):
    return EpisodeSampler(environment.make_vector(num_envs, backend), episodes, **settings)


def actor_of(environment, policy=MLPPolicy):
    return make_actor(policy(environment.observation_space, environment.action_space), environment.action_space)


def test_a_fault_of_the_policy_is_not_blamed_on_the_environment():
    environment = Environment("tests.envs:Endless-v0")
    with pytest.raises(PolicyError, match=r"^Endless-v0, update 5, step 2: the policy failed: RuntimeError: mat1 and"):
        sampler_of(environment).sample(actor_of(environment, Stumbles), 5)


FAILING = Environment("tests.envs:Failing-v0", {"how": "raise"})


def test_a_process_that_died_between_updates_is_named():
    sampler, actor = sampler_of(FAILING, "async"), actor_of(FAILING)
    sampler.sample(actor, 0)
    sampler.envs.processes[0].kill()
    sampler.envs.processes[0].join()
    with pytest.raises(ValueError, match=r"Failing-v0, update 1, step 0: .*the process of an environment died"):
        sampler.sample(actor, 1)
    sampler.close()


@pytest.mark.parametrize("closing", ["raise", "hang"])
def test_an_environment_that_cannot_be_closed_changes_no_message(closing):
    environment = Environment("tests.envs:Failing-v0", {"how": "raise", "closing": closing})
    sampler = sampler_of(environment, num_envs=1, episodes=9, step_timeout=0.3)
    with pytest.raises(ValueError, match=r"step 13: .*RuntimeError: the simulator lost its licence"):
        sampler.sample(actor_of(FAILING), 0)


class Interrupts(Endless):
    """The user presses Ctrl-C in its third step."""

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return super().reset()

    def step(self, action):
        self.t += 1
        if self.t == 3:
            raise KeyboardInterrupt
        return super().step(action)


def test_ctrl_c_in_a_step_is_no_fault():
    environment = Environment(Interrupts)
    with pytest.raises(KeyboardInterrupt):
        sampler_of(environment).sample(actor_of(environment), 0)


def test_a_run_in_a_process_of_somebody_elses_keeps_its_signals():
    code = """
import multiprocessing, signal
from pg_lightning import Environment
def run():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    Environment().make_vector(2, "async").close()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
process = multiprocessing.Process(target=run)
process.start()
process.join()
raise SystemExit(process.exitcode)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def interrupted(number, folder, *options):
    """Kill a run with a process per environment, or interrupt all of them as a terminal does; return how it ended."""
    command = [sys.executable, str(ROOT / "train.py"), "fit", *BACKENDS["async"], "--stop.threshold", "1e9", *options]
    with subprocess.Popen(
        [*command, "--lines.every_n_episodes", "1", "--trainer.enable_progress_bar", "false"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "Run folder: " in process.stdout.readline()
        assert process.stdout.readline().startswith("Episode")
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err, workers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_run(number, tmp_path):
    code, out, err, workers = interrupted(number, tmp_path)
    assert len(workers) == 2
    if number == signal.SIGINT:
        assert code == 128 + number and "Go on with: python train.py fit" in out and err == ""
        assert list(tmp_path.rglob("last.ckpt"))
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_the_watchdog_lets_progress_be():
    handler, steps = signal.getsignal(signal.SIGALRM), 0
    with watchdog(lambda: steps, 0.4):
        for _ in range(4):
            time.sleep(0.25)
            steps += 1
    assert signal.getsignal(signal.SIGALRM) is handler and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_watchdog_ends_what_stands_still():
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"), watchdog(lambda: 0, 0.1):
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) is handler and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_watchdog_leaves_a_timer_to_whom_it_belongs():
    rung = []
    previous = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with watchdog(lambda: 0, 0.05):
            time.sleep(0.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert rung == [True]


def test_without_a_limit_and_beside_the_main_thread_there_is_no_watchdog():
    with watchdog(lambda: 0, None):
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    seen = []

    def look():
        with watchdog(lambda: 0, 0.1):
            seen.append(signal.getitimer(signal.ITIMER_REAL))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(0, 0)]
