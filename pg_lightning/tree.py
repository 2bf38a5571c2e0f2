"""Trees of arrays or tensors: one array, or a nested dict or tuple of them, as Dict and Tuple spaces have."""

from collections.abc import Callable, Iterator
from typing import Any

Tree = Any
"""An array, a tensor, or a dict or tuple of trees."""


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply a function to every leaf of a tree, and to the leaves at the same place in others of the same structure.

    >>> tree_map(lambda a, b: a + b, {"x": 1, "y": (2, 3)}, {"x": 10, "y": (20, 30)})
    {'x': 11, 'y': (22, 33)}
    """
    if isinstance(tree, dict):
        return {key: tree_map(function, tree[key], *(other[key] for other in others)) for key in tree}
    if isinstance(tree, tuple):
        return tuple(tree_map(function, *parts) for parts in zip(tree, *others, strict=True))
    return function(tree, *others)


def tree_leaves(tree: Tree) -> list[Any]:
    """List the leaves of a tree, in the order of its keys and places.

    >>> tree_leaves({"x": 1, "y": (2, {"z": 3})})
    [1, 2, 3]
    """
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in tree_leaves(part)]
    if isinstance(tree, tuple):
        return [leaf for part in tree for leaf in tree_leaves(part)]
    return [tree]


def tree_rows(tree: Tree) -> Iterator[Tree]:
    """Iterate over the first dimension of all leaves together.

    >>> list(tree_rows({"x": [1, 2], "y": [3, 4]}))
    [{'x': 1, 'y': 3}, {'x': 2, 'y': 4}]
    """
    if not isinstance(tree, dict | tuple):
        return iter(tree)
    return (tree_map(lambda leaf, index=index: leaf[index], tree) for index in range(len(tree_leaves(tree)[0])))


def tree_named(name: str, tree: Tree) -> dict[str, Any]:
    """Name every leaf of a tree by its place.

    >>> tree_named("a", {"x": 1, "y": (2, 3)}), tree_named("a", 4)
    ({'a/x': 1, 'a/y/0': 2, 'a/y/1': 3}, {'a': 4})
    """
    if not isinstance(tree, dict | tuple):
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {full: leaf for key, part in items for full, leaf in tree_named(f"{name}/{key}", part).items()}
