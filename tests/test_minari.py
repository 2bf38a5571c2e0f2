"""Episodes of ``predict`` as a Minari data set, read by Minari itself."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from pg_lightning import EpisodeDataModule, MLPPolicy
from pg_lightning.callbacks.predictions import PredictionWriter, write_minari
from pg_lightning.cli import main
from pg_lightning.sampling.playing import play
from tests.envs import Spaces
from tests.helpers import plain, trainer
from tests.runs import FEW, RUN, error, folder  # noqa: F401
from tests.test_masks import Masked  # noqa: F401 - registers Masked-v0

PREDICT = ["predict", "--ckpt_path", "last", "--trainer.enable_progress_bar", "false", "--data.eval_episodes", "3"]


@pytest.fixture
def minari():
    pytest.importorskip("h5py")
    return pytest.importorskip("minari")


def read(minari, path):
    """The data set in a folder, and its episodes."""
    data = minari.MinariDataset(str(path / "data"))
    return data, [*data]


def as_written(minari, agent, episodes, path=Path("data-v0")):
    write_minari(path, episodes, agent.env, agent.policy.to_env)
    return read(minari, path)


def flat(tree):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, tuple) else [("", tree)]
    return [leaf for _, part in items for leaf in (flat(part) if isinstance(part, dict | tuple) else [part])]


def at(tree, t):
    if isinstance(tree, dict):
        return {key: at(part, t) for key, part in tree.items()}
    return tuple(at(part, t) for part in tree) if isinstance(tree, tuple) else tree[t]


def test_the_command_writes_what_minari_loads(minari, folder, capsys, monkeypatch):  # noqa: F811
    main(["fit", *FEW, "--trainer.max_steps", "1"])
    main(PREDICT)
    arrays = np.load(RUN / "episodes.npz")
    capsys.readouterr()
    for _ in range(2):  # The second one replaces the first.
        main([*PREDICT, "--format", "minari"])
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.endswith(f"minari.MinariDataset('{RUN}/minari/episodes-v0/data')")
    assert [path.name for path in (RUN / "minari").iterdir()] == ["episodes-v0"]
    data, found = read(minari, RUN / "minari" / "episodes-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(RUN / "minari"))
    assert minari.load_dataset("episodes-v0").total_steps == data.total_steps == arrays["lengths"].sum()
    assert len(found) == data.total_episodes == 3
    for name in ("actions", "rewards"):
        np.testing.assert_array_equal(np.concatenate([getattr(one, name) for one in found]), arrays[name])
    np.testing.assert_array_equal(np.concatenate([one.observations[:-1] for one in found]), arrays["observations"])
    np.testing.assert_array_equal([one.observations[-1] for one in found], arrays["final_observations"])
    np.testing.assert_array_equal([one.terminations[-1] for one in found], arrays["terminated"])
    np.testing.assert_array_equal([one.truncations[-1] for one in found], arrays["truncated"])
    assert not any(one.terminations[:-1].any() or one.truncations[:-1].any() for one in found)
    env = data.recover_environment()
    assert env.spec.id == "CartPole-v1" and env.spec.max_episode_steps == 10
    assert data.observation_space == env.observation_space and data.action_space == env.action_space


RICH = Dict(
    text=Text(4, charset="abc"),
    rest=Tuple([Discrete(5, start=2), MultiDiscrete([3, 4]), MultiBinary(2)]),
    image=Box(0, 255, (40, 40, 3), np.uint8),
    number=Box(-1, 1, (2,), np.float64),
)
ACTIONS = {
    "start": Discrete(3, start=5),
    "multidiscrete": MultiDiscrete([2, 4], start=[0, 7]),
    "bounds": Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32)),
    "integers": Box(-3, 9, (2, 2), np.int16),
    "nested": Dict(move=Box(-1, 1, (2,)), tools=Tuple((Discrete(3, start=4), MultiBinary(2)))),
}


class Recorded(Spaces):
    """Keeps what it emits and takes, in episodes of two timesteps."""

    log: list = []

    def _emit(self):
        observation = self.observation_space.sample()
        self.log.append(("observation", observation))
        return observation

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        self.t = 0
        return self._emit(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        self.log.append(("action", action))
        return self._emit(), 0.5, self.t == 2, False, {}


@pytest.mark.parametrize("actions", ACTIONS)
def test_observations_and_actions_are_those_of_the_environment(minari, folder, actions, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Recorded, "log", [])
    agent = plain(lambda: Recorded(RICH, ACTIONS[actions]), MLPPolicy)
    Recorded.log.clear()
    episodes = play(agent.policy, agent.env, 2, greedy=False, num_envs=1, backend="sync")
    data, found = as_written(minari, agent, episodes)
    assert data.observation_space == RICH and data.action_space == ACTIONS[actions]
    expected = {name: [value for kind, value in Recorded.log if kind == name] for name in ("observation", "action")}
    for number, one in enumerate(found):
        assert len(one) == 2
        for name, values, count in (("observation", one.observations, 3), ("action", one.actions, 2)):
            for t in range(count):
                ours, theirs = at(values, t), expected[name][count * number + t]
                for left, right in zip(
                    flat(ours),
                    flat({key: theirs[key] for key in ours} if isinstance(ours, dict) else theirs),
                    strict=True,
                ):
                    assert np.asarray(left).dtype.kind == np.asarray(right).dtype.kind
                    if isinstance(left, str):
                        assert left == right
                    else:
                        np.testing.assert_array_equal(np.float32(left), np.float32(right))
        assert [leaf.dtype for leaf in flat(one.actions)] == [part.dtype for part in flat(spaces_of(data.action_space))]
        assert at(one.observations, 0)["number"].dtype == np.float64
        assert at(one.observations, 0) in data.observation_space


def spaces_of(space):
    if isinstance(space, Dict):
        return {key: spaces_of(part) for key, part in space.items()}
    return tuple(map(spaces_of, space)) if isinstance(space, Tuple) else space


@pytest.mark.parametrize("where", ["observation", "info"])
def test_action_masks_are_left_out(minari, folder, where):  # noqa: F811
    agent = plain({"id": "Masked-v0", "kwargs": {"where": where}}, MLPPolicy)
    data, found = as_written(minari, agent, play(agent.policy, agent.env, 3, backend="sync"))
    number = Box(0, 1, (1,), np.float32)
    assert data.observation_space == (Dict(number=number) if where == "observation" else number)
    assert [len(flat(one.observations)[0]) for one in found] == [len(one) + 1 for one in found]
    assert all(action in agent.env.action_space for one in found for action in one.actions)


@pytest.mark.parametrize("env", [lambda: Spaces(), "tests.envs:Spaces-v0"], ids=["callable", "class"])
def test_an_environment_that_no_file_can_hold_is_left_out(minari, folder, env):  # noqa: F811
    own = plain(env, MLPPolicy)
    data, _ = as_written(minari, own, play(own.policy, own.env, 1, backend="sync"))
    assert data.env_spec is None


def test_a_failure_leaves_the_data_set_that_was_there(minari, folder, monkeypatch):  # noqa: F811
    agent = plain("CartPole-v1")
    episodes = play(agent.policy, agent.env, 2)
    data, _ = as_written(minari, agent, episodes)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "elsewhere")
    with pytest.raises(ZeroDivisionError):
        write_minari(Path("data-v0"), episodes, agent.env, lambda actions: 1 / 0)
    assert [path.name for path in folder.iterdir()] == ["data-v0"]
    assert read(minari, Path("data-v0"))[0].total_steps == data.total_steps
    assert os.environ["MINARI_DATASETS_PATH"] == "elsewhere"


def test_from_python(minari, folder):  # noqa: F811
    agent = plain("CartPole-v1")
    trainer(callbacks=[PredictionWriter("minari")], default_root_dir="here").predict(
        agent, EpisodeDataModule(eval_episodes=2)
    )
    assert read(minari, Path("here/minari/episodes-v0"))[0].total_episodes == 2


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_a_missing_package_gets_one_line_before_anything_is_played(package, folder, monkeypatch):  # noqa: F811
    main(["fit", *FEW, "--trainer.max_steps", "1"])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="need minari and h5py"):
        PredictionWriter("minari")
    line = error(*PREDICT, "--format", "minari")
    assert line == "error: Minari data sets need minari and h5py: pip install 'pg_lightning[minari]'"
    assert "npz', 'minari'; got hdf" in error(*PREDICT, "--format", "hdf")
    main(PREDICT)
    assert (RUN / "episodes.npz").exists() and not (RUN / "minari").exists()
