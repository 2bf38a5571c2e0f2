"""Normaliser, critic, reward scale, schedules and natural gradient: exact over a resume, and over two processes."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import IterableDataset

from pg_lightning import (
    GAE,
    Critic,
    EpisodeDataModule,
    Gradient,
    Linear,
    LinearBaseline,
    MLPPolicy,
    MonteCarlo,
    NaturalGradient,
    NormalizeObservations,
    PerBatch,
    Reinforce,
    ScaledRewards,
    StopAtRewardThreshold,
)
from tests.helpers import trainer
from tests.test_ddp import fit, joined
from tests.test_resume import assert_same

PENDULUM = {"id": "Pendulum-v1", "max_episode_steps": 30}


class Stages(Callback):
    """Keeps the metrics of every update; ends the run after one of them, as an interrupt does."""

    def __init__(self, end=None):
        self.end, self.metrics = end, []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.metrics.append(dict(pl_module.metrics))
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.end


def natural():
    return {
        "policy": partial(MLPPolicy, encoder=NormalizeObservations, activation="tanh", bias=True),
        "returns": ScaledRewards(GAE()),
        "baseline": Critic(),
        "direction": NaturalGradient(Linear(0.05), backtracks=3),
        "entropy_coef": Linear(0.1),
    }


def adam():
    return {
        "policy": partial(MLPPolicy, encoder=partial(NormalizeObservations, clip=3.0), dropout=0.3),
        "returns": ScaledRewards(MonteCarlo("bootstrap")),
        "baseline": Critic(hidden_sizes=(16,), encoder=NormalizeObservations),
        "direction": Gradient(),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "lr_schedule": Linear(1.0),
        "gradient_variance": True,
    }


def linear():
    return {"returns": ScaledRewards(GAE()), "baseline": LinearBaseline(), "direction": NaturalGradient()}


def checkpoint(agent, path, end=None, ckpt_path=None, budget=None):
    """Train up to update 4, or until an interrupt; return the checkpoint and the metrics of every update."""
    stages = Stages(end)
    stop = [] if budget is None else [StopAtRewardThreshold(threshold=1e9, max_env_steps=budget)]
    run = trainer(4, callbacks=[stages, *stop])
    run.fit(agent, EpisodeDataModule(num_envs=3), ckpt_path=ckpt_path)
    run.save_checkpoint(path)
    return torch.load(path, weights_only=True), stages.metrics


@pytest.mark.parametrize("budget", [None, 100_000])
@pytest.mark.parametrize("env", ["CartPole-v1", PENDULUM])
@pytest.mark.parametrize("parts", [natural, adam, linear])
def test_resumed_after_two_updates_is_the_run_of_four(parts, env, budget, tmp_path):
    torch.manual_seed(0)
    agent = Reinforce(env, **parts())
    start = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    whole, metrics = checkpoint(agent, tmp_path / "whole.ckpt", budget=budget)
    torch.manual_seed(0)
    half, first = checkpoint(Reinforce(env, **parts()), tmp_path / "half.ckpt", end=2, budget=budget)
    assert half["global_step"] == 2 and len(first) == 2
    torch.manual_seed(1)  # Weights and the critic's seed come from the checkpoint.
    resumed, second = checkpoint(
        Reinforce(env, **parts()), tmp_path / "resumed.ckpt", ckpt_path=tmp_path / "half.ckpt", budget=budget
    )
    assert whole["global_step"] == resumed["global_step"] == 4
    assert first + second == metrics
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "metrics"):
        assert_same(whole[name], resumed[name])
    weights = {f"policy.{name}": value for name, value in start.items()}
    assert any(not torch.equal(value, whole["state_dict"][name]) for name, value in weights.items())
    assert whole["state_dict"]["returns.m2"] > half["state_dict"]["returns.m2"] > 0


@pytest.mark.parametrize("parts", [natural, adam, linear])
def test_a_checkpoint_alone_gives_the_same_actions(parts, tmp_path):
    agent = Reinforce(PENDULUM, **parts())
    run = trainer(2)
    run.fit(agent, EpisodeDataModule(num_envs=3))
    run.save_checkpoint(tmp_path / "agent.ckpt")
    again = Reinforce.load_from_checkpoint(tmp_path / "agent.ckpt")
    for seed in range(10):
        observation, _ = agent.env.make().reset(seed=seed)
        for greedy in (True, False):
            torch.manual_seed(seed)
            action = agent.act(observation, greedy)
            torch.manual_seed(seed)
            assert np.array_equal(action, again.act(observation, greedy))


class Diary(Callback):
    """Writes what a process saw in each update: its episodes, the state before and after, gradient and metrics."""

    def __init__(self):
        self.pages = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.pages.append({"episodes": vars(batch.episodes).copy(), "before": deepcopy(pl_module.state_dict())})

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.pages[-1]["gradients"] = [parameter.grad.clone() for parameter in pl_module.policy.parameters()]

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.pages[-1] |= {"after": deepcopy(pl_module.state_dict()), "metrics": dict(pl_module.metrics)}

    def on_train_end(self, trainer, pl_module):
        if trainer.world_size > 1:
            torch.save({"pages": self.pages, "hparams": dict(pl_module.hparams)}, f"diary{trainer.global_rank}.pt")


class Joined(IterableDataset):
    """The episodes of all processes, as those of one, from the same state in every update."""

    def __init__(self, agent, pages):
        self.agent, self.pages = agent, pages

    def __len__(self):
        return 1000

    def __iter__(self):
        for update, pages in enumerate(self.pages):
            self.agent.load_state_dict(deepcopy(pages[0]["before"]))
            episodes = joined([page["episodes"] for page in pages])
            episodes.update = update
            yield self.agent.estimate(episodes)


class JoinedData(EpisodeDataModule):
    def __init__(self, pages):
        super().__init__(num_envs=1)
        self.pages = pages

    def train_dataloader(self):
        return Joined(self._agent, self.pages)


PARTS = [
    *("--model.policy", "MLPPolicy", "--model.policy.encoder", "NormalizeObservations", "--model.policy.bias", "true"),
    *("--model.returns", "ScaledRewards", "--model.returns.returns", "GAE"),
    *("--model.baseline", "Critic", "--model.normalization", "PerBatch"),
    *("--model.direction", "NaturalGradient", "--model.direction.backtracks", "3"),
    *("--model.direction.max_kl", "Linear", "--model.direction.max_kl.initial", "0.5"),
    *("--model.gradient_variance", "true", "--model.entropy_coef", "0.01"),
]
SAME = ("grad_norm", "grad_variance", "reward_scale", "line_search_backtracks", "line_search_success")


def close(one, other):
    """Equal up to a hundred-thousandth, as a whole."""
    return (one.double() - other.double()).norm() <= 1e-5 * other.double().norm()


@pytest.mark.parametrize("env", [pytest.param("CartPole-v1", marks=pytest.mark.slow), "Pendulum-v1"])
def test_two_processes_learn_as_one_with_all_episodes(env, tmp_path):
    options = ["--env.id", env, "--env.max_episode_steps", "40", "--data.num_envs", "3", "--trainer.max_steps", "3"]
    options += ["--trainer.precision", "64-true"]  # Or rounding alone comes near to the tolerance.
    fit(*options, *PARTS, "--trainer.callbacks", "tests.test_exact_parts.Diary", folder=tmp_path)
    ranks = [torch.load(tmp_path / f"diary{rank}.pt", weights_only=False) for rank in (0, 1)]
    pages = list(zip(*(rank["pages"] for rank in ranks), strict=True))
    agent, diary = Reinforce(**ranks[0]["hparams"]), Diary()
    assert isinstance(agent.normalization, PerBatch)
    run = trainer(3, callbacks=[diary], precision="64-true", default_root_dir=tmp_path)
    run.fit(agent, JoinedData(pages))
    assert len(pages) == len(diary.pages) == 3
    for left, right, alone in zip(*zip(*pages, strict=True), diary.pages, strict=True):
        assert_same(left["after"], right["after"])
        assert not torch.equal(left["episodes"]["rewards"], right["episodes"]["rewards"]) or env == "CartPole-v1"
        for mine, theirs in zip(left["gradients"], alone["gradients"], strict=True):
            assert close(mine, theirs)
        for name, value in alone["after"].items():
            if name.endswith("_extra_state"):
                continue
            assert close(left["after"][name], value), name
            if name.startswith("policy.") and value.is_floating_point() and "encoder" not in name:
                steps = (page["after"][name] - page["before"][name] for page in (left, alone))
                assert close(*steps), f"direction of {name}"
        for name in SAME:
            assert left["metrics"][name] == right["metrics"][name]
            assert left["metrics"][name] == pytest.approx(alone["metrics"][name], rel=1e-5), name
