"""``compare --on ray``: runs on a cluster of two nodes, one of which goes away in the middle."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_compare import ROOT, table

pytestmark = pytest.mark.slow

WORDS = [str(ROOT / "configs/article.yaml"), "--seeds", "4", "--trainer.max_steps", "250", "--eval_episodes", "4"]
WORDS += ["--checkpoint.every_seconds", "0.1"]

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def run(out, *words, **environment):
    """Start a comparison of a few seconds."""
    command = [sys.executable, str(ROOT / "train.py"), "compare", *WORDS, "--out", str(out), *words]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL)


def test_a_node_that_goes_away_costs_no_run(tmp_path):
    pytest.importorskip("ray")
    here, there = tmp_path / "here", tmp_path / "there"
    assert run(here).wait() == 0
    quiet = os.environ | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", CLUSTER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=quiet, **pipes) as cluster:
        try:
            address = next(line for line in cluster.stdout if ":" in line and " " not in line.strip()).strip()
            comparison = run(there, "--on", "ray", RAY_ADDRESS=address)
            while len(started := {path.parents[2] for path in there.rglob("last.ckpt")}) < 2:  # One on each node.
                assert comparison.poll() is None
                time.sleep(0.05)
            assert not list(there.rglob("seed_*.json")), f"{started} had ended before the node went away"
            cluster.stdin.write("\n")
            cluster.stdin.flush()
            assert next(cluster.stdout).strip() == "removed"
            assert comparison.wait() == 0
        finally:
            cluster.communicate("\n")
    assert table(there) == table(here)
    assert "True" in Path(there, "comparison.csv").read_text()  # The run of the lost node went on elsewhere.
