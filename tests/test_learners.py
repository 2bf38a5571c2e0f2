from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from pg_lightning import CategoricalMLP
from pg_lightning.episodes import Chunk
from pg_lightning.learners import AutogradGradient, MLPGradient, make_gradient
from tests.envs import OwnPolicy

C = 257
SPACES = gym.spaces.Box(-1, 1, (2, 3), np.float32), gym.spaces.Discrete(4)


def chunk_for(policy, seed=0):
    """Random timesteps, with masks for the policy's dropout layers."""
    random = torch.Generator().manual_seed(seed)
    units = [policy[place - 1].out_features for place, layer in enumerate(policy) if hasattr(layer, "p")]
    return Chunk(
        observations=torch.randn(C, 2, 3, generator=random),
        actions=torch.randint(0, 4, (C,), generator=random),
        masks=[torch.rand(C, size, generator=random) < 0.5 for size in units],
        advantages=torch.randn(C, generator=random),
        num_episodes=7,
    )


@pytest.mark.parametrize(
    ("hidden_sizes", "bias", "dropout"), list(product([(), (128,), (16, 32), (8, 8, 8)], [False, True], [0.0, 0.6]))
)
def test_by_hand_is_what_autograd_says(hidden_sizes, bias, dropout):
    torch.manual_seed(1)
    policy = CategoricalMLP(*SPACES, hidden_sizes=hidden_sizes, bias=bias, dropout=dropout).double()
    chunk = chunk_for(policy)
    chunk = chunk._replace(advantages=chunk.advantages.double())
    policy.flatten = lambda observations: observations.flatten(1).double()
    before = [parameter.clone() for parameter in policy.parameters()]
    loss, gradients = MLPGradient(policy)(chunk)
    expected_loss, expected = AutogradGradient(policy)(chunk)
    torch.testing.assert_close(loss, expected_loss)
    assert len(gradients) == len(expected) == (len(hidden_sizes) + 1) * (1 + bias)
    for gradient, right in zip(gradients, expected, strict=True):
        assert gradient.shape == right.shape and right.abs().max() > 1e-3
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-12)
    assert all(map(torch.equal, before, policy.parameters()))


def test_by_hand_in_single_precision():
    torch.manual_seed(2)
    policy = CategoricalMLP(*SPACES, hidden_sizes=(64,), dropout=0.3)
    for gradient, right in zip(
        *(rule(policy)(chunk_for(policy))[1] for rule in (MLPGradient, AutogradGradient)), strict=True
    ):
        assert (gradient - right).norm() < 1e-6 * right.norm()


def frozen():
    policy = CategoricalMLP(*SPACES)
    policy[0].weight.requires_grad = False
    return policy


class Subclass(CategoricalMLP):
    def forward(self, observations):
        return super().forward(2 * observations)


def test_only_what_is_known_is_done_by_hand():
    assert isinstance(make_gradient(CategoricalMLP(*SPACES)), MLPGradient)
    own = OwnPolicy(gym.spaces.Box(-1, 1, (6,)), SPACES[1])
    for policy in (Subclass(*SPACES), frozen(), CategoricalMLP(*SPACES, dropout=0.5).eval(), own):
        assert isinstance(make_gradient(policy), AutogradGradient)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(make_gradient(CategoricalMLP(*SPACES)), AutogradGradient)


def test_what_is_frozen_has_no_gradient():
    policy = frozen()
    _, gradients = make_gradient(policy)(chunk_for(policy))
    assert [gradient.shape for gradient in gradients] == [policy[2].weight.shape]


def test_a_parameter_that_is_not_used_has_none():
    policy = Subclass(*SPACES)
    policy.spare = nn.Parameter(torch.ones(2))
    by_name = dict(zip(dict(policy.named_parameters()), AutogradGradient(policy)(chunk_for(policy))[1], strict=True))
    assert by_name["spare"] is None and by_name["0.weight"] is not None


def test_chunks_hold_one_graph_at_a_time():
    """A policy whose graph counts itself: none is alive when the next chunk begins."""
    alive = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            alive.append(1)
            return value * 1

        @staticmethod
        def backward(ctx, gradient):
            alive.pop()
            return gradient

    class Watched(CategoricalMLP):
        def forward(self, observations):
            assert not alive
            return Categorical(logits=Watch.apply(super().forward(observations).logits))

    rule = AutogradGradient(Watched(*SPACES))
    for seed in range(3):
        rule(chunk_for(rule.policy, seed))


@pytest.mark.parametrize("rule", [MLPGradient, AutogradGradient])
def test_a_mask_too_few_is_refused(rule):
    policy = CategoricalMLP(*SPACES, dropout=0.5)
    with pytest.raises(ValueError, match="the policy has 1 dropout layers, but 0 masks were recorded"):
        rule(policy)(chunk_for(policy)._replace(masks=[]))
