"""Action masks in the infos of environments, as vector environments collect them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pg_lightning.envs.errors import EnvironmentFault

ACTION_MASK = "action_mask"
"""Entry of an info that tells which actions are allowed: not 0 means allowed."""


def mask_alone(info: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reduce an info to its action mask ``[choices]``, that of a MultiDiscrete space with all parts side by side.

    >>> mask_alone({"action_mask": (np.array([1, 0]), np.array([1, 1, 0])), "lives": 3})
    {'action_mask': array([1, 0, 1, 1, 0], dtype=int8)}
    >>> mask_alone({"lives": 3})
    {}
    """
    return {ACTION_MASK: _flat(info[ACTION_MASK]).astype(np.int8)} if ACTION_MASK in info else {}


def _flat(mask: Any) -> np.ndarray:
    """Lay out an array, or nested tuples of them, in one row."""
    return np.concatenate([_flat(part) for part in mask]) if isinstance(mask, tuple) else np.ravel(mask)


class MaskRows:
    """Action masks of N environments, laid out like the infos of Gymnasium's vector environments.

    Args:
        num_envs: N.

    Attributes:
        infos: empty before the first mask; then ``action_mask`` ``[N, choices]``, and ``_action_mask`` ``[N]``: whether
            each environment gave one in its last info. The arrays are reused.
    """

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.infos = num_envs, dict[str, np.ndarray]()

    def write(self, i: int, info: Mapping[str, Any]) -> None:
        """Take the action mask from the info of environment i."""
        alone = mask_alone(info)
        if alone and not self.infos:
            masks = np.zeros((self.num_envs, len(alone[ACTION_MASK])), np.int8)
            self.infos = {ACTION_MASK: masks, f"_{ACTION_MASK}": np.zeros(self.num_envs, bool)}
        if not self.infos:
            return
        self.infos[f"_{ACTION_MASK}"][i] = bool(alone)
        if alone:
            row, mask = self.infos[ACTION_MASK][i], alone[ACTION_MASK]
            if row.shape != mask.shape:
                raise EnvironmentFault(f"an action_mask of {len(mask)} numbers came, but one of {len(row)} before")
            row[:] = mask
