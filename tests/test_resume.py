"""Stop, resume, and be where the uninterrupted run is, bit by bit."""

import csv
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pg_lightning.cli import main

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--stop.threshold", "1e9"]
RUN = Path("runs/CartPole-v1")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def checkpoint(number, name="last"):
    return torch.load(RUN / f"version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def assert_same(one, other):
    """Equal to the bit, however deeply nested; apart from what depends on the clock, and Lightning's count of fits."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "best", "epoch", "loops"}:
            assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


ONE = ["--data.num_envs", "1", "--model.baseline", "pg_lightning.NoBaseline"]
ONE += ["--model.normalization", "pg_lightning.PerEpisode"]
SETTINGS = {
    "default": ["--data.num_envs", "4"],
    "dropout, one environment": [*ONE, "--model.policy.init_args.dropout", "0.6"],
    "own policy, scheduler": [
        *("--data.num_envs", "3", "--data.episodes_per_update", "5", "--model.policy", "tests.envs.OwnPolicy"),
        *("--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "4"),
    ],
    "worker processes": ["--data.num_envs", "2", "--data.backend", "async"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_resumed_run_equals_the_uninterrupted_one(setting):
    common = [*QUIET, *SETTINGS[setting]]
    main(["fit", *common, "--trainer.max_steps", "12"])
    main(["fit", *common, "--trainer.max_steps", "5"])
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "9"])
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "12"])
    whole, resumed = checkpoint(0), checkpoint(1)
    assert whole["global_step"] == 12
    assert_same(whole, resumed)
    for name in ("metrics.csv", "episodes.csv"):
        assert (RUN / "version_0" / name).read_text() == (RUN / "version_1" / name).read_text()
    rows = csv.DictReader((RUN / "version_1/metrics.csv").read_text().splitlines())
    assert [row["step"] for row in rows] == [*map(str, range(1, 13))]
    assert not (RUN / "version_2").exists()


def test_what_the_checkpoint_does_not_know_of_is_taken_back():
    """A run that was killed after its last checkpoint has written rows that will be written again."""
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "3"])
    for name in ("metrics.csv", "episodes.csv"):
        path = RUN / "version_0" / name
        before = path.read_text()
        last = before.splitlines()[-1].split(",")
        later = [str(int(value) + 1) if value.isdigit() else value for value in last]
        path.write_text(f"{before}{','.join(later)}\n{later[0]},half a li")
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "6"])
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "6"])
    for name in ("metrics.csv", "episodes.csv"):
        assert (RUN / "version_0" / name).read_text() == (RUN / "version_1" / name).read_text()


def test_what_is_typed_wins():
    main(["fit", *QUIET, "--model.direction", "Gradient", "--data.num_envs", "2", "--trainer.max_steps", "2"])
    typed = ["--optimizer.lr", "0.005", "--model.gamma", "0.9", "--stop.min_episodes", "7", "--trainer.max_steps", "4"]
    main(["fit", "--ckpt_path", "last", *typed])
    resumed = checkpoint(0)
    assert resumed["optimizer_states"][0]["param_groups"][0]["lr"] == 0.005
    assert resumed["optimizer_states"][0]["state"][0]["step"] == 4
    assert resumed["hyper_parameters"]["gamma"] == 0.9
    main(["fit", "--ckpt_path", "last", "--optimizer", "SGD", "--optimizer.lr", "0.1", "--trainer.max_steps", "5"])
    assert checkpoint(0)["optimizer_states"][0]["param_groups"][0]["momentum"] == 0
    config = (RUN / "version_0/config.yaml").read_text()
    assert "min_episodes: 7" in config and "class_path: torch.optim.SGD" in config and "num_envs: 2" in config


def test_last_is_the_newest_run_and_of_the_environment_named(capsys):
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "2"])
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "2", "--env.id", "Acrobot-v1"])
    capsys.readouterr()
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "3"])
    assert "runs/Acrobot-v1/version_0" in capsys.readouterr().out
    main(["fit", "--ckpt_path", str(RUN / "version_0/checkpoints/last.ckpt"), "--trainer.max_steps", "3"])
    assert "runs/CartPole-v1/version_0" in capsys.readouterr().out


def test_a_checkpoint_outside_of_a_run_folder_starts_a_run_of_its_own():
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "4", "--model.gamma", "0.9"])
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "2", "--model.gamma", "0.9"])
    (RUN / "version_1/checkpoints/last.ckpt").rename("kept.ckpt")
    main(["fit", "--ckpt_path", "kept.ckpt", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "4"])
    assert_same(checkpoint(0)["state_dict"], checkpoint(2)["state_dict"])
    assert checkpoint(2)["hyper_parameters"]["gamma"] == 0.9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_update_with_a_checkpoint(number):
    command = [
        sys.executable,
        ROOT / "train.py",
        "fit",
        *QUIET,
        "--data.num_envs",
        "2",
        "--lines.every_n_episodes",
        "10",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Episode"):
            assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err == ""
    hint = re.search(r"Stopped after update (\d+)\. Go on with: python train.py (fit --ckpt_path \S+)", out)
    assert hint is not None
    updates = int(hint[1])
    assert checkpoint(0)["global_step"] == updates
    main([*hint[2].split(), "--trainer.max_steps", str(updates + 3)])
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", str(updates + 3)])
    assert_same(checkpoint(0)["state_dict"], checkpoint(1)["state_dict"])
    assert_same(checkpoint(0)["optimizer_states"], checkpoint(1)["optimizer_states"])


def test_a_damaged_last_checkpoint_is_passed_over():
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "4", "--checkpoint.every_seconds", "0"])
    folder = RUN / "version_0/checkpoints"
    whole = (folder / "last.ckpt").read_bytes()
    assert checkpoint(0, "previous")["global_step"] in (3, 4)
    (folder / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"last.ckpt cannot be read .*going on from .*previous.ckpt"):
        main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "6", "--checkpoint.every_seconds", "1000"])
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "6"])
    assert_same(checkpoint(0)["state_dict"], checkpoint(1)["state_dict"])
    assert checkpoint(0, "previous")["global_step"] in (3, 4), "the damaged one was not kept"
    assert (RUN / "version_0/metrics.csv").read_text() == (RUN / "version_1/metrics.csv").read_text()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(("first", "then"), [("NaturalGradient", "Gradient"), ("Gradient", "NaturalGradient")])
def test_another_direction_starts_an_optimizer_of_its_own(env_id, first, then):
    few = [*QUIET, "--env.id", env_id, "--data.num_envs", "2"]
    main(["fit", *few, "--model.direction", first, "--trainer.max_steps", "1"])
    main(["fit", "--ckpt_path", "last", "--model.direction", then, "--trainer.max_steps", "2"])
    saved = torch.load(f"runs/{env_id}/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert ("betas" in saved["optimizer_states"][0]["param_groups"][0]) == (then == "Gradient")


@pytest.mark.filterwarnings("ignore:NaturalGradient sets the length")
def test_other_groups_of_the_same_optimizer_start_it_anew():
    few = [*QUIET, "--env.id", "Pendulum-v1", "--data.num_envs", "2", "--optimizer", "Adam"]
    main(["fit", *few, "--model.direction", "NaturalGradient", "--trainer.max_steps", "1"])
    main(["fit", "--ckpt_path", "last", "--model.direction", "Gradient", "--trainer.max_steps", "2"])
    saved = torch.load("runs/Pendulum-v1/version_0/checkpoints/last.ckpt", weights_only=True)
    assert [state["step"] for state in saved["optimizer_states"][0]["state"].values()] == [1] * 7


def test_a_typed_learning_rate_of_the_critic_wins():
    main(["fit", *QUIET, "--data.num_envs", "2", "--trainer.max_steps", "1"])
    main(["fit", "--ckpt_path", "last", "--model.baseline.lr", "0.0005", "--trainer.max_steps", "2"])
    assert checkpoint(0)["state_dict"]["baseline._extra_state"]["param_groups"][0]["lr"] == 0.0005
