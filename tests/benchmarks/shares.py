"""Shares of the wall clock of training, part by part, and the rate of the same actions without learning.

    python -m tests.benchmarks.shares --env HalfCheetah-v5 --num_envs 16 --backend envpool
    python -m tests.benchmarks.shares --env CartPole-v1 --num_envs 64 --config configs/cartpole.yaml

Every further option is handed to ``train.py fit``. The clocks are put around the package's functions from here; time
within a part that has a clock of its own counts there alone, and two readings of the clock, 0.1 µs, are part of each
call. All calls of the environments (resets with their seeds, steps with their actions) are recorded and then replayed
on environments made anew: their rate is the limit for this very run.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import torch

import pg_lightning.agent
import pg_lightning.sampling.dataset
from pg_lightning import Environment, EpisodeSampler, Reinforce
from pg_lightning.callbacks.checkpoint import RunCheckpoint
from pg_lightning.fitted import Fitted
from pg_lightning.tree import tree_leaves, tree_map
from tests.benchmarks.cases import fit
from tests.benchmarks.common import max_time, table

ENV, ACTING, KEEPING = "env step and reset", "acting", "keeping and packing the steps"
METHODS = (
    (EpisodeSampler, "sample", KEEPING),
    (Reinforce, "estimate", "estimate: returns, values, advantages"),
    (Reinforce, "training_step", "learning pass"),
    (Reinforce, "on_before_optimizer_step", "direction"),
    (Reinforce, "optimizer_step", "optimizer step"),
    (Reinforce, "log_update", "loggers"),
    (RunCheckpoint, "save", "checkpoints"),
    (pg_lightning.agent, "measure_step", "measures of the step"),
)
OTHER = "other: Lightning, callbacks, progress bar"


class Clocks:
    """Seconds spent in named parts, without those spent in parts inside of them."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)
        self._inner: list[float] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same, and whose time counts for the part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - started
                self.seconds[part] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        return timed

    def put(self, owner: Any, name: str, part: str) -> None:
        """Put a clock around a function of a class, a module or an object."""
        setattr(owner, name, self.timed(part, getattr(owner, name)))


class Recording:
    """Calls of vector environments in the order in which they came, to be made once more.

    Attributes:
        make: makes the same environments anew.
        last: what the last step returned.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.make: Callable[[], Any] | None = None
        self.last: Any = None

    def start(self, envs: Any) -> None:
        """Record the resets and steps of some environments from now on."""
        reset, step = envs.reset, envs.step

        def recorded_reset(**kwargs: Any) -> Any:
            options = tree_map(np.copy, kwargs.get("options") or {})
            self.calls.append(("reset", kwargs | ({"options": options} if options else {})))
            return reset(**kwargs)

        def recorded_step(actions: Any) -> Any:
            self.calls.append(("step", tree_map(np.copy, actions)))
            self.last = step(actions)
            return self.last

        envs.reset, envs.step = recorded_reset, recorded_step

    def replay(self, envs: Any) -> float:
        """Make the calls again; return the seconds that they took.

        Raises:
            RuntimeError: the environments did not do the same again.
        """
        result, started = None, time.perf_counter()
        for name, argument in self.calls:
            if name == "step":
                result = envs.step(argument)
            else:
                envs.reset(**argument)
        seconds = time.perf_counter() - started
        for first, second in zip(tree_leaves(self.last[0]), tree_leaves(result[0]), strict=True):  # type: ignore[index]
            if not np.array_equal(first, second):
                raise RuntimeError("the replayed environments came to other observations")
        return seconds


def install(clocks: Clocks, recording: Recording) -> None:
    """Put clocks around the parts of the package, and record what is asked of the training environments."""
    for owner, name, part in METHODS:
        clocks.put(owner, name, part)
    for kind in subclasses(Fitted):
        if "fit" in vars(kind):
            clocks.put(kind, "fit", "critic fit" if kind.order else "running statistics")
    make_actor, make_vector = pg_lightning.sampling.dataset.make_actor, Environment.make_vector

    def timed_actor(*args: Any, **kwargs: Any) -> Any:
        actor = make_actor(*args, **kwargs)
        for name in ("begin", "act", "to_env", "record"):
            clocks.put(actor, name, ACTING)
        return actor

    def timed_envs(environment: Environment, *args: Any, **kwargs: Any) -> Any:
        envs = make_vector(environment, *args, **kwargs)
        recording.make = partial(make_vector, environment, *args, **kwargs)
        recording.start(envs)
        for name in ("reset", "step"):
            clocks.put(envs, name, ENV)
        return envs

    pg_lightning.sampling.dataset.make_actor = timed_actor
    Environment.make_vector = timed_envs  # type: ignore


def subclasses(kind: type) -> list[Any]:
    """List all classes derived from a class."""
    children: list[Any] = kind.__subclasses__()
    return children + [one for child in children for one in subclasses(child)]


def report(clocks: Clocks, summary: dict[str, Any], replayed: float) -> None:
    """Print the table of shares, and the rates with and without learning."""
    wall, steps = summary["seconds"], summary["env_steps"]
    parts = dict(sorted(clocks.seconds.items(), key=lambda item: -item[1])) | {
        OTHER: wall - sum(clocks.seconds.values())
    }
    rows = [
        [part, f"{seconds:.2f}", f"{100 * seconds / wall:.1f}", f"{1e6 * seconds / steps:.2f}"]
        for part, seconds in parts.items()
    ]
    rows.append(["all", f"{wall:.2f}", "100.0", f"{1e6 * wall / steps:.2f}"])
    print(table(["part", "seconds", "% of wall clock", "µs per env step"], rows))
    outside = wall - clocks.seconds[ENV]
    print(
        f"\nlearning, all but env step and reset: {100 * outside / wall:.1f} % of the wall clock; "
        f"{summary['updates']:,} updates, {summary['episodes']:,} episodes"
    )
    print(
        f"env steps taken/s: {steps / wall:,.0f} with learning, {steps / replayed:,.0f} for the same actions replayed "
        f"({100 * replayed / wall:.0f} %); timesteps learnt from/s: {summary['timesteps'] / wall:,.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5", help="Gymnasium id")
    parser.add_argument("--num_envs", type=int, default=16, help="also the episodes per update")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seconds", type=float, default=30, help="of training")
    options, further = parser.parse_known_args()
    clocks, recording = Clocks(), Recording()
    install(clocks, recording)
    number = str(options.num_envs)
    data = ["--data.num_envs", number, "--data.episodes_per_update", number, "--data.backend", options.backend]
    limits = [*max_time(options.seconds), "--stop.threshold", "1e9"]
    with redirect_stdout(sys.stderr):
        summary = fit([*further, "--env.id", options.env, *data, *limits])
    assert recording.make is not None
    envs = recording.make()
    print(f"{options.env}, {number} environments, backend {envs.backend}, torch threads: {torch.get_num_threads()}\n")
    report(clocks, summary, recording.replay(envs))


if __name__ == "__main__":
    main()
