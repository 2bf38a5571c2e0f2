"""Hyper-parameters as plain data: constructor arguments are recorded, described in a checkpoint, and built again.

A *spec* is what a LightningCLI config holds: ``{"class_path": "package.Name", "init_args": {...}}``. A checkpoint with
specs loads under ``weights_only`` and runs no pickled code.
"""

import inspect
import sys
from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from types import UnionType
from typing import Any, NoReturn, Self, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_PLAIN = (str, int, float, bool, type(None))
_TRUSTED = ("pg_lightning", "torch", "pytorch_lightning")


class Recorded:
    """Mixin that records the constructor's arguments, so that :func:`describe` can write them into a checkpoint.

    The outermost constructor counts: a subclass records its own arguments, not those that it passes to its base.

    >>> class Scale(Recorded):
    ...     def __init__(self, factor: float, shift: float = 0.0) -> None:
    ...         self.f = factor
    >>> recorded_arguments(Scale(2.0))
    {'factor': 2.0}
    """

    _recorded: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments."""
        if cls.__init__ is object.__init__ and (args or kwargs):
            # Python leaves this check out for a class with a __new__ of its own.
            raise TypeError(f"{cls.__name__}() takes no arguments")
        self = super().__new__(cls)
        object.__setattr__(self, "_recorded", (args, kwargs))  # Frozen dataclasses refuse a plain assignment.
        return self


_BUILDABLE = (Recorded, nn.Module, Optimizer, LRScheduler)
"""What a spec may name. A checkpoint that names another class, such as ``subprocess.Popen``, is refused."""


def recorded_arguments(value: Recorded) -> dict[str, Any]:
    """Map the names of the constructor's arguments that were given to their values.

    Raises:
        ValueError: an argument without a name, in ``*args`` or positional only.
    """
    args, kwargs = value._recorded
    constructor = inspect.signature(type(value).__init__)
    arguments = constructor.bind(value, *args, **kwargs).arguments
    named = dict[str, Any]()
    for position, (name, argument) in enumerate(arguments.items()):
        kind = constructor.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= argument
        elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY) and position > 0:
            raise ValueError(f"the constructor of {type(value).__name__} must take {name!r} by keyword")
        elif position > 0:  # The first one is self.
            named[name] = argument
    return named


def describe(value: Any, name: str = "value") -> Any:
    """Turn a class, a ``functools.partial`` of one or a :class:`Recorded` object into its spec.

    Args:
        value: also plain data and specs, which come back as they are. NumPy's scalars become Python's.
        name: name of the hyper-parameter, for messages.

    Returns:
        Plain data: None, bool, int, float, str, and lists, tuples and dicts of them.

    Raises:
        ValueError: something that a checkpoint could not name, such as a lambda, a local class or a tensor.

    >>> describe(partial(nn.Linear, bias=False))
    {'class_path': 'torch.nn.Linear', 'init_args': {'bias': False}}
    >>> describe(0.99)
    0.99
    """
    return _describe(value, name, _BUILDABLE, factory=None)


def _describe(value: Any, name: str, kinds: tuple[type, ...], factory: bool | None) -> Any:
    """See :func:`describe`. ``kinds``: what to derive from; ``factory``: whether a class is expected, not an object."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        if odd := [key for key in value if type(key) not in _PLAIN]:
            raise ValueError(f"{name}: a checkpoint cannot hold the key {odd[0]!r}; use a str")
        return {key: _describe(item, f"{name}.{key}", _BUILDABLE, False) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_describe(item, f"{name}[{index}]", _BUILDABLE, False) for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, type | partial):
        if factory is False:
            raise ValueError(f"{name}: expected an object, not {_shown(value)} (or annotate it with Callable)")
        named, arguments = _called(value, name)
    elif isinstance(value, Recorded):
        if factory is True:
            raise ValueError(f"{name}: expected a class or functools.partial of a class, not {_shown(value)}")
        named, arguments = type(value), recorded_arguments(value)
    else:
        _refuse(value, name)
    _check_kind(named, kinds, name)
    for argument, item in arguments.items():  # The names stay, so that their values may be replaced meanwhile.
        arguments[argument] = _describe(item, f"{name}.{argument}", *_declared(named, argument))
    return {"class_path": _class_path(named, name), "init_args": arguments}


def _check_kind(named: Any, kinds: tuple[type, ...], name: str, shown: str | None = None) -> None:
    """Refuse what is no subclass of one of these, and what no checkpoint may build."""
    if not (isinstance(named, type) and issubclass(named, kinds) and issubclass(named, _BUILDABLE)):
        bases = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name}: {shown or named.__name__} is not a class that derives from {bases}")


def _called(value: Any, name: str) -> tuple[type, dict[str, Any]]:
    """Split a class or a partial of one into the class and its arguments."""
    if isinstance(value, type):
        return value, {}
    if not isinstance(value, partial):
        _refuse(value, name)
    named, positional = value.func, value.args
    if getattr(named, "__module__", "").startswith("jsonargparse") and positional:
        # LightningCLI binds its own function to (instantiator, class).
        named, positional = positional[-1], ()
    if not isinstance(named, type):
        _refuse(named, name)
    if positional:
        raise ValueError(f"{name}: functools.partial({named.__name__}, ...) must bind its arguments by keyword")
    return named, dict(value.keywords)


def _shown(value: Any) -> str:
    """Say what a value is, short enough for one line."""
    kind = "class" if isinstance(value, type) else "function" if inspect.isroutine(value) else None
    return f"the {kind} {value.__name__}" if kind else f"an object of class {type(value).__name__}"


def _refuse(value: Any, name: str) -> NoReturn:
    """Raise the error for what a checkpoint cannot name."""
    raise ValueError(
        f"{name}: a checkpoint cannot name {_shown(value)}; pass a class, functools.partial of a class, "
        f"or an object whose class derives from Recorded"
    )


def _class_path(named: type, name: str) -> str:
    """Return the shortest import path of a class, such as ``torch.optim.Adam`` for ``torch.optim.adam.Adam``."""
    if "." in named.__qualname__:
        raise ValueError(f"{name}: a checkpoint cannot name the class {named.__qualname__}; define it at top level")
    parts = named.__module__.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if getattr(sys.modules.get(module), "__dict__", {}).get(named.__name__) is named:
            return f"{module}.{named.__name__}"
    raise ValueError(f"{name}: there is no class {named.__name__} in module {named.__module__}; define it there")


def _declared(owner: type, argument: str) -> tuple[tuple[type, ...], bool]:
    """Read from a constructor's annotation what an argument must derive from, and whether it is a class to call."""
    try:
        hint = get_type_hints(owner.__init__).get(argument)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # An annotation that names what is not imported.
        hint = None
    factory, kinds = False, list[type]()
    for option in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        origin = get_origin(option) or option
        if origin in (type, Callable):
            factory = True
            option = (get_args(option) or (None,))[-1]
        kind = get_origin(option) or option
        if isinstance(kind, type) and issubclass(kind, _BUILDABLE):
            kinds.append(kind)
    return tuple(kinds) or _BUILDABLE, factory


def is_spec(value: Any) -> bool:
    """Tell a spec from other plain data."""
    return isinstance(value, dict) and isinstance(value.get("class_path"), str)


def build(
    value: Any,
    kind: type | tuple[type, ...],
    *,
    name: str = "value",
    instance: bool = False,
    trusted: Collection[str] = (),
) -> Any:
    """Turn a spec back into what it describes; None, and what was built already, is returned unchanged.

    The spec may come from a checkpoint of unknown origin. Nothing is imported because a checkpoint says so, except
    from ``pg_lightning``, ``torch`` and ``pytorch_lightning``.

    Args:
        value: a spec; or an object or class of this kind, or None.
        kind: the class, or classes, that the named one must be a subclass of.
        name: name of the hyper-parameter, for messages.
        instance: whether to return an object, rather than the class with its arguments bound.
        trusted: names of further modules that may be imported.

    Raises:
        ValueError: a module that may not be imported; a class that does not exist; something of another kind.

    >>> build({"class_path": "torch.nn.Linear", "init_args": {"bias": False}}, nn.Module)(2, 3)
    Linear(in_features=2, out_features=3, bias=False)
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if value is None:
        return None
    if not is_spec(value):
        if instance and isinstance(value, type | partial):
            raise ValueError(f"{name}: expected an object, not {_shown(value)}")
        _check_kind(type(value) if instance else _called(value, name)[0], kinds, name)
        return value
    named = _find(value["class_path"], kinds, name, trusted)
    # jsonargparse keeps in dict_kwargs what it did not find in the signature.
    given = [value.get(part) or {} for part in ("init_args", "dict_kwargs")]
    if not all(isinstance(part, dict) and all(isinstance(key, str) for key in part) for part in given):
        raise ValueError(f"{name}: init_args of {value['class_path']} must map names to values, not {given[0]!r}")
    arguments: dict[str, Any] = given[0] | given[1]
    for argument, item in arguments.items():
        declared, factory = _declared(named, argument)
        arguments[argument] = _build_argument(item, declared, f"{name}.{argument}", not factory, trusted)
    if not instance:
        return partial(named, **arguments) if arguments else named
    try:
        inspect.signature(named.__init__).bind(None, **arguments)  # type: ignore[misc]
    except TypeError as error:
        raise ValueError(f"{name}: {value['class_path']}: {error}") from error
    return named(**arguments)


def _build_argument(value: Any, kinds: tuple[type, ...], name: str, instance: bool, trusted: Collection[str]) -> Any:
    """Build the specs in an argument."""
    if is_spec(value):
        return build(value, kinds, name=name, instance=instance, trusted=trusted)
    if isinstance(value, dict):
        return {key: _build_argument(item, _BUILDABLE, name, True, trusted) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = (_build_argument(item, _BUILDABLE, name, True, trusted) for item in value)
        return tuple(items) if isinstance(value, tuple) else list(items)
    return value


def _find(class_path: str, kinds: tuple[type, ...], name: str, trusted: Collection[str]) -> type:
    """Return the class of this import path; no attribute of an attribute is looked up."""
    module, _, attribute = class_path.rpartition(".")
    if not module or not all(part.isidentifier() for part in class_path.split(".")):
        raise ValueError(f"{name}: {class_path!r} is not the import path of a class, such as 'package.module.Name'")
    check_trusted(module, class_path, name, trusted)
    try:
        imported = sys.modules.get(module) or import_module(module)
    except Exception as error:
        raise ValueError(f"{name}: {class_path} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(imported, "__dict__", {}).get(attribute)
    if found is None:
        raise ValueError(f"{name}: there is no {class_path} here; {_instead(name)}")
    _check_kind(found, kinds, name, class_path)
    return found


def _instead(name: str) -> str:
    return f"pass the object: load_from_checkpoint(path, {name.partition('.')[0]}=...)"


def check_trusted(module: str, what: str, name: str, trusted: Collection[str] = ()) -> None:
    """Refuse a module that a checkpoint must not have imported.

    Args:
        module: full name of the module; one that is imported already is accepted.
        what: the thing in it, for the message.
        name: name of the hyper-parameter, for the message.
        trusted: names of modules that may be imported, with their submodules.

    Raises:
        ValueError: the module is neither imported nor trusted.
    """
    roots = (*_TRUSTED, *trusted)
    # A module named __main__ would run a command line.
    named = "__" not in module and any(module == root or module.startswith(f"{root}.") for root in roots)
    if module not in sys.modules and not named:
        raise ValueError(
            f"{name}: the checkpoint names {what}, and the module {module} is not imported. If you trust it, "
            f"import it first, or {_instead(name)}"
        )
