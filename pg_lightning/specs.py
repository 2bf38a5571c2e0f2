"""Objects as plain data, so that a checkpoint can name them and still load without running any pickled code.

A spec is what a LightningCLI config holds: ``{"class_path": "package.Name", "init_args": {...}}``.
"""

from functools import partial
from importlib import import_module
from typing import Any

UNNAMED = {"class_path": "", "init_args": {}}
"""The spec of what has no name or no plain arguments, such as a lambda."""

_PLAIN = (str, int, float, bool, type(None))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def describe(value: Any) -> Any:
    """Turn a class, a function, a ``partial`` of one or an object of plain attributes into its spec.

    Returns:
        Plain data as it is; :data:`UNNAMED` for what cannot be described.

    >>> from collections import Counter
    >>> describe(Counter)
    {'class_path': 'collections.Counter', 'init_args': {}}
    >>> describe(partial(Counter, a=1))
    {'class_path': 'collections.Counter', 'init_args': {'a': 1}}
    >>> describe(lambda: 0) == UNNAMED, describe(0.99)
    (True, 0.99)
    """
    if _is_plain(value):
        return value
    named, arguments = value, {}
    if isinstance(value, partial):
        named, arguments = (None if value.args else value.func), dict(value.keywords)
    elif not hasattr(value, "__qualname__"):
        named, arguments = (type(value) if hasattr(value, "__dict__") else None), dict(getattr(value, "__dict__", {}))
    name = getattr(named, "__qualname__", "")
    if not name.isidentifier() or not _is_plain(arguments):
        return UNNAMED
    return {"class_path": f"{named.__module__}.{name}", "init_args": arguments}


def build(value: Any, kind: type, *, instance: bool = False) -> Any:
    """Turn a spec back into what it describes; anything that is not a spec comes back as it is.

    Args:
        value: perhaps a spec, which may come from a checkpoint that nobody vouches for.
        kind: the class that it must be a subclass of: nothing else is ever called.
        instance: whether to call the class, rather than to return it with its arguments bound.

    Raises:
        ValueError: it names something else.

    >>> build({"class_path": "collections.Counter", "init_args": {"a": 1}}, dict, instance=True)
    Counter({'a': 1})
    >>> build({"class_path": "os.system", "init_args": {"command": "ls"}}, dict, instance=True)
    Traceback (most recent call last):
    ...
    ValueError: os.system is no dict
    """
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    module, _, name = value["class_path"].rpartition(".")
    named = getattr(import_module(module), name)
    if not (isinstance(named, type) and issubclass(named, kind)):
        raise ValueError(f"{value['class_path']} is no {kind.__name__}")
    made = partial(named, **value.get("init_args") or {})
    return made() if instance else made
