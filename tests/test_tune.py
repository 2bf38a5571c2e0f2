"""``tune``: trials are averaged over seeds, a study goes on, and the best configuration can be trained."""

import sys

import pytest
import yaml

from pg_lightning.cli import main

SMALL = ["--seeds", "2", "--eval_episodes", "2", "--data.num_envs", "2", "--trainer.max_steps", "2"]
SMALL += ["--stop.confirm_episodes", "0"]
SPACE = {"optimizer.lr": {"log": [0.001, 1.0]}, "model.gamma": {"linear": [0.5, 0.9]}}
SPACE |= {"model.baseline": {"categorical": ["pg_lightning.NoBaseline", "pg_lightning.LeaveOneOut"]}}
SPACE |= {"data.episodes_per_update": {"linear": [2, 3]}}


def tune(*words):
    with pytest.raises(SystemExit) as ended:
        main(["tune", *words])
    return ended.value.code


@pytest.fixture
def space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return ["--space", "space.yaml", "--model.direction", "Gradient"]


def trials_of(folder="tuning/defaults"):
    import optuna

    return optuna.load_study(study_name="defaults", storage=f"sqlite:///{folder}/study.db").trials


def test_a_study_goes_on_and_its_best_configuration_trains(space, tmp_path, capfd):
    assert tune(*space, "--trials", "2", *SMALL) == 0
    assert tune(*space, "--trials", "3", *SMALL) == 0
    trials = trials_of()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 3
    for trial in trials:
        assert len(trial.intermediate_values) == 2 and trial.intermediate_values[2] == trial.value
    best = max(trials, key=lambda trial: trial.value)
    out = capfd.readouterr().out
    assert f"Best: {best.value:.2f}. Train with: python train.py fit --config tuning/defaults/best.yaml" in out
    config = yaml.safe_load((tmp_path / "tuning/defaults/best.yaml").read_text())
    assert config["optimizer"]["init_args"]["lr"] == best.params["optimizer.lr"]
    assert config["model"]["baseline"]["class_path"] == f"pg_lightning.{best.params['model.baseline']}"
    assert config["data"]["episodes_per_update"] == best.params["data.episodes_per_update"]
    main(["fit", "--config", "tuning/defaults/best.yaml", "--trainer.enable_progress_bar", "false"])
    assert (tmp_path / "tuning/defaults/tuning.png").stat().st_size > 10_000
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE | {"model.gamma": {"linear": [0.1, 0.9]}}))
    assert "was begun with another space: give another --out" in tune(*space, "--trials", "4", *SMALL)


def test_a_trial_that_fails_does_not_end_the_study(space, tmp_path, capfd):
    (tmp_path / "space.yaml").write_text("data.episodes_per_update: {categorical: [1]}")
    assert tune(*space, "--trials", "2", *SMALL) == 1
    assert [trial.state.name for trial in trials_of()] == ["FAIL", "FAIL"]
    printed = capfd.readouterr()
    assert "error: none of 2 trials succeeded" in printed.err
    assert "trial 1: episodes_per_update (1) must be at least num_envs (2)" in printed.out + printed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must map options of fit to ranges"),
        ("{", "is not YAML"),
        ("model.gamma: {log: [0, 1]}", "model.gamma must be {log: [low, high]}"),
        ("model.gamma: {linear: [1, 0]}", "model.gamma must be {log: [low, high]}"),
        ("model.gamma: 0.9", "model.gamma must be {log: [low, high]}"),
        ("model.gamma: {}", "model.gamma must be {log: [low, high]}"),
    ],
)
def test_a_space_that_is_none(text, message, space, tmp_path):
    (tmp_path / "space.yaml").write_text(text)
    assert message in tune(*space, "--trials", "1", *SMALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials, --workers and --eval_episodes must be at least 1"),
        (["--model.gama", "1"], "there is no option --model.gama; did you mean --model.gamma"),
        (["--space", "missing.yaml"], "missing.yaml"),
        (["--space", "mistyped.yaml"], "--space: --optimizer: option 'lrr' is not accepted"),
        (["--storage", "nonsense"], "--storage nonsense cannot be opened"),
        (["--measure", "speed"], "tune: argument --measure: invalid choice: 'speed'"),
    ],
)
def test_bad_input(words, message, space, tmp_path):
    (tmp_path / "mistyped.yaml").write_text("optimizer.lrr: {log: [0.001, 1.0]}")
    code = tune(*space, *SMALL, *words)
    assert code.startswith("error: ") and message in code and "\n" not in code


def test_what_is_missing(space, monkeypatch):
    assert tune() == "error: tune needs --space, a YAML file of the options to search; see --help"
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune(*space) == "error: tune needs optuna: pip install 'pg_lightning[tune]'"
