"""Policies: observations -> torch Distribution over actions.

Any ``nn.Module`` that maps observations ``[T, *obs]`` to a ``torch.distributions.Distribution`` over actions is a
policy. Where its ``forward`` has an argument ``action_mask``, it gets the masks that the environment gives, and its
observations come without them. The policies here are made of an encoder, a body and a head, so that they act in NumPy.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pg_lightning.hparams import Recorded
from pg_lightning.policies.bodies import MLPBody
from pg_lightning.policies.cnn import Layers
from pg_lightning.policies.encoders import Encoder, ImageEncoder, make_encoder
from pg_lightning.policies.heads import Head, make_head
from pg_lightning.policies.normalization import NormalizeObservations
from pg_lightning.tree import Tree

PolicyFactory = Callable[[gym.Space, gym.Space], nn.Module]
"""Makes a policy of an observation space and an action space: a class such as :class:`MLPPolicy`."""


class Policy(Recorded, nn.Module):
    """Encoder (raw observation -> features), body (features -> outputs) and head (outputs -> distribution).

    Args:
        encoder: of the observation space.
        body: maps features ``[T, encoder.num_features]`` to outputs ``[T, head.num_outputs]``.
        head: of the action space.
    """

    def __init__(self, encoder: Encoder, body: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder, self.body, self.head = encoder, body, head

    def outputs(self, observations: Tree) -> Tensor:
        """Map raw observations, a tree of ``[T, ...]``, to the parameters of the distribution ``[T, O]``."""
        return self.body(self.encoder(observations))

    def forward(self, observations: Tree, action_mask: Tensor | None = None) -> Distribution:
        """Map raw observations to a distribution over raw actions.

        Args:
            observations: a tree of ``[T, ...]``.
            action_mask: allowed actions ``[T, choices]``, bool, where the environment says which are.
        """
        outputs = self.outputs(observations)
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()  # Autocast's numbers are too coarse for log-probabilities.
        if action_mask is not None:
            outputs = self.head.masked(outputs, action_mask)
        return self.head.distribution(outputs)

    def to_env(self, actions: Tree) -> Tree:
        """Turn raw actions into those that the environment accepts."""
        return self.head.to_env(actions)


def is_method(thing: Any, name: str, owner: type) -> bool:
    """Tell whether a method is that of a class, rather than one that replaces it."""
    return getattr(getattr(thing, name), "__func__", None) is getattr(owner, name)


def is_plain(policy: nn.Module) -> bool:
    """Tell whether a policy's distribution is its head's of its outputs: no ``forward`` or hook of one's own."""
    hooked = policy._forward_hooks or policy._forward_pre_hooks
    return isinstance(policy, Policy) and is_method(policy, "forward", Policy) and not hooked


class MLPPolicy(Policy):
    """Fully connected network for any spaces: the article's policy and its relatives.

    Args:
        observation_space: decides the encoder.
        action_space: decides the head.
        hidden_sizes: units of each hidden layer (article: 128).
        activation: between the layers (article: relu).
        bias: whether the linear layers have biases (article: no).
        dropout: probability that a hidden unit is dropped, before the activation (article: 0.6).
        init: of the weights: ``"orthogonal"``, or ``"default"`` as PyTorch does it (article).
        output_gain: gain of the output layer's orthogonal weights; so small that all actions are about equally probable
            at first.
        encoder: class of an encoder; None for that of the observation space, without normalisation (article).
        head: class of a head; by default that of the action space.

    Raises:
        ValueError: a space without encoder or head, no unit in a layer, a dropout outside of [0, 1).
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Literal["relu", "tanh"] = "tanh",
        bias: bool = True,
        dropout: float = 0.0,
        init: Literal["default", "orthogonal"] = "orthogonal",
        output_gain: float = 0.01,
        encoder: Callable[[gym.Space], Encoder] | None = NormalizeObservations,
        head: Callable[[gym.Space], Head] | None = None,
    ) -> None:
        features, actions = (encoder or make_encoder)(observation_space), (head or make_head)(action_space)
        sizes = features.num_features, actions.num_outputs
        body = MLPBody(*sizes, hidden_sizes, activation, bias, dropout, init, output_gain)
        super().__init__(features, body, actions)


class CNNPolicy(MLPPolicy):
    """Convolutional network for images, followed by a fully connected one.

    ``MLPPolicy`` takes one for images, too, also for those in a Dict or Tuple; here its layers can be chosen.

    Args:
        observation_space: Box of images.
        action_space: decides the head.
        layers: channels, kernel size, stride and padding of each convolution; by default those of CNNBody.
        hidden_sizes: units of each hidden layer after the convolutions.
        dropout: probability that a unit of these is dropped, before the activation.
        head: class of a head; by default that of the action space.

    Raises:
        ValueError: observations that are no images, or images too small for the layers.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        layers: Layers | None = None,
        hidden_sizes: Sequence[int] = (256,),
        dropout: float = 0.0,
        head: Callable[[gym.Space], Head] | None = None,
    ) -> None:
        encoder: Any = partial(ImageEncoder, layers=layers)
        super().__init__(
            observation_space, action_space, hidden_sizes, "relu", dropout=dropout, encoder=encoder, head=head
        )
