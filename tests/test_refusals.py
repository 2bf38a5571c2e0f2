"""What must stop before the weights change: another policy's episodes, episodes twice, another network, bad numbers."""

import math
from functools import partial
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.distributions import Categorical, Independent, Normal
from torch.utils.data import DataLoader, IterableDataset

from pg_lightning import EpisodeDataModule, MLPPolicy, NoNormalization, Reinforce
from pg_lightning.checks import check_numbers
from tests.helpers import plain, trainer, weights_of


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
        self.inner, self.wrap = EpisodeDataModule(num_envs=2), wrap

    def train_dataloader(self):
        self.inner.trainer = self.trainer
        return self.wrap(self.inner)

    def val_dataloader(self):
        return []


# Lightning warns of any DataLoader of an IterableDataset with a length, whatever its number of workers.
has_a_length = pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")


class Before(Callback):
    """Keeps the state at the start of the update that is to be refused."""

    def on_train_batch_start(self, trainer, agent, batch, batch_idx):
        self.state = state_of(trainer, agent)


def state_of(trainer, agent):
    """Weights, counters and optimizer state."""
    optimizer = trainer.optimizers[0].state_dict()["state"]
    state = [value for entry in optimizer.values() for value in entry.values() if isinstance(value, torch.Tensor)]
    counters = [agent.num_episodes, agent.num_env_steps, agent.num_timesteps]
    return [value.clone() for value in [*weights_of(agent.policy), *counters, *state]], dict(agent.metrics)


def refused(agent, data=None, max_steps=3, callbacks=(), **settings):
    """Fit until it is refused; return the one line, after how many updates, and whether that one changed anything."""
    before = Before()
    fitted = trainer(max_steps, callbacks=[*callbacks, before], **settings)
    with pytest.raises((ValueError, RuntimeError)) as refusal:
        fitted.fit(agent, data or EpisodeDataModule(num_envs=4))
    message = str(refusal.value)
    assert "\n" not in message
    if not hasattr(before, "state"):
        return message, 0, True
    (tensors, metrics), (now, metrics_now) = before.state, state_of(fitted, agent)
    return message, fitted.global_step, all(map(torch.equal, tensors, now)) and metrics == metrics_now


@has_a_length
def test_loaders_that_sample_with_an_older_policy_are_refused():
    message, updates, unchanged = refused(
        Reinforce(), Loaders(lambda data: DataLoader(data.train_dataloader(), batch_size=None, num_workers=1))
    )
    assert "num_workers must be 0: a worker's copy of the policy never learns" in message
    assert (updates, unchanged) == (0, True)
    message, updates, unchanged = refused(Reinforce(), Loaders(Unsized))
    assert "the training dataset needs a __len__" in message and (updates, unchanged) == (0, True)
    message, updates, unchanged = refused(Reinforce(), Loaders(Ahead))
    assert "episodes of update 0 came when update 1 was due" in message and (updates, unchanged) == (1, True)


class Repeated(Unsized):
    """Yields every update's batch twice: the second time it belongs to the update before."""

    def __len__(self):
        return 100

    def __iter__(self):
        for batch in super().__iter__():
            yield from (batch, batch)


def test_each_batch_is_learnt_from_once():
    message, updates, unchanged = refused(Reinforce(), Loaders(Repeated))
    assert "episodes of update 0 came when update 1 was due" in message and (updates, unchanged) == (1, True)


@has_a_length
def test_a_loader_without_workers_is_as_good_as_the_dataset():
    losses = []
    for wrap in (
        lambda data: data.train_dataloader(),
        lambda data: DataLoader(data.train_dataloader(), batch_size=None),
    ):
        pl.seed_everything(0, verbose=False)
        agent = Reinforce()
        trainer(5).fit(agent, Loaders(wrap))
        losses.append(agent.metrics["loss"])
    assert losses[0] == losses[1]


class Accumulates(Callback):
    """Switches accumulation on in the middle of an epoch."""

    def on_train_batch_end(self, trainer, *_):
        trainer.accumulate_grad_batches = 2


# Lightning warns that the agent's optimizer_step will be called less often; it is not called at all.
@pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches")
@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({"accumulate_grad_batches": 2}, 0),
        ({"callbacks": [GradientAccumulationScheduler({0: 3})]}, 0),
        ({"callbacks": [GradientAccumulationScheduler({1: 3})], "limit_train_batches": 2}, 2),
        ({"callbacks": [Accumulates()]}, 1),
    ],
    ids=["option", "callback", "callback later", "by hand"],
)
def test_A1_accumulating_gradients_is_refused(settings, updates):
    message, made, unchanged = refused(Reinforce(), **settings)
    assert "accumulate_grad_batches must be 1, also through GradientAccumulationScheduler: use more" in message
    assert (made, unchanged) == (updates, True)


class Twice(torch.optim.SGD):
    """Calls its closure twice for one step, as line searches do, before it moves the weights."""

    def step(self, closure=None):
        closure()
        return super().step(closure)


class AtOnce(torch.optim.SGD):
    """Moves the weights, then looks how good they are: a closure call on episodes of an older policy."""

    def step(self, closure=None):
        loss = super().step(closure)
        closure()
        return loss


def test_A2_lbfgs_is_refused():
    message, made, unchanged = refused(plain(optimizer=partial(torch.optim.LBFGS, lr=0.1)))
    assert message.startswith("LBFGS evaluates the loss again") and (made, unchanged) == (0, True)


@pytest.mark.parametrize("optimizer", [Twice, AtOnce])
def test_A2_a_closure_is_called_once(optimizer):
    agent = plain(optimizer=partial(optimizer, lr=0.1))
    message, made, unchanged = refused(agent)
    assert "update 0 was to be learnt from twice" in message and "closure more than once" in message
    assert made == 0 and agent.num_episodes == 0
    assert unchanged or optimizer is AtOnce  # What it has done to the weights before, nobody can know.


class Own(nn.Module):
    """A policy with a layer of a user's in the middle."""

    def __init__(self, observation_space, action_space, layer=nn.Identity):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = nn.Linear(4, 32), layer()
        self.logits = nn.Linear(32, 2)
        with torch.no_grad():
            self.logits.weight.mul_(5)

    def forward(self, observations):
        return Categorical(logits=self.logits(self.middle(torch.tanh(self.first(observations)))))


class FunctionalDropout(nn.Module):
    def forward(self, hidden):
        return F.dropout(hidden, 0.3, self.training)


class Noise(nn.Module):
    def forward(self, hidden):
        return hidden + 0.3 * torch.randn_like(hidden)


class RecurrentDropout(nn.Module):
    """A recurrent layer with a dropout of its own; each timestep is a sequence of one."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(32, 32, num_layers=2, dropout=0.5)

    def forward(self, hidden):
        return 10 * self.cell(hidden[None])[0][0]


class HiddenState(nn.Module):
    """Remembers its last output while acting: what it computes depends on what it saw before."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(())

    def forward(self, hidden):
        last = self.last if self.last.shape == hidden.shape else torch.zeros_like(hidden)
        self.last = (hidden + 0.9 * last).detach()
        return hidden + 0.9 * last


LAGGING = {
    "A3 F.dropout": FunctionalDropout,
    "A3 nn.LSTM": RecurrentDropout,
    "A3 noise": Noise,
    "A4 BatchNorm": partial(nn.BatchNorm1d, 32),
    "A4 hidden state": HiddenState,
}


@pytest.mark.parametrize("layer", LAGGING.values(), ids=LAGGING)
def test_A3_A4_a_policy_that_learns_otherwise_than_it_acted_is_refused(layer):
    agent = plain(policy=Own)
    agent.policy.middle = layer()
    message, made, unchanged = refused(agent)
    assert message.startswith("update 0: the policy scores its own actions differently than when it took them")
    assert "policy_lag" in message and "weights unchanged" in message
    for reason in ("BatchNorm", "dropout", "hidden state", "noise"):
        assert reason in message
    assert (made, unchanged, int(agent.num_env_steps)) == (0, True, 0)


@pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode")
def test_A4_a_batch_norm_in_eval_mode_learns():
    agent = plain(policy=Own)
    agent.policy.middle = nn.BatchNorm1d(32).eval()
    agent.policy.middle.train = lambda mode=True: agent.policy.middle
    trainer(2).fit(agent, EpisodeDataModule(num_envs=4))
    assert agent.metrics["policy_lag"] < 1e-5


def test_a_continuous_policy_with_noise_is_refused():
    class Wanders(nn.Module):
        def __init__(self, observation_space, action_space):
            super().__init__()
            self.mean = nn.Linear(3, 1)

        def forward(self, observations):
            mean = self.mean(observations) + torch.randn(len(observations), 1)
            return Independent(Normal(mean, 0.1), 1)

    agent = plain("Pendulum-v1", policy=TopLevel)
    agent.policy = Wanders(None, None)
    message, made, unchanged = refused(agent, EpisodeDataModule(num_envs=2))
    assert "policy_lag" in message and (made, unchanged) == (0, True)


class TopLevel(nn.Module):
    """A policy of one linear layer."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.mean = nn.Linear(observation_space.shape[0], action_space.shape[0])

    def forward(self, observations):
        return Independent(Normal(self.mean(observations), 1.0), 1)


def test_weights_that_changed_after_the_episodes_were_sampled_are_found():
    """A callback moves the weights between sampling and learning."""

    class Moves(Callback):
        def on_train_batch_start(self, trainer, agent, batch, batch_idx):
            with torch.no_grad():
                agent.policy.body[0].weight.add_(0.5)

    message, made, unchanged = refused(plain(), callbacks=[Moves()])
    assert "policy_lag" in message and (made, unchanged) == (0, True)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_weights_are_refused(precision):
    message, made, _ = refused(Reinforce(), precision=precision)
    assert message == f"precision must be one of 32-true, 64-true, bf16-mixed, not {precision}" and made == 0


def test_mixed_half_precision_is_refused():
    """The gradient check would end the run where the loss scaler expects infinities."""
    message, made, _ = refused(Reinforce(), plugins=[MixedPrecision("16-mixed", device="cpu")])
    assert message == "precision must be one of 32-true, 64-true, bf16-mixed, not 16-mixed" and made == 0


class Diverges(nn.Module):
    """Its loss, or only its gradient, is not finite, from some update on."""

    def __init__(self, observation_space, action_space, where="loss", since=0):
        super().__init__()
        self.where, self.since, self.passes = where, since, 0
        self.logits = nn.Linear(observation_space.shape[0], int(action_space.n))

    def forward(self, observations):
        logits = self.logits(observations)
        self.passes += torch.is_grad_enabled()
        if self.where == "loss" and self.passes > self.since:
            logits = logits * math.nan
        if self.where == "gradient" and self.passes > self.since:
            logits = logits + (logits * 0).abs().sqrt()  # The root's derivative at 0 is infinite, times 0.
        return Categorical(logits=logits, validate_args=False)


OBSERVATIONS = {"what": "observations", "number": math.nan}


@pytest.mark.parametrize(
    ("env", "policy", "made", "message"),
    [
        ({"id": "tests.envs:Broken-v0"}, MLPPolicy, 0, "environment 0 emitted rewards that are not finite"),
        (
            {"id": "tests.envs:Broken-v0", "kwargs": OBSERVATIONS},
            MLPPolicy,
            0,
            "environment 0 emitted observations that are not finite",
        ),
        (None, partial(Diverges, since=2), 2, "(policy_lag nan"),
        (None, partial(Diverges, where="gradient", since=2), 2, "the gradient of logits.weight is not finite"),
    ],
    ids=["reward", "observation", "loss", "gradient"],
)
def test_a_number_that_is_not_finite_never_reaches_the_weights(env, policy, made, message):
    """Nor the optimizer's state, nor the counters: also after updates that were good."""
    agent = plain(env, policy=policy, chunk_size=10**6)
    line, updates, unchanged = refused(agent, EpisodeDataModule(num_envs=2), max_steps=5)
    assert message in line and f"update {made}" in line
    assert (updates, unchanged, int(agent.num_episodes)) == (made, True, 2 * made)


class BreaksDown(gym.Env):
    """Shows a number that is not finite in its last step."""

    action_space, observation_space = gym.spaces.Discrete(2), gym.spaces.Box(-np.inf, np.inf, (1,))

    def __init__(self, truncate):
        self.truncate = truncate

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        over = self.t == 3
        shown = np.full(1, np.nan if over else self.t, np.float32)
        return shown, 1.0, over and not self.truncate, over and self.truncate, {}


def test_a_last_observation_that_is_not_finite_does_no_harm_where_the_episode_terminated():
    trainer(2).fit(Reinforce(lambda: BreaksDown(False)), EpisodeDataModule(num_envs=2))
    line, made, unchanged = refused(Reinforce(lambda: BreaksDown(True)), EpisodeDataModule(num_envs=2))
    assert "update 0: environment 0 emitted observations that are not finite, at step 2" in line
    assert (made, unchanged) == (0, True)


def test_a_device_without_float64_is_refused():
    """There is none here, so a stand-in says where it would run."""
    with pytest.raises(ValueError, match="Apple's GPUs have no float64"):
        check_numbers(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("mps")), precision="32-true"))


class Overflows(NoNormalization):
    def __call__(self, advantages, lengths):
        return advantages * math.nan


def test_a_loss_that_is_not_finite_is_refused():
    agent = plain(normalization=Overflows())
    message, made, unchanged = refused(agent)
    assert message == "update 0: the loss is nan; weights unchanged" and (made, unchanged) == (0, True)
