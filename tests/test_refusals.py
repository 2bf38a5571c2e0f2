import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.distributions import Categorical
from torch.utils.data import DataLoader, IterableDataset

from pg_lightning import CategoricalMLP, EpisodeDataModule, Reinforce
from tests.helpers import trainer, weights_of


class Unsized(IterableDataset):
    """The experience without its length."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(self.data.train_dataloader())


class Ahead(Unsized):
    """The experience with its length, but fetched an update ahead."""

    def __len__(self):
        return 100

    def __iter__(self):
        batches = super().__iter__()
        following = next(batches)
        while True:
            batch, following = following, next(batches)
            yield batch


class Loaders(pl.LightningDataModule):
    """Hands the experience to the Trainer in another way than it is meant to be."""

    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = EpisodeDataModule("CartPole-v1", num_envs=2), wrap

    def train_dataloader(self):
        self.inner.trainer = self.trainer
        return self.wrap(self.inner)

    def val_dataloader(self):
        return []


# Lightning warns of any DataLoader of an IterableDataset with a length, whatever its number of workers.
has_a_length = pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")


def refused(wrap, **settings):
    agent = Reinforce("CartPole-v1")
    before = weights_of(agent.policy)
    with pytest.raises((ValueError, RuntimeError)) as refusal:
        trainer(3, **settings).fit(agent, Loaders(wrap))
    return str(refusal.value), all(map(torch.equal, before, agent.policy.parameters()))


@has_a_length
def test_loaders_that_sample_with_an_older_policy_are_refused():
    message, unchanged = refused(lambda data: DataLoader(data.train_dataloader(), batch_size=None, num_workers=1))
    assert "num_workers must be 0: a worker's copy of the policy never learns" in message and unchanged
    message, unchanged = refused(Unsized)
    assert "the training dataset needs a __len__" in message and unchanged
    message, unchanged = refused(Ahead)
    assert "episodes of update 0 came when update 1 was due" in message and not unchanged


@has_a_length
def test_a_loader_without_workers_is_as_good_as_the_dataset():
    losses = []
    for wrap in (
        lambda data: data.train_dataloader(),
        lambda data: DataLoader(data.train_dataloader(), batch_size=None),
    ):
        pl.seed_everything(0, verbose=False)
        agent = Reinforce("CartPole-v1")
        trainer(5).fit(agent, Loaders(wrap))
        losses.append(agent.metrics["loss"])
    assert losses[0] == losses[1]


def test_accumulating_gradients_is_refused():
    message, unchanged = refused(lambda data: data.train_dataloader(), accumulate_grad_batches=2)
    assert "accumulate_grad_batches must be 1: use more episodes_per_update instead" in message and unchanged


class Diverges(nn.Module):
    """Its loss, or only its gradient, is not finite."""

    def __init__(self, observation_space, action_space, where="loss"):
        super().__init__()
        self.where, self.logits = where, nn.Linear(observation_space.shape[0], int(action_space.n))

    def forward(self, observations):
        logits = self.logits(observations)
        if self.where == "loss" and torch.is_grad_enabled():
            logits = logits * math.nan
        if self.where == "gradient":
            logits = logits + (logits * 0).abs().sqrt()  # The root's derivative at 0 is infinite, times 0.
        return Categorical(logits=logits, validate_args=False)


OBSERVATIONS = {"what": "observations", "number": math.nan}


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "policy", "message"),
    [
        ("tests.envs:Broken-v0", {}, CategoricalMLP, "update 0: environment 0 emitted rewards that are not finite"),
        (
            "tests.envs:Broken-v0",
            OBSERVATIONS,
            CategoricalMLP,
            "update 0: environment 0 emitted observations that are not finite",
        ),
        ("CartPole-v1", {}, Diverges, "update 0: the loss is nan; nothing was learnt from it"),
        ("CartPole-v1", {}, partial(Diverges, where="gradient"), "the gradient of logits.weight is not finite"),
    ],
    ids=["reward", "observation", "loss", "gradient"],
)
def test_a_number_that_is_not_finite_never_reaches_the_weights(env_id, env_kwargs, policy, message):
    agent = Reinforce(env_id, env_kwargs, policy=policy)
    before = weights_of(agent.policy)
    with pytest.raises(ValueError, match=message):
        trainer().fit(agent, EpisodeDataModule(env_id, env_kwargs, num_envs=2))
    assert all(map(torch.equal, before, agent.policy.parameters()))
    assert agent.num_episodes == 0 or "gradient" in message
