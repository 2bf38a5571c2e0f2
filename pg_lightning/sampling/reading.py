"""Reading what environments emit: text as arrays of characters, and action masks apart from the observations."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Text, Tuple

from pg_lightning.envs import Environment
from pg_lightning.envs.masks import ACTION_MASK
from pg_lightning.sampling.actors import Actor
from pg_lightning.tree import Tree, tree_leaves, tree_map


class ObservationReader:
    """Turns what environments emit into what is stored and handed to a policy.

    Text becomes the code points of its characters, int32 ``[N, max_length]``, with 0 after its end. Action masks come
    from the entry ``action_mask`` of a Dict observation, which then lacks it, or else from ``infos["action_mask"]``.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        takes_masks: whether the policy takes action masks. If not, observations keep theirs, and infos are ignored.

    Raises:
        ValueError: observations without a fixed shape; masks of actions that are neither Discrete nor MultiDiscrete.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, takes_masks: bool) -> None:
        self.observation_space, self.action_space, self.takes_masks = observation_space, action_space, takes_masks
        self._has_text = has_text(observation_space)
        in_observation = isinstance(observation_space, Dict) and ACTION_MASK in observation_space.spaces
        self._in_observation = takes_masks and in_observation
        self._in_infos: bool | None = None  # Unknown before the first read.
        self.has_work = self._in_observation or self._has_text
        """Whether there is something to read where infos are empty."""

    def read(self, observations: Tree, infos: dict[str, Any], idle: Any = None) -> tuple[Tree, tuple[np.ndarray, ...]]:
        """Read a step of all environments.

        Args:
            observations: a tree of ``[N, ...]``.
            infos: of all environments.
            idle: environments ``[N]`` whose next action is ignored: they may forbid all.

        Returns:
            Observations, a tree of arrays ``[N, ...]``, and ``(mask,)`` or ``()``. The mask is bool ``[N, choices]``:
            one column for each action of a Discrete space, those of a MultiDiscrete side by side.

        Raises:
            ValueError: a mask that forbids all actions, of another length, or missing in some steps.
        """
        masks: tuple[np.ndarray, ...] = ()
        if self._in_observation:
            masks = (self._allowed(observations[ACTION_MASK], None, idle),)
        elif self.takes_masks:
            if self._in_infos is not (ACTION_MASK in infos):
                if self._in_infos is not None:
                    raise ValueError("the info must hold an action_mask after every reset and step, or never")
                self._in_infos = ACTION_MASK in infos
                self.has_work |= self._in_infos
            if self._in_infos:
                masks = (self._allowed(infos[ACTION_MASK], infos.get(f"_{ACTION_MASK}"), idle),)
        return self.observations(observations), masks

    def observations(self, observations: Tree) -> Tree:
        """Read observations alone."""
        if self._in_observation:
            observations = {key: values for key, values in observations.items() if key != ACTION_MASK}
        return _read_text(self.observation_space, observations) if self._has_text else observations

    def final_observations(self, observations: Tree) -> Tree:
        """Read the final observations of episodes after which environments were reset in the same step.

        Gymnasium has them as an array of objects ``[N]``, ``None`` where no episode ended.
        """
        if isinstance(observations, np.ndarray) and observations.dtype == object:
            some = next(row for row in observations if row is not None)
            rows = [some if row is None else row for row in observations]
            observations = tree_map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *rows)
        return self.observations(observations)

    def _allowed(self, mask: Tree, given: np.ndarray | None, idle: np.ndarray | None) -> np.ndarray:
        """Check an action mask, and lay out all choices side by side ``[N, choices]``."""
        space = self.action_space
        if not isinstance(space, Discrete | MultiDiscrete):
            raise ValueError(
                f"an action_mask came for the action space {space}, but masks are for Discrete and MultiDiscrete: wrap "
                "the environment, so that it gives none"
            )
        sizes = np.atleast_1d(space.n if isinstance(space, Discrete) else space.nvec.ravel())
        leaves = [np.asarray(leaf) for leaf in tree_leaves(mask)]
        allowed = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1) != 0
        if allowed.shape[1] != sizes.sum():
            raise ValueError(f"an action_mask of {allowed.shape[1]} numbers came, but {space} needs {sizes.sum()}")
        live = np.ones(len(allowed), bool) if idle is None else ~idle
        allowed[~live] = True
        if given is not None and (live & ~given).any():
            raise ValueError(f"environment {np.flatnonzero(live & ~given)[0]} gave no action_mask in its info")
        some = np.logical_or.reduceat(allowed, sizes.cumsum() - sizes, axis=1)  # (N, parts)
        if not some.all():
            env = np.argwhere(~some)[0, 0]
            raise ValueError(f"environment {env} forbids all actions: its action_mask has zeros only")
        return allowed


def read_one(actor: Actor, env: Environment, observation: Any, action_mask: Any = None) -> tuple[Any, ...]:
    """Turn one observation, as the environment emits it, into a batch of one for an actor.

    Args:
        actor: that has begun.
        env: of the observation.
        observation: a tree.
        action_mask: of the info, where the environment gives one.

    Returns:
        The arguments of :meth:`Actor.act`.

    Raises:
        ValueError: a mask is missing, or came for a policy that takes none.
    """
    reader = ObservationReader(env.observation_space, env.action_space, actor.takes_masks)
    infos = {} if action_mask is None else {ACTION_MASK: tree_map(lambda part: np.asarray(part)[None], action_mask)}
    read, masks = reader.read(tree_map(actor.batched, observation), infos)
    if infos and not masks:
        raise ValueError("an action_mask was given, but the policy's forward has no argument action_mask")
    if actor.takes_masks and not masks and env.has_action_masks:
        raise ValueError(f"{env.name} says which actions are allowed: hand in action_mask=info['action_mask']")
    return read, *masks


def has_text(space: gym.Space) -> bool:
    """Tell whether an observation space has Text in it.

    Raises:
        ValueError: values without a fixed shape, such as those of Graph and Sequence.
    """
    if isinstance(space, Dict | Tuple):
        return any([has_text(part) for part in (space.values() if isinstance(space, Dict) else space)])
    if not isinstance(space, Text) and (space.shape is None or space.dtype is None):
        raise ValueError(
            f"observations of {space} have no fixed shape: wrap the environment, so that it emits a Box or a Dict "
            "(Environment(wrappers=...))"
        )
    return isinstance(space, Text)


def _read_text(space: gym.Space, observations: Tree) -> Tree:
    """Turn texts ``[N]`` in a tree into code points ``[N, max_length]``."""
    if isinstance(space, Dict):
        return {key: _read_text(space[key], values) for key, values in observations.items()}
    if isinstance(space, Tuple):
        return tuple(_read_text(part, values) for part, values in zip(space, observations, strict=True))
    if not isinstance(space, Text):
        return observations
    texts = np.asarray(observations, dtype=str)  # [N]
    if texts.dtype.itemsize > 4 * space.max_length:
        longest = max(texts.tolist(), key=len)
        raise ValueError(f"the text {longest!r} came, but its space has at most {space.max_length} characters")
    return np.ascontiguousarray(texts, f"U{space.max_length}").view(np.int32).reshape(len(texts), space.max_length)
