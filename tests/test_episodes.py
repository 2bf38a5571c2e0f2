import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pg_lightning import Batch, Episodes
from tests.helpers import tensors

E = 3
LENGTHS = [2, 1, 4]
T = sum(LENGTHS)


def episodes(**changes):
    values = {
        "observations": torch.arange(T * 3.0).reshape(T, 3),
        "actions": torch.arange(T),
        "log_probs": -torch.arange(1.0, T + 1),
        "rewards": torch.tensor([1.0, 2, 10, -1, 0, 0.5, 0.25], dtype=torch.float64),
        "dropout_masks": (torch.arange(T * 5).reshape(T, 5) % 2 == 0, torch.arange(T * 2).reshape(T, 2) % 3 == 0),
        "lengths": torch.tensor(LENGTHS),
        "terminated": torch.tensor([True, False, True]),
        "truncated": torch.tensor([False, True, True]),
        "final_observations": -torch.arange(E * 3.0).reshape(E, 3),
        "env_steps": 40,
        "update": 7,
    }
    return Episodes(**(values | changes))


def batch_of(sample, **changes):
    numbers = {"returns": torch.arange(T) * 2.0, "baseline": torch.arange(T) * 1.5, "advantages": torch.arange(T) / 2}
    return Batch(sample, **numbers | changes, num_episodes=E, outcome=sample.outcome())


def nested(rows):
    """A tree of rows, as Dict and Tuple spaces have."""
    return {"a": torch.arange(rows), "b": (torch.arange(rows * 2.0).reshape(rows, 2),)}


@pytest.mark.parametrize("name", ["observations", "actions", "log_probs", "rewards"])
def test_a_row_too_few(name):
    with pytest.raises(ValueError, match="not one row per timestep each"):
        episodes(**{name: getattr(episodes(), name)[:-1]})


def test_a_mask_of_too_many_rows():
    with pytest.raises(ValueError, match="not one row per timestep each"):
        episodes(dropout_masks=(torch.ones(T, 5, dtype=torch.bool), torch.ones(T + 1, 2, dtype=torch.bool)))


@pytest.mark.parametrize("name", ["log_probs", "rewards"])
def test_one_number_per_timestep_and_no_more(name):
    with pytest.raises(ValueError, match=r"per timestep|\[T\]|dimension"):
        episodes(**{name: torch.ones(T, 1)})


@pytest.mark.parametrize("name", ["lengths", "terminated", "truncated", "final_observations"])
def test_an_episode_too_few(name):
    with pytest.raises(ValueError, match="not one row per episode each"):
        episodes(**{name: getattr(episodes(), name)[:-1]})


@pytest.mark.parametrize("lengths", [[2, 1, 3], [2, 1, 5]])
def test_lengths_that_do_not_add_up(lengths):
    with pytest.raises(ValueError, match=rf"lengths sum to {sum(lengths)}, but there are {T} timesteps"):
        episodes(lengths=torch.tensor(lengths))


def test_an_episode_of_no_timesteps():
    with pytest.raises(ValueError, match="at least 1"):
        episodes(lengths=torch.tensor([2, 0, 5]))


def test_an_incomplete_episode():
    with pytest.raises(ValueError, match="must be complete"):
        episodes(truncated=torch.tensor([False, False, True]))


def test_statistics_are_exact():
    sample = episodes()
    assert (len(sample), sample.num_timesteps) == (E, T)
    assert sample.returns.tolist() == [3, 10, -0.25]
    assert sample.outcome().statistics() == {
        "episode_return": 12.75 / 3,
        "episode_length": 7 / 3,
        "truncated": pytest.approx(2 / 3),
    }
    assert sample.outcome().env_steps == 40


def test_returns_add_up_in_double_precision():
    rewards = torch.full((T,), 0.1, dtype=torch.float32)
    expected = [n * rewards[0].double().item() for n in LENGTHS]
    assert episodes(rewards=rewards).returns.tolist() == pytest.approx(expected, rel=1e-14)


@given(st.integers(1, 10))
def test_chunks_cover_every_timestep_once_and_in_order(size):
    sample = episodes()
    batch = batch_of(sample)
    chunks = list(batch.chunks(size))
    assert len(chunks) == math.ceil(T / size)
    assert [len(chunk.actions) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    for name in ("observations", "actions", "log_probs"):
        assert torch.equal(torch.cat([getattr(chunk, name) for chunk in chunks]), getattr(sample, name))
    assert torch.equal(torch.cat([chunk.advantages for chunk in chunks]), batch.advantages)
    for layer, mask in enumerate(sample.dropout_masks):
        assert torch.equal(torch.cat([chunk.dropout_masks[layer] for chunk in chunks]), mask)
    assert {chunk.num_episodes for chunk in chunks} == {E}


def test_chunks_are_views():
    sample = episodes()
    chunk = list(batch_of(sample).chunks(3))[1]
    assert chunk.observations.data_ptr() == sample.observations[3:].data_ptr()


def test_to_takes_every_tensor_along_and_keeps_the_rest():
    sample = episodes()
    moved = sample.to("cpu", copy=True)
    assert (moved.update, moved.env_steps) == (7, 40)
    for before, after in zip(tensors(sample), tensors(moved), strict=True):
        assert torch.equal(before, after) and before.dtype == after.dtype
        assert before.data_ptr() != after.data_ptr()


def test_trees_are_checked_cut_and_moved_leaf_by_leaf():
    sample = episodes(observations=nested(T), actions=nested(T), final_observations=nested(E))
    chunks = list(batch_of(sample).chunks(3))
    assert [chunk.observations["b"][0].shape for chunk in chunks] == [(3, 2), (3, 2), (1, 2)]
    for name in ("observations", "actions"):
        assert torch.equal(torch.cat([getattr(chunk, name)["a"] for chunk in chunks]), getattr(sample, name)["a"])
    doubled = sample.map(lambda leaf: leaf * 2 if leaf.is_floating_point() else leaf)
    assert torch.equal(doubled.observations["b"][0], 2 * sample.observations["b"][0])
    assert torch.equal(doubled.final_observations["b"][0], 2 * sample.final_observations["b"][0])
    with pytest.raises(ValueError, match="not one row per timestep each"):
        episodes(observations={"a": torch.arange(T), "b": torch.arange(T - 1)})
    with pytest.raises(ValueError, match="not one row per episode each"):
        episodes(final_observations={"a": torch.arange(E), "b": torch.arange(E + 1)})


@pytest.mark.parametrize("name", ["returns", "baseline", "advantages"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"must be a tensor \[T\], not NoneType"),
        (torch.ones(T, 1), rf"must be \[T\] = \[{T}\], not \[{T}, 1\]"),
        (torch.ones(T - 1), rf"must be \[T\] = \[{T}\], not \[{T - 1}\]"),
        (torch.ones(T, dtype=torch.int64), "must be floating-point numbers, not torch.int64"),
        (torch.ones(T, requires_grad=True), "must not carry a gradient"),
    ],
)
def test_a_batch_has_one_constant_weight_per_timestep(name, value, message):
    with pytest.raises(ValueError, match=f"{name} {message}"):
        batch_of(episodes(), **{name: value})
