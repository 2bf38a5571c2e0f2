"""The Categorical of the package equals torch's, in whatever it is asked for, and so does its gradient."""

import copy

import pytest
import torch
from torch.distributions import Categorical as Torchs
from torch.distributions import Independent, kl_divergence

from pg_lightning.policies.bodies import MLPBody, plain_layers
from pg_lightning.policies.distributions import Categorical

SHAPES = [(9, 4), (9, 1), (9, 300), (0, 3), (4,), (5, 3, 2)]


def make(shape=(9, 4), dtype=torch.float64, seed=0, column_major=False):
    """Logits ``shape`` and actions ``shape[:-1]``."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=random, dtype=torch.float64)
    actions = torch.randint(0, shape[-1], shape[:-1], generator=random)
    logits = logits.to(dtype)
    return (logits.t().contiguous().t() if column_major else logits).requires_grad_(), actions


def is_fused(log_probs):
    return type(log_probs.grad_fn).__name__ == "_LogProbBackward"


QUESTIONS = {
    "logits": lambda d: d.logits,
    "probs": lambda d: d.probs,
    "log_prob": lambda d: d.log_prob(torch.arange(9) % 4),
    "log_prob of floats": lambda d: d.log_prob(torch.arange(9.0) % 4),
    "log_prob of one action": lambda d: d.log_prob(torch.tensor(2)),
    "log_prob of many actions": lambda d: d.log_prob(torch.arange(4)[:, None].expand(4, 9)),
    "entropy": lambda d: d.entropy(),
    "mode": lambda d: d.mode,
    "shapes": lambda d: torch.tensor([*d.batch_shape, *d.event_shape, *d.param_shape]),
    "support": lambda d: torch.tensor([d.support.lower_bound, d.support.upper_bound]),
    "enumerate_support": lambda d: d.enumerate_support(),
    "sample": lambda d: (torch.manual_seed(0), d.sample((5,)))[1],
    "expand": lambda d: d.expand((2, 9)).logits,
    "expand, log_prob": lambda d: d.expand(torch.Size((2, 9))).log_prob(torch.arange(18).view(2, 9) % 4),
    "expand once asked": lambda d: (d.probs, d.expand((2, 9)).entropy())[1],
    "independent": lambda d: Independent(d, 1).log_prob(torch.arange(9) % 4),
    "independent, expand": lambda d: Independent(d, 1).expand((3,)).entropy(),
    "copy": lambda d: copy.copy(d).entropy(),
    "kl": lambda d: kl_divergence(d, type(d)(logits=make(seed=5)[0])),
    "kl with torch's": lambda d: kl_divergence(d, Torchs(logits=make(seed=5)[0])),
    "kl of torch's": lambda d: kl_divergence(Torchs(logits=make(seed=5)[0]), d),
    "kl of independent": lambda d: kl_divergence(Independent(d, 1), Independent(type(d)(logits=make(seed=5)[0]), 1)),
    "mean": lambda d: d.mean,
    "isinstance": lambda d: torch.tensor(isinstance(d, Torchs)),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("column_major", [False, True])
def test_it_answers_like_torchs_own(question, column_major):
    logits, _ = make(column_major=column_major)
    ours, torchs = (QUESTIONS[question](kind(logits=logits)) for kind in (Categorical, Torchs))
    assert ours.dtype == torchs.dtype
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12, equal_nan=True)
    if torchs.requires_grad:
        gradients = [torch.autograd.grad(answer.sin().sum(), logits)[0] for answer in (ours, torchs)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_log_probs_and_their_gradients(shape, dtype):
    logits, actions = make(shape, dtype)
    weights = torch.linspace(-1, 2, actions.numel(), dtype=dtype).view(actions.shape)
    kinds = Categorical, Torchs
    found, expected = (kind(logits=logits, validate_args=False).log_prob(actions) for kind in kinds)
    assert is_fused(found) and not is_fused(expected) and found.dtype == dtype and found.is_contiguous()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    gradient, right = (torch.autograd.grad(log_probs, logits, weights)[0] for log_probs in (found, expected))
    assert gradient.shape == shape
    torch.testing.assert_close(gradient, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4)])
def test_gradcheck(shape):
    logits, actions = make(shape)
    assert torch.autograd.gradcheck(lambda logits: Categorical(logits).log_prob(actions), logits)


def test_extreme_logits():
    """Forbidden actions (the lowest number of the dtype, or minus infinity) and sure ones."""
    logits = torch.tensor([[0.0, -torch.inf, 1.0], [torch.finfo(torch.float32).min, 2.0, 0.0], [1e4, 0.0, -1e4]])
    actions = torch.tensor([2, 1, 0])
    logits.requires_grad_()
    found, expected = (
        kind(logits=logits).log_prob(actions) for kind in (Categorical, lambda logits: Torchs(logits=logits))
    )
    torch.testing.assert_close(found, expected)
    gradient, right = (torch.autograd.grad(log_probs.sum(), logits)[0] for log_probs in (found, expected))
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient, right)
    torch.testing.assert_close(Categorical(logits).entropy(), Torchs(logits=logits, validate_args=False).entropy())


def test_large_logits_lose_nothing():
    """Torch subtracts the sum's logarithm from each logit, which rounds to 0.001 here; the softmax shifts first."""
    logits = torch.tensor([[10_000.0, 10_001.0]])
    exact = torch.tensor([-1.3132616875])
    torch.testing.assert_close(Categorical(logits).log_prob(torch.tensor([0])), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("action", [-1, 4])
def test_actions_that_do_not_exist(action):
    logits, actions = make()
    actions[3] = action
    with pytest.raises(RuntimeError, match=f"index {action} is out of bounds"):
        Categorical(logits).log_prob(actions)
    with pytest.raises(ValueError, match="within the support"):
        Categorical(logits, validate_args=True).log_prob(actions)


def test_validation_is_as_asked_for():
    logits = torch.tensor([[float("nan"), 0.0]])
    assert Categorical(logits).log_prob(torch.tensor([1])).isnan()
    checked = Categorical(make()[0], validate_args=True)
    with pytest.raises(ValueError):
        checked.log_prob(torch.zeros(3))
    with pytest.raises(ValueError):
        checked.expand((2, 9)).log_prob(torch.full((2, 9), 7))


def test_nothing_is_computed_before_it_is_asked_for():
    logits, actions = make()
    with torch.profiler.profile() as profile:
        distribution = Categorical(logits)
        distribution.log_prob(actions)
    keys = [event.key for event in profile.key_averages()]
    assert "aten::_log_softmax" in keys and "aten::logsumexp" not in keys
    assert distribution.logits is distribution.logits


def test_changes_in_place_of_the_log_probs():
    logits, actions = make()
    log_probs = Categorical(logits).log_prob(actions)
    log_probs.mul_(2)
    torch.testing.assert_close(
        torch.autograd.grad(log_probs.sum(), logits)[0],
        2 * torch.autograd.grad(Torchs(logits=logits).log_prob(actions).sum(), logits)[0],
    )


def test_plain_layers_have_a_second_derivative():
    logits, actions = make((3, 3))
    with plain_layers():
        assert torch.autograd.gradgradcheck(lambda logits: Categorical(logits).log_prob(actions), logits)


@pytest.mark.parametrize("body_is_plain", [False, True])
def test_a_second_derivative_raises(body_is_plain):
    """Also where only this function was fused, and where unused parameters are allowed."""
    body = MLPBody(4, 3).double()
    body[0].register_forward_hook(lambda *_: None) if body_is_plain else None
    inputs, actions = make((9, 4))
    log_probs = Categorical(body(inputs.detach())).log_prob(actions % 3)
    gradient = torch.autograd.grad(log_probs.sum(), body[2].weight, create_graph=True)[0]
    for weight in (body[0].weight, body[2].weight):
        with pytest.raises(RuntimeError, match=r"compute the outputs inside plain_layers\(\)"):
            torch.autograd.grad((gradient**2).sum(), weight, allow_unused=True, retain_graph=True)


def test_function_transforms_autocast_and_compilation():
    logits, actions = make()
    expected = Torchs(logits=logits).log_prob(actions)

    def log_prob(logits):
        return Categorical(logits).log_prob(actions)

    torch.testing.assert_close(
        torch.func.grad(lambda logits: log_prob(logits).sum())(logits),
        torch.autograd.grad(expected.sum(), logits, retain_graph=True)[0],
    )
    by_row = torch.func.vmap(lambda logits, action: Categorical(logits).log_prob(action))(logits, actions)
    torch.testing.assert_close(by_row, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fused(log_prob(logits))
        torch.testing.assert_close(log_prob(logits), expected)
    compiled = torch.compile(log_prob, backend="eager")
    torch.testing.assert_close(compiled(logits), expected)


def test_bf16_logits_under_autocast():
    """As a body makes them in mixed precision."""
    body = MLPBody(4, 3)
    inputs, actions = make((50, 4), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs = Categorical(body(inputs.detach())).log_prob(actions % 3)
    exact = Categorical(body(inputs.detach())).log_prob(actions % 3)
    torch.testing.assert_close(log_probs.float(), exact, rtol=0, atol=0.1)
    log_probs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in body.parameters())


def test_entropies_and_their_gradients_are_torchs():
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    outer = torch.randn(7, dtype=torch.float64)
    ours, theirs = Categorical(logits).entropy(), torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(entropy, logits, outer)[0] for entropy in (ours, theirs)))
    assert torch.autograd.gradcheck(lambda logits: Categorical(logits).entropy(), logits)


def test_the_entropy_of_forbidden_actions_is_finite():
    logits = torch.tensor([[0.0, torch.finfo(torch.float32).min, 1.0]], requires_grad=True)
    entropy = Categorical(logits).entropy()
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits[:, ::2]).entropy())
    assert torch.isfinite(torch.autograd.grad(entropy, logits)[0]).all()
