"""The fused MLP equals its plain layers, wherever it is taken, and is not taken where it would be wrong."""

import copy
import threading
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

from pg_lightning.policies.bodies import MLPBody, plain_layers
from pg_lightning.policies.dropout import (
    ConsistentDropout,
    consistent_dropouts,
    replay_masks,
    with_consistent_dropout,
)

T, INPUTS, OUTPUTS = 57, 6, 3
HIDDEN_SIZES = [(), (16,), (4, 32), (8, 5, 7)]


def make_body(seed=0, dtype=torch.float64, outputs=OUTPUTS, **arguments):
    torch.manual_seed(seed)
    return MLPBody(INPUTS, outputs, **arguments).to(dtype)


def make_inputs(body, seed=1, steps=T):
    """Random features and weights of the outputs, and a mask for each dropout layer."""
    random = torch.Generator().manual_seed(seed)
    weight = next(layer.weight for layer in body if isinstance(layer, nn.Linear))
    masks, units = [], 0
    for layer in body:
        units = getattr(layer, "out_features", units)
        if isinstance(layer, ConsistentDropout):
            masks.append(torch.rand(steps, units, generator=random) < 0.5)
    inputs = torch.randn(steps, INPUTS, generator=random).to(weight.dtype)
    return inputs, masks


def outputs_and_gradients(body, inputs, masks=()):
    """Outputs, and the gradients of a loss that is not linear in them by inputs and parameters."""
    inputs = inputs.clone().requires_grad_()
    with replay_masks(body, masks) if masks else nullcontext():
        outputs = body(inputs)
    loss = (outputs.double().sin() * torch.arange(1.0, 1 + outputs.numel()).view_as(outputs)).sum()
    return outputs, torch.autograd.grad(loss, [inputs, *body.parameters()])


def is_fused(outputs):
    return type(outputs.grad_fn).__name__ == "_FusedMLPBackward"


def assert_fused_equals_plain(body, inputs, masks=(), fused=True):
    """Compare with the plain layers, to 1e-10; what is wrong in a Function differs by far more."""
    outputs, gradients = outputs_and_gradients(body, inputs, masks)
    assert is_fused(outputs) == fused
    with plain_layers():
        expected, expected_gradients = outputs_and_gradients(body, inputs, masks)
    assert not is_fused(expected)
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-12)
    for gradient, right in zip(gradients, expected_gradients, strict=True):
        assert right.abs().max() > 1e-3
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-10 * right.abs().max().item())


@pytest.mark.parametrize("hidden_sizes", HIDDEN_SIZES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dropout", [0.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
def test_fused_equals_plain(hidden_sizes, activation, dropout, bias):
    for outputs in (1, OUTPUTS, 40):
        body = make_body(hidden_sizes=hidden_sizes, activation=activation, dropout=dropout, bias=bias, outputs=outputs)
        assert_fused_equals_plain(body, *make_inputs(body))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dropout", [0.0, 0.6])
def test_single_precision(activation, dropout):
    body = make_body(hidden_sizes=(128, 64), activation=activation, dropout=dropout, dtype=torch.float32)
    inputs, masks = make_inputs(body, steps=2048)
    outputs, gradients = outputs_and_gradients(body, inputs, masks)
    assert is_fused(outputs) and outputs.dtype == torch.float32
    with plain_layers():
        expected, expected_gradients = outputs_and_gradients(body, inputs, masks)
    for found, right in zip((outputs, *gradients), (expected, *expected_gradients), strict=True):
        assert (found - right).abs().max() <= 1e-5 * right.abs().max()


def test_half_precision():
    body = make_body(dtype=torch.bfloat16)
    outputs, gradients = outputs_and_gradients(body, *make_inputs(body))
    assert is_fused(outputs) and outputs.dtype == torch.bfloat16
    with plain_layers():
        expected, expected_gradients = outputs_and_gradients(body, *make_inputs(body))
    for found, right in zip((outputs, *gradients), (expected, *expected_gradients), strict=True):
        assert (found - right).abs().max() <= 0.05 * right.abs().max()


@pytest.mark.parametrize("hidden_sizes", HIDDEN_SIZES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dropout", [0.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
def test_gradcheck(hidden_sizes, activation, dropout, bias):
    """Against finite differences, by inputs and parameters."""
    body = make_body(hidden_sizes=hidden_sizes, activation=activation, dropout=dropout, bias=bias)
    inputs, masks = make_inputs(body, steps=5)

    def function(inputs, *parameters):
        with replay_masks(body, masks):
            outputs = torch.func.functional_call(body, dict(zip(names, parameters, strict=True)), (inputs,))
        assert is_fused(outputs)
        return outputs

    names = [name for name, _ in body.named_parameters()]
    assert torch.autograd.gradcheck(function, [inputs.requires_grad_(), *body.parameters()])


def test_dropped_units_are_zero_and_the_others_scaled():
    body = make_body(hidden_sizes=(16,), activation="tanh", dropout=0.75)
    inputs, (mask,) = make_inputs(body)
    with replay_masks(body, [mask]):
        outputs = body(inputs)
    hidden = torch.tanh(torch.where(mask, 4 * body[0](inputs), 0.0))
    assert is_fused(outputs)
    torch.testing.assert_close(outputs, body[3](hidden), rtol=1e-12, atol=1e-12)


# Second derivatives


def squared_gradient(body, inputs):
    gradients = torch.autograd.grad(body(inputs).sum(), list(body.parameters()), create_graph=True)
    return sum((gradient**2).sum() for gradient in gradients)


def test_a_second_derivative_raises_even_where_the_incoming_gradient_is_constant():
    """Of a sum of outputs: PyTorch's own decorator takes the gradients for constants here."""
    body = make_body()
    inputs, _ = make_inputs(body)
    penalty = squared_gradient(body, inputs) + sum(parameter.sum() for parameter in body.parameters())
    with pytest.raises(RuntimeError, match=r"differentiated once only: compute the outputs inside plain_layers\(\)"):
        penalty.backward()


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("by", ["0.weight", "2.bias"])
def test_a_second_derivative_by_one_parameter_raises(by, power):
    """Also where unused parameters are allowed: they are not unused."""
    body = make_body()
    inputs, _ = make_inputs(body)
    loss, weight = (body(inputs) ** power).sum(), body.get_parameter(by)
    (gradient,) = torch.autograd.grad(loss, body[0].weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(gradient.sum(), weight, allow_unused=True)


def test_a_first_derivative_with_a_graph_is_right():
    body = make_body()
    inputs, _ = make_inputs(body)
    found = torch.autograd.grad(body(inputs).sum(), list(body.parameters()), create_graph=True)
    with plain_layers():
        expected = torch.autograd.grad(body(inputs).sum(), list(body.parameters()))
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.detach(), right, rtol=1e-10, atol=1e-12)


def test_plain_layers_have_a_second_derivative():
    body = make_body(activation="tanh", hidden_sizes=(5,))
    inputs, _ = make_inputs(body, steps=3)
    with plain_layers():
        assert torch.autograd.gradgradcheck(body, inputs.requires_grad_())


def test_plain_layers_hold_within_their_context_and_thread_only():
    body = make_body()
    inputs, _ = make_inputs(body)
    elsewhere = []
    with pytest.raises(KeyError), plain_layers():
        with plain_layers():
            assert not is_fused(body(inputs))
        assert not is_fused(body(inputs))
        thread = threading.Thread(target=lambda: elsewhere.append(is_fused(body(inputs))))
        thread.start()
        thread.join()
        raise KeyError
    assert elsewhere == [True] and is_fused(body(inputs))


# Everything that makes a body compute something else than its layers did


def doubled(*arguments):
    return 2 * arguments[-1]


def double_gradient(module, grad_input, grad_output):
    return tuple(None if gradient is None else 2 * gradient for gradient in grad_input)


class Doubled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class LeakyReLU(nn.ReLU):
    def forward(self, inputs):
        return nn.functional.leaky_relu(inputs, 0.5)


class SubclassedTensor(torch.Tensor):
    pass


def own_forward(body):
    body[2].forward = lambda inputs: nn.functional.linear(2 * inputs, body[2].weight, body[2].bias)


def replaced(place, make):
    def change(body):
        body[place] = make().double()

    return change


CHANGES = {
    "forward hook": lambda body: body[0].register_forward_hook(doubled),
    "forward hook of an activation": lambda body: body[1].register_forward_hook(doubled),
    "forward pre-hook": lambda body: body[2].register_forward_pre_hook(lambda module, inputs: 2 * inputs[0]),
    "backward hook": lambda body: body[0].register_full_backward_hook(double_gradient),
    "backward pre-hook": lambda body: body[2].register_full_backward_pre_hook(lambda module, grads: (2 * grads[0],)),
    "hook of the body": lambda body: body.register_full_backward_hook(double_gradient),
    "parametrisation": lambda body: register_parametrization(body[0], "weight", nn.Hardtanh(0, 0.2)),
    "pruning": lambda body: prune.random_unstructured(body[0], "weight", 0.5),
    "forward of its own": own_forward,
    "subclass of Linear": replaced(0, lambda: Doubled(INPUTS, 16)),
    "subclass of an activation": replaced(1, LeakyReLU),
    "unknown activation": replaced(1, nn.GELU),
    "unknown layer": lambda body: body.insert(1, nn.LayerNorm(16).double()),
    "two activations": lambda body: body.insert(1, nn.Tanh()),
    "no output layer": lambda body: body.append(nn.Tanh()),
    "two linear layers": lambda body: body.append(nn.Linear(OUTPUTS, 2).double()),
    "dropout after the activation": lambda body: body.insert(2, ConsistentDropout(0.5).eval()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_body_takes_its_plain_layers(change):
    """What the plain layers compute is the truth; the fused path would have missed each of these changes."""
    body = make_body(hidden_sizes=(16,))
    inputs, _ = make_inputs(body)
    before = body(inputs)
    assert is_fused(before)
    CHANGES[change](body)
    if "backward" not in change and "body" not in change:
        assert change == "dropout after the activation" or not (
            body(inputs).shape == before.shape and torch.allclose(body(inputs), before)
        ), "a change that changes nothing tests nothing"
    assert_fused_equals_plain(body, inputs, fused=False)


def test_a_replaced_activation_is_used():
    """Finding A7: the old learner acted and learnt as if it were still a ReLU."""
    body = make_body(hidden_sizes=(16, 8))
    body[1] = nn.Tanh()
    inputs, _ = make_inputs(body)
    expected = body[4](torch.relu(body[2](torch.tanh(body[0](inputs)))))
    torch.testing.assert_close(body(inputs), expected, rtol=1e-12, atol=1e-12)
    assert_fused_equals_plain(body, inputs)


def test_a_replaced_linear_layer_is_used():
    body = make_body(hidden_sizes=(16, 8))
    body[2] = nn.Linear(16, 8, bias=False).double()
    assert_fused_equals_plain(body, make_inputs(body)[0])


def test_a_shared_layer_learns_from_both_of_its_places():
    body = make_body(hidden_sizes=(6, 6))
    body[2] = body[0]
    assert_fused_equals_plain(body, make_inputs(body)[0], fused=False)


@contextmanager
def registered(register, hook):
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("register", "hook"),
    [
        (register_module_forward_hook, lambda module, args, out: 2 * out if isinstance(module, nn.Linear) else None),
        (register_module_forward_pre_hook, lambda module, args: 2 * args[0] if isinstance(module, nn.Linear) else None),
    ],
)
def test_global_hooks(register, hook):
    body = make_body()
    inputs, _ = make_inputs(body)
    before = body(inputs)
    with registered(register, hook):
        assert not torch.allclose(body(inputs), before)
        assert_fused_equals_plain(body, inputs, fused=False)
    assert is_fused(body(inputs))


@pytest.mark.parametrize(
    "register", [register_module_full_backward_hook, register_module_full_backward_pre_hook], ids=["hook", "pre-hook"]
)
def test_global_backward_hooks_see_every_layer(register):
    body, seen = make_body(), set()
    inputs, _ = make_inputs(body)

    def hook(module, *gradients):
        seen.add(module)

    with registered(register, hook):
        body(inputs.requires_grad_()).sum().backward()
    assert seen == {body, *body}


def test_ordinary_inputs_only():
    body = make_body()
    inputs, _ = make_inputs(body)
    for other in (inputs[0], inputs[None], inputs.as_subclass(SubclassedTensor)):
        outputs = body(other)
        assert not is_fused(outputs)
        torch.testing.assert_close(
            outputs.as_subclass(torch.Tensor).reshape(-1, OUTPUTS), body(inputs)[: outputs[..., 0].numel()]
        )
    with pytest.raises(RuntimeError, match="dtype"):
        body(inputs.float())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        body(inputs[:, 1:])


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_parameters_of_another_kind():
    for name in ("weight", "bias"):
        body = make_body()
        setattr(body[2], name, nn.Parameter(getattr(body[2], name).detach().as_subclass(SubclassedTensor)))
        assert not is_fused(body(make_inputs(body)[0]))
    complex_body = make_body(activation="tanh", dtype=torch.complex128)
    assert not is_fused(complex_body(make_inputs(complex_body)[0]))


def test_autocast():
    body = make_body(dtype=torch.float32)
    inputs, _ = make_inputs(body)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = body(inputs)
        assert outputs.dtype == torch.bfloat16 and not is_fused(outputs)
    assert body(inputs).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_function_transforms():
    body = make_body(activation="tanh", hidden_sizes=(5,))
    inputs, _ = make_inputs(body, steps=4)
    parameters = dict(body.named_parameters())
    with plain_layers():
        expected = body(inputs)
        jacobian = torch.autograd.functional.jacobian(body, inputs)

    def call(parameters, inputs):
        return torch.func.functional_call(body, parameters, (inputs,))

    batched = torch.func.vmap(call, (None, 0))(parameters, inputs[:, None])
    torch.testing.assert_close(batched[:, 0], expected)
    torch.testing.assert_close(torch.func.jacrev(body)(inputs), jacobian)
    tangent = torch.ones_like(inputs)
    _, product = torch.func.jvp(body, (inputs,), (tangent,))
    torch.testing.assert_close(product, torch.einsum("tokj,kj->to", jacobian, tangent))
    gradients = torch.func.grad(lambda parameters: call(parameters, inputs).pow(2).sum())(parameters)
    for found, right in zip(
        gradients.values(), torch.autograd.grad(body(inputs).pow(2).sum(), body.parameters()), strict=True
    ):
        torch.testing.assert_close(found, right)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export_compile_and_trace():
    body = make_body().requires_grad_(False)
    inputs, _ = make_inputs(body)
    exported = torch.export.export(body, (inputs,))
    assert "linear" in exported.graph_module.code and "empty_strided" not in exported.graph_module.code
    torch.testing.assert_close(exported.module()(inputs), body(inputs))
    torch.testing.assert_close(torch.jit.trace(body, inputs)(inputs), body(inputs))
    torch.testing.assert_close(torch.fx.symbolic_trace(body)(inputs), body(inputs))
    compiled = torch.compile(make_body(), backend="eager", fullgraph=True)
    assert not is_fused(compiled(inputs))
    torch.testing.assert_close(compiled(inputs), body(inputs), check_stride=False)


# Autograd's conventions


def test_copies_are_independent():
    body = make_body(dropout=0.5)
    twin = copy.deepcopy(body)
    nn.init.zeros_(twin[0].weight)
    assert_fused_equals_plain(body, *make_inputs(body))
    assert body[0].weight.abs().max() > 0 and list(twin.state_dict()) == list(body.state_dict())


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "frozen", [("0.weight",), ("2.bias",), ("0.weight", "0.bias"), ("2.weight", "2.bias", "4.weight")]
)
def test_frozen_parameters(frozen, plain):
    body = make_body(hidden_sizes=(16, 8))
    inputs, _ = make_inputs(body)
    every = dict(
        zip(dict(body.named_parameters()), torch.autograd.grad(body(inputs).sum(), body.parameters()), strict=True)
    )
    for name in frozen:
        body.get_parameter(name).requires_grad = False
    with plain_layers() if plain else nullcontext():
        outputs = body(inputs)
    assert is_fused(outputs) != plain
    outputs.sum().backward()
    for name, parameter in body.named_parameters():
        if name in frozen:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, every[name], rtol=1e-10, atol=1e-12)


def test_a_wholly_frozen_body_still_passes_gradients_to_its_inputs():
    body = make_body().requires_grad_(False)
    inputs, _ = make_inputs(body)
    assert not body(inputs).requires_grad
    outputs = body(inputs.requires_grad_())
    assert is_fused(outputs)
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
    with plain_layers():
        (expected,) = torch.autograd.grad(body(inputs).sum(), inputs)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_no_more_is_computed_than_is_needed():
    """Without a gradient for the inputs, the first layer multiplies once only."""
    body = make_body(hidden_sizes=(16,), bias=False)
    inputs, _ = make_inputs(body)
    with torch.profiler.profile() as profile:
        body(inputs).sum().backward()
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::mm") == 5


def test_a_graph_can_be_used_twice_and_inputs_stay_as_they_are():
    body = make_body(dropout=0.5, activation="tanh")
    inputs, masks = make_inputs(body)
    before = inputs.clone()
    with replay_masks(body, masks):
        outputs = body(inputs)
    weights = torch.randn_like(outputs)
    kept = weights.clone()
    first, second = (
        torch.autograd.grad(outputs, list(body.parameters()), weights, retain_graph=True) for _ in range(2)
    )
    assert all(map(torch.equal, first, second))
    assert torch.equal(inputs, before) and torch.equal(weights, kept)


def test_weights_changed_before_the_backward_pass_are_noticed():
    body = make_body()
    outputs = body(make_inputs(body)[0])
    with torch.no_grad():
        body[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_outputs_may_be_changed_in_place():
    body = make_body()
    inputs, _ = make_inputs(body)

    def gradients():
        outputs = body(inputs)
        outputs[:, 1].mul_(3)
        return torch.autograd.grad(outputs.clamp_(-0.2, 0.2).pow(2).sum(), body.parameters())

    found = gradients()
    with plain_layers():
        expected = gradients()
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, plain_layers])
def test_the_same_outputs_without_gradients(context):
    body = make_body()
    inputs, _ = make_inputs(body)
    expected = body(inputs)
    with context():
        torch.testing.assert_close(body(inputs), expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1])
def test_few_timesteps(steps):
    body = make_body(dropout=0.5)
    inputs, masks = make_inputs(body, steps=steps)
    outputs, gradients = outputs_and_gradients(body, inputs, masks)
    assert is_fused(outputs) and outputs.shape == (steps, OUTPUTS)
    assert [gradient.shape for gradient in gradients[1:]] == [parameter.shape for parameter in body.parameters()]
    assert steps or not any(gradient.any() for gradient in gradients)


def test_on_no_device_at_all():
    assert MLPBody(4, 2).to("meta")(torch.empty(3, 4, device="meta")).shape == (3, 2)


# Dropout


def test_without_a_replayed_mask_the_layers_draw_one():
    body = make_body(dropout=0.5, hidden_sizes=(64,))
    inputs, _ = make_inputs(body)
    outputs = body(inputs)
    assert not is_fused(outputs)
    (dropout,) = consistent_dropouts(body)
    assert dropout.mask.shape == (T, 64) and 0.4 < dropout.mask.float().mean() < 0.6
    with replay_masks(body, [dropout.mask]):
        replayed = body(inputs)
    assert is_fused(replayed)
    torch.testing.assert_close(replayed, outputs, rtol=1e-12, atol=1e-12)


def test_nothing_is_dropped_in_eval_mode():
    body = make_body(dropout=0.5).eval()
    inputs, masks = make_inputs(body)
    expected = body[3](torch.relu(body[0](inputs)))
    for recorded in ((), masks):
        outputs, _ = outputs_and_gradients(body, inputs, recorded)
        assert is_fused(outputs)
        torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)


def test_one_dropout_layer_in_eval_mode():
    body = make_body(dropout=0.5, hidden_sizes=(16, 8))
    body[1].eval()
    assert_fused_equals_plain(body, *make_inputs(body))


def test_masks_of_another_kind_take_the_plain_layers():
    body = make_body(dropout=0.5, hidden_sizes=(16,))
    inputs, (mask,) = make_inputs(body)
    for other in (mask.double(), mask[:1]):
        assert_fused_equals_plain(body, inputs, [other], fused=False)
    with pytest.raises(RuntimeError, match="must match the size"), replay_masks(body, [mask[:5]]):
        body(inputs)


def test_a_body_called_twice_in_one_pass_is_refused():
    body = make_body(dropout=0.5)
    inputs, masks = make_inputs(body)
    with replay_masks(body, masks):
        assert is_fused(body(inputs))
        with pytest.raises(ValueError, match="called twice in one pass"):
            body(inputs)


class Silent(nn.Dropout):
    def forward(self, inputs):
        return inputs


@pytest.mark.parametrize("layer", [Silent(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.5)])
def test_dropout_with_a_behaviour_of_its_own_is_not_replaced(layer):
    policy = nn.Sequential(nn.Linear(2, 2), layer)
    with pytest.raises(ValueError, match=rf"the masks of {type(layer).__name__}.* cannot be recorded"):
        with_consistent_dropout(policy)
    assert policy[1] is layer


def test_replaced_dropout_stays_in_its_mode():
    policy = with_consistent_dropout(nn.Sequential(nn.Dropout(0.5).eval(), nn.Dropout(0.5)))
    assert [layer.training for layer in policy] == [False, True]


# Construction


def test_layers():
    body = MLPBody(3, 2, hidden_sizes=[5, 4], activation="tanh", bias=False, dropout=0.2)
    assert [type(layer) for layer in body] == [nn.Linear, ConsistentDropout, nn.Tanh] * 2 + [nn.Linear]
    assert [tuple(parameter.shape) for parameter in body.parameters()] == [(5, 3), (4, 5), (2, 4)]
    assert body[1].p == 0.2
    default = MLPBody(3, 2)
    assert [type(layer) for layer in default] == [nn.Linear, nn.ReLU, nn.Linear]
    assert default[0].out_features == 128 and default[0].bias is not None


def test_default_initialisation_is_that_of_linear():
    torch.manual_seed(3)
    first, second = nn.Linear(3, 5), nn.Linear(5, 2)
    torch.manual_seed(3)
    body = MLPBody(3, 2, hidden_sizes=(5,), dropout=0.5)
    assert torch.equal(body[0].weight, first.weight) and torch.equal(body[3].bias, second.bias)


def test_orthogonal_initialisation():
    body = make_body(hidden_sizes=(16, 8), init="orthogonal", output_gain=0.01)
    first, second, last = (layer.weight for layer in body if isinstance(layer, nn.Linear))
    torch.testing.assert_close(first.T @ first, 2 * torch.eye(INPUTS).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(second @ second.T, 2 * torch.eye(8).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(last @ last.T, 1e-4 * torch.eye(OUTPUTS).double(), atol=1e-9, rtol=0)
    assert not any(layer.bias.any() for layer in body if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("sizes", [(0,), (8, -1), (10**11,), (65_537,), (2.5,), ("8",), 64, "64"])
def test_sizes_out_of_range(sizes):
    """Finding E1: 10^11 units were a traceback out of the memory allocator."""
    with pytest.raises(ValueError, match="hidden_sizes must be whole numbers from 1 to 65,536, not"):
        MLPBody(4, 2, hidden_sizes=sizes)


def test_more_weights_than_memory():
    with pytest.raises(ValueError, match=r"hidden_sizes \[65536, 65536\] make 4,295,294,976 weights, more than"):
        MLPBody(4, 1, hidden_sizes=(65_536, 65_536))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of relu, tanh, not 'gelu'"),
        ({"init": "zeros"}, "init must be default or orthogonal, not 'zeros'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": float("nan")}, "dropout must be at least 0 and below 1, not nan"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPBody(4, 2, **arguments)


@pytest.mark.parametrize("hidden_sizes", HIDDEN_SIZES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_backpropagate_is_the_backward_of_the_outputs(hidden_sizes, activation, bias, fused):
    body = make_body(hidden_sizes=hidden_sizes, activation=activation, bias=bias)
    body[0].weight.requires_grad_(not hidden_sizes)  # A frozen layer gets no gradient.
    inputs, _ = make_inputs(body)
    body(inputs).sum().backward()  # An earlier gradient is replaced.
    with nullcontext() if fused else plain_layers():
        body.backpropagate(inputs, torch.sin)
    found = [p.grad for p in body.parameters()]
    outputs = body(inputs)
    body.zero_grad()
    outputs.backward(outputs.detach().sin())
    for gradient, parameter in zip(found, body.parameters(), strict=True):
        assert (gradient is None) == (parameter.grad is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12)
