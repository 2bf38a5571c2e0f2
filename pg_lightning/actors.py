"""How a policy acts: without gradients, and with as little overhead as it allows.

An actor serves one update at a time, within :func:`~pg_lightning.distributions.acting`: :meth:`Actor.begin`, one
:meth:`Actor.act` per step of the environments, then :meth:`Actor.record`. The right one is picked by
:func:`make_actor`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from pg_lightning.distributions import unnormalized_logits
from pg_lightning.policies import CategoricalMLP, ConsistentDropout, consistent_dropouts

NOISE_ROWS, NOISE_STEPS = 4096, 256
"""Random numbers are drawn for so many actions at a time, and for at most so many steps of the environments."""

TINY = np.finfo(np.float32).tiny


class Actor(ABC):
    """What samples actions for the environments."""

    @abstractmethod
    def begin(self, num_envs: int, rng: np.random.Generator) -> None:
        """Start an update: read the policy as it is now, and draw all noise from ``rng``."""

    @abstractmethod
    def act(self, observations: np.ndarray) -> np.ndarray:
        """Sample an action for each environment: ``[N, *obs]`` -> ``[N, *act]``."""

    @abstractmethod
    def record(self, actions: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return what acting left behind, given all actions ``[S, N, *act]`` of the S steps since ``begin``.

        Returns:
            Behaviour log-probs ``[S, N]``, and for each dropout layer the units it kept ``[S, N, *units]``, bool.
        """


ActorFactory = Callable[[nn.Module, bool], Actor]
"""Makes what acts for a policy, sampling or greedily: :func:`make_actor`, or one of the classes here."""


def make_actor(policy: nn.Module, greedy: bool = False) -> Actor:
    """Pick the actor for a policy: NumPy for a :class:`CategoricalMLP`, torch for every other.

    Args:
        policy: maps observations to a Distribution.
        greedy: whether to take the most probable action, rather than to sample one.
    """
    if type(policy) is CategoricalMLP and next(policy.parameters()).dtype == torch.float32:
        return NumpyActor(policy, greedy)
    return TorchActor(policy, greedy)


def block_of(num_envs: int) -> int:
    """Return for how many steps of the environments random numbers are drawn at a time."""
    return max(1, min(NOISE_ROWS // num_envs, NOISE_STEPS))


def gumbel_noise(rng: np.random.Generator, shape: tuple[int, ...], greedy: bool) -> np.ndarray:
    """Draw standard Gumbel noise, float32: the argmax of logits plus it is a sample of their softmax.

    Greedy, it is zeros: the argmax of the logits.
    """
    if greedy:
        return np.zeros(shape, np.float32)
    exponential = rng.standard_exponential(shape, dtype=np.float32)
    return -np.log(np.maximum(exponential, TINY))


def log_probs_of(actions: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of actions ``[S, N]`` under the softmax of logits ``[S, N, actions]``."""
    columns = np.ascontiguousarray(logits.reshape(actions.size, -1).T)  # NumPy reduces few actions faster like this.
    columns = columns - columns.max(0)
    taken = columns.take(actions.ravel() * actions.size + np.arange(actions.size))
    return (taken - np.log(np.exp(columns).sum(0))).reshape(actions.shape)


class TorchActor(Actor):
    """Any policy acts through its own ``forward``, on the device where its parameters are.

    A Categorical is sampled by the Gumbel-max trick, which takes a tenth of the time of its ``sample``.

    Args:
        policy: maps observations to a Distribution.
        greedy: whether to take the distribution's mode, rather than a sample.
    """

    def __init__(self, policy: nn.Module, greedy: bool = False) -> None:
        self.policy, self.greedy = policy, greedy
        self.dropouts = consistent_dropouts(policy)

    def begin(self, num_envs: int, rng: np.random.Generator) -> None:
        """Start an update; torch's generator is seeded too, for what the policy itself draws."""
        self.rng, self.num_envs = rng, num_envs
        torch.manual_seed(int(rng.integers(2**63)))
        self.device = next((p.device for p in self.policy.parameters()), torch.device("cpu"))
        self.steps, self.block = 0, block_of(num_envs)
        self.logits: list[np.ndarray] = []
        self.log_probs: list[np.ndarray] = []
        self.masks: list[list[np.ndarray]] = [[] for _ in self.dropouts]

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Sample an action for each environment: ``[N, *obs]`` -> ``[N, *act]``."""
        distribution = self.policy(torch.from_numpy(observations).to(self.device))
        if self.dropouts and self.policy.training:
            for masks, dropout in zip(self.masks, self.dropouts, strict=True):
                if dropout.mask is None:
                    raise ValueError(f"the policy did not call its {dropout}, so its masks cannot be recorded")
                masks.append(dropout.mask.cpu().numpy())
        logits = unnormalized_logits(distribution)
        if logits is not None and logits.ndim == 2:
            return self._argmax(logits.cpu().numpy())
        sample = distribution.mode if self.greedy else distribution.sample()
        log_probs = distribution.log_prob(sample)
        self._check(log_probs.shape)
        self.log_probs.append(log_probs.cpu().numpy())
        return sample.cpu().numpy()

    def _argmax(self, logits: np.ndarray) -> np.ndarray:
        """Sample from the softmax of logits ``[N, actions]``."""
        step = self.steps % self.block
        if step == 0:
            self._check(logits.shape[:1])
            # In double precision, so that logits far from zero do not round the noise away.
            self.noise = gumbel_noise(self.rng, (self.block, *logits.shape), self.greedy).astype(np.float64)
            self.logits.append(np.empty((self.block, *logits.shape), logits.dtype))
        self.steps += 1
        self.logits[-1][step] = logits
        return np.add(logits, self.noise[step]).argmax(1)

    def _check(self, shape: tuple[int, ...]) -> None:
        """Refuse anything but one log-probability for each environment."""
        if tuple(shape) != (self.num_envs,):
            raise ValueError(
                f"the policy's distribution must give one log-probability per observation [{self.num_envs}], not "
                f"{list(shape)}; wrap it in torch.distributions.Independent if its actions are vectors"
            )

    def record(self, actions: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return behaviour log-probs ``[S, N]`` and kept units ``[S, N, *units]`` of each dropout layer."""
        masks = [np.stack(masks) for masks in self.masks if masks]
        if self.logits:
            return log_probs_of(actions, np.concatenate(self.logits)[: self.steps]), masks
        return np.stack(self.log_probs), masks


class _Layer(NamedTuple):
    """A linear layer on the parameters' own memory, and what follows it."""

    weight: np.ndarray  # [inputs, outputs], a view
    bias: np.ndarray | None
    outputs: np.ndarray  # [N, outputs], written anew at each step
    zeros: np.ndarray  # [N, outputs]: NumPy takes the maximum with an array faster than with a number
    dropout: float | None = None  # Probability that a unit is dropped, where there is dropout.


class NumpyActor(Actor):
    """A :class:`CategoricalMLP` acts through NumPy: on networks this small a torch call costs more than its work.

    It reads the parameters where they are (on an accelerator: a copy of them per update). Noise and masks are drawn a
    block of steps at a time. Masks come from 16 random bits a unit, so p is met to within 1/131072.

    Args:
        policy: a CategoricalMLP of float32 parameters.
        greedy: whether to take the most probable action, rather than a sampled one.
    """

    def __init__(self, policy: CategoricalMLP, greedy: bool = False) -> None:
        self.policy, self.greedy = policy, greedy

    def begin(self, num_envs: int, rng: np.random.Generator) -> None:
        """Start an update: read the policy as it is now, and draw all noise from ``rng``."""
        self.rng, self.num_envs = rng, num_envs
        layers = list[_Layer]()
        for module in self.policy:
            if isinstance(module, nn.Linear):
                weight = module.weight.detach().cpu().numpy().T
                bias = None if module.bias is None else module.bias.detach().cpu().numpy()
                layers.append(_Layer(weight, bias, *np.zeros((2, num_envs, weight.shape[1]), np.float32)))
            elif isinstance(module, ConsistentDropout) and module.training:
                layers[-1] = layers[-1]._replace(dropout=module.p)
        *self.hidden, self.last = layers
        self.dropped = [layer for layer in self.hidden if layer.dropout is not None]
        self.block: Iterator[tuple[np.ndarray, ...]] = iter(())
        self.logits: list[np.ndarray] = []
        self.masks: list[list[np.ndarray]] = [[] for _ in self.dropped]

    def _draw_block(self) -> tuple[np.ndarray, ...]:
        """Draw the noise and the masks of the next steps; return what the first of them needs."""
        steps, scales = block_of(self.num_envs), list[np.ndarray]()
        noise = gumbel_noise(self.rng, (steps, *self.last.outputs.shape), self.greedy)
        self.logits.append(np.empty_like(noise))
        for layer, masks in zip(self.dropped, self.masks, strict=True):
            p, shape = layer.dropout or 0.0, (steps, *layer.outputs.shape)
            size = math.prod(shape)
            bits = self.rng.bit_generator.random_raw(-(-size // 4)).view(np.uint16)[:size]
            masks.append((bits >= round(p * 65536)).reshape(shape))
            scales.append(masks[-1] * np.float32(1 / (1 - p)))
        self.block = zip(noise, self.logits[-1], *scales, strict=True)
        return next(self.block)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Sample an action for each environment: ``[N, *obs]`` -> ``[N]``."""
        noise, logits, *scales = next(self.block, None) or self._draw_block()
        values = observations
        if values.ndim != 2 or values.dtype != np.float32:
            values = values.reshape(self.num_envs, -1).astype(np.float32)
        for weight, bias, outputs, zeros, dropout in self.hidden:
            values = values.dot(weight, outputs)
            if bias is not None:
                np.add(values, bias, values)
            np.maximum(values, zeros, out=values)
            if dropout is not None:
                np.multiply(values, scales.pop(0), values)
        values.dot(self.last.weight, logits)
        if self.last.bias is not None:
            np.add(logits, self.last.bias, logits)
        return np.add(logits, noise, self.last.outputs).argmax(1)

    def record(self, actions: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return behaviour log-probs ``[S, N]`` and kept units ``[S, N, units]`` of each dropout layer."""
        log_probs = log_probs_of(actions, np.concatenate(self.logits)[: len(actions)])
        return log_probs, [np.concatenate(masks)[: len(actions)] for masks in self.masks]
