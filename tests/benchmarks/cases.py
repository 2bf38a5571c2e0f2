"""What is measured on CartPole-v1: this package, the naive loop, peers, and the environment alone.

Each case is run in a fresh process: ``python -m tests.benchmarks.cases NAME SEED SECONDS UNTIL_SOLVED``.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from tests.benchmarks import peers
from tests.benchmarks.common import CARTPOLE, ROOT, answer, max_time, with_rates

ARTICLE = ["--config", str(ROOT / "configs" / "article.yaml")]
USER_POLICY = ["--model.policy", "tests.benchmarks.cases.UserPolicy"]


def with_envs(num_envs: int) -> list[str]:
    """Return the options of the default with another number of environments, one episode each per update.

    A single one has no other episodes to compare with, so its returns are standardised as in the article.
    """
    options = [*CARTPOLE, "--data.num_envs", str(num_envs), "--data.episodes_per_update", str(num_envs)]
    if num_envs > 1:
        return options
    parts = ["--model.baseline", "pg_lightning.NoBaseline", "--model.normalization", "pg_lightning.PerEpisode"]
    return [*options, *parts, "--optimizer.lr", "0.01"]


class UserPolicy(nn.Module):
    """The default network as a user would write it, which the package knows nothing about: no NumPy path."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(4, 128, bias=False), nn.Linear(128, 2, bias=False)

    def forward(self, observations: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Categorical(logits=self.logits(torch.relu(self.hidden(observations))))


def fit(arguments: list[str]) -> dict:
    """Run ``python train.py fit ARGUMENTS`` in this process, in a temporary folder; return its ``summary.json``."""
    from pg_lightning.cli import main

    with tempfile.TemporaryDirectory() as folder:
        main(["fit", *arguments, "--trainer.default_root_dir", folder])
        return json.loads(next(Path(folder).glob("**/summary.json")).read_text())


def package(arguments: list[str], seed: int, seconds: float, until_solved: bool) -> dict:
    """Fit with the progress bar, the logger and checkpoints on, as from the command line.

    Solved is the rule of all cases: a running reward from 10, without a least number of episodes.
    """
    stop = ["--stop.initial", "10", "--stop.min_episodes", "0"] if until_solved else ["--stop.threshold", "1e9"]
    summary = fit([*arguments, *max_time(seconds), *stop, "--seed_everything", str(seed)])
    return {name: summary[name] for name in ("env_steps", "timesteps", "episodes", "seconds", "solved")}


def naive(seed: int, seconds: float, until_solved: bool) -> dict:
    """Run the loop that everyone writes first; it ends when solved, which takes it longer than a throughput run."""
    from tests.naive import train

    return train(seed, max_episodes=10**9, max_seconds=seconds)


def raw(num_envs: int, seed: int, seconds: float, until_solved: bool) -> dict:
    """Step the environments with random actions, drawn beforehand: the limit."""
    if num_envs == 1:
        return _raw_single(seed, seconds)
    envs = gym.make_vec("CartPole-v1", num_envs, vectorization_mode="vector_entry_point")
    envs.reset(seed=seed)
    actions = np.random.default_rng(seed).integers(0, 2, (1000, num_envs))
    calls, episodes, started = 0, 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for action in actions:
            _, _, terminated, truncated, _ = envs.step(action)
            episodes += int(np.count_nonzero(terminated | truncated))
        calls += len(actions)
    return _counted(calls * num_envs, episodes, time.perf_counter() - started)


def _raw_single(seed: int, seconds: float) -> dict:
    env = gym.make("CartPole-v1", disable_env_checker=True)
    env.reset(seed=seed)
    actions = np.random.default_rng(seed).integers(0, 2, 1000).tolist()
    steps, episodes, started = 0, 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
                episodes += 1
        steps += len(actions)
    return _counted(steps, episodes, time.perf_counter() - started)


def _counted(env_steps: int, episodes: int, seconds: float) -> dict:
    return {"env_steps": env_steps, "timesteps": 0, "episodes": episodes, "seconds": seconds}


class Case(NamedTuple):
    """One row of the tables."""

    label: str
    run: Callable[[int, float, bool], dict]
    num_envs: int
    needs: tuple[str, str] | None = None  # What is imported, and what is installed for it.


NUM_ENVS = (1, 4, 16, 64, 256, 1024)
SB3 = ("stable_baselines3", "stable-baselines3")

CASES = {
    "default": Case("pg_lightning, configs/cartpole.yaml: 64 envs", partial(package, CARTPOLE), 64),
    "article": Case("pg_lightning, configs/article.yaml: 1 env, dropout", partial(package, ARTICLE), 1),
    **{
        f"envs-{n}": Case(f"pg_lightning, {n} env{'s' * (n > 1)}", partial(package, with_envs(n)), n)
        for n in NUM_ENVS
        if n != 64
    },
    "torch-1": Case("pg_lightning, a torch module as policy, 1 env", partial(package, with_envs(1) + USER_POLICY), 1),
    "torch-64": Case("pg_lightning, a torch module as policy, 64 envs", partial(package, CARTPOLE + USER_POLICY), 64),
    "naive": Case("naive loop: article's agent, a forward and a graph per step", naive, 1),
    "sb3-a2c": Case("Stable-Baselines3 A2C, tuned: 8 envs", peers.a2c, 8, SB3),
    "sb3-ppo": Case("Stable-Baselines3 PPO, tuned: 8 envs", peers.ppo, 8, SB3),
    "tianshou": Case("Tianshou REINFORCE: 8 envs", peers.tianshou, 8, ("tianshou", "tianshou")),
    "torchrl": Case("TorchRL REINFORCE: 8 envs", peers.torchrl, 8, ("torchrl", "torchrl")),
    **{f"raw-{n}": Case(f"limit: random actions, {n} env{'s' * (n > 1)}", partial(raw, n), n) for n in NUM_ENVS},
}


if __name__ == "__main__":
    name, seed, seconds, until_solved = sys.argv[1:]
    torch.set_num_threads(1)
    answer(with_rates(CASES[name].run(int(seed), float(seconds), until_solved == "True")))
