"""Fisher-vector products of a policy, without the Fisher matrix, and linear systems in them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.distributions import kl_divergence

from pg_lightning.episodes import Chunk
from pg_lightning.hparams import Recorded
from pg_lightning.policies.bodies import plain_layers
from pg_lightning.policies.dropout import replay_masks
from pg_lightning.policies.policy import Policy, is_plain

CHUNK = 16_384
"""Timesteps that are differentiated together, which bounds the memory."""


class FisherProduct:
    r"""Map a vector v to F v, :math:`F = \frac{1}{T} \sum_t \nabla^2_\theta\, \mathrm{KL}(\pi_{old} \| \pi_\theta)`.

    Through a head this is :math:`J^\top M J v`: the network's Jacobian J and the curvature M of the KL divergence in
    the head's inputs. Any other policy is differentiated twice as a whole; where
    torch knows no KL divergence of its distributions, F is the mean outer product of the scores of the actions taken.

    Args:
        policy: whose parameters are at :math:`\theta_{old}`.
        parameters: to differentiate by.
        chunk: timesteps to average over.
        over_processes: adds up a tensor over all processes.
    """

    def __init__(
        self,
        policy: nn.Module,
        parameters: list[nn.Parameter],
        chunk: Chunk,
        over_processes: Callable[[Tensor], Tensor],
    ) -> None:
        self.sizes, self.shapes = [p.numel() for p in parameters], [p.shape for p in parameters]
        self.dtype, self.over_processes = parameters[0].dtype, over_processes
        self.count = over_processes(torch.tensor(float(len(chunk.log_probs)), dtype=torch.float64))
        kind: Any = _HeadProduct if is_plain(policy) else _ModuleProduct
        with torch.enable_grad(), torch.autocast(parameters[0].device.type, enabled=False):
            self.parts = [kind(policy, parameters, part) for part in chunk.split(CHUNK)]

    def __call__(self, vector: Tensor) -> Tensor:
        """Return F v ``[numbers]``, float64, given v ``[numbers]``."""
        parts = [p.view(s) for p, s in zip(vector.to(self.dtype).split(self.sizes), self.shapes, strict=True)]
        total: Any = 0
        with torch.enable_grad(), torch.autocast(vector.device.type, enabled=False):
            for product in self.parts:
                total = total + torch.cat([value.detach().reshape(-1).double() for value in product(parts)])
        return self.over_processes(total) / self.count


def frozen(module: nn.Module) -> Any:
    """Return a copy whose parameters are constants; a distribution may refer to them until it is used."""
    # Constructor arguments are shared: those from a command line cannot be copied.
    recorded = [part._recorded for part in module.modules() if isinstance(part, Recorded)]
    return deepcopy(module, {id(arguments): arguments for arguments in recorded}).requires_grad_(False)


class _HeadProduct:
    """Sum over timesteps of Fisher products of a :class:`Policy`; everything but the products is computed once."""

    def __init__(self, policy: Policy, parameters: list[nn.Parameter], chunk: Chunk) -> None:
        in_head = {id(parameter) for parameter in policy.head.parameters()}
        self.of_head = [id(parameter) in in_head for parameter in parameters]
        self.network = [parameter for parameter in parameters if id(parameter) not in in_head]
        with plain_layers():
            with replay_masks(policy, chunk.dropout_masks):
                self.outputs = policy.outputs(chunk.observations)  # [T, O]
            # J^T u is linear in u, so that its derivative by u in the direction v is J v.
            self.u = torch.zeros_like(self.outputs, requires_grad=True)
            self.pulled = _slopes(self.outputs, self.network, self.u)
            outputs = self.outputs.detach().requires_grad_()
            masked = policy.head.masked(outputs, *chunk.action_masks) if chunk.action_masks else outputs
            before = frozen(policy.head).distribution(masked.detach())
            divergence = kl_divergence(before, policy.head.distribution(masked)).sum()
            self.inputs = [outputs, *(p for p, in_head in zip(parameters, self.of_head, strict=True) if in_head)]
            self.slopes = _slopes(divergence, self.inputs)

    def __call__(self, vector: list[Tensor]) -> list[Tensor]:
        """Return J^T M J v."""
        body = [v for v, in_head in zip(vector, self.of_head, strict=True) if not in_head]
        head = [v for v, in_head in zip(vector, self.of_head, strict=True) if in_head]
        (moved,) = _along(self.pulled, [self.u], body)  # J v, [T, O]
        curved = _along(self.slopes, self.inputs, [moved, *head])
        pulled = _along([self.outputs], self.network, curved[:1])
        parts = iter(pulled), iter(curved[1:])
        return [next(parts[in_head]) for in_head in self.of_head]


class _ModuleProduct:
    """Sum over timesteps of Fisher products of any policy."""

    def __init__(self, policy: nn.Module, parameters: list[nn.Parameter], chunk: Chunk) -> None:
        self.parameters = parameters
        with plain_layers():
            now = chunk.distribution(policy)
            before = chunk.distribution(frozen(policy))
            try:
                divergence = kl_divergence(before, now).sum()
                self.slopes = _slopes(divergence, parameters)
                self.scores = None
            except NotImplementedError:
                log_probs = now.log_prob(chunk.actions)  # [T]
                self.weights = torch.zeros_like(log_probs, requires_grad=True)
                self.log_probs = log_probs
                self.scores = _slopes(log_probs, parameters, self.weights)

    def __call__(self, vector: list[Tensor]) -> list[Tensor]:
        """Return the Hessian of the KL divergence, or the outer products of the scores, times v."""
        if self.scores is None:
            return _along(self.slopes, self.parameters, vector)
        (dots,) = _along(self.scores, [self.weights], vector)  # [T]: each score times v
        return _along([self.log_probs], self.parameters, [dots])


Slopes = Sequence[Tensor | None]


def _slopes(values: Tensor, inputs: list[Any], weights: Tensor | None = None) -> Slopes:
    """Differentiate values, weighted and summed up, by each input; None for what they do not depend on."""
    if not (inputs and values.requires_grad):
        return [None] * len(inputs)
    return grad(values, inputs, weights, create_graph=True, allow_unused=True)


def _along(slopes: Slopes, inputs: list[Any], direction: Sequence[Tensor]) -> list[Tensor]:
    """Differentiate the product of slopes and a direction by each input; 0 for what it does not depend on."""
    used = [(one, v) for one, v in zip(slopes, direction, strict=True) if one is not None and one.requires_grad]
    if not (inputs and used):
        return [torch.zeros_like(one) for one in inputs]
    values, weights = zip(*used, strict=True)
    return list(grad(values, inputs, weights, retain_graph=True, allow_unused=True, materialize_grads=True))


def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    r"""Solve :math:`A x = b` for a symmetric positive definite A that is given by its products.

    Every residual is made orthogonal to all before it, which they would be but for rounding. Where a few eigenvalues of
    A are far above the others, as with Fisher matrices, rounding grows a thousandfold every few iterations without it,
    and the solution would depend on how many processes the products are summed over. It takes the memory of
    ``iterations`` vectors.

    Args:
        product: maps v ``[N]`` to A v ``[N]``.
        target: b ``[N]``.
        iterations: at most; it ends earlier where the residual is a millionth of b.

    Returns:
        An approximate solution x ``[N]``.

    Source: Hestenes & Stiefel (1952), "Methods of Conjugate Gradients for Solving Linear Systems"; Golub & Van Loan
    (2013), "Matrix Computations", section 10.3, for the reorthogonalisation of Lanczos vectors, of which residuals are
    multiples.

    >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> conjugate_gradient(lambda v: matrix @ v, torch.tensor([1.0, 2.0]), iterations=2)
    tensor([0.0909, 0.6364])
    """
    solution, residual, direction = torch.zeros_like(target), target, target
    size = first = residual @ residual
    residuals = target.new_empty(min(iterations, len(target)), len(target))  # Of length 1 each.
    for index in range(iterations):
        if index == len(target) or size <= 1e-12 * first:
            break
        residuals[index] = residual / size.sqrt()
        image = product(direction)
        length = size / (direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        before = residuals[: index + 1]
        residual = residual - (before @ residual) @ before
        size, last = residual @ residual, size
        direction = residual + size / last * direction
    return solution
