"""Every kind of bad input: one clear line, a non-zero exit, nothing left behind."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from pg_lightning.cli import main

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with one run, and broken copies of its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    main(["fit", *QUIET, "--trainer.max_steps", "2", "--data.num_envs", "2", "--trainer.default_root_dir", str(folder)])
    last = next(folder.rglob("last.ckpt")).read_bytes()
    (folder / "truncated.ckpt").write_bytes(last[: len(last) // 2])
    (folder / "corrupt.ckpt").write_bytes(last[:200] + bytes(100) + last[300:])
    (folder / "empty.ckpt").write_bytes(b"")
    (folder / "text.ckpt").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(2)}, folder / "other.ckpt")
    (folder / "good.ckpt").write_bytes(last)
    (folder / "broken.yaml").write_text("model: {gamma: [")
    (folder / "misspelt.yaml").write_text("model: {gama: 0.9}")
    (folder / "text.yaml").write_text("just text")
    return folder


BAD = {
    "unknown environment": (
        "fit --env.id Nope-v0",
        r"environment 'Nope-v0': .*doesn't exist.*traceback in runs/errors/",
    ),
    "unknown version": ("fit --env.id CartPole-v9", r"environment 'CartPole-v9'"),
    "no such module": ("fit --env.id nomodule:Env-v0", r"No module named 'nomodule'"),
    "malformed id": ("fit --env.id ???", r"environment '\?\?\?'"),
    "environment argument": ('fit --env.kwargs {"foo":1}', r"unexpected keyword argument 'foo'"),
    "environment arguments of no names": ("fit --env.kwargs 3", r"--env.kwargs: expected a dict; got 3"),
    "gamma above 1": ("fit --model.gamma 1.5", r"gamma must be from 0 to 1, not 1.5"),
    "gamma below 0": ("fit --model.gamma -0.1", r"gamma must be from 0 to 1, not -0.1"),
    "gamma not a number": ("fit --model.gamma high", r"--model.gamma: expected a float; got high"),
    "gamma nan": ("fit --model.gamma .nan", r"gamma must be from 0 to 1, not nan"),
    "negative environments": ("fit --data.num_envs -3", r"num_envs must be at least 1, not -3"),
    "no environments": ("fit --data.num_envs 0", r"num_envs must be at least 1, not 0"),
    "half an environment": ("fit --data.num_envs 1.5", r"--data.num_envs: expected an int; got 1.5"),
    "fewer episodes than environments": (
        "fit --data.episodes_per_update 3",
        r"episodes_per_update \(3\) must be at least num_envs \(8\)",
    ),
    "episodes of no timesteps": (
        "fit --env.max_episode_steps 0",
        r"max_episode_steps must be an integer of at least 1 timestep, not 0",
    ),
    "no time for a step": ("fit --data.step_timeout 0", r"step_timeout must be more than 0 seconds.*not 0"),
    "all time for a step": ("fit --data.step_timeout .inf", r"--data.step_timeout must be a finite number, not inf"),
    "no evaluation episodes": (
        "test --untrained true --data.eval_episodes 0",
        r"eval_episodes must be at least 1, not 0",
    ),
    "unknown backend": ("fit --data.backend fast", r"backend must be one of auto, .*, not 'fast'"),
    "no native implementation": ("fit --env.id Acrobot-v1 --data.backend native", r"Acrobot-v1 has no vectorised"),
    "negative seed": ("fit --seed_everything -1", r"--seed_everything must be from 0 to 4294967295, not -1"),
    "seed of letters": ("fit --seed_everything abc", r"--seed_everything: expected an int; got abc"),
    "unknown policy module": ("fit --model.policy nope.Policy", r"--model.policy: no module named 'nope'"),
    "unknown policy class": ("fit --model.policy tests.envs.Nope", r"--model.policy: .*Nope"),
    "layer of no units": ("fit --model.policy.hidden_sizes [0]", r"hidden_sizes must be .*, not \[0\]"),
    "layer of too many units": ("fit --model.policy.hidden_sizes [100000000000]", r"hidden_sizes must be .*not \[1"),
    "layers that are no list": ("fit --model.policy.hidden_sizes 12", r"--model.policy.hidden_sizes: .*got 12"),
    "dropout of 1": ("fit --model.policy.dropout 1", r"dropout must be at least 0 and below 1, not 1"),
    "unknown baseline": ("fit --model.baseline Nope", r"--model.baseline: .*got Nope"),
    "option of 0.1": ("fit --model.advantage Nope", r"no option --model.advantage; did you mean --model.baseline\?"),
    "no chunk": ("fit --model.chunk_size 0", r"chunk_size must be at least 1 timestep, not 0"),
    "misspelt option": ("fit --model.gama 0.9", r"there is no option --model.gama; did you mean --model.gamma\?"),
    "misspelt option of a class": (
        "fit --model.direction.maxkl 1",
        r"--model.direction: option 'maxkl' is not accepted",
    ),
    "folder of a logger": ("fit --trainer.logger.save_dir logs", r"a logger writes to its run's folder"),
    "option from nowhere": ("fit --zzz 1", r"there is no option --zzz; see --help"),
    "misspelt command": ("fits", r"there is no command 'fits'; did you mean fit\?"),
    "no command": ("", r"a command is missing; choose one of fit, validate, test, predict, watch, "),
    "unknown optimizer": ("fit --optimizer Adamm", r"--optimizer: expected the name or the import path.*got Adamm"),
    "negative learning rate": ("fit --optimizer.lr -1", r"Invalid learning rate: -1"),
    "learning rate of letters": ("fit --optimizer.lr fast", r"--optimizer.lr: expected a float.*got fast"),
    "scheduler without its arguments": ("fit --lr_scheduler StepLR", r"--lr_scheduler: .*required: step_size"),
    "decay of 2": ("fit --stop.decay 2", r"decay must be at least 0 and below 1, not 2"),
    "threshold of letters": ("fit --stop.threshold high", r"--stop.threshold: expected a float; got high"),
    "unknown statistic": ("fit --stop.statistic mean", r"--stop.statistic: .*'return', 'last_timestep'; got mean"),
    "negative lines": ("fit --lines.every_n_episodes -5", r"every_n_episodes must be at least 0, not -5"),
    "negative seconds": ("fit --checkpoint.every_seconds -1", r"every_seconds must be at least 0 and finite, not -1"),
    "updates of letters": ("fit --trainer.max_steps many", r"--trainer.max_steps: expected an int; got many"),
    "accumulated gradients": ("fit --trainer.accumulate_grad_batches 4", r"accumulate_grad_batches must be 1"),
    "unknown strategy": ("fit --trainer.strategy nope", r"invalid strategy name: `strategy='nope'`"),
    "logger not installed": ("fit --trainer.logger CometLogger", r"comet-ml.*pip install -U 'comet-ml"),
    "unknown logger": ("fit --trainer.logger NoLogger", r"--trainer.logger: expected the name.*got NoLogger"),
    "no config file": ("fit --config nope.yaml", r"--config: File does not exist|--config: file does not exist"),
    "broken config file": ("fit --config {runs}/broken.yaml", r"Problems parsing config.*line 2"),
    "misspelt option in a config file": ("fit --config {runs}/misspelt.yaml", r"does not accept option 'model.gama'"),
    "config file of text": ("fit --config {runs}/text.yaml", r"Unexpected config: just text"),
    "no checkpoint file": ("fit --ckpt_path missing.ckpt", r"there is no checkpoint file 'missing.ckpt'"),
    "nothing to resume": ("fit --ckpt_path last", r"there is nothing to resume; no run in runs has a last.ckpt"),
    "nothing to test": ("test --ckpt_path best", r"there is nothing to resume; no run in runs has a last.ckpt"),
    "truncated checkpoint": ("fit --ckpt_path {runs}/truncated.ckpt", r"truncated.ckpt cannot be read"),
    "corrupt checkpoint": ("fit --ckpt_path {runs}/corrupt.ckpt", r"corrupt.ckpt cannot be read"),
    "empty checkpoint": ("test --ckpt_path {runs}/empty.ckpt", r"empty.ckpt cannot be read"),
    "checkpoint of text": ("test --ckpt_path {runs}/text.ckpt", r"text.ckpt cannot be read"),
    "checkpoint of something else": ("test --ckpt_path {runs}/other.ckpt", r"other.ckpt cannot be read"),
    "checkpoint of another policy": (
        "test --ckpt_path {runs}/good.ckpt --model.policy.hidden_sizes [32]",
        r"good.ckpt is of another policy: its policy.*weight is \(64, 4\), the configured one's \(32, 4\)",
    ),
    "checkpoint of another environment": (
        "fit --ckpt_path {runs}/good.ckpt --env.id Acrobot-v1",
        r"good.ckpt is of another policy: its policy.*\(4,\), the configured one's \(6,\)",
    ),
    "an environment that fails": (
        "predict --untrained true --env.id tests.envs:Failing-v0 --data.eval_episodes 3 --data.num_envs 1",
        r"Failing-v0, evaluation, step \d+: .*RuntimeError: the simulator lost its licence",
    ),
    "an observation of another shape": (
        'predict --untrained true --env.id tests.envs:Failing-v0 --data.num_envs 1 --env.kwargs {"how":"shape"}',
        r"Failing-v0, evaluation, step \d+: .*an observation of shape \(7,\) came",
    ),
    "rewards that are not finite": (
        "fit --env.id tests.envs:Broken-v0",
        r"update 0: environment 0.*rewards.*step",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, runs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    command, message = BAD[name]
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        main([word.format(runs=runs) if "{runs}" in word else word for word in command.split()] + QUIET * bool(command))
    assert isinstance(ended.value.code, str), "not a message: exit code 1 comes with one"
    assert ended.value.code.startswith("error: ") and "\n" not in ended.value.code
    assert re.search(message, ended.value.code), ended.value.code
    assert len(ended.value.code) < 700
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    logs = re.findall(r"traceback in (runs/errors/\S+\.log)\)$", ended.value.code)
    assert left == {*logs}, "left something behind"
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out


def test_a_failure_after_checkpoints_keeps_them(runs, tmp_path, monkeypatch):
    """Resuming with an environment that breaks leaves the run's last checkpoint as it was."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs, tmp_path / "copy")
    last = next(Path("copy").rglob("last.ckpt"))
    before = last.read_bytes()
    with pytest.raises(SystemExit, match="unexpected keyword argument 'foo'"):
        main(["fit", *QUIET, "--ckpt_path", str(last), "--env.kwargs", '{"foo":1}', "--trainer.max_steps", "9"])
    assert last.read_bytes() == before
