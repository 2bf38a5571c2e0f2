import json
import re
from pathlib import Path

import gymnasium as gym
import pytest
import torch
import yaml

from pg_lightning import Reinforce
from pg_lightning.cli import main
from pg_lightning.evaluation import Evaluation

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
SMALL = [*QUIET, "--data.num_envs", "2", "--trainer.max_steps", "3"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_of(folder, number=0, env_id="CartPole-v1"):
    return folder / "runs" / env_id / f"version_{number}"


def test_a_fit_leaves_everything_in_its_own_folder(folder, capsys):
    main(["fit", "--config", str(CONFIGS / "cartpole.yaml"), *QUIET])
    printed, run = capsys.readouterr(), run_of(folder)
    names = {path.relative_to(run).as_posix() for path in run.rglob("*")}
    wanted = ["config.yaml", "metrics.csv", "summary.json", "learning_curve.png", "episodes.csv"]
    assert names >= {*wanted, "checkpoints/last.ckpt", "checkpoints/best.ckpt"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["solved"] and summary["running_reward"] > summary["threshold"] == 475
    assert (summary["env_id"], summary["seed"], summary["episodes"]) == ("CartPole-v1", 0, 64 * summary["updates"])
    assert summary["reason"] == "solved"
    episodes = (run / "episodes.csv").read_text().splitlines()
    lengths = [int(row.split(",")[3]) for row in episodes[1:]]
    assert len(lengths) == summary["episodes"] and sum(lengths) == summary["timesteps"] < summary["env_steps"]
    weighted, weight = 0.0, 0.0
    for length in lengths:
        weighted, weight = 0.99 * weighted + 0.01 * length, 0.99 * weight + 0.01
    running_reward = weighted / weight
    assert running_reward == pytest.approx(summary["running_reward"], rel=1e-9)
    evaluation = Evaluation(**summary["confirmation"]["result"])
    assert evaluation.episodes == 100 and evaluation.mean > 475
    assert f"Solved and confirmed after {summary['episodes']:,} episodes: {evaluation} exceeds 475" in printed.out
    assert printed.out.splitlines()[-1] == "Ended: solved. Run folder: runs/CartPole-v1/version_0"
    assert printed.err == ""
    main(["fit", *SMALL])
    assert (run_of(folder, 1) / "summary.json").exists()


def test_the_saved_config_runs_the_same_again(folder):
    main(["fit", *SMALL, "--model.gamma", "0.9", "--seed_everything", "7"])
    main(["fit", "--config", str(run_of(folder) / "config.yaml")])
    first, second = (torch.load(run_of(folder, n) / "checkpoints/last.ckpt")["state_dict"] for n in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first if isinstance(first[name], torch.Tensor))
    one, two = (yaml.safe_load((run_of(folder, number) / "config.yaml").read_text()) for number in (0, 1))
    assert one == two


def flat(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in (None, {}):
            yield f"{prefix}{name}", value


def test_cartpole_yaml_spells_out_every_part():
    given = yaml.safe_load((CONFIGS / "cartpole.yaml").read_text())
    parts = {"env", "data", "stop", "lines", "checkpoint"}
    main(["fit", "--config", str(CONFIGS / "cartpole.yaml"), *SMALL, "--data.episodes_per_update", "2"])
    saved = yaml.safe_load((run_of(Path()) / "config.yaml").read_text())
    assert {name: saved[name].keys() - given[name].keys() for name in parts} == {key: set() for key in parts}
    assert given["model"].keys() >= {"policy", "returns", "baseline", "normalization", "direction", "gamma"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Box2D's import ends the process otherwise.
@pytest.mark.parametrize("name", [path.name for path in CONFIGS.glob("*.yaml")])
def test_each_config_runs(name, folder):
    """Two updates of two short episodes; all but these options arrive as the file has them."""
    config = yaml.safe_load((CONFIGS / name).read_text())
    package = {"ALE": "ale_py", "MinAtar": "minatar"}.get(config["env"]["id"].split("/")[0])
    if package:
        pytest.importorskip(package)
    else:
        try:
            gym.make(config["env"]["id"]).close()
        except gym.error.DependencyNotInstalled as error:
            pytest.skip(str(error))
    short = {"env.max_episode_steps": 20, "data.num_envs": 2, "data.episodes_per_update": 2, "trainer.max_steps": 2}
    words = [word for option, value in short.items() for word in (f"--{option}", str(value))]
    main(["fit", "--config", str(CONFIGS / name), *QUIET, *words])
    saved = dict(flat(yaml.safe_load(next(folder.glob("runs/*/version_0/config.yaml")).read_text())))
    given = dict(flat(config)) | short
    assert {option: saved[option] for option in given} == given


def test_the_article_prints_a_line_every_50_episodes(capsys):
    main(["fit", "--config", str(CONFIGS / "article.yaml"), *QUIET, "--trainer.max_steps", "101"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Episode ")]
    assert [int(line[1]) for line in lines] == [0, 50, 100]
    rows = Path("runs/CartPole-v1/version_0/episodes.csv").read_text().splitlines()[1:]
    lengths = [int(row.split(",")[3]) for row in rows]
    running_reward = 10.0
    for episode, length in enumerate(lengths):
        running_reward = 0.99 * running_reward + 0.01 * (length - 1)
        if episode % 50 == 0:
            assert lines.pop(0)[4:] == [str(length), "average", "length", f"{running_reward:.2f}"]


def test_help_names_every_option_with_its_unit(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert not ended.value.code
    for option in ("num_envs", "episodes_per_update", "backend", "eval_episodes"):
        assert f"--data.{option}" in text
    for option in ("id", "kwargs", "max_episode_steps", "wrappers"):
        assert f"--env.{option}" in text
    assert "--model.env " not in text and "--data.env " not in text
    assert "An epoch is 1,000 updates" in text
    for option in (
        "--model.gamma",
        "--model.policy",
        "--optimizer",
        "--lr_scheduler",
        "--stop.threshold",
        "--ckpt_path",
    ):
        assert option in text
    assert "discount factor per timestep" in text


def test_a_policy_an_optimizer_and_a_scheduler_by_class_path(folder):
    policy = ["--model.policy", "tests.envs.OwnPolicy", "--model.policy.units", "8"]
    learning = [
        "--optimizer",
        "SGD",
        "--optimizer.lr",
        "0.1",
        "--lr_scheduler",
        "StepLR",
        "--lr_scheduler.step_size",
        "1",
    ]
    main(["fit", *SMALL, *policy, *learning, "--model.direction", "Gradient"])
    path = run_of(folder) / "checkpoints/last.ckpt"
    checkpoint = torch.load(path)
    assert checkpoint["state_dict"]["policy.body.0.weight"].shape == (8, 4)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.1 * 0.1**3)
    agent = Reinforce.load_from_checkpoint(path)
    assert torch.equal(agent.policy.body[0].weight, checkpoint["state_dict"]["policy.body.0.weight"])


def test_an_environment_from_a_module(folder):
    main(["fit", *SMALL, "--env.id", "tests.envs:Counting-v0", "--env.kwargs", '{"lengths": [3, 7]}'])
    summary = json.loads((run_of(folder, env_id="tests.envs_Counting-v0") / "summary.json").read_text())
    assert (summary["episodes"], summary["timesteps"], summary["env_steps"]) == (6, 18, 18)
    assert summary["threshold"] is None and summary["solved"] is None and summary["reason"] == "max_steps"


def test_evaluation_prints_a_table_and_writes_it(folder, capsys):
    main(["fit", *QUIET, "--trainer.max_steps", "5"])
    capsys.readouterr()
    for command, count in (("test", 7), ("validate", 70)):
        main([command, "--ckpt_path", "last", *QUIET, "--data.eval_episodes", str(count)])
        table = capsys.readouterr().out
        report = json.loads((run_of(folder) / "evaluation.json").read_text())
        assert report["update"] == torch.load(run_of(folder) / "checkpoints/last.ckpt")["global_step"]
        for way in ("sampled", "greedy"):
            one = Evaluation(**report[way])
            assert one.episodes == count and one.low <= one.mean <= one.high and one.min <= one.mean <= one.max
            assert re.search(rf"^{way} +{count} +{one.mean:.2f} +{one.low:.2f} to {one.high:.2f} ", table, re.MULTILINE)
    main(["predict", "--ckpt_path", "last", *QUIET, "--data.eval_episodes", "7"])
    assert "7 episodes, mean return" in capsys.readouterr().out
    assert (run_of(folder) / "episodes.npz").exists()


def test_a_fast_dev_run_leaves_nothing(folder):
    main(["fit", *SMALL, "--trainer.fast_dev_run", "true"])
    assert list(folder.iterdir()) == []


def test_episodes_that_never_end_are_cut(folder):
    endless = ["--env.id", "tests.envs:Endless-v0", "--env.max_episode_steps", "4"]
    for number, envs in enumerate((["--data.backend", "sync"], ["--data.backend", "async"])):
        main(["fit", *SMALL, *endless, *envs])
        rows = (run_of(folder, number, "tests.envs_Endless-v0") / "episodes.csv").read_text().splitlines()[1:]
        assert {tuple(row.split(",")[3:]) for row in rows} == {("4", "True")}
    main(["fit", *SMALL, "--env.max_episode_steps", "5"])
    rows = (run_of(folder) / "episodes.csv").read_text().splitlines()[1:]
    assert {tuple(row.split(",")[3:]) for row in rows} == {("5", "True")}
