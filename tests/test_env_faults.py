"""Environments that fail: one line with the reason, from every backend."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from pg_lightning import EpisodeDataModule, Reinforce
from pg_lightning.envs import BACKENDS, Environment, EnvironmentFault, environment_errors
from pg_lightning.envs.vector import _WorkerEnv
from tests.helpers import ROOT, trainer
from tests.scripted import NESTED, VECTOR, Panic, Scripted, Unpicklable, raising


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPoll-v1", "NameNotFound: Environment `CartPoll` doesn't exist. Did you mean: `CartPole`"),
        ("CartPole-v9", "VersionNotFound: .*v9.*"),
        ("no.such.module:CartPole-v1", "ModuleNotFoundError: No module named 'no'"),
    ],
)
def test_an_unknown_environment(env_id, message):
    environment = Environment(env_id)  # Nothing is imported yet.
    for ask in (environment.make, lambda: environment.reward_threshold, lambda: environment.make_vector(2)):
        with pytest.raises(ValueError, match=f"^environment '{re.escape(env_id)}': {message}"):
            ask()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def broken(:", r"SyntaxError: invalid syntax \(\w+\.py, line 1\)"),
        ("raise KeyError('licence')", "KeyError: 'licence'"),
        ("import sys; sys.exit(0)", r"the environment called sys\.exit\(0\)"),
        ("class Stop(BaseException): pass\nraise Stop('panic')", "Stop: panic"),
    ],
)
def test_a_module_that_cannot_be_imported(source, message, tmp_path, monkeypatch):
    name = f"bad_module_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentFault, match=f"^environment '{name}:X-v0': {message}$"):
        Environment(f"{name}:X-v0").make()


def failing(error):
    class FailingInit(gym.Env):
        def __init__(self, size=1):
            raise error

    return FailingInit


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no licence"), "RuntimeError: no licence"),
        (AssertionError(), "AssertionError"),
        (OSError("two\nlines"), "OSError: two lines"),
        (SystemExit(0), r"the environment called sys\.exit\(0\)"),
        (SystemExit(), r"the environment called sys\.exit\(\)"),
        (Panic("index out of bounds"), "Panic: index out of bounds"),
    ],
)
@pytest.mark.parametrize("backend", sorted(BACKENDS.keys() - {"envpool"}))
def test_an_environment_that_cannot_be_made(error, message, backend):
    with pytest.raises(
        EnvironmentFault, match=f"^environment 'FailingInit' with kwargs {{'size': 2}}: {message}$"
    ) as e:
        Environment(failing(error), {"size": 2}).make_vector(2, backend)
    assert e.value.__cause__ is error


def test_ctrl_c_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        Environment(failing(KeyboardInterrupt())).make()


def without(space):
    return type("Spaceless", (gym.Env,), {space: VECTOR})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Environment(without("action_space")), "'Spaceless': it has no observation_space"),
        (Environment(without("observation_space")), "'Spaceless': it has no action_space"),
        (Environment(dict), "'dict': it made dict instead of a gymnasium.Env"),
        (Environment(Scripted, {"gravitas": 1}), "'Scripted' with kwargs {'gravitas': 1}: TypeError: .*gravitas"),
        (Environment(kwargs={"gravitas": 1}), "'CartPole-v1' with kwargs {'gravitas': 1}: TypeError: .*gravitas"),
        (Environment(wrappers=["no.such.Wrapper"]), "'CartPole-v1': wrapper no.such.Wrapper: ModuleNotFoundError"),
        (Environment(wrappers=["gymnasium.wrappers.Nope"]), "wrapper gymnasium.wrappers.Nope: AttributeError: .*Nope"),
        (Environment(wrappers=[lambda env: None]), "wrapper <lambda>: it made NoneType instead of a gymnasium.Env"),
        (Environment(wrappers=["gymnasium.wrappers.TimeLimit"]), "TimeLimit: TypeError: .*max_episode_steps"),
    ],
)
def test_what_is_no_environment(environment, message):
    with pytest.raises(EnvironmentFault, match=message):
        environment.make()


def test_errors_of_a_run_name_the_moment():
    step = 3
    with (
        pytest.raises(EnvironmentFault, match=r"^Maze, step 4: KeyError: 'door'$"),
        environment_errors(lambda: f"Maze, step {step}"),
    ):
        step += 1
        raise KeyError("door")
    with pytest.raises(EnvironmentFault, match=r"^Maze: a reward of"), environment_errors("Maze"):
        raise EnvironmentFault("a reward of nothing")


FAULTS = {
    "shape": (
        {"shown": np.zeros(7, np.float32)},
        r"an observation of shape \(7,\) came, but the space has shape \(2, 2\)",
    ),
    "stretch": ({"shown": np.float32(0)}, r"an observation of shape \(\) came, but the space has shape \(2, 2\)"),
    "dimension": ({"shown": np.zeros((1, 2, 2))}, r"an observation of shape \(1, 2, 2\) came"),
    "text": ({"shown": np.full((2, 2), "left")}, r"an observation of <U4 and shape \(2, 2\) came, but .* float32 and"),
    "nothing": ({"space": spaces.Discrete(2), "shown": [None]}, r"an observation of shape \(1,\) came"),
    "object": ({"shown": np.full((2, 2), None)}, r"an observation of object and shape \(2, 2\) came"),
    "complex": ({"shown": np.zeros((2, 2), complex)}, r"an observation of complex128 "),
    "ragged": ({"shown": [[1, 2], [3]]}, "an observation came that is no array: .*inhomogeneous"),
    "cut": ({"space": spaces.Discrete(9), "shown": 2.5}, r"an observation of float64 and shape \(\) came, but .*int64"),
    "wrap": (
        {"space": spaces.Box(0, 255, (2,), np.uint8), "shown": np.array([0, 256])},
        "an observation of int64 .*uint8",
    ),
    "narrow": ({"space": spaces.Box(-9, 9, (1,), np.int8), "shown": np.array([300])}, "an observation of int64 .*int8"),
    "key": ({"space": NESTED, "shown": {"a": 1}}, r"an observation with \['a'\] came, but the space has \['a', 'b'\]"),
    "dict": ({"space": NESTED, "shown": 3}, r"an observation with int came, but the space has \['a', 'b'\]"),
    "parts": (
        {"space": NESTED, "shown": {"a": 1, "b": (1,)}},
        r"an observation \(entry \['b'\]\) with 1 parts came, but the space has 2",
    ),
    "entry": (
        {"space": NESTED, "shown": {"a": 1, "b": (np.zeros(2, np.int8), np.zeros(3))}},
        r"an observation \(entry \['b'\]\[1\]\) of shape \(3,\) came, but the space has shape \(2, 2\)",
    ),
    "raise": ({"on_reset": raising(RuntimeError("no power"))}, "RuntimeError: no power"),
    "exit": ({"on_reset": raising(SystemExit(0))}, r"the environment called sys\.exit\(0\)"),
    "panic": ({"on_reset": raising(Panic("bounds"))}, "Panic: bounds"),
    "unpicklable": ({"on_reset": raising(Unpicklable(1, 2))}, "Unpicklable: 1 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("backend", "num_envs"), [("sync", 1), ("sync", 2), ("async", 2)])
def test_a_fault_in_reset(fault, backend, num_envs, capfd):
    arguments, message = FAULTS[fault]
    envs = Environment(Scripted, arguments).make_vector(num_envs, backend)
    with pytest.raises(EnvironmentFault, match=f"^Scripted: {message}"), environment_errors("Scripted"):
        envs.reset(seed=0)
    envs.close()
    assert capfd.readouterr() == ("", "")


STEP_FAULTS = {
    "reward": ({"reward": np.zeros(3)}, r"a reward of float64 and shape \(3,\) came, but a reward is one number"),
    "reward_none": ({"reward": None}, r"a reward of object and shape \(\) came, but a reward is one number"),
    "reward_text": ({"reward": "1"}, r"a reward of <U1 and shape \(\) came"),
    "raise": ({"on_step": raising(RuntimeError("no power"))}, "RuntimeError: no power"),
    "exit": ({"on_step": raising(SystemExit(0))}, r"the environment called sys\.exit\(0\)"),
    "refuse": ({"on_step": raising(ConnectionRefusedError("no server"))}, "ConnectionRefusedError: no server"),
    "unpicklable": ({"on_step": raising(Unpicklable(1, 2))}, "Unpicklable: 1 2"),
}


@pytest.mark.parametrize("fault", STEP_FAULTS)
@pytest.mark.parametrize(("backend", "num_envs"), [("sync", 1), ("sync", 2), ("async", 2)])
def test_a_fault_in_step(fault, backend, num_envs, capfd):
    arguments, message = STEP_FAULTS[fault]
    envs = Environment(Scripted, arguments).make_vector(num_envs, backend)
    envs.reset(seed=0)
    with pytest.raises(EnvironmentFault, match=f"^Scripted: {message}"), environment_errors("Scripted"):
        envs.step(np.zeros(num_envs, int))
    envs.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (spaces.Discrete(3), -1),
        (spaces.Discrete(3), 7),
        (spaces.Discrete(3, start=2), 1),
        (
            spaces.Dict(one=spaces.MultiDiscrete([2, 3]), other=VECTOR),
            {"one": np.array([0, -1]), "other": np.zeros((2, 2), np.float32)},
        ),
    ],
)
def test_an_index_that_the_observation_space_does_not_have(space, shown):
    """Numbers below 0 would otherwise count from the end of the one-hot features."""
    agent = Reinforce(Environment(partial(Scripted, space, shown), max_episode_steps=2))
    message = "update 0.*: the environment failed: .*an index that its observation space does not have"
    with pytest.raises(ValueError, match=message):
        trainer(1).fit(agent, EpisodeDataModule(num_envs=2))


def test_an_environment_that_fails_in_its_worker_only():
    main = os.getpid()

    def licensed():
        if os.getpid() != main:
            raise RuntimeError("one licence only")
        return Scripted()

    envs = Environment(licensed).make_vector(2, "async")
    with pytest.raises(EnvironmentFault, match=r"^environment 'licensed': RuntimeError: one licence only$") as error:
        envs.reset(seed=0)
    assert "in licensed" in str(error.value.__cause__)  # The traceback of the worker.
    envs.close()


def test_what_a_worker_sends():
    """The same in this process: faults travel as infos, whose text any pipe can carry."""
    worker = _WorkerEnv(Environment(Scripted, {"reward": [0.5]}), os.getpid())
    worker.close()  # Nothing has been made yet.
    assert worker.reset(seed=0)[1] == {} and worker.step(np.int64(1))[1:] == (0.5, False, False, {})
    worker = _WorkerEnv(Environment(Scripted, {"on_step": raising(Unpicklable(1, 2))}), os.getpid())
    worker.reset(seed=0)
    observation, reward, terminated, truncated, info = worker.step(1)
    assert VECTOR.contains(observation) and (reward, terminated, truncated) == (0.0, False, False)
    assert info["fault"] == "Unpicklable: 1 2" and "raise error" in info["traceback"]
    worker = _WorkerEnv(Environment(Scripted, {"on_reset": raising(SystemExit(0))}), os.getpid())
    observation, info = worker.reset(seed=0)
    assert VECTOR.contains(observation) and info["fault"] == "the environment called sys.exit(0)"


def test_a_worker_that_dies():
    envs = Environment(Scripted, {"on_step": lambda: os.kill(os.getpid(), signal.SIGKILL)}).make_vector(2, "async")
    envs.reset()
    with pytest.raises(EnvironmentFault, match=r"the process of an environment died: .*0 \(exit code -9\)"):
        envs.step(np.zeros(2, int))
    envs.close()
    assert not any(process.is_alive() for process in envs.processes)


def test_a_worker_that_owes_an_answer_is_ended():
    previous = signal.signal(signal.SIGTERM, lambda *_: None)  # A worker that kept this handler would not end.
    try:
        envs = Environment(Scripted, {"on_step": signal.pause}).make_vector(2, "async")
    finally:
        signal.signal(signal.SIGTERM, previous)
    envs.reset()
    envs.step_async(np.zeros(2, int))
    envs.close()
    assert [process.exitcode for process in envs.processes] == [-signal.SIGTERM] * 2


def test_discrete_actions_of_workers_are_python_integers():
    def only_integers():
        env = Scripted()
        env.on_step = lambda: type(env.received[-1]) is int or raising(TypeError(type(env.received[-1])))()
        return env

    envs = Environment(only_integers).make_vector(2, "async")
    envs.reset()
    envs.step(np.zeros(2, int))
    envs.close()


def test_workers_end_with_the_process_that_made_them():
    code = """
import os, signal, sys
from pg_lightning.envs import Environment
envs = Environment().make_vector(2, "async")
envs.reset()
print(*[process.pid for process in envs.processes], flush=True)
os.killpg(0, signal.SIGINT) if sys.argv[1] == "interrupt" else os.kill(os.getpid(), signal.SIGKILL)
envs.reset()
"""
    for how in ("interrupt", "kill"):
        command = [sys.executable, "-c", code, how]
        run = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True, start_new_session=True)
        workers = run.stdout.split()
        assert len(workers) == 2
        assert run.stderr.count("Traceback") == (how == "interrupt"), run.stderr  # Workers print none.
        for worker in workers:
            for _ in range(100):
                if not os.path.exists(f"/proc/{worker}"):
                    break
                time.sleep(0.05)
            assert not os.path.exists(f"/proc/{worker}")
