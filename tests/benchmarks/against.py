"""An older commit beside this one, in one interleaved run: ``python -m tests.benchmarks.throughput --against FOLDER``.

Each run is ``python FOLDER/train.py fit`` in a fresh process, so a checkout uses its own package and its own configs.
What is compared is *timesteps learnt from* per second, which both know. Speed depends on the length of episodes, so
that is shown too; with ``--full_length`` the pole never falls, and every episode of both has 500 timesteps.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.common import ENVIRONMENT, ROOT, max_time, mean_length, record, say, table, with_rates

CASES = ("default", "article", "torch-1", "torch-64")
HEADER = [
    *["timesteps learnt from/s", "old", "new", "new / old, median", "range over rounds"],
    *["timesteps per episode, old / new", "env steps/s, old / new"],
]
NEVER_FALLING = "tests.benchmarks.scaling:NeverFalling-v0"

HOUSE = {
    "env": ["--env.id"],
    "article's weights": [
        *["--model.baseline", "pg_lightning.NoBaseline"],
        *["--model.normalization", "pg_lightning.PerEpisode"],
    ],
}
BEFORE_THE_HOUSE = {
    "env": ["--data.env_id"],
    "article's weights": ["--model.advantage", "pg_lightning.StandardizedReturns"],
}
"""Names of options before there was an ``agent.py``."""


def options_of(folder: Path, case: str, full_length: bool) -> list[str]:
    """Return the options of a case for a checkout."""
    names = HOUSE if (folder / "pg_lightning" / "agent.py").is_file() else BEFORE_THE_HOUSE
    config = "article.yaml" if case == "article" else "cartpole.yaml"
    options = ["--config", str(folder / "configs" / config)]
    if case == "torch-1":
        options += ["--data.num_envs", "1", "--data.episodes_per_update", "1", "--optimizer.lr", "0.01"]
        options += names["article's weights"]
    if case.startswith("torch"):
        options += ["--model.policy", "tests.benchmarks.cases.UserPolicy"]
    return options + ([*names["env"], NEVER_FALLING] if full_length else [])


def run(folder: Path, case: str, seed: int, seconds: float, full_length: bool) -> dict[str, Any]:
    """Train a checkout for some seconds; return its counts and rates, or ``{"error": ...}``."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, str(folder / "train.py"), "fit", *options_of(folder, case, full_length)]
        command += [*max_time(seconds), "--stop.threshold", "1e9", "--seed_everything", str(seed)]
        command += ["--trainer.default_root_dir", root]
        done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True)
        if done.returncode:
            return {"error": f"failed: {(done.stderr.strip() or str(done.returncode)).splitlines()[-1]}"}
        summary = json.loads(next(Path(root).glob("**/summary.json")).read_text())
    if "timesteps" not in summary:  # Before the house, env_steps were those learnt from; those taken went uncounted.
        summary |= {"timesteps": summary["env_steps"], "env_steps": 0, "seconds": summary["train_seconds"]}
    return with_rates({name: summary[name] for name in ("env_steps", "timesteps", "episodes", "seconds")})


def row_of(case: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Turn a case's rounds, old and new side by side, into its row of the table."""
    errors = [one["error"] for pair in pairs for one in pair if "error" in one]
    if errors:
        return [case, errors[0], *[""] * (len(HEADER) - 2)]
    ratios = [new["timesteps_per_second"] / old["timesteps_per_second"] for old, new in pairs]
    sides = list(zip(*pairs, strict=True))
    speeds, taken = (
        [statistics.median(one[f"{name}_per_second"] for one in side) for side in sides]
        for name in ("timesteps", "env_steps")
    )
    lengths = [f"{statistics.median(map(mean_length, side)):.0f}" for side in sides]
    return [
        case,
        *(f"{speed:,.0f}" for speed in speeds),
        f"{statistics.median(ratios):.3f}",
        f"{min(ratios):.3f} to {max(ratios):.3f}",
        " / ".join(lengths),
        " / ".join(f"{speed:,.0f}" if speed else "not counted" for speed in taken),
    ]


def compare(folder: Path, cases: list[str], rounds: int, seconds: float, full_length: bool, out: Path | None) -> None:
    """Run the cases of both checkouts, interleaved, the order within a pair alternating; print the table."""
    folder, results = folder.resolve(), {case: list[tuple[dict[str, Any], dict[str, Any]]]() for case in cases}
    for seed in range(rounds):
        for case, pairs in results.items():
            order = [folder, ROOT] if seed % 2 == 0 else [ROOT, folder]
            found = {checkout: run(checkout, case, seed, seconds, full_length) for checkout in order}
            pairs.append((found[folder], found[ROOT]))
            for side, one in zip(("old", "new"), pairs[-1], strict=True):
                record(out, "against.jsonl", {"case": case, "side": side, "round": seed} | one)
                speed = one.get("error") or f"{one['timesteps_per_second']:,.0f} timesteps/s"
                say(f"round {seed + 1}/{rounds}  {case}, {side}: {speed}")
    print(table(HEADER, [row_of(case, pairs) for case, pairs in results.items()]))
