"""Critic: a network that predicts the return, as a baseline and for bootstrapping."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Self

import gymnasium as gym
import torch
from torch import Tensor, nn

from pg_lightning.baselines import Baseline
from pg_lightning.episodes import Batch, Episodes
from pg_lightning.fitted import Fitted
from pg_lightning.frames import rows_together, stacked
from pg_lightning.policies.bodies import MLPBody
from pg_lightning.policies.encoders import Encoder, make_encoder
from pg_lightning.policies.normalization import NormalizeObservations
from pg_lightning.returns import GAE, Values
from pg_lightning.schedules import Schedule, check_positive, value_of
from pg_lightning.tree import Tree, tree_leaves, tree_map

CHUNK = 16_384
"""Observations that are valued together, which bounds the memory."""


def squared_error_gradient(values: Tensor, targets: Tensor) -> Tensor:
    r"""Compute :math:`\frac{2}{M} (v - y)`, the gradient of the mean squared error of values ``[M, 1]``.

    >>> squared_error_gradient(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]]))
    tensor([[ 1.],
            [-2.]])
    """
    return (values - targets) * (2 / len(targets))


class PolicyEncoder(Encoder):
    """Stands for the policy's encoder: ``Critic(encoder=PolicyEncoder)`` shares it. No policy can have it."""

    @property
    def num_features(self) -> int:  # type: ignore[override]
        """Raise: the policy's encoder takes its place."""
        raise ValueError("PolicyEncoder stands for the policy's encoder, so it is for a critic alone")

    def forward(self, observations: Tree) -> Tensor:
        """Raise, as ``num_features`` does."""
        raise NotImplementedError


def shared_encoder(policy: nn.Module) -> Encoder:
    """Return a policy's encoder."""
    encoder = getattr(policy, "encoder", None)
    if not isinstance(encoder, Encoder):
        name = type(policy).__name__
        raise ValueError(f"PolicyEncoder needs a policy with an Encoder, as MLPPolicy has one; {name} has none")
    return encoder


class Critic(Baseline, Fitted, nn.Module):
    r"""Value function V(S_t), a network of its own unless it shares the encoder, fitted to the returns after each step.

    Advantages of an update use the critic as it was before that update, so the update's own returns are no part of it.
    Targets are divided by the running standard deviation of the returns.

    Args:
        hidden_sizes: units of each hidden layer.
        activation: between the layers.
        lr: learning rate of its Adam: a number or a schedule.
        epochs: passes over the batch per update.
        minibatch_size: timesteps per step of its optimizer.
        encoder: class of an encoder; None for that of the observation space, without normalisation;
            :class:`PolicyEncoder` to share the policy's, which then learns from the critic's targets alone: they have
            less noise than the policy gradient, which is left with the layers after the encoder.

    Raises:
        ValueError: an argument out of range.
    """

    returns = GAE
    order = 1
    moments: Tensor
    seed: Tensor

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Literal["relu", "tanh"] = "tanh",
        lr: float | Schedule = 1e-3,
        epochs: int = 10,
        minibatch_size: int = 256,
        encoder: Callable[[gym.Space], Encoder] | None = NormalizeObservations,
    ) -> None:
        super().__init__()
        check_positive("lr", lr)
        if epochs < 1 or minibatch_size < 1:
            raise ValueError(f"epochs and minibatch_size must be at least 1, not {epochs} and {minibatch_size}")
        self.hidden_sizes, self.activation, self.make_encoder = hidden_sizes, activation, encoder or make_encoder
        self.lr, self.epochs, self.minibatch_size = lr, epochs, minibatch_size
        self.register_buffer(
            "moments", torch.zeros(3, dtype=torch.float64)
        )  # Count, sum and sum of squares of returns.
        self.register_buffer("seed", torch.randint(2**31, ()))  # Of the minibatches.
        self.optimizer: torch.optim.Optimizer | None = None
        self._optimizer_state: dict[str, Any] = {}
        self._valued: tuple[Episodes, Values] | None = None

    def prepare(self, observation_space: gym.Space, policy: nn.Module) -> None:
        """Make the networks for an observation space.

        Raises:
            ValueError: the policy has no encoder that could be shared.
        """
        encoder = self.make_encoder(observation_space)
        self.encoder = shared_encoder(policy) if isinstance(encoder, PolicyEncoder) else encoder
        self.body = MLPBody(self.encoder.num_features, 1, self.hidden_sizes, self.activation, init="orthogonal")
        # DDP would wait for gradients, and the policy's would reach an encoder that is shared.
        self._learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self._learn(False)

    __call__ = nn.Module.__call__

    def forward(self, episodes: Episodes, returns: Tensor) -> Tensor:
        """Return V of every timestep's observation ``[T]``."""
        return self.values(episodes).values

    def values(self, episodes: Episodes) -> Values:
        """Return V of every observation ``[T]`` and of every final observation ``[E]``."""
        if self._valued is None or self._valued[0] is not episodes:
            found = Values(self.value(episodes.observations), self.value(episodes.final_observations))
            self._valued = episodes, found
        return self._valued[1]

    @torch.no_grad()
    def value(self, observations: Tree) -> Tensor:
        """Map raw observations, a tree of ``[T, ...]``, to V ``[T]``, float64."""
        device, count = self.moments.device, len(tree_leaves(observations)[0])
        parts, size = [], rows_together(observations, CHUNK)
        for start in range(0, count, size):
            part = stacked(tree_map(lambda leaf, a=start: leaf[a : a + size], observations))
            parts.append(self.body(self.encoder(tree_map(lambda leaf: leaf.to(device), part)))[:, 0])
        return (torch.cat(parts).double() * self.std).to(tree_leaves(observations)[0].device)

    @property
    def std(self) -> Tensor:
        """Standard deviation of all returns so far ``[]``; their size where all are equal, 1 where that is 0."""
        total, squares = self.moments[1:] / self.moments[0].clamp_min(1)
        variance = squares - total**2
        scale = torch.where(variance > 1e-12 * squares, variance, squares)  # Less is the error of the subtraction.
        return torch.where(scale > 0, scale, 1.0).sqrt()

    def fit(self, batch: Batch) -> dict[str, float]:
        """Regress on the returns of a batch."""
        self._valued = None
        returns, observations = batch.returns.double(), batch.episodes.observations
        self.moments += torch.stack([torch.ones_like(returns).sum(), returns.sum(), (returns**2).sum()])
        targets = (returns / self.std).to(next(self.body.parameters()).dtype)
        update = int(self.seed) * 2**32 + batch.episodes.update
        generator = torch.Generator().manual_seed(update)
        # Features of an encoder without weights stay what they are: they are computed once, unless they are pixels.
        fixed = not list(self.encoder.parameters()) and rows_together(observations, CHUNK) == CHUNK
        inputs = self.encoder(stacked(observations)) if fixed else observations
        backpropagate = self.body.backpropagate if fixed else self._backpropagate
        lr = value_of(self.lr, batch.progress)
        try:
            self._learn(True)
            self.optimizer = self.optimizer or self._make_optimizer()
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            for _ in range(self.epochs):
                order = torch.randperm(len(targets), generator=generator).to(targets.device)
                for rows in order.split(self.minibatch_size):
                    some, aims = tree_map(lambda leaf, rows=rows: leaf[rows], (inputs, targets))  # [M, ...], [M]
                    backpropagate(some, partial(squared_error_gradient, targets=aims[:, None]))
                    self.optimizer.step()
        finally:
            self.zero_grad()
            self._learn(False)
        return {}

    def _backpropagate(self, observations: Tree, outer: Callable[[Tensor], Tensor]) -> None:
        """Set the gradients of encoder and body, given a loss's gradient as a function of the outputs ``[M, 1]``."""
        outputs = self.body(self.encoder(stacked(observations)))  # [M, 1]
        self.zero_grad()
        outputs.backward(outer(outputs.detach()))

    def _learn(self, yes: bool) -> None:
        """Let gradients reach its parameters, but those that were frozen before it was made, or not."""
        for parameter in self._learnt:
            parameter.requires_grad_(yes)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Convert it to a device or a dtype; the optimizer's state follows when it is needed."""
        self._optimizer_state, self.optimizer = self.get_extra_state(), None
        return super()._apply(*args, **kwargs)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.parameters(), fused=True)
        if self._optimizer_state:
            optimizer.load_state_dict(self._optimizer_state)
        return optimizer

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimizer's state, for the checkpoint."""
        return self.optimizer.state_dict() if self.optimizer is not None else self._optimizer_state or {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the optimizer's state from a checkpoint."""
        self._optimizer_state, self.optimizer = state, None
