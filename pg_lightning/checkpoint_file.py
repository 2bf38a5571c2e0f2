"""Checkpoint files, read as data: nothing that they carry is run."""

import inspect
import sys
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pg_lightning.hparams import check_trusted

FORMAT_KEY, FORMAT = "pg_lightning_format", 1
"""Name and value of the version of a checkpoint's content."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint without running any code that it might carry.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a whole checkpoint, or of a version that this package does not read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint file {str(path)!r}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if "state_dict" not in checkpoint or "global_step" not in checkpoint:
            raise KeyError("it holds no training state")
    except Exception as error:  # Whatever a broken file makes the unpickler raise.
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is damaged or no checkpoint"
        ) from error
    version = checkpoint.get(FORMAT_KEY)
    if version is None:
        raise ValueError(f"checkpoint {path} was written by pg_lightning 0.1 or another program: train anew")
    if version != FORMAT:
        raise ValueError(f"checkpoint {path} has format {version!r}, but this version of pg_lightning reads {FORMAT}")
    if not isinstance(checkpoint.get("hyper_parameters"), dict):
        raise ValueError(f"checkpoint {path} holds no hyper-parameters of an agent")
    return checkpoint


def check_environment(spec: Any) -> None:
    """Refuse an environment that a checkpoint names, where its id or a wrapper would import a module.

    Args:
        spec: id, or fields of an :class:`~pg_lightning.envs.Environment`.

    Raises:
        ValueError: a module that is not imported here.
    """
    fields = spec if isinstance(spec, dict) else {"id": spec}
    name, wrappers = fields.get("id"), fields.get("wrappers")
    if isinstance(name, str) and ":" in name:
        check_trusted(name.rpartition(":")[0], f"the environment {name}", "env")
    for path in wrappers if isinstance(wrappers, list | tuple) else ():
        if isinstance(path, str):
            module, _, attribute = path.replace(":", ".").rpartition(".")
            # Where the module has no such attribute, looking it up would import a submodule.
            known = hasattr(sys.modules.get(module), attribute)
            check_trusted(module if known else path, f"the wrapper {path}", "env")


def arguments_of(frame: FrameType, known: Collection[str]) -> dict[str, Any]:
    """Return the arguments of a constructor that is running, but for those that are known."""
    names, _, _, values = inspect.getargvalues(frame)
    return {name: values[name] for name in names[1:] if name not in known}


def load_agent(kind: type, path: str | Path, map_location: Any, strict: bool, arguments: dict[str, Any]) -> Any:
    """Build an agent of a class from a checkpoint and constructor arguments that win over those of the checkpoint."""
    checkpoint = read_checkpoint(path)
    taken, settled = parameters_of(kind)
    stored = checkpoint["hyper_parameters"]
    hyper_parameters = {name: value for name, value in stored.items() if name not in settled} | arguments
    if unknown := [repr(name) for name in hyper_parameters if name not in taken]:
        raise ValueError(
            f"checkpoint {path} has hyper-parameters that {kind.__name__} does not take: "
            f"{', '.join(unknown)}; it takes policy=..., env=... and the like"
        )
    if "env" not in arguments:
        check_environment(hyper_parameters.get("env"))
    try:
        agent = kind(**hyper_parameters)
    except TypeError as error:  # Such as an argument that the class settles, but takes in its **kwargs.
        raise ValueError(f"checkpoint {path}: {kind.__name__}: {error}") from error
    other = [name for name in settled & stored.keys() if agent.hparams.get(name) != stored[name]]
    if other:
        raise ValueError(f"checkpoint {path} has another {', '.join(sorted(other))} than {kind.__name__} settles")
    agent.on_load_checkpoint(checkpoint)
    agent.load_state_dict(checkpoint["state_dict"], strict=strict)
    return agent if map_location is None else agent.to(map_location)


def parameters_of(kind: type) -> tuple[set[str], set[str]]:
    """Name what the constructor of a class takes, and what it settles itself: those of its bases that it cannot."""
    taken, known, is_open = set[str](), set[str](), True
    for one in kind.__mro__:
        if "__init__" in vars(one):
            parameters = inspect.signature(one.__init__).parameters  # type: ignore[misc]
            known |= set(parameters)
            taken |= set(parameters) if is_open else set()
            is_open &= any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return taken, known - taken
