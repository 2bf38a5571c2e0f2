"""Environment: one description, from an id or a callable, of what is played."""

import functools
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from jsonargparse import ArgumentParser

from pg_lightning.envs import Environment, RepeatAction, as_environment
from tests.envs import Counting
from tests.scripted import NESTED, VECTOR, Halved, Scripted


def test_spaces_are_the_environments_own():
    lake = Environment("FrozenLake-v1", {"is_slippery": False})
    assert (lake.observation_space, lake.action_space) == (spaces.Discrete(16), spaces.Discrete(4))
    shifted = Environment("tests.envs:Spaces-v0", {"observations": NESTED})
    assert (shifted.observation_space, shifted.action_space) == (NESTED, spaces.Discrete(3, start=5))
    env = lake.make()
    assert [env.reset(seed=0)[0]] + [env.step(action)[0] for action in (2, 2, 1, 1)] == [0, 1, 2, 6, 10]


def test_threshold_and_time_limit():
    assert (Environment().reward_threshold, Environment().time_limit) == (475, 500)
    assert (Environment("Pendulum-v1").reward_threshold, Environment("Pendulum-v1").time_limit) == (None, 200)
    assert Environment(max_episode_steps=7).time_limit == 7
    made = Environment(lambda: gym.make("Acrobot-v1"))
    assert (made.reward_threshold, made.time_limit) == (-100, 500)
    bare = Environment(Scripted)  # It has no spec.
    assert bare.make().spec is None and (bare.reward_threshold, bare.time_limit) == (None, None)


@pytest.mark.parametrize("env_id", ["tests.envs:Counting-v0", Counting])
def test_arguments_limit_and_wrappers(env_id):
    environment = Environment(env_id, {"lengths": (9,)}, 2, ["tests.scripted.Halved", lambda env: Halved(env)])
    env = environment.make(index=7)
    assert env.reset(seed=3)[0].tolist() == [7, 0, 3, 0, 0]
    assert [env.step(1)[1:4] for _ in range(2)] == [(0.125, False, False), (0.375, False, True)]
    assert type(env.env) is Halved and type(env.env.env) is gym.wrappers.TimeLimit


def test_wrappers_apply_from_the_inside_out():
    order = [lambda env: gym.wrappers.TransformReward(env, lambda reward: reward + 1), Halved]
    for wrappers, reward in ((order, 1.0), (order[::-1], 1.5)):
        env = Environment(Scripted, wrappers=wrappers).make()
        env.reset()
        assert env.step(0)[1] == reward


def test_a_repeated_action_is_one_step_with_all_of_its_rewards():
    """The second one is cut short by the episode's end, which no step may go beyond."""
    env = Environment(Counting, {"lengths": (7,)}, wrappers=["pg_lightning.RepeatAction"]).make(index=0)
    env.reset(seed=3)
    first, last = env.step(1), env.step(1)
    plain = Counting(index=0, lengths=(7,))
    plain.reset(seed=3)
    steps = [plain.step(1) for _ in range(7)]
    assert first[0].tolist() == steps[3][0].tolist() and last[0].tolist() == steps[6][0].tolist()
    assert [first[1], last[1]] == [sum(step[1] for step in steps[:4]), sum(step[1] for step in steps[4:])]
    assert first[2:4] == (False, False) and last[2:4] == (True, False)
    scripted = Scripted()
    RepeatAction(scripted, 3).step(0)
    assert scripted.received == [0, 0, 0]
    cut = Environment(Scripted, max_episode_steps=6, wrappers=[RepeatAction]).make()
    cut.reset()
    assert [cut.step(0)[1:4] for _ in range(2)] == [(4.0, False, False), (2.0, False, True)]
    with pytest.raises(ValueError, match="times must be at least 1 timestep, not 0"):
        RepeatAction(scripted, 0)


def test_observations_of_a_wrapper_are_those_of_the_environment():
    assert Environment(wrappers=["gymnasium.wrappers.NormalizeObservation"]).observation_space.shape == (4,)
    flat = Environment("FrozenLake-v1", wrappers=["gymnasium.wrappers.FlattenObservation"])
    assert flat.observation_space.shape == (16,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": ""}, r"env\.id must be a Gymnasium id such as CartPole-v1, not ''"),
        ({"id": "."}, r"env\.id .*not '\.'"),
        ({"id": ".."}, r"env\.id .*not '\.\.'"),
        ({"id": "../CartPole-v1"}, r"env\.id .*not '\.\./CartPole-v1'"),
        ({"id": "/tmp/CartPole-v1"}, r"env\.id "),
        ({"id": r"a\..\b"}, r"env\.id "),
        ({"id": "tests.envs:.."}, r"env\.id "),
        ({"id": 3}, r"env\.id must be a Gymnasium id or a callable, not 3"),
        ({"id": Scripted()}, r"env\.id .*hand in a callable that makes one"),
        ({"max_episode_steps": 0}, r"env\.max_episode_steps must be an integer of at least 1 timestep, not 0"),
        ({"max_episode_steps": 2.5}, r"env\.max_episode_steps .* not 2\.5"),
        ({"max_episode_steps": True}, r"env\.max_episode_steps .* not True"),
        ({"kwargs": ["x"]}, r"env\.kwargs must be a dict, not \['x'\]"),
        ({"kwargs": {"max_episode_steps": 9}}, r"give max_episode_steps as env\.max_episode_steps"),
        ({"wrappers": "a.B"}, r"env\.wrappers must be a list, not 'a\.B'"),
        ({"wrappers": [3]}, r"env\.wrappers must hold import paths or callables, not 3"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Environment(**arguments)


def test_a_spec_is_plain_data_that_builds_the_same():
    given = Environment("FrozenLake-v1", {"is_slippery": False}, 9, ["gymnasium.wrappers.FlattenObservation", Halved])
    spec = given.spec()
    assert spec == {
        "id": "FrozenLake-v1",
        "kwargs": {"is_slippery": False},
        "max_episode_steps": 9,
        "wrappers": ["gymnasium.wrappers.FlattenObservation", "tests.scripted.Halved"],
    }
    assert given.unnamed == [] and as_environment(spec).spec() == spec
    assert as_environment(spec).observation_space == given.observation_space


@pytest.mark.parametrize(
    ("environment", "name", "unnamed"),
    [
        (Environment(Scripted), "Scripted", ["id"]),
        (Environment(lambda: Scripted()), "<lambda>", ["id"]),
        (Environment(functools.partial(Scripted, reward=2)), "Scripted", ["id"]),
        (Environment(wrappers=[Halved, lambda env: env]), "CartPole-v1", ["wrappers"]),
        (Environment("CartPole-v1", {"space": VECTOR}), "CartPole-v1", ["kwargs"]),
        (Environment("CartPole-v1", {"x": [np.float64(1)]}), "CartPole-v1", ["kwargs"]),
    ],
)
def test_what_a_file_cannot_hold(environment, name, unnamed):
    assert (environment.name, environment.unnamed) == (name, unnamed)
    with pytest.raises(ValueError, match=r"^<.*> is an object that no file can hold: hand the environment in again"):
        as_environment(environment.spec())


def test_as_environment():
    environment = Environment("Acrobot-v1")
    assert as_environment(environment) is environment
    assert as_environment("Acrobot-v1") == environment and as_environment(None) == Environment()
    assert as_environment(Scripted) == Environment(Scripted)
    with pytest.raises(ValueError, match="an environment has no setting 'env_id'"):
        as_environment({"env_id": "CartPole-v1"})
    with pytest.raises(ValueError, match=r"env\.id must be a Gymnasium id or a callable, not 3"):
        as_environment(3)


def test_pickling():
    environment = Environment("CartPole-v1", {"sutton_barto_reward": True}, 20, [Halved])
    assert environment.time_limit == 20  # Facts that were read travel along.
    again = pickle.loads(pickle.dumps(environment))
    assert again == environment and again.action_space == spaces.Discrete(2)


def test_an_option_group():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Environment, "env")
    wrapper = "gymnasium.wrappers.FlattenObservation"
    given = ["--env.id=FrozenLake-v1", "--env.kwargs={is_slippery: false}", "--env.max_episode_steps=9"]
    config = parser.parse_args([*given, f"--env.wrappers=[{wrapper}]"])
    expected = Environment("FrozenLake-v1", {"is_slippery": False}, 9, [wrapper])
    assert parser.instantiate_classes(config).env == expected
    assert parser.instantiate_classes(parser.parse_string(parser.dump(config))).env == expected
    assert parser.instantiate_classes(parser.parse_args([])).env == Environment()
    text = " ".join(parser.format_help().split())
    for help_line in (
        "a Gymnasium id, ``module:Env-v0``",
        "arguments of the environment",
        "episode is cut",
        "innermost",
    ):
        assert help_line in text
