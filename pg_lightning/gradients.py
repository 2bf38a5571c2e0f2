"""The loss of a batch and its gradient, over chunks of timesteps: the memory of one chunk, the gradient of all."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Any], tuple[Tensor, Any]]
"""Maps a chunk to its share of the loss ``[]`` and whatever it was measured beside it."""


def summed_over_chunks(loss: Loss, chunks: Iterable[Any], parameters: Sequence[Tensor]) -> tuple[Tensor, list[Any]]:
    """Add up the loss and the gradient of all chunks, one chunk at a time.

    The sum that is returned carries the summed gradient, so one ordinary ``backward()`` (Lightning's, with clipping
    and DDP) yields what the loss of everything at once would have yielded.

    Args:
        loss: called with each chunk.
        chunks: parts of a batch.
        parameters: the tensors to differentiate by.

    Returns:
        The sum, a scalar ``[]`` with a gradient to every parameter, and what was measured on each chunk.

    >>> weight = torch.tensor(3.0, requires_grad=True)
    >>> total, seen = summed_over_chunks(lambda x: ((weight * x) ** 2, x), [1, 2], [weight])
    >>> total.backward(); total.item(), weight.grad.item(), seen
    (45.0, 30.0, [1, 2])
    """
    total, sums, measured = torch.zeros(()), list[Any]([None] * len(parameters)), []
    with torch.enable_grad():
        for index, chunk in enumerate(chunks):
            share, seen = loss(chunk)
            gradients = torch.autograd.grad(share, parameters, allow_unused=True) if share.requires_grad else []
            total = share.detach() + total if index else share.detach()
            for place, gradient in enumerate(gradients):
                if gradient is not None:
                    sums[place] = gradient if sums[place] is None else sums[place] + gradient
            measured.append(seen)
    # None would have DDP wait for a gradient that never comes.
    filled = [torch.zeros_like(p) if whole is None else whole for p, whole in zip(parameters, sums, strict=True)]
    return _WithGradients.apply(total, filled, *parameters), measured


class _WithGradients(torch.autograd.Function):
    """A known value whose gradient to each parameter is known, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, None, *(outer[0] * gradient for gradient in ctx.saved_tensors)
