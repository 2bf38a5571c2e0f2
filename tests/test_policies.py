import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from pg_lightning import CategoricalMLP, ConsistentDropout
from pg_lightning.actors import TorchActor
from pg_lightning.distributions import acting
from pg_lightning.policies import consistent_dropouts, replay_masks, with_consistent_dropout

BOX, DISCRETE = gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2)


def log_probs_agree_when_replayed(policy, steps=3, num_envs=5):
    """Act, then score the same actions under the recorded masks: the invariant that dropout must not break."""
    observations = np.random.default_rng(0).normal(size=(steps, num_envs, 4)).astype(np.float32)
    actor = TorchActor(policy)
    actor.begin(num_envs, np.random.default_rng(0))
    with acting():
        actions = np.stack([actor.act(rows) for rows in observations])
    log_probs, masks = actor.record(actions)
    rows = [torch.from_numpy(values).flatten(0, 1) for values in (observations, actions, *masks)]
    with replay_masks(policy, rows[2:]):
        rescored = policy(rows[0]).log_prob(rows[1])
    return torch.allclose(rescored, torch.from_numpy(log_probs).flatten(), atol=1e-5)


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
    policy = CategoricalMLP(BOX, DISCRETE, hidden_sizes=(3, 5), dropout=0.5)
    first, second = consistent_dropouts(policy)
    assert (policy[1], policy[4]) == (first, second)
    with replay_masks(policy, [torch.zeros(2, 3), torch.ones(2, 5)]):
        assert (first.replayed.shape, second.replayed.shape) == ((2, 3), (2, 5))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_masks_than_of_layers(count):
    policy = CategoricalMLP(BOX, DISCRETE, hidden_sizes=(3, 3), dropout=0.5)
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
        CategoricalMLP(BOX, DISCRETE, dropout=p)


@pytest.mark.parametrize("sizes", [(0,), (8, -1)])
def test_layers_without_units(sizes):
    with pytest.raises(ValueError, match="hidden_sizes must be positive"):
        CategoricalMLP(BOX, DISCRETE, hidden_sizes=sizes)


def test_spaces_it_is_not_made_for():
    with pytest.raises(ValueError, match=r"chooses among Discrete actions, .*Box.*--model.policy"):
        CategoricalMLP(BOX, BOX)
    with pytest.raises(ValueError, match=r"reads Box observations, not Discrete\(2\)"):
        CategoricalMLP(DISCRETE, DISCRETE)


def test_the_articles_network():
    torch.manual_seed(0)
    policy = CategoricalMLP(BOX, DISCRETE, dropout=0.6)
    assert [tuple(parameter.shape) for parameter in policy.parameters()] == [(128, 4), (2, 128)]
    observations = torch.randn(7, 4)
    with torch.no_grad():
        distribution = policy(observations)
        mask = consistent_dropouts(policy)[0].mask
        hidden = torch.relu((observations @ policy[0].weight.T) * mask / 0.4)
        torch.testing.assert_close(distribution.probs, torch.softmax(hidden @ policy[3].weight.T, -1))
        plain = torch.softmax(torch.relu(observations @ policy[0].weight.T) @ policy[3].weight.T, -1)
        torch.testing.assert_close(policy.eval()(observations).probs, plain)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 2, 2)])
def test_observations_of_any_shape_are_flattened(shape):
    policy = CategoricalMLP(
        gym.spaces.Box(0, 255, shape, np.uint8), gym.spaces.Discrete(3), hidden_sizes=(6, 5), bias=True
    )
    observations = torch.randint(0, 256, (9, *shape), dtype=torch.uint8)
    assert policy(observations).log_prob(torch.zeros(9)).shape == (9,)
    sizes = [tuple(module.weight.shape) for module in policy if isinstance(module, nn.Linear)]
    assert sizes == [(6, int(np.prod(shape))), (5, 6), (3, 5)]
    assert all(module.bias is not None for module in policy if isinstance(module, nn.Linear))
