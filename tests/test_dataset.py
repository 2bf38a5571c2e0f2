"""EpisodeDataModule: the time limit of evaluations, and an environment that is not the agent's."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pg_lightning import EpisodeDataModule, Reinforce
from pg_lightning.cli import main
from pg_lightning.envs import Environment
from tests.envs import Counting, Endless
from tests.helpers import trainer
from tests.runs import QUIET, folder  # noqa: F401


class Skipping(gym.Wrapper):
    """Repeats each action three times."""

    def step(self, action):
        for _ in range(3):
            last = self.env.step(action)
        return last


class NativeEndless(VectorEnv):
    """A vectorised Endless of its own, which takes no time limit."""

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = Endless.observation_space, Endless.action_space

    def reset(self, *, seed=None, options=None):
        return np.zeros((self.num_envs, 1), np.float32), {}

    def step(self, actions):
        no = np.zeros(self.num_envs, bool)
        return np.zeros((self.num_envs, 1), np.float32), np.ones(self.num_envs), no, no, {}


class LimitedNative(NativeEndless):
    """The same, with a time limit."""

    def __init__(self, num_envs: int = 1, max_episode_steps: int = 10**9) -> None:
        super().__init__(num_envs)
        self.limit = max_episode_steps

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return super().reset()

    def step(self, actions):
        self.t += 1
        observations, rewards, no, _, infos = super().step(actions)
        return observations, rewards, no, no | (self.t % (self.limit + 1) == self.limit), infos


gym.register("Unlimited-v0", entry_point=Endless)
gym.register("UnlimitedNative-v0", entry_point=Endless, vector_entry_point=NativeEndless)
gym.register("LimitedNative-v0", entry_point=Endless, vector_entry_point=LimitedNative)


def predicted(env, **settings):
    """Episodes that predict plays, and the warnings about them."""
    agent, data = Reinforce(env), EpisodeDataModule(eval_episodes=5, num_envs=2, **settings)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (episodes,) = trainer().predict(agent, data)
    return episodes, [str(one.message) for one in said if "eval" in str(one.message)]


CUT = ["evaluation cut 5 of 5 episodes after 7 steps (eval_max_steps): they count as truncated"]


@pytest.mark.parametrize(
    ("env", "backend"),
    [
        ("tests.test_dataset:Unlimited-v0", "auto"),
        ("tests.test_dataset:Unlimited-v0", "async"),
        ("tests.test_dataset:UnlimitedNative-v0", "auto"),
        ("tests.test_dataset:UnlimitedNative-v0", "native"),
        ("tests.test_dataset:LimitedNative-v0", "native"),
        (Endless, "sync"),
        (Endless, "async"),
        (Environment(Endless, wrappers=[Skipping]), "auto"),
        (Environment(Endless, wrappers=[Skipping]), "async"),
    ],
)
def test_an_evaluation_without_a_time_limit_ends(env, backend):
    episodes, said = predicted(env, backend=backend, eval_max_steps=7)
    assert episodes.lengths.tolist() == [7] * 5
    assert episodes.truncated.all() and not episodes.terminated.any() and said == CUT


def test_only_what_was_cut_is_counted():
    """Episodes of 3, 9, 3, 3 and 9 timesteps; those that truncate themselves are not cut by the evaluation."""
    for truncate in (False, True):
        env = Environment(Counting, {"lengths": (3, 9), "truncate": truncate})
        episodes, said = predicted(env, eval_max_steps=7)
        assert sorted(episodes.lengths.tolist()) == [3, 3, 3, 7, 7]
        assert [line[:31] for line in said] == ["evaluation cut 2 of 5 episodes "]
        episodes, said = predicted(env, eval_max_steps=10)
        assert sorted(episodes.lengths.tolist()) == [3, 3, 3, 9, 9] and not said
        assert episodes.truncated.tolist() == [truncate] * 5
        episodes, said = predicted(env, eval_max_steps=None)
        assert sorted(episodes.lengths.tolist()) == [3, 3, 3, 9, 9] and not said
    episodes, said = predicted(Environment(Counting, {"lengths": (7,)}), eval_max_steps=7)
    assert episodes.lengths.tolist() == [7] * 5 and episodes.terminated.all() and not said


@pytest.mark.parametrize(
    "env", [Environment(Endless, max_episode_steps=9), lambda: gym.make("tests.envs:Endless-v0", max_episode_steps=9)]
)
def test_a_time_limit_of_its_own_stays(env):
    episodes, said = predicted(env, eval_max_steps=7)
    assert episodes.lengths.tolist() == [9] * 5 and not said


def test_training_is_not_cut_and_one_line_tells_of_all_validations():
    env = Environment(Counting, {"lengths": (9,)})
    agent, data = Reinforce(env), EpisodeDataModule(eval_episodes=3, num_envs=2, eval_max_steps=7)
    fitted = trainer(4, limit_val_batches=1.0, val_check_interval=2, num_sanity_val_steps=0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted.fit(agent, data)
    assert agent.metrics["episode_length"] == 9
    lines = [str(one.message) for one in said if "eval" in str(one.message)]
    assert [line[:33] for line in lines] == ["evaluation cut 12 of 12 episodes "]  # Two times, sampled and greedy.


def test_a_limit_that_cannot_be():
    with pytest.raises(ValueError, match="eval_max_steps must be at least 1 timestep, or null, not 0"):
        EpisodeDataModule(eval_max_steps=0)


def test_from_the_command_line(capsys):
    playing = ["test", "--untrained", "true", *QUIET[:4], "--data.eval_episodes", "2"]
    with pytest.warns(UserWarning, match=r"evaluation cut 4 of 4 episodes after 5 steps \(eval_max_steps\)"):
        main([*playing, "--env.id", "tests.test_dataset:Unlimited-v0", "--data.eval_max_steps", "5"])
    assert "100 %" in capsys.readouterr().out


def test_where_a_limit_is_counted():
    """As max_episode_steps where there are no wrappers, above them where there are."""
    assert Environment("Pendulum-v1").with_time_limit(7) == Environment("Pendulum-v1")
    assert Environment(Endless).with_time_limit(7) == Environment(Endless, max_episode_steps=7)
    env = Environment(Endless, wrappers=[Skipping]).with_time_limit(7).make()
    assert type(env) is gym.wrappers.TimeLimit and type(env.env) is Skipping


@pytest.mark.parametrize(
    ("env", "kind"),
    [("Acrobot-v1", "observation_space"), (lambda: gym.make("MountainCar-v0"), "observation_space")],
)
@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_an_environment_with_other_spaces_than_the_agents(env, kind, stage):
    agent, data = Reinforce("CartPole-v1"), EpisodeDataModule(env, num_envs=2)
    with pytest.raises(
        ValueError, match=rf"^the data's environment .* has the {kind} Box.*was made for CartPole-v1 with"
    ):
        getattr(trainer(), stage)(agent, data)


def test_an_environment_with_other_actions_than_the_agents():
    agent, data = Reinforce("MountainCar-v0"), EpisodeDataModule("MountainCarContinuous-v0", num_envs=2)
    with pytest.raises(
        ValueError, match=r"MountainCarContinuous-v0 has the action_space Box.* but the agent was made for"
    ):
        trainer().fit(agent, data)


def test_another_environment_with_the_agents_spaces():
    """Such as one of another length."""
    agent = Reinforce("CartPole-v1")
    trainer().fit(agent, EpisodeDataModule(Environment("CartPole-v1", max_episode_steps=4), num_envs=2))
    assert agent.metrics["episode_length"] == 4


class Mixture(nn.Module):
    """Its distribution, of two Gaussians, has no mode that torch knows."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.means = nn.Linear(observation_space.shape[0], 2)

    def forward(self, observations):
        parts = Independent(Normal(self.means(observations)[..., None], 1.0), 1)
        return MixtureSameFamily(Categorical(torch.ones(len(observations), 2)), parts)


def test_C7_a_policy_without_a_mode_is_evaluated_by_sampled_episodes():
    agent = Reinforce(Environment("Pendulum-v1", max_episode_steps=5), policy=Mixture)
    with pytest.warns(UserWarning, match="has no mode: sampled episodes only"):
        (results,) = trainer().test(agent, EpisodeDataModule(num_envs=2, eval_episodes=3), verbose=False)
    assert results.keys() == {"sampled_return_mean", "sampled_return_std", "sampled_episodes"}
    assert results["sampled_episodes"] == 3
