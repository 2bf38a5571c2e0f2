"""Bad input: one line, exit code 1, whose fault it was, and a log where that helps.

Each test is named after the row of the findings that it closes.
"""

import re
from pathlib import Path

import pytest
from pytorch_lightning.callbacks import Callback

from tests.runs import (  # noqa: F401 - The folder is a fixture.
    FEW,
    error,
    folder,
    other,
    typed,
)

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


EARLY = "--trainer.max_steps 2 --trainer.limit_train_batches 1 --trainer.callbacks EarlyStopping"
NONSENSE = {
    "--model.direction Gradient --optimizer SparseAdam": "SparseAdam does not support dense gradients.*configuration",
    "--optimizer LBFGS": "LBFGS",
    "--lr_scheduler StepLR --lr_scheduler.step_size 0": "ZeroDivisionError.*configuration",
    f"{EARLY} --trainer.callbacks.monitor none": "`none`",
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


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_E8_a_failing_rank_is_one_line(rank):
    two = [
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        "2",
        "--trainer.callbacks",
        "tests.test_errors.FailingRank",
    ]
    done = typed("fit", *FEW, *two, "--trainer.callbacks.rank", str(rank))
    assert done.returncode == 1
    assert re.fullmatch(rf"error: RuntimeError: no memory on rank {rank} \(.*\)\n", done.stderr), done.stderr
    assert not list(Path("runs").rglob("version_*"))
