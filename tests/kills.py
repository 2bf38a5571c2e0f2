"""Kills runs at random moments, resumes them, and compares with a run that was left alone: bit by bit.

    python -m tests.kills --kills 100
    python -m tests.kills --kills 20 --fresh

A run is ``main(["fit", ...])`` in a process forked from this one, which has imported everything already and tells what
it does just then; or, with ``--fresh``, ``python train.py fit``, of which only is known whether training has begun.
Each kill is a SIGKILL. Exact are those in runs of which each checkpoint and the metrics are those of the uninterrupted
one.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from tests import envs  # noqa: F401 - So that the forked processes need not.
from tests.helpers import ROOT
from tests.watch import PHASES, Watch

SETTINGS = {
    "default, 4 environments": ["--data.num_envs", "4"],
    "validation every 3 updates": [
        *("--data.num_envs", "2", "--data.eval_episodes", "2", "--trainer.limit_train_batches", "7"),
        *("--trainer.val_check_interval", "3", "--trainer.limit_val_batches", "1.0"),
    ],
    "article.yaml": ["--config", str(ROOT / "configs/article.yaml")],
    "own policy with dropout, StepLR": [
        *("--data.num_envs", "3", "--data.episodes_per_update", "5", "--model.policy", "tests.envs.OwnPolicy"),
        *("--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "10"),
    ],
    "normaliser, critic, reward scale, schedules": [
        *("--data.num_envs", "3", "--model.policy", "MLPPolicy", "--model.policy.encoder", "NormalizeObservations"),
        *("--model.returns", "ScaledRewards", "--model.returns.returns", "GAE", "--model.baseline", "Critic"),
        *("--model.direction", "NaturalGradient", "--model.direction.backtracks", "3"),
        *("--model.direction.max_kl", "Linear", "--model.direction.max_kl.initial", "0.02"),
        *("--model.entropy_coef", "Linear", "--model.entropy_coef.initial", "0.01"),
    ],
}
FASTER = {"article.yaml": 4}  # How many times as many updates it takes for a run to last.
COMMON = ["--stop.threshold", "1e9", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


@dataclass
class Tally:
    """What became of the kills of one setting."""

    setting: str
    every_seconds: float
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    runs: int = 0
    resumed: int = 0
    previous: int = 0
    anew: int = 0
    exact: int = 0
    unreadable: int = 0
    lost: int = 0
    too_many_lost: int = 0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> str:
        where = " / ".join(map(str, self.kills.values()))
        parts = [self.setting, f"{self.every_seconds:g}", self.runs, sum(self.kills.values()), where, self.resumed]
        parts += [self.previous, self.anew, self.exact, self.unreadable, self.lost, self.too_many_lost]
        return "| " + " | ".join(map(str, parts)) + " |"


HEADER = (
    f"| setting | `every_seconds` | runs | kills | {' / '.join(PHASES)} | resumed "
    "| of these from `previous.ckpt` | no checkpoint yet, begun anew | exact | unreadable checkpoints "
    "| updates repeated, at most | lost beyond the interval |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def differences(one, other, ignored: set[str], place: str = "") -> list[str]:
    """Name what differs, however deeply nested."""
    pairs = None
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(key, one[key], other[key]) for key in one if key not in ignored]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(index, *pair) for index, pair in enumerate(zip(one, other, strict=True))]
    if pairs is not None:
        return [found for key, *pair in pairs for found in differences(*pair, ignored, f"{place}/{key}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
    else:
        same = type(one) is type(other) and one == other
    return [] if same else [place]


def run_of(folder: Path) -> Path | None:
    """Return the newest of the run folders."""
    return max(folder.glob("runs/*/version_*"), key=lambda path: int(path.name[8:]), default=None)


class Killer:
    """Runs one setting, whole and then in pieces."""

    def __init__(self, name: str, updates: int, chance: random.Random, folder: Path, fresh: bool, writes: bool) -> None:
        self.chance, self.folder, self.updates = chance, folder, updates * FASTER.get(name, 1)
        self.weights = [0, 0, 1] if writes else [1, 6, 3]
        self.arguments = [*SETTINGS[name], *COMMON, "--trainer.max_steps", str(self.updates)]
        self.watch = Watch(self.updates, fresh)
        self.whole = folder / "whole"
        self.copies = self.whole / "copies"
        self.copies.mkdir(parents=True)
        pid = self.watch.start(self.whole, [*self.arguments, "--checkpoint.every_seconds", "0"], self.copies)
        self.seconds = -time.monotonic()
        while not self.watch.phase[0] and os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.01)
        self.start_seconds, began = self.seconds + time.monotonic(), time.monotonic()
        code = os.waitpid(pid, 0)[1] if self.watch.phase[0] else 1
        self.seconds = time.monotonic() - began
        if code:
            raise SystemExit(f"{name}: the uninterrupted run failed: {(self.whole / 'log.txt').read_text()[-2000:]}")

    def kill(self, pid: int, folder: Path) -> None:
        """Wait for a random moment and kill the run if it is still there."""
        kind = self.chance.choices(["start", "random", "write"], self.weights)[0]
        alive = True

        def wait(seconds: float, until=lambda: False) -> None:
            nonlocal alive
            end = time.monotonic() + seconds
            while alive and time.monotonic() < end and not until():
                alive = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
                time.sleep(0.0003)

        wait(self.chance.uniform(0, self.start_seconds))
        if kind != "start":
            wait(60, self.watch.begun)
            wait(self.chance.uniform(0, self.seconds / 5))
        if kind == "write":
            run = run_of(folder)
            wait(60, lambda: (run / "checkpoints/last.ckpt.tmp").exists())
        if alive:
            os.kill(pid, signal.SIGKILL)

    def run(self, every: float, budget: int, tally: Tally) -> int:
        """Do one run, killed as often as the budget allows; return the number of kills."""
        folder = self.folder / f"{every:g}-{tally.runs}"
        folder.mkdir()
        first = [*self.arguments, "--checkpoint.every_seconds", str(every)]
        more = ["--ckpt_path", "last", "--trainer.max_steps", str(self.updates)]
        kills, known, arguments, found = 0, 0, first, len(tally.wrong)
        tally.runs += 1
        while True:
            pid = self.watch.start(folder, arguments)
            if kills < budget:
                self.kill(pid, folder)
            status = os.waitpid(pid, 0)[1]
            if not os.WIFSIGNALED(status):
                break
            kills += 1
            tally.kills[PHASES[int(self.watch.phase[0])]] += 1
            last = run_of(folder) and run_of(folder) / "checkpoints/last.ckpt"
            if last and not last.exists() and (previous := last.with_name("previous.ckpt")).exists():
                last, tally.previous = previous, tally.previous + 1
            if last is None or not last.exists():
                reached, arguments = 0, first
                tally.anew += 1
            else:
                reached, arguments = self.check(last, every, tally), more
                tally.resumed += 1
            lost = self.watch.times[reached + 1 : int(self.watch.done[0]) + 1]
            late = int((lost > self.watch.since[0] + every).sum())
            tally.lost = max(tally.lost, len(lost))
            tally.too_many_lost += max(0, late - 1)  # One may have been about to be saved.
            tally.wrong += [f"{last}: back from update {known} to {reached}"] * (reached < known)
            known = reached
        if os.waitstatus_to_exitcode(status) != 0:
            tally.wrong.append(f"{folder}: ended with {status}: {(folder / 'log.txt').read_text()[-500:]}")
        else:
            self.compare(run_of(folder), every, tally)
        tally.exact += kills * (len(tally.wrong) == found)
        return kills

    def check(self, last: Path, every: float, tally: Tally) -> int:
        """Compare what a killed run left with the uninterrupted one after the same update; return which it is."""
        ignored = {"seconds", "epoch", "loops"} | ({"best"} if every else set())
        update = 0
        for path in [*last.parent.glob("best.ckpt"), last]:
            try:
                checkpoint = torch.load(path, weights_only=True)
                update = checkpoint["global_step"]
            except Exception as error:
                tally.unreadable += 1
                tally.wrong.append(f"{path}: {error!r}")
                continue
            found = differences(checkpoint, torch.load(self.copies / str(update), weights_only=True), ignored)
            tally.wrong += [f"{path}, update {update}: {place}" for place in found]
        return update

    def compare(self, run: Path, every: float, tally: Tally) -> None:
        """Compare what a run left in the end."""
        whole = run_of(self.whole)
        reached = self.check(run / "checkpoints/last.ckpt", every, tally)
        tally.wrong += [f"{run}: reached update {reached} only"] * (reached != self.updates)
        for name in ("metrics.csv", "episodes.csv"):
            if not (run / name).exists() or (run / name).read_bytes() != (whole / name).read_bytes():
                tally.wrong.append(f"{run / name}: differs")
        tally.wrong += [f"{path}: left behind" for path in run.rglob("*") if path.suffix in (".tmp", ".kept")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--per_run", type=int, default=8, help="kills of one run")
    parser.add_argument("--updates", type=int, default=100, help="of one run")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="how many of them")
    parser.add_argument("--every_seconds", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tmpdir", type=Path, help="where the runs are written")
    parser.add_argument("--fresh", action="store_true", help="start each run as python train.py fit")
    parser.add_argument("--writes", action="store_true", help="kill only while a checkpoint is being written")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chance, tallies = random.Random(options.seed), list[Tally]()
    cases = [(name, every) for name in list(SETTINGS)[: options.settings] for every in options.every_seconds]
    with tempfile.TemporaryDirectory(dir=options.tmpdir, prefix="kills-") as folder:
        killers = dict[str, Killer]()
        for index, (name, every) in enumerate(cases):
            left = options.kills // len(cases) + (index < options.kills % len(cases))
            if name not in killers:
                killers[name] = Killer(
                    name, options.updates, chance, Path(folder, str(index)), options.fresh, options.writes
                )
            tallies.append(tally := Tally(name, every))
            while left > 0:
                left -= killers[name].run(every, min(left, options.per_run), tally)
                print(tally.row(), file=sys.stderr, flush=True)
    print(*(wrong for tally in tallies for wrong in tally.wrong), sep="\n", file=sys.stderr)
    print(
        json.dumps([asdict(tally) for tally in tallies])
        if options.json
        else "\n".join([HEADER, *map(Tally.row, tallies)])
    )
    sys.exit(any(tally.wrong or tally.too_many_lost for tally in tallies))


if __name__ == "__main__":
    main()
