from dataclasses import replace

import pytest
import torch

from pg_lightning import (
    GAE,
    Baseline,
    Critic,
    EpisodeDataModule,
    EpisodeSampler,
    LinearBaseline,
    MonteCarlo,
    NoNormalization,
    Reinforce,
    ScaledRewards,
)
from pg_lightning.cli import main
from pg_lightning.returns import Values
from pg_lightning.sampling.actors import make_actor
from tests.envs import Counting
from tests.helpers import batch_of, episodes_of, trainer

GAMMA = 0.9


def scripted(truncated=(False, True)):
    """Two episodes: rewards 1, 2, 3 and 4, 5."""
    return episodes_of(rewards=[1.0, 2.0, 3.0, 4.0, 5.0], lengths=[3, 2], truncated=truncated)


VALUES = Values(torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0]).double(), torch.tensor([7.0, 8.0]).double())


def test_monte_carlo_counts_a_truncated_tail_as_terminal():
    expected = torch.tensor([1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3, 3, 4 + 0.9 * 5, 5]).double()
    torch.testing.assert_close(MonteCarlo()(scripted(), VALUES, GAMMA), expected)


def test_monte_carlo_bootstraps_from_the_final_observation():
    expected = torch.tensor([1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3, 3, 4 + 0.9 * 5 + 0.81 * 8, 5 + 0.9 * 8]).double()
    torch.testing.assert_close(MonteCarlo("bootstrap")(scripted(), VALUES, GAMMA), expected)


def test_gae_with_lambda_one_is_monte_carlo():
    for truncation in ("terminal", "bootstrap"):
        returns = GAE(1.0, truncation)(scripted(), VALUES, GAMMA)
        torch.testing.assert_close(returns, MonteCarlo(truncation)(scripted(), VALUES, GAMMA))


def test_gae_with_lambda_zero_is_the_one_step_target():
    expected = torch.tensor([1 + 0.9 * 20, 2 + 0.9 * 30, 3, 4 + 0.9 * 50, 5 + 0.9 * 8]).double()
    torch.testing.assert_close(GAE(0.0)(scripted(), VALUES, GAMMA), expected)


def test_gae_between_by_the_recurrence_of_its_errors():
    errors = [1 + 0.9 * 20 - 10, 2 + 0.9 * 30 - 20, 3 - 30, 4 + 0.9 * 50 - 40, 5 + 0.9 * 8 - 50]
    decay = 0.9 * 0.8
    advantages = [
        errors[0] + decay * errors[1] + decay**2 * errors[2],
        errors[1] + decay * errors[2],
        errors[2],
        errors[3] + decay * errors[4],
        errors[4],
    ]
    found = GAE(0.8)(scripted(), VALUES, GAMMA) - VALUES.values
    torch.testing.assert_close(found, torch.tensor(advantages).double())


def test_a_terminated_episode_is_never_bootstrapped():
    terminated = scripted(truncated=(False, False))
    torch.testing.assert_close(
        GAE(0.5, "bootstrap")(terminated, VALUES, GAMMA), GAE(0.5, "terminal")(terminated, VALUES, GAMMA)
    )


def both_flags():
    """The second episode terminates in the very step of its time limit."""
    return replace(scripted(), terminated=torch.tensor([True, True]))


def test_an_episode_that_terminates_at_its_limit_is_over():
    terminal = GAE(truncation="terminal")(scripted(), VALUES, GAMMA)
    torch.testing.assert_close(GAE()(both_flags(), VALUES, GAMMA), terminal)
    assert MonteCarlo("drop").select(both_flags()).lengths.tolist() == [3, 2]


def test_the_value_after_the_end_of_an_episode_need_not_be_finite():
    values = Values(VALUES.values, torch.tensor([torch.nan, 8.0]).double())
    torch.testing.assert_close(GAE()(scripted(), values, GAMMA), GAE()(scripted(), VALUES, GAMMA))


def test_bootstrap_without_a_critic_warns_once():
    returns = MonteCarlo("bootstrap")
    with pytest.warns(UserWarning, match="'bootstrap' needs a critic"):
        found = returns(scripted(), None, GAMMA)
    torch.testing.assert_close(found, MonteCarlo()(scripted(), None, GAMMA))
    returns(scripted(), None, GAMMA)  # Warnings are errors in these tests.


def test_gae_without_a_critic_is_refused():
    with pytest.raises(ValueError, match=r"GAE needs a critic: use Reinforce\(baseline=Critic\(\)\)"):
        GAE()(scripted(), None, GAMMA)


def test_drop_leaves_out_truncated_episodes():
    kept = MonteCarlo("drop").select(scripted())
    assert kept.lengths.tolist() == [3] and kept.rewards.tolist() == [1.0, 2.0, 3.0]
    assert kept.final_observations.tolist() == scripted().final_observations[:1].tolist()
    with pytest.raises(ValueError, match="all 2 episodes were truncated"):
        MonteCarlo("drop").select(scripted(truncated=(True, True)))


def points(truncated=(False, True)):
    """Two games: the points -1 and 1 of the first, and -1 of the second, which goes on for one more timestep."""
    return episodes_of([0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0], [5, 3], truncated)


POINTS = Values(torch.arange(1.0, 9.0).double(), torch.tensor([70.0, 80.0]).double())


def test_returns_restart_at_each_point():
    found = MonteCarlo(restart_at_rewards=True)(points(), POINTS, GAMMA)
    torch.testing.assert_close(found, torch.tensor([-0.9, -1, 0.81, 0.9, 1, -0.9, -1, 0]).double())
    whole = MonteCarlo()(points(), POINTS, GAMMA)[:2]
    torch.testing.assert_close(whole, torch.tensor([-0.9 + 0.9**4, -1 + 0.9**3]).double())
    found = MonteCarlo("bootstrap", restart_at_rewards=True)(points(), POINTS, GAMMA)
    torch.testing.assert_close(found, torch.tensor([-0.9, -1, 0.81, 0.9, 1, -0.9, -1, 0.9 * 80]).double())


def test_a_point_in_the_last_timestep_is_not_bootstrapped():
    episodes = episodes_of([0.0, 1.0], [2], [True])
    values = Values(torch.tensor([2.0, 3.0]).double(), torch.tensor([7.0]).double())
    for returns in (MonteCarlo("bootstrap", restart_at_rewards=True), GAE(1.0, restart_at_rewards=True)):
        torch.testing.assert_close(returns(episodes, values, GAMMA), torch.tensor([0.9, 1.0]).double())
    torch.testing.assert_close(GAE(1.0)(episodes, values, GAMMA)[1], torch.tensor(1 + 0.9 * 7).double())


def test_lambda_returns_restart_at_each_point():
    errors = [0.9 * 2 - 1, -1 - 2, 0.9 * 4 - 3, 0.9 * 5 - 4, 1 - 5, 0.9 * 7 - 6, -1 - 7, 0.9 * 80 - 8]
    decay = 0.9 * 0.8
    advantages = [
        errors[0] + decay * errors[1],
        errors[1],
        errors[2] + decay * errors[3] + decay**2 * errors[4],
        errors[3] + decay * errors[4],
        errors[4],
        errors[5] + decay * errors[6],
        errors[6],
        errors[7],
    ]
    found = GAE(0.8, restart_at_rewards=True)(points(), POINTS, GAMMA) - POINTS.values
    torch.testing.assert_close(found, torch.tensor(advantages).double())
    for truncation in ("terminal", "bootstrap"):
        torch.testing.assert_close(
            GAE(1.0, truncation, restart_at_rewards=True)(points(), POINTS, GAMMA),
            MonteCarlo(truncation, restart_at_rewards=True)(points(), POINTS, GAMMA),
        )


def test_scaled_rewards_restart_too():
    returns = ScaledRewards(MonteCarlo(restart_at_rewards=True))
    episodes = points()
    found = returns(episodes, None, GAMMA)
    assert returns.fit(batch_of(episodes, found)) == {"reward_scale": 1.0}
    torch.testing.assert_close(returns.scale, found.std(correction=0))
    torch.testing.assert_close(returns(episodes, None, GAMMA), found / returns.scale)


@pytest.mark.parametrize("make", [lambda: GAE(1.5), lambda: GAE(-0.1), lambda: MonteCarlo("ignore")])
def test_arguments_out_of_range(make):
    with pytest.raises(ValueError, match="must be"):
        make()


class Known(Baseline):
    """A critic whose value of an observation of Counting at timestep t is 10 t - 7."""

    def __call__(self, episodes, returns):
        return self.values(episodes).values

    def values(self, episodes):
        found = (10.0 * observations[:, 4].double() - 7 for observations in self.shown(episodes))
        return Values(*found)

    def shown(self, episodes):
        return episodes.observations, episodes.final_observations


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_gae_on_a_scripted_environment(gae_lambda, truncate):
    """Counting pays 100 episode + t + action / 2, and shows t: every number by loops, the final observation's too."""
    env = {"id": "tests.envs:Counting-v0", "kwargs": {"lengths": (4, 1, 3), "truncate": truncate}}
    arguments = {"baseline": Known(), "normalization": NoNormalization(), "gamma": GAMMA}
    agent = Reinforce(env, returns=GAE(gae_lambda), **arguments).double()
    sampler = EpisodeSampler(agent.env.make_vector(1, "sync"), 3)
    batch = agent.estimate(sampler.sample(make_actor(agent.policy, agent.env.action_space), 0))
    actions, expected = iter(batch.episodes.actions.tolist()), []
    for number, length in enumerate((4, 1, 3)):
        rewards = [100.0 * number + t + next(actions) / 2 for t in range(length)]
        values = [10.0 * t - 7 for t in range(length + 1)]
        if not truncate:
            values[-1] = 0.0
        errors = [rewards[t] + GAMMA * values[t + 1] - values[t] for t in range(length)]
        returns = [sum(GAMMA ** (k - t) * rewards[k] for k in range(t, length)) for t in range(length)]
        tails = [GAMMA ** (length - t) * values[-1] for t in range(length)]
        if gae_lambda == 1.0:  # Monte-Carlo minus value.
            expected += [returns[t] + tails[t] - values[t] for t in range(length)]
        elif gae_lambda == 0.0:  # One-step TD errors.
            expected += errors
        else:
            decay = GAMMA * gae_lambda
            expected += [sum(decay ** (k - t) * errors[k] for k in range(t, length)) for t in range(length)]
    assert batch.advantages.tolist() == pytest.approx(expected, rel=1e-12)
    assert batch.episodes.truncated.tolist() == [truncate] * 3


def folded(scaled, episodes):
    """Estimate the returns of an update's episodes, fold them in, and return the estimate and the batch."""
    returns = scaled(episodes, VALUES, GAMMA)
    batch = batch_of(episodes, returns)
    metrics = scaled.fit(batch)
    return returns, batch, metrics


def test_rewards_are_divided_by_the_std_of_all_returns_before():
    scaled, inner = ScaledRewards(), MonteCarlo()
    first, second = scripted(), episodes_of([7.0, -2.0, 30.0], [1, 2])
    unscaled = [inner(episodes, None, GAMMA) for episodes in (first, second)]
    returns, _, metrics = folded(scaled, first)
    torch.testing.assert_close(returns, unscaled[0])
    assert metrics == {"reward_scale": 1.0}
    returns, _, metrics = folded(scaled, second)
    assert metrics["reward_scale"] == pytest.approx(unscaled[0].std(correction=0).item(), rel=1e-12)
    torch.testing.assert_close(returns, unscaled[1] / unscaled[0].std(correction=0))
    everything = torch.cat(unscaled)
    returns, _, metrics = folded(scaled, second)
    assert metrics["reward_scale"] == pytest.approx(everything.std(correction=0).item(), rel=1e-12)
    torch.testing.assert_close(returns, unscaled[1] / everything.std(correction=0))


def test_the_inner_estimator_gets_the_values_as_they_are_and_every_option():
    scaled, inner = ScaledRewards(GAE(0.8)), GAE(0.8)
    folded(scaled, scripted())
    smaller = scripted()
    smaller.rewards = smaller.rewards / scaled.scale
    torch.testing.assert_close(scaled(scripted(), VALUES, GAMMA), inner(smaller, VALUES, GAMMA))
    assert scripted().rewards.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert ScaledRewards(MonteCarlo("drop")).select(scripted()).lengths.tolist() == [3]
    with pytest.raises(ValueError, match="GAE needs a critic"):
        scaled(scripted(), None, GAMMA)


@pytest.mark.parametrize("reward", [0.0, 10.1])
def test_equal_returns_are_not_scaled(reward):
    scaled = ScaledRewards()
    for count in (3, 7):
        episodes = episodes_of([reward] * count, [1] * count)
        assert folded(scaled, episodes)[0].tolist() == episodes.rewards.tolist()


def test_a_batch_is_converted_to_the_scale_of_the_next_update():
    """So that what a critic learns from one update is in the units of the next."""
    scaled, critic = ScaledRewards(), LinearBaseline()
    critic.prepare(Counting.observation_space, torch.nn.Module())
    observations = torch.tensor([[0.0, 0, 0, 0, t] for t in range(40)])
    episodes = episodes_of([1000.0 * (t + 1) for t in range(40)], [40], observations=observations)
    for _ in range(3):
        _, batch, _ = folded(scaled, episodes)
        torch.testing.assert_close(batch.returns, scaled(episodes, None, GAMMA))
        critic.fit(batch)
        assert (critic.values(episodes).values - scaled(episodes, None, GAMMA)).std() < 0.2
    assert scaled.scale > 1000 and batch.returns.std() < 2


@pytest.mark.parametrize("baseline", [LinearBaseline, lambda: Critic(epochs=200, minibatch_size=30)])
def test_a_critic_keeps_up_with_the_scale_in_a_run(baseline):
    """Rewards of hundreds, unscaled in the first update: what is predicted in the second has its scale."""
    torch.manual_seed(0)
    env = {"id": "tests.envs:Counting-v0", "kwargs": {"lengths": (9, 30)}}
    agent = Reinforce(env, returns=ScaledRewards(GAE()), baseline=baseline())
    seen = []
    fit = agent.returns.fit

    def watched(batch):
        seen.append((batch.baseline.clone(), batch.returns.clone()))
        return fit(batch)

    agent.returns.fit = watched
    trainer(3).fit(agent, EpisodeDataModule(num_envs=2, episodes_per_update=4))
    assert agent.metrics["reward_scale"] > 100 and agent.returns.count == 3 * 78
    for predicted, returns in seen[1:]:
        assert (predicted - returns).square().mean() < 0.3 * returns.square().mean()


def test_scaled_rewards_are_in_the_checkpoint(tmp_path):
    agent = Reinforce("CartPole-v1", returns=ScaledRewards(GAE(0.9)), baseline=Critic())
    assert agent.hparams["returns"] == {
        "class_path": "pg_lightning.ScaledRewards",
        "init_args": {"returns": {"class_path": "pg_lightning.GAE", "init_args": {"gae_lambda": 0.9}}},
    }
    run = trainer(2)
    run.fit(agent, EpisodeDataModule(num_envs=4))
    run.save_checkpoint(tmp_path / "agent.ckpt")
    again = Reinforce.load_from_checkpoint(tmp_path / "agent.ckpt")
    assert again.returns.returns.gae_lambda == 0.9
    assert again.returns.scale == agent.returns.scale > 1


def test_scaled_rewards_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--model.returns", "ScaledRewards", "--model.returns.returns", "GAE"]
    options += ["--model.returns.returns.gae_lambda", "0.9", "--model.baseline", "Critic", "--data.num_envs", "2"]
    main(["fit", *options, "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"])
    assert "reward_scale" in (tmp_path / "runs/CartPole-v1/version_0/metrics.csv").read_text().splitlines()[0]


def test_rewards_are_not_scaled_twice():
    with pytest.raises(ValueError, match="would scale the rewards twice"):
        ScaledRewards(ScaledRewards())
