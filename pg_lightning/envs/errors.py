"""Errors of an environment as one line that names the environment."""

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class EnvironmentFault(ValueError):
    """Error of an environment, its module or its wrappers, in one line; the original is its ``__cause__``."""


@contextmanager
def environment_errors(where: str | Callable[[], str] = "") -> Iterator[None]:
    """Turn whatever an environment raises into an EnvironmentFault of one line; only Ctrl-C passes.

    Args:
        where: names the environment and the moment; a function is called when something was raised.

    Raises:
        EnvironmentFault: "where: type: message". A ``sys.exit`` is an error, too: it would end the run as a success.

    >>> with environment_errors("environment 'Maze-v0', step 3"):
    ...     raise RuntimeError("no way out")
    Traceback (most recent call last):
    pg_lightning.envs.errors.EnvironmentFault: environment 'Maze-v0', step 3: RuntimeError: no way out
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # Not only Exception: a panic of a simulator written in Rust is none.
        place = where if isinstance(where, str) else where()
        line = ": ".join(part for part in (place, _describe(error)) if part)
        raise EnvironmentFault(textwrap.shorten(line, 1000, placeholder=" ...")) from error


def _describe(error: BaseException) -> str:
    """Return the type and message of an error; a fault that has been described already keeps its message."""
    if isinstance(error, EnvironmentFault):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the environment called sys.exit({'' if error.code is None else repr(error.code)})"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
