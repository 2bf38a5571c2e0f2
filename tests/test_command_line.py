"""The command line for people: help on two screens, suggestions that run, names of experiments."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pg_lightning import Reinforce
from pg_lightning.cli import main, run
from pg_lightning.cli.configs import by_name
from pg_lightning.cli.help import FIT, groups
from pg_lightning.cli.jobs import Parsed, parsed_config
from pg_lightning.cli.lightning import CLI
from tests.helpers import ROOT
from tests.runs import FEW, QUIET, error, folder  # noqa: F401

SHORT = [*FEW, "--trainer.max_steps", "2"]


def printed(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", CLI.all_commands())
def test_F1_help_fits_on_its_screens(command, capsys):
    lines = printed(capsys, command, "--help").splitlines()
    assert len(lines) <= (80 if command == "fit" else 24)
    assert max(map(len, lines)) <= 100
    assert f"python train.py {command}" in lines[0] and any("--ckpt_path" in line for line in lines)


def test_F1_help_all_has_every_option_and_no_layers_of_torch(capsys):
    text = printed(capsys, "fit", "--help-all")
    for option in ("--trainer.gradient_clip_val", "--model.chunk_size", "--stop.decay", "--data.step_timeout"):
        assert f"{option} " in text
    assert "torch.nn" not in text.partition("--model.policy POLICY")[2].partition("--model.returns")[0]


def test_F1_the_help_of_a_part_without_a_class_is_that_of_its_default(capsys):
    assert "--model.policy.hidden_sizes" in printed(capsys, "fit", "--model.policy.help")
    assert "--model.baseline.minibatch_size" in printed(capsys, "fit", "--model.baseline.help")


VALUES = {
    "config": "cartpole",
    "name": "first",
    "trainer.default_root_dir": "there",
    "env.id": "Acrobot-v1",
    "env.kwargs": "{}",
    "env.wrappers": "[gymnasium.wrappers.FlattenObservation]",
    "data.backend": "sync",
    "data.num_envs": "4",
    "trainer.max_time": "00:01:00:00",
    "model.policy": "MLPPolicy",
    "model.policy.hidden_sizes": "[8]",
    "model.policy.dropout": "0.1",
    "model.baseline": "Critic",
    "model.returns": "GAE",
    "model.normalization": "PerEpisode",
    "model.direction": "NaturalGradient",
    "model.gamma": "0.9",
    "optimizer": "SGD",
    "lr_scheduler": "ConstantLR",
    "trainer.logger": "CSVLogger",
    "trainer.enable_progress_bar": "false",
}


def test_every_option_of_the_help_is_one():
    """All are parsed at once, with values of their own; ckpt_path needs a run."""
    rows = [option for rows in FIT.values() for option, _, _ in rows if option != "ckpt_path"]
    cli = Parsed(by_name(["fit", *(word for option in rows for word in (f"--{option}", VALUES.get(option, "5")))]))
    assert cli.config.fit.model.policy.init_args.hidden_sizes == [8] and cli.config.fit.name == "first"
    assert cli.config.fit.stop.max_env_steps == 5 and cli.config.fit.optimizer.init_args.lr == 5
    for command in ("test", "predict", "watch", "export"):
        rows = [option for option, _, _ in groups(command)["Options"] if option not in ("ckpt_path", "config")]
        values = VALUES | {"untrained": "true", "format": "npz" if command == "predict" else "onnx", "greedy": "false"}
        Parsed([command, *(word for option in rows for word in (f"--{option}", values.get(option, "8")))])


TYPED = {
    "--lr 0.1": "--optimizer.lr",
    "--env Acrobot-v1": "--env.id",
    "--hidden 64": "--model.policy.hidden_sizes [64]",
    "--hidden_sizes=64,32": "--model.policy.hidden_sizes [64,32]",
    "--policy MLPPolicy": "--model.policy",
    "--gamma 0.9": "--model.gamma",
    "--gae_lambda 0.9": "--model.returns.gae_lambda",
    "--episodes 500": "--trainer.max_steps",
    "--max_steps 5": "--trainer.max_steps",
    "--total_timesteps 1000": "--stop.max_env_steps",
    "--num_envs 4": "--data.num_envs",
    "--batch_size 16": "--data.episodes_per_update",
    "--seed 3": "--seed_everything",
    "--logger false": "--trainer.logger",
    "--exp_name first": "--name",
    "--trainer.max_step 5": "--trainer.max_steps",
}


@pytest.fixture(scope="module")
def parse():
    """Parse words of ``fit`` as the command line does."""
    cli = Parsed(["fit"])

    def parse(*words):
        cli.words = ["fit", *words]
        cli.open_checkpoint()
        cli.parse_arguments(cli.parser, None)

    return parse


@pytest.mark.parametrize("typed", TYPED)
def test_E3_what_is_suggested_runs(typed, parse):
    with pytest.raises(ValueError, match=r"there is no option") as refused:
        parse(*typed.split())
    suggested = re.search(r"did you mean (.*?)\?", str(refused.value))[1]
    assert suggested == TYPED[typed]
    words = shlex.split(suggested)
    value = re.split("[ =]", typed, maxsplit=1)[1]
    parse(*words, *([] if len(words) > 1 else [value]))


def test_episodes_mean_those_of_the_evaluation_where_nothing_is_trained():
    with pytest.raises(ValueError, match=r"did you mean --data\.eval_episodes\?$"):
        Parsed(["test", "--untrained", "true", "--episodes", "10"])


def test_F4_an_experiment_has_a_name(capsys):
    main(["fit", *SHORT, "--name", "first"])
    assert "Run folder: runs/CartPole-v1/first/version_0" in capsys.readouterr().out
    main(["fit", *SHORT])
    main(["fit", "--ckpt_path", "last", "--name", "first", "--trainer.max_steps", "3"])
    assert "Ended: max_steps. Run folder: runs/CartPole-v1/first/version_0" in capsys.readouterr().out
    main(["fit", "--config", "runs/CartPole-v1/first/version_0/config.yaml"])
    assert sorted(path.as_posix() for path in Path("runs").rglob("version_*")) == [
        *(f"runs/CartPole-v1/first/version_{number}" for number in (0, 1)),
        "runs/CartPole-v1/version_0",
    ]
    assert yaml.safe_load(Path("runs/CartPole-v1/first/version_1/config.yaml").read_text())["name"] == "first"
    assert "no run of the experiment second in runs" in error("test", "--ckpt_path", "last", "--name", "second")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "version_3", "x" * 101, "../there"])
def test_a_bad_name_is_refused(name, folder):  # noqa: F811
    assert error("fit", *SHORT, f"--name={name}").endswith(f"not {name!r}")
    assert not list(folder.iterdir())


class Scaled(Reinforce):
    """An algorithm with an argument of its own."""

    def __init__(self, scale: float = 2.0, **arguments):
        super().__init__(**arguments)
        self.save_hyperparameters({"scale": scale})
        self.scale = scale

    def loss(self, chunk):
        loss, log_probs = super().loss(chunk)
        return self.scale * loss, log_probs


def test_F3_a_subclass_of_reinforce_is_named_and_resumed(capsys):
    own = ["--model_class", "tests.test_command_line.Scaled", "--model.scale", "3"]
    loss = {}
    for words, scale in (((), 1), (own, 3)):
        cli = run(["fit", *SHORT, *words, "--trainer.max_steps", "1"])
        loss[scale] = cli.model.metrics["loss"]
    assert loss[3] == pytest.approx(3 * loss[1], rel=1e-6)
    resumed = run(["fit", *SHORT, "--ckpt_path", "last"])
    assert type(resumed.model).__name__ == "Scaled" and resumed.model.scale == 3
    assert resumed.trainer.global_step == 2
    tested = run(["test", "--ckpt_path", "last", "--data.eval_episodes", "2", *QUIET])
    assert type(tested.model).__name__ == "Scaled"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such.Agent", "--model_class no_such.Agent: No module named 'no_such'"),
        ("pg_lightning.Nothing", "--model_class pg_lightning.Nothing: "),
        ("pg_lightning.Critic", "derived from pg_lightning.Reinforce, not pg_lightning.Critic"),
        ("Reinforce", "--model_class Reinforce: "),
    ],
)
def test_another_class_than_of_an_agent_is_refused(path, says):
    assert says in error("fit", *SHORT, "--model_class", path)


def test_a_class_starts_with_its_own_defaults(tmp_path):
    """However it is named; not with those of the default class that have the same names."""
    config = tmp_path / "one.yaml"
    config.write_text("model: {policy: {class_path: pg_lightning.policies.CNNPolicy}}")
    for words in (["--config", str(config)], ["--model.policy", "pg_lightning.policies.CNNPolicy"]):
        config_of = parsed_config([*words, "--env.id", "tests.pixels:Catch-v0"])
        assert config_of["model"]["policy"]["init_args"]["hidden_sizes"] == [256]
    config.write_text("trainer: {logger: {class_path: pytorch_lightning.loggers.WandbLogger}}")
    for words in (["--config", str(config)], ["--trainer.logger", "WandbLogger"]):
        assert parsed_config(words)["trainer"]["logger"]["init_args"]["name"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "--config", "cartpol"], "--config: there is no file cartpol; did you mean cartpole?"),
        (["compare", "cartpol"], "--config: there is no file cartpol; did you mean cartpole?"),
        (["compare", "--seed", "5"], "give --seeds 5:6 for the seed 5, not --seed"),
        (["compare", "--seed_everything=5"], "give --seeds 5:6 for the seed 5, not --seed_everything"),
        (["fit", "--model.baseline", "LeaveOnOut"], "(did you mean LeaveOneOut?); got LeaveOnOut"),
        (["fit", "--model.policy.hidden_sizes", "32"], "expected a list such as [64, 64]; got 32"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(words, says):
    assert says in error(*words)


def test_a_reader_that_has_left_is_no_error():
    words = [sys.executable, str(ROOT / "train.py"), "fit", "--help"]
    read, write = os.pipe()
    os.close(read)  # As head does when it has its lines.
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_modules_of_the_working_folder_are_found_and_shadow_nothing(tmp_path):
    """By ``train.py`` elsewhere, as by ``pg-lightning``, whose own folder Python looks in first."""
    (tmp_path / "my_module.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=9)\n"
    )
    (tmp_path / "numpy.py").write_text("raise RuntimeError('shadowed')\n")
    command = [sys.executable, str(ROOT / "train.py"), "fit", "--env.id", "my_module:Mine-v0"]
    done = subprocess.run(
        [*command, "--trainer.max_steps", "1"], cwd=tmp_path, capture_output=True, text=True, env=without_path()
    )
    assert done.returncode == 0, done.stderr


def without_path():
    """Variables of a process that is told no folders of modules."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
