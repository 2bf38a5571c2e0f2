"""Checkpoints: what they hold, which one is meant, and what cannot be resumed.

Each test is named after the row of the findings that it closes.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pg_lightning.cli import main
from tests.runs import (  # noqa: F401 - The folder is a fixture.
    FEW,
    PLAIN,
    QUIET,
    RUN,
    checkpoint,
    content,
    error,
    folder,
    updates_of,
)


def test_B6_a_checkpoint_alone_holds_data_and_stop_settings():
    special = ["--stop.decay", "0.9", "--stop.min_episodes", "3", "--data.backend", "sync", "--seed_everything", "7"]
    main(["fit", *FEW, "--data.episodes_per_update", "3", *special, "--trainer.max_steps", "3"])
    shutil.move(RUN / "checkpoints/last.ckpt", "elsewhere.ckpt")
    shutil.rmtree("runs")
    main(["fit", "--ckpt_path", "elsewhere.ckpt", *QUIET, "--trainer.max_steps", "5"])
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["env"]["max_episode_steps"] == 10 and config["seed_everything"] == 7
    data = config["data"]
    assert (data["num_envs"], data["episodes_per_update"], data["backend"]) == (2, 3, "sync")
    assert (config["stop"]["decay"], config["stop"]["min_episodes"], config["stop"]["threshold"]) == (0.9, 3, 1e9)
    assert updates_of(RUN) == ([4, 5], [4, 5])
    main(["fit", *FEW, "--data.episodes_per_update", "3", *special, "--trainer.max_steps", "5"])
    moved, whole = checkpoint()["state_dict"], checkpoint(RUN.with_name("version_1"))["state_dict"]
    assert all(torch.equal(moved[name], whole[name]) for name in whole if isinstance(whole[name], torch.Tensor))


def test_B7_a_learning_rate_that_is_not_finite_is_refused():
    for value in (".inf", "-.inf", ".nan"):
        assert "--optimizer.lr must be a finite number" in error("fit", *FEW, f"--optimizer.lr={value}")
    assert "--optimizer.betas must be" in error("fit", *FEW, "--optimizer", "Adam", "--optimizer.betas", "[.nan, 0.9]")
    assert not Path("runs").exists()


def test_B8_typed_optimizer_options_win_over_the_checkpoint():
    main(["fit", *FEW, *PLAIN, "--optimizer", "Adam", "--optimizer.lr", "0.02", "--trainer.max_steps", "2"])
    with pytest.warns(UserWarning, match="optimizer has no max_exp_avg_sq.*its state starts anew"):
        main(["fit", "--ckpt_path", "last", "--optimizer.amsgrad", "true", "--trainer.max_steps", "3"])
    (state,) = checkpoint()["optimizer_states"]
    assert state["param_groups"][0]["amsgrad"] and "max_exp_avg_sq" in state["state"][0]
    assert state["state"][0]["step"] == 1


def test_B8_a_typed_learning_rate_wins_under_a_scheduler():
    scheduler = ["--lr_scheduler", "CosineAnnealingWarmRestarts", "--lr_scheduler.T_0", "3"]
    main(["fit", *FEW, *PLAIN, "--optimizer", "Adam", "--optimizer.lr", "0.02", *scheduler, "--trainer.max_steps", "4"])
    main(["fit", "--ckpt_path", "last", "--optimizer.lr", "0.5", "--trainer.max_steps", "6"])
    resumed = checkpoint()
    group = resumed["optimizer_states"][0]["param_groups"][0]
    assert resumed["lr_schedulers"][0]["base_lrs"] == [0.5] and group["initial_lr"] == 0.5
    assert resumed["lr_schedulers"][0]["last_epoch"] == 6 and group["lr"] == 0.5, "it restarts at the typed rate"
    assert resumed["optimizer_states"][0]["state"][0]["step"] == 6, "the optimizer's state stays"


STEPS = ["--lr_scheduler", "StepLR", "--lr_scheduler.step_size"]
HALF = ["--model.lr_schedule", "Linear", "--model.lr_schedule.initial", "0.5", "--model.lr_schedule.final", "0.5"]
GAUSSIAN = ["--env.id", "MountainCarContinuous-v0", "--env.max_episode_steps", "20", "--model.policy.head"]
GAUSSIAN += ["pg_lightning.policies.heads.GaussianHead", "--model.policy.head.log_std_share"]


@pytest.mark.parametrize(
    ("before", "after", "rates"),
    [
        ([*STEPS, "1"], [*STEPS, "3"], [0.5]),
        ([*STEPS, "1"], ["--lr_scheduler", "null"], [0.5]),
        (HALF, ["--model.lr_schedule", "null"], [0.5]),
        ([*STEPS, "1"], ["--lr_scheduler", "null", *HALF], [0.25]),
        ([*GAUSSIAN, "0.2"], ["--model.policy.head.log_std_share", "0.4"], [0.5, 0.2]),
    ],
)
def test_B8_another_schedule_or_share_begins_at_the_learning_rate(before, after, rates):
    main(["fit", *FEW, *PLAIN, *before, "--optimizer", "SGD", "--optimizer.lr", "0.5", "--trainer.max_steps", "2"])
    main(["fit", "--ckpt_path", "last", *after, "--trainer.max_steps", "3"])
    path = next(Path("runs").glob("*/version_0"))
    groups = checkpoint(path)["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx(rates)


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
    assert [path.name for path in Path("runs").iterdir()] == ["errors"]


def without(name):
    def change(saved):
        del saved[name]

    return change


def with_format(value):
    def change(saved):
        saved["pg_lightning_format"] = value

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
    saved = checkpoint()
    change(saved)
    shutil.rmtree("runs")
    torch.save(saved, "unfit.ckpt")
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
