"""How a policy learns: the loss of a chunk of timesteps and its gradient.

Autograd serves any policy. For a :class:`CategoricalMLP` the same is written out by hand, which takes half the time: no
graph is kept, and the few actions lie along the first dimension, where a softmax is cheap. The right one is picked by
:func:`make_gradient`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pg_lightning.episodes import Chunk
from pg_lightning.functional import policy_gradient_loss
from pg_lightning.policies import CategoricalMLP, ConsistentDropout, check_masks, replay_masks

Gradient = Callable[[Chunk], tuple[Tensor, Sequence[Tensor | None]]]
"""Maps a chunk to its share of the loss ``[]`` and the gradient of that for each parameter that learns."""


def learning_parameters(policy: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that learn: those that nobody froze."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def make_gradient(policy: nn.Module) -> Gradient:
    """Pick how a policy learns: by hand for a plain :class:`CategoricalMLP`, through autograd for every other."""
    by_hand = (
        type(policy) is CategoricalMLP
        and all(layer.training for layer in policy)
        and all(parameter.requires_grad for parameter in policy.parameters())
        and not torch.is_autocast_enabled(next(policy.parameters()).device.type)
    )
    return MLPGradient(policy) if by_hand else AutogradGradient(policy)  # type: ignore[arg-type]


class AutogradGradient:
    """Scores the actions through the policy's own ``forward``, under the masks they were taken with.

    Args:
        policy: maps observations to a Distribution.
    """

    def __init__(self, policy: nn.Module) -> None:
        self.policy, self.parameters = policy, learning_parameters(policy)

    def __call__(self, chunk: Chunk) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the chunk's share of the loss, and its gradient."""
        with torch.enable_grad():
            with replay_masks(self.policy, chunk.masks):
                log_probs = self.policy(chunk.observations).log_prob(chunk.actions)
            loss = policy_gradient_loss(log_probs, chunk.advantages, chunk.num_episodes)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return loss.detach(), gradients


class MLPGradient:
    r"""Backpropagation through a :class:`CategoricalMLP`, written out.

    With logits z, the loss :math:`-\hat A \log \mathrm{softmax}(z)_a` has the gradient
    :math:`\hat A (\mathrm{softmax}(z) - \mathrm{onehot}(a))`; the rest is the chain rule through its layers.

    Args:
        policy: in training mode, all of whose parameters learn.
    """

    def __init__(self, policy: CategoricalMLP) -> None:
        self.policy = policy

    @torch.no_grad()
    def __call__(self, chunk: Chunk) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Return the chunk's share of the loss, and its gradient."""
        *layers, last = self.policy
        check_masks(self.policy, chunk.masks)
        assert isinstance(last, nn.Linear)
        masks, inputs, hidden, scales = iter(chunk.masks), list[Tensor](), list[nn.Linear](), list[float]()
        values = self.policy.flatten(chunk.observations)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                inputs.append(values)
                hidden.append(layer)
                scales.append(1.0)
                values = nn.functional.linear(values, layer.weight, layer.bias)
            elif isinstance(layer, ConsistentDropout):
                scales[-1] = 1 / (1 - layer.p)
                values.mul_(next(masks).view(torch.uint8)).mul_(scales[-1])  # A mask of bool takes four times as long.
            else:
                values.relu_()
        logits = torch.mm(last.weight, values.t())  # [actions, C]
        if last.bias is not None:
            logits += last.bias[:, None]
        log_probs = torch.log_softmax(logits, dim=0)
        actions, weights = chunk.actions[None], chunk.advantages / chunk.num_episodes
        loss = policy_gradient_loss(log_probs.gather(0, actions)[0], chunk.advantages, chunk.num_episodes)
        error = log_probs.exp_().mul_(weights).scatter_add_(0, actions, -weights[None])
        gradients = _linear(last, torch.mm(error, values), error.t())
        error = torch.mm(error.t(), last.weight)
        for layer, entering, scale in zip(hidden[::-1], inputs[::-1], scales[::-1], strict=True):
            # The derivative of the ReLU, in place; it is zero too where the mask dropped the unit.
            torch.ops.aten.threshold_backward.grad_input(error, values, 0, grad_input=error)
            if scale != 1:
                error.mul_(scale)
            gradients = _linear(layer, torch.mm(entering.t(), error).t(), error) + gradients
            if layer is not hidden[0]:
                error, values = torch.mm(error, layer.weight), entering
        return loss, gradients


def _linear(layer: nn.Linear, weight: Tensor, error: Tensor) -> list[Tensor]:
    """List a layer's gradients in the order of its parameters, given the error ``[C, outputs]`` of its outputs."""
    return [weight] if layer.bias is None else [weight, error.sum(0)]
