import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from pg_lightning import CategoricalMLP
from pg_lightning.actors import NumpyActor, TorchActor, block_of, make_actor
from pg_lightning.distributions import acting
from pg_lightning.policies import consistent_dropouts, replay_masks, with_consistent_dropout
from tests.envs import GaussianPolicy, OwnPolicy

OBSERVATIONS, ACTIONS = gym.spaces.Box(-3, 3, (5,), np.float32), gym.spaces.Discrete(3)
NUM_ENVS = 64
BLOCK = block_of(NUM_ENVS)
STEPS = 2 * BLOCK + 7


def rng(seed=0):
    return np.random.default_rng(seed)


def mlp(**settings):
    torch.manual_seed(1)
    return CategoricalMLP(OBSERVATIONS, ACTIONS, **{"hidden_sizes": (32,)} | settings)


def own(**settings):
    torch.manual_seed(1)
    return with_consistent_dropout(OwnPolicy(OBSERVATIONS, ACTIONS, **settings))


def play(actor, observations, seed=0):
    """Act on observations ``[S, N, *obs]``; return actions, log-probs and masks, each ``[S, N, ...]``."""
    actor.begin(observations.shape[1], rng(seed))
    with acting():
        actions = np.stack([actor.act(rows) for rows in observations])
    return actions, *actor.record(actions)


def rescore(policy, observations, actions, masks):
    """Log-probs ``[S, N]`` that the policy itself gives, under the masks that were recorded."""
    rows = [torch.from_numpy(values).flatten(0, 1) for values in (observations, actions, *masks)]
    with torch.no_grad(), replay_masks(policy, rows[2:]):
        return policy(rows[0]).log_prob(rows[1]).reshape(observations.shape[:2]).numpy()


@pytest.mark.parametrize("actor_class", [NumpyActor, TorchActor])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": 0.6},
        {"bias": True},
        {"hidden_sizes": ()},
        {"hidden_sizes": (16, 8, 4), "bias": True, "dropout": 0.3},
    ],
)
def test_recorded_log_probs_are_the_policys_own(actor_class, settings):
    policy = mlp(**settings)
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(actor_class(policy), observations)
    assert log_probs.shape == (STEPS, NUM_ENVS)
    units = settings.get("hidden_sizes", (32,)) if settings.get("dropout") else ()
    assert [(mask.shape, mask.dtype) for mask in masks] == [((STEPS, NUM_ENVS, n), np.bool_) for n in units]
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)
    assert set(np.unique(actions)) == {0, 1, 2}


def test_a_users_module_with_dropout_records_its_own_log_probs():
    policy = own()
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(make_actor(policy), observations)
    assert [mask.shape for mask in masks] == [(STEPS, NUM_ENVS, 16)]
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)
    fresh = [~mask for mask in masks]
    assert not np.allclose(log_probs, rescore(policy, observations, actions, fresh), atol=1e-2)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int64])
def test_observations_of_any_shape_and_type(dtype):
    policy = CategoricalMLP(gym.spaces.Box(0, 9, (2, 3), dtype), ACTIONS, hidden_sizes=(8,))
    observations = rng().integers(0, 10, (20, NUM_ENVS, 2, 3)).astype(dtype)
    for actor in (NumpyActor(policy), TorchActor(policy)):
        actions, log_probs, masks = play(actor, observations)
        np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)


def test_dropout_that_ends_during_training_is_still_recorded():
    policy = mlp(dropout=0.5)
    actor = NumpyActor(policy)
    consistent_dropouts(policy)[0].p = 0.0
    observations = rng(2).normal(size=(20, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(actor, observations)
    assert len(masks) == 1 and masks[0].all()
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)


def test_large_logits_give_finite_log_probs():
    policy = mlp()
    with torch.no_grad():
        policy[0].weight.mul_(1e4)
    observations = rng(2).normal(size=(20, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(NumpyActor(policy), observations)
    assert np.isfinite(log_probs).all()
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), rtol=1e-4, atol=1e-2)


class Shifted(nn.Module):
    """A policy whose logits have an offset, which changes no probability, but leaves float32 few digits."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(1e6 + torch.tensor([0.0, 1.0, -0.5]))

    def forward(self, observations):
        return Categorical(logits=self.logits.expand(len(observations), 3))


@pytest.mark.parametrize(
    "make",
    [lambda: (mlp(bias=True), NumpyActor), lambda: (own(p=0.0), TorchActor), lambda: (Shifted(), TorchActor)],
)
def test_actions_are_taken_as_often_as_they_are_probable(make):
    policy, actor_class = make()
    observation = np.array([0.5, -1, 2, 0.3, 1], np.float32)
    num_envs, steps = 400, 250
    actions, _, _ = play(actor_class(policy), np.broadcast_to(observation, (steps, num_envs, 5)).copy())
    probs = policy(torch.from_numpy(observation)[None]).probs[0].detach().double().numpy()
    frequencies = np.bincount(actions.ravel(), minlength=3) / actions.size
    assert (np.abs(frequencies - probs) < 4 * np.sqrt(probs * (1 - probs) / actions.size)).all()


@pytest.mark.parametrize("lag", [1, BLOCK])
@pytest.mark.parametrize("actor", [lambda: NumpyActor(mlp(dropout=0.5)), lambda: TorchActor(own())])
def test_noise_is_not_used_twice(actor, lag):
    actions, _, (masks, *_) = play(actor(), np.zeros((STEPS, 50, 5), np.float32))
    for values in (actions == 0, masks):
        values = values - values.mean()
        for one, other in ((values[:-lag], values[lag:]), (values[:, :-1], values[:, 1:])):
            assert abs((one * other).mean() / values.var()) < 4 / np.sqrt(one.size)


@pytest.mark.parametrize("p", [0.1, 0.6, 0.95])
@pytest.mark.parametrize("actor_class", [NumpyActor, TorchActor])
def test_units_are_kept_as_often_as_they_should(actor_class, p):
    policy = mlp(hidden_sizes=(64, 9), dropout=p)
    _, _, masks = play(actor_class(policy), np.ones((STEPS, 20, 5), np.float32))
    for mask in masks:
        for axes, bound in ((None, 4), ((0, 1), 5), ((0, 2), 5), ((1, 2), 5)):
            kept = mask.mean(axes)
            assert (np.abs(kept - (1 - p)) < bound * np.sqrt(p * (1 - p) * kept.size / mask.size)).all()


@pytest.mark.parametrize("make", [lambda: NumpyActor(mlp(dropout=0.4)), lambda: TorchActor(own())])
def test_an_update_follows_from_its_generator_alone(make):
    observations, actor = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32), make()
    actions, log_probs, (mask,) = play(actor, observations, seed=3)
    actions, log_probs, mask = actions.copy(), log_probs.copy(), mask.copy()
    play(actor, observations[:9], seed=4)
    again, log_probs_again, (mask_again,) = play(make(), observations, seed=3)
    assert (actions == again).all() and (log_probs == log_probs_again).all() and (mask == mask_again).all()
    other, _, (other_mask,) = play(actor, observations, seed=4)
    assert (actions != other).any() and (mask != other_mask).any()


def test_an_optimizer_step_is_seen_without_a_copy():
    policy = mlp(bias=True)
    observations = np.ones((10, NUM_ENVS, 5), np.float32)
    actor = NumpyActor(policy)
    actor.begin(NUM_ENVS, rng())
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter) * torch.arange(len(parameter)).view(-1, *[1] * (parameter.ndim - 1))
    torch.optim.SGD(policy.parameters(), lr=0.05).step()
    actions = np.stack([actor.act(rows) for rows in observations])
    log_probs, _ = actor.record(actions)
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, []), atol=1e-5)


@pytest.mark.parametrize("policy", [mlp(dropout=0.6), own()])
def test_greedy_takes_the_most_probable_action_and_eval_drops_nothing(policy):
    policy.eval()
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(make_actor(policy, greedy=True), observations)
    with torch.no_grad():
        distribution = policy(torch.from_numpy(observations))
    assert masks == []
    assert (actions == distribution.probs.argmax(-1).numpy()).all()
    np.testing.assert_allclose(log_probs, distribution.log_prob(torch.from_numpy(actions)).numpy(), atol=1e-5)


def test_numpy_and_torch_act_alike():
    policy = mlp(bias=True)
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    actors, generators = (NumpyActor(policy), TorchActor(policy)), (rng(), rng())
    generators[0].integers(2**63)  # What TorchActor draws first, to seed torch.
    results = []
    for actor, generator in zip(actors, generators, strict=True):
        actor.begin(NUM_ENVS, generator)
        with acting():
            actions = np.stack([actor.act(rows) for rows in observations])
        results.append((actions, actor.record(actions)[0]))
    assert (results[0][0] == results[1][0]).all()
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


class Continuous:
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    observations = np.broadcast_to(np.array([0.5, -1, 2, 0.3, 1], np.float32), (100, 300, 5)).copy()

    def policy(self, **settings):
        torch.manual_seed(1)
        return GaussianPolicy(OBSERVATIONS, self.space, **settings)


def test_continuous_actions_follow_their_density():
    policy, observations = Continuous().policy(), Continuous.observations
    actions, log_probs, masks = play(make_actor(policy), observations)
    assert actions.shape == (100, 300, 2) and masks == []
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, []), atol=1e-5)
    mean = policy(torch.from_numpy(observations[0, :1])).mean[0].detach().numpy()
    std, count = np.exp(-0.5), 100 * 300
    assert (np.abs(actions.mean((0, 1)) - mean) < 4 * std / np.sqrt(count)).all()
    assert (np.abs(actions.std((0, 1)) - std) < 4 * std / np.sqrt(2 * count)).all()
    repeated = play(make_actor(policy), observations)[0]
    assert (repeated == actions).all()


def test_greedy_continuous_actions_are_the_mode():
    policy, observations = Continuous().policy(), Continuous.observations[:3]
    actions, _, _ = play(make_actor(policy, greedy=True), observations)
    expected = policy.mean(torch.from_numpy(observations)).detach().numpy()
    np.testing.assert_allclose(actions, expected, atol=1e-6)


class JointCategorical(OwnPolicy):
    """Two choices for each observation, with a log-probability each."""

    def forward(self, observations):
        return Categorical(logits=self.body(observations)[:, None].expand(-1, 2, -1))


@pytest.mark.parametrize(
    "policy",
    [Continuous().policy(independent=False), with_consistent_dropout(JointCategorical(OBSERVATIONS, ACTIONS))],
    ids=["normal", "categorical"],
)
def test_one_log_prob_per_observation(policy):
    with pytest.raises(
        ValueError, match=r"one log-probability per observation \[64\].*torch.distributions.Independent"
    ):
        play(make_actor(policy), np.zeros((2, NUM_ENVS, 5), np.float32))


class Subclass(CategoricalMLP):
    def forward(self, observations):
        return super().forward(-observations)


def test_make_actor_takes_numpy_only_where_it_knows_the_forward():
    subclass = Subclass(OBSERVATIONS, ACTIONS)
    assert isinstance(make_actor(mlp()), NumpyActor)
    for policy in (subclass, mlp().double(), own(), nn.Sequential(mlp())):
        assert isinstance(make_actor(policy), TorchActor)
    observations = rng(2).normal(size=(9, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, _ = play(make_actor(subclass), observations)
    np.testing.assert_allclose(log_probs, rescore(subclass, observations, actions, []), atol=1e-5)


def test_dropout_layers_come_in_module_order():
    policy = mlp(hidden_sizes=(16, 8, 4), dropout=0.5)
    _, _, masks = play(NumpyActor(policy), np.zeros((2, 3, 5), np.float32))
    assert [mask.shape[-1] for mask in masks] == [16, 8, 4]
    assert len(consistent_dropouts(policy)) == 3
