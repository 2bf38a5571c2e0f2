"""Heads of all kinds, and draws of their actions, for several files of tests."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from scipy import stats

from pg_lightning.policies import (
    BernoulliHead,
    BetaHead,
    CategoricalHead,
    GaussianHead,
    MultiCategoricalHead,
    PredictedStdGaussianHead,
    SquashedGaussianHead,
)
from pg_lightning.policies.heads import make_head
from pg_lightning.tree import tree_map, tree_rows

DRAWS, ENVS = 100_000, 50
MIN_P = 1e-4

BOX = Box(np.array([-1, 0], np.float32), np.array([3, 10], np.float32))
NESTED = Dict(move=Box(-1, 1, (2,)), tools=Tuple((Discrete(3, start=4), MultiBinary(2))))
HEADS = {
    "discrete": lambda: CategoricalHead(Discrete(4, start=2)),
    "multidiscrete": lambda: MultiCategoricalHead(MultiDiscrete([2, 4, 3], start=[0, 7, -1])),
    "square": lambda: MultiCategoricalHead(MultiDiscrete([[3, 3], [3, 3]])),
    "multibinary": lambda: BernoulliHead(MultiBinary((2, 2))),
    "gaussian": lambda: GaussianHead(BOX, initial_log_std=-0.5),
    "predicted": lambda: PredictedStdGaussianHead(BOX),
    "squashed": lambda: SquashedGaussianHead(BOX, initial_log_std=0.3),
    "beta": lambda: BetaHead(BOX),
    "composite": lambda: make_head(NESTED),
}

MASKED = {
    "discrete": (HEADS["discrete"], [0, 1, 1, 0]),
    "multidiscrete": (HEADS["multidiscrete"], [0, 1, 1, 0, 1, 0, 1, 1, 0]),
}
masked = pytest.mark.parametrize(("make", "mask"), MASKED.values(), ids=MASKED)


def outputs_of(head, rows=1, seed=0):
    """Outputs ``[rows, O]`` of some network, float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, head.num_outputs)))


def draw(head, outputs, draws=DRAWS, seed=1):
    """Sample in NumPy, as while acting, given one row of outputs: a tree of tensors ``[draws, ...]``."""
    rows = np.broadcast_to(outputs.numpy().astype(np.float32), (ENVS, head.num_outputs))
    noise = head.noise(np.random.default_rng(seed), draws // ENVS, ENVS)
    samples = [head.sample(rows, own) for own in tree_rows(noise)]
    return tree_map(lambda *leaves: torch.from_numpy(np.concatenate(leaves)), *samples)


def repeated(head, outputs, draws=DRAWS):
    return head.distribution(outputs.expand(draws, -1))


def is_likely(counts, probabilities):
    """Whether counts of outcomes agree with their probabilities, by a chi-square test."""
    return len(counts) == 1 or stats.chisquare(counts, np.asarray(probabilities) * np.sum(counts)).pvalue > MIN_P
