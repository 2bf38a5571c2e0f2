"""Run folders: what fails changes nothing, what resumes is exact, and a run is written by one process at a time.

Each test is named after the row of the findings that it closes.
"""

import fcntl
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml

import pg_lightning.callbacks.checkpoint as checkpoint_module
from pg_lightning.callbacks.checkpoint import RunCheckpoint
from pg_lightning.cli import main
from pg_lightning.cli.runs import RunFolder
from tests.runs import (  # noqa: F401 - The folder is a fixture.
    BROKEN,
    FEW,
    HEALTHY,
    LONG,
    QUIET,
    RUN,
    checkpoint,
    content,
    error,
    folder,
    forked,
    rows,
    typed,
    updates_of,
)


def test_B1_failed_resume_changes_nothing():
    main(["fit", *FEW, *HEALTHY, "--trainer.max_steps", "2"])
    before = content(BROKEN)
    broken = ["--env.kwargs", '{"what": "rewards"}', "--trainer.max_steps", "9"]
    assert "rewards that are not finite" in error("fit", "--ckpt_path", "last", *broken)
    assert "unexpected keyword argument 'foo'" in error("fit", "--ckpt_path", "last", "--env.kwargs", '{"foo": 1}')
    plateau = ["--lr_scheduler", "ReduceLROnPlateau", "--trainer.max_steps", "9", "--lr_scheduler.monitor"]
    assert "nothing" in error("fit", "--ckpt_path", "last", *plateau, "nothing")
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


EASY = [*QUIET, "--data.num_envs", "4", "--stop.threshold", "9", "--stop.min_episodes", "5"]
EASY += ["--checkpoint.every_seconds"]


def test_B3_a_solved_run_makes_no_further_update(capsys):
    main(["fit", *EASY, "1000"])
    before, updates = content(RUN), checkpoint()["global_step"]
    capsys.readouterr()
    for named in ("last", "auto", "last"):
        main(["fit", "--ckpt_path", named, "--trainer.max_steps", "900"])
        assert re.fullmatch(
            r"runs/CartPole-v1/version_0 has already ended: solved and confirmed: .*exceeds 9.*\n",
            capsys.readouterr().out,
        )
    assert content(RUN) == before
    main(["fit", "--ckpt_path", "last", "--stop.threshold", "1000", "--trainer.max_steps", str(updates + 2)])
    assert checkpoint()["global_step"] == updates + 2
    capsys.readouterr()
    main(["fit", "--ckpt_path", "last"])
    assert f"has already ended: {updates + 2} updates were made (--trainer.max_steps" in capsys.readouterr().out


def test_B3_nothing_is_opened_for_a_run_that_has_ended(capsys):
    main(["fit", *EASY, "0"])
    shutil.copy(RUN / "checkpoints/last.ckpt", "elsewhere.ckpt")
    for named in ("best", "elsewhere.ckpt"):
        capsys.readouterr()
        main(["fit", "--ckpt_path", named, *QUIET])
        assert "has already ended: solved and confirmed: " in capsys.readouterr().out
    assert len(list(RUN.parent.iterdir())) == 1


def test_B3_a_limit_of_epochs_is_kept(capsys):
    epochs = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs"]
    main(["fit", *FEW, *epochs, "2"])
    assert checkpoint()["callbacks"]["RunCheckpoint"]["ended"] == "max_epochs"
    capsys.readouterr()
    main(["fit", "--ckpt_path", "last"])
    assert "4 updates were made, 2 an epoch (--trainer.max_epochs 2)" in capsys.readouterr().out
    main(["fit", "--ckpt_path", "last", *epochs, "3"])
    assert updates_of(RUN)[0] == [1, 2, 3, 4, 5, 6]


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


def kill_in_the_save(update):
    """Kill between the rows and the move of the checkpoint: the rows are those of an update that will be repeated."""
    save = RunCheckpoint.save

    def saved(self, trainer):
        if trainer.global_step == update:
            checkpoint_module.put_in_place = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        save(self, trainer)

    RunCheckpoint.save = saved


def kill_in_the_validation(update):
    """Kill before the validation of an update: no checkpoint of that update may be there yet."""

    def killed(self, trainer, pl_module):
        if trainer.global_step == update:
            os.kill(os.getpid(), signal.SIGKILL)

    RunCheckpoint.on_validation_start = killed


@pytest.mark.parametrize(
    ("kill", "update"), [*((kill_in_the_save, update) for update in (2, 3, 4)), (kill_in_the_validation, 4)]
)
def test_B5_rows_around_a_kill_are_written_once(kill, update):
    fit = ["fit", *VALIDATED, "--checkpoint.every_seconds", "0", "--trainer.max_steps", "6"]
    main(fit)
    assert os.WTERMSIG(forked(fit, lambda: kill(update))) == signal.SIGKILL
    main(["fit", "--ckpt_path", "last"])
    assert (RUN.with_name("version_1") / "metrics.csv").read_text() == (RUN / "metrics.csv").read_text()


def test_auto_resumes_if_there_is_something():
    fit = ["fit", *FEW, "--ckpt_path", "auto", "--trainer.max_steps"]
    main([*fit, "2"])
    main([*fit, "4"])
    assert updates_of(RUN)[0] == [1, 2, 3, 4] and len(list(RUN.parent.iterdir())) == 1


def test_auto_goes_on_with_no_run_of_another_name_or_environment():
    """Whatever ran last in the folder: each line is a command of its own, and its run is the one that it began."""
    commands = [[], ["--name", "a"], ["--env.id", "Acrobot-v1", "--env.max_episode_steps", "20"], ["--name", "b"]]
    for steps in ("1", "2"):
        for words in commands:
            main(["fit", *FEW, *words, "--ckpt_path", "auto", "--trainer.max_steps", steps])
    places = [RUN, RUN.parent / "a/version_0", RUN.parents[1] / "Acrobot-v1/version_0", RUN.parent / "b/version_0"]
    assert sorted(Path("runs").rglob("version_*")) == sorted(places)
    assert [updates_of(place)[0] for place in places] == [[1, 2]] * 4
    assert "auto is for fit; test takes" in error("test", "--ckpt_path", "auto")


@pytest.mark.parametrize(
    "words", [["fit", "--env", "env.yaml"], ["--config", "all.yaml", "fit"], ["fit", "--env", "{id: Acrobot-v1}"]]
)
def test_auto_knows_the_environment_wherever_it_is_named(words):
    main(["fit", *FEW, "--trainer.max_steps", "1"])
    Path("env.yaml").write_text("id: Acrobot-v1\n")
    Path("all.yaml").write_text("fit: {env: {id: Acrobot-v1}}\n")
    for steps in ("1", "2"):
        few = ["--env.max_episode_steps", "20", "--data.num_envs", "2", "--trainer.max_steps", steps]
        main([*words, *few, "--ckpt_path", "auto"])
    assert updates_of(RUN)[0] == [1]
    assert updates_of(RUN.parents[1] / "Acrobot-v1/version_0")[0] == [1, 2]


def test_a_run_of_which_nothing_is_written_can_go_on():
    main(["fit", *FEW, "--trainer.max_steps", "1"])
    main(["fit", "--ckpt_path", str(RUN), "--trainer.barebones", "true", "--trainer.max_steps", "2"])


def test_a_resume_says_which_run_goes_on_and_what_changed(capsys):
    main(["fit", *FEW, "--trainer.max_steps", "1"])
    assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d   Run folder: {RUN}\n", capsys.readouterr().out)
    options = ["--trainer.max_steps", "3", "--model.gamma", "0.5", "--model.entropy_coef", "pg_lightning.Linear"]
    main(["fit", "--ckpt_path", "last", *options, "--model.entropy_coef.initial", "0.1"])
    changed = "trainer.max_steps 1 -> 3, model.gamma 0.99 -> 0.5, model.entropy_coef 0.0 -> Linear"
    assert f"Going on with {RUN} after update 1; changed: {changed}\n" in capsys.readouterr().out
    main(["fit", "--ckpt_path", f"{RUN}/checkpoints/best.ckpt", "--trainer.max_steps", "4"])
    assert re.search(rf"Going on with {RUN} after update \d, in {RUN.with_name('version_1')}", capsys.readouterr().out)


def test_a_run_without_checkpoints_has_its_files():
    main(["fit", *FEW, "--trainer.max_steps", "3", "--trainer.enable_checkpointing", "false"])
    assert updates_of(RUN) == ([1, 2, 3], [1, 2, 3]) and not (RUN / "checkpoints").exists()
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["reason"] == "max_steps" and (RUN / "learning_curve.png").exists()


def test_a_barebones_run_writes_nothing():
    main(["fit", *LONG, "--data.num_envs", "2", "--trainer.barebones", "true", "--trainer.max_steps", "2"])
    assert not Path("runs").exists()


def test_the_simple_profiler_prints_its_report():
    done = typed("fit", *FEW, "--trainer.max_steps", "2", "--trainer.profiler", "simple")
    assert done.returncode == 0 and "FIT Profiler Report" in done.stdout + done.stderr
