"""Distributions that cost nothing before somebody asks them for something: what a policy makes while it acts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

_make_categorical = Categorical.__init__


class DeferredCategorical(Categorical):
    """A Categorical that becomes torch's own when it is asked for anything, and computes nothing before.

    To normalise its logits takes torch longer than a forward pass through a small network, and to sample from it by
    the Gumbel-max trick they need not be normalised: :func:`unnormalized_logits`. It holds the tensor that it was
    given; who changes that in place before asking changes the distribution.
    """

    _arguments: tuple[Tensor | None, Tensor | None, bool | None]

    def __getattribute__(self, name: str) -> Any:
        """Become a Categorical, and answer as one."""
        probs, logits, validate_args = object.__getattribute__(self, "__dict__").pop("_arguments")
        self.__class__ = Categorical  # type: ignore[assignment]
        _make_categorical(self, probs, logits, validate_args)
        return getattr(self, name)


def _defer(
    self: Categorical, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
) -> None:
    """Take the place of ``Categorical.__init__``; classes derived from it, and compiled code, go on as ever."""
    if type(self) is not Categorical or torch.compiler.is_compiling():
        return _make_categorical(self, probs, logits, validate_args)
    self.__class__ = DeferredCategorical
    self._arguments = probs, logits, validate_args  # type: ignore[attr-defined]


def unnormalized_logits(distribution: Distribution) -> Tensor | None:
    """Return the logits that a Categorical was made of, normalised or not; ``None`` of anything else."""
    if type(distribution) is DeferredCategorical:
        probs, logits, _ = object.__getattribute__(distribution, "_arguments")
        return logits if probs is None and logits is not None else distribution.logits
    return distribution.logits if type(distribution) is Categorical else None


@contextmanager
def acting() -> Iterator[None]:
    """Within this context nothing is differentiated, and distributions neither check nor compute beforehand.

    Actors act in it. Entered once per update, it costs nothing per step.
    """
    validate, make = Distribution._validate_args, Categorical.__init__
    Distribution.set_default_validate_args(False)
    Categorical.__init__ = _defer  # type: ignore[method-assign]
    try:
        with torch.inference_mode():
            yield
    finally:
        Categorical.__init__ = make  # type: ignore[method-assign]
        Distribution.set_default_validate_args(validate)
