import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pg_lightning.tree import tree_leaves, tree_map, tree_rows

leaves = st.integers(-9, 9)
trees = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(tuple), st.dictionaries(st.sampled_from("abc"), parts, min_size=1)
    ),
    max_leaves=8,
)


@given(trees)
def test_map_reaches_every_leaf_once_and_keeps_the_structure(tree):
    seen = []
    doubled = tree_map(lambda leaf: seen.append(leaf) or 2 * leaf, tree)
    assert seen == tree_leaves(tree)
    assert tree_leaves(doubled) == [2 * leaf for leaf in seen]
    assert tree_map(lambda leaf: leaf // 2, doubled) == tree


@given(trees)
def test_map_pairs_leaves_at_the_same_place(tree):
    negative = tree_map(lambda leaf: -leaf, tree)
    assert not any(tree_leaves(tree_map(lambda left, right: left + right, tree, negative)))


def test_dicts_are_matched_by_key_not_by_order():
    assert tree_map(lambda a, b: a - b, {"x": 5, "y": 3}, {"y": 1, "x": 2}) == {"x": 3, "y": 2}


@pytest.mark.parametrize("other", [{"x": (1,)}, {"x": (1, 2, 3)}, {"y": (1, 2)}, {}])
def test_another_structure_is_an_error(other):
    with pytest.raises((ValueError, KeyError)):
        tree_map(lambda a, b: a + b, {"x": (1, 2)}, other)


def test_an_array_is_a_leaf_and_a_list_too():
    array, tensor, names = np.arange(3), torch.arange(3), ["a", "b"]
    for leaf, found in zip((array, tensor, names), tree_leaves({"a": array, "b": (tensor, names)}), strict=True):
        assert leaf is found


def test_rows_of_a_tree_are_trees():
    first, second = tree_rows({"x": np.arange(4).reshape(2, 2), "y": (np.array([7, 8]),)})
    assert (first["x"].tolist(), first["y"]) == ([0, 1], (7,))
    assert (second["x"].tolist(), second["y"]) == ([2, 3], (8,))
    assert [row.tolist() for row in tree_rows(np.arange(4).reshape(2, 2))] == [[0, 1], [2, 3]]
