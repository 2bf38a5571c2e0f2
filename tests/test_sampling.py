import itertools
import tracemalloc
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Distribution, Normal

from pg_lightning import Environment, EpisodeSampler, MLPPolicy
from pg_lightning.envs import SyncEnvs
from pg_lightning.sampling.actors import make_actor
from pg_lightning.sampling.sampler import EVALUATION_UPDATE, check_quota
from pg_lightning.tree import tree_map
from tests.envs import Broken, Counting, Endless, Nested, OwnPolicy, counting_vector_env
from tests.helpers import tensors

MODES = [*AutoresetMode, "ours"]
BACKENDS = [("auto", 1), ("native", 5), ("sync", 5), ("async", 2)]
# Python 3.12 warns of any fork in a process with threads, as Gymnasium's own worker processes are made.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Alternating:
    """An actor whose action at step s in environment i is (s + i) % 2; the rest it records says which s and i."""

    is_double = takes_masks = False

    def begin(self, num_envs, rng):
        self.num_envs, self.step = num_envs, 0

    def act(self, observations):
        self.step += 1
        return (self.step - 1 + np.arange(self.num_envs)) % 2

    def to_env(self, actions):
        return actions

    def record(self, actions, rows):
        return -torch.from_numpy(rows).float(), (torch.from_numpy(rows)[:, None],)


def flat(observations):
    """The rows of :class:`Counting`'s observations, also of those that :class:`Nested` has put into a tree."""
    if isinstance(observations, dict):
        place, (episode, t) = observations["place"], observations["time"]
        return torch.cat([place, episode[:, None], t], dim=1)
    return observations


def seeds_of(episodes):
    """The seeds that the environments of :class:`Counting` were reset with."""
    return {high * 2**16 + low for high, low in flat(episodes.observations)[:, 1:3].long().tolist()}


def check(scripts, episodes_per_update, envs):
    """Sample and compare everything that comes back with the scripts, row by row."""
    episodes = EpisodeSampler(envs, episodes_per_update, seed=11).sample(Alternating(), update=3)
    seed, rows, finals, identities, lengths = min(seeds_of(episodes)), [], [], [], []
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
            finals.append([env, *divmod(seed + env, 2**16), episode, lengths[-1]])
            step += next_step  # The step that only resets.
    observations = flat(episodes.observations)
    np.testing.assert_array_equal(np.column_stack([observations, episodes.actions, episodes.rewards]), rows)
    assert episodes.log_probs.tolist() == [-identity for identity in identities]
    assert episodes.dropout_masks[0].squeeze(1).tolist() == identities
    assert episodes.lengths.tolist() == lengths
    assert flat(episodes.final_observations).tolist() == finals
    assert episodes.terminated.all() and not episodes.truncated.any()
    assert episodes.update == 3
    assert episodes.env_steps == sum(env.unwrapped.taken for env in envs.envs)
    if isinstance(envs, SyncEnvs):
        assert episodes.env_steps == sum(lengths)
    return lengths


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("scripts", "episodes_per_update", "lengths"),
    [([(3,), (7,)], 10, [3] * 5 + [7] * 5), ([(3,), (7,), (2,)], 5, [3, 3, 7, 7, 2]), ([(1,), (50,)], 2, [1, 50])],
)
def test_short_and_long_episodes_are_sampled_equally(mode, scripts, episodes_per_update, lengths):
    assert check(scripts, episodes_per_update, counting_vector_env(scripts, mode)) == lengths


@pytest.mark.parametrize("mode", MODES)
def test_nested_observations_come_back_as_trees(mode):
    scripts = [(3, 1), (7,), (2, 2, 9)]
    assert check(scripts, 8, counting_vector_env(scripts, mode, Nested)) == [3, 1, 3, 7, 7, 7, 2, 2]


@pytest.mark.parametrize(
    ("mode", "env_steps"),
    [
        ("ours", 3 + 3 + 7 + 2),
        (AutoresetMode.DISABLED, 3 * 7),
        (AutoresetMode.SAME_STEP, 3 * 7),
        # The first one resets in step 4, so it runs one step longer; the last one resets after every 2.
        (AutoresetMode.NEXT_STEP, 3 * 7 - 1 - 2),
    ],
)
def test_env_steps_taken_and_timesteps_learnt_from_are_two_numbers(mode, env_steps):
    scripts = [(3,), (7,), (2,)]
    envs = counting_vector_env(scripts, mode)
    episodes = EpisodeSampler(envs, 4).sample(Alternating(), 0)
    assert (episodes.lengths.tolist(), episodes.num_timesteps) == ([3, 3, 7, 2], 15)
    assert episodes.env_steps == env_steps == sum(env.unwrapped.taken for env in envs.envs)
    assert episodes.outcome().env_steps == env_steps


def test_native_environments_count_their_surplus():
    """CartPole's own vector implementation steps all environments until the longest episode ends."""
    episodes = cartpole_sampler("native", 5).sample(cartpole_actor(), 0)
    assert episodes.env_steps > episodes.num_timesteps
    sync = cartpole_sampler("sync", 5).sample(cartpole_actor(), 0)
    assert sync.env_steps == sync.num_timesteps


def test_a_single_environment():
    envs = Environment("tests.envs:Counting-v0", {"lengths": (4, 1, 2)}).make_vector(1)
    assert check([(4, 1, 2)], 5, envs) == [4, 1, 2, 4, 1]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5), st.integers(0, 9)
)
def test_any_lengths_any_quota_any_mode(mode, scripts, more):
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


CARTPOLE = Environment("CartPole-v1")
ENDLESS = Environment("tests.envs:Endless-v0")


def cartpole_sampler(backend, num_envs, **settings):
    return EpisodeSampler(CARTPOLE.make_vector(num_envs, backend), num_envs + 2, **settings)


def actor_for(environment, policy_class=MLPPolicy, **settings):
    torch.manual_seed(0)
    policy = policy_class(environment.observation_space, environment.action_space, **settings)
    return make_actor(policy, environment.action_space)


def cartpole_actor(policy_class=MLPPolicy, **settings):
    return actor_for(CARTPOLE, policy_class, **settings)


@pytest.mark.parametrize(("backend", "num_envs"), BACKENDS)
@pytest.mark.parametrize("policy", [{"dropout": 0.6}, {"policy_class": OwnPolicy, "p": 0.0}], ids=["numpy", "torch"])
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
    actor = actor_for(ENDLESS)
    seen = {}
    for seed, rank, update in itertools.product((0, 1), (0, 1), (0, 1)):
        sampler = EpisodeSampler(ENDLESS.make_vector(3, "sync"), 20, seed, rank, world_size=2)
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
    """One episode each: in later ones the processes spend a step, and so an action, on the reset."""
    actor = cartpole_actor(dropout=0.6)
    samplers = [EpisodeSampler(CARTPOLE.make_vector(3, backend), 3) for backend in ("sync", "async")]
    for first, second in zip(*[tensors(sampler.sample(actor, 4)) for sampler in samplers], strict=True):
        assert torch.equal(first, second)
    samplers[1].close()


@pytest.mark.parametrize(("num_envs", "backend"), [(1, "auto"), (3, "sync")])
def test_a_time_limit_truncates(num_envs, backend):
    episodes = EpisodeSampler(ENDLESS.make_vector(num_envs, backend), 4).sample(Alternating(), 0)
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

    episodes = EpisodeSampler(SyncEnvs([InArray(number=0.5)]), 2).sample(Alternating(), 0)
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


@pytest.mark.parametrize("mode", MODES)
def test_final_observations_come_of_the_last_action_also_when_truncated(mode):
    envs = [lambda: gym.wrappers.TimeLimit(Nested(Counting(lengths=(9,))), 4), lambda: Nested(Counting(1, (2,)))]
    made = SyncEnvs([one() for one in envs]) if mode == "ours" else SyncVectorEnv(envs, autoreset_mode=mode)
    episodes = EpisodeSampler(made, 5).sample(Alternating(), 0)
    assert episodes.truncated.tolist() == [True] * 3 + [False] * 2
    assert flat(episodes.final_observations)[:, [0, 3, 4]].tolist() == [[0, e, 4] for e in range(3)] + [
        [1, e, 2] for e in range(2)
    ]
    assert episodes.final_observations["time"][0].dtype == episodes.observations["time"][0].dtype == torch.int64


def test_final_observations_across_blocks():
    """More ends than a block has steps, out of order over the environments."""
    scripts = [(1, 700), (2,), (650, 3)]
    episodes = EpisodeSampler(counting_vector_env(scripts, "ours"), 300).sample(Alternating(), 0)
    assert flat(episodes.final_observations)[:, 4].tolist() == episodes.lengths.tolist()
    assert len(episodes.final_observations) == 300


class Pixels(Endless):
    """Frames of 28 kB, as of Atari; an episode is 20 timesteps."""

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.full((84, 84, 4), 0, np.uint8), {}

    def step(self, action):
        self.t += 1
        return np.full((84, 84, 4), self.t, np.uint8), 1.0, self.t == 20, False, {}


def test_memory_grows_with_what_was_sampled():
    """E6: of 27,000 possible steps 20 are taken; the room for all of them would be 12 GB."""
    envs = SyncEnvs([gym.wrappers.TimeLimit(Pixels(), 27_000) for _ in range(16)])
    sampled = 16 * 20 * 84 * 84 * 4
    tracemalloc.start()
    episodes = EpisodeSampler(envs, 16).sample(Alternating(), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert episodes.observations.dtype == torch.uint8 and episodes.observations.nbytes == sampled
    assert episodes.observations[:20, 0, 0, 0].tolist() == list(range(20))
    assert peak < 3 * sampled + 2**23


def test_blocks_are_used_again_and_a_shorter_update_lets_go_of_the_rest():
    sampler = EpisodeSampler(counting_vector_env([(2000, 10)], AutoresetMode.SAME_STEP), 1)
    first = sampler.sample(Alternating(), 0)
    assert len(sampler._steps._blocks) == 4
    second = sampler.sample(Alternating(), 1)
    assert first.lengths.tolist() == second.lengths.tolist() == [2000]
    assert len(sampler._steps._blocks) == 4
    sampler.envs.envs[0].unwrapped.lengths = (10,)
    sampler.sample(Alternating(), 2), sampler.sample(Alternating(), 3)
    assert len(sampler._steps._blocks) == 1


def test_an_update_without_an_end_says_so_once(monkeypatch):
    """E7."""
    monkeypatch.setattr("pg_lightning.sampling.sampler.MANY_STEPS", 1000)
    sampler = EpisodeSampler(counting_vector_env([(3000,)], "ours"), 1)
    with pytest.warns(UserWarning, match=r"no episode has ended within 1,000 steps.*max_episode_steps") as seen:
        sampler.sample(Alternating(), 0)
    assert len(seen) == 1
    with warnings.catch_warnings(action="error"):
        sampler.sample(Alternating(), 1)
        EpisodeSampler(counting_vector_env([(900,)], "ours"), 5).sample(Alternating(), 0)


def test_a_vector_environment_that_changes_its_shape_is_named():
    envs = SyncVectorEnv([Counting, Counting])
    step = envs.step
    envs.step = lambda actions: (np.zeros((2, 1), np.float32), *step(actions)[1:])
    with pytest.raises(ValueError, match=r"an observation of shape \(1,\) came, but \(5,\) before"):
        EpisodeSampler(envs, 2).sample(Alternating(), 0)


class Differentiates(Endless):
    """A simulator written in torch: its step differentiates, and it checks the arguments of its distributions."""

    def step(self, action):
        position = torch.tensor(float(self.t), requires_grad=True)
        (velocity,) = torch.autograd.grad(position**2, position)
        with pytest.raises(ValueError, match="constraint"):
            Normal(0.0, -1.0)
        assert Distribution._validate_args is self.validate and not torch.is_inference_mode_enabled()
        self.t += 1
        return np.zeros(1, np.float32), velocity.item(), self.t == 4, False, {}

    def reset(self, *, seed=None, options=None):
        self.t, self.validate = 0, True
        assert torch.is_grad_enabled()
        return np.zeros(1, np.float32), {}


@pytest.mark.parametrize("policy", [MLPPolicy, OwnPolicy])
def test_A11_an_environment_may_differentiate(policy):
    environment = Environment(Differentiates)
    episodes = EpisodeSampler(environment.make_vector(2), 2).sample(
        actor_for(environment, policy, **({} if policy is MLPPolicy else {"p": 0.0})), 0
    )
    assert episodes.rewards.tolist() == [0, 2, 4, 6] * 2
    assert Distribution._validate_args is True


def test_observations_keep_their_integers_and_take_the_floats_of_the_policy():
    space = gym.spaces.Dict({"n": gym.spaces.Discrete(7), "x": gym.spaces.Box(-1, 1, (2,), np.float64)})
    environment = Environment("tests.envs:Spaces-v0", {"observations": space, "actions": gym.spaces.Discrete(2)})
    for dtype in (torch.float32, torch.float64):
        policy = MLPPolicy(environment.observation_space, environment.action_space).to(dtype)
        sampler = EpisodeSampler(environment.make_vector(3), 3)
        episodes = sampler.sample(make_actor(policy, environment.action_space), 0)
        kinds = {"n": torch.int64, "x": dtype}
        for observations in (episodes.observations, episodes.final_observations):
            assert tree_map(lambda leaf: leaf.dtype, observations) == kinds
        assert episodes.log_probs.dtype == dtype and episodes.rewards.dtype == torch.float64
