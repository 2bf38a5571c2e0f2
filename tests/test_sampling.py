import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_lightning import CategoricalMLP
from pg_lightning.actors import make_actor
from pg_lightning.dataset import EVALUATION_UPDATE
from pg_lightning.envs import SingleEnv, make_vector_env, spaces
from pg_lightning.sampling import EpisodeSampler, check_quota
from tests.envs import Broken, Counting, OwnPolicy, counting_vector_env
from tests.helpers import tensors

MODES = list(AutoresetMode)
BACKENDS = [("auto", 1), ("native", 5), ("sync", 5), ("async", 2)]
# Python 3.12 warns of any fork in a process with threads, as Gymnasium's own worker processes are made.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Alternating:
    """An actor whose action at step s in environment i is (s + i) % 2; the rest it records says which s and i."""

    def begin(self, num_envs, rng):
        self.num_envs, self.step = num_envs, 0

    def act(self, observations):
        self.step += 1
        return (self.step - 1 + np.arange(self.num_envs)) % 2

    def record(self, actions):
        identity = np.arange(actions.size).reshape(actions.shape)
        return -identity.astype(np.float32), [identity[..., None]]


def seeds_of(episodes):
    """The seeds that the environments of :class:`Counting` were reset with."""
    return {high * 2**16 + low for high, low in episodes.observations[:, 1:3].long().tolist()}


def check(scripts, episodes_per_update, envs):
    """Sample and compare everything that comes back with the scripts, row by row."""
    episodes = EpisodeSampler(envs, episodes_per_update, seed=11).sample(Alternating(), update=3)
    seed, rows, identities, lengths = min(seeds_of(episodes)), [], [], []
    next_step = envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    share, rest = divmod(episodes_per_update, len(scripts))
    for env, script in enumerate(scripts):
        step = 0
        for episode in range(share + (env < rest)):
            lengths.append(script[episode % len(script)])
            for t in range(lengths[-1]):
                action = (step + env) % 2
                seen = [env, *divmod(seed + env, 2**16), episode, t]
                rows.append([*seen, action, 100 * episode + t + action / 2])
                identities.append(step * len(scripts) + env)
                step += 1
            step += next_step  # The step that only resets.
    np.testing.assert_array_equal(np.column_stack([episodes.observations, episodes.actions, episodes.rewards]), rows)
    assert episodes.log_probs.tolist() == [-identity for identity in identities]
    assert episodes.masks[0].squeeze(1).tolist() == identities
    assert episodes.lengths.tolist() == lengths
    assert episodes.terminated.all() and not episodes.truncated.any()
    assert episodes.update == 3
    return lengths


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("scripts", "episodes_per_update", "lengths"),
    [([(3,), (7,)], 10, [3] * 5 + [7] * 5), ([(3,), (7,), (2,)], 5, [3, 3, 7, 7, 2]), ([(1,), (50,)], 2, [1, 50])],
)
def test_short_and_long_episodes_are_sampled_equally(mode, scripts, episodes_per_update, lengths):
    assert check(scripts, episodes_per_update, counting_vector_env(scripts, mode)) == lengths


def test_a_single_environment():
    envs = make_vector_env("tests.envs:Counting-v0", 1, env_kwargs={"lengths": (4, 1, 2)})
    assert check([(4, 1, 2)], 5, envs) == [4, 1, 2, 4, 1]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5),
    st.integers(0, 9),
    st.sampled_from(MODES),
)
def test_any_lengths_any_quota_any_mode(scripts, more, mode):
    check(scripts, len(scripts) + more, counting_vector_env(scripts, mode))


@pytest.mark.parametrize("mode", MODES)
def test_more_timesteps_than_there_was_room_for(mode):
    scripts = [(1100, 1300), (2300,)]
    assert check(scripts, 3, counting_vector_env(scripts, mode)) == [1100, 1300, 2300]


def test_an_update_does_not_overwrite_the_one_before():
    sampler = EpisodeSampler(counting_vector_env([(3,), (4,)], AutoresetMode.SAME_STEP), 4)
    first = sampler.sample(Alternating(), 0)
    copies = [tensor.clone() for tensor in tensors(first)]
    sampler.sample(Alternating(), 1)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors(first), copies, strict=True))


def cartpole_sampler(backend, num_envs, **settings):
    return EpisodeSampler(make_vector_env("CartPole-v1", num_envs, backend), num_envs + 2, **settings)


def cartpole_actor(policy_class=CategoricalMLP, **settings):
    torch.manual_seed(0)
    return make_actor(policy_class(*spaces("CartPole-v1"), **settings))


@pytest.mark.parametrize(("backend", "num_envs"), BACKENDS)
@pytest.mark.parametrize("policy", [{"dropout": 0.6}, {"policy_class": OwnPolicy}], ids=["numpy", "torch"])
def test_an_update_does_not_depend_on_those_before(backend, num_envs, policy):
    actor = cartpole_actor(**policy)
    sampler, fresh = cartpole_sampler(backend, num_envs), cartpole_sampler(backend, num_envs)
    for update in (0, 1, 7):
        sampler.sample(actor, update)
    np.random.rand(), torch.rand(1)
    for first, second in zip(tensors(sampler.sample(actor, 5)), tensors(fresh.sample(actor, 5)), strict=True):
        assert torch.equal(first, second)
    sampler.close(), fresh.close()


@pytest.mark.parametrize("other", [{"seed": 1}, {"rank": 1}, {"update": 6}, {"seed": 2**40}])
def test_another_seed_rank_or_update_samples_otherwise(other):
    actor = cartpole_actor(hidden_sizes=(1,))

    def sample(update=5, seed=0, rank=0):
        return cartpole_sampler("sync", 2, seed=seed, rank=rank, world_size=2).sample(actor, update)

    first, second = sample(), sample(**other)
    assert not set(map(tuple, first.observations.tolist())) & set(map(tuple, second.observations.tolist()))
    shorter = min(first.num_timesteps, second.num_timesteps)
    assert not torch.equal(first.actions[:shorter], second.actions[:shorter])


def test_action_noise_belongs_to_a_seed_rank_and_update():
    actor = make_actor(CategoricalMLP(*spaces("tests.envs:Endless-v0")))
    seen = {}
    for seed, rank, update in itertools.product((0, 1), (0, 1), (0, 1)):
        sampler = EpisodeSampler(make_vector_env("tests.envs:Endless-v0", 3, "sync"), 20, seed, rank, world_size=2)
        seen[seed, rank, update] = tuple(sampler.sample(actor, update).actions.tolist())
    assert len(set(seen.values())) == len(seen)  # The environment itself is the same in all of them.


def test_no_two_environments_of_a_run_share_a_seed():
    scripts, world_size, updates = [(1,)] * 3, 4, 20
    seen = []
    for rank in range(world_size):
        envs = counting_vector_env(scripts, AutoresetMode.SAME_STEP)
        sampler = EpisodeSampler(envs, len(scripts), seed=9, rank=rank, world_size=world_size)
        seen += [seed for update in range(updates) for seed in seeds_of(sampler.sample(Alternating(), update))]
    assert len(seen) == len(set(seen)) == len(scripts) * world_size * updates


@pytest.mark.parametrize(("num_envs", "world_size"), [(1, 1), (64, 1), (64, 2), (128, 1), (32, 4)])
def test_evaluation_does_not_replay_the_seeds_of_training(num_envs, world_size):
    envs = counting_vector_env([(1,)] * num_envs, AutoresetMode.SAME_STEP)
    sampler = EpisodeSampler(envs, num_envs, world_size=world_size)
    training = set().union(*(seeds_of(sampler.sample(Alternating(), update)) for update in range(3)))
    assert not training & seeds_of(sampler.sample(Alternating(), EVALUATION_UPDATE))


@pytest.mark.parametrize(("backend", "num_envs"), BACKENDS)
def test_cartpole_episodes_obey_its_dynamics(backend, num_envs):
    sampler = cartpole_sampler(backend, num_envs)
    episodes = sampler.sample(cartpole_actor(), 0)
    sampler.close()
    assert len(episodes) == num_envs + 2
    assert (episodes.rewards == 1).all() and not episodes.truncated.any()
    env = gym.make("CartPole-v1").unwrapped
    lengths = episodes.lengths.tolist()
    for observations, actions in zip(
        episodes.observations.split(lengths), episodes.actions.split(lengths), strict=True
    ):
        env.reset()
        assert observations[0].abs().max() <= 0.05
        for t, action in enumerate(actions.tolist()):
            env.state = observations[t].double().numpy()
            following, _, terminated, _, _ = env.step(action)
            assert terminated == (t == len(actions) - 1)
            if not terminated:
                np.testing.assert_allclose(observations[t + 1], following, atol=1e-6)


def test_environments_in_processes_sample_the_same_as_one_after_the_other():
    actor, samplers = cartpole_actor(dropout=0.6), [cartpole_sampler(backend, 3) for backend in ("sync", "async")]
    for first, second in zip(*[tensors(sampler.sample(actor, 4)) for sampler in samplers], strict=True):
        assert torch.equal(first, second)
    samplers[1].close()


@pytest.mark.parametrize(("num_envs", "backend"), [(1, "auto"), (3, "sync")])
def test_a_time_limit_truncates(num_envs, backend):
    episodes = EpisodeSampler(make_vector_env("tests.envs:Endless-v0", num_envs, backend), 4).sample(Alternating(), 0)
    assert episodes.lengths.tolist() == [6] * 4
    assert episodes.truncated.all() and not episodes.terminated.any()


def test_some_terminate_and_some_are_truncated_and_some_both():
    settings = [{"lengths": (2,)}, {"lengths": (3,), "truncate": True}, {"lengths": (6,)}]
    make = [lambda s=s: gym.wrappers.TimeLimit(Counting(**s), max_episode_steps=6) for s in settings]
    episodes = EpisodeSampler(SyncVectorEnv(make), 3).sample(Alternating(), 0)
    assert episodes.lengths.tolist() == [2, 3, 6]
    assert episodes.terminated.tolist() == [True, False, True]
    assert episodes.truncated.tolist() == [False, True, True]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["observations", "rewards"])
def test_a_number_that_is_not_finite(what, number):
    sampler = EpisodeSampler(SyncVectorEnv([lambda: Broken(what, 0.0), lambda: Broken(what, number)]), 2)
    with pytest.raises(ValueError, match=f"update 4: environment 1 emitted {what} that are not finite, at step 2"):
        sampler.sample(Alternating(), 4)


def test_a_reward_in_an_array_of_its_own():
    class InArray(Broken):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, np.array([reward]), *rest

    episodes = EpisodeSampler(SingleEnv(InArray(number=0.5)), 2).sample(Alternating(), 0)
    assert episodes.rewards.tolist() == [1, 1, 0.5, 1, 1] * 2


def test_what_comes_after_the_quota_does_not_matter():
    class FiniteOnce(Broken):
        """Its first episode is fine, its second is not."""

        def reset(self, *, seed=None, options=None):
            self.number = 0.0 if seed is not None else np.nan
            return super().reset(seed=seed)

    long = counting_vector_env([(20,)], AutoresetMode.NEXT_STEP).envs[0]
    long.observation_space, long._observation = Broken.observation_space, lambda: np.zeros(1)
    episodes = EpisodeSampler(SyncVectorEnv([FiniteOnce, lambda: long]), 2).sample(Alternating(), 0)
    assert episodes.lengths.tolist() == [5, 20]
    assert episodes.observations.dtype == torch.float32  # As a policy's weights are, though the space has float64.


@pytest.mark.parametrize(
    ("num_envs", "episodes", "message"),
    [
        (0, 1, "num_envs must be at least 1, not 0"),
        (4, 3, r"episodes_per_update \(3\) must be at least num_envs \(4\)"),
    ],
)
def test_quotas_that_cannot_be_met(num_envs, episodes, message):
    with pytest.raises(ValueError, match=message):
        check_quota(num_envs, episodes)
