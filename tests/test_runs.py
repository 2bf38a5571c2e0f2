"""Run folders and checkpoints: what fails changes nothing, what resumes is exact, what is read is data.

Each test is named after the row of the findings that it closes.
"""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import Callback

from pg_lightning.callbacks.checkpoint import RunCheckpoint
from pg_lightning.cli import main
from pg_lightning.cli.runs import RunFolder, folder_name
from pg_lightning.plotting import title
from tests.helpers import ROOT

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--lines.every_n_episodes", "0"]
LONG = [*QUIET, "--stop.threshold", "1e9", "--env.max_episode_steps", "10"]
FEW = [*LONG, "--data.num_envs", "2", "--checkpoint.every_seconds", "0"]
RUN = Path("runs/CartPole-v1/version_0")
HEALTHY = ["--env.id", "tests.envs:Broken-v0", "--env.kwargs", '{"what": "nothing"}']
BROKEN = Path("runs/tests.envs_Broken-v0/version_0")
FIT = [sys.executable, str(ROOT / "train.py"), "fit"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def error(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, str) and "\n" not in ended.value.code
    return ended.value.code


def checkpoint(run=RUN, name="last"):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def rows(run, name):
    return list(csv.DictReader((run / name).read_text().splitlines()))


def updates_of(run):
    """The updates in metrics.csv and in episodes.csv, each once."""
    return [int(row["step"]) for row in rows(run, "metrics.csv")], list(
        dict.fromkeys(int(row["update"]) for row in rows(run, "episodes.csv"))
    )


def forked(arguments, patch=lambda: None):
    """Run the command line in a forked process; return how that ended."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            patch()
            main(list(arguments))
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


# B: runs, resume, data


def test_B1_failed_resume_changes_nothing():
    main(["fit", *FEW, *HEALTHY, "--trainer.max_steps", "2"])
    before = content(BROKEN)
    broken = ["--env.kwargs", '{"what": "rewards"}', "--trainer.max_steps", "9"]
    assert "rewards that are not finite" in error("fit", "--ckpt_path", "last", *broken)
    assert "unexpected keyword argument 'foo'" in error("fit", "--ckpt_path", "last", "--env.kwargs", '{"foo": 1}')
    assert content(BROKEN) == before
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "3"])
    assert updates_of(BROKEN) == ([1, 2, 3], [1, 2, 3])


def test_B1_a_resume_that_begins_moves_all_files_together():
    main(["fit", *FEW, "--trainer.max_steps", "2"])

    def kill_after_first_save():
        save = RunCheckpoint.save

        def saved(self, trainer):
            save(self, trainer)
            os.kill(os.getpid(), signal.SIGKILL)

        RunCheckpoint.save = saved

    resume = ["fit", "--ckpt_path", "last", "--trainer.max_steps", "9", "--stop.min_episodes", "7"]
    assert os.WTERMSIG(forked(resume, kill_after_first_save)) == signal.SIGKILL
    assert checkpoint()["global_step"] == 3 and updates_of(RUN) == ([1, 2, 3], [1, 2, 3])
    assert yaml.safe_load((RUN / "config.yaml").read_text())["stop"]["min_episodes"] == 7
    assert json.loads((RUN / "summary.json").read_text())["updates"] == 3


def test_B2_resume_from_an_older_checkpoint_opens_a_new_version():
    main(["fit", *FEW, "--trainer.max_steps", "5"])
    older = (RUN / "checkpoints/last.ckpt").read_bytes()
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "8"])
    (RUN / "checkpoints/best.ckpt").write_bytes(older)
    before, new = content(RUN), RUN.with_name("version_1")
    main(["fit", "--ckpt_path", "best", "--trainer.max_steps", "7"])
    assert content(RUN) == before
    assert updates_of(new) == ([*range(1, 8)], [*range(1, 8)]) and checkpoint(new)["global_step"] == 7
    assert [*content(new)] and rows(new, "metrics.csv") == rows(RUN, "metrics.csv")[:7]
    main(["fit", "--ckpt_path", str(RUN), "--trainer.max_steps", "9"])
    assert updates_of(RUN) == ([*range(1, 10)], [*range(1, 10)])
    assert len(list(RUN.parent.iterdir())) == 2


def test_B2_previous_is_the_newest_only_where_last_cannot_be_read():
    main(["fit", *FEW, "--trainer.max_steps", "3"])
    before = content(RUN)
    main(["fit", "--ckpt_path", str(RUN / "checkpoints/previous.ckpt"), "--trainer.max_steps", "4"])
    assert content(RUN) == before and updates_of(RUN.with_name("version_1"))[0] == [1, 2, 3, 4]
    (RUN / "checkpoints/last.ckpt").write_bytes(b"damaged")
    main(["fit", "--ckpt_path", str(RUN / "checkpoints/previous.ckpt"), "--trainer.max_steps", "4"])
    assert updates_of(RUN)[0] == [1, 2, 3, 4] and len(list(RUN.parent.iterdir())) == 2


EASY = [*QUIET, "--data.num_envs", "4", "--stop.threshold", "9", "--stop.min_episodes", "5", "--checkpoint.every_seconds"]


def test_B3_a_solved_run_makes_no_further_update(capsys):
    main(["fit", *EASY, "1000"])
    before, updates = content(RUN), checkpoint()["global_step"]
    capsys.readouterr()
    for named in ("last", "auto", "last"):
        main(["fit", "--ckpt_path", named, "--trainer.max_steps", "900"])
        assert re.fullmatch(
            r"runs/CartPole-v1/version_0 has already ended: solved \(not confirmed\).*exceeds 9.*\n",
            capsys.readouterr().out,
        )
    assert content(RUN) == before
    main(["fit", "--ckpt_path", "last", "--stop.threshold", "1000", "--trainer.max_steps", str(updates + 2)])
    assert checkpoint()["global_step"] == updates + 2
    capsys.readouterr()
    main(["fit", "--ckpt_path", "last"])
    assert f"has already ended: {updates + 2} updates were made (--trainer.max_steps" in capsys.readouterr().out


def test_B3_a_limit_of_env_steps_is_kept(capsys):
    main(["fit", *FEW, "--stop.max_env_steps", "50"])
    ended = checkpoint()
    assert ended["callbacks"]["RunCheckpoint"]["ended"] == "max_env_steps"
    capsys.readouterr()
    main(["fit", "--ckpt_path", "last"])
    assert "60 env steps were taken (--stop.max_env_steps 50)" in capsys.readouterr().out
    main(["fit", "--ckpt_path", "last", "--stop.max_env_steps", "70"])
    assert checkpoint()["global_step"] == ended["global_step"] + 1


def test_B3_a_kill_between_the_last_save_and_the_end_adds_no_update():
    main(["fit", *EASY, "0"])
    updates = checkpoint()["global_step"]

    def kill_after_last_save():
        save = RunCheckpoint.save

        def saved(self, trainer):
            save(self, trainer)
            if trainer.should_stop:
                os.kill(os.getpid(), signal.SIGKILL)

        RunCheckpoint.save = saved

    assert os.WTERMSIG(forked(["fit", *EASY, "0"], kill_after_last_save)) == signal.SIGKILL
    killed = RUN.with_name("version_1")
    main(["fit", "--ckpt_path", str(killed)])
    assert checkpoint(killed)["global_step"] == updates
    assert (killed / "metrics.csv").read_text() == (RUN / "metrics.csv").read_text()
    assert (killed / "learning_curve.png").exists()


def test_B4_a_run_is_locked_while_it_is_written():
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    ready, told = os.pipe()
    if (pid := os.fork()) == 0:
        RunFolder(RUN)
        os.write(told, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        before = content(RUN)
        for named in ("last", "auto", str(RUN)):
            line = error("fit", "--ckpt_path", named, "--trainer.max_steps", "9")
            assert line == f"error: {RUN} is being written by another process (pid {pid})"
        assert content(RUN) == before
        main(["test", "--ckpt_path", "last", *QUIET, "--data.eval_episodes", "2"])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "3"])
    assert checkpoint()["global_step"] == 3 and not (RUN / ".lock").exists()


def test_B4_the_lock_dies_with_its_process_not_with_its_workers():
    RUN.mkdir(parents=True)
    run = RunFolder(RUN)
    ready, told = os.pipe()
    if (worker := os.fork()) == 0:
        os.write(told, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        with (RUN / ".lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(run._file)  # As the end of the process would.
        RunFolder(RUN).release()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


VALIDATED = [*LONG, "--data.num_envs", "2", "--data.eval_episodes", "2", "--trainer.limit_val_batches", "1.0"]
VALIDATED += ["--trainer.limit_train_batches", "5", "--trainer.val_check_interval", "2"]


@pytest.mark.parametrize("every_seconds", ["0", "1000"])
@pytest.mark.parametrize("stops", [(2, 3), (4, 5), (6, 7, 9)])
def test_B5_validation_rows_are_those_of_the_uninterrupted_run(stops, every_seconds):
    fit = ["fit", *VALIDATED, "--checkpoint.every_seconds", every_seconds, "--trainer.max_steps"]
    main([*fit, "12"])
    main([*fit, str(stops[0])])
    for stop in (*stops[1:], 12):
        main(["fit", "--ckpt_path", "last", "--trainer.max_steps", str(stop)])
    whole, resumed = RUN, RUN.with_name("version_1")
    assert sum(bool(row["greedy_return_mean"]) for row in rows(whole, "metrics.csv")) == 5
    for name in ("metrics.csv", "episodes.csv"):
        assert (resumed / name).read_text() == (whole / name).read_text()


def test_B5_rows_written_before_a_kill_in_the_save_are_written_once():
    """A kill between the rows and the move of the checkpoint leaves rows of an update that is going to be repeated."""
    fit = ["fit", *VALIDATED, "--checkpoint.every_seconds", "0", "--trainer.max_steps", "6"]
    main(fit)
    for update in (2, 3, 4):

        def kill_before_the_move(update=update):
            def killed(*arguments, **keywords):
                os.kill(os.getpid(), signal.SIGKILL)

            save = RunCheckpoint.save

            def saved(self, trainer):
                if trainer.global_step == update:
                    import pg_lightning.callbacks.checkpoint as module

                    module.put_in_place = killed
                save(self, trainer)

            RunCheckpoint.save = saved

        assert os.WTERMSIG(forked(fit, kill_before_the_move)) == signal.SIGKILL
        main(["fit", "--ckpt_path", "last"])
        run = max(RUN.parent.iterdir())
        assert (run / "metrics.csv").read_text() == (RUN / "metrics.csv").read_text(), update


def test_B6_a_checkpoint_alone_holds_data_and_stop_settings():
    special = ["--stop.decay", "0.9", "--stop.min_episodes", "3", "--data.backend", "sync", "--seed_everything", "7"]
    main(["fit", *FEW, "--data.episodes_per_update", "3", *special, "--trainer.max_steps", "3"])
    shutil.move(RUN / "checkpoints/last.ckpt", "elsewhere.ckpt")
    shutil.rmtree("runs")
    main(["fit", "--ckpt_path", "elsewhere.ckpt", *QUIET, "--trainer.max_steps", "5"])
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["env"]["max_episode_steps"] == 10 and config["seed_everything"] == 7
    assert (config["data"]["num_envs"], config["data"]["episodes_per_update"], config["data"]["backend"]) == (2, 3, "sync")
    assert (config["stop"]["decay"], config["stop"]["min_episodes"], config["stop"]["threshold"]) == (0.9, 3, 1e9)
    assert updates_of(RUN) == ([4, 5], [4, 5])
    main(["fit", *FEW, "--data.episodes_per_update", "3", *special, "--trainer.max_steps", "5"])
    one, other = checkpoint()["state_dict"], checkpoint(RUN.with_name("version_1"))["state_dict"]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_B7_a_learning_rate_that_is_not_finite_is_refused():
    for value in (".inf", "-.inf", ".nan"):
        assert "--optimizer.lr must be a finite number" in error("fit", *FEW, f"--optimizer.lr={value}")
    assert "--optimizer.betas must be" in error("fit", *FEW, "--optimizer", "Adam", "--optimizer.betas", "[.nan, 0.9]")
    assert not Path("runs").exists()


def test_B8_typed_optimizer_options_win_over_the_checkpoint():
    main(["fit", *FEW, "--optimizer", "Adam", "--optimizer.lr", "0.02", "--trainer.max_steps", "2"])
    with pytest.warns(UserWarning, match="optimizer has no max_exp_avg_sq.*its state starts anew"):
        main(["fit", "--ckpt_path", "last", "--optimizer.amsgrad", "true", "--trainer.max_steps", "3"])
    (state,) = checkpoint()["optimizer_states"]
    assert state["param_groups"][0]["amsgrad"] and "max_exp_avg_sq" in state["state"][0]
    assert state["state"][0]["step"] == 1


def test_B8_a_typed_learning_rate_wins_under_a_scheduler():
    scheduler = ["--lr_scheduler", "CosineAnnealingWarmRestarts", "--lr_scheduler.T_0", "3"]
    main(["fit", *FEW, "--optimizer", "Adam", "--optimizer.lr", "0.02", *scheduler, "--trainer.max_steps", "4"])
    main(["fit", "--ckpt_path", "last", "--optimizer.lr", "0.5", "--trainer.max_steps", "6"])
    resumed = checkpoint()
    group = resumed["optimizer_states"][0]["param_groups"][0]
    assert resumed["lr_schedulers"][0]["base_lrs"] == [0.5] and group["initial_lr"] == 0.5
    assert resumed["lr_schedulers"][0]["last_epoch"] == 6 and group["lr"] == 0.5, "it restarts at the typed rate"
    assert resumed["optimizer_states"][0]["state"][0]["step"] == 6, "the optimizer's state stays"


def test_B9_last_and_best_are_of_the_same_run(capsys):
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    main(["fit", *FEW, "--trainer.max_steps", "3"])
    newer = RUN.with_name("version_1")
    best = (RUN / "checkpoints/best.ckpt").read_bytes()
    (RUN / "checkpoints/best.ckpt").unlink()
    (RUN / "checkpoints/best.ckpt").write_bytes(best)  # Of the older run, but the newest file of that name.
    for named in ("last", "best"):
        capsys.readouterr()
        main(["predict", "--ckpt_path", named, *QUIET, "--data.eval_episodes", "1"])
        assert str(newer) in capsys.readouterr().out
    (newer / "checkpoints/best.ckpt").unlink()
    assert f"the newest run, {newer}, has no best.ckpt" in error("test", "--ckpt_path", "best")


def test_B11_nothing_of_the_users_is_deleted():
    Path("mine/CartPole-v1").mkdir(parents=True)
    fail = ["fit", *FEW, "--model.gamma", "7", "--trainer.default_root_dir"]
    assert "gamma must be" in error(*fail, "mine")
    assert Path("mine/CartPole-v1").is_dir() and not any(Path("mine/CartPole-v1").iterdir())
    Path("empty").mkdir()
    assert "gamma must be" in error(*fail, "empty")
    assert Path("empty").is_dir() and not any(Path("empty").iterdir())
    assert "gamma must be" in error(*fail, "made/by/this")
    assert not Path("made").exists(), "what this process has made itself goes"


def test_B11_a_run_that_fails_in_its_first_update_leaves_no_folder():
    assert "not finite" in error("fit", *FEW, "--env.id", "tests.envs:Broken-v0")
    fail = ["fit", *FEW, "--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "0"]
    assert "ZeroDivisionError" in error(*fail)
    assert {path.parent for path in Path("runs").rglob("*") if path.is_file()} == {Path("runs/errors")}


def without(name):
    def change(content):
        del content[name]

    return change


def with_format(value):
    def change(content):
        content["pg_lightning_format"] = value

    return change


UNFIT = {
    "no optimizer state": (without("optimizer_states"), "has no optimizer state: it can be tested"),
    "no hyper-parameters": (without("hyper_parameters"), "holds no hyper-parameters"),
    "version 0.1": (without("pg_lightning_format"), "was written by pg_lightning 0.1"),
    "unknown version": (with_format(99), "has format 99, but this version of pg_lightning reads"),
    "no training state": (without("state_dict"), "cannot be read"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_B12_an_unfit_checkpoint_is_one_line_and_leaves_nothing(name):
    change, message = UNFIT[name]
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    content_of = checkpoint()
    change(content_of)
    shutil.rmtree("runs")
    torch.save(content_of, "unfit.ckpt")
    line = error("fit", "--ckpt_path", "unfit.ckpt", *QUIET, "--trainer.max_steps", "4")
    assert re.match(f"error: checkpoint unfit.ckpt {message}", line), line
    assert not list(Path("runs").rglob("version_*"))


def test_B13_lightning_callbacks_monitor_the_metrics():
    monitored = ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.monitor", "episode_return"]
    monitored += ["--trainer.callbacks.every_n_train_steps", "1", "--trainer.callbacks.save_top_k", "2"]
    main(["fit", *FEW, *monitored, "--trainer.max_steps", "3"])
    saved = [path for path in (RUN / "checkpoints").iterdir() if path.stem not in ("last", "best", "previous")]
    assert len(saved) == 2
    main(["fit", "--ckpt_path", str(saved[0]), "--trainer.max_steps", "4", "--trainer.callbacks", "null"])
    assert updates_of(RUN.with_name("version_1"))[0] == [1, 2, 3, 4]


def test_B14_help_says_what_an_epoch_is(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--help"])
    assert not ended.value.code
    assert "An epoch is 1,000 updates" in " ".join(capsys.readouterr().out.split())


def test_auto_resumes_if_there_is_something():
    fit = ["fit", *FEW, "--ckpt_path", "auto", "--trainer.max_steps"]
    main([*fit, "2"])
    main([*fit, "4"])
    assert updates_of(RUN)[0] == [1, 2, 3, 4] and len(list(RUN.parent.iterdir())) == 1


def test_a_run_without_checkpoints_has_its_files():
    main(["fit", *FEW, "--trainer.max_steps", "3", "--trainer.enable_checkpointing", "false"])
    assert updates_of(RUN) == ([1, 2, 3], [1, 2, 3]) and not (RUN / "checkpoints").exists()
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["reason"] == "max_steps" and (RUN / "learning_curve.png").exists()


def test_a_barebones_run_writes_nothing():
    main(["fit", *LONG, "--data.num_envs", "2", "--trainer.barebones", "true", "--trainer.max_steps", "2"])
    assert not Path("runs").exists()


def test_the_simple_profiler_prints_its_report(capfd):
    done = subprocess.run([*FIT, *FEW, "--trainer.max_steps", "2", "--trainer.profiler", "simple"], capture_output=True)
    assert done.returncode == 0 and b"FIT Profiler Report" in done.stdout + done.stderr


# C: says what is not so


def test_C7_testing_an_untrained_policy_must_be_asked_for(capsys):
    for command in ("test", "validate", "predict"):
        assert f"{command} needs --ckpt_path" in error(command, *QUIET)
    main(["test", "--untrained", "true", *QUIET, "--data.eval_episodes", "2", "--env.max_episode_steps", "5"])
    assert "greedy_return_mean" in capsys.readouterr().out


def test_C8_each_process_writes_its_own_predictions(tmp_path):
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2", *QUIET, "--data.eval_episodes", "3"]
    command = [sys.executable, str(ROOT / "train.py"), "predict", "--ckpt_path", "last", *two]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0 and len(re.findall(r"3 episodes, mean return \S+: (\S+)", done.stdout)) == 2
    assert {path.name for path in RUN.glob("*.npz")} == {"episodes_rank0.npz", "episodes_rank1.npz"}


def test_C9_the_closing_lines_say_what_is_so(capsys):
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    *_, verdict, last = capsys.readouterr().out.splitlines()
    assert verdict.startswith("Not solved") and last == f"Ended: max_steps. Run folder: {RUN}"
    assert json.loads((RUN / "summary.json").read_text())["solved"] is False
    main(["fit", *QUIET, *HEALTHY, "--data.num_envs", "2", "--trainer.max_steps", "2"])
    *_, verdict, last = capsys.readouterr().out.splitlines()
    assert "there is no threshold" in verdict and "olved" not in verdict and str(BROKEN) in last
    assert json.loads((BROKEN / "summary.json").read_text())["solved"] is None


def test_C9_the_picture_says_what_is_so():
    summary = {"env_id": "Maze-v0", "seed": 3, "episodes": 1200}
    assert title(summary | {"solved": None}).endswith("1,200 episodes, no threshold")
    assert title(summary | {"solved": False}).endswith("not solved after 1,200 episodes")
    assert title(summary | {"solved": True}).endswith("solved (not confirmed) after 1,200 episodes")


# D: lets in what it should not

PAYLOAD = """
from pathlib import Path
Path("executed").touch()
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
from torch import nn
from pytorch_lightning.callbacks import Callback
class Policy(nn.Module): ...
class Wrapper(gym.Wrapper): ...
def callback(): ...
gym.register("Paid-v0", entry_point=CartPoleEnv)
"""


def hostile(change):
    """A checkpoint in no run folder, whose hyper-parameters were changed, beside a module that would make a file."""
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    content_of = checkpoint()
    change(content_of["hyper_parameters"])
    torch.save(content_of, "hostile.ckpt")
    Path("payload.py").write_text(PAYLOAD)


def other(*arguments):
    """Run the command line as a user does, where the module can be imported."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.getcwd()}"}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


D1 = {
    "env": lambda hparams: hparams["env"].update(id="payload:Paid-v0"),
    "wrapper": lambda hparams: hparams["env"].update(wrappers=["payload.Wrapper"]),
    "policy": lambda hparams: hparams.update(policy={"class_path": "payload.Policy", "init_args": {}}),
    "encoder": lambda hparams: hparams["policy"]["init_args"].update(encoder={"class_path": "payload.Policy"}),
    "optimizer": lambda hparams: hparams.update(optimizer={"class_path": "payload.Policy", "init_args": {}}),
}


@pytest.mark.parametrize("name", D1)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_D1_a_checkpoint_imports_no_module(name, command):
    hostile(D1[name])
    done = other(command, "--ckpt_path", "hostile.ckpt", *QUIET)
    assert not Path("executed").exists()
    if command == "fit" or name != "optimizer":
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert re.search(r"hostile.ckpt names payload\S+, and the module payload is not imported", done.stderr)


def test_D1_what_the_user_names_is_imported():
    hostile(D1["env"])
    done = other("test", "--ckpt_path", "hostile.ckpt", *QUIET, "--env.id", "payload:Paid-v0", "--data.eval_episodes", "2")
    assert done.returncode == 0, done.stderr
    assert Path("executed").exists()
    Path("executed").unlink()
    assert other("test", "--ckpt_path", "hostile.ckpt", *QUIET, "--env.id", "CartPole-v1").returncode == 0
    assert not Path("executed").exists(), "what was typed takes the place of what the checkpoint names"


def test_D2_evaluation_takes_no_callbacks_of_a_run():
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    Path("payload.py").write_text(PAYLOAD)
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    config["trainer"]["callbacks"] = [{"class_path": "payload.callback"}]
    config["trainer"]["plugins"] = ["payload.callback"]
    (RUN / "config.yaml").write_text(yaml.safe_dump(config))
    for command in ("test", "validate", "predict"):
        done = other(command, "--ckpt_path", "last", *QUIET, "--data.eval_episodes", "2")
        assert done.returncode == 0, done.stderr
    assert not Path("executed").exists()


LINKS = ["config.yaml", "metrics.csv", "episodes.csv", "summary.json", "learning_curve.png", ".lock"]
LINKS += ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "checkpoints/previous.ckpt"]


@pytest.mark.parametrize("suffix", [".tmp", ""])
def test_D3_links_in_a_run_folder_are_not_followed(suffix):
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    names = [f"{name}{suffix}" for name in LINKS if suffix or name not in ("config.yaml", "checkpoints/last.ckpt")]
    for number, name in enumerate(names):
        target = Path(f"target{number}").absolute()
        target.write_text("mine")
        (RUN / name).unlink(missing_ok=True)
        (RUN / name).symlink_to(target)
    if not suffix:
        assert ".lock" in error("fit", "--ckpt_path", "last", "--trainer.max_steps", "4")
        (RUN / ".lock").unlink()
        (RUN / "metrics.csv").unlink()
        (RUN / "episodes.csv").unlink()
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "4"])
    assert {path.read_text() for path in Path().glob("target*")} == {"mine"}
    assert checkpoint()["global_step"] == 4


def test_D3_checkpoints_elsewhere_are_refused():
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    (RUN / "checkpoints").rename("elsewhere")
    (RUN / "checkpoints").symlink_to(Path("elsewhere").absolute())
    before = content("elsewhere")
    assert "is a symbolic link" in error("fit", "--ckpt_path", "last", "--trainer.max_steps", "4")
    assert content("elsewhere") == before


@pytest.mark.parametrize("name", ["..", ".", "", "../..", "/", "/etc", "a/../../b", "..:X", "\\..\\x", "~", "x" * 999])
def test_D4_no_name_leads_out_of_the_root(name):
    run = RunFolder.new(Path("runs") / folder_name(name))
    run.release()
    assert run.path.resolve().parent.parent == Path("runs").resolve()
    assert run.path.name == "version_0"


def test_D4_an_id_that_is_a_path_is_refused(folder):
    for name in ("..", "../x", "."):
        assert "env.id must be a Gymnasium id" in error("fit", *FEW, "--env.id", name)
    assert not list(folder.iterdir())


# E: bad input

BROKEN_MODULES = {
    "raises": 'raise OSError("no display")',
    "syntax": "def f(:",
    "exits": "import sys; sys.exit(0)",
    "init": """
import gymnasium as gym
class Env(gym.Env):
    def __init__(self): raise KeyError("licence")
gym.register("X-v0", entry_point=Env)
""",
    "spaces": """
import gymnasium as gym
class Env(gym.Env): ...
gym.register("X-v0", entry_point=Env)
""",
    "exits in reset": """
import sys, gymnasium as gym, numpy as np
class Env(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None): sys.exit(0)
gym.register("X-v0", entry_point=Env)
""",
}


@pytest.mark.parametrize("name", BROKEN_MODULES)
def test_E1_E2_a_broken_environment_is_one_line_with_a_log(name):
    Path("broken_module.py").write_text(BROKEN_MODULES[name])
    done = other("fit", *FEW, "--env.id", "broken_module:X-v0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stdout
    assert re.match(r"error: .*environment", done.stderr)
    log = re.search(r"traceback in (runs/errors/\S+\.log)\)", done.stderr)
    assert log is not None and "Traceback (most recent call last)" in Path(log[1]).read_text()
    assert not list(Path("runs").rglob("version_*"))


POLICY = """
import sys, torch
from torch import nn
class Policy(nn.Module):
    def __init__(self, observation_space, action_space, how="init"):
        super().__init__()
        self.how, self.layer = how, nn.Linear(observation_space.shape[0], int(action_space.n))
        if how == "init": raise KeyError("weights")
        if how == "exit": sys.exit(0)
    def forward(self, observations):
        if self.how == "forward": raise RuntimeError("shapes do not match")
        if self.how == "learning" and torch.is_grad_enabled(): raise RuntimeError("no gradient")
        return torch.distributions.Categorical(logits=self.layer(observations))
"""


@pytest.mark.parametrize("how", ["init", "exit", "forward", "learning"])
def test_E1_E2_a_broken_policy_is_one_line_that_says_so(how):
    Path("broken_policy.py").write_text(POLICY)
    done = other("fit", *FEW, "--model.policy", "broken_policy.Policy", "--model.policy.how", how)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert re.match(r"error: .*policy.*traceback in runs/errors/", done.stderr), done.stderr


def test_E1_a_log_that_cannot_be_written_is_not_named():
    Path("file").touch()
    line = error("fit", *FEW, "--env.id", "Nope-v0", "--trainer.default_root_dir", "file")
    assert line.startswith("error: ") and "traceback" not in line
    assert Path("file").read_bytes() == b""


NONSENSE = {
    "--optimizer SparseAdam": "SparseAdam does not support dense gradients.*configuration",
    "--optimizer LBFGS": "LBFGS",
    "--lr_scheduler StepLR --lr_scheduler.step_size 0": "ZeroDivisionError.*configuration",
    "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor nothing --trainer.limit_train_batches 1": "`nothing`",
    "--model.policy.hidden_sizes [100000000000]": "hidden_sizes must be",
    "--trainer.max_steps 0": "--trainer.max_steps must be at least 1, or -1 for no limit, not 0",
    "--trainer.max_epochs 0": "--trainer.max_epochs must be at least 1",
    "--trainer.max_steps -5": "--trainer.max_steps must be at least 1",
    "--trainer.limit_train_batches 0": "--trainer.limit_train_batches must be more than 0",
    "--trainer.limit_train_batches 0.0": "--trainer.limit_train_batches must be more than 0",
    "--trainer.gradient_clip_val -1": "--trainer.gradient_clip_val must be at least 0, not -1",
    "--trainer.gradient_clip_val .inf": "--trainer.gradient_clip_val must be a finite number",
    "--checkpoint.every_seconds .nan": "--checkpoint.every_seconds must be a finite number, not nan",
    "--stop.threshold .nan": "--stop.threshold must be a finite number",
    "--stop.initial .inf": "--stop.initial must be a finite number",
    "--trainer.precision 16-mixed": "--trainer.precision must be 32-true, 64-true or bf16-mixed, not 16-mixed",
    "--trainer.precision 16-true": "--trainer.precision must be",
    "--trainer.precision bf16-true": "--trainer.precision must be",
}


@pytest.mark.parametrize("options", NONSENSE)
def test_E1_E2_nonsense_is_refused_in_one_line(options):
    assert re.search(NONSENSE[options], error("fit", *FEW, *options.split()))


USELESS = {
    "--ckpt_path=": "--ckpt_path is empty: give a file, a run folder, last, best or auto",
    "--lr 0.1": "no option --lr; did you mean --optimizer.lr?",
    "--model.lr 0.1": "no option --model.lr; did you mean --optimizer.lr?",
    "--env Acrobot-v1": "no option --env; did you mean --env.id?",
    "--model.env_id Acrobot-v1": "no option --model.env_id; did you mean --env.id?",
    "--data.env_id Acrobot-v1": "no option --data.env_id; did you mean --env.id?",
    "--data.env_kwargs {}": "no option --data.env_kwargs; did you mean --env.kwargs?",
    "--model.env Acrobot-v1": "no option --model.env; did you mean --env.id?",
    "--hidden_sizes [64]": "no option --hidden_sizes; did you mean --model.policy.hidden_sizes?",
    "--hidden_size [64]": "no option --hidden_size; did you mean --model.policy.hidden_sizes?",
    "--gama 0.9": "no option --gama; did you mean --model.gamma?",
    "--seed 3": "no option --seed; did you mean --seed_everything?",
    "--max_steps 3": "no option --max_steps; did you mean --trainer.max_steps?",
    "--ckpt last": "no option --ckpt; did you mean --ckpt_path?",
}


@pytest.mark.parametrize("options", USELESS)
def test_E3_a_wrong_option_is_answered_with_the_right_one(options):
    assert USELESS[options] in error("fit", *options.split())
    assert not Path("runs").exists()


WORKER = """
import multiprocessing, gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
class Env(CartPoleEnv):
    def __init__(self):
        super().__init__()
        if multiprocessing.parent_process(): raise KeyError("licence")
gym.register("X-v0", entry_point=Env)
"""


def test_E3_a_worker_that_cannot_start_is_named():
    Path("broken_module.py").write_text(WORKER)
    done = other("fit", *FEW, "--env.id", "broken_module:X-v0", "--data.backend", "async")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "licence" in done.stderr and "Broken pipe" not in done.stderr


class FailingRank(Callback):
    """Raises in one process of two."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.rank:
            raise RuntimeError(f"no memory on rank {self.rank}")


@pytest.mark.parametrize("rank", [0, 1])
def test_E8_a_failing_rank_is_one_line(rank):
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.callbacks", "tests.test_runs.FailingRank"]
    done = other("fit", *FEW, *two, "--trainer.callbacks.rank", str(rank))
    assert done.returncode == 1
    assert re.fullmatch(rf"error: RuntimeError: no memory on rank {rank} \(.*\)\n", done.stderr), done.stderr
    assert not list(Path("runs").rglob("version_*"))
