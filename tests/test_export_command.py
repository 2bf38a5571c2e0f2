"""Export: the command, what is refused, and an agent as a function of observations."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.distributions import Categorical, Normal, TanhTransform, TransformedDistribution

from pg_lightning import Reinforce
from pg_lightning.cli import main
from pg_lightning.export import export
from pg_lightning.policies import CategoricalHead
from tests.runs import FEW, RUN, error, folder  # noqa: F401
from tests.test_export import ROWS, VECTOR, OwnPolicy, agent_of, by_onnxruntime, drawn


class NoMode(OwnPolicy):
    """A policy whose distribution torch gives no mode."""

    def forward(self, observations):
        return TransformedDistribution(Normal(self.body(observations)[:, 0], 1.0), [TanhTransform()])


class Branching(OwnPolicy):
    """A policy that decides in Python by what it computes."""

    def forward(self, observations):
        outputs = self.body(observations)
        return Categorical(logits=2 * outputs if outputs.sum() > 0 else outputs)


class WorstHead(CategoricalHead):
    """A head that plays another action than the mode of its distribution."""

    def mode(self, outputs):
        return outputs.argmin(1)


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        (lambda: agent_of(policy=NoMode), "no mode"),
        (
            lambda: agent_of(policy=Branching),
            "cannot be exported to torch_export: Could",
        ),
        (lambda: agent_of(head=WorstHead), "action would not be the one that the policy plays"),
    ],
    ids=["no mode", "branch", "worst"],
)
def test_a_policy_that_cannot_be_exported_is_refused(agent, reason, tmp_path):
    with pytest.raises(ValueError, match=reason) as refused:
        export(agent(), tmp_path / "agent.pt2", "torch_export")
    assert "\n" not in str(refused.value)
    assert not [*tmp_path.iterdir()]


def test_to_onnx_names_the_function_that_works():
    with pytest.raises(NotImplementedError, match=r"pg_lightning.export.export\(agent, path\)"):
        agent_of().to_onnx("agent.onnx")


def test_an_agent_maps_observations_to_a_distribution():
    agent, observations = agent_of(), torch.from_numpy(drawn(VECTOR, 5)).float()
    assert torch.equal(agent(observations).logits, agent.policy(observations).logits)
    assert agent(observations, torch.tensor([[True, False, False, False]] * 5)).sample().tolist() == [0] * 5


# The command

RUN_ALONE = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession("runs/CartPole-v1/version_0/agent.onnx")
print(session.run(["action"], {"observation": numpy.zeros((1, 4), numpy.float32)})[0])
assert not {"torch", "gymnasium", "pg_lightning"} & {*sys.modules}
"""


@pytest.fixture
def run(folder):  # noqa: F811
    main(["fit", *FEW, "--trainer.max_steps", "2", "--seed_everything", "3"])


def test_the_command_writes_into_the_run_folder(run, capsys):
    capsys.readouterr()
    main(["export", "--ckpt_path", "last"])
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"Exported to {RUN}/agent.onnx",
        "  in  observation: float32 [N, 4]",
        "  out action: int64 [N]",
        "  out log_probs: float32 [N, 2]",
    ]
    assert not err
    facts = onnxruntime.InferenceSession(RUN / "agent.onnx").get_modelmeta().custom_metadata_map
    assert (facts["env_id"], facts["seed"], facts["update"]) == ("CartPole-v1", "3", "2")
    agent = Reinforce.load_from_checkpoint(RUN / "checkpoints/last.ckpt")
    assert int(facts["env_steps"]) == agent.num_env_steps > 0
    observations = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    found = by_onnxruntime(RUN / "agent.onnx", {"observation": observations})
    with torch.no_grad():
        expected = agent(torch.from_numpy(observations)).logits.numpy()
    np.testing.assert_allclose(found["log_probs"], expected, rtol=1e-5, atol=1e-5)
    alone = subprocess.run([sys.executable, "-c", RUN_ALONE], capture_output=True, text=True)
    assert alone.stdout.strip() in ("[0]", "[1]"), alone.stderr
    main(["export", "--ckpt_path", "last", "--format", "torch_export", "--output", "deep/er/mine.pt2"])
    assert torch.export.load("deep/er/mine.pt2").module()(torch.zeros(1, 4))["action"].shape == (1,)


def test_mistakes_get_one_line(run, monkeypatch):
    last = ["export", "--ckpt_path", "last"]
    assert "export needs --ckpt_path" in error("export")
    assert "a value out of 'onnx', 'torch_export'; got gif" in error(*last, "--format", "gif")
    assert "checkpoints is a folder: name a file" in error(
        "export", "--ckpt_path", "last", "--output", f"{RUN}/checkpoints"
    )
    for package in ("onnx", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            line = error(*last)
            assert line == "error: ONNX files need onnx and onnxscript: pip install 'pg_lightning[export]'"
            main([*last, "--format", "torch_export"])
    assert not Path(RUN, "agent.onnx").exists()
