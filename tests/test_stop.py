import math
import re

import gymnasium as gym
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from pg_lightning import EpisodeDataModule, EpisodeLines, NoBaseline, NoNormalization, StopAtRewardThreshold
from pg_lightning.callbacks import UpdateProgressBar
from pg_lightning.callbacks.stop import verdict
from pg_lightning.episodes import Outcome
from tests.helpers import plain, trainer, weights_of

LENGTH, RETURN = 3, 7.5


class Steady(gym.Env):
    """Episodes of 3 timesteps with a return of 7.5, whatever is done; of another return, if asked for."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, returns: float = RETURN) -> None:
        self.reward = returns / LENGTH

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.ones(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.ones(2, np.float32), self.reward, self.t == LENGTH, False, {}


for name, threshold in {"Unrated": None, "Rated": 7.0, "Exact": RETURN, "Odd": math.inf, "Negative": -100.0}.items():
    gym.register(f"Steady{name}-v0", entry_point=Steady, reward_threshold=threshold)


class Saved(Callback):
    """Saves a checkpoint after an update, as a kill right behind would leave it."""

    def __init__(self, path, update):
        self.path, self.update = path, update

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.update:
            trainer.save_checkpoint(self.path)


def fit(stop, env="SteadyRated-v0", max_steps=5, num_envs=4, callbacks=(), ckpt_path=None, agent=None, **settings):
    """Train on episodes whose numbers are known; return the Trainer."""
    if agent is None:
        agent = plain(env, baseline=NoBaseline(), normalization=NoNormalization())
    fitted = trainer(max_steps, callbacks=[stop, *callbacks], **settings)
    fitted.fit(agent, EpisodeDataModule(agent.env, num_envs=num_envs), ckpt_path=ckpt_path, weights_only=True)
    return fitted


def last_line(capsys):
    return capsys.readouterr().out.splitlines()[-1]


# When it ends


def test_training_ends_when_enough_episodes_exceed_the_threshold(capsys):
    stop = StopAtRewardThreshold(min_episodes=10)
    fitted = fit(stop)
    assert fitted.global_step == 3 and stop.solved and stop.reason == "solved" and stop.threshold == 7.0
    assert stop.running_reward.episodes == 12
    assert last_line(capsys) == "Solved and confirmed after 12 episodes: 7.5 [7.5, 7.5] over 100 episodes exceeds 7."


def test_at_least_100_episodes_by_default(capsys):
    stop = StopAtRewardThreshold()
    assert fit(stop, max_steps=24).global_step == 24 and not stop.solved and stop.reason is None
    assert last_line(capsys) == (
        "Not solved after 96 episodes: the running reward 7.50 exceeds 7, but at least 100 episodes are needed; "
        "max_steps=24 is reached."
    )
    stop = StopAtRewardThreshold()
    assert fit(stop, max_steps=40).global_step == 25 and stop.solved


def test_the_threshold_must_be_exceeded(capsys):
    stop = StopAtRewardThreshold(min_episodes=0, decay=0)
    assert fit(stop, "SteadyExact-v0").global_step == 5 and not stop.solved
    assert last_line(capsys) == (
        "Not solved after 20 episodes: the running reward 7.50 does not exceed 7.5; max_steps=5 is reached."
    )


@pytest.mark.parametrize("min_episodes", [0, 10])
def test_a_start_above_the_threshold_solves_nothing(min_episodes):
    """Acrobot's case: from 10, an average of returns of -491 stays above -100 for a long time."""
    stop = StopAtRewardThreshold(min_episodes=min_episodes)
    agent = plain(
        {"id": "SteadyNegative-v0", "kwargs": {"returns": -491.0}},
        baseline=NoBaseline(),
        normalization=NoNormalization(),
    )
    assert fit(stop, agent=agent, max_steps=20).global_step == 20
    assert not stop.solved and stop.running_reward.average().item() == pytest.approx(-491)


def test_an_initial_value_is_nobodys_reward():
    stop = StopAtRewardThreshold(threshold=5, initial=10, min_episodes=0)
    assert not stop.solved
    stop.threshold = None
    assert not stop.solved


@pytest.mark.parametrize("env", ["SteadyUnrated-v0", "SteadyOdd-v0"])
def test_without_a_threshold_there_is_nothing_to_solve(env, capsys):
    stop = StopAtRewardThreshold(min_episodes=0)
    assert fit(stop, env, max_steps=2).global_step == 2 and stop.threshold is None and not stop.solved
    line = last_line(capsys)
    assert line == (
        "Ended after 8 episodes: the running reward is 7.50; there is no threshold to reach; max_steps=2 is reached."
    )


def test_the_verdict_before_any_episode():
    assert verdict(StopAtRewardThreshold(threshold=5, initial=10), trainer()) == "No episode was played."


def test_a_budget_of_env_steps_ends_the_run_at_the_first_update_that_reaches_it(capsys):
    for budget, updates in {1: 1, 12: 1, 13: 2, 30: 3}.items():
        stop = StopAtRewardThreshold(max_env_steps=budget)
        assert fit(stop, "SteadyUnrated-v0").global_step == updates and stop.reason == "max_env_steps"
    assert last_line(capsys) == (
        "Ended after 12 episodes: the running reward is 7.50; there is no threshold to reach; "
        "max_env_steps=30 is reached."
    )


def test_env_steps_that_were_taken_count_not_those_that_were_learnt_from():
    agent = plain("SteadyUnrated-v0", baseline=NoBaseline(), normalization=NoNormalization())
    agent.num_env_steps.add_(1000)
    stop = StopAtRewardThreshold(max_env_steps=1013)
    assert fit(stop, agent=agent).global_step == 2 and agent.num_timesteps == 24


# What is compared


def test_the_last_timestep_is_not_compared_with_a_threshold_of_returns(capsys):
    stop = StopAtRewardThreshold(statistic="last_timestep", min_episodes=0)
    with pytest.raises(ValueError, match=r"'last_timestep' cannot be compared .* own reward threshold 7, .*: give a t"):
        fit(stop)
    stop = StopAtRewardThreshold(threshold=1.5, statistic="last_timestep", min_episodes=0, initial=10, decay=0.5)
    assert fit(stop).global_step == 1 and stop.solved
    assert stop.running_reward.average().item() == 10 / 16 + 2 * 15 / 16  # The index of the last timestep is 2.
    stop = StopAtRewardThreshold(statistic="last_timestep")
    assert fit(stop, "SteadyUnrated-v0", max_steps=1).global_step == 1


def test_a_threshold_of_ones_own_wins():
    stop = StopAtRewardThreshold(threshold=8.0, min_episodes=0)
    assert fit(stop).global_step == 5 and stop.threshold == 8.0 and not stop.solved


def test_it_reads_the_episodes_of_all_processes_and_publishes_the_running_reward():
    class Agent(pl.LightningModule):
        metrics = {}
        num_env_steps = torch.tensor(9)

    stop, agent, idle = StopAtRewardThreshold(decay=0.5), Agent(), trainer()
    outcome = Outcome(torch.tensor([1.0, 4.0]), torch.tensor([3, 6]), torch.tensor([False, False]), torch.tensor(9))
    stop.on_train_batch_end(idle, agent, {"outcome": outcome}, None, 0)
    assert agent.metrics == {"running_reward": pytest.approx(3)}
    published = idle.callback_metrics["running_reward"]
    assert published.shape == () and published.item() == pytest.approx(3)
    assert not idle.should_stop and stop.reason is None


def test_other_callbacks_can_monitor_the_running_reward(tmp_path):
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="running_reward", mode="max", every_n_train_steps=1)
    early = pl.callbacks.EarlyStopping(
        "running_reward", stopping_threshold=7.2, mode="max", check_on_train_epoch_end=True
    )
    fit(StopAtRewardThreshold(), max_steps=2, callbacks=[best, early], enable_checkpointing=True)
    assert best.best_model_score.item() == pytest.approx(RETURN)


def test_a_barebones_trainer_can_stop(recwarn):
    stop = StopAtRewardThreshold(min_episodes=0)
    quiet = {"enable_progress_bar": None, "logger": None, "enable_model_summary": None, "enable_checkpointing": None}
    fitted = fit(stop, limit_val_batches=None, barebones=True, num_sanity_val_steps=None, **quiet)
    assert fitted.global_step == 1 and stop.solved


# Runs that go on


def resumed(path, max_steps=5, env="SteadyRated-v0", **options):
    """Resume with other options of the callback; return it, the number of updates, and whether the weights changed."""
    stop = StopAtRewardThreshold(**{"min_episodes": 0} | options)
    agent = plain(env, baseline=NoBaseline(), normalization=NoNormalization())
    fitted = fit(stop, agent=agent, ckpt_path=path, max_steps=max_steps)
    saved = torch.load(path, weights_only=True)["state_dict"]
    unchanged = all(torch.equal(saved[name], value) for name, value in agent.state_dict().items())
    return stop, fitted.global_step, unchanged


@pytest.mark.parametrize("killed", [True, False])
def test_a_solved_run_makes_no_further_update(tmp_path, capsys, killed):
    path = tmp_path / "last.ckpt"
    fitted = fit(StopAtRewardThreshold(min_episodes=0), callbacks=[Saved(path, update=1)] if killed else [])
    if not killed:
        fitted.save_checkpoint(path)
    capsys.readouterr()
    for _ in range(3):
        stop, updates, unchanged = resumed(path)
        assert updates == 1 and unchanged and stop.solved and stop.reason == "solved"
        assert last_line(capsys) == "Solved and confirmed after 4 episodes: 7.5 [7.5, 7.5] over 100 episodes exceeds 7."
    state = torch.load(path, weights_only=True)["callbacks"]["StopAtRewardThreshold"]
    assert state["solved"] is True and state["reason"] == "solved"
    assert state["settings"] == {
        "threshold": None,
        "decay": 0.99,
        "initial": None,
        "statistic": "return",
        "min_episodes": 0,
        "max_env_steps": None,
        "confirm_episodes": 100,
        "confirm": "greedy",
        "end_when_solved": True,
    }


def test_a_run_whose_budget_is_used_up_makes_no_further_update(tmp_path):
    path = tmp_path / "last.ckpt"
    fit(StopAtRewardThreshold(max_env_steps=13), callbacks=[Saved(path, update=2)])
    stop, updates, unchanged = resumed(path, min_episodes=100, max_env_steps=13)
    assert updates == 2 and unchanged and stop.reason == "max_env_steps" and not stop.solved
    assert torch.load(path, weights_only=True)["callbacks"]["StopAtRewardThreshold"]["reason"] == "max_env_steps"


@pytest.mark.parametrize(
    ("options", "updates", "solved"),
    [
        ({"threshold": 8.0}, 5, False),
        ({"min_episodes": 10}, 3, True),
        ({"threshold": 7.2}, 1, True),
        ({"threshold": 8.0, "max_env_steps": 25}, 3, False),
    ],
)
def test_a_resumed_run_obeys_the_options_of_now(tmp_path, options, updates, solved):
    path = tmp_path / "last.ckpt"
    fit(StopAtRewardThreshold(min_episodes=0), callbacks=[Saved(path, update=1)])
    stop, reached, unchanged = resumed(path, **options)
    assert (reached, stop.solved, unchanged) == (updates, solved, updates == 1)
    assert stop.running_reward.episodes == 4 * updates


def test_a_larger_budget_lets_a_run_go_on(tmp_path):
    path = tmp_path / "last.ckpt"
    fit(StopAtRewardThreshold(max_env_steps=13), callbacks=[Saved(path, update=2)])
    assert resumed(path, min_episodes=100, max_env_steps=40)[1] == 4


def test_the_running_reward_goes_on(tmp_path):
    path, whole = tmp_path / "last.ckpt", StopAtRewardThreshold(threshold=20.0, initial=10)
    fit(whole, callbacks=[Saved(path, update=2)])
    stop, updates, _ = resumed(path, threshold=20.0, initial=10)
    assert updates == 5 and stop.running_reward.average() == whole.running_reward.average()


def test_the_state_that_was_saved_or_loaded_does_not_change():
    stop, again = StopAtRewardThreshold(), StopAtRewardThreshold()
    stop.running_reward.update(torch.tensor([4.0]))
    state = stop.state_dict()
    again.load_state_dict(state)
    for callback in (stop, again):
        callback.running_reward.update(torch.tensor([9.0]))
        assert state["running_reward"]["episodes"] == 1 and callback.running_reward.episodes == 2


def test_another_statistic_cannot_go_on(tmp_path):
    path = tmp_path / "last.ckpt"
    fit(StopAtRewardThreshold(), callbacks=[Saved(path, update=1)])
    with pytest.raises(
        ValueError, match="'last_timestep' cannot go on with the checkpoint's running reward of 'return'"
    ):
        resumed(path, threshold=9.0, statistic="last_timestep")


def test_a_new_run_with_the_same_callback_starts_anew():
    stop = StopAtRewardThreshold(min_episodes=0)
    for env, solved in {"SteadyRated-v0": True, "SteadyUnrated-v0": False}.items():
        agent = plain(env, baseline=NoBaseline(), normalization=NoNormalization())
        before = weights_of(agent.policy)
        fitted = fit(stop, agent=agent, max_steps=2)
        assert not all(map(torch.equal, before, weights_of(agent.policy)))
        assert stop.solved is solved and stop.running_reward.episodes == 4 * fitted.global_step == 4 * (2 - solved)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": math.nan}, "threshold must be a finite number or None, not nan"),
        ({"threshold": math.inf}, "threshold must be a finite number or None, not inf"),
        ({"threshold": -math.inf}, "threshold must be a finite number or None, not -inf"),
        ({"initial": math.inf}, "initial must be a finite number or None, not inf"),
        ({"initial": math.nan}, "initial must be a finite number or None, not nan"),
        ({"decay": math.nan}, "decay must be at least 0 and below 1, not nan"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1, not 1.0"),
        ({"decay": -0.1}, "decay must be at least 0 and below 1, not -0.1"),
        ({"statistic": "length"}, "statistic must be 'return' or 'last_timestep', not 'length'"),
        ({"min_episodes": -1}, "min_episodes must be at least 0, not -1"),
        ({"max_env_steps": 0}, "max_env_steps must be at least 1 or None, not 0"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        StopAtRewardThreshold(**options)


# Lines


def lines(capsys, every, stop=None, updates=3, num_envs=2):
    callbacks = [EpisodeLines(every)]
    first, *rest = [stop, *callbacks] if stop else callbacks
    fit(first, "SteadyUnrated-v0", max_steps=updates, num_envs=num_envs, callbacks=rest)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("Episode")]


def test_lines_say_what_the_last_episode_was(capsys):
    assert lines(capsys, 4, StopAtRewardThreshold()) == [
        "Episode      1   length     3   return      7.50   running reward      7.50",
        "Episode      5   length     3   return      7.50   running reward      7.50",
    ]
    assert lines(capsys, 1, updates=1) == ["Episode      1   length     3   return      7.50"]
    assert lines(capsys, 0) == []


def test_the_articles_wording_where_the_last_timestep_is_averaged(capsys):
    stop = StopAtRewardThreshold(statistic="last_timestep", initial=10)
    assert lines(capsys, 1, stop, updates=2, num_envs=1) == [
        "Episode      0   last length     3   average length     9.92",
        "Episode      1   last length     3   average length     9.84",
    ]


def test_a_negative_interval():
    with pytest.raises(ValueError, match="every_n_episodes must be at least 0, not -1"):
        EpisodeLines(-1)


# Progress bar


def test_the_bar_shows_updates_episodes_running_reward_and_speed(tmp_path, capsys):
    path, bar = tmp_path / "last.ckpt", {"enable_progress_bar": True}
    fit(StopAtRewardThreshold(), max_steps=2, callbacks=[UpdateProgressBar(), Saved(path, 2)], **bar)
    shown = capsys.readouterr().out.split("\r")[-1]
    assert re.search(r"Updates: 100%.* 2/2 .*episodes=8, running_reward=7\.5, env_steps/s=[\d,]+\]", shown), shown
    fit(StopAtRewardThreshold(), max_steps=5, callbacks=[UpdateProgressBar()], ckpt_path=path, **bar)
    assert re.search(r"Updates: 100%.* 5/5 .*episodes=20, ", capsys.readouterr().out.split("\r")[-1])


def test_the_bar_shows_no_running_reward_where_there_is_none(capsys):
    fit(UpdateProgressBar(), max_steps=1, enable_progress_bar=True)
    assert re.search(r" 1/1 .*episodes=4, env_steps/s=", capsys.readouterr().out.split("\r")[-1])


def test_the_bar_is_closed_before_an_error_is_shown():
    class Fails(Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("no more of this")

    bar = UpdateProgressBar()
    with pytest.raises(RuntimeError, match="no more"):
        fit(bar, callbacks=[Fails()], enable_progress_bar=True)
    assert bar.train_progress_bar.disable  # What tqdm sets on closing.


def test_a_solved_run_may_go_on(tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    stop = StopAtRewardThreshold(min_episodes=10, end_when_solved=False)
    fitted = fit(stop, max_steps=5, callbacks=[Saved(path, update=4)])
    assert fitted.global_step == 5 and stop.solved and stop.reason is None and stop.confirmation.attempts == 1
    first = {name: stop.first_solved[name] for name in ("threshold", "update", "episodes", "env_steps")}
    assert first == {"threshold": 7.0, "update": 3, "episodes": 12, "env_steps": 36}
    solved = "Solved and confirmed after 12 episodes: 7.5 [7.5, 7.5] over 100 episodes exceeds 7"
    assert last_line(capsys) == f"{solved}; max_steps=5 is reached."
    again, updates, _ = resumed(path, min_episodes=10, end_when_solved=False)
    assert updates == 5 and again.first_solved == stop.first_solved and again.confirmation.attempts == 1
    higher, _, _ = resumed(path, threshold=8.0, end_when_solved=False)
    assert not higher.solved
