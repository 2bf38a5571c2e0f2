"""Rows of observations and actions: one of N environments in trees of arrays [N, ...]."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Space, Tuple

from pg_lightning.envs.errors import EnvironmentFault


def _is_array(space: Space) -> bool:
    """Tell whether the values of a space are numbers of one shape: not those of Text, Graph, Sequence and OneOf."""
    return space.shape is not None and space.dtype is not None and space.dtype.kind in "biuf"


def has_only_arrays(space: Space) -> bool:
    """Tell whether the values of a space are trees of arrays of numbers."""
    if isinstance(space, Dict):
        return all(map(has_only_arrays, space.values()))
    if isinstance(space, Tuple):
        return all(map(has_only_arrays, space))
    return _is_array(space)


def empty_rows(space: Space, num_envs: int) -> Any:
    """Make room for one value of each environment: a tree of arrays ``[N, ...]``, as the space nests."""
    if isinstance(space, Dict):
        return {key: empty_rows(entry, num_envs) for key, entry in space.items()}
    if isinstance(space, Tuple):
        return tuple(empty_rows(entry, num_envs) for entry in space)
    return np.zeros((num_envs, *(space.shape or ())), space.dtype) if _is_array(space) else np.empty(num_envs, object)


def out_of_range(space: Space, values: Any) -> bool:
    """Tell whether an index in some values, a tree of ``[N, ...]``, is none of a Discrete or MultiDiscrete space.

    >>> out_of_range(Dict(color=Discrete(3, start=1)), {"color": np.array([1, 3])})
    False
    >>> out_of_range(Dict(color=Discrete(3, start=1)), {"color": np.array([0, 3])})
    True
    """
    if isinstance(space, Dict):
        return any(out_of_range(space[key], part) for key, part in values.items())  # Without an action mask.
    if isinstance(space, Tuple):
        return any(out_of_range(entry, part) for entry, part in zip(space, values, strict=True))
    if not isinstance(space, Discrete | MultiDiscrete):
        return False
    indices = np.asarray(values, np.int64) - space.start
    return bool((indices < 0).any() or (indices >= (space.n if isinstance(space, Discrete) else space.nvec)).any())


def row_writer(space: Space, rows: Any, entry: str = "") -> Callable[[int, Any], None]:
    """Make the function ``write(i, value)`` that puts the value of environment i in its row.

    Args:
        space: of one value.
        rows: made by ``empty_rows``.
        entry: place in a nested space, for messages.

    Returns:
        A function that raises an EnvironmentFault for a value of another shape, kind of number or nesting.
    """
    if isinstance(space, Dict):
        writers = {key: row_writer(space[key], rows[key], f"{entry}[{key!r}]") for key in space}
        return lambda i, value: _write_dict(i, value, writers, entry)
    if isinstance(space, Tuple):
        parts = [row_writer(part, rows[k], f"{entry}[{k}]") for k, part in enumerate(space)]
        return lambda i, value: _write_tuple(i, value, parts, entry)
    if not _is_array(space):
        return rows.__setitem__
    shape, dtype, is_float = rows.shape[1:], rows.dtype, rows.dtype.kind == "f"

    def write(i: int, value: Any) -> None:
        # Nearly all observations cost three comparisons and no conversion.
        if (
            type(value) is np.ndarray
            and value.shape == shape
            and (value.dtype is dtype or (is_float and value.dtype.kind == "f"))
        ):
            rows[i] = value
        else:
            rows[i] = _converted(value, shape, dtype, entry)

    def write_integer(i: int, value: Any) -> None:
        rows[i] = value if type(value) is int else _converted(value, shape, dtype, entry)

    return write_integer if isinstance(space, Discrete) else write


def _write_dict(i: int, value: Any, writers: dict[str, Callable[[int, Any], None]], entry: str) -> None:
    given = list(value) if isinstance(value, Mapping) else type(value).__name__
    if not isinstance(value, Mapping) or not writers.keys() <= value.keys():
        raise EnvironmentFault(f"{_observation(entry)} with {given} came, but the space has {list(writers)}")
    for key, write in writers.items():
        write(i, value[key])


def _write_tuple(i: int, value: Any, writers: list[Callable[[int, Any], None]], entry: str) -> None:
    given = f"{len(value)} parts" if isinstance(value, tuple | list | np.ndarray) else type(value).__name__
    if given != f"{len(writers)} parts":
        raise EnvironmentFault(f"{_observation(entry)} with {given} came, but the space has {len(writers)}")
    for write, part in zip(writers, value, strict=True):
        write(i, part)


def _observation(entry: str) -> str:
    return f"an observation (entry {entry})" if entry else "an observation"


def _converted(value: Any, shape: tuple[int, ...], dtype: np.dtype, entry: str) -> np.ndarray:
    """Return an observation as an array of its space's shape and kind of number.

    NumPy would stretch some shapes to fit, and cut floats to integers without a word.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # Lists of different lengths.
        raise EnvironmentFault(f"{_observation(entry)} came that is no array: {error}") from error
    if array.shape != shape:
        raise EnvironmentFault(f"{_observation(entry)} of shape {array.shape} came, but the space has shape {shape}")
    fits = np.can_cast(array.dtype, dtype, "same_kind")
    if array.dtype.kind in "iu" and dtype.kind in "iu":  # Pixels in an int64 array are well, if they are from 0 to 255.
        fits = bool((array.astype(dtype) == array).all())
    if not fits:
        given = f"of {array.dtype} and shape {array.shape}"
        raise EnvironmentFault(f"{_observation(entry)} {given} came, but the space has {dtype} and shape {shape}")
    return array


def as_reward(reward: Any) -> float:
    """Return a reward as a Python float; an array of one number counts as that number.

    >>> as_reward(np.array([0.5], np.float32))
    0.5
    """
    if isinstance(reward, int | np.floating | np.integer):
        return float(reward)
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise EnvironmentFault(f"a reward of {array.dtype} and shape {array.shape} came, but a reward is one number")
    return float(array.item())


def splitter(space: Space) -> Callable[[Any], Iterable[Any]]:
    """Make the function that splits actions ``[N, ...]`` into one for each environment.

    Those of a Discrete space become Python integers, which Gymnasium's environments check fastest. Those of other
    spaces are copied: an environment may keep its action, or change it in place.
    """
    if isinstance(space, Discrete):
        return np.ndarray.tolist
    if isinstance(space, Dict):
        parts = {key: splitter(entry) for key, entry in space.items()}
        return lambda actions: [
            dict(zip(parts, values, strict=True))
            for values in zip(*(split(actions[key]) for key, split in parts.items()), strict=True)
        ]
    if isinstance(space, Tuple):
        entries = [splitter(entry) for entry in space]
        return lambda actions: zip(*(split(part) for split, part in zip(entries, actions, strict=True)), strict=True)
    if space.shape == () and _is_array(space):  # The items of an array [N] are no arrays, as Box demands them.
        return lambda actions: list(map(np.array, actions))
    return np.array if _is_array(space) else list
