"""Pixels: frames stored once, exact gradients, exact resume, and a policy that learns from images."""

import copy
import gc
import weakref
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from pg_lightning import (
    GAE,
    Critic,
    Environment,
    EpisodeDataModule,
    EpisodeSampler,
    Gradient,
    LeaveOneOut,
    Linear,
    MLPPolicy,
    MonteCarlo,
    NaturalGradient,
    PolicyEncoder,
    Reinforce,
    RepeatAction,
)
from pg_lightning.cli import main
from pg_lightning.envs import EnvironmentFault
from pg_lightning.envs.frames import FrameStack, FrameStackSpace
from pg_lightning.frames import CHUNK_BYTES, FrameStacks, rows_together, stacked
from pg_lightning.policies import CNNPolicy
from pg_lightning.policies.encoders import FlattenEncoder
from pg_lightning.sampling.actors import make_actor
from pg_lightning.sampling.playing import play
from tests.helpers import tensors, trainer, weights_of
from tests.runs import QUIET, folder  # noqa: F401

SMALL = partial(CNNPolicy, hidden_sizes=(32,))
CATCH = [*QUIET, "--env.id", "tests.pixels:Catch-v0", "--env.wrappers", "[tests.pixels.stacked]", "--model.policy"]
CATCH += ["pg_lightning.policies.CNNPolicy", "--data.num_envs", "4", "--checkpoint.every_seconds", "0"]


def catch(wrapper="stacked"):
    return Environment("tests.pixels:Catch-v0", wrappers=[f"tests.pixels.{wrapper}"])


def learner(env=None, **parts):
    pl.seed_everything(0, verbose=False)
    return Reinforce(env or catch(), SMALL, **{"baseline": LeaveOneOut(), "direction": Gradient()} | parts)


def sampled(wrapper, backend="sync", episodes=7):
    agent = learner(catch(wrapper))
    sampler = EpisodeSampler(agent.env.make_vector(3, backend), episodes)
    try:
        return [sampler.sample(make_actor(agent.policy, agent.env.action_space), update) for update in (0, 1)]
    finally:
        sampler.close()


def test_frames_are_stored_once():
    one = sampled("stacked")[0]
    stacks = one.observations
    assert isinstance(stacks, FrameStacks) and stacks.shape == (one.num_timesteps, 2, 6, 6)
    assert stacks.frames.shape == (one.num_timesteps, 6, 6) and stacks.frames.dtype == torch.uint8


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_episodes_are_those_of_whole_stacks(backend, monkeypatch):
    monkeypatch.setattr("pg_lightning.sampling.steps.BLOCK_STEPS", 4)  # Episodes go over the ends of blocks.
    for once, whole in zip(sampled("stacked", backend), sampled("plainly_stacked", backend), strict=True):
        assert isinstance(whole.observations, torch.Tensor)
        assert torch.equal(once.observations.stacked(), whole.observations)
        once.observations = once.observations.stacked()
        assert all(map(torch.equal, tensors(once), tensors(whole)))


def test_the_first_stack_repeats_the_first_frame():
    env = catch().make()
    assert isinstance(env.observation_space, FrameStackSpace)
    first, _ = env.reset(seed=1)
    second, *_ = env.step(0)
    assert np.array_equal(first[0], first[1]) and np.array_equal(second[0], first[1])
    assert not np.array_equal(second[0], second[1])


@pytest.mark.parametrize("before", [True, False])
def test_observations_are_left_out_before_frames_are_stacked(before):
    """Stacks whose newest frames do not tell the others cannot be stored as these alone."""
    repeated, stack = partial(RepeatAction, times=2), "tests.pixels.stacked"
    agent = learner(Environment("tests.pixels:Catch-v0", wrappers=[repeated, stack] if before else [stack, repeated]))
    data = EpisodeDataModule(num_envs=3)
    if before:
        trainer(2).fit(agent, data)
        assert agent.metrics["policy_lag"] < 1e-5
    else:
        with pytest.raises(ValueError, match="such as RepeatAction, must come before FrameStack, not after it"):
            trainer(2).fit(agent, data)


def test_stacks_are_chosen_like_rows_of_a_tensor():
    frames = torch.arange(5 * 3).reshape(5, 3)
    stacks = FrameStacks.of_episodes(frames, torch.tensor([3, 2]), 2)
    whole = frames[torch.tensor([[0, 0], [0, 1], [1, 2], [3, 3], [3, 4]])]
    chosen = torch.tensor([4, 0, 2])
    for rows in (slice(1, 4), slice(None, None, 2), chosen, torch.tensor([True, False, True, True, False])):
        assert torch.equal(stacks[rows].stacked(), whole[rows]) and len(stacks[rows]) == len(whole[rows])
        assert stacks[rows].frames is frames
    assert np.array_equal(stacks[1:].numpy(), whole[1:].numpy())
    tree = stacked({"a": stacks, "b": frames})
    assert torch.equal(tree["a"], whole) and tree["b"] is frames


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"baseline": partial(Critic, hidden_sizes=(16,), epochs=2, minibatch_size=16), "returns": partial(GAE, 0.9)},
        {"direction": partial(NaturalGradient, max_timesteps=16)},
        {"returns": partial(MonteCarlo, "drop")},
    ],
    ids=["plain", "critic", "natural", "drop"],
)
def test_learning_is_that_of_whole_stacks(parts):
    """The same weights, bit for bit, whether frames are stored once or in every stack."""
    final = []
    for wrapper in ("stacked", "plainly_stacked"):
        agent = learner(catch(wrapper), **{name: make() for name, make in parts.items()})
        trainer(2).fit(agent, EpisodeDataModule(num_envs=4))
        final.append(weights_of(agent))
    assert all(map(torch.equal, *final))


@pytest.fixture
def left(monkeypatch):
    """How many updates' frames are left when another is learnt from, without the garbage collector.

    It may come many updates later, and each of them may be of 300 MB.
    """
    frames, left, estimate = [], [], Reinforce.estimate

    def watched(agent, episodes):
        left.append(sum(frame() is not None for frame in frames))
        frames.append(weakref.ref(episodes.observations.frames))
        return estimate(agent, episodes)

    monkeypatch.setattr(Reinforce, "estimate", watched)
    gc.disable()
    yield left
    gc.enable()


@pytest.mark.parametrize("baseline", [LeaveOneOut, partial(Critic, encoder=PolicyEncoder)])
def test_the_frames_of_an_update_are_freed_before_the_next_is_learnt_from(baseline, left):
    agent = learner(baseline=baseline(), direction=NaturalGradient())
    trainer(3).fit(agent, EpisodeDataModule(num_envs=4))
    assert left == [0, 0, 0]


def test_pictures_keep_no_frames(folder, left, monkeypatch):  # noqa: F811
    monkeypatch.setattr("pg_lightning.callbacks.recorder.DRAW_EVERY", 0.0)
    main(["fit", *CATCH, "--trainer.max_steps", "4"])
    assert left == [0, 0, 0, 0]
    assert list(folder.glob("runs/*/*/learning_curve.png"))


def test_the_gradient_on_pixels_is_that_of_all_timesteps_at_once(monkeypatch):
    agent = learner()
    sampler = EpisodeSampler(agent.env.make_vector(3), 6)
    batch = agent.estimate(sampler.sample(make_actor(agent.policy, agent.env.action_space), 0))
    episodes, parameters = batch.episodes, agent.learning_parameters()
    log_probs = agent.policy(episodes.observations.stacked()).log_prob(episodes.actions)
    assert (log_probs - episodes.log_probs).abs().max() < 1e-5
    expected = torch.autograd.grad(-(log_probs * batch.advantages).sum() / 6, parameters)
    monkeypatch.setattr("pg_lightning.frames.CHUNK_BYTES", 7 * 2 * 6 * 6 * 4)  # Seven timesteps at a time.
    chunks = list(batch.chunks(4096))
    assert [len(chunk.log_probs) for chunk in chunks] == [7, 7, 7, 7, 2]
    parts = [torch.autograd.grad(agent.loss(chunk)[0], parameters) for chunk in chunks]
    found = [sum(shares) for shares in zip(*parts, strict=True)]
    for one, other in zip(found, expected, strict=True):
        assert other.norm() > 1e-4 and (one - other).norm() < 1e-5 * other.norm()


def test_images_bound_the_chunks():
    frames = torch.zeros(2, 80, 80, dtype=torch.uint8)
    stacks = FrameStacks.of_episodes(frames, torch.tensor([2]), 2)
    assert rows_together(stacks, 10**6) == CHUNK_BYTES // (4 * 2 * 80 * 80)
    assert rows_together(torch.zeros(5, 4), 10**6) == 10**6


@pytest.mark.parametrize(
    "critic", [[], ["--model.baseline", "Critic", "--model.baseline.encoder", "pg_lightning.PolicyEncoder"]]
)
def test_a_resumed_run_on_pixels_is_the_uninterrupted_one(folder, critic):  # noqa: F811
    main(["fit", *CATCH, *critic, "--trainer.max_steps", "4"])
    main(["fit", *CATCH, *critic, "--trainer.max_steps", "2"])
    runs = folder / "runs/tests.pixels_Catch-v0"
    main(["fit", "--ckpt_path", str(runs / "version_1/checkpoints/last.ckpt"), "--trainer.max_steps", "4"])
    for name in ("metrics.csv", "episodes.csv"):
        assert (runs / "version_0" / name).read_text() == (runs / "version_1" / name).read_text()
    one, other = (torch.load(runs / f"version_{k}/checkpoints/last.ckpt", weights_only=True) for k in (0, 1))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, other["state_dict"][name])


def test_a_shared_encoder_gets_the_gradient_of_the_critics_squared_error():
    pl.seed_everything(0, verbose=False)
    agent = Reinforce(catch(), SMALL, baseline=Critic(epochs=1, minibatch_size=1000, encoder=PolicyEncoder))
    critic, sampler = agent.baseline, EpisodeSampler(agent.env.make_vector(3), 6)
    batch = agent.estimate(sampler.sample(make_actor(agent.policy, agent.env.action_space), 0))
    parameters, found = [*critic.parameters()], []
    critic.optimizer = critic._make_optimizer()
    critic.optimizer.register_step_pre_hook(lambda *_: found.extend(p.grad.clone() for p in parameters))
    twin = copy.deepcopy(critic)
    critic.fit(batch)
    twin.requires_grad_(True)
    values = twin.body(twin.encoder(batch.episodes.observations.stacked()))[:, 0]
    errors = values - (batch.returns / critic.std).float()
    expected = torch.autograd.grad(errors.square().mean(), [*twin.parameters()])
    assert len(found) == len(expected) and any(p is agent.policy.encoder.cnn[0].weight for p in parameters)
    for one, other in zip(found, expected, strict=True):
        assert other.norm() > 1e-4 and (one - other).norm() < 1e-4 * other.norm()


def test_a_frozen_encoder_stays_as_it_is():
    agent = Reinforce(catch(), Frozen, baseline=Critic(encoder=PolicyEncoder))
    before, value = encoder_of(agent), agent.baseline.body[0].weight.clone()
    trainer(2).fit(agent, EpisodeDataModule(num_envs=4))
    assert torch.equal(before, encoder_of(agent)) and not torch.equal(value, agent.baseline.body[0].weight)


class Frozen(CNNPolicy):
    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.encoder.requires_grad_(False)


def test_a_shared_encoder_learns_from_the_critic_alone(monkeypatch):
    pl.seed_everything(0, verbose=False)
    agent = Reinforce(catch(), SMALL, baseline=Critic(encoder=PolicyEncoder))
    seen, fit = [encoder_of(agent)], agent.baseline.fit
    monkeypatch.setattr(agent.baseline, "fit", lambda batch: [seen.append(encoder_of(agent)), fit(batch)][1])
    before = agent.policy.body[0].weight.clone()
    trainer(1).fit(agent, EpisodeDataModule(num_envs=8))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(before, agent.policy.body[0].weight)
    assert not torch.equal(seen[1], encoder_of(agent))
    assert agent.policy.encoder is agent.baseline.encoder
    assert not any(p.requires_grad for p in agent.policy.encoder.parameters())


def test_a_checkpoint_with_a_shared_encoder_shares_it_again(tmp_path):
    agent = Reinforce(catch(), SMALL, baseline=Critic(encoder=PolicyEncoder))
    one = trainer(2)
    one.fit(agent, EpisodeDataModule(num_envs=8))
    one.save_checkpoint(tmp_path / "one.ckpt")
    loaded = Reinforce.load_from_checkpoint(tmp_path / "one.ckpt")
    assert loaded.policy.encoder is loaded.baseline.encoder
    assert torch.equal(encoder_of(loaded), encoder_of(agent))


def test_only_an_encoder_can_be_shared():
    with pytest.raises(
        ValueError, match="PolicyEncoder needs a policy with an Encoder, as MLPPolicy has one; Plain has none"
    ):
        Reinforce(catch(), Plain, baseline=Critic(encoder=PolicyEncoder))
    with pytest.raises(ValueError, match="it is for a critic alone"):
        Reinforce(catch(), partial(MLPPolicy, encoder=PolicyEncoder))


class Plain(torch.nn.Module):
    def __init__(self, observation_space, action_space):
        super().__init__()


def encoder_of(agent):
    return torch.nn.utils.parameters_to_vector(agent.policy.encoder.parameters()).clone()


def test_flat_pixels_are_learnt_from_too():
    """The reference's network: one hidden layer on all pixels."""
    pl.seed_everything(0, verbose=False)
    policy = partial(MLPPolicy, hidden_sizes=(20,), activation="relu", bias=False, encoder=FlattenEncoder)
    agent = Reinforce(catch(), policy, returns=MonteCarlo(restart_at_rewards=True), baseline=LeaveOneOut())
    trainer(1).fit(agent, EpisodeDataModule(num_envs=4))
    assert [tuple(p.shape) for p in agent.policy.parameters()] == [(20, 72), (3, 20)]


@pytest.mark.parametrize("seed", range(3))
def test_it_learns_to_catch_every_ball(seed):
    """A start in 18 that is missed costs 0.11. Much entropy at first, or the policy settles before it has seen all."""
    pl.seed_everything(seed, verbose=False)
    parts = {"baseline": LeaveOneOut(), "direction": Gradient(), "optimizer": partial(torch.optim.Adam, lr=1e-3)}
    agent = Reinforce(catch(), SMALL, **parts, entropy_coef=Linear(0.5))
    trainer(1500).fit(agent, EpisodeDataModule(num_envs=64, seed=seed))
    for greedy in (False, True):
        assert play(agent.policy, agent.env, 200, greedy=greedy).outcome().returns.mean() >= 0.95


def test_a_stack_of_other_numbers_than_integers_is_refused():
    with pytest.raises(EnvironmentFault, match="FrameStack needs frames of integers, such as uint8, not float32"):
        FrameStack(gym.make("Pendulum-v1"), 2)
