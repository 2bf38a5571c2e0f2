"""Engines that run the jobs of a comparison: this machine's cores through joblib, or a Ray cluster."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from pg_lightning.cli.jobs import Job, run_job

_watched = set[int]()
"""Processes that this one ends with."""

Engine = Callable[[Sequence[Job], int], Iterator[dict[str, Any]]]


@contextmanager
def say_how_to_go_on() -> Iterator[None]:
    """Have SIGTERM end the process in order, as Ctrl-C does; after either, say how to go on.

    A KeyboardInterrupt may carry the exit code.
    """
    code = 128 + signal.SIGINT

    def interrupt(number: int, frame: Any) -> NoReturn:
        nonlocal code
        code = 128 + number
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, interrupt) if is_main else None
    try:
        yield
    except KeyboardInterrupt as stopped:
        print("Stopped. What is finished is kept: type the same command again to go on.", file=sys.stderr)
        sys.exit(*(stopped.args or (code,)))
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def on_this_machine(jobs: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Run jobs in processes of this machine, each many of them; yield the rows as they come.

    Raises:
        ImportError: joblib is not installed.
        ChildProcessError: a process was killed.
    """
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError
    except ImportError:
        raise ImportError("compare needs joblib and scipy: pip install 'pg_lightning[compare]'") from None
    parallel = Parallel(n_jobs=workers, backend="loky", batch_size=1, return_as="generator_unordered")
    try:
        yield from parallel(delayed(run_in_worker)(job, os.getpid()) for job in jobs)
    except TerminatedWorkerError:
        raise ChildProcessError(
            "a process that ran a seed was killed, perhaps because memory ran out: type the same command again, with "
            "fewer --workers; what is finished is kept"
        ) from None


def run_in_worker(job: Job, parent: int) -> dict[str, Any]:
    """Run a job; end this process soon after the one that started it, which a kill may have ended without a word."""
    if os.getpid() != parent and parent not in _watched:
        _watched.add(parent)
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    return run_job(job)


def end_with(parent: int, interval: float = 0.5) -> None:
    """Wait until another process is this one's parent, then end."""
    while os.getppid() == parent:
        time.sleep(interval)
    os._exit(1)


def on_ray(jobs: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Run jobs as tasks of the Ray cluster at RAY_ADDRESS, one CPU each; yield the rows as they come.

    This folder and the jobs' must be on a disk that all nodes share. A job whose node died runs again, and goes on from
    its last checkpoint.

    Args:
        jobs: to run.
        workers: not used: the cluster decides.

    Raises:
        ImportError: ray is not installed.
        ValueError: RAY_ADDRESS is not set.
    """
    try:
        import ray
    except ImportError:
        raise ImportError("--on ray needs ray: pip install 'pg_lightning[cluster]'") from None
    if not (address := os.environ.get("RAY_ADDRESS")):
        raise ValueError("--on ray needs the address of a cluster in RAY_ADDRESS, such as auto or 10.0.0.1:6379")
    ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    task = ray.remote(num_cpus=1, max_retries=10)(run_in)
    waiting = [task.remote(os.getcwd(), job) for job in jobs]
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from ray.get(done)


def run_in(folder: str, job: Job) -> dict[str, Any]:
    """Run a job in the folder that its relative paths start from."""
    os.chdir(folder)
    return run_job(job)


ENGINES: dict[str, Engine] = {"here": on_this_machine, "ray": on_ray}
"""Engines by the name that ``--on`` takes."""
