"""Checkpoint files, read as data: nothing that they carry is run."""

import inspect
import sys
from pathlib import Path
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


def check_arguments(kind: type, arguments: dict[str, Any], path: str | Path) -> None:
    """Refuse, with a ValueError, hyper-parameters of a checkpoint that a class does not take."""
    taken = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    if unknown := [repr(name) for name in arguments if name not in taken]:
        raise ValueError(
            f"checkpoint {path} has hyper-parameters that {kind.__name__} does not take: "
            f"{', '.join(unknown)}; it takes policy=..., env=... and the like"
        )
