"""What grows: time per update over a long run, and peak memory with the timesteps of an update.

    python -m tests.benchmarks.scaling updates --updates 20000
    python -m tests.benchmarks.scaling memory

``updates``: one episode of 5 timesteps per update; medians per 1,000 updates, and the peak memory by then. Nothing that
is kept may make them rise. ``memory``: an environment like CartPole-v1 whose pole never falls, up to 2,000,000
timesteps in one update, each point in a fresh process; the slope is fitted by least squares.
"""

import argparse
import json
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from pytorch_lightning.callbacks import Callback

from tests.benchmarks.common import CARTPOLE, answer, measure, record, say, table

BLOCK = 1000
"""Updates that share a row."""

BATCHES = (1, 4, 8, 16, 32, 63)
"""Episodes of each of the 64 environments in an update: up to 63 x 64 x 500 = 2,016,000 timesteps."""

POLICIES = {"default": [], "dropout": ["--model.policy.dropout", "0.6"]}


def _never_falling(make: Any, **kwargs: Any) -> Any:
    env = make(**kwargs)
    env.theta_threshold_radians = env.x_threshold = np.inf
    return env


if "NeverFalling-v0" not in gym.registry:  # This file is imported twice where it is the command, too.
    gym.register(
        "NeverFalling-v0",
        entry_point=partial(_never_falling, CartPoleEnv),
        vector_entry_point=partial(_never_falling, CartPoleVectorEnv, max_episode_steps=500),
        max_episode_steps=500,
    )


class Stopwatch(Callback):
    """Notes when each update ended, and the peak memory by then; prints medians per block of updates."""

    def on_train_start(self, *_: Any) -> None:
        self.times, self.memory = [time.perf_counter()], list[int]()

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) % BLOCK == 1:
            self.memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)  # KiB on Linux.

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        blocks = 1e6 * np.diff(self.times)[: len(self.memory) * BLOCK].reshape(-1, BLOCK)
        medians = {"microseconds": np.median(blocks, axis=1).round().tolist(), "peaks_mib": self.memory}
        Path(trainer.default_root_dir, "stopwatch.json").write_text(json.dumps(medians))


def fit_updates(updates: int) -> dict[str, Any]:
    """Train on episodes of 5 timesteps, one per update; return what the stopwatch noted."""
    import tempfile

    from pg_lightning.cli import main
    from tests.benchmarks.cases import with_envs

    with tempfile.TemporaryDirectory() as folder:
        run = ["--env.max_episode_steps", "5", "--trainer.max_steps", str(updates)]
        run += ["--trainer.default_root_dir", folder, "--trainer.callbacks", "tests.benchmarks.scaling.Stopwatch"]
        main(["fit", *with_envs(1), *run])
        return json.loads(next(Path(folder).glob("**/stopwatch.json")).read_text())


def fit_memory(policy: str, episodes: int) -> dict[str, Any]:
    """Train two updates of so many episodes of 500 timesteps."""
    from tests.benchmarks.cases import fit

    data = ["--env.id", "tests.benchmarks.scaling:NeverFalling-v0", "--data.episodes_per_update", str(episodes)]
    return fit([*CARTPOLE, *data, *POLICIES[policy], "--trainer.max_steps", "2", "--stop.threshold", "1e9"])


def updates(options: argparse.Namespace) -> None:
    """Measure the time per update and show it."""
    result = measure("scaling", "fit", "updates", options.updates)
    if "error" in result:
        sys.exit(result["error"])
    record(options.out, "updates.jsonl", result)
    blocks = enumerate(zip(result["microseconds"], result["peaks_mib"], strict=True), start=1)
    rows = [[f"{BLOCK * number:,}", f"{median:.0f}", peak] for number, (median, peak) in blocks]
    print(table(["after updates", "microseconds per update", "peak MiB"], rows))


def memory(options: argparse.Namespace) -> None:
    """Measure the peak memory and show it with its slope."""
    rows = []
    for policy in POLICIES:
        timesteps, peaks = [], []
        for batch in BATCHES[: options.points]:
            result = measure("scaling", "fit", policy, 64 * batch)
            if "error" in result:
                sys.exit(result["error"])
            timesteps.append(500 * 64 * batch)
            peaks.append(result["peak_mib"])
            record(options.out, "memory.jsonl", {"policy": policy, "timesteps": timesteps[-1], "peak_mib": peaks[-1]})
            say(f"{policy}: {timesteps[-1]:,} timesteps, {peaks[-1]:.0f} MiB")
            rows.append([policy, f"{timesteps[-1]:,}", f"{peaks[-1]:.0f}", ""])
        slope, _ = np.polyfit(timesteps, peaks, 1)
        rows[-1][-1] = f"{slope * 2**20:.0f}"
    print(table(["policy", "timesteps per update", "peak MiB", "slope, bytes per timestep"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for command in (updates, memory):
        subparser = commands.add_parser(command.__name__, help=(command.__doc__ or "").strip())
        subparser.set_defaults(run=command)
        subparser.add_argument("--out", type=Path, help=f"folder for {command.__name__}.jsonl")
        if command is updates:
            subparser.add_argument("--updates", type=int, default=20_000)
        else:
            subparser.add_argument("--points", type=int, default=len(BATCHES), help="how many sizes, smallest first")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["fit"]:  # Called by the commands, in a fresh process.
        torch.set_num_threads(1)
        answer(fit_updates(int(sys.argv[3])) if sys.argv[2] == "updates" else fit_memory(sys.argv[2], int(sys.argv[3])))
    else:
        main()
