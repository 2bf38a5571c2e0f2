"""``compare``: the runs are those of ``fit``, each is made once, a kill loses nothing, and the figures are right."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pg_lightning.cli import main
from pg_lightning.cli.compare import seeds_of, variants_of
from pg_lightning.cli.jobs import Job, learning_curve
from pg_lightning.statistics import interquartile_mean, probability_of_improvement, share

ROOT = Path(__file__).parents[1]
SMALL = ["--data.num_envs", "2", "--trainer.max_steps", "3", "--stop.confirm_episodes", "0", "--eval_episodes", "4"]
TIMES = {"seconds", "resumed"}


class Breaking(gym.Env):
    """Raises in its first step, if asked to."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault=None):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.fault:
            raise RuntimeError("broken")
        return np.zeros(1, np.float32), 1.0, True, False, {}


gym.register("Breaking-v0", Breaking)


def compare(*words):
    """Run the command in this process, workers apart; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words])
    return ended.value.code


def table(out):
    """Rows of a comparison, without what depends on the clock."""
    with Path(out, "comparison.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    config = str(ROOT / "configs/cartpole.yaml")
    vary = ["--vary", "model.baseline=[NoBaseline,pg_lightning.LeaveOneOut]"]
    words = [config, *vary, "--seeds", "3:5", "--workers", "1", "--out", str(out), *SMALL]
    assert compare(*words) == 0
    return out, words


def test_each_run_is_that_of_fit(done, tmp_path):
    out, _ = done
    rows = table(out)
    assert [(row["name"], row["seed"]) for row in rows] == [
        (f"baseline={name}", seed) for name in ("NoBaseline", "LeaveOneOut") for seed in ("3", "4")
    ]
    alone = ["--seed_everything", "4", "--model.baseline", "NoBaseline", *SMALL[:-2], "--trainer.logger", "false"]
    places = ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    main(["fit", "--config", str(ROOT / "configs/cartpole.yaml"), *alone, *places])
    name = "CartPole-v1/version_0/checkpoints/last.ckpt"
    (run,) = (out / "baseline_NoBaseline/seed_4").iterdir()
    ours, theirs = (torch.load(path / name)["state_dict"] for path in (run, tmp_path))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if isinstance(theirs[key], torch.Tensor))


def test_the_final_evaluation_is_that_of_test(done, capsys):
    out, _ = done
    (run,) = out.glob("baseline_LeaveOneOut/seed_3/*/CartPole-v1/version_0")
    main(["test", "--ckpt_path", str(run), "--data.eval_episodes", "4", "--trainer.enable_progress_bar", "false"])
    report = json.loads((run / "evaluation.json").read_text())
    row = next(row for row in table(out) if row["name"] == "baseline=LeaveOneOut" and row["seed"] == "3")
    assert float(row["sampled_mean"]) == report["sampled"]["mean"]
    assert float(row["greedy_mean"]) == report["greedy"]["mean"]


def test_a_finished_run_is_not_run_again_by_its_row_alone(done):
    out, words = done
    run = out / "baseline_NoBaseline/seed_3"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("seed_*.json")}
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert compare(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("seed_*.json")} == before
    assert not list(run.rglob("*.ckpt"))


def test_another_configuration_is_run_anew(done):
    out, words = done
    rows = table(out)
    assert compare(*words, "--model.gamma", "0.9") == 0
    again = table(out)
    assert all(one["config_hash"] != other["config_hash"] for one, other in zip(rows, again, strict=True))
    assert len({row["config_hash"] for row in again}) == 2
    gammas = [torch.load(path)["hyper_parameters"]["gamma"] for path in out.rglob("seed_4/*/*/*/checkpoints/last.ckpt")]
    assert sorted(gammas) == [0.9, 0.9, 0.99, 0.99]


def test_the_figures_are_drawn(done):
    out, _ = done
    assert {path.name for path in out.rglob("*.png")} == {"learning_curves.png", "final_returns.png"}  # None in runs.
    for name in ("learning_curves.png", "final_returns.png"):
        image = imread(out / name)
        assert image.shape[1] > 700 and image[..., :3].std() > 0.05
    text = (out / "comparison.md").read_text()
    assert "2 seeds are few" in text and re.search(r"\| baseline=NoBaseline \| 2 \| [\d,]+ \| 0 of 2 \|", text)
    assert "Made by `python train.py compare " in text


def test_a_run_that_fails_does_not_end_the_others(tmp_path, capfd):
    words = ["--vary", "env.kwargs.fault=[null,raise]", "--env.id", "tests.test_compare:Breaking-v0", "--seeds", "1"]
    assert compare(*words, "--out", str(tmp_path), "--workers", "1", *SMALL) == 1
    printed = capfd.readouterr()
    assert "fault=raise, seed 0: error: Breaking-v0, update 0, step 0: the environment failed" in printed.err
    assert [row["name"] for row in table(tmp_path)] == ["fault=null"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "x"], "--seeds must be a number or a range such as 1000:1010, not 'x'"),
        (["--seeds", "5:5"], "--seeds 5:5 names no seed"),
        (["--vary", "model.gamma"], "--vary needs an option and its values"),
        (["--vary", "model.gamma=[0.9"], "--vary cannot read the values"),
        (["--vary", "model.gama=0.9,0.99"], "there is no option --model.gama; did you mean --model.gamma"),
        (["--vary", "model.gamma=2"], "gamma must be from 0 to 1, not 2"),
        (["missing.yaml"], "missing.yaml"),
        (["--workers", "x"], "compare: argument --workers: invalid int value: 'x'"),
        (["--on", "moon"], "compare: argument --on: invalid choice: 'moon'"),
        (["--on", "ray", "--seeds", "1"], "--on ray needs ray: pip install 'pg_lightning[cluster]'"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_runs(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    code = compare(*words)
    assert isinstance(code, str) and code.startswith("error: ") and message in code and "\n" not in code
    assert not list(tmp_path.rglob("seed_*"))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    code = compare("--out", str(tmp_path), "--seeds", "1", *SMALL)
    assert code == "error: compare needs joblib and scipy: pip install 'pg_lightning[compare]'"


def start(out, workers="2", stderr=subprocess.DEVNULL):
    """Start a comparison whose runs take a second or two each, in a process group of its own."""
    words = [str(ROOT / "configs/article.yaml"), "--seeds", "4", "--workers", workers, "--out", str(out)]
    words += ["--trainer.max_steps", "250", "--checkpoint.every_seconds", "0.1", "--eval_episodes", "4"]
    command = [sys.executable, str(ROOT / "train.py"), "compare", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, text=True, cwd=ROOT)


def children(pid):
    """Processes that a process has started, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            found += [child, *children(child)]
    return found


@pytest.mark.slow
def test_a_comparison_that_is_killed_three_times_ends_with_the_same_table(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    for rows in range(1, 4):
        process = start(killed)
        while not (len(list(killed.rglob("seed_*.json"))) >= rows and list(killed.rglob("last.ckpt"))):
            assert process.poll() is None
            time.sleep(0.02)
        workers = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 5
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "a worker outlived its parent by 5 s"
            time.sleep(0.05)
    process = start(killed)
    assert process.wait() == 0
    assert table(killed) == table(whole)
    with (killed / "comparison.csv").open(newline="") as file:
        assert "True" in {row["resumed"] for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("found", ["last.ckpt", "output.txt"])
def test_sigterm_says_how_to_go_on_and_nothing_else(workers, found, tmp_path):
    """In training, and while a run starts; with one worker a run is in the process itself."""
    process = start(tmp_path, workers, stderr=subprocess.PIPE)
    while not list(tmp_path.rglob(found)):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    error = process.communicate()[1]
    assert process.returncode == 143
    assert error == "Stopped. What is finished is kept: type the same command again to go on.\n"


def test_another_comparison_in_the_same_folder_is_told(tmp_path, capsys):
    assert compare("--seeds", "1", "--workers", "1", "--out", str(tmp_path), *SMALL) == 0
    assert "held" not in capsys.readouterr().err
    assert compare("--seeds", "2", "--workers", "1", "--out", str(tmp_path), *SMALL) == 0
    told = capsys.readouterr()
    assert "held" not in told.err and "1 of 2 runs are finished already" in told.out
    assert compare("--seeds", "1", "--workers", "1", "--out", str(tmp_path), "--vary", "model.gamma=0.5", *SMALL) == 0
    assert f"{tmp_path} held a comparison of defaults: its table will be replaced" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_a_signal_ended_is_not_finished(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "compare", str(ROOT / "configs/article.yaml"), "--seeds", "1"]
    command += ["--workers", "1", "--out", str(tmp_path), "--trainer.max_steps", "100", "--eval_episodes", "4"]
    slow = ["--checkpoint.every_seconds", "0.1"]
    with subprocess.Popen([*command, *slow], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.rglob("last.ckpt")):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        assert process.wait() != 0
    assert not list(tmp_path.rglob("seed_0.json"))
    assert subprocess.run([*command, *slow], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    assert table(tmp_path)[0]["updates"] == "100"


def test_names_and_ranges():
    assert list(seeds_of("1000:1003")) == [1000, 1001, 1002]
    variants = variants_of(["a.yaml", "b.yaml"], ["model.gamma=0.9,1"])
    assert list(variants) == ["a, gamma=0.9", "a, gamma=1", "b, gamma=0.9", "b, gamma=1"]
    part = variants_of([], ["model.baseline=[{class_path: pg_lightning.Critic, init_args: {lr: 0.1}}]"])
    assert list(part) == ["baseline=Critic(lr=0.1)"]


@pytest.mark.parametrize(
    ("vary", "fit", "expected"),
    [
        ("model.returns.gae_lambda=0.3", "--model.returns GAE", "--model.returns GAE --model.returns.gae_lambda 0.3"),
        ("model.baseline=Critic", "--model.baseline.lr 0.1", "--model.baseline Critic --model.baseline.lr 0.1"),
        ("model.gamma=0.5", "--model.gamma 0.9 --name a", "--model.gamma 0.9 --name a --model.gamma 0.5"),
        (
            "model.baseline=Critic",
            "-c d.yaml --model.baseline.lr=-1",
            "-c d.yaml --model.baseline Critic --model.baseline.lr=-1",
        ),
        ("optimizer.lr=0.1", "--optimizer SGD --optimizer.lr 1", "--optimizer SGD --optimizer.lr 1 --optimizer.lr 0.1"),
    ],
)
def test_options_of_all_runs_meet_those_that_are_varied_whichever_chooses_the_class(vary, fit, expected):
    (words,) = variants_of(["c.yaml"], [vary], fit.split()).values()
    assert words == ["--config", "c.yaml", *expected.split()]


def test_a_learning_curve_is_the_mean_of_the_last_100_episodes(tmp_path):
    returns = np.arange(300.0)
    rows = [f"{index},{index // 10 + 1},{value},1,False" for index, value in enumerate(returns)]
    (tmp_path / "episodes.csv").write_text("episode,update,return,length,truncated\n" + "\n".join(rows) + "\n")
    times = [f"{update},{update * 10},{update / 2}" for update in range(1, 31)]
    (tmp_path / "times.csv").write_text("update,env_steps,seconds\n" + "\n".join(times) + "\n")
    curve = learning_curve(tmp_path)
    assert curve["episodes"] == [10.0 * update for update in range(1, 31)]
    expected = [returns[max(0, count - 100) : count].mean() for count in range(10, 301, 10)]
    assert curve["return_mean"] == pytest.approx(expected, rel=1e-12) and curve["seconds"][-1] == 15.0


def test_the_statistics_are_those_of_the_formulas():
    assert interquartile_mean(range(100)).value == 49.5
    assert share(10, 10).low == pytest.approx(1 / (1 + 1.959964**2 / 10), rel=1e-6)  # Wilson's, in closed form.
    assert probability_of_improvement([1, 2, 3], [2, 2]).value == 0.5
    assert probability_of_improvement([1, 1, 1, 3, 3], [2] * 5).low == 0.0
    assert math.isnan(probability_of_improvement([1, 3, 4, 5], [2] * 5).low)
    assert math.isnan(interquartile_mean([1, 2]).low)
    rng = np.random.default_rng(1)
    covered = [
        estimate.low <= 0.5 <= estimate.high
        for estimate in (probability_of_improvement(*rng.normal(size=(2, 10))) for _ in range(200))
    ]
    assert 0.88 < np.mean(covered) < 0.99


def test_a_row_that_was_cut_off_is_no_row(tmp_path):
    job = Job("a", (), 0, str(tmp_path), "hash", 4)
    job.row_path.write_text('{"config_hash": "ha')
    assert job.finished_row() is None
    job.row_path.write_text('{"config_hash": "other"}')
    assert job.finished_row() is None
