"""Pong from pixels: time per decision beside Stable-Baselines3's PPO, and the peak memory of ten whole games.

    python -m tests.benchmarks.pixels speed --seconds 60 --rounds 3
    python -m tests.benchmarks.pixels memory

Speed: eight environments, one after the other in one process, one thread. Both learn from every decision once (one
epoch, minibatches of 512) with the networks of ``configs/pong.yaml``, whose critic shares the policy's convolutions,
here with one pass instead of four. The natural gradient of that configuration is measured, and the plain one, which is
what PPO takes; PPO with the same networks, with two that share nothing, and with two that share the hidden layer, too.
The environments' time is taken off for all: what is left is acting and learning. Memory: one update of ten whole games
of both configurations.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from pg_lightning.envs import atari
from tests.benchmarks.cases import fit
from tests.benchmarks.common import ROOT, answer, max_time, measure, say, table
from tests.benchmarks.rivals import Meter
from tests.benchmarks.shares import ENV, Clocks, Recording, install

PONG = ["--config", str(ROOT / "configs" / "pong.yaml")]
KARPATHY = ["--config", str(ROOT / "configs" / "pong_karpathy.yaml")]
ENVS, MINIBATCH = 8, 512


def ours(seconds: float, direction: Sequence[str] = ()) -> dict[str, Any]:
    """Train this package; progress lines, logger and checkpoints as for a user."""
    clocks = Clocks()
    install(clocks, Recording())
    options = ["--model.baseline.epochs", "1", "--model.baseline.minibatch_size", str(MINIBATCH)]
    with redirect_stdout(sys.stderr):
        summary = fit(
            [*PONG, *options, *direction, "--data.num_envs", str(ENVS), "--data.backend", "sync", *max_time(seconds)]
        )
    return {"env_steps": summary["env_steps"], "seconds": summary["seconds"], "env_seconds": clocks.seconds[ENV]}


def sb3_ppo(envs: Any, shared: int, seed: int = 0, **settings: Any) -> Any:
    """Make Stable-Baselines3's PPO with the networks of ``configs/pong.yaml``.

    Args:
        envs: of Stable-Baselines3.
        shared: what policy and critic have in common: 0 for nothing, 1 for the convolutions, as ``configs/pong.yaml``
            has it, 2 for the hidden layer, too.
        seed: of everything.
        settings: of PPO.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    from pg_lightning.policies.cnn import CNNBody

    class Features(BaseFeaturesExtractor):
        def __init__(self, space: gym.Space) -> None:
            body = CNNBody(space.shape)  # type: ignore[arg-type]
            hidden = [nn.Linear(body.num_outputs, 256), nn.ReLU()] if shared == 2 else []
            super().__init__(space, 256 if hidden else body.num_outputs)
            self.body = nn.Sequential(body, *hidden)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return self.body(frames)

    network = {"features_extractor_class": Features, "normalize_images": False, "activation_fn": nn.ReLU}
    network |= {"net_arch": [] if shared == 2 else [256], "share_features_extractor": shared > 0}
    return PPO("MlpPolicy", envs, policy_kwargs=network, seed=seed, gamma=0.99, device="cpu", **settings)


def pong() -> gym.Env:
    """Make Pong as ``configs/pong.yaml`` has it."""
    return atari.pong_up_or_down(atari.pong_stack(gym.make("ALE/Pong-v5", obs_type="grayscale")))


def stable_baselines3(seconds: float, shared: int) -> dict[str, Any]:
    """Train PPO of Stable-Baselines3 on the same frames; ``shared`` as for :func:`sb3_ppo`."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecEnvWrapper

    from tests.benchmarks.peers import sb3_callback

    clocks = Clocks()

    class Timed(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            return self.venv.step_wait()

    atari.register()
    envs = Timed(make_vec_env(pong, n_envs=ENVS, seed=0))
    for name in ("reset", "step_wait"):
        clocks.put(envs, name, ENV)
    algorithm = sb3_ppo(envs, shared, n_steps=1024, batch_size=MINIBATCH, n_epochs=1)
    meter = Meter(seconds, 10**9, float("inf"))
    algorithm.learn(total_timesteps=10**9, callback=sb3_callback(meter))
    return {**meter.result(), "env_seconds": clocks.seconds[ENV]}


def ten_games(options: list[str]) -> dict[str, Any]:
    """Learn from ten whole games once."""
    limits = ["--data.num_envs", "10", "--data.episodes_per_update", "10", "--trainer.max_steps", "1"]
    started = time.perf_counter()
    with redirect_stdout(sys.stderr):
        summary = fit([*options, *limits])
    return {"timesteps": summary["timesteps"], "seconds": time.perf_counter() - started}


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": ours,
    "ours-gradient": lambda seconds: ours(seconds, ["--model.direction", "Gradient"]),
    "sb3-0": lambda seconds: stable_baselines3(seconds, shared=0),
    "sb3-1": lambda seconds: stable_baselines3(seconds, shared=1),
    "sb3-2": lambda seconds: stable_baselines3(seconds, shared=2),
    "pong": lambda _: ten_games(PONG),
    "pong_karpathy": lambda _: ten_games(KARPATHY),
}


def speed(seconds: float, rounds: int) -> None:
    """Print the time per decision, median over the rounds."""
    labels = {
        "ours": "pg_lightning, natural gradient",
        "ours-gradient": "pg_lightning, plain gradient",
        "sb3-1": "Stable-Baselines3 PPO, the same networks",
        "sb3-0": "Stable-Baselines3 PPO, nothing shared",
        "sb3-2": "Stable-Baselines3 PPO, hidden layer shared",
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in labels}
    for number in range(rounds):
        for name, found in runs.items():
            found.append(run := measure("pixels", "--one", name, seconds))
            say(f"round {number}  {name}: {run}")
    rows = []
    for name, label in labels.items():
        rate = statistics.median(run["env_steps"] / run["seconds"] for run in runs[name])
        env = statistics.median(1e6 * run["env_seconds"] / run["env_steps"] for run in runs[name])
        rest = statistics.median(1e6 * (run["seconds"] - run["env_seconds"]) / run["env_steps"] for run in runs[name])
        rows.append([label, f"{rate:,.0f}", f"{env:.0f}", f"{rest:.0f}"])
    print(table(["system", "decisions/s", "environment, µs per decision", "acting and learning, µs"], rows))


def memory() -> None:
    """Print the peak memory of both configurations."""
    rows = []
    for name in ("pong", "pong_karpathy"):
        run = measure("pixels", "--one", name, 0)
        rows.append([f"configs/{name}.yaml", f"{run['timesteps']:,}", f"{run['peak_mib']:,.0f}"])
    print(table(["configuration", "decisions in ten games", "peak memory, MiB"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("--seconds", type=float, default=60, help="of training, for each run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "speed":
        speed(options.seconds, options.rounds)
    else:
        memory()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        answer(CASES[sys.argv[2]](float(sys.argv[3])))
    else:
        main()
