"""Two processes: the same weights, the gradient of all their episodes, one decision to stop, and no hanging."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from pg_lightning import Episodes, Reinforce
from pg_lightning.episodes import PER_EPISODE, PER_TIMESTEP
from pg_lightning.gradients import summed_over_chunks
from pg_lightning.tree import tree_map
from tests.helpers import ROOT

TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
FIT = [sys.executable, str(ROOT / "train.py"), "fit", *TWO, "--trainer.enable_progress_bar", "false"]
WITNESS = ["--trainer.callbacks", "tests.test_ddp.Witness"]


class Witness(Callback):
    """Writes what a process saw: its first episodes, the gradient then, and the weights at the end."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.seen = {"episodes": vars(batch.episodes).copy(), "before": pl_module.policy.state_dict()}
            self.seen["before"] = {name: value.clone() for name, value in self.seen["before"].items()}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 0:
            self.seen["gradients"] = [parameter.grad.clone() for parameter in pl_module.learning_parameters()]

    def on_train_end(self, trainer, pl_module):
        self.seen |= {"after": pl_module.policy.state_dict(), "updates": trainer.global_step}
        self.seen |= {"metrics": pl_module.metrics, "hparams": dict(pl_module.hparams)}
        torch.save(self.seen, f"rank{trainer.global_rank}.pt")


def fit(*options, folder):
    done = subprocess.run([*FIT, *options], cwd=folder, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "deprecated" not in done.stderr, done.stderr
    return done.stdout


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def joined(parts):
    """The episodes of all processes as those of one."""
    names = PER_TIMESTEP + PER_EPISODE
    trees = {name: tree_map(lambda *rows: torch.cat(rows), *(part[name] for part in parts)) for name in names}
    return Episodes(**trees, env_steps=sum(part["env_steps"] for part in parts), update=0)


PARTS = {
    "leave one out": ["--model.baseline=pg_lightning.LeaveOneOut", "--model.direction=pg_lightning.Gradient"],
    "per episode": [
        "--model.direction=pg_lightning.Gradient",
        "--model.baseline=pg_lightning.NoBaseline",
        "--model.normalization=pg_lightning.PerEpisode",
        "--model.discount_states=true",
    ],
}


@pytest.mark.parametrize("name", [pytest.param("per episode", marks=pytest.mark.slow), "leave one out"])
def test_the_gradient_is_that_of_one_process_with_all_episodes(name, tmp_path):
    fit(*PARTS[name], "--data.num_envs", "3", *WITNESS, "--trainer.max_steps", "2", folder=tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [rank["updates"] for rank in ranks] == [2, 2]
    for name, weights in ranks[0]["after"].items():
        assert torch.equal(weights, ranks[1]["after"][name])
    observations = [rank["episodes"]["observations"] for rank in ranks]
    assert observations[0].shape != observations[1].shape or not torch.equal(*observations)
    agent = Reinforce(**ranks[0]["hparams"])
    agent.policy.load_state_dict(ranks[0]["before"])
    batch = agent.estimate(joined([rank["episodes"] for rank in ranks]))
    assert len(batch.episodes) == 6
    loss, _ = summed_over_chunks(agent.loss, batch.chunks(1000), list(agent.policy.parameters()))
    loss.backward()
    for parameter, left, right in zip(agent.policy.parameters(), *(rank["gradients"] for rank in ranks), strict=True):
        assert torch.equal(left, right)
        assert (parameter.grad - left).norm() < 1e-5 * parameter.grad.norm()
    metrics = [rank["metrics"] for rank in ranks]
    for name in ("episode_return", "episode_length", "truncated", "episodes", "env_steps", "timesteps"):
        assert metrics[0][name] == metrics[1][name], name
    assert metrics[0]["episodes"] == 2 * 6 and metrics[0]["env_steps"] >= metrics[0]["timesteps"] > 12


@pytest.mark.parametrize("depth", [pytest.param("uint8", marks=pytest.mark.slow), "uint16"])
def test_a_shared_encoder_is_the_same_in_both_processes(depth, tmp_path):
    """Frames of 16 bits, which the backend cannot gather by their type."""
    parts = ["--model.policy=CNNPolicy", "--model.baseline=Critic"]
    parts += ["--model.baseline.encoder=pg_lightning.PolicyEncoder", "--env.kwargs", f"{{dtype: {depth}}}"]
    parts += ["--env.id=tests.pixels:Catch-v0", "--env.wrappers=[tests.pixels.stacked]", *WITNESS]
    fit(*parts, "--data.num_envs=4", "--trainer.max_steps=2", folder=tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    for name, weights in ranks[0]["after"].items():
        assert torch.equal(weights, ranks[1]["after"][name])
        assert not torch.equal(weights, ranks[0]["before"][name])


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_is_the_uninterrupted_one(tmp_path):
    learning = ["--data.num_envs", "3", "--model.baseline=pg_lightning.NoBaseline"]
    fit(*learning, "--trainer.max_steps", "4", folder=tmp_path)
    (tmp_path / "runs").rename(tmp_path / "whole")
    fit(*learning, "--trainer.max_steps", "2", folder=tmp_path)
    fit("--ckpt_path", "last", "--trainer.max_steps", "4", folder=tmp_path)
    whole, resumed = (
        torch.load(tmp_path / name / "CartPole-v1/version_0/checkpoints/last.ckpt") for name in ("whole", "runs")
    )
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name])
    for name in ("metrics.csv", "episodes.csv"):
        files = [(tmp_path / top / "CartPole-v1/version_0" / name).read_text() for top in ("whole", "runs")]
        assert files[0] == files[1]
    assert len(files[0].splitlines()) == 1 + 4 * 2 * 3, "the episodes of both processes"
    assert len(list((tmp_path / "runs/CartPole-v1").iterdir())) == 1, "only rank 0 makes a folder"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_cartpole_is_solved_and_both_stop(seed, tmp_path):
    learning = ["--data.num_envs", "32", "--optimizer=torch.optim.Adam", "--optimizer.lr=0.02"]
    out = fit(*learning, "--seed_everything", str(seed), "--trainer.max_steps", "80", *WITNESS, folder=tmp_path)
    assert out.count("Solved and confirmed after") == 1
    updates = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)["updates"] for rank in (0, 1)]
    summary = json.loads((tmp_path / "runs/CartPole-v1/version_0/summary.json").read_text())
    assert summary["solved"] and updates == [summary["updates"]] * 2
    assert summary["episodes"] == 64 * summary["updates"]


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_other(victim, tmp_path):
    options = ["--data.num_envs", "2", "--stop.threshold", "1e9", "--trainer.max_steps", "1000000"]
    options += ["--lines.every_n_episodes", "10"]
    with subprocess.Popen(
        [*FIT, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Episode"):
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = [child for child in children if "train.py" in Path(f"/proc/{child}/cmdline").read_text()]
        pids = [process.pid, int(ranks[0])]
        os.kill(pids[victim], signal.SIGKILL)
        started = time.monotonic()
        while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text() for pid in pids):
            assert time.monotonic() - started < 60
            time.sleep(0.2)
        process.stdout.close()
