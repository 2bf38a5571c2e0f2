import pytest
import torch

from pg_lightning import GAE, MonteCarlo
from pg_lightning.returns import Values
from tests.helpers import episodes_of

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


def test_bootstrap_without_a_critic_warns_once():
    returns = MonteCarlo("bootstrap")
    with pytest.warns(UserWarning, match="'bootstrap' needs a critic"):
        found = returns(scripted(), None, GAMMA)
    torch.testing.assert_close(found, MonteCarlo()(scripted(), None, GAMMA))
    returns(scripted(), None, GAMMA)  # Warnings are errors in these tests.


def test_gae_without_a_critic_is_refused():
    with pytest.raises(ValueError, match=r"GAE needs a critic: use --model.baseline pg_lightning.Critic"):
        GAE()(scripted(), None, GAMMA)


def test_drop_leaves_out_truncated_episodes():
    kept = MonteCarlo("drop").select(scripted())
    assert kept.lengths.tolist() == [3] and kept.rewards.tolist() == [1.0, 2.0, 3.0]
    assert kept.final_observations.tolist() == scripted().final_observations[:1].tolist()
    with pytest.raises(ValueError, match="all 2 episodes were truncated"):
        MonteCarlo("drop").select(scripted(truncated=(True, True)))


@pytest.mark.parametrize("make", [lambda: GAE(1.5), lambda: GAE(-0.1), lambda: MonteCarlo("ignore")])
def test_arguments_out_of_range(make):
    with pytest.raises(ValueError, match="must be"):
        make()
