"""Heads: what NumPy samples, what torch scores, and what the environment gets."""

from functools import partial
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from scipy import stats
from torch.distributions import (
    Bernoulli,
    Beta,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from pg_lightning import MLPPolicy
from pg_lightning.policies import (
    BernoulliHead,
    BetaHead,
    CategoricalHead,
    CompositeHead,
    GaussianHead,
    MultiCategoricalHead,
    PredictedStdGaussianHead,
    SquashedGaussianHead,
)
from pg_lightning.policies.bodies import plain_layers
from pg_lightning.policies.heads import make_head
from pg_lightning.sampling.actors import HeadActor
from pg_lightning.tree import tree_leaves, tree_map, tree_rows

DRAWS, ENVS = 100_000, 50
MIN_P = 1e-4

BOX = Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32))
NESTED = Dict(move=Box(-1, 1, (2,)), tools=Tuple((Discrete(3, start=4), MultiBinary(2))))
HEADS = {
    "discrete": lambda: CategoricalHead(Discrete(4, start=2)),
    "multidiscrete": lambda: MultiCategoricalHead(MultiDiscrete([2, 4, 3], start=[0, 7, -1])),
    "square": lambda: MultiCategoricalHead(MultiDiscrete([[3, 3], [3, 3]])),
    "multibinary": lambda: BernoulliHead(MultiBinary((2, 2))),
    "gaussian": lambda: GaussianHead(BOX, initial_log_std=-0.5),
    "predicted": lambda: PredictedStdGaussianHead(BOX),
    "squashed": lambda: SquashedGaussianHead(BOX, initial_log_std=0.3),
    "beta": lambda: BetaHead(BOX),
    "composite": lambda: make_head(NESTED),
}


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]()


def outputs_of(head, rows=1, seed=0):
    """Outputs ``[rows, O]`` of some network, float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, head.num_outputs)))


def draw(head, outputs, draws=DRAWS, seed=1):
    """Sample in NumPy, as while acting, given one row of outputs: a tree of tensors ``[draws, ...]``."""
    rows = np.broadcast_to(outputs.numpy().astype(np.float32), (ENVS, head.num_outputs))
    noise = head.noise(np.random.default_rng(seed), draws // ENVS, ENVS)
    samples = [head.sample(rows, own) for own in tree_rows(noise)]
    return tree_map(lambda *leaves: torch.from_numpy(np.concatenate(leaves)), *samples)


def repeated(head, outputs, draws=DRAWS):
    return head.distribution(outputs.expand(draws, -1))


def is_likely(counts, probabilities):
    """Whether counts of outcomes agree with their probabilities, by a chi-square test."""
    return len(counts) == 1 or stats.chisquare(counts, np.asarray(probabilities) * np.sum(counts)).pvalue > MIN_P


# What NumPy samples


@pytest.mark.parametrize("name", ["discrete", "multidiscrete", "square", "multibinary"])
def test_joint_outcomes_are_sampled_as_often_as_torch_says(name):
    head = HEADS[name]()
    outputs = outputs_of(head)
    samples = draw(head, outputs).reshape(DRAWS, -1).long()
    sizes = {"discrete": [4], "multidiscrete": [2, 4, 3], "square": [3] * 4, "multibinary": [2] * 4}[name]
    outcomes = torch.tensor(list(product(*map(range, sizes))))
    shape = head.distribution(outputs).event_shape
    log_probs = head.distribution(outputs.expand(len(outcomes), -1)).log_prob(outcomes.reshape(-1, *shape).double())
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-12)
    places = np.ravel_multi_index(samples.T.numpy(), sizes)
    assert is_likely(np.bincount(places, minlength=len(outcomes)), log_probs.exp().numpy())


@pytest.mark.parametrize("name", ["gaussian", "predicted", "squashed", "beta"])
def test_numbers_are_sampled_by_their_density(name):
    head = HEADS[name]().double()
    outputs = outputs_of(head)
    samples = draw(head, outputs).double()
    one, other = samples.T.numpy()
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(DRAWS)
    if name == "beta":
        alpha, beta = (1 + 1e-6 + torch.nn.functional.softplus(outputs[0])).chunk(2)
        theirs = [stats.beta(a, b) for a, b in zip(alpha.tolist(), beta.tolist(), strict=True)]
    else:
        mean = outputs[0, :2].tolist()
        std = {"gaussian": [np.exp(-0.5)] * 2, "squashed": [np.exp(0.3)] * 2}.get(
            name, (0.2 * outputs[0, 2:]).exp().tolist()
        )
        theirs = [stats.norm(m, s) for m, s in zip(mean, std, strict=True)]
    for values, distribution in zip((one, other), theirs, strict=True):
        assert stats.kstest(values, distribution.cdf).pvalue > MIN_P


def test_parts_of_a_composite_action_are_sampled_each_by_its_own_outputs():
    head = HEADS["composite"]()
    outputs = outputs_of(head)
    samples = draw(head, outputs)
    move, (tool, bits) = samples["move"], samples["tools"]
    for values, mean in zip(move.T.double().numpy(), outputs[0, :2].tolist(), strict=True):
        assert stats.kstest(values, stats.norm(mean, 1).cdf).pvalue > MIN_P
    assert is_likely(np.bincount(tool, minlength=3), outputs[0, 2:5].softmax(0))
    for values, logit in zip(bits.T.long(), outputs[0, 5:], strict=True):
        assert is_likely(np.bincount(values, minlength=2), [1 - logit.sigmoid(), logit.sigmoid()])


def test_noise_is_new_in_each_step_and_environment(head):
    leaves = [
        leaf.double().reshape(DRAWS // ENVS, ENVS, -1)[..., 0] for leaf in tree_leaves(draw(head, outputs_of(head)))
    ]
    for values in leaves:
        values = values - values.mean()
        for one, other in ((values[:-1], values[1:]), (values[:, :-1], values[:, 1:])):
            assert abs((one * other).mean() / values.var()) < 4 / np.sqrt(one.numel())


def test_an_update_follows_from_its_generator(head):
    first, again, other = (tree_leaves(draw(head, outputs_of(head), 500, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert any(not torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_the_modes_of_numpy_and_torch_agree(head):
    outputs = outputs_of(head, 200).float()
    ours, theirs = head.mode(outputs.numpy()), head.distribution(outputs).mode
    for one, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_no_sample_is_more_probable_than_the_mode(head):
    if isinstance(head, SquashedGaussianHead):
        pytest.skip("its mode is the mean before the tanh")
    outputs = outputs_of(head).float()
    distribution = repeated(head, outputs, 1000)
    assert (distribution.log_prob(draw(head, outputs, 1000)) <= distribution.log_prob(distribution.mode) + 1e-5).all()


# What torch scores


def test_log_probs_are_those_of_torch():
    seeds = torch.manual_seed(0)
    value, unit = torch.randn(7, 2, generator=seeds).double(), torch.rand(7, 2, generator=seeds).double()
    bits = torch.randint(2, (7, 2, 2), generator=seeds).double()
    made = {name: HEADS[name]().double() for name in ("gaussian", "predicted", "squashed", "beta", "multibinary")}
    outputs = {name: outputs_of(head, 7) for name, head in made.items()}
    mean, log_std = outputs["predicted"].chunk(2, 1)
    base = Normal(outputs["squashed"], torch.full((2,), 0.3).double().exp())
    alpha, beta = (1 + 1e-6 + torch.nn.functional.softplus(outputs["beta"])).chunk(2, 1)
    theirs = {
        "gaussian": (Normal(outputs["gaussian"], torch.full((2,), -0.5).double().exp()), value, value),
        "predicted": (Normal(mean, (0.2 * log_std).exp()), value, value),
        "squashed": (TransformedDistribution(base, TanhTransform()), value, value.tanh()),
        "beta": (Beta(alpha, beta), unit, unit),
        "multibinary": (Bernoulli(logits=outputs["multibinary"].reshape(7, 2, 2)), bits, bits),
    }
    for name, (distribution, raw, action) in theirs.items():
        ours = made[name].distribution(outputs[name]).log_prob(raw)
        expected = distribution.log_prob(action).reshape(7, -1).sum(1)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("make", [GaussianHead, PredictedStdGaussianHead, SquashedGaussianHead, BetaHead])
@pytest.mark.parametrize("seed", range(3))
def test_densities_integrate_to_1(make, seed):
    head = make(Box(-2, 3, (1,))).double()
    raw = torch.linspace(*((0, 1) if make is BetaHead else (-16, 16)), 200_001, dtype=torch.float64)
    # A squashed density is that of the action after the tanh: dx (1 - tanh² x) is its element.
    elements = 1 - raw.tanh() ** 2 if make is SquashedGaussianHead else torch.ones_like(raw)
    inner = slice(1, -1) if make is BetaHead else slice(None)  # Its logarithms of 0 are not finite.
    density = head.distribution(outputs_of(head, seed=seed).expand(len(raw), -1)).log_prob(raw[:, None]).exp()
    assert torch.trapezoid((density * elements)[inner], raw[inner]).item() == pytest.approx(1, abs=1e-6)


def test_the_density_of_two_numbers_integrates_to_1():
    head = GaussianHead(Box(-1, 1, (2,)), initial_log_std=-0.3).double()
    line = torch.linspace(-9, 9, 601, dtype=torch.float64)
    raw = torch.cartesian_prod(line, line)
    density = head.distribution(outputs_of(head).expand(len(raw), -1)).log_prob(raw).exp()
    assert (density.sum() * (line[1] - line[0]) ** 2).item() == pytest.approx(1, abs=1e-6)


def test_entropies_are_those_of_monte_carlo(head):
    outputs = outputs_of(head).float()
    log_probs = repeated(head, outputs).log_prob(draw(head, outputs)).double()
    try:
        entropy = head.distribution(outputs).entropy()
    except NotImplementedError:
        assert isinstance(head, SquashedGaussianHead)
        return
    assert entropy.shape == (1,)
    assert abs(-log_probs.mean() - entropy.item()) < 4 * log_probs.std() / np.sqrt(DRAWS)


def test_kl_divergences_are_those_of_monte_carlo(head):
    ours, theirs = outputs_of(head).float(), outputs_of(head, seed=5).float()
    divergence = kl_divergence(head.distribution(ours), head.distribution(theirs))
    samples = draw(head, ours)
    ratios = (repeated(head, ours).log_prob(samples) - repeated(head, theirs).log_prob(samples)).double()
    assert divergence.shape == (1,) and divergence.item() > 0.05
    assert abs(ratios.mean() - divergence.item()) < 4 * ratios.std() / np.sqrt(DRAWS)
    assert kl_divergence(head.distribution(ours), head.distribution(ours)).item() == pytest.approx(0, abs=1e-6)


def test_kl_divergence_of_gaussians_with_other_stds():
    mean, log_std = torch.randn(2, 5, 3).double(), torch.randn(2, 5, 3).double()
    both = [make_gaussian(m, s) for m, s in zip(mean, log_std, strict=True)]
    theirs = [Independent(Normal(m, s.exp()), 1) for m, s in zip(mean, log_std, strict=True)]
    torch.testing.assert_close(kl_divergence(*both), kl_divergence(*theirs))


def make_gaussian(mean, log_std):
    head = PredictedStdGaussianHead(Box(-1, 1, (3,)), log_std_share=1.0)
    return head.distribution(torch.cat([mean, log_std], 1))


def test_samples_of_torch_have_the_shape_of_those_of_numpy(head):
    outputs = outputs_of(head, 6).float()
    theirs = head.distribution(outputs).sample()
    ours = head.sample(outputs.numpy(), next(iter(tree_rows(head.noise(np.random.default_rng(0), 1, 6)))))
    shapes = [[tuple(leaf.shape) for leaf in tree_leaves(tree)] for tree in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_all_distributions_can_be_differentiated_twice(head):
    """As Fisher-vector products need it."""
    outputs = outputs_of(head.double(), 3).requires_grad_()
    with plain_layers():
        divergence = kl_divergence(head.distribution(outputs.detach()), head.distribution(outputs)).sum()
        (slope,) = torch.autograd.grad(divergence, outputs, create_graph=True)
        (curved,) = torch.autograd.grad(slope, outputs, torch.ones_like(slope))
    assert torch.isfinite(curved).all() and curved.abs().max() > 0


def test_a_saturated_tanh_is_finite_in_value_and_gradient():
    head = SquashedGaussianHead(Box(-1, 1, (2,)), initial_log_std=-2.0)
    outputs = torch.tensor([[50.0, -50.0], [0.0, 1e4], [-1e-8, 20.0]], requires_grad=True)
    raw = torch.tensor([[50.1, -49.9], [0.1, 1e4], [1e-8, 19.9]])
    log_prob = head.distribution(outputs).log_prob(raw)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(outputs.grad).all() and torch.isfinite(head.log_std.grad).all()
    exact = -2 * (np.log(2) - 50.1 - np.log1p(np.exp(-100.2))) - 2 * (np.log(2) + 49.9 - np.log1p(np.exp(99.8)))
    base = stats.norm(0, np.exp(-2)).logpdf([0.1, 0.1]).sum()
    assert log_prob[0].item() == pytest.approx(base + exact, rel=1e-4)
    assert (head.to_env(raw.numpy()) == np.tanh(raw.numpy())).all()


# Action masks

MASKED = {
    "discrete": (HEADS["discrete"], [0, 1, 1, 0]),
    "multidiscrete": (HEADS["multidiscrete"], [0, 1, 1, 0, 1, 0, 1, 1, 0]),
}
masked = pytest.mark.parametrize(("make", "mask"), MASKED.values(), ids=MASKED)


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
