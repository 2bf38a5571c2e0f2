"""The house: which room imports which, how long files are, and that a new part touches one file."""

import ast
import pkgutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch.distributions import Independent, Normal

import pg_lightning
from pg_lightning import Baseline, Encoder, EpisodeDataModule, Head
from pg_lightning.envs import BACKENDS, Environment
from pg_lightning.policies import ENCODERS, HEADS
from tests.helpers import plain, trainer, weights_of

PACKAGE = Path(pg_lightning.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS = [
    {"tree", "frames", "hparams", "functional", "schedules", "memory", "statistics"},
    {"policies.dropout"},
    {"episodes"},
    {"envs", "metrics", "fitted", "fisher", "diagnostics", "policies", "gradients"},
    {"returns", "baselines", "normalizations", "directions", "checks", "critic", "optimizers"},
    {"gathering", "sampling", "checkpoint_file", "defaults", "evaluation"},
    {"agent"},
    {"reinforce"},
    {"plotting"},
    {"callbacks"},
    {"export"},
    {"cli"},
    {"__main__"},
]
"""Rooms from the bottom up: each imports from its own level and from those before it alone."""

OF_ENVIRONMENTS = {"gymnasium", "numpy", "envpool", "ale_py", "minatar"}
"""Packages that environments may import."""

LIGHTNING = {"sampling.dataset", "gathering", "agent", "reinforce", "callbacks", "cli", "plotting", "__main__"}
"""Rooms that may import Lightning."""


def name_of(file):
    """Dotted name of a module below the package: ``sampling.actors``, and ``sampling`` for a folder's ``__init__``."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(file):
    """Full names of the modules that a file imports, wherever it does so, but not for type checkers alone."""
    names = []
    tree = ast.parse(file.read_text())
    for_checkers = [
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    ]
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            # What is imported may itself be a module: pg_lightning.defaults of `from pg_lightning import defaults`.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def below(name, rooms):
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def level_of(name):
    """Level of a module, the first that names it most exactly."""
    found = [(len(room), level) for level, rooms in enumerate(LEVELS) for room in rooms if below(name, {room})]
    return max(found)[1] if found else None


MODULES = {info.name.removeprefix("pg_lightning.") for info in pkgutil.walk_packages([str(PACKAGE)], "pg_lightning.")}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_run_one_way(file):
    name = name_of(file)
    if name in ("", "__main__"):
        return
    assert level_of(name) is not None, f"{name} has no place in the house"
    for imported in imports_of(file):
        inside = imported.removeprefix("pg_lightning.")
        if imported.startswith("pg_lightning.") and inside in MODULES:
            assert level_of(inside) <= level_of(name), f"{name} imports {inside}, which stands above it"
        top = imported.split(".")[0]
        if top in ("pytorch_lightning", "lightning", "lightning_fabric"):
            assert below(name, LIGHTNING), f"{name} imports Lightning"
        if below(name, {"envs"}):
            allowed = below(inside, {"envs", "tree"}) or top in {*OF_ENVIRONMENTS, *STANDARD}
            assert allowed, f"{name} imports {imported}: environments need Gymnasium and NumPy only"
        if below(name, {"sampling"}):
            assert not below(inside, {"agent", "reinforce"}), f"{name} knows {inside}"


STANDARD = __import__("sys").stdlib_module_names


def test_no_file_is_long():
    lengths = {name_of(file): len(file.read_text().splitlines()) for file in FILES}
    assert lengths["reinforce"] <= 150
    assert not {name: length for name, length in lengths.items() if length > 300}


def test_the_algorithm_names_no_space_no_backend_and_no_file():
    source = (PACKAGE / "reinforce.py").read_text()
    assert not [
        word
        for word in ("gym.spaces", "Discrete", "Categorical", "isinstance(policy", "backend", "open(")
        if word in source
    ]


class ToyHead(Head):
    """A Normal of standard deviation 1 over a Box: what a new action space takes."""

    def __init__(self, space):
        super().__init__(space)
        self.num_outputs = int(np.prod(space.shape))

    def distribution(self, outputs):
        return Independent(Normal(outputs.unflatten(1, self.space.shape), 1.0), len(self.space.shape))

    def noise(self, rng, steps, num_envs):
        return rng.standard_normal((steps, num_envs, *self.space.shape), dtype=np.float32)

    def sample(self, outputs, noise):
        return outputs.reshape(noise.shape) + noise

    def mode(self, outputs):
        return outputs.reshape(len(outputs), *self.space.shape)


class ToyEncoder(Encoder):
    """Length of a text: what a new observation space takes."""

    num_features = 1

    def forward(self, observations):
        return (observations != 0).flatten(1).sum(1, keepdim=True).to(self._dtype.dtype)


class ToyBaseline(Baseline):
    """A running mean of the returns: what a new baseline takes."""

    def __init__(self, share=0.5):
        super().__init__()
        self.share, self.mean = share, 0.0

    def __call__(self, episodes, returns):
        baseline = torch.full_like(returns, self.mean)
        self.mean += self.share * (returns.mean().item() - self.mean)
        return baseline


def toy_backend(environment, num_envs):
    """Gymnasium's own environments one after the other: what a new backend takes."""
    return SyncVectorEnv([environment.make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def learns(agent, **settings):
    before = weights_of(agent.policy)
    trainer(3).fit(agent, EpisodeDataModule(num_envs=3, **settings))
    assert agent.num_episodes == 9 and agent.metrics["policy_lag"] < 1e-5
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))


def test_a_new_head_is_one_class_and_one_entry(monkeypatch):
    space = gym.spaces.Box(-1, 1, (2, 1), np.float32)
    monkeypatch.setitem(HEADS, gym.spaces.Box, ToyHead)
    agent = plain({"id": "tests.envs:Spaces-v0", "kwargs": {"actions": space}})
    assert isinstance(agent.policy.head, ToyHead)
    learns(agent)
    observation, _ = agent.env.make().reset(seed=0)
    assert space.contains(agent.act(observation))


def test_a_new_encoder_is_one_class_and_one_entry(monkeypatch):
    monkeypatch.setitem(ENCODERS, gym.spaces.MultiDiscrete, ToyEncoder)
    kwargs = {"observations": gym.spaces.MultiDiscrete([3, 3, 3]), "actions": gym.spaces.Discrete(2)}
    agent = plain({"id": "tests.envs:Spaces-v0", "kwargs": kwargs})
    assert isinstance(agent.policy.encoder, ToyEncoder)
    learns(agent)


def test_a_new_baseline_is_one_class():
    agent = plain("CartPole-v1", baseline=ToyBaseline(share=0.25))
    learns(agent)
    assert agent.baseline.mean != 0
    assert agent.hparams["baseline"] == {"class_path": "tests.test_house.ToyBaseline", "init_args": {"share": 0.25}}


def test_a_new_backend_is_one_function_and_one_entry(monkeypatch):
    monkeypatch.setitem(BACKENDS, "toy", toy_backend)
    assert Environment("CartPole-v1").make_vector(2, "toy").backend == "toy"
    learns(plain("CartPole-v1"), backend="toy")
