from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from pg_lightning import ConsistentDropout, EpisodeSampler, MLPPolicy, Policy, Reinforce
from pg_lightning.gradients import summed_over_chunks
from pg_lightning.policies.bodies import MLPBody
from pg_lightning.policies.dropout import consistent_dropouts, evaluating, replay_masks, with_consistent_dropout
from pg_lightning.policies.encoders import make_encoder
from pg_lightning.policies.heads import CategoricalHead, make_head
from pg_lightning.sampling.actors import ModuleActor, make_actor
from tests.helpers import ARTICLES, plain

BOX, DISCRETE = gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2)


def log_probs_agree_when_replayed(policy, steps=3, num_envs=5):
    """Act, then score the same actions under the recorded masks: the invariant that dropout must not break."""
    observations = np.random.default_rng(0).normal(size=(steps, num_envs, 4)).astype(np.float32)
    actor = ModuleActor(policy, DISCRETE)
    actor.begin(num_envs, np.random.default_rng(0))
    actions = torch.from_numpy(np.concatenate([actor.act(rows) for rows in observations]))
    log_probs, masks = actor.record(actions, np.arange(steps * num_envs))
    with replay_masks(policy, masks):
        rescored = policy(torch.from_numpy(observations).flatten(0, 1)).log_prob(actions)
    return torch.allclose(rescored, log_probs, atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.6])
def test_dropout_zeroes_what_its_mask_names_and_scales_the_rest(p):
    torch.manual_seed(0)
    dropout, inputs = ConsistentDropout(p), torch.randn(200, 30)
    outputs = dropout(inputs)
    torch.testing.assert_close(outputs, torch.where(dropout.mask, inputs / (1 - p), 0.0))
    kept = dropout.mask.float().mean().item()
    assert abs(kept - (1 - p)) <= 4 * (p * (1 - p) / inputs.numel()) ** 0.5


def test_dropout_draws_anew_unless_a_mask_is_replayed():
    dropout, inputs = ConsistentDropout(0.5), torch.ones(4, 50)
    first, mask = dropout(inputs), dropout.mask
    assert not torch.equal(dropout(inputs), first)
    with replay_masks(dropout, [mask]):
        assert torch.equal(dropout(inputs), first)
        with pytest.raises(ValueError, match="called twice in one pass"):
            dropout(inputs)
    assert not torch.equal(dropout(inputs), first)


def test_replaying_passes_gradients_through_the_kept_units_alone():
    dropout, inputs = ConsistentDropout(0.75), torch.ones(1, 4, requires_grad=True)
    with replay_masks(dropout, [torch.tensor([[True, False, False, True]])]):
        dropout(inputs).sum().backward()
    assert inputs.grad.tolist() == [[4, 0, 0, 4]]


def test_nothing_is_dropped_in_eval_mode_even_while_replaying():
    dropout, inputs = ConsistentDropout(0.5).eval(), torch.ones(2, 3)
    with replay_masks(dropout, [torch.zeros(2, 3, dtype=torch.bool)]):
        assert torch.equal(dropout(inputs), inputs)
    assert dropout.mask is None


def test_masks_are_let_go_after_an_error():
    dropout = ConsistentDropout(0.5)
    with pytest.raises(RuntimeError, match="boom"), replay_masks(dropout, [torch.ones(1, 1)]):
        raise RuntimeError("boom")
    assert dropout.replayed is None


def test_masks_go_to_the_layers_in_module_order():
    policy = MLPPolicy(BOX, DISCRETE, hidden_sizes=(3, 5), dropout=0.5)
    first, second = consistent_dropouts(policy)
    assert (policy.body[1], policy.body[4]) == (first, second)
    with replay_masks(policy, [torch.zeros(2, 3), torch.ones(2, 5)]):
        assert (first.replayed.shape, second.replayed.shape) == ((2, 3), (2, 5))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_masks_than_of_layers(count):
    policy = MLPPolicy(BOX, DISCRETE, hidden_sizes=(3, 3), dropout=0.5)
    message = f"the policy has 2 dropout layers, but {count} masks were recorded"
    with pytest.raises(ValueError, match=message), replay_masks(policy, [torch.ones(2, 3)] * count):
        pass


class Nested(nn.Module):
    """A user's module with ordinary dropout at several depths."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
        self.inner = nn.ModuleList([nn.ModuleDict({"drop": nn.Dropout(0.7)}), nn.Linear(8, 2)])

    def forward(self, observations):
        return Categorical(logits=self.inner[1](self.inner[0]["drop"](self.first(observations))))


def test_a_users_dropouts_are_replaced_at_any_depth():
    policy = Nested()
    names = list(policy.state_dict())
    assert with_consistent_dropout(policy) is policy
    assert [dropout.p for dropout in consistent_dropouts(policy)] == [0.2, 0.7]
    assert not any(isinstance(module, nn.Dropout) for module in policy.modules())
    assert list(policy.state_dict()) == names
    assert log_probs_agree_when_replayed(policy)


def test_a_lone_dropout_is_replaced():
    replaced = with_consistent_dropout(nn.Dropout(0.3))
    assert isinstance(replaced, ConsistentDropout) and replaced.p == 0.3


class Twice(nn.Module):
    """A user's module that calls one dropout layer twice."""

    def __init__(self, observation_space=BOX, action_space=DISCRETE):
        super().__init__()
        self.first, self.second, self.logits = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, observations):
        hidden = self.dropout(self.first(observations))
        return Categorical(logits=self.logits(self.dropout(self.second(hidden))))


class Shared(Twice):
    """One dropout layer under two names."""

    def __init__(self):
        super().__init__()
        self.again = self.dropout

    def forward(self, observations):
        hidden = self.dropout(self.first(observations))
        return Categorical(logits=self.logits(self.again(self.second(hidden))))


class WholeChannels(Twice):
    """Another kind of dropout, which draws new masks while learning unless something is done about it."""

    def __init__(self):
        super().__init__()
        self.dropout, self.channels = nn.Identity(), nn.Dropout1d(0.5)

    def forward(self, observations):
        hidden = self.channels(self.first(observations)[..., None])[..., 0]
        return Categorical(logits=self.logits(hidden))


@pytest.mark.parametrize("make", [Twice, Shared, WholeChannels])
def test_dropout_is_replayed_or_refused_but_never_wrong(make):
    torch.manual_seed(0)
    try:
        agree = log_probs_agree_when_replayed(with_consistent_dropout(make()))
    except (ValueError, RuntimeError, TypeError) as refusal:
        assert "ropout" in str(refusal)
    else:
        assert agree


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, float("nan")])
def test_a_dropout_that_is_no_probability(p):
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        ConsistentDropout(p)
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        MLPPolicy(BOX, DISCRETE, dropout=p)


@pytest.mark.parametrize("sizes", [(0,), (8, -1), (10**11,), (2.5,)])
def test_layers_without_units_or_with_too_many(sizes):
    with pytest.raises(ValueError, match="hidden_sizes must be whole numbers from 1 to 65,536"):
        MLPPolicy(BOX, DISCRETE, hidden_sizes=sizes)


def test_spaces_it_is_not_made_for():
    with pytest.raises(ValueError, match=r"no head for the action space Text.*heads exist for"):
        MLPPolicy(BOX, gym.spaces.Text(3))
    with pytest.raises(ValueError, match=r"no encoder for the observation space Sequence.*Environment\(wrappers"):
        MLPPolicy(gym.spaces.Sequence(DISCRETE), DISCRETE)


def test_evaluating_restores_each_modules_mode():
    policy = MLPPolicy(BOX, DISCRETE, dropout=0.5)
    policy.body[1].eval()
    modes = [module.training for module in policy.modules()]
    with pytest.raises(RuntimeError, match="boom"), evaluating(policy):
        assert not any(module.training for module in policy.modules())
        raise RuntimeError("boom")
    assert [module.training for module in policy.modules()] == modes and len(set(modes)) == 2


def test_a_policy_of_other_parts():
    """Encoder, body and head as a user puts them together."""
    space = gym.spaces.Dict({"a": gym.spaces.Discrete(3, start=-1), "b": BOX})
    encoder, head = make_encoder(space), make_head(gym.spaces.Discrete(5, start=2))
    policy = Policy(encoder, MLPBody(encoder.num_features, head.num_outputs, (6,)), head)
    observations = {"a": torch.tensor([-1, 1]), "b": torch.arange(8.0).reshape(2, 4)}
    features = torch.tensor([[1.0, 0, 0, 0, 1, 2, 3], [0, 0, 1, 4, 5, 6, 7]])
    assert torch.equal(encoder(observations), features)
    assert torch.equal(policy.outputs(observations), policy.body(features))
    torch.testing.assert_close(policy(observations).logits, policy.body(features).log_softmax(-1))
    assert policy.to_env(np.array([0, 4])).tolist() == [2, 6]


def test_head_and_encoder_can_be_handed_in():
    class Wide(CategoricalHead):
        def __init__(self, space):
            super().__init__(gym.spaces.Discrete(int(space.n) + 7))

    policy = MLPPolicy(BOX, DISCRETE, head=Wide, encoder=lambda space: make_encoder(gym.spaces.Box(-1, 1, (9,))))
    assert (policy.body[0].in_features, policy.body[-1].out_features) == (9, 9)


def test_the_articles_network():
    torch.manual_seed(0)
    policy = ARTICLES(BOX, DISCRETE, dropout=0.6)
    assert [tuple(parameter.shape) for parameter in policy.parameters()] == [(128, 4), (2, 128)]
    observations = torch.randn(7, 4)
    with torch.no_grad():
        distribution = policy(observations)
        mask = consistent_dropouts(policy)[0].mask
        hidden = torch.relu((observations @ policy.body[0].weight.T) * mask / 0.4)
        torch.testing.assert_close(distribution.probs, torch.softmax(hidden @ policy.body[3].weight.T, -1))
        plain = torch.softmax(torch.relu(observations @ policy.body[0].weight.T) @ policy.body[3].weight.T, -1)
        torch.testing.assert_close(policy.eval()(observations).probs, plain)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 2, 2)])
def test_observations_of_any_shape_are_flattened(shape):
    policy = MLPPolicy(gym.spaces.Box(0, 255, shape, np.int64), gym.spaces.Discrete(3), hidden_sizes=(6, 5), bias=True)
    observations = torch.randint(0, 256, (9, *shape))
    assert policy(observations).log_prob(torch.zeros(9)).shape == (9,)
    sizes = [tuple(module.weight.shape) for module in policy.body if isinstance(module, nn.Linear)]
    assert sizes == [(6, int(np.prod(shape))), (5, 6), (3, 5)]
    assert all(module.bias is not None for module in policy.body if isinstance(module, nn.Linear))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def replaced_layer(policy):
    policy.body[1] = nn.Tanh()


def unknown_layer(policy):
    policy.body[1] = nn.GELU()


def forward_hook(policy):
    policy.body[0].register_forward_hook(lambda module, inputs, output: 2 * output)


def forward_pre_hook(policy):
    policy.body[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))


def backward_hook(policy):
    policy.body[2].register_full_backward_hook(lambda module, inputs, outputs: (3 * inputs[0],))


def parametrised(policy):
    nn.utils.parametrize.register_parametrization(policy.body[0], "weight", Doubled())


def own_forward(policy):
    linear = policy.body[2]
    linear.forward = lambda inputs: nn.functional.linear(inputs, 2 * linear.weight)


class Doubling(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def subclassed_layer(policy):
    policy.body[0] = Doubling(4, 8, bias=False)


def hooked_encoder(policy):
    policy.encoder.register_forward_hook(lambda module, inputs, output: 3 * output)


def shared_layer(policy):
    policy.body[0] = nn.Linear(4, 4)
    policy.body[2] = nn.Sequential(policy.body[0], nn.Linear(4, 2))


CHANGES = [
    replaced_layer,
    unknown_layer,
    forward_hook,
    forward_pre_hook,
    backward_hook,
    parametrised,
    own_forward,
    subclassed_layer,
    hooked_encoder,
    shared_layer,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_A7_a_changed_policy_acts_and_learns_as_torch_says(change):
    """Compared with the layers called one by one."""
    torch.manual_seed(0)
    agent = plain("CartPole-v1", policy=partial(ARTICLES, hidden_sizes=[8]))
    before = agent.policy(torch.ones(1, 4)).logits
    change(agent.policy)
    policy = agent.policy
    sampler = EpisodeSampler(agent.env.make_vector(4, "sync"), 8)
    batch = agent.estimate(sampler.sample(make_actor(policy, agent.env.action_space), 0))
    episodes, parameters = batch.episodes, list(policy.parameters())

    def log_probs_of(observations, actions):
        values = policy.encoder(observations)
        for layer in policy.body:
            values = layer(values)
        return Categorical(logits=values).log_prob(actions)

    log_probs = log_probs_of(episodes.observations, episodes.actions)
    torch.testing.assert_close(episodes.log_probs, log_probs.detach(), atol=1e-5, rtol=1e-5)
    expected = torch.autograd.grad(-(log_probs * batch.advantages).sum() / len(episodes), parameters)
    loss, _ = summed_over_chunks(agent.loss, batch.chunks(100), parameters)
    for gradient, right in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        assert (gradient - right).norm() <= 1e-4 * right.norm() and right.norm() > 0
    if change is not backward_hook:
        assert not torch.allclose(policy(torch.ones(1, 4)).logits, before, atol=1e-4)


class OneSpace(nn.Module):
    def __init__(self, observation_space):
        super().__init__()


def test_a_policy_that_is_not_made_of_two_spaces_is_refused():
    with pytest.raises(ValueError, match="OneSpace is made of an observation space and an action space, but: too"):
        Reinforce("CartPole-v1", policy=OneSpace)
