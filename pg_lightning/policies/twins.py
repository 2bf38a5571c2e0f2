"""NumPy twins of layers: on networks this small a torch call costs more than its work.

:data:`TWINS` is an open table by exact layer type. A layer that is not in it, or that carries a hook or a forward of
its own, has no twin; then the whole policy acts through torch.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from pg_lightning.policies.bodies import MLPBody
from pg_lightning.policies.dropout import ConsistentDropout
from pg_lightning.policies.encoders import ConcatenateEncoder, FlattenEncoder, OneHotEncoder, TextEncoder
from pg_lightning.tree import Tree

NOISE_ROWS, NOISE_STEPS = 4096, 256
"""Random numbers are drawn for so many actions at a time, and for at most so many steps of the environments."""

Layer = Callable[[Any], np.ndarray]


class Drawing:
    """Source of the random numbers of one update, and a record of the dropout masks that came of them.

    Args:
        num_envs: N.
        rng: of the update.

    Attributes:
        steps: for how many steps numbers are drawn at a time.
        masks: for each dropout layer, blocks of the units it kept ``[steps, N, units]``.
    """

    def __init__(self, num_envs: int, rng: np.random.Generator) -> None:
        self.num_envs, self.rng = num_envs, rng
        self.steps = max(1, min(NOISE_ROWS // num_envs, NOISE_STEPS))
        self.masks: list[list[np.ndarray]] = []


def numpy_twin(module: nn.Module, drawing: Drawing) -> list[Layer] | None:
    """Build the twin of a module from its parameters as they are now: NumPy functions to call one after the other.

    ``None`` where it has none.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, "forward" in vars(module))
    everywhere = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    make = None if any(hooks) or any(everywhere) else TWINS.get(type(module))
    return None if make is None else make(module, drawing)


def run_layers(layers: list[Layer], values: Any) -> np.ndarray:
    """Call layers one after the other."""
    for layer in layers:
        values = layer(values)
    return values


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy(force=True)


def _sequential(module: nn.Sequential, drawing: Drawing) -> list[Layer] | None:
    twins = [numpy_twin(part, drawing) for part in module]
    return None if None in twins else [layer for twin in twins for layer in twin or ()]


def _linear(module: nn.Linear, drawing: Drawing) -> list[Layer]:
    weight = _array(module.weight).T  # [inputs, outputs], a view of the parameter
    outputs = np.empty((drawing.num_envs, weight.shape[1]), weight.dtype)
    if module.bias is None:
        return [lambda values: values.dot(weight, outputs)]
    bias = _array(module.bias)
    return [lambda values: np.add(values.dot(weight, outputs), bias, outputs)]


def _relu(module: nn.ReLU, drawing: Drawing) -> list[Layer]:
    zeros = outputs = np.zeros(())

    def forward(values: np.ndarray) -> np.ndarray:
        nonlocal zeros, outputs
        if zeros.shape != values.shape:  # NumPy takes the maximum with an array faster than with a number.
            zeros, outputs = np.zeros_like(values), np.empty_like(values)
        return np.maximum(values, zeros, out=outputs)

    return [forward]


def _tanh(module: nn.Tanh, drawing: Drawing) -> list[Layer]:
    return [np.tanh]


def _dropout(module: ConsistentDropout, drawing: Drawing) -> list[Layer]:
    if not module.training:
        return []
    blocks, step, scales, outputs = list[np.ndarray](), drawing.steps, np.empty(0), np.empty(0)
    drawing.masks.append(blocks)

    def forward(values: np.ndarray) -> np.ndarray:
        nonlocal step, scales, outputs
        if step == drawing.steps:  # 16 random bits a unit: p is met to within 1/131072.
            shape = (drawing.steps, *values.shape)
            size = math.prod(shape)
            bits = drawing.rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
            blocks.append((bits >= round(module.p * 65536)).reshape(shape))
            scales, step = blocks[-1] * values.dtype.type(1 / (1 - module.p)), 0
            outputs = np.empty_like(values)
        step += 1
        return np.multiply(values, scales[step - 1], outputs)

    return [forward]


def _flatten(module: FlattenEncoder, drawing: Drawing) -> list[Layer]:
    shape, dtype = (drawing.num_envs, module.num_features), _array(module._dtype).dtype
    return [
        lambda observations: (
            observations
            if observations.shape == shape and observations.dtype == dtype
            else observations.reshape(shape).astype(dtype)
        )
    ]


def _one_hot(module: OneHotEncoder, drawing: Drawing) -> list[Layer]:
    first, rows = _array(module.first), np.arange(drawing.num_envs)[:, None]
    features = np.zeros((drawing.num_envs, module.num_features), _array(module._dtype).dtype)

    def forward(observations: np.ndarray) -> np.ndarray:
        features.fill(0)
        features[rows, observations.reshape(drawing.num_envs, -1) + first] = 1
        return features

    return [forward]


def _text(module: TextEncoder, drawing: Drawing) -> list[Layer]:
    codes, dtype = _array(module.codes), _array(module._dtype).dtype
    return [lambda observations: (observations[..., None] == codes).reshape(drawing.num_envs, -1).astype(dtype)]


def _concatenate(module: ConcatenateEncoder, drawing: Drawing) -> list[Layer] | None:
    twins = [numpy_twin(part, drawing) for part in module.parts]
    if None in twins:
        return None
    keyed: list[Any] = list(zip(module.keys, twins, strict=True))

    def forward(observations: Tree) -> np.ndarray:
        return np.concatenate([run_layers(twin, observations[key]) for key, twin in keyed], axis=1)

    return [forward]


TWINS: dict[type[nn.Module], Callable[[Any, Drawing], list[Layer] | None]] = {
    nn.Sequential: _sequential,
    MLPBody: _sequential,
    nn.Linear: _linear,
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    ConsistentDropout: _dropout,
    FlattenEncoder: _flatten,
    OneHotEncoder: _one_hot,
    TextEncoder: _text,
    ConcatenateEncoder: _concatenate,
}
"""Builders of twins, by exact layer type."""
