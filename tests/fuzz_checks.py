"""Oracles of the random test: what a run must print, exit with, and leave."""

import csv
import json
import math
import os
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from pg_lightning import Reinforce
from pg_lightning.checkpoint_file import read_checkpoint
from tests.fuzz_cases import EITHER, ERROR, OK, SIGNALS, Case, words
from tests.fuzz_runs import Ended, has_not_ended, run, without_root_rights

SOURCE = re.compile(r"\s+(warnings\.warn|rank_zero_warn|self\.\w+)\(.*|\s*$")
"""Lines that follow a warning."""


class Checks:
    """Runs one case and notes what is wrong."""

    def __init__(self, case: Case, folder: Path, fresh: bool) -> None:
        self.case, self.folder, self.fresh = case, folder, fresh
        self.wrong: list[str] = []

    def expect(self, condition: object, what: str) -> bool:
        """Note what is wrong where a condition does not hold."""
        if not condition:
            self.wrong.append(what)
        return bool(condition)

    def __call__(self) -> list[str]:
        """Run the case; return what is wrong."""
        case = self.case
        if case.kind == "signal":
            ended = self.start(case.words(), during=self.send)
            if case.fault == "SIGKILL":
                self.expect(ended.code == 137, f"exit code {ended.code} after {case.fault}: {ended.err[-300:]}")
            else:
                self.quiet(ended, 128 + SIGNALS[case.fault])
            self.resume(killed=case.fault == "SIGKILL")
            return self.wrong
        if not case.resumed:
            expect, before, more = case.expect, int, {}
            if case.fault == "root is a file":
                (self.folder / "file").write_text("")
                more = {"--trainer.default_root_dir": "file/runs"}
            if case.fault == "full disk":
                before = self.limit_files
            ended = self.start(case.words(**more), before=before)
            if self.ended_as(ended, expect):
                self.finished() if ended.code == 0 else self.failed()
            return self.wrong
        ended = self.start(case.words())
        if not self.quiet(ended, 0) or not self.finished(resumes=False):
            return [f"before the fault: {line}" for line in self.wrong]
        self.break_resumed()
        return self.wrong

    def start(self, arguments: list[str], **moments: Callable) -> Ended:
        """Run ``fit``, and check that no process is left."""
        self.ended = ended = run(["fit", *arguments], self.folder, self.fresh, **moments)
        self.expect(not ended.left, f"{len(ended.left)} processes left behind")
        self.expect(ended.code != 137 or self.case.fault == "SIGKILL", "it hung")
        return ended

    def send(self, pid: int) -> None:
        """Send the signal at a random moment: at any time, or after the first checkpoint."""
        end = time.monotonic() + (60 if self.case.number < 0.6 else 0)
        while time.monotonic() < end and not self.runs() and has_not_ended(pid):
            time.sleep(0.001)
        time.sleep(self.case.number * (4.0 if self.fresh else 0.7))
        os.kill(pid, SIGNALS[self.case.fault])

    def limit_files(self) -> None:
        """Have every write beyond a random size fail, as on a full disk."""
        size = int(10 ** (3.3 + 2 * self.case.number))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def runs(self) -> list[Path]:
        """List the run folders with a checkpoint."""
        found = self.folder.glob("runs/**/checkpoints/*.ckpt")
        return sorted({path.parents[1] for path in found if path.name in ("last.ckpt", "previous.ckpt")})

    # Oracles

    def quiet(self, ended: Ended, code: int) -> bool:
        """Check a good end: exit code, nothing on stderr but expected warnings."""
        lines = [line for line in ended.err.splitlines() if not self.is_allowed(line)]
        good = self.expect(ended.code == code, f"exit code {ended.code}, not {code}: {ended.err.strip()[-700:]}")
        return self.expect(not lines or not good, f"stderr: {' | '.join(lines)[:700]}") and good

    def is_allowed(self, line: str) -> bool:
        """Tell whether a line of stderr belongs to a warning that the options explain."""
        return bool(SOURCE.fullmatch(line)) or any(re.search(pattern, line) for pattern in self.case.allowed)

    def ended_as(self, ended: Ended, expect: str) -> bool:
        """Check an end that may be an error."""
        if expect == OK or (expect == EITHER and ended.code == 0):
            return self.quiet(ended, 0)
        lines = [line for line in ended.err.splitlines() if not self.is_allowed(line)]
        good = self.expect(ended.code == 1, f"exit code {ended.code}, not 1: {ended.err.strip()[-500:]}")
        if good:
            good = self.expect(len(lines) == 1, f"{len(lines)} lines on stderr: {' | '.join(lines)[:900]}")
        if good:
            good = self.expect(lines[0].startswith("error: ") and len(lines[0]) < 900, f"the line is {lines[0][:900]}")
        return self.expect("Traceback" not in ended.out + ended.err, "a traceback was printed") and good

    def failed(self) -> None:
        """Check what a failed first run leaves: nothing, or a run that loads."""
        folders = [path for path in self.folder.glob("runs/*/*") if path.is_dir() and path.parent.name != "errors"]
        self.expect(folders == self.runs(), f"run folders without a checkpoint: {folders}")
        for folder in self.runs():
            self.consistent(folder)

    def finished(self, resumes: bool = True) -> bool:
        """Check the folder of a good run, and that it goes on."""
        if not self.expect(len(self.runs()) == 1, f"run folders: {self.runs()}"):
            return False
        good = self.consistent(self.runs()[0]) and self.ended_rightly(self.runs()[0])
        if good and resumes and self.case.expect == OK:
            self.resume()
        return good

    def ended_rightly(self, folder: Path) -> bool:
        """Check why a run ended, as ``summary.json`` says."""
        summary = json.loads((folder / "summary.json").read_text())
        updates, options = summary["updates"], self.case.options
        reasons = {
            "max_steps": updates == int(options["--trainer.max_steps"]),
            "max_env_steps": summary["env_steps"] >= int(options.get("--stop.max_env_steps", 10**9)),
            "solved": summary["running_reward"] > (summary["threshold"] or 0),
        }
        return self.expect(reasons.get(summary["reason"]), f"ended: {summary}")

    def resume(self, killed: bool = False) -> None:
        """Go on for one more update."""
        for folder in self.runs():
            if killed:
                names = [name for name in ("last.ckpt", "previous.ckpt") if (folder / "checkpoints" / name).exists()]
                step = read_checkpoint(folder / "checkpoints" / names[0])["global_step"]
            elif not self.consistent(folder):
                return
            else:
                step = json.loads((folder / "summary.json").read_text())["updates"]
            rows = (folder / "episodes.csv").read_text()
            more = {"--ckpt_path": str(folder.relative_to(self.folder)), "--trainer.max_steps": str(step + 1)}
            if not self.quiet(self.start(words(more)), 0) or not self.consistent(folder):
                return
            summary = json.loads((folder / "summary.json").read_text())
            if "has already ended" in self.ended.out:
                self.expect(summary["reason"] in ("solved", "max_env_steps"), f"it had not ended: {summary}")
            else:
                self.expect(summary["updates"] == step + 1, f"{summary['updates']} updates, not {step + 1}")
            if not killed:
                self.expect((folder / "episodes.csv").read_text().startswith(rows), "other episodes after resuming")

    def break_resumed(self) -> None:
        """Resume a good run with a fault; what failed changes nothing."""
        case, (folder,) = self.case, self.runs()
        more = {"--ckpt_path": str(folder.relative_to(self.folder)), "--trainer.max_steps": "9"} | case.wrong
        last, previous = (folder / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
        before: Callable = int
        if case.fault.startswith("truncated"):
            last.write_bytes(last.read_bytes()[: int(case.number * last.stat().st_size)])
        if case.fault == "truncated both":
            previous.unlink(missing_ok=True)
        if case.fault == "text for last":
            last.write_text("not a checkpoint")
        if case.fault == "no config":
            (folder / "config.yaml").write_text("a text")
        if case.fault == "full disk":
            before = self.limit_files
        if case.fault == "second run":
            return self.second_run(folder, more)
        folders = [path for path in (folder, *folder.rglob("*")) if path.is_dir()] * (case.fault == "read-only")
        for path in folders:
            path.chmod(0o500)
        kept = contents(folder)
        ended = self.start(words(more), before=without_root_rights if folders else before)
        for path in folders:
            path.chmod(0o700)
        if not self.ended_as(ended, case.expect) or ended.code == 0:
            return
        changed = [
            str(path) for path in kept.keys() | contents(folder).keys() if kept.get(path) != contents(folder).get(path)
        ]
        saved = case.expect == EITHER and self.consistent(folder)  # It may fail in a later update.
        self.expect(not changed or saved, f"a failed resume changed {changed}")
        others = [path for path in folder.parent.iterdir() if path != folder]
        self.expect(not others, f"a failed resume left {others}")

    def second_run(self, folder: Path, more: dict[str, str]) -> None:
        """Resume a run that another process is writing."""
        code = []

        def second(pid: int) -> None:
            while not (folder / ".lock").exists() and has_not_ended(pid):
                time.sleep(0.001)
            subfolder = self.folder / "second"
            subfolder.mkdir()
            arguments = words(
                more | {"--ckpt_path": str(folder), "--trainer.default_root_dir": str(self.folder / "runs")}
            )
            ended = run(["fit", *arguments], subfolder, self.fresh)
            code.append(ended)
            os.kill(pid, signal.SIGTERM)

        first = self.start(words(more | {"--trainer.max_steps": "1000000"}), during=second)
        if self.ended_as(code[0], ERROR):
            self.expect("is being written by another process" in code[0].err, f"the line is {code[0].err}")
        (folder / ".lock").unlink(missing_ok=True)  # Left where the signal came before training; its lock is gone.
        if self.expect(
            first.code == 128 + signal.SIGTERM, f"the first run ended with {first.code}: {first.err[-300:]}"
        ):
            self.consistent(folder)

    def consistent(self, folder: Path) -> bool:
        """Check that a run folder loads, and that its files belong together."""
        found = len(self.wrong)
        try:
            self._consistent(folder)
        except Exception as error:
            self.wrong.append(f"{folder}: {type(error).__name__}: {error} {traceback.format_exc()[-300:]}")
        return len(self.wrong) == found

    def _consistent(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder / "checkpoints/last.ckpt")
        summary = json.loads((folder / "summary.json").read_text())
        episodes = columns(folder / "episodes.csv")
        updates = summary["updates"]
        self.expect(checkpoint["global_step"] == updates, f"last.ckpt {checkpoint['global_step']}, summary {updates}")
        self.expect(episodes["episode"] == list(range(summary["episodes"])), "episodes have gaps")
        share = summary["episodes"] // updates
        wanted = [update for update in range(1, updates + 1) for _ in range(share)]
        self.expect(episodes["update"] == wanted, "the updates of episodes.csv have gaps")
        self.expect(sum(episodes["length"]) == summary["timesteps"] <= summary["env_steps"], f"counts: {summary}")
        agent = checkpoint["callbacks"]["StopAtRewardThreshold"]["settings"]
        value, weight = (0.0, 0.0) if agent["initial"] is None else (agent["initial"], 1.0)
        for number in episodes["return"]:
            value, weight = (agent["decay"] * x + (1 - agent["decay"]) * y for x, y in ((value, number), (weight, 1.0)))
        same = math.isclose(value / weight, summary["running_reward"], rel_tol=1e-6, abs_tol=1e-6)
        self.expect(same, f"running reward {value / weight}, summary {summary['running_reward']}")
        if (folder / "metrics.csv").exists():
            metrics = columns(folder / "metrics.csv")
            losses = metrics.get("loss", [None] * len(metrics["step"]))
            steps = [step for step, loss in zip(metrics["step"], losses, strict=True) if loss is not None]
            every = int(self.case.options["--trainer.log_every_n_steps"])
            due = [step for step in range(1, updates + 1) if step % every == 0]
            due += [updates] * (summary["reason"] is not None)
            good = steps == sorted(set(steps)) and set(due) <= set(steps)
            self.expect(good, f"metrics.csv has the steps {steps}, due were {due}")
            self.expect(metrics["step"] == sorted(metrics["step"]), f"metrics.csv goes back: {metrics['step']}")
        spare = [path for path in folder.rglob("*") if path.suffix == ".tmp" or path.name == ".lock"]
        self.expect(not spare, f"left behind: {spare}")
        agent = Reinforce.load_from_checkpoint(folder / "checkpoints/last.ckpt")
        finite = all(value.isfinite().all() for value in agent.state_dict().values() if isinstance(value, torch.Tensor))
        self.expect(finite, "numbers in the checkpoint that are not finite")


def columns(path: Path) -> dict[str, list[float | None]]:
    """Read the columns of a CSV file of numbers; ``None`` where there is none."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in rows), f"{path} has rows of other lengths"
    words = {"": None, "True": 1.0, "False": 0.0}
    return {name: [words[row[name]] if row[name] in words else float(row[name]) for row in rows] for name in rows[0]}


def contents(folder: Path) -> dict[Path, bytes]:
    """Read every file of a folder, but those that TensorBoard writes on its own."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name}
