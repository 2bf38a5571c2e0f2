"""EnvPool, where it is installed: complete episodes, fixed quotas, and a seed that decides everything."""

import pytest
import torch

pytest.importorskip("envpool")

from pg_lightning import Reinforce
from pg_lightning.actors import make_actor
from pg_lightning.cli import main
from pg_lightning.envs import make_vector_env
from pg_lightning.sampling import EpisodeSampler
from tests.helpers import tensors

ENVS = ["CartPole-v1", "Acrobot-v1"]


@pytest.mark.parametrize("env_id", ENVS)
def test_an_update_follows_from_its_index(env_id):
    actor = make_actor(Reinforce(env_id).policy)
    sampler, other = (EpisodeSampler(make_vector_env(env_id, 3, "envpool"), 5) for _ in range(2))
    first = sampler.sample(actor, 4)
    assert len(first) == 5 and not first.observations.equal(sampler.sample(actor, 5).observations[: len(first.rewards)])
    for again in (sampler.sample(actor, 4), other.sample(actor, 4)):
        assert all(map(torch.equal, tensors(first), tensors(again)))


def test_cartpole_moves_as_it_does_in_gymnasium():
    """Positions follow velocities by Euler's rule within an episode; none crosses into the next."""
    episodes = EpisodeSampler(make_vector_env("CartPole-v1", 4, "envpool"), 10).sample(
        make_actor(Reinforce().policy), 0
    )
    assert (episodes.rewards == 1).all() and episodes.terminated.all()
    for observations in episodes.observations.split(episodes.lengths.tolist()):
        torch.testing.assert_close(observations[1:, 0], observations[:-1, 0] + 0.02 * observations[:-1, 1])
        assert (observations[0].abs() <= 0.05).all()


def test_a_time_limit_truncates():
    envs = make_vector_env("Acrobot-v1", 2, "envpool", {"max_episode_steps": 20})
    episodes = EpisodeSampler(envs, 2).sample(make_actor(Reinforce("Acrobot-v1").policy), 0)
    assert episodes.lengths.tolist() == [20, 20] and episodes.truncated.all() and not episodes.terminated.any()


@pytest.mark.parametrize("env_id", ["tests.envs:Counting-v0", "FrozenLake-v1"])
def test_what_envpool_cannot_serve(env_id):
    with pytest.raises(ValueError, match=r"use --data\.backend sync or async"):
        make_vector_env(env_id, 2, "envpool")


def test_arguments_that_it_does_not_take():
    with pytest.raises(ValueError, match="sutton_barto_reward"):
        make_vector_env("CartPole-v1", 2, "envpool", {"sutton_barto_reward": True})


def test_resuming_is_exact(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--stop.threshold", "1e9"]
    common = [*quiet, "--data.num_envs", "3", "--data.backend", "envpool"]
    main(["fit", *common, "--trainer.max_steps", "8"])
    main(["fit", *common, "--trainer.max_steps", "3"])
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "8"])
    whole, resumed = (
        torch.load(f"runs/CartPole-v1/version_{number}/checkpoints/last.ckpt")["state_dict"] for number in (0, 1)
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
