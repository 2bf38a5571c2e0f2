"""Heads: what NumPy samples is what torch scores."""

from itertools import product

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
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

from pg_lightning.policies import (
    BetaHead,
    GaussianHead,
    PredictedStdGaussianHead,
    SquashedGaussianHead,
)
from pg_lightning.policies.bodies import plain_layers
from pg_lightning.tree import tree_leaves, tree_rows
from tests.heads import DRAWS, ENVS, HEADS, MIN_P, draw, is_likely, outputs_of, repeated


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]()


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
