"""What the command line says is so, and what it reads is data.

Each test is named after the row of the findings that it closes.
"""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from gymnasium.envs.classic_control import CartPoleEnv

from pg_lightning.cli import main
from pg_lightning.cli.runs import RunFolder, folder_name
from pg_lightning.plotting.run import title
from tests.runs import (  # noqa: F401 - The folder is a fixture.
    BROKEN,
    FEW,
    HEALTHY,
    QUIET,
    RUN,
    checkpoint,
    content,
    error,
    folder,
    other,
    typed,
)


def test_C7_testing_an_untrained_policy_must_be_asked_for(capsys):
    for command in ("test", "validate", "predict"):
        assert f"{command} needs --ckpt_path" in error(command, *QUIET)
    main(["test", "--untrained", "true", *QUIET, "--data.eval_episodes", "2", "--env.max_episode_steps", "5"])
    assert re.search(r"\ngreedy +2 ", capsys.readouterr().out)


def test_C7_a_policy_without_a_mode_is_tested_sampled_only(capsys):
    few = ["--model.policy", "tests.test_confirm.Modeless", "--data.eval_episodes", "2", *QUIET]
    with pytest.warns(UserWarning, match="no mode: sampled episodes only, no greedy ones"):
        main(["test", "--untrained", "true", *few])
    printed = capsys.readouterr().out
    assert re.search(r"\nsampled +2 ", printed) and "greedy" not in printed


def test_C8_each_process_writes_its_own_predictions():
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2", *QUIET, "--data.eval_episodes", "3"]
    done = typed("predict", "--ckpt_path", "last", *two)
    assert done.returncode == 0 and len(re.findall(r"3 episodes, mean return \S+: (\S+?\.npz)", done.stdout)) == 2
    assert {path.name for path in RUN.glob("*.npz")} == {"episodes_rank0.npz", "episodes_rank1.npz"}


def test_C8_what_is_to_be_watched_is_drawn(monkeypatch):
    """Also where a vectorised implementation would be faster, which takes the render mode and draws nothing."""
    frames = []
    monkeypatch.setattr(CartPoleEnv, "render", lambda env: frames.append(env))
    main(["fit", *FEW, "--trainer.max_steps", "2"])
    watch = ["test", "--ckpt_path", "last", *QUIET, "--data.eval_episodes", "2", "--env.kwargs"]
    main([*watch, '{"render_mode": "rgb_array"}'])
    assert not frames
    main([*watch, '{"render_mode": "human"}'])
    assert len(frames) >= 2 * 2 * 2, "each episode is drawn, sampled and greedy, from its reset on"
    for backend in ("native", "envpool"):
        line = error(*watch, '{"render_mode": "human"}', "--data.backend", backend)
        assert line == f"error: the backend {backend} opens no window for CartPole-v1: use sync or async"


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
    saved = checkpoint()
    change(saved["hyper_parameters"])
    torch.save(saved, "hostile.ckpt")
    Path("payload.py").write_text(PAYLOAD)


D1 = {
    "env": lambda hparams: hparams["env"].update(id="payload:Paid-v0"),
    "wrapper": lambda hparams: hparams["env"].update(wrappers=["payload.Wrapper"]),
    "policy": lambda hparams: hparams.update(policy={"class_path": "payload.Policy", "init_args": {}}),
    "encoder": lambda hparams: hparams["policy"]["init_args"].update(encoder={"class_path": "payload.Policy"}),
    "optimizer": lambda hparams: hparams.update(optimizer={"class_path": "payload.Policy", "init_args": {}}),
}


@pytest.mark.parametrize(("command", "name"), [*(("fit", name) for name in D1), ("test", "env"), ("test", "policy")])
def test_D1_a_checkpoint_imports_no_module(command, name):
    hostile(D1[name])
    done = other(command, "--ckpt_path", "hostile.ckpt", *QUIET)
    assert not Path("executed").exists()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert re.search(r"hostile.ckpt names payload\S+, and the module payload is not imported", done.stderr)


def test_D1_what_the_user_names_is_imported():
    hostile(D1["env"])
    done = other(
        "test", "--ckpt_path", "hostile.ckpt", *QUIET, "--env.id", "payload:Paid-v0", "--data.eval_episodes", "2"
    )
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


def test_D4_an_id_that_is_a_path_is_refused():
    for name in ("..", "../x", "."):
        assert "env.id must be a Gymnasium id" in error("fit", *FEW, "--env.id", name)
    assert not list(Path().iterdir())
