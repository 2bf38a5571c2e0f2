"""Every kind of action with every kind of observation: the greedy policy learns to name what it sees."""

import time
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from pg_lightning import (
    EpisodeDataModule,
    EpisodeSampler,
    Gradient,
    LeaveOneOut,
    MLPPolicy,
    MonteCarlo,
    PerBatch,
    Reinforce,
)
from pg_lightning.policies import BetaHead, GaussianHead, PredictedStdGaussianHead, SquashedGaussianHead
from pg_lightning.policies.dropout import evaluating
from pg_lightning.sampling.actors import make_actor
from tests.helpers import trainer
from tests.identity import ACTIONS, OBSERVATIONS, Identity

HEADS = {
    "gaussian": partial(GaussianHead, initial_log_std=-1.0),
    "predicted": PredictedStdGaussianHead,
    "squashed": partial(SquashedGaussianHead, initial_log_std=-1.0),
    "beta": BetaHead,
    "integers": partial(GaussianHead, initial_log_std=-1.0),
}
"""Heads of a Box; all other kinds of action take that of their space."""

KINDS = [*(kind for kind in ACTIONS if kind not in ("box", *HEADS)), *HEADS]
IN_CI = dict(zip(KINDS[:12], 3 * ["vector", "image", "discrete", "dict", "tuple"], strict=False))
"""Observations of the combinations that are not ``slow``: one for each of twelve kinds of action."""


def combinations():
    for actions in KINDS:
        for observations in OBSERVATIONS:
            for seed in range(3):
                marks = [] if IN_CI.get(actions) == observations and seed == 0 else [pytest.mark.slow]
                yield pytest.param(actions, observations, seed, marks=marks)


@pytest.mark.parametrize(("actions", "observations", "seed"), list(combinations()))
def test_the_identity_is_learnt(actions, observations, seed):
    env = partial(Identity, observations=observations, actions=actions if actions in ACTIONS else "box")
    pl.seed_everything(seed, verbose=False)
    agent = Reinforce(
        env,
        partial(MLPPolicy, hidden_sizes=(32,), init="default", encoder=None, head=HEADS.get(actions)),
        returns=MonteCarlo(),
        baseline=LeaveOneOut(),
        normalization=PerBatch(),
        direction=Gradient(),
        gamma=0.0,
        optimizer=partial(torch.optim.Adam, lr=0.01 if actions == "predicted" else 0.02),
    )
    started = time.process_time()  # Of this process alone, so that a busy machine changes nothing.
    trainer(200).fit(agent, EpisodeDataModule(num_envs=32, seed=seed))
    seconds = time.process_time() - started
    envs = agent.env.make_vector(32)
    with evaluating(agent.policy):
        greedy = EpisodeSampler(envs, 64, seed).sample(
            make_actor(agent.policy, agent.env.action_space, greedy=True), 2**20
        )
    reached, best, random = greedy.returns.mean().item(), env().optimum(), env().random_return()
    print(f"{actions} {observations} {seed} closed {(reached - random) / (best - random):.3f} in {seconds:.1f} s")
    assert reached >= random + 0.95 * (best - random)
