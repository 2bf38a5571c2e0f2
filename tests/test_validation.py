"""Validation during fit leaves training as it is, bit for bit."""

import pytest
import torch

from pg_lightning.cli import main
from tests.runs import QUIET

FEW = [
    "--data.num_envs",
    "2",
    "--data.episodes_per_update",
    "2",
    "--trainer.max_steps",
    "6",
    "--stop.confirm_episodes",
    "0",
    "--data.eval_episodes",
    "3",
]
FEW += ["--trainer.enable_progress_bar", "false"]
VALIDATING = ["--trainer.limit_val_batches", "1", "--trainer.val_check_interval", "2"]
VALIDATING += ["--trainer.check_val_every_n_epoch", "null"]
SETTINGS = {
    "default": [],
    "article": ["--config", "configs/article.yaml"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_validation_leaves_training_as_it_is(name, tmp_path):
    states = []
    for number, validating in enumerate(([], VALIDATING)):
        root = tmp_path / str(number)
        main(["fit", *SETTINGS[name], *FEW, *validating, "--trainer.default_root_dir", str(root)])
        run = root / "CartPole-v1/version_0"
        states.append(torch.load(run / "checkpoints/last.ckpt"))
        text = (run / "metrics.csv").read_text()
        assert ("greedy_return_mean" in text) == bool(validating)
    without, with_validation = states
    for part in ("state_dict", "optimizer_states"):
        assert equal(without[part], with_validation[part]), part


def equal(one, other):
    """Tell whether two trees of tensors and plain data are the same, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_an_evaluation_has_no_use_for_the_running_reward(tmp_path, monkeypatch):
    """Another statistic than the default one is no reason to refuse a test."""
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "article", "--trainer.max_steps", "2", *QUIET])
    main(["test", "--ckpt_path", "last", "--data.eval_episodes", "2", *QUIET])
