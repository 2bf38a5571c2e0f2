"""Policies: observations -> torch Distribution, and dropout that scores actions as they were taken.

Any ``nn.Module`` that maps observations ``[T, *obs]`` to a ``torch.distributions.Distribution`` over actions is a
policy. What makes one for an environment is a callable of its observation and action space, such as a class here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.nn.modules.dropout import _DropoutNd

PolicyFactory = Callable[[gym.Space, gym.Space], nn.Module]


class ConsistentDropout(nn.Module):
    """Dropout that remembers its mask, so that learning scores an action under the very policy that took it.

    Acting leaves the units it kept in :attr:`mask`; while learning, :func:`replay_masks` puts them back. Dropped units
    are zeroed and the others scaled by 1/(1 - p). In eval mode it does nothing.

    Args:
        p: probability that a unit is dropped, at least 0 and below 1.

    Raises:
        ValueError: p outside of [0, 1).

    Source: Hausknecht & Wagener (2022), "Consistent Dropout for Policy Gradient Reinforcement Learning".
    """

    mask: Tensor | None = None
    replayed: Tensor | None = None
    spent = False

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {p}")
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        """Drop units of ``[T, *units]``, by the mask that is replayed or by a new one."""
        if not self.training:
            return inputs
        if self.replayed is None:
            self.mask = torch.rand_like(inputs) >= self.p
            return inputs * self.mask / (1 - self.p)
        if self.spent:
            raise ValueError(
                "a dropout layer was called twice in one pass: give each call a ConsistentDropout of its own"
            )
        self.spent = True
        return inputs * self.replayed / (1 - self.p)

    def extra_repr(self) -> str:
        """Show p."""
        return f"p={self.p}"


def consistent_dropouts(policy: nn.Module) -> list[ConsistentDropout]:
    """Return the policy's dropout layers in module order: the order of :attr:`Episodes.masks`."""
    return [module for module in policy.modules() if isinstance(module, ConsistentDropout)]


def with_consistent_dropout(policy: nn.Module) -> nn.Module:
    """Replace every ``nn.Dropout`` in a policy by :class:`ConsistentDropout`, in place, and return the policy.

    Raises:
        ValueError: the policy has another kind of dropout, which would draw new masks while learning.
    """
    replaced: dict[nn.Module, ConsistentDropout] = {}
    for path, module in list(policy.named_modules(remove_duplicate=False)):
        if isinstance(module, _DropoutNd):
            if type(module) is not nn.Dropout:
                raise ValueError(f"{module} draws new masks while learning: use nn.Dropout or ConsistentDropout")
            layer = replaced.setdefault(module, ConsistentDropout(module.p))
            if not path:
                return layer
            parent, _, name = path.rpartition(".")
            setattr(policy.get_submodule(parent), name, layer)
    return policy


@contextmanager
def evaluating(policy: nn.Module) -> Iterator[None]:
    """Within this context the policy is in eval mode; then each module is in the mode that it was in."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_masks(policy: nn.Module, masks: Sequence[Tensor]) -> list[ConsistentDropout]:
    """Return the policy's dropout layers; refuse, with a ValueError, any other number of masks."""
    dropouts = consistent_dropouts(policy)
    if len(dropouts) != len(masks):
        raise ValueError(f"the policy has {len(dropouts)} dropout layers, but {len(masks)} masks were recorded")
    return dropouts


@contextmanager
def replay_masks(policy: nn.Module, masks: Sequence[Tensor]) -> Iterator[None]:
    """For one forward pass the policy's dropout layers drop what they dropped while acting.

    Args:
        policy: with one :class:`ConsistentDropout` per mask.
        masks: in module order, which units were kept, each ``[T, *units]``.

    Raises:
        ValueError: as many masks as there are dropout layers were expected.
    """
    dropouts = check_masks(policy, masks)
    for dropout, mask in zip(dropouts, masks, strict=True):
        dropout.replayed, dropout.spent = mask, False
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.replayed = None


class CategoricalMLP(nn.Sequential):
    """Fully connected network with a softmax on top, for discrete actions: the article's policy and its relatives.

    Args:
        observation_space: a Box; observations of more than one dimension are flattened.
        action_space: a Discrete space.
        hidden_sizes: units of each hidden layer.
        bias: whether the linear layers have biases (article: no).
        dropout: probability that a hidden unit is dropped, before the ReLU (article: 0.6).

    Raises:
        ValueError: a space it is not made for, no unit in a layer, a dropout outside of [0, 1).
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        hidden_sizes: Sequence[int] = (128,),
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if not isinstance(action_space, gym.spaces.Discrete):
            raise ValueError(
                f"CategoricalMLP chooses among Discrete actions, but the action space is {action_space}; "
                "hand in a policy made for it (--model.policy)"
            )
        if not isinstance(observation_space, gym.spaces.Box):
            raise ValueError(f"CategoricalMLP reads Box observations, not {observation_space}")
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, not {list(hidden_sizes)}")
        inputs = gym.spaces.flatdim(observation_space)
        layers: list[nn.Module] = []
        for size in hidden_sizes:
            layers += [nn.Linear(inputs, size, bias)]
            layers += [ConsistentDropout(dropout)] if dropout else []
            layers += [nn.ReLU()]
            inputs = size
        super().__init__(*layers, nn.Linear(inputs, int(action_space.n), bias))
        self.observation_ndim = len(observation_space.shape)

    def forward(self, observations: Tensor) -> Distribution:
        """Map observations ``[T, *obs]`` to a Categorical over actions ``[T]``."""
        return Categorical(logits=super().forward(self.flatten(observations)), validate_args=False)

    def flatten(self, observations: Tensor) -> Tensor:
        """Turn observations ``[T, *obs]`` into what the first layer reads, ``[T, inputs]``."""
        batch = observations.shape[: observations.ndim - self.observation_ndim]
        return observations.reshape(*batch, -1).float()
