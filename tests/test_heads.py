"""Heads: masks, what the environment gets, and policies that act with them."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch.distributions import (
    kl_divergence,
)

from pg_lightning import MLPPolicy
from pg_lightning.policies import (
    BetaHead,
    CategoricalHead,
    CompositeHead,
    GaussianHead,
    PredictedStdGaussianHead,
    SquashedGaussianHead,
)
from pg_lightning.policies.bodies import plain_layers
from pg_lightning.policies.heads import make_head
from pg_lightning.sampling.actors import HeadActor
from pg_lightning.tree import tree_map, tree_rows
from tests.heads import BOX, DRAWS, HEADS, NESTED, draw, is_likely, masked, outputs_of


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]()


# Action masks


@masked
def test_masked_actions_are_never_sampled_and_the_others_by_their_probabilities(make, mask):
    head, mask = make(), torch.tensor([mask], dtype=torch.bool)
    outputs = 3 * outputs_of(head).float()
    both = [head.masked(values, allowed) for values, allowed in ((outputs, mask), (outputs.numpy(), mask.numpy()))]
    np.testing.assert_array_equal(*both)
    samples = draw(head, both[0])
    sizes = [4] if samples.ndim == 1 else [2, 4, 3]
    for values, logits, allowed in zip(
        samples.reshape(DRAWS, -1).T, outputs[0].split(sizes), mask[0].split(sizes), strict=True
    ):
        counts = np.bincount(values, minlength=len(logits))
        assert (counts[~allowed] == 0).all()
        assert is_likely(counts[allowed], logits[allowed].double().softmax(0))
    logits, allowed = outputs[0].split(sizes), mask[0].split(sizes)
    entropies = [
        torch.distributions.Categorical(logits=one[may]).entropy() for one, may in zip(logits, allowed, strict=True)
    ]
    torch.testing.assert_close(head.distribution(both[0]).entropy()[0], sum(entropies))


@masked
def test_masked_logits_have_no_gradient(make, mask):
    head, mask = make(), torch.tensor([mask], dtype=torch.bool)
    outputs = outputs_of(head, 20).float().requires_grad_()
    distribution = head.distribution(head.masked(outputs, mask))
    loss = distribution.log_prob(distribution.mode).sum() + distribution.entropy().sum()
    with plain_layers():
        loss = loss + kl_divergence(head.distribution(head.masked(outputs.detach() + 1, mask)), distribution).sum()
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[:, ~mask[0]] == 0).all() and (outputs.grad[:, mask[0]] != 0).any()


@pytest.mark.parametrize("name", ["multibinary", "gaussian", "beta", "composite"])
def test_other_heads_refuse_masks(name):
    head = HEADS[name]()
    with pytest.raises(ValueError, match="takes no action mask: they are for Discrete and MultiDiscrete spaces"):
        head.masked(outputs_of(head), torch.ones(1, head.num_outputs, dtype=torch.bool))


# What the environment gets

SPACES = [
    Discrete(3),
    Discrete(3, start=-4),
    MultiDiscrete([2, 5], start=[-3, 9]),
    MultiDiscrete([[2, 3], [4, 5]]),
    MultiBinary(3),
    MultiBinary((2, 3)),
    Box(-1, 1, (3,)),
    Box(-2, 5, (), np.float64),
    Box(0, 255, (2, 2), np.uint8),
    Box(-3, 4, (1,), np.int64),
    Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    Box(0, np.inf, (2,)),
    Box(-np.inf, 3, (2,), np.float64),
    Box(-np.inf, np.inf, (2, 1, 2)),
    Box(np.array([-1, -np.inf, 0], np.float32), np.array([1, np.inf, np.inf], np.float32)),
    Box(-np.inf, np.inf, (2,), np.int32),
    Box(-3.4e38, 3.4e38, (1,)),
    Box(0.5, 0.5, (1,)),
    NESTED,
    Tuple((Tuple((Box(0, 1, (1,)), Discrete(2))), Dict(a=MultiDiscrete([2, 2])))),
]


def all_heads():
    for space in SPACES:
        makers = [make_head]
        if isinstance(space, Box):
            makers = [GaussianHead, PredictedStdGaussianHead]
            makers += [SquashedGaussianHead, BetaHead] if space.is_bounded() else []
        for make in makers:
            yield pytest.param(make, space, id=f"{getattr(make, '__name__', make)}-{space}")


@pytest.mark.parametrize(("make", "space"), list(all_heads()))
@pytest.mark.parametrize("scale", [0, 1, 1e3, 1e15])
@pytest.mark.filterwarnings("error")
def test_every_action_is_in_the_space(make, space, scale):
    head = make(space)
    outputs = (scale * outputs_of(head, 40)).numpy().astype(np.float32)
    noise = head.noise(np.random.default_rng(0), 1, 40)
    with np.errstate(over="ignore"):
        for raw in (head.sample(outputs, next(iter(tree_rows(noise)))), head.mode(outputs)):
            actions = head.to_env(raw)
            for i in range(40):
                assert space.contains(tree_map(lambda leaf, i=i: leaf[i, ...], actions))


@pytest.mark.parametrize(
    ("space", "raw", "expected"),
    [
        (Box(-1, 1, (1,)), [-2, -1, 0.25, 7], [-1, -1, 0.25, 1]),
        (Box(0, 10, (1,)), [-2, -1, 0.5, 1], [0, 0, 7.5, 10]),
        (Box(2, np.inf, (1,)), [1, 3, 40, 2], [2, 3, 40, 2]),
        (Box(-np.inf, np.inf, (1,)), [-5, 5, 0, 1e9], [-5, 5, 0, 1e9]),
        (Box(0, 3, (1,), np.int8), [-1, -0.51, -0.49, 0.9], [0, 0, 1, 3]),
        (Box(-np.inf, 3, (1,), np.int8), [-1.4, 1.6, 2.4, 9], [-1, 2, 2, 3]),
    ],
)
def test_raw_numbers_from_minus_1_to_1_span_the_bounds(space, raw, expected):
    actions = GaussianHead(space).to_env(np.array(raw, np.float32)[:, None])
    np.testing.assert_allclose(actions[:, 0], np.array(expected, space.dtype))


def test_integers_have_equal_room():
    head = BetaHead(Box(0, 4, (1,), np.int16))
    counts = np.bincount(head.to_env(np.linspace(0, 1, 10_001)[:, None])[:, 0])
    assert counts.max() - counts.min() <= 2


def test_squashed_and_beta_actions_span_the_bounds():
    space = Box(2, 10, (1,))
    raw = np.array([[-30.0], [0.0], [np.arctanh(0.5)], [30.0]], np.float32)
    np.testing.assert_allclose(SquashedGaussianHead(space).to_env(raw), [[2], [6], [8], [10]])
    np.testing.assert_allclose(BetaHead(space).to_env(np.array([[0.0], [0.5], [0.75], [1.0]])), [[2], [6], [8], [10]])


# Making heads


@pytest.mark.parametrize("make", [SquashedGaussianHead, BetaHead])
@pytest.mark.parametrize("space", [Box(0, np.inf, (2,)), Box(-np.inf, np.inf, (2,), np.int32)])
def test_bounded_heads_refuse_infinite_bounds(make, space):
    with pytest.raises(ValueError, match=f"{make.__name__} needs finite bounds, which Box.* has not: use GaussianHead"):
        make(space)


@pytest.mark.parametrize("make", [GaussianHead, PredictedStdGaussianHead])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial_log_std": 3}, "initial_log_std must be from -5 to 2, not 3"),
        ({"initial_log_std": float("nan")}, "initial_log_std must be from -5 to 2, not nan"),
        ({"log_std_share": 1.5}, "log_std_share must be from 0 to 1, not 1.5"),
        ({"log_std_share": -0.1}, "log_std_share must be from 0 to 1, not -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(BOX, **settings)


@pytest.mark.parametrize("space", [gym.spaces.Text(3), gym.spaces.Sequence(Discrete(2)), Tuple((gym.spaces.Text(3),))])
def test_spaces_without_a_head_are_named(space):
    with pytest.raises(
        ValueError, match=r"no head for the action space (Text|Sequence).*heads exist for Discrete, .*policy"
    ):
        make_head(space)


def test_step_shares_name_parameters():
    assert GaussianHead(BOX, log_std_share=0.3).step_shares() == {"log_std": 0.3}
    nested = make_head(Dict(a=Discrete(2), b=Tuple((BOX, BOX))))
    assert nested.step_shares() == {"parts.1.parts.0.log_std": 0.2, "parts.1.parts.1.log_std": 0.2}
    assert nested.step_shares().keys() == dict(nested.named_parameters()).keys()
    assert PredictedStdGaussianHead(BOX).step_shares() == CategoricalHead(Discrete(2)).step_shares() == {}


# Policies act with them

OBSERVATIONS = Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize("double", [False, True])
def test_recorded_log_probs_are_those_of_the_policy(head, double):
    torch.manual_seed(0)
    policy = MLPPolicy(OBSERVATIONS, head.space, head=lambda space: head)
    policy = policy.double() if double else policy
    observations = np.random.default_rng(0).normal(size=(9, 16, 3)).astype(np.float64 if double else np.float32)
    actor = HeadActor(policy, head.space)
    actor.begin(16, np.random.default_rng(1))
    actions = [actor.act(rows) for rows in observations]
    raw = tree_map(lambda *leaves: torch.from_numpy(np.concatenate(leaves)), *actions)
    log_probs, _ = actor.record(raw, np.arange(9 * 16))
    rescored = policy(torch.from_numpy(observations).flatten(0, 1)).log_prob(raw)
    torch.testing.assert_close(log_probs, rescored.detach(), atol=1e-5, rtol=1e-5)


@masked
def test_recorded_log_probs_are_those_under_the_mask(make, mask):
    torch.manual_seed(0)
    head = make()
    policy = MLPPolicy(OBSERVATIONS, head.space)
    observations = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    allowed = np.tile(np.array(mask, bool), (16, 1))
    actor = HeadActor(policy, head.space)
    actor.begin(16, np.random.default_rng(1))
    raw = torch.from_numpy(actor.act(observations, allowed))
    log_probs, _ = actor.record(raw, np.arange(16))
    distribution = policy(torch.from_numpy(observations), torch.from_numpy(allowed))
    torch.testing.assert_close(log_probs, distribution.log_prob(raw).detach(), atol=1e-6, rtol=1e-5)
    assert (log_probs != policy(torch.from_numpy(observations)).log_prob(raw)).all()


def test_a_head_can_be_chosen_with_its_settings():
    policy = MLPPolicy(OBSERVATIONS, BOX, head=partial(SquashedGaussianHead, initial_log_std=-1.0))
    assert policy.head.log_std.tolist() == [-1, -1]
    assert isinstance(MLPPolicy(OBSERVATIONS, BOX).head, GaussianHead)
    assert isinstance(MLPPolicy(OBSERVATIONS, NESTED).head, CompositeHead)
