"""Export: a trained policy as one file that runs without this package, by ONNX Runtime or by ``torch.export.load``.

The file maps raw observations ``[N, ...]``, in the environment's dtype, to the greedy actions as the environment takes
them and to the parameters of the policy's distribution. Encoder and running normalisation are inside.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.export import ExportedProgram

from pg_lightning import __version__
from pg_lightning.callbacks.files import write_whole
from pg_lightning.policies.fused import plain_layers
from pg_lightning.policies.parameters import parameters_of
from pg_lightning.sampling.actors import Actor, make_actor
from pg_lightning.sampling.reading import ObservationReader
from pg_lightning.tree import Tree, tree_map, tree_named

Format = Literal["onnx", "torch_export"]

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch_export": ".pt2"}
"""Ending of the file of each format."""

EXAMPLES = 8
"""Observations with which the policy is traced and checked."""


class Port(NamedTuple):
    """One input or output of an exported policy: its name, dtype and shape, with N for the number of observations."""

    name: str
    dtype: str
    shape: str

    def __str__(self) -> str:
        """Describe it: ``action: int64 [N]``."""
        return f"{self.name}: {self.dtype} {self.shape}"


class Exported(NamedTuple):
    """A file that :func:`export` has written."""

    path: Path
    inputs: list[Port]
    outputs: list[Port]

    def __str__(self) -> str:
        """Describe the file in one line for each input and output."""
        ports = [("in", port) for port in self.inputs] + [("out", port) for port in self.outputs]
        return "\n".join([str(self.path), *(f"  {way:<4}{port}" for way, port in ports)])


def export(agent: Any, path: str | Path, format: Format = "onnx", metadata: dict[str, Any] | None = None) -> Exported:
    """Write an agent's policy, as it would be deployed: in eval mode, on a CPU.

    Inputs are ``observation``, or ``observation/key`` for each entry of a Dict or Tuple space. A Text is the code
    points of its characters, int32 ``[N, max_length]``, with 0 after its end. Where the environment has action masks,
    there is ``action_mask``, bool ``[N, choices]``, those of a MultiDiscrete space side by side.

    Outputs are ``action``, the most probable one as the environment takes it, and the distribution over raw actions:

    - Discrete: ``log_probs`` ``[N, actions]``, normalised; MultiDiscrete: ``[N, *parts, choices]``, where a part has
      the lowest number of the dtype for choices that it lacks; MultiBinary: ``logits`` of a 1;
    - Box: ``mean`` and ``log_std`` ``[N, *act]`` in the units of the head (before the tanh of a squashed one), or
      ``alpha`` and ``beta``;
    - Dict and Tuple: each of these by entry, ``log_probs/key``.

    Args:
        agent: with the policy and its environment.
        path: of the file, which is written whole or not at all.
        format: ``"onnx"``, or ``"torch_export"`` for a program that ``torch.export.load`` reads.
        metadata: further entries for the file, beside the environment's id, its spaces and the version.

    Returns:
        Where the file is, with its inputs and outputs.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: the policy cannot be exported, or would act in another way than :meth:`Agent.act`.
    """
    path = Path(path)
    if format not in SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, not {format!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file for the exported policy")
    if format == "onnx":
        _require_onnx()
    policy = copy.deepcopy(agent.policy).cpu().requires_grad_(False)
    actor = make_actor(policy, agent.env.action_space, greedy=True)
    observations, masks = _examples(agent, actor.takes_masks)
    inputs = tree_named("observation", observations) | masks
    module = _Deployed(policy, actor.to_env, observations).eval()
    with _traceable():
        try:
            outputs = module(*inputs.values())
        except NotImplementedError:
            raise ValueError("the policy's distribution has no mode: there is no greedy action to export") from None
    _check_actions(actor, observations, masks, outputs)
    ports = [[_port(name, tensor) for name, tensor in tensors.items()] for tensors in (inputs, outputs)]
    ways = {way: "\n".join(map(str, own)) for way, own in zip(("inputs", "outputs"), ports, strict=True)}
    facts = {name: str(value) for name, value in (_facts(agent) | (metadata or {}) | ways).items()}
    try:
        with _traceable(), _quiet():
            content = WRITERS[format](_traced(module, inputs), list(inputs), list(outputs), facts)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the policy cannot be exported to {format}: {reason}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return Exported(path, *ports)


class _Deployed(nn.Module):
    """A policy from raw observations, leaf by leaf, to greedy actions and the parameters of its distribution."""

    def __init__(self, policy: nn.Module, to_env: Callable[[Tree], Tree], observations: Tree) -> None:
        super().__init__()
        self.policy, self.to_env, self.structure = policy, to_env, tree_map(lambda leaf: None, observations)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Map the leaves of observations ``[N, ...]``, and the action masks where there are any, to named outputs."""
        leaves = iter(inputs)
        dtype = next((p.dtype for p in self.policy.parameters()), torch.float32)
        dtype = torch.float64 if dtype == torch.float64 else torch.float32  # What the sampler would keep.
        observations = tree_map(lambda _: _number(next(leaves), dtype), self.structure)
        distribution = self.policy(observations, *leaves)
        actions = self.to_env(distribution.mode)
        return {**tree_named("action", actions), **parameters_of(distribution)}


def _number(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype) if values.is_floating_point() else values


def _examples(agent: Any, takes_masks: bool) -> tuple[Tree, dict[str, Tensor]]:
    """Draw observations, as a policy reads them but in the environment's dtypes, and masks that allow all actions."""
    env = agent.env
    space = copy.deepcopy(env.observation_space)
    space.seed(0)
    drawn = [space.sample() for _ in range(EXAMPLES)]
    batch = tree_map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *drawn)
    observations = ObservationReader(env.observation_space, env.action_space, takes_masks).observations(batch)
    masks = dict[str, Tensor]()
    if takes_masks and env.has_action_masks:
        actions = env.action_space
        choices = actions.n if isinstance(actions, gym.spaces.Discrete) else actions.nvec.sum()
        masks = {"action_mask": torch.ones(EXAMPLES, int(choices), dtype=torch.bool)}
    return tree_map(torch.from_numpy, observations), masks


def _check_actions(actor: Actor, observations: Tree, masks: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    """Refuse a policy whose distribution has another mode than the one that it plays."""
    with torch.random.fork_rng(devices=[]):
        actor.begin(EXAMPLES, np.random.default_rng(0))
        dtype = torch.float64 if actor.is_double else torch.float32
        read = tree_map(lambda leaf: _number(leaf, dtype).numpy(), observations)
        played = actor.to_env(actor.act(read, *(mask.numpy() for mask in masks.values())))
    for name, actions in tree_named("action", played).items():
        ours, theirs = np.asarray(outputs[name], np.float64), np.asarray(actions, np.float64)
        if ours.shape != theirs.shape or np.isclose(ours, theirs, 1e-3, 1e-3).mean() < 0.5:  # Ties may be broken.
            raise ValueError(f"the exported {name} would not be the one that the policy plays: it cannot be exported")


def _facts(agent: Any) -> dict[str, Any]:
    """Describe an agent for the file."""
    return {
        "env_id": agent.env.name,
        "observation_space": agent.env.observation_space,
        "action_space": agent.env.action_space,
        "policy": type(agent.policy).__name__,
        "episodes": int(agent.num_episodes),
        "env_steps": int(agent.num_env_steps),
        "pg_lightning": __version__,
    }


def _port(name: str, tensor: Tensor) -> Port:
    shape = ", ".join(["N", *map(str, tensor.shape[1:])])
    return Port(name, str(tensor.dtype).removeprefix("torch."), f"[{shape}]")


def _traced(module: nn.Module, inputs: dict[str, Tensor]) -> ExportedProgram:
    """Trace a module for any number of observations."""
    free = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    return torch.export.export(module, (*inputs.values(),), dynamic_shapes={"inputs": free})


def _onnx(program: ExportedProgram, inputs: list[str], outputs: list[str], facts: dict[str, str]) -> bytes:
    import onnx

    names = {"input_names": inputs, "output_names": outputs}
    made = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False, **names)  # type: ignore[arg-type]
    assert made is not None
    model = made.model_proto
    del model.graph.value_info[:]  # Of intermediate values: ONNX infers it.
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _torch_export(program: ExportedProgram, inputs: list[str], outputs: list[str], facts: dict[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(facts)})
    return file.getvalue()


WRITERS: dict[str, Callable[[ExportedProgram, list[str], list[str], dict[str, str]], bytes]] = {
    "onnx": _onnx,
    "torch_export": _torch_export,
}
"""Content of the file in each format."""


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError("ONNX files need onnx and onnxscript: pip install 'pg_lightning[export]'") from None


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Leave out what cannot be traced: fused functions, gradients, and the checks of distributions."""
    validate = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        with plain_layers(), torch.no_grad():
            yield
    finally:
        Distribution.set_default_validate_args(validate)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporters say about themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
