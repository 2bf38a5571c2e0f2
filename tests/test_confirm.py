"""A solution is confirmed by fresh episodes of the policy as it would be deployed."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from pg_lightning import EpisodeDataModule, MLPPolicy, NoBaseline, NoNormalization, StopAtRewardThreshold
from pg_lightning.callbacks.confirm import UPDATES_BETWEEN
from pg_lightning.evaluation import Evaluation, bootstrap_interval, evaluate
from pg_lightning.sampling.playing import play
from tests.helpers import plain, trainer, weights_of


class Matching(gym.Env):
    """Pays 1 for the action that differs from the one before: a policy that plays the same again gets nothing."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.last = 0, None
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        reward, self.last = float(self.last is not None and action != self.last), action
        return np.zeros(1, np.float32), reward, self.t == 20, False, {}


gym.register("Matching-v0", entry_point=Matching, reward_threshold=4.0)


class Even(nn.Module):
    """Both actions are equally probable, whatever is learnt: sampled they often differ, greedy never."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, observations):
        return torch.distributions.Categorical(logits=torch.zeros(len(observations), 2) + 0 * self.unused)


class Modeless(Even):
    def forward(self, observations):
        base = super().forward(observations)
        base.__class__ = NoMode
        return base


class NoMode(torch.distributions.Categorical):
    @property
    def mode(self):
        raise NotImplementedError


def fit(stop, max_steps=25, policy=Even, **settings):
    agent = plain("Matching-v0", policy=policy, baseline=NoBaseline(), normalization=NoNormalization())
    fitted = trainer(max_steps, callbacks=[stop], **settings)
    fitted.fit(agent, EpisodeDataModule(num_envs=4, backend="sync"))
    return agent, fitted


def test_a_policy_whose_deployed_form_fails_is_not_called_solved(capsys):
    stop = StopAtRewardThreshold(min_episodes=4)
    _, fitted = fit(stop)
    assert stop.passed and not stop.solved and stop.reason is None and fitted.global_step == 25
    assert stop.confirmation.attempts == 3  # After updates 1, 11 and 21.
    out = capsys.readouterr().out.splitlines()
    refused = "0.0 [0.0, 0.0] over 100 episodes of greedy actions do not exceed 4; training goes on"
    assert [line for line in out if "Not confirmed" in line] == [
        f"Not confirmed (attempt {attempt}): {refused}" for attempt in (1, 2, 3)
    ]
    assert out[-1].startswith("Not solved after 100 episodes: the running reward")
    assert out[-1].endswith("exceeds 4, which was not confirmed; max_steps=25 is reached; attempts to confirm: 3.")
    assert stop.confirmation.env_steps == 3 * 100 * 20


def test_sampled_actions_confirm_where_they_are_what_is_deployed(capsys):
    stop = StopAtRewardThreshold(min_episodes=4, confirm="sampled")
    _, fitted = fit(stop)
    assert stop.solved and fitted.global_step == 1
    result = stop.confirmation.result
    assert result.episodes == 100 and result.low < result.mean < result.high and abs(result.mean - 9.5) < 1
    assert capsys.readouterr().out.splitlines()[-1] == f"Solved and confirmed after 4 episodes: {result} exceeds 4."


def test_a_policy_without_a_mode_is_confirmed_by_sampled_actions(capsys):
    stop = StopAtRewardThreshold(min_episodes=4)
    fit(stop, policy=Modeless)
    assert stop.solved and stop.confirmation.actions == "sampled"
    assert "no mode: sampled actions confirm" in capsys.readouterr().out


def test_without_confirmation_the_running_reward_decides(capsys):
    stop = StopAtRewardThreshold(min_episodes=4, confirm_episodes=0)
    assert fit(stop)[1].global_step == 1 and stop.solved and stop.confirmation is None
    assert "Solved (not confirmed) after 4 episodes: the running reward" in capsys.readouterr().out


def test_training_is_untouched_by_attempts():
    """Also torch's generator, from which a policy may draw."""
    states = []
    for confirm_episodes in (5, 0):
        torch.manual_seed(1)
        # Without confirmation the threshold is out of reach, so that both go on to the end.
        stop = StopAtRewardThreshold(
            4.0 if confirm_episodes else 1e9, min_episodes=4, confirm_episodes=confirm_episodes
        )
        agent, fitted = fit(stop, policy=partial(MLPPolicy, hidden_sizes=(8,)))
        assert fitted.global_step == 25 and (confirm_episodes == 0 or stop.confirmation.attempts == 3)
        states.append((weights_of(agent), torch.rand(3)))
    (before, noise), (after, noise_after) = states
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert torch.equal(noise, noise_after)


def test_each_attempt_plays_other_episodes_and_an_evaluation_the_same():
    agent = plain("CartPole-v1")
    first, again, other = (
        play(agent.policy, "CartPole-v1", 5, greedy=False, draw=draw).observations for draw in (1, 1, 2)
    )
    assert torch.equal(first, again) and first[0].ne(other[0]).all()


def test_attempts_survive_a_resume(tmp_path):
    whole, part = StopAtRewardThreshold(min_episodes=4), StopAtRewardThreshold(min_episodes=4)
    fit(whole)
    _, fitted = fit(part, max_steps=12)
    fitted.save_checkpoint(tmp_path / "agent.ckpt")
    resumed = StopAtRewardThreshold(min_episodes=4)
    agent = plain("Matching-v0", policy=Even, baseline=NoBaseline(), normalization=NoNormalization())
    after = trainer(25, callbacks=[resumed])
    after.fit(agent, EpisodeDataModule(num_envs=4, backend="sync"), ckpt_path=tmp_path / "agent.ckpt")
    assert resumed.confirmation.attempts == 3
    for name in ("attempts", "next_update", "env_steps"):
        assert getattr(resumed.confirmation, name) == getattr(whole.confirmation, name), name
    assert resumed.confirmation.next_update == 21 + UPDATES_BETWEEN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confirm_episodes": -1}, "confirm_episodes must be at least 1, or 0 for no confirmation, not -1"),
        ({"confirm": "best"}, "confirm must be 'greedy' or 'sampled', not 'best'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        StopAtRewardThreshold(**options)


def test_an_evaluation_says_what_its_episodes_were():
    agent = plain("CartPole-v1")
    episodes = play(agent.policy, "CartPole-v1", 20, greedy=False)
    one = evaluate(episodes.outcome())
    returns = episodes.returns.numpy()
    assert one.episodes == 20 and one.mean == returns.mean() and one.std == returns.std(ddof=1)
    assert (one.min, one.max, one.length) == (returns.min(), returns.max(), returns.mean()) and one.truncated == 0
    assert str(Evaluation(3, 1.0, 0.5, 1.5, 1, 0, 2, 5, 0)) == "1.0 [0.5, 1.5] over 3 episodes"


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.exponential(size=50), seed=trial) for trial in range(200)]
    covered = np.mean([low <= 1 <= high for low, high in intervals])
    assert 0.88 < covered < 0.98  # Percentile intervals of 50 skewed values cover a little less than 95 %.
