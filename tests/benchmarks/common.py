"""What the benchmarks share: a fresh process per measurement, the article's rule for peers, tables.

Every measurement answers with the env steps that were *taken* and the timesteps that were *learnt from*. They differ
where environments step on while others still owe an episode: up to 2.3 times early in a run with 64 of them.
"""

import importlib.util
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CARTPOLE = ["--config", str(ROOT / "configs" / "cartpole.yaml")]
"""The default of the benchmarks."""

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    **dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1"),
}
"""Of every measured process: one thread each, and compiled modules kept, as a user has them after a first run."""


class Over(Exception):
    """Ends a peer's training where it offers no way to ask for that."""


class Watch:
    """Counts what a peer does, and tells when its training is over: after some seconds, or solved.

    Solved is the article's rule: the running reward, 0.99 old + 0.01 new from 10, exceeds 475. Peers learn from every
    step that they take.

    Args:
        seconds: after which training is over.
        until_solved: whether it is over once solved, too.
    """

    def __init__(self, seconds: float, until_solved: bool) -> None:
        self.limit, self.until_solved = seconds, until_solved
        self.env_steps = self.episodes = 0
        self.running_reward, self.solved = 10.0, False
        self.started = time.perf_counter()

    def saw(self, env_steps: int, episode_returns: Iterable[float]) -> None:
        """Count steps of the environments, and the episodes that ended in them."""
        self.env_steps += env_steps
        for episode_return in episode_returns:
            self.episodes += 1
            self.running_reward = 0.99 * self.running_reward + 0.01 * episode_return
            self.solved |= self.running_reward > 475

    @property
    def over(self) -> bool:
        """Whether training is over."""
        return time.perf_counter() - self.started > self.limit or (self.until_solved and self.solved)

    def result(self) -> dict[str, Any]:
        """Say what was counted, with the keys that every case answers with."""
        seconds = time.perf_counter() - self.started
        counts = {"env_steps": self.env_steps, "timesteps": self.env_steps, "episodes": self.episodes}
        return {**counts, "seconds": seconds, "solved": self.solved}


def with_rates(result: dict[str, Any]) -> dict[str, Any]:
    """Add the steps per second, taken and learnt from."""
    names = ("env_steps", "timesteps")
    return result | {f"{name}_per_second": result[name] / result["seconds"] for name in names}


def mean_length(result: dict[str, Any]) -> float:
    """Return the mean length of a result's episodes in timesteps; without learning, of those that were played."""
    return (result["timesteps"] or result["env_steps"]) / max(result["episodes"], 1)


def answer(result: dict[str, Any]) -> None:
    """Print a measured process's result, and its peak memory (ru_maxrss is in KiB on Linux, in bytes on macOS)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(json.dumps(result | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}))


def measure(module: str, *arguments: Any) -> dict[str, Any]:
    """Run a module of this package in a fresh process; return what it answered, or ``{"error": ...}``."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return {"error": f"failed: {(done.stderr.strip() or str(done.returncode)).splitlines()[-1]}"}


def max_time(seconds: float) -> list[str]:
    """Return the options with which training ends after so many seconds, solved or not."""
    limit = time.strftime("00:%H:%M:%S", time.gmtime(round(seconds)))
    return ["--trainer.max_steps", "-1", "--trainer.max_time", limit]


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def machine() -> str:
    """Name the processor and its number of cores, for a figure."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def say(text: str) -> None:
    """Show progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def record(out: Path | None, name: str, row: dict[str, Any]) -> None:
    """Append a row to a file of JSON lines in the output folder, if there is one."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / name).open("a") as file:
            file.write(json.dumps(row) + "\n")


def median(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Return the median of a key over rows."""
    return statistics.median(row[key] for row in rows)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
