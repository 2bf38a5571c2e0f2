"""EnvPool against Gymnasium's sync backend, end to end: steps per second with learning.

    python -m tests.benchmarks.backends --rounds 3

The same number of updates for each, so that both are measured at about the same stage of learning. Needs
``pip install 'pg_lightning[bench]'``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.common import answer, measure, median, record, say, table

ENV_IDS = ("LunarLander-v3", "Acrobot-v1")
BACKENDS = ("sync", "envpool")
HEADER = ["timesteps learnt from/s", *BACKENDS, "ratio", "env steps taken/s", "timesteps per episode"]


def fit(env_id: str, backend: str, num_envs: str, updates: str, seed: str) -> dict[str, Any]:
    """Train in this process; return the run's summary."""
    from tests.benchmarks.cases import fit, with_envs

    data = ["--env.id", env_id, "--data.backend", backend]
    limits = ["--trainer.max_steps", updates, "--stop.threshold", "1e9", "--seed_everything", seed]
    return fit([*with_envs(int(num_envs)), *data, *limits])


def row_of(env_id: str, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Turn both backends' runs on an environment into a row of the table."""
    errors = [run["error"] for backend in BACKENDS for run in runs[backend] if "error" in run]
    if errors:
        return [env_id, errors[0], *[""] * (len(HEADER) - 2)]
    learnt, taken = (
        [median(runs[backend], f"{name}_per_second") for backend in BACKENDS] for name in ("timesteps", "env_steps")
    )
    lengths = [median(runs[backend], "timesteps") / median(runs[backend], "episodes") for backend in BACKENDS]
    speeds = [f"{speed:,.0f}" for speed in learnt]
    pairs = [" / ".join(f"{number:,.0f}" for number in numbers) for numbers in (taken, lengths)]
    return [env_id, *speeds, f"{learnt[1] / learnt[0]:.2f}", *pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--out", type=Path, help="folder for backends.jsonl")
    options = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, Any]]]] = {
        env_id: {backend: [] for backend in BACKENDS} for env_id in ENV_IDS
    }
    for seed in range(options.rounds):
        for env_id in ENV_IDS:
            for backend in BACKENDS:
                run = measure("backends", env_id, backend, options.num_envs, options.updates, seed)
                results[env_id][backend].append(run)
                record(options.out, "backends.jsonl", {"env_id": env_id, "backend": backend, "round": seed} | run)
                say(f"round {seed + 1}  {env_id}, {backend}: {run.get('error') or run['timesteps_per_second']}")
    print(table(HEADER, [row_of(env_id, runs) for env_id, runs in results.items()]))


if __name__ == "__main__":
    if len(sys.argv) == 6 and not sys.argv[1].startswith("-"):  # Called by main(), in a fresh process.
        torch.set_num_threads(1)
        answer(fit(*sys.argv[1:]))
    else:
        main()
