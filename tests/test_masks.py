"""Action masks, from the environment through sampling and learning to ``act``."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn
from torch.distributions import Categorical

from pg_lightning import Environment, EpisodeDataModule, EpisodeSampler, MLPPolicy, Reinforce
from pg_lightning.sampling.actors import make_actor
from pg_lightning.sampling.reading import ObservationReader
from tests.helpers import trainer

ACTIONS = {"discrete": Discrete(4, start=2), "multidiscrete": MultiDiscrete([2, 3], start=[1, 0])}


class Masked(gym.Env):
    """Random masks in episodes of three to five timesteps; the last observation comes with none, or one of zeros.

    Args:
        actions: kind of action.
        where: the mask is in the ``observation``, in the ``info``, or in the ``info`` as a ``tuple`` of parts.
        fault: what goes wrong in the third timestep: ``all`` actions are forbidden, a mask is ``short`` or ``missing``.
    """

    def __init__(self, actions: str = "discrete", where: str = "info", fault: str = "") -> None:
        self.action_space, self.where, self.fault = ACTIONS[actions], where, fault
        self.sizes = [4] if actions == "discrete" else [2, 3]
        number = Box(0, 1, (1,), np.float32)
        mask = {"action_mask": MultiBinary(sum(self.sizes))}
        self.observation_space = Dict({"number": number, **mask}) if where == "observation" else number

    def _emit(self):
        last = self.t == self.length
        self.parts = [self.np_random.permutation(np.arange(size) == 0).astype(np.int8) for size in self.sizes]
        self.parts = [part | self.np_random.integers(0, 2, len(part), np.int8) for part in self.parts]
        mask = np.concatenate(self.parts) * (not last)
        number = np.array([self.np_random.random()], np.float32)
        if self.t == 2 and self.fault and not last:
            mask = {"all": 0 * mask, "short": mask[1:], "missing": None}[self.fault]
        if self.where == "observation":
            return {"number": number, "action_mask": mask}, {}
        if last or mask is None:  # As many environments do, it says nothing at the end.
            return number, {}
        return number, {"action_mask": tuple(self.parts) if self.where == "tuple" else mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(3, 6))
        return self._emit()

    def step(self, action):
        assert self.action_space.contains(action)
        chosen = np.atleast_1d(action - self.action_space.start)
        assert all(part[index] for part, index in zip(self.parts, chosen, strict=True)), "a masked action was taken"
        self.t += 1
        observation, info = self._emit()
        return observation, float(np.sum(chosen)), self.t == self.length, False, info


gym.register("Masked-v0", entry_point=Masked)
sources = pytest.mark.parametrize("where", ["observation", "info", "tuple"])
kinds = pytest.mark.parametrize("actions", ACTIONS)


def policy_for(env, make=MLPPolicy):
    torch.manual_seed(0)
    return make(env.observation_space, env.action_space)


def sampled(envs, policy, update=0, greedy=False):
    space = envs.single_action_space
    return EpisodeSampler(envs, 2 * envs.num_envs).sample(make_actor(policy, space, greedy), update)


def check(episodes, policy, choices):
    """The masks are those under which the log-probs were recorded, and forbid something."""
    (mask,) = episodes.action_masks
    assert mask.shape == (episodes.num_timesteps, choices) and mask.dtype == torch.bool and not mask.all()
    with torch.no_grad():
        log_probs = policy(episodes.observations, mask).log_prob(episodes.actions)
    torch.testing.assert_close(log_probs, episodes.log_probs, atol=1e-6, rtol=1e-5)


@kinds
@sources
@pytest.mark.parametrize("greedy", [False, True])
def test_masked_actions_are_never_taken(actions, where, greedy):
    env = Environment(partial(Masked, actions, where))
    policy = policy_for(env)
    for update in range(5):
        episodes = sampled(env.make_vector(7), policy, update, greedy)
        check(episodes, policy, 4 if actions == "discrete" else 5)
        assert where != "observation" or set(episodes.observations) == set(episodes.final_observations) == {"number"}


@kinds
@pytest.mark.parametrize("where", ["observation", "info"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_masks_of_other_vector_environments(actions, where, mode):
    envs = SyncVectorEnv([partial(Masked, actions, where)] * 5, autoreset_mode=mode)
    policy = policy_for(Masked(actions, where))
    check(sampled(envs, policy), policy, 4 if actions == "discrete" else 5)


@sources
def test_masks_of_environments_in_processes(where):
    envs = Environment("tests.test_masks:Masked-v0", {"where": where, "actions": "multidiscrete"}).make_vector(
        2, "async"
    )
    try:
        policy = policy_for(Masked("multidiscrete", where))
        check(sampled(envs, policy), policy, 5)
    finally:
        envs.close()


@kinds
@sources
def test_masks_are_learnt_with(actions, where):
    torch.manual_seed(0)
    agent = Reinforce(partial(Masked, actions, where), MLPPolicy)
    trainer(3).fit(agent, EpisodeDataModule(num_envs=8))
    assert agent.metrics["policy_lag"] < 1e-5


@pytest.mark.parametrize("where", ["observation", "info"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("all", r"step 2: the environment failed: ValueError: environment \d forbids all actions"),
        (
            "short",
            "step 1: the environment failed: EnvironmentFault: an action_mask of 3 numbers came, but one of 4 before",
        ),
        ("missing", r"step 2: the environment failed: ValueError: environment \d gave no action_mask in its info"),
    ],
)
def test_bad_masks_are_named(where, fault, message):
    if where == "observation" and fault != "all":
        pytest.skip("the space of the observation has the mask's shape")
    env = Environment(partial(Masked, "discrete", where, fault))
    with pytest.raises(ValueError, match=message):
        sampled(env.make_vector(3), policy_for(env))


@pytest.mark.parametrize(
    ("space", "mask", "message"),
    [
        (Discrete(3), [[0, 1]], r"an action_mask of 2 numbers came, but Discrete\(3\) needs 3"),
        (MultiDiscrete([2, 2]), [[1, 1, 1]], r"an action_mask of 3 numbers came, but MultiDiscrete\(\[2 2\]\) needs 4"),
        (MultiDiscrete([2, 2]), [[1, 1, 0, 0]], "environment 0 forbids all actions"),
        (Box(-1, 1, (2,)), [[0, 1]], r"an action_mask came for the action space Box.*: wrap the environment"),
    ],
)
def test_masks_that_do_not_fit_the_action_space(space, mask, message):
    reader = ObservationReader(Box(0, 1, (1,)), space, takes_masks=True)
    with pytest.raises(ValueError, match=message):
        reader.read(np.zeros((1, 1)), {"action_mask": np.array(mask)})


def test_a_mask_must_come_always_or_never():
    reader = ObservationReader(Box(0, 1, (1,)), Discrete(2), takes_masks=True)
    reader.read(np.zeros((1, 1)), {})
    with pytest.raises(ValueError, match="the info must hold an action_mask after every reset and step, or never"):
        reader.read(np.zeros((1, 1)), {"action_mask": np.ones((1, 2))})


def test_idle_environments_may_forbid_all():
    reader = ObservationReader(Box(0, 1, (1,)), Discrete(2), takes_masks=True)
    infos = {"action_mask": np.array([[0, 0], [0, 1], [0, 0]]), "_action_mask": np.array([True, True, False])}
    _, (allowed,) = reader.read(np.zeros((3, 1)), infos, idle=np.array([True, False, True]))
    assert allowed.tolist() == [[True, True], [False, True], [True, True]]


# Policies of one's own


class TakesMask(nn.Module):
    """A user's policy with an argument for the mask."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.net = nn.Linear(1, 4)

    def forward(self, observations, action_mask):
        observations = observations["number"] if isinstance(observations, dict) else observations
        return Categorical(logits=self.net(observations).masked_fill(~action_mask, -1e9))


class ReadsMask(TakesMask):
    """A user's policy that finds the mask in the observation."""

    def forward(self, observations):
        return super().forward(observations, observations["action_mask"].bool())


@sources
def test_a_policy_of_ones_own_gets_the_mask_as_an_argument(where):
    env = Environment(partial(Masked, "discrete", where))
    policy = policy_for(env, TakesMask)
    check(sampled(env.make_vector(5), policy), policy, 4)
    agent = Reinforce(partial(Masked, "discrete", where), TakesMask)
    trainer(2).fit(agent, EpisodeDataModule(num_envs=4))


def test_without_the_argument_the_observation_keeps_its_mask():
    env = Environment(partial(Masked, "discrete", "observation"))
    policy = policy_for(env, ReadsMask)
    episodes = sampled(env.make_vector(5), policy)
    assert episodes.action_masks == () and episodes.observations["action_mask"].shape == (episodes.num_timesteps, 4)
    agent = Reinforce(partial(Masked, "discrete", "observation"), ReadsMask)
    trainer(2).fit(agent, EpisodeDataModule(num_envs=4))


# act


@kinds
@sources
@pytest.mark.parametrize("greedy", [False, True])
def test_act_keeps_to_the_mask(actions, where, greedy):
    agent = Reinforce(partial(Masked, actions, where), MLPPolicy)
    env = Masked(actions, where)
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        ended = False
        while not ended:
            action = agent.act(observation, greedy, action_mask=info.get("action_mask"))
            observation, _, ended, _, info = env.step(action)


def test_act_without_a_mask_is_refused_where_the_environment_has_masks():
    agent = Reinforce(Masked, MLPPolicy)
    observation, info = Masked().reset(seed=0)
    with pytest.raises(
        ValueError, match=r"Masked says which actions are allowed: hand in action_mask=info\['action_mask'\]"
    ):
        agent.act(observation)
    agent.act(observation, action_mask=info["action_mask"])
    assert Environment("CartPole-v1").has_action_masks is False
    assert Environment(partial(Masked, where="observation")).has_action_masks is True


def test_act_refuses_a_mask_that_the_policy_ignores():
    agent = Reinforce(partial(Masked, where="observation"), ReadsMask)
    observation, _ = Masked(where="observation").reset(seed=0)
    with pytest.raises(ValueError, match="the policy's forward has no argument action_mask"):
        agent.act(observation, action_mask=observation["action_mask"])


def test_taxi_is_played_with_its_masks():
    envs = Environment("Taxi-v4", max_episode_steps=20).make_vector(3)
    episodes = sampled(envs, policy_for(envs.envs[0]))
    (mask,) = episodes.action_masks
    assert mask.shape[1] == 6 and mask.gather(1, episodes.actions[:, None]).all() and not mask.all()
