"""Actors: a policy that samples actions, without gradients and with as little overhead as it allows.

An actor serves one update at a time: :meth:`Actor.begin`, one :meth:`Actor.act` per step of the environments, then
:meth:`Actor.record`. :func:`make_actor` picks one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from inspect import signature
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from pg_lightning.policies.distributions import Categorical as UnnormalizedCategorical
from pg_lightning.policies.dropout import consistent_dropouts
from pg_lightning.policies.heads import Head, gumbel_noise, to_env
from pg_lightning.policies.policy import Policy, is_method, is_plain
from pg_lightning.policies.twins import Drawing, numpy_twin, run_layers
from pg_lightning.tree import Tree, tree_map, tree_rows


class PolicyError(ValueError):
    """An error of the policy, rather than of an environment."""


class Actor(ABC):
    """Interface for sampling actions.

    Args:
        policy: maps observations to a Distribution.
        action_space: of one environment.
        greedy: whether to take the most probable action, rather than to sample one.
    """

    def __init__(self, policy: nn.Module, action_space: gym.Space, greedy: bool = False) -> None:
        self.policy, self.greedy = policy, greedy
        self.dropouts = consistent_dropouts(policy)
        self.takes_masks = "action_mask" in signature(policy.forward).parameters
        self.to_env = action_adapter(policy, action_space)
        """Turns raw actions into those that the environments accept."""

    def begin(self, num_envs: int, rng: np.random.Generator) -> None:
        """Start an update: read the policy as it is now, and draw all noise from ``rng``.

        Torch's generator is seeded from it, for what a policy itself draws.
        """
        parameter = next(self.policy.parameters(), torch.zeros(()))
        self.device, self.is_double = parameter.device, parameter.dtype == torch.float64
        # On a CPU, torch.manual_seed takes 0.4 ms to note a call for a GPU that may be used later.
        seed_torch = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed_torch(int(rng.integers(2**63)))
        self.drawing = Drawing(num_envs, rng)
        self.masks: list[list[np.ndarray]] = [[] for _ in self.dropouts if self.policy.training]

    def batched(self, values: Any) -> np.ndarray:
        """Turn one observation's array into a batch of one, in the dtype that the sampler would keep."""
        array = np.asarray(values)[None]
        return array.astype(np.float64 if self.is_double else np.float32) if array.dtype.kind == "f" else array

    @abstractmethod
    def act(self, observations: Tree, action_mask: np.ndarray | None = None) -> Tree:
        """Sample raw actions.

        Args:
            observations: a tree of ``[N, ...]``.
            action_mask: allowed actions ``[N, choices]``, bool, where the environments say which are.

        Returns:
            Raw actions, a tree of ``[N, ...]``.
        """

    def record(self, actions: Tree, rows: np.ndarray) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the behaviour log-probs and dropout masks of some of the timesteps since ``begin``.

        Args:
            actions: raw actions at these timesteps, a tree of tensors ``[T, ...]``.
            rows: their places ``[T]`` among all S x N, counted step by step.

        Returns:
            Log-probs ``[T]``, and for each dropout layer the units it kept ``[T, *units]``, bool.
        """
        masks = (_rows(blocks, rows) for blocks in self.drawing.masks + self.masks if blocks)
        return self._log_probs(actions, rows), tuple(masks)

    @abstractmethod
    def _log_probs(self, actions: Tree, rows: np.ndarray) -> Tensor: ...

    def _to_torch(self, observations: Tree) -> Tree:
        return tree_map(lambda values: torch.from_numpy(values).to(self.device), observations)

    def _note_masks(self) -> None:
        """Keep the masks that the dropout layers drew in a forward pass."""
        for blocks, dropout in zip(self.masks, self.dropouts, strict=False):
            if dropout.mask is None:
                raise PolicyError(f"the policy did not call its {dropout}, so its masks cannot be recorded")
            blocks.append(dropout.mask.numpy(force=True)[None])


def _copied(values: Tensor) -> np.ndarray:
    """Copy a policy's outputs, which it may overwrite; NumPy has no bfloat16, so half precision becomes float32."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    return values.to(dtype, copy=True).numpy(force=True)


def _rows(blocks: list[np.ndarray], rows: np.ndarray) -> Tensor:
    """Gather rows of blocks ``[steps, N, ...]``, counted step by step."""
    values = np.concatenate(blocks)
    return torch.from_numpy(values.reshape(-1, *values.shape[2:]).take(rows, axis=0))


def action_adapter(policy: nn.Module, action_space: gym.Space) -> Any:
    """Return what turns a policy's raw actions into the environment's: its ``to_env``, or that of the space."""
    if isinstance(policy, Policy) and is_method(policy, "to_env", Policy):
        return policy.head.to_env  # Without a detour in every step.
    return getattr(policy, "to_env", partial(to_env, action_space))


def make_actor(policy: nn.Module, action_space: gym.Space, greedy: bool = False) -> Actor:
    """Pick the actor of a policy: through its head where its forward is that of :class:`Policy`, else by forward."""
    heads = [module for module in policy.modules() if isinstance(module, Head)]  # Also those inside of another.
    through_head = is_plain(policy) and all(map(samples_itself, heads))
    return (HeadActor if through_head else ModuleActor)(policy, action_space, greedy)


def samples_itself(head: Head) -> bool:
    """Tell whether a head's ``sample`` and ``mode`` belong to its ``distribution``: no subclass changed that alone."""
    order = type(head).__mro__
    names = "distribution", "sample", "mode"
    distribution, *others = (next(i for i, kind in enumerate(order) if name in vars(kind)) for name in names)
    return distribution >= max(others)


class HeadActor(Actor):
    """Samples through a policy's head, in NumPy; the outputs come from NumPy twins of the layers, or from torch."""

    policy: Policy

    def begin(self, num_envs: int, rng: np.random.Generator) -> None:
        """Start an update; noise is drawn a block of steps at a time."""
        super().begin(num_envs, rng)
        encoder, body = (numpy_twin(part, self.drawing) for part in (self.policy.encoder, self.policy.body))
        self.layers: list[Any] = [self._torch_outputs]
        if encoder is not None and body is not None and is_method(self.policy, "outputs", Policy):
            self.layers, self.masks = encoder + body, []  # The twins record their own masks.
        else:
            self.drawing.masks = []
        head = self.policy.head  # Looked up once: a module's parts are found slowly.
        self.choose = (lambda outputs, noise: head.mode(outputs)) if self.greedy else head.sample
        self.noise: Iterator[Tree] = iter(())
        self.outputs: list[np.ndarray] = []

    def _torch_outputs(self, observations: Tree) -> np.ndarray:
        with torch.no_grad():
            outputs = self.policy.outputs(self._to_torch(observations))
        self._note_masks()
        return outputs.numpy(force=True)

    def act(self, observations: Tree, action_mask: np.ndarray | None = None) -> Tree:
        """Sample raw actions."""
        outputs = run_layers(self.layers, observations)
        if action_mask is not None:
            outputs = self.policy.head.masked(outputs, action_mask)
        noise, place = next(self.noise, None) or self._draw(outputs)
        place[...] = outputs
        return self.choose(outputs, noise)

    def _draw(self, outputs: np.ndarray) -> tuple[Tree, np.ndarray]:
        """Draw the noise of the next steps and make room for their outputs; return the first step's."""
        drawing = self.drawing
        expected = (drawing.num_envs, self.policy.head.num_outputs)
        if outputs.shape != expected:
            raise PolicyError(f"the body must give outputs [N, O] = {list(expected)}, not {list(outputs.shape)}")
        self.outputs.append(np.empty((drawing.steps, *outputs.shape), outputs.dtype))
        noise = self.policy.head.noise(drawing.rng, drawing.steps, drawing.num_envs)
        self.noise = zip(tree_rows(noise), self.outputs[-1], strict=True)
        return next(self.noise)

    def _log_probs(self, actions: Tree, rows: np.ndarray) -> Tensor:
        outputs, actions = tree_map(lambda leaf: leaf.to(self.device), (_rows(self.outputs, rows), actions))
        with torch.no_grad():
            return self.policy.head.distribution(outputs).log_prob(actions).cpu()


class ModuleActor(Actor):
    """Samples from the distribution that any policy's ``forward`` returns, on the device of its parameters.

    A Categorical is sampled by the Gumbel-max trick, which takes a tenth of the time of torch's ``sample``, and which
    needs no normalised logits.
    """

    def begin(self, num_envs: int, rng: np.random.Generator) -> None:
        """Start an update."""
        super().begin(num_envs, rng)
        self.noise: Iterator[np.ndarray] = iter(())
        self.logits: list[np.ndarray] = []
        self.log_probs: list[np.ndarray] = []

    def act(self, observations: Tree, action_mask: np.ndarray | None = None) -> Tree:
        """Sample raw actions."""
        inputs = (observations,) if action_mask is None else (observations, action_mask)
        validate = Distribution._validate_args
        Distribution.set_default_validate_args(False)  # A sample need not be checked against its own distribution.
        try:
            with torch.inference_mode():
                distribution = self.policy(*self._to_torch(inputs))
                self._note_masks()
                return SAMPLERS.get(type(distribution), ModuleActor._sample)(self, distribution)
        finally:
            Distribution.set_default_validate_args(validate)

    def _sample(self, distribution: Distribution) -> Tree:
        if not isinstance(distribution, Distribution):
            raise PolicyError(f"the policy must return a torch Distribution, not {type(distribution).__name__}")
        sample = distribution.mode if self.greedy else distribution.sample()
        log_probs = distribution.log_prob(sample)
        self._check(log_probs.shape)
        self.log_probs.append(_copied(log_probs)[None])
        return tree_map(lambda values: values.numpy(force=True), sample)

    def _sample_categorical(self, distribution: Categorical) -> np.ndarray:
        logits = _copied(
            distribution.unnormalized if isinstance(distribution, UnnormalizedCategorical) else distribution.logits
        )
        if logits.ndim != 2:
            return self._sample(distribution)
        self.logits.append(logits[None])
        if self.greedy:
            self._check(logits.shape[:1])
            return logits.argmax(1)
        noise = next(self.noise, None)
        if noise is None:
            self._check(logits.shape[:1])
            # In double precision, so that logits far from zero do not round the noise away.
            self.noise = iter(gumbel_noise(self.drawing.rng, (self.drawing.steps, *logits.shape)).astype(np.float64))
            noise = next(self.noise)
        return np.add(logits, noise).argmax(1)

    def _check(self, shape: tuple[int, ...]) -> None:
        """Refuse anything but one log-probability for each environment."""
        if tuple(shape) != (self.drawing.num_envs,):
            raise PolicyError(
                f"the policy's distribution must give one log-probability per observation [{self.drawing.num_envs}], "
                f"not {list(shape)}; wrap it in torch.distributions.Independent if its actions are vectors"
            )

    def _log_probs(self, actions: Tree, rows: np.ndarray) -> Tensor:
        if self.logits:
            return _rows(self.logits, rows).log_softmax(1).gather(1, actions[:, None])[:, 0]
        return _rows(self.log_probs, rows)


SAMPLERS: dict[type[Distribution], Any] = {
    kind: ModuleActor._sample_categorical for kind in (Categorical, UnnormalizedCategorical)
}
"""Faster ways to sample, by exact type of distribution; each draws what ``sample`` would."""
