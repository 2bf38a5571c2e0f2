"""Running normalisation of observations."""

import math
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from pg_lightning.fitted import Fitted, fold_in
from pg_lightning.frames import rows_together, stacked
from pg_lightning.policies.encoders import Encoder, make_encoder
from pg_lightning.policies.twins import TWINS, Drawing, Layer, numpy_twin
from pg_lightning.tree import Tree, tree_map

if TYPE_CHECKING:
    from pg_lightning.episodes import Batch


class NormalizeObservations(Encoder, Fitted):
    r"""Features of the space's own encoder, the numbers of Boxes shifted and scaled to mean 0 and variance 1.

    .. math:: \mathrm{clip}\big((x - \mu) / \sqrt{\sigma^2 + 10^{-8}},\ \pm c\big)

    Mean and variance are those of all timesteps learnt from so far, over all processes. They are fitted after each
    update and stay as they are in evaluation. One-hot parts and images are left alone.

    Args:
        space: of the observations.
        clip: c, the largest absolute value.

    Raises:
        ValueError: a clip that is not more than 0.

    Source: Welford (1962), in the batch form of Chan, Golub & LeVeque (1979).
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    numbers: Tensor
    shift: Tensor
    factor: Tensor

    def __init__(self, space: gym.Space, clip: float = 10.0) -> None:
        super().__init__(space)
        if not clip > 0:
            raise ValueError(f"clip must be more than 0, not {clip}")
        self.clip, self.inner = clip, make_encoder(space)
        self.num_features = self.inner.num_features
        self.register_buffer("numbers", torch.tensor(self.inner.is_number, dtype=torch.bool), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.num_features, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(self.num_features, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(self.num_features))
        self.register_buffer("factor", torch.ones(self.num_features))

    def forward(self, observations: Tree) -> Tensor:
        """Map raw observations, a tree of ``[T, ...]``, to features ``[T, F]``."""
        features = self.inner(observations)
        if torch.compiler.is_compiling():  # Without a branch on what the buffers hold.
            clip = torch.where(self.count > 0, self.clip, math.inf).to(features)
            scaled = ((features - self.shift) * self.factor).clamp(-clip, clip)
            return torch.where(self.numbers, scaled, features)
        if not self.count:
            return features
        scaled = ((features - self.shift) * self.factor).clamp(-self.clip, self.clip)
        return scaled if self.numbers.all() else torch.where(self.numbers, scaled, features)

    @torch.no_grad()
    def fit(self, batch: "Batch") -> dict[str, float]:
        """Fold in the observations of a batch; where there are no numbers, as with images, there is nothing to do."""
        if not self.numbers.any():
            return {}
        observations, count = batch.episodes.observations, batch.episodes.num_timesteps
        size = rows_together(observations, count)
        for start in range(0, count, size):
            part = tree_map(lambda leaf, a=start: leaf[a : a + size], observations)
            fold_in(self.inner(stacked(part)).to(self.mean), self.count, self.mean, self.m2)
        self.shift.copy_(self.mean)
        self.factor.copy_((self.m2 / self.count + 1e-8).rsqrt())
        return {}


def _twin(module: NormalizeObservations, drawing: Drawing) -> list[Layer] | None:
    inner = numpy_twin(module.inner, drawing)
    if inner is None or not module.count:
        return inner
    shift, factor, numbers = (x.numpy(force=True) for x in (module.shift, module.factor, module.numbers))

    def normalize(features: np.ndarray) -> np.ndarray:
        return np.clip((features - shift) * factor, -module.clip, module.clip)

    def normalize_numbers(features: np.ndarray) -> np.ndarray:
        return np.where(numbers, normalize(features), features)

    return [*inner, normalize if numbers.all() else normalize_numbers]


TWINS[NormalizeObservations] = _twin
