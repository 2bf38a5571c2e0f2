"""EnvPool, where it is installed: whole episodes, a seed that decides everything, and Gymnasium's spaces."""

import inspect
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import MountainCarEnv
from gymnasium.envs.registration import WrapperSpec
from gymnasium.vector import AutoresetMode

from pg_lightning import EpisodeDataModule, Reinforce
from pg_lightning.cli import main
from pg_lightning.envs import Environment, EnvironmentFault
from tests.helpers import trainer
from tests.runs import QUIET, checkpoint, content, error, folder, rows  # noqa: F401
from tests.test_resume import assert_same

with warnings.catch_warnings(action="ignore"), suppress(ImportError):
    import Box2D  # noqa: F401  # Its import would not survive pytest, which makes errors of warnings.


def test_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"backend envpool needs EnvPool: pip install 'pg_lightning\[envpool\]'"
    ):
        Environment().make_vector(2, "envpool")


@pytest.mark.parametrize(
    "environment", [Environment(lambda: gym.make("CartPole-v1")), Environment(wrappers=[lambda env: env])]
)
def test_callables_and_wrappers(environment):
    with pytest.raises(ValueError, match=r"EnvPool takes neither callables nor wrappers.*use the backend sync"):
        environment.make_vector(2, "envpool")


def rollout(envs, seed, steps=60):
    """Everything that comes back from a reset and some steps, with actions that the seed decides."""
    rng = np.random.default_rng(0)
    rows = [envs.reset(seed=seed)[0].copy()]
    for _ in range(steps):
        space = envs.single_action_space
        shape = (envs.num_envs, *space.shape)
        actions = rng.integers(0, space.n, shape) if space.shape == () else rng.uniform(space.low, space.high, shape)
        rows += [part.copy() for part in envs.step(actions.astype(space.dtype))[:4]]
        if (ended := rows[-2] | rows[-1]).any():
            envs.reset(options={"reset_mask": ended})
    return rows


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_a_seed_decides_everything(env_id):
    pytest.importorskip("envpool")
    envs = Environment(env_id).make_vector(3, "envpool")
    first, other = rollout(envs, 4), rollout(envs, 5)
    assert envs.backend == "envpool" and envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    for again in (rollout(envs, 4), rollout(Environment(env_id).make_vector(3, "envpool"), 4)):
        assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
    space = envs.single_observation_space
    assert first[0].shape == (3, *space.shape) and first[0].dtype == space.dtype
    assert space.contains(first[0][0] if space.shape else first[0].item(0))
    envs.close()


def test_cartpole_moves_as_it_does_in_gymnasium():
    """Positions follow velocities by Euler's rule, up to the final observation; none crosses into the next episode."""
    pytest.importorskip("envpool")
    envs, rng, endings = Environment().make_vector(4, "envpool"), np.random.default_rng(0), 0
    before = envs.reset(seed=0)[0].copy()
    for _ in range(200):
        observations, rewards, terminated, truncated, _ = envs.step(rng.integers(0, 2, 4))
        np.testing.assert_allclose(observations[:, 0], before[:, 0] + 0.02 * before[:, 1], rtol=1e-5, atol=1e-7)
        out = (np.abs(observations[:, 0]) > 2.4) | (np.abs(observations[:, 2]) > 0.2095)
        assert terminated.tolist() == out.tolist()  # The final observation is the one out of bounds.
        assert rewards.tolist() == [1] * 4 and not truncated.any()
        endings += terminated.sum()
        before = observations.copy()
        if out.any():
            before = envs.reset(options={"reset_mask": out})[0].copy()
            assert (np.abs(before[out]) <= 0.05).all()  # First observations; the others go on where they were.
    assert endings > 10


def test_an_environment_that_has_ended_waits_for_its_reset():
    pytest.importorskip("envpool")
    envs = Environment("Pendulum-v1", max_episode_steps=5).make_vector(3, "envpool")
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(np.zeros((3, 1), np.float32))
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(2):
        observations, rewards, _, truncated, _ = envs.step(np.zeros((3, 1), np.float32))
    assert truncated.tolist() == [True, False, True] and (rewards < 0).all()
    last = observations.copy()
    for middle_ends in (False, False, True):
        observations, rewards, _, truncated, _ = envs.step(np.zeros((3, 1), np.float32))
        assert (observations == last).all(1).tolist() == [True, False, True] and (rewards[[0, 2]] == 0).all()
        assert truncated.tolist() == [True, middle_ends, True]


@pytest.mark.parametrize(("limit", "length"), [(20, 20), (None, 200)])
def test_a_time_limit_truncates(limit, length):
    pytest.importorskip("envpool")
    envs = Environment("Pendulum-v1", max_episode_steps=limit).make_vector(2, "envpool")
    truncated = np.array(rollout(envs, 0, steps=length)[4::4])
    assert truncated[-1].all() and not truncated[:-1].any()


def test_without_a_time_limit_nothing_is_cut(monkeypatch):
    """Not even by EnvPool's own limit, which is 200 here."""
    pytest.importorskip("envpool")
    monkeypatch.setitem(gym.registry, "Pendulum-v1", replace(gym.spec("Pendulum-v1"), max_episode_steps=None))
    truncated = np.array(rollout(Environment("Pendulum-v1").make_vector(2, "envpool"), 0, steps=300)[4::4])
    assert not truncated.any()


def test_an_environment_that_would_ignore_its_time_limit():
    pytest.importorskip("envpool")
    assert Environment("CliffWalking-v1").make_vector(1, "envpool").reset(seed=0)[0].tolist() == [36]
    with pytest.raises(ValueError, match=r"EnvPool's CliffWalking-v1 takes no time limit: use the backend sync"):
        Environment("CliffWalking-v1", max_episode_steps=9).make_vector(1, "envpool")


def test_actions_of_float32_reach_environments_of_float64():
    pytest.importorskip("envpool")
    pytest.importorskip("mujoco")
    envs = Environment("Hopper-v5").make_vector(2, "envpool")
    rows = rollout(envs, 0, steps=3)
    assert rows[1].dtype == np.float64 and not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("tests.envs:Counting-v0", "EnvPool has no Counting-v0: use the backend sync or async"),
        ("Blackjack-v1", "EnvPool's Blackjack-v1 has other spaces than Gymnasium's: use the backend sync or async"),
    ],
)
def test_what_envpool_cannot_serve(env_id, message):
    pytest.importorskip("envpool")
    with pytest.raises(ValueError, match=message):
        Environment(env_id).make_vector(2, "envpool")


def test_arguments_that_it_does_not_take():
    pytest.importorskip("envpool")
    with pytest.raises(EnvironmentFault, match=r"^EnvPool's CartPole-v1 with .*: TypeError: .*sutton_barto_reward"):
        Environment(kwargs={"sutton_barto_reward": True}).make_vector(2, "envpool")


OTHER = "tests.envs:Counting-v0"


@pytest.mark.parametrize(
    ("environment", "num_envs", "backend"),
    [
        (Environment("Acrobot-v1"), 2, "envpool"),
        (Environment("Acrobot-v1", max_episode_steps=9), 2, "envpool"),
        (Environment("CliffWalking-v1", {"is_slippery": True}), 2, "envpool"),
        (Environment("CartPole-v1"), 2, "native"),
        (Environment("Acrobot-v1"), 1, "sync"),
        (Environment("Acrobot-v1", wrappers=["tests.scripted.Halved"]), 2, "sync"),
        (Environment(lambda: gym.make("Acrobot-v1")), 2, "sync"),
        (Environment("Blackjack-v1"), 2, "sync"),
        (Environment("Taxi-v4"), 2, "sync"),
        (Environment("CliffWalking-v1", max_episode_steps=9), 2, "sync"),
        (Environment("FrozenLake-v1", {"is_slippery": False}), 2, "sync"),
        (Environment(OTHER), 2, "sync"),
    ],
)
def test_what_auto_takes(environment, num_envs, backend):
    pytest.importorskip("envpool")
    envs = environment.make_vector(num_envs)
    assert envs.backend == backend
    if backend == "envpool":
        assert envs.spec.id == environment.id
    envs.close()


@pytest.mark.parametrize("gone", ["not installed", "broken"])
def test_auto_without_it(gone, monkeypatch, tmp_path):
    if gone == "broken":
        (tmp_path / "envpool.py").write_text("raise ImportError('made for another Python')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "envpool", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "envpool", None)
    assert Environment("Acrobot-v1").make_vector(2).backend == "sync"


@pytest.mark.parametrize("env_id", ["Humanoid-v4", "HumanoidStandup-v4", "CarRacing-v3"])
def test_auto_leaves_what_differs(env_id):
    """EnvPool has these with the same spaces, but other observations."""
    pytest.importorskip("envpool")
    pytest.importorskip("mujoco" if "Human" in env_id else "pygame")
    assert Environment(env_id).make_vector(2, "envpool").backend == "envpool"
    assert Environment(env_id).make_vector(2).backend == "sync"


def test_auto_leaves_what_somebody_else_registered(monkeypatch):
    """Under an id that EnvPool has, too: nobody knows that these are the same."""
    pytest.importorskip("envpool")
    own = replace(gym.spec("MountainCar-v0"), entry_point="tests.test_envpool:Downhill")
    monkeypatch.setitem(gym.registry, "MountainCar-v0", own)
    assert Environment("MountainCar-v0").make_vector(2).backend == "sync"
    wrapped = WrapperSpec("Halved", "tests.scripted:Halved", {})
    wrapped = replace(gym.spec("Acrobot-v1"), additional_wrappers=(wrapped,))
    monkeypatch.setitem(gym.registry, "Acrobot-v1", wrapped)
    assert Environment("Acrobot-v1").make_vector(2).backend == "sync"


class Downhill(MountainCarEnv):
    """MountainCar with an engine as strong as one likes."""


RUN = Path("runs/Acrobot-v1/version_0")
SHORT = [*QUIET, "--stop.threshold", "1e9", "--env.id", "Acrobot-v1", "--env.max_episode_steps", "20"]
SHORT += ["--data.num_envs", "3", "--data.eval_episodes", "4", "--trainer.max_steps", "4"]
VALIDATED = ["--trainer.limit_val_batches", "1.0", "--trainer.val_check_interval", "2"]
LINE = "EnvPool steps the environments (backend auto); the backend sync takes Gymnasium's own\n"


def test_a_run_on_it_is_said_recorded_and_resumed_exactly(capsys):
    pytest.importorskip("envpool")
    main(["fit", *SHORT, *VALIDATED, "--trainer.max_steps", "9"])
    assert capsys.readouterr().out.count(LINE) == 1
    main(["fit", *SHORT, *VALIDATED, "--trainer.max_steps", "3"])
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "6"])
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "9"])
    whole, resumed = checkpoint(RUN), checkpoint(RUN.with_name("version_1"))
    assert whole["EpisodeDataModule"] == {"backends": {"fit": "envpool", "evaluate": "envpool"}}
    assert_same(whole, resumed)
    for name in ("metrics.csv", "episodes.csv"):
        assert (RUN / name).read_text() == (RUN.with_name("version_1") / name).read_text()


def test_a_resume_without_it_is_refused(monkeypatch, capsys):
    pytest.importorskip("envpool")
    main(["fit", *SHORT, *VALIDATED])
    before = content(RUN)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "envpool", None)
        line = error("fit", "--ckpt_path", "last", "--trainer.max_steps", "6")
        assert line.startswith(
            "error: this run was sampled on the backend envpool, which is not available here: backend "
            "envpool needs EnvPool: pip install 'pg_lightning[envpool]'; the backend sync would go on, "
            "but with other episodes"
        )
        assert content(RUN) == before
        main(["test", "--ckpt_path", "last", *QUIET[:4]])  # Playing needs none.
        main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "6", "--data.backend", "sync"])
    assert checkpoint(RUN)["EpisodeDataModule"] == {"backends": {"fit": "sync", "evaluate": "sync"}}
    assert [row["step"] for row in rows(RUN, "metrics.csv") if row["loss"]] == [*"123456"]


def test_a_resumed_run_stays_with_gymnasium(monkeypatch, capsys):
    """Where EnvPool was installed in the meantime."""
    pytest.importorskip("envpool")
    main(["fit", *SHORT, *VALIDATED, "--data.backend", "sync", "--trainer.max_steps", "8"])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "envpool", None)
        main(["fit", *SHORT, *VALIDATED])
    capsys.readouterr()
    there = RUN.with_name("version_1")
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "8"])
    assert LINE not in capsys.readouterr().out
    assert checkpoint(there)["EpisodeDataModule"] == {"backends": {"fit": "sync", "evaluate": "sync"}}
    assert (RUN / "metrics.csv").read_text() == (there / "metrics.csv").read_text()


def test_a_run_from_python(tmp_path, monkeypatch):
    pytest.importorskip("envpool")
    agent, data = Reinforce("Acrobot-v1"), EpisodeDataModule(num_envs=2, seed=3, eval_max_steps=None)
    fitted = trainer(2)
    fitted.fit(agent, data)
    fitted.save_checkpoint("python.ckpt")
    saved = torch.load("python.ckpt", weights_only=True)
    settings = inspect.signature(EpisodeDataModule).parameters
    assert saved["datamodule_hyper_parameters"].keys() == settings.keys() - {"env"}
    assert dict(data.hparams, backend="sync") == {
        **{name: one.default for name, one in settings.items() if name != "env"},
        **{"num_envs": 2, "seed": 3, "eval_max_steps": None, "backend": "sync"},
    }
    assert saved["EpisodeDataModule"] == {"backends": {"fit": "envpool"}}
    monkeypatch.setitem(sys.modules, "envpool", None)
    for _ in range(2):  # Another run with the same objects chooses anew.
        with pytest.raises(
            ValueError, match="this run was sampled on the backend envpool, which is not available here"
        ):
            trainer(3).fit(agent, data, ckpt_path="python.ckpt", weights_only=True)
        trainer(3).fit(Reinforce("Acrobot-v1", policy=agent.hparams["policy"]), data)
        assert data.state_dict() == {"backends": {"fit": "sync"}}
    line = error("fit", "--ckpt_path", "python.ckpt", *QUIET)
    assert line.startswith("error: this run was sampled on the backend envpool")
