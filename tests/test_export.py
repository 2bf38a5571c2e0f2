"""Export: files that give, without this package, the actions and probabilities of the policy that they were made of."""

import json
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from torch import nn
from torch.distributions import Categorical

from pg_lightning import MLPPolicy, Reinforce
from pg_lightning.export import export
from pg_lightning.policies import BetaHead, PredictedStdGaussianHead, SquashedGaussianHead
from pg_lightning.sampling.actors import make_actor
from pg_lightning.tree import tree_leaves, tree_map, tree_named
from tests.heads import BOX, NESTED
from tests.test_masks import Masked  # noqa: F401 - registers Masked-v0

ROWS = 10_000
VECTOR = Box(-np.inf, np.inf, (3, 2), np.float64)
IMAGE = Box(0, 255, (12, 10, 3), np.uint8)
RICH = Dict(
    image=IMAGE, rest=Tuple([Discrete(5, start=2), MultiDiscrete([3, 4]), Text(4, charset="abc")]), number=VECTOR
)
CASES = {
    "discrete": (VECTOR, Discrete(4), None),
    "start": (Discrete(6, start=-2), Discrete(3, start=5), None),
    "multidiscrete": (VECTOR, MultiDiscrete([2, 4, 3], start=[0, 7, -1]), None),
    "equal parts": (MultiBinary((2, 3)), MultiDiscrete([3, 3]), None),
    "multibinary": (VECTOR, MultiBinary((2, 2)), None),
    "gaussian": (VECTOR, BOX, None),
    "predicted": (VECTOR, BOX, PredictedStdGaussianHead),
    "squashed": (VECTOR, BOX, SquashedGaussianHead),
    "beta": (VECTOR, BOX, BetaHead),
    "integers": (VECTOR, Box(-3, 9, (2, 2), np.int16), None),
    "number": (VECTOR, Box(-2, 3, (), np.float32), None),
    "image": (IMAGE, Discrete(4, start=1), None),
    "rich": (RICH, NESTED, None),
}


FOUR = Discrete(4)


def agent_of(observations=VECTOR, actions=FOUR, head=None, policy=MLPPolicy):
    """An agent whose actions differ from one observation to the next."""
    torch.manual_seed(0)
    spaces = {"observations": observations, "actions": actions}
    if policy is MLPPolicy:
        policy = partial(MLPPolicy, hidden_sizes=(32,), output_gain=1.0, head=head)
    return Reinforce({"id": "tests.envs:Spaces-v0", "kwargs": spaces}, policy)


def drawn(space, rows=ROWS, seed=1):
    """Observations, a tree of arrays ``[rows, ...]``; unbounded numbers of several scales, some beyond the clip."""
    rng = np.random.default_rng(seed)
    if isinstance(space, Dict):
        return {key: drawn(part, rows, seed) for key, part in space.items()}
    if isinstance(space, Tuple):
        return tuple(drawn(part, rows, seed) for part in space)
    if isinstance(space, Text):
        return rng.choice(np.array([0, *map(ord, space.characters)], np.int32), (rows, space.max_length))
    if space is VECTOR:
        return 10.0 + rng.standard_t(2, (rows, *space.shape)) * [[1, 100], [3, 0.01], [1, 10]]
    if isinstance(space, Discrete):
        return rng.integers(space.start, space.start + space.n, rows)
    if isinstance(space, MultiDiscrete):
        return rng.integers(0, space.nvec, (rows, *space.shape))
    return rng.integers(0, 2 if isinstance(space, MultiBinary) else 256, (rows, *space.shape)).astype(space.dtype)


def stored(observations):
    """Observations as the sampler keeps them."""
    return tree_map(lambda leaf: leaf.astype(np.float32) if leaf.dtype.kind == "f" else leaf, observations)


def fitted(agent, observations):
    """Fit the normaliser of an agent to observations of which those to come are other ones."""
    tensors = tree_map(torch.from_numpy, stored(observations))
    count = len(tree_leaves(tensors)[0])
    agent.policy.encoder.fit(SimpleNamespace(episodes=SimpleNamespace(observations=tensors, num_timesteps=count)))
    return agent


def by_onnxruntime(path, inputs):
    session = onnxruntime.InferenceSession(path)
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def greedy(agent, observations, *masks):
    """Actions of the policy as sampling takes them, and their distribution."""
    policy, rows = agent.policy.eval(), len(next(iter(tree_named("", observations).values())))
    actor = make_actor(policy, agent.env.action_space, greedy=True)
    actor.begin(rows, np.random.default_rng(0))
    raw = actor.act(observations, *masks)
    with torch.no_grad():
        distribution = policy(tree_map(torch.from_numpy, observations), *map(torch.from_numpy, masks))
    return tree_named("action", actor.to_env(raw)), distribution


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """Name of the case, the agent, the folder of its file, observations, what the file says and what the agent does."""
    observation_space, action_space, head = CASES[request.param]
    agent = fitted(agent_of(observation_space, action_space, head), drawn(observation_space, 500, seed=2))
    path = tmp_path_factory.mktemp("export")
    export(agent, path / "agent.onnx")
    observations = drawn(observation_space)
    outputs = by_onnxruntime(path / "agent.onnx", tree_named("observation", observations))
    return SimpleNamespace(
        name=request.param,
        agent=agent,
        folder=path,
        inputs=observations,
        outputs=outputs,
        played=greedy(agent, stored(observations)),
    )


def close_calls(case, name):
    """Whether an action is a close call, which rounding may decide: the two best, or the numbers to round."""
    outputs, space = case.outputs, case.agent.env.action_space
    place = name.removeprefix("action")
    if f"log_probs{place}" in outputs:
        best = np.sort(outputs[f"log_probs{place}"], -1)
        return best[..., -1] - best[..., -2] < 1e-6
    if f"logits{place}" in outputs:
        return (np.abs(outputs[f"logits{place}"]) < 1e-6).reshape(case.outputs[name].shape)
    if isinstance(space, Box) and space.dtype.kind == "i":
        half = outputs["mean"] * 6.5 + 3  # From -3.5 to 9.5.
        return np.abs(half - np.floor(half) - 0.5) < 1e-4
    return np.zeros(outputs[name].shape, bool)


def test_greedy_actions_are_those_of_the_policy(case):
    actions, _ = case.played
    assert {name for name in case.outputs if name.startswith("action")} == set(actions)
    for name, expected in actions.items():
        ours, call = case.outputs[name], close_calls(case, name)
        assert ours.dtype == expected.dtype and ours.shape == expected.shape
        assert call.mean() < 0.02 and np.ptp(ours) > 0
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(ours[~call], expected[~call])


def log_probs_of(outputs, place, part, raw):
    """Log-probabilities of raw actions by the numbers of the file alone ``[N]``."""
    raw, rows = raw.numpy().astype(np.float64), len(raw)
    own = {
        name.removesuffix(place): value.astype(np.float64) for name, value in outputs.items() if name.endswith(place)
    }
    if "log_probs" in own:
        each = np.take_along_axis(own["log_probs"], raw[..., None].astype(int), -1)[..., 0]
    elif "logits" in own:
        each = -np.logaddexp(0, np.where(raw == 1, -1, 1) * own["logits"])
    elif "mean" in own:
        z = (raw - own["mean"]) / np.exp(own["log_std"])
        each = -0.5 * z**2 - own["log_std"] - 0.5 * math.log(2 * math.pi)
        if part == "squashed":
            each = each - np.log1p(-(np.tanh(raw) ** 2))
    else:
        a, b = own["alpha"], own["beta"]
        lgamma = np.vectorize(math.lgamma)
        each = (a - 1) * np.log(raw) + (b - 1) * np.log1p(-raw) - lgamma(a) - lgamma(b) + lgamma(a + b)
    return each.reshape(rows, -1).sum(1)


def test_log_probs_are_those_of_the_policy(case):
    _, distribution = case.played
    torch.manual_seed(3)
    sample = distribution.sample()
    found = sum(
        log_probs_of(case.outputs, name.removeprefix("action"), case.name, raw)
        for name, raw in tree_named("action", sample).items()
    )
    with torch.no_grad():
        expected = distribution.log_prob(sample).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["discrete", "gaussian", "rich"], indirect=True)
def test_a_torch_program_gives_the_same_numbers(case):
    written = export(case.agent, case.folder / "agent.pt2", "torch_export", {"seed": 7})
    files = {"metadata.json": ""}
    program = torch.export.load(written.path, extra_files=files)
    assert json.loads(files["metadata.json"])["seed"] == "7"
    tensors = [torch.from_numpy(leaf) for leaf in tree_named("observation", case.inputs).values()]
    for rows in (1, ROWS):
        outputs = program.module()(*(leaf[:rows] for leaf in tensors))
        assert list(outputs) == [port.name for port in written.outputs]
        for name, values in outputs.items():
            np.testing.assert_allclose(values.numpy(), case.outputs[name][:rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["discrete"], indirect=True)
def test_one_observation_is_a_batch_too(case):
    found = by_onnxruntime(case.folder / "agent.onnx", {"observation": case.inputs[:1]})
    assert found["action"] == case.outputs["action"][0]


@pytest.mark.parametrize("case", ["start"], indirect=True)
def test_the_file_says_what_it_is_made_of(case):
    session = onnxruntime.InferenceSession(case.folder / "agent.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["env_id"] == "tests.envs:Spaces-v0" and facts["pg_lightning"]
    assert facts["observation_space"] == "Discrete(6, start=-2)" and facts["action_space"] == "Discrete(3, start=5)"
    assert facts["inputs"] == "observation: int64 [N]"
    assert facts["outputs"] == "action: int64 [N]\nlog_probs: float32 [N, 3]"
    assert session.get_inputs()[0].shape == ["N"] and session.get_outputs()[1].shape == ["N", 3]


@pytest.mark.parametrize("actions", ["discrete", "multidiscrete"])
@pytest.mark.parametrize("where", ["info", "observation"])
def test_action_masks_are_an_input(where, actions, tmp_path):
    torch.manual_seed(0)
    agent = Reinforce(
        {"id": "Masked-v0", "kwargs": {"where": where, "actions": actions}}, partial(MLPPolicy, output_gain=1.0)
    )
    written = export(agent, tmp_path / "agent.onnx")
    rng = np.random.default_rng(0)
    number, sizes = rng.random((ROWS, 1), np.float32), [4] if actions == "discrete" else [2, 3]
    one_of_each = np.concatenate([np.eye(size)[rng.integers(size, size=ROWS)] for size in sizes], axis=1)
    mask = (rng.random((ROWS, sum(sizes))) < 0.5) | (one_of_each > 0)
    observations = {"number": number} if where == "observation" else number
    found = by_onnxruntime(written.path, {**tree_named("observation", observations), "action_mask": mask})
    expected, _ = greedy(agent, observations, mask)
    np.testing.assert_array_equal(found["action"], expected["action"])
    assert len(np.unique(found["action"].reshape(ROWS, -1), axis=0)) > 2


class OwnPolicy(nn.Module):
    """A policy of a user, with a dropout."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, observations):
        outputs = self.body(observations)
        return Categorical(logits=outputs)


def test_a_policy_of_ones_own_without_its_dropout(tmp_path):
    agent = agent_of(policy=OwnPolicy)
    agent.policy.train()
    observations = drawn(VECTOR)
    found = by_onnxruntime(export(agent, tmp_path / "agent.onnx").path, {"observation": observations})
    assert agent.policy.training
    expected, distribution = greedy(agent, stored(observations))
    assert (found["action"] == expected["action"]).mean() > 0.999
    np.testing.assert_allclose(found["log_probs"], distribution.logits.numpy(), rtol=1e-5, atol=1e-5)


def test_in_double_precision(tmp_path):
    agent = agent_of().double()
    observations = drawn(VECTOR)
    found = by_onnxruntime(export(agent, tmp_path / "agent.onnx").path, {"observation": observations})
    _, distribution = greedy(agent, observations)
    assert found["log_probs"].dtype == np.float64
    np.testing.assert_allclose(found["log_probs"], distribution.logits.numpy(), rtol=1e-9, atol=1e-9)
