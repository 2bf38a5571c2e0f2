"""Network bodies: features ``[T, inputs]`` -> outputs ``[T, outputs]``.

:class:`MLPBody` has two paths. The plain layers are what PyTorch makes of them. The fused path is one
``torch.autograd.Function`` over all layers: the same numbers in less time, because it works in place, keeps one tensor
per hidden layer, and multiplies narrow matrices the fast way round.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pg_lightning.policies.dropout import ConsistentDropout
from pg_lightning.policies.fused import TENSORS, differentiable_once, fusible, only_forward, plain_layers

__all__ = ["ACTIVATIONS", "MLPBody", "plain_layers"]

MAX_UNITS, MAX_WEIGHTS = 2**16, 2**30

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}

_aten = torch.ops.aten


class _InPlace(NamedTuple):
    """An activation of the fused path, in place."""

    forward: Callable[[Tensor], Any]
    backward: Callable[[Tensor, Tensor], Any]  # Multiplies the gradient by the derivative, given the outputs.
    stops_at_zero: bool  # Whether the derivative is 0 where the output is 0, as at every dropped unit.


def _tanh_(values: Tensor) -> Tensor:
    """Compute tanh(x) = 2 σ(2x) - 1 in place, to torch's absolute accuracy, in half of its time."""
    return values.mul_(2).sigmoid_().mul_(2).sub_(1)


_IN_PLACE: dict[type, _InPlace] = {
    nn.ReLU: _InPlace(torch.relu_, lambda g, out: _aten.threshold_backward.grad_input(g, out, 0, grad_input=g), True),
    nn.Tanh: _InPlace(_tanh_, lambda g, out: _aten.tanh_backward.grad_input(g, out, grad_input=g), False),
}

_HIDDEN = {(nn.Linear, *dropout, activation) for dropout in [(), (ConsistentDropout,)] for activation in _IN_PLACE}
"""Hidden layers of the fused path, by exact types: a subclass or a parametrised layer may compute something else."""


class MLPBody(nn.Sequential):
    """Multi-layer perceptron, output layer included.

    Hidden layers are Linear, dropout (if any), activation; the output layer is Linear.

    Args:
        num_inputs: features per timestep.
        num_outputs: outputs per timestep.
        hidden_sizes: units of each hidden layer, each from 1 to 65,536.
        activation: ``"relu"`` or ``"tanh"``.
        bias: whether the linear layers have biases.
        dropout: probability that a hidden unit is dropped, at least 0 and below 1.
        init: ``"default"`` as ``nn.Linear`` does it, or ``"orthogonal"``: orthogonal weights with gain √2 in the hidden
            layers and ``output_gain`` in the output layer, biases 0.
        output_gain: gain of the output layer's orthogonal weights (policies: 0.01).

    Raises:
        ValueError: a size, activation, dropout or init out of range.

    Source (orthogonal): Saxe, McClelland & Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks".

    >>> MLPBody(4, 2, hidden_sizes=(8, 8), activation="tanh")(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        hidden_sizes: Sequence[int] = (128,),
        activation: Literal["relu", "tanh"] = "relu",
        bias: bool = True,
        dropout: float = 0.0,
        init: Literal["default", "orthogonal"] = "default",
        output_gain: float = 1.0,
    ) -> None:
        sizes = [*hidden_sizes] if isinstance(hidden_sizes, Iterable) else [hidden_sizes]
        if sizes == [hidden_sizes] or not all(isinstance(size, Integral) and 1 <= size <= MAX_UNITS for size in sizes):
            raise ValueError(f"hidden_sizes must be whole numbers from 1 to {MAX_UNITS:,}, not {hidden_sizes!r}")
        weights = sum(before * after for before, after in pairwise([num_inputs, *sizes, num_outputs]))
        if weights > MAX_WEIGHTS:
            raise ValueError(f"hidden_sizes {sizes} make {weights:,} weights, more than {MAX_WEIGHTS:,}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        if init not in ("default", "orthogonal"):
            raise ValueError(f"init must be default or orthogonal, not {init!r}")
        layers: list[nn.Module] = []
        inputs = num_inputs
        for size in sizes:
            layers += [nn.Linear(inputs, size, bias)]
            layers += [ConsistentDropout(dropout)] if dropout else []
            layers += [ACTIVATIONS[activation]()]
            inputs = size
        super().__init__(*layers, nn.Linear(inputs, num_outputs, bias))
        if init == "orthogonal":
            for layer in self:
                if isinstance(layer, nn.Linear):
                    nn.init.orthogonal_(layer.weight, output_gain if layer is self[-1] else math.sqrt(2))
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map features ``[T, inputs]`` to outputs ``[T, outputs]``."""
        layers = self._fused_layers(inputs) if fusible(inputs) else None
        if layers is None:
            return super().forward(inputs)
        return _FusedMLP.apply(inputs, *layers)

    @torch.no_grad()
    def backpropagate(self, inputs: Tensor, outer: Callable[[Tensor], Tensor]) -> None:
        """Set the parameters' gradients, as ``outputs.backward(outer(outputs))`` does where they have none.

        Two thirds of the time of it for small batches where the layers can be fused, since no graph is recorded.

        Args:
            inputs: features ``[T, inputs]``, which need no gradient.
            outer: from the outputs to the gradient of a loss with respect to them, both ``[T, outputs]``.
        """
        layers = self._fused_layers(inputs) if fusible(inputs) else None
        if layers is None:
            self.zero_grad()
            with torch.enable_grad():
                outputs = super().forward(inputs)
            outputs.backward(outer(outputs.detach()))
            return
        activations, scales, *tensors = layers
        needed = [tensor is not None and tensor.requires_grad for tensor in tensors]
        outputs, entering = _outputs(inputs, activations, scales, tensors)
        found = _gradients(outer(outputs), entering, activations, scales, tensors, [False, *needed])
        for tensor, gradient in zip(tensors, found[1:], strict=True):
            if tensor is not None and tensor.requires_grad:
                tensor.grad = gradient

    def _fused_layers(self, inputs: Tensor) -> tuple[Any, ...] | None:
        """Return the arguments of :class:`_FusedMLP`, or ``None`` where the plain layers must be taken."""
        modules = [*self]
        groups: list[list[Any]] = [[]]  # [Linear, dropout (if any), activation] of each hidden layer, then [Linear].
        for module in modules:
            groups[-1].append(module)
            if type(module) in _IN_PLACE:
                groups.append([])
        *hidden, last = [(*map(type, group),) for group in groups]
        if last != (nn.Linear,) or not _HIDDEN.issuperset(hidden) or len({*modules}) < len(modules):
            return None
        if inputs.ndim != 2 or not inputs.is_floating_point() or not all(map(only_forward, modules)):
            return None
        scales, tensors, replayed = list[float](), list[Tensor | None](), []
        for linear, *rest in groups:
            weight, bias, mask, scale = linear.weight, linear.bias, None, 1.0
            if type(weight) not in TENSORS or (bias is not None and type(bias) not in TENSORS):
                return None
            if len(rest) == 2 and rest[0].training:
                if not rest[0].replays(len(inputs), len(weight)):
                    return None
                mask, scale = rest[0].replayed, rest[0].scale
                replayed.append(rest[0])
            scales.append(scale)
            tensors += weight, bias, mask
        for dropout in replayed:
            dropout.spent = True
        return [types[-1] for types in hidden], scales, *tensors


def _weight_gradient(gradient: Tensor, inputs: Tensor) -> Tensor:
    """Multiply ``[T, outputs]`` by ``[T, inputs]`` to ``[outputs, inputs]``: faster with the narrow side first."""
    if gradient.shape[1] <= inputs.shape[1]:
        return torch.mm(gradient.t(), inputs)
    return torch.mm(inputs.t(), gradient).t()


def _outputs(inputs: Tensor, activations: list[type], scales: list[float], tensors: Any) -> tuple[Tensor, list[Tensor]]:
    """Map features ``[T, inputs]`` to outputs ``[T, outputs]`` and the list of what enters each layer.

    Args:
        inputs: features ``[T, inputs]``.
        activations: type of each hidden layer's activation.
        scales: factor of the units that each layer's dropout keeps.
        tensors: of each layer its weight ``[outputs, inputs]``, bias ``[outputs]`` or None, and mask ``[T, outputs]``
            or None.
    """
    weights, biases, masks = tensors[::3], tensors[1::3], tensors[2::3]
    values, entering = inputs, [inputs]
    for layer, activation in enumerate(activations):
        values = nn.functional.linear(values, weights[layer], biases[layer])  # (T, units)
        if masks[layer] is not None:
            values.mul_(masks[layer].view(torch.uint8)).mul_(scales[layer])  # As bool it takes three times as long.
        _IN_PLACE[activation].forward(values)
        entering.append(values)
    # Laid out as (outputs, T), which is faster where outputs are few.
    outputs = values.new_empty_strided((len(values), len(weights[-1])), (1, len(values)))  # (T, outputs)
    if biases[-1] is None:
        torch.mm(values, weights[-1].t(), out=outputs)
    else:
        torch.addmm(biases[-1], values, weights[-1].t(), out=outputs)
    return outputs, entering


def _gradients(
    gradient: Tensor, entering: Any, activations: list[type], scales: list[float], tensors: Any, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Apply the chain rule from the last layer down to the first one that needs a gradient.

    Args:
        gradient: of the outputs ``[T, outputs]``.
        entering: what entered each layer.
        activations: as in :func:`_outputs`.
        scales: as in :func:`_outputs`.
        tensors: as in :func:`_outputs`.
        needed: whether a gradient is needed of the inputs, then of each tensor.

    Returns:
        Gradients in the order of ``needed``.
    """
    weights, masks = tensors[::3], tensors[2::3]
    found: list[Tensor | None] = [None] * len(needed)
    for layer in reversed(range(len(scales))):
        place = 1 + 3 * layer  # Of the layer's weight among what may need a gradient.
        if needed[place]:
            found[place] = _weight_gradient(gradient, entering[layer])
        if needed[place + 1]:
            found[place + 1] = gradient.sum(0)
        if not any(needed[:place]):
            break
        gradient = torch.mm(gradient, weights[layer])  # (T, inputs) of the layer
        if layer == 0:
            found[0] = gradient
            break
        activation, mask = _IN_PLACE[activations[layer - 1]], masks[layer - 1]
        activation.backward(gradient, entering[layer])
        if mask is not None:
            gradient.mul_(scales[layer - 1])
            if not activation.stops_at_zero:
                gradient.mul_(mask.view(torch.uint8))
    return found


class _FusedMLP(torch.autograd.Function):
    """All layers of an :class:`MLPBody` as one function; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, activations: list[type], scales: list[float], *tensors: Any) -> Tensor:
        """Map features ``[T, inputs]`` to outputs ``[T, outputs]``; the arguments are those of :func:`_outputs`."""
        outputs, entering = _outputs(inputs, activations, scales, tensors)
        ctx.activations, ctx.scales = activations, scales
        ctx.save_for_backward(*entering, *tensors)
        return outputs

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of the arguments of ``forward``."""
        entering, tensors = ctx.saved_tensors[: len(ctx.scales)], ctx.saved_tensors[len(ctx.scales) :]
        by_inputs, _, _, *by_tensors = ctx.needs_input_grad
        found = _gradients(gradient, entering, ctx.activations, ctx.scales, tensors, (by_inputs, *by_tensors))
        return found[0], None, None, *found[1:]
