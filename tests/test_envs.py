import gymnasium as gym
import numpy as np
import pytest

from pg_lightning import make_env
from pg_lightning.actors import NumpyActor
from pg_lightning.envs import SingleEnv, env_spec, make_vector_env, reward_threshold, spaces
from pg_lightning.policies import CategoricalMLP
from pg_lightning.sampling import EpisodeSampler

DICT = gym.spaces.Dict({"a": gym.spaces.Discrete(3), "b": gym.spaces.Box(-1, 1, (2, 2), np.float32)})
TUPLE = gym.spaces.Tuple([gym.spaces.MultiBinary(2), gym.spaces.MultiDiscrete([2, 3])])


def test_a_discrete_observation_becomes_one_hot():
    env, plain = make_env("FrozenLake-v1", {"is_slippery": False}), gym.make("FrozenLake-v1", is_slippery=False)
    assert (env.observation_space.shape, env.action_space) == ((16,), gym.spaces.Discrete(4))
    pairs = [(env.reset(seed=0)[0], plain.reset(seed=0)[0])]
    pairs += [(env.step(action)[0], plain.step(action)[0]) for action in (2, 2, 1, 1)]
    assert [int(state) for _, state in pairs] == [0, 1, 2, 6, 10]
    for shown, state in pairs:
        assert shown.tolist() == np.eye(16)[state].tolist()


@pytest.mark.parametrize(("space", "size"), [(DICT, 3 + 4), (TUPLE, 2 + 2 + 3), (gym.spaces.Discrete(4, start=-2), 4)])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_other_observations_are_flattened(space, size, num_envs):
    kwargs = {"observations": space, "actions": gym.spaces.Discrete(2)}
    env = make_env("tests.envs:Spaces-v0", kwargs)
    observation, _ = env.reset(seed=0)
    space.seed(0)
    np.testing.assert_array_equal(observation, gym.spaces.flatten(space, space.sample()))
    assert env.observation_space.contains(observation) and observation.shape == (size,)
    vector = make_vector_env("tests.envs:Spaces-v0", num_envs, env_kwargs=kwargs)
    assert vector.reset(seed=0)[0].shape == (num_envs, size)
    np.testing.assert_array_equal(vector.reset(seed=0)[0][0], observation)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_actions_count_from_zero_and_reach_the_environment_from_its_start(num_envs):
    env = make_env("tests.envs:Spaces-v0", {"actions": gym.spaces.Discrete(3, start=5)})
    assert env.action_space == gym.spaces.Discrete(3)
    for action in range(3):
        env.reset()
        assert env.step(np.int64(action))[1] == 5 + action
    sampler = EpisodeSampler(make_vector_env("tests.envs:Spaces-v0", num_envs), 30)
    episodes = sampler.sample(NumpyActor(CategoricalMLP(*spaces("tests.envs:Spaces-v0"))), 0)
    assert set(episodes.actions.tolist()) == {0, 1, 2}
    assert (episodes.rewards == 5 + episodes.actions).all()
    assert episodes.observations.shape == (30, 2, 3)


def test_box_spaces_stay_and_actions_are_clipped_to_them():
    raw, env = gym.make("Pendulum-v1"), make_env("Pendulum-v1")
    assert (
        spaces("Pendulum-v1") == (raw.observation_space, raw.action_space) == (env.observation_space, env.action_space)
    )
    raw.reset(seed=0), env.reset(seed=0)
    for action, bound in ((0.5, 0.5), (-7.0, -2.0), (9.0, 2.0)):
        left, right = env.step(np.full(1, action, np.float32)), raw.step(np.full(1, bound, np.float32))
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1:] == right[1:]


@pytest.mark.parametrize("backend", ["auto", "native"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"observations": gym.spaces.Discrete(4), "actions": gym.spaces.Discrete(2)},
        {"observations": gym.spaces.Box(-1, 1, (2,), np.float32), "actions": gym.spaces.Discrete(3, start=5)},
    ],
    ids=["observations", "actions"],
)
def test_a_native_environment_has_the_spaces_that_the_policy_is_built_for(backend, kwargs):
    try:
        envs = make_vector_env("tests.envs:Native-v0", 2, backend, kwargs)
    except ValueError as refusal:
        assert backend == "native" and "sync" in str(refusal)
    else:
        assert (envs.single_observation_space, envs.single_action_space) == spaces("tests.envs:Native-v0", kwargs)


@pytest.mark.parametrize(
    "make", [make_env, spaces, env_spec, reward_threshold, lambda env_id: make_vector_env(env_id, 2)]
)
@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPoll-v1", r"env_id 'CartPoll-v1': Environment `CartPoll` doesn't exist. Did you mean: `CartPole`"),
        ("CartPole-v9", r"env_id 'CartPole-v9': .*v9.*"),
        ("no.such.module:CartPole-v1", r"env_id 'no.such.module:CartPole-v1': No module named 'no'"),
        ("", r"env_id ''"),
    ],
)
def test_an_unknown_environment(make, env_id, message):
    with pytest.raises(ValueError, match=message):
        make(env_id)


@pytest.mark.parametrize(("num_envs", "backend"), [(1, "auto"), (2, "auto"), (2, "native"), (2, "sync"), (2, "async")])
def test_arguments_that_the_environment_does_not_take(num_envs, backend):
    with pytest.raises(ValueError, match=r"env_id 'CartPole-v1' with env_kwargs {'gravitas': 1}: .*gravitas"):
        make_vector_env("CartPole-v1", num_envs, backend, {"gravitas": 1})


@pytest.mark.parametrize("num_envs", [0, -1])
def test_fewer_than_one_environment(num_envs):
    with pytest.raises(ValueError, match=f"num_envs must be at least 1, not {num_envs}"):
        make_vector_env("CartPole-v1", num_envs)


def test_native_where_there_is_none():
    with pytest.raises(ValueError, match=r"Acrobot-v1 has no vectorised implementation of its own.* sync or async"):
        make_vector_env("Acrobot-v1", 2, "native")


def test_auto_takes_the_cheapest():
    assert isinstance(make_vector_env("CartPole-v1", 1), SingleEnv)
    assert type(make_vector_env("CartPole-v1", 2)).__name__ == "CartPoleVectorEnv"
    assert isinstance(make_vector_env("Acrobot-v1", 2), gym.vector.SyncVectorEnv)


@pytest.mark.parametrize(("num_envs", "backend"), [(1, "auto"), (2, "native"), (2, "sync"), (2, "async")])
def test_arguments_reach_every_backend(num_envs, backend):
    envs = make_vector_env("CartPole-v1", num_envs, backend, {"sutton_barto_reward": True})
    envs.reset(seed=0)
    assert envs.step(np.zeros(num_envs, np.int64))[1] == pytest.approx(0)  # It is 1 otherwise.
    envs.close()


def test_a_single_environment_steps_like_an_ordinary_one():
    env, plain = make_vector_env("CartPole-v1", 1), gym.make("CartPole-v1")
    observations, _ = env.reset(seed=3)
    observation, _ = plain.reset(seed=3)
    endings = 0
    for action in np.random.default_rng(0).integers(0, 2, 300):
        assert observations.shape == (1, 4) and observations[0].tolist() == observation.tolist()
        observations, reward, terminated, truncated, _ = env.step(np.array([action]))
        observation, expected, *ends, _ = plain.step(action)
        assert reward == expected
        assert (terminated.tolist(), truncated.tolist()) == ([ends[0]], [ends[1]])
        if any(ends):
            endings += 1
            observation, _ = plain.reset()
    assert endings > 5


def test_reward_thresholds():
    assert reward_threshold("CartPole-v1") == 475
    assert reward_threshold("Pendulum-v1") is None
