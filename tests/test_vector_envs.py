"""Vector backends: which one is taken, and that each steps as ordinary environments do."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pg_lightning.envs import BACKENDS, AsyncEnvs, Environment, SyncEnvs, make_vector
from tests.envs import Counting, RandomLength
from tests.scripted import NESTED, VECTOR, Halved, Sampled, Scripted


@pytest.mark.parametrize(
    ("environment", "num_envs", "backend"),
    [
        (Environment(), 1, "sync"),
        (Environment(), 2, "native"),
        (Environment("tests.envs:Counting-v0"), 2, "sync"),
        (Environment(wrappers=[Halved]), 2, "sync"),
        (Environment(lambda: gym.make("CartPole-v1")), 2, "sync"),
        (Environment("tests.envs:Native-v0", {"observations": NESTED}), 2, "native"),
    ],
)
def test_auto(environment, num_envs, backend):
    envs = environment.make_vector(num_envs)
    assert envs.backend == backend and envs.num_envs == num_envs
    assert envs.single_observation_space == environment.observation_space
    assert (type(envs) is SyncEnvs) == (backend == "sync")
    envs.close()


@pytest.mark.parametrize(
    ("environment", "backend", "message"),
    [
        (
            Environment("Acrobot-v1"),
            "native",
            "Acrobot-v1 has no vectorised implementation of its own: .*sync or async",
        ),
        (Environment(Scripted), "native", "Scripted has no vectorised implementation of its own"),
        (Environment(wrappers=[Halved]), "native", "vectorised implementation of CartPole-v1 takes no wrappers"),
        (Environment(Scripted, {"space": spaces.Text(5)}), "async", "async cannot carry the observations of Scripted"),
        (Environment(), "fast", "backend must be one of auto, sync, native, async, envpool, not 'fast'"),
    ],
)
def test_backends_that_cannot(environment, backend, message):
    with pytest.raises(ValueError, match=message):
        make_vector(environment, 2, backend)


@pytest.mark.parametrize("num_envs", [0, -1])
def test_fewer_than_one_environment(num_envs):
    with pytest.raises(ValueError, match=f"num_envs must be at least 1, not {num_envs}"):
        make_vector(Environment(), num_envs)


class OtherNative(gym.vector.VectorEnv):
    """Has other spaces than the single environment, or does not tell its autoreset mode."""

    def __init__(self, num_envs=1, space=None, mode=AutoresetMode.NEXT_STEP, **kwargs):
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": mode} if mode else {}
        self.single_observation_space, self.single_action_space = space or VECTOR, spaces.Discrete(2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"space": spaces.Discrete(3)}, "has other spaces"), ({"mode": None}, "does not tell its autoreset mode")],
)
def test_a_native_implementation_that_differs_is_not_taken(kwargs, message):
    native = functools.partial(OtherNative, **kwargs)
    gym.register("OtherNative-v0", entry_point=Scripted, vector_entry_point=native)
    try:
        assert Environment("OtherNative-v0").make_vector(2).backend == "sync"
        with pytest.raises(ValueError, match=message):
            Environment("OtherNative-v0").make_vector(2, "native")
    finally:
        del gym.registry["OtherNative-v0"]


def test_a_backend_of_ones_own(monkeypatch):
    monkeypatch.setitem(BACKENDS, "toy", lambda environment, num_envs: SyncEnvs([environment.make()] * num_envs))
    assert Environment().make_vector(3, "toy").backend == "toy"


@pytest.mark.parametrize(("num_envs", "backend"), [(1, "sync"), (2, "native"), (2, "sync"), (2, "async")])
def test_arguments_and_limit_reach_every_backend(num_envs, backend):
    envs = Environment(kwargs={"sutton_barto_reward": True}, max_episode_steps=2).make_vector(num_envs, backend)
    envs.reset(seed=0)
    assert envs.step(np.zeros(num_envs, np.int64))[1] == pytest.approx(0)  # It is 1 otherwise.
    assert envs.step(np.zeros(num_envs, np.int64))[3].all()
    envs.close()


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1", "Pendulum-v1", "tests.envs:RandomLength-v0"])
def test_sync_environments_step_like_ordinary_ones(env_id, num_envs):
    envs = Environment(env_id, max_episode_steps=30).make_vector(num_envs, "sync")
    plain = [gym.make(env_id, max_episode_steps=30) for _ in range(num_envs)]
    observations, _ = envs.reset(seed=3)
    expected = [env.reset(seed=3 + i)[0] for i, env in enumerate(plain)]
    envs.action_space.seed(0)
    endings = 0
    for _ in range(100):
        assert observations.dtype == envs.single_observation_space.dtype
        np.testing.assert_array_equal(observations, expected)
        actions = envs.action_space.sample()
        observations, rewards, terminated, truncated, info = envs.step(actions)
        steps = [env.step(action) for env, action in zip(plain, actions, strict=True)]
        expected = [step[0] for step in steps]
        np.testing.assert_array_equal(observations, expected)
        assert rewards.tolist() == [step[1] for step in steps]
        assert (terminated.tolist(), truncated.tolist()) == ([s[2] for s in steps], [s[3] for s in steps])
        assert info == {}
        if (ended := terminated | truncated).any():
            endings += 1
            observations, _ = envs.reset(options={"reset_mask": ended})
            expected = [env.reset()[0] if ended[i] else expected[i] for i, env in enumerate(plain)]
            assert not (terminated | truncated).any()
    assert endings >= 3


def test_what_has_ended_is_not_stepped():
    envs = SyncEnvs([Counting(0, (2, 9)), Counting(1, (9,))])  # Counting refuses steps beyond an end.
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    envs.reset(seed=70_000)
    rows = []
    for _ in range(4):
        observations, rewards, terminated, _, _ = envs.step(np.array([1, 0]))
        rows.append((observations[0, -2:].tolist(), rewards.tolist(), terminated.tolist()))
    assert rows == [
        ([0, 1], [0.5, 0], [False, False]),
        ([0, 2], [1.5, 1], [True, False]),
        ([0, 2], [0.0, 2], [True, False]),
        ([0, 2], [0.0, 3], [True, False]),
    ]
    mask = np.array([True, False])
    options = {"reset_mask": mask, "other": 1}
    observations, _ = envs.reset(seed=5, options=options)
    assert options == {"reset_mask": mask, "other": 1}  # The caller's stays whole.
    assert observations.tolist() == [[0, 0, 5, 0, 0], [1, 1, 70_001 - 2**16, 0, 4]]
    observations, rewards, terminated, _, _ = envs.step(np.array([0, 0]))
    assert (rewards.tolist(), terminated.tolist()) == ([0, 4], [False, False])


def test_options_reach_the_environments():
    env = Scripted()
    envs = SyncEnvs([env])
    envs.reset()
    assert env.options is None
    envs.reset(options={"reset_mask": np.ones(1, bool)})
    assert env.options is None
    envs.reset(options={"reset_mask": np.ones(1, bool), "low": 0})
    assert env.options == {"low": 0}


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else [tree]


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("space", [NESTED, spaces.Discrete(4, start=-2), spaces.MultiDiscrete([[2, 3], [4, 5]])])
def test_nested_observations(backend, num_envs, space):
    envs = Environment(Sampled, {"space": space}).make_vector(num_envs, backend)
    observations, _ = envs.reset(seed=4)
    shapes, dtypes = zip(*[(leaf.shape, leaf.dtype) for leaf in leaves(space.sample())], strict=True)
    for after in range(2):
        assert [leaf.shape for leaf in leaves(observations)] == [(num_envs, *shape) for shape in shapes]
        assert [leaf.dtype for leaf in leaves(observations)] == list(dtypes)
        for i in range(num_envs):
            space.seed(4 + i)
            expected = [space.sample() for _ in range(after + 1)][-1]
            for leaf, one in zip(leaves(observations), leaves(expected), strict=True):
                np.testing.assert_array_equal(leaf[i], one)
        observations = envs.step(np.zeros(num_envs, int))[0]
    envs.close()


@pytest.mark.parametrize(
    "space", [spaces.Text(5), spaces.Sequence(VECTOR), spaces.Graph(VECTOR, None), spaces.OneOf([VECTOR])]
)
def test_what_is_no_array_comes_in_object_arrays(space):
    shown = space.sample()
    envs = SyncEnvs([Scripted(space, shown) for _ in range(2)])
    observations, _ = envs.reset()
    assert observations.shape == (2,) and observations.dtype == object
    assert observations[0] is shown and observations[1] is shown


@pytest.mark.parametrize(
    ("actions", "batch", "expected"),
    [
        (spaces.Discrete(3, start=5), np.array([6, 7]), [6, 7]),
        (spaces.MultiDiscrete([2, 3]), np.array([[0, 1], [1, 2]]), [[0, 1], [1, 2]]),
        (spaces.Text(3), ("ab", "c"), ["ab", "c"]),
        (
            spaces.Dict({"x": spaces.Discrete(2), "y": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)])}),
            {"x": np.array([0, 1]), "y": (np.array([1, 0]), np.array([[0, 1], [1, 1]], np.int8))},
            [{"x": 0, "y": (1, [0, 1])}, {"x": 1, "y": (0, [1, 1])}],
        ),
    ],
    ids=["discrete", "multidiscrete", "text", "nested"],
)
def test_actions_are_split(actions, batch, expected):
    def plain(action):
        if isinstance(action, dict):
            return {key: plain(value) for key, value in action.items()}
        return tuple(map(plain, action)) if isinstance(action, tuple) else getattr(action, "tolist", lambda: action)()

    envs = [Scripted(actions=actions) for _ in range(2)]
    vector = SyncEnvs(envs)
    vector.reset()
    vector.step(batch)
    assert [plain(env.received[0]) for env in envs] == expected
    assert all(actions.contains(env.received[0]) for env in envs)


def test_discrete_actions_are_python_integers():
    env = Scripted()
    envs = SyncEnvs([env])
    envs.reset()
    envs.step(np.array([1]))
    assert type(env.received[0]) is int


def test_an_environment_may_keep_and_change_its_action():
    env = Scripted(actions=spaces.Box(-1, 1, (2,)))
    envs, actions = SyncEnvs([env]), np.ones((1, 2), np.float32)
    envs.reset()
    envs.step(actions)
    env.received[0] *= 3
    assert actions.tolist() == [[1, 1]]
    actions[:] = 7
    assert env.received[0].tolist() == [3, 3]


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    "reward", [0.5, np.float32(0.5), np.array([0.5]), np.array(0.5), [[0.5]], np.array([0.5], np.float32)], ids=repr
)
def test_rewards_of_one_number(reward, backend, num_envs):
    envs = Environment(Scripted, {"reward": reward}).make_vector(num_envs, backend)
    envs.reset()
    assert np.asarray(envs.step(np.zeros(num_envs, int))[1]).tolist() == [0.5] * num_envs
    envs.close()


@pytest.mark.parametrize("number", [np.int64(200), np.uint8(200), 200, True])
def test_integers_that_fit_are_taken(number):
    envs = SyncEnvs([Scripted(spaces.Box(0, 255, (), np.uint8), number)])
    assert envs.reset()[0].tolist() == [int(number)] and envs.reset()[0].dtype == np.uint8
    assert SyncEnvs([Scripted(spaces.Discrete(300), number)]).reset()[0].tolist() == [int(number)]
    assert SyncEnvs([Scripted(spaces.Box(0, 300, ()), number)]).reset()[0].tolist() == [int(number)]


def test_environments_with_other_spaces_do_not_step_together():
    with pytest.raises(ValueError, match="must have the same spaces"):
        SyncEnvs([Scripted(), Scripted(spaces.Discrete(2))])


def test_observations_of_float64_are_taken_for_float32():
    envs = SyncEnvs([Scripted(VECTOR, np.full((2, 2), 1 / 3))])
    assert envs.reset()[0].dtype == np.float32 and (envs.reset()[0] == np.float32(1 / 3)).all()


def test_async_environments_step_like_ordinary_ones():
    """The step that ends an episode returns its final observation, the next one the first of another episode."""
    envs, plain = Environment(RandomLength).make_vector(3, "async"), [RandomLength() for _ in range(3)]
    assert type(envs) is AsyncEnvs and envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    np.testing.assert_array_equal(envs.reset(seed=8)[0], [env.reset(seed=8 + i)[0] for i, env in enumerate(plain)])
    ended, endings = [False] * 3, 0
    for step in range(40):
        observations, rewards, terminated, truncated, _ = envs.step(np.arange(3) + step)
        for i, env in enumerate(plain):
            expected = (env.reset()[0], 0, False) if ended[i] else env.step(i + step)[:3]
            assert observations[i].tolist() == expected[0].tolist()
            assert (rewards[i], terminated[i], truncated[i]) == (*expected[1:], False)
        ended = terminated.tolist()
        endings += sum(ended)
    assert endings > 10
    envs.close()
