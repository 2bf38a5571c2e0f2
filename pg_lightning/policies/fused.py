"""Fused autograd functions: where they may be called, and what a second derivative of them says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

TENSORS = {Tensor, nn.Parameter}
"""Exact types of tensors for fused functions: a subclass may compute something else."""

_plain = ContextVar("plain_layers", default=False)


@contextmanager
def plain_layers() -> Iterator[None]:
    """Use PyTorch's own operations instead of fused functions, within this context and thread.

    For second derivatives (Fisher-vector products), ``torch.func``, export and compilation.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def fusible(inputs: Tensor) -> bool:
    """Whether a fused function may be called: ordinary inputs, no ``plain_layers()``, tracer, transform or autocast."""
    return type(inputs) in TENSORS and not (
        torch.compiler.is_compiling()
        or _plain.get()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_any_autocast_enabled()
    )


def only_forward(module: nn.Module) -> bool:
    """Whether calling a module runs its class's ``forward`` and nothing else: no hooks, no ``forward`` of its own."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or "forward" in vars(module)
    )


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the backward of a fused function, so that a second derivative raises.

    PyTorch's ``once_differentiable`` costs more, and it takes the gradients for constants where the incoming gradient
    is one, or where ``torch.autograd.grad`` is called with ``allow_unused``.
    """

    @wraps(backward)
    def checked(ctx: Any, *outer: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return backward(ctx, *outer)
        with torch.no_grad():
            gradients = backward(ctx, *outer)
        origins = *outer, *ctx.saved_tensors
        return tuple(None if gradient is None else _Once.apply(gradient, *origins) for gradient in gradients)

    return checked


class _Once(torch.autograd.Function):
    """A gradient whose derivative by anything that it was made of raises."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *origins: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        raise RuntimeError("fused layers can be differentiated once only: compute the outputs inside plain_layers()")
