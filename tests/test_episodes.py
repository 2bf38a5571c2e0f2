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
        "masks": (torch.arange(T * 5).reshape(T, 5) % 2 == 0, torch.arange(T * 2).reshape(T, 2) % 3 == 0),
        "lengths": torch.tensor(LENGTHS),
        "terminated": torch.tensor([True, False, True]),
        "truncated": torch.tensor([False, True, True]),
        "update": 7,
    }
    return Episodes(**(values | changes))


@pytest.mark.parametrize("name", ["observations", "actions", "log_probs", "rewards"])
def test_a_row_too_few(name):
    with pytest.raises(ValueError, match="not one row per timestep each"):
        episodes(**{name: getattr(episodes(), name)[:-1]})


def test_a_mask_of_too_many_rows():
    with pytest.raises(ValueError, match="not one row per timestep each"):
        episodes(masks=(torch.ones(T, 5, dtype=torch.bool), torch.ones(T + 1, 2, dtype=torch.bool)))


@pytest.mark.parametrize("name", ["log_probs", "rewards"])
def test_one_number_per_timestep_and_no_more(name):
    with pytest.raises(ValueError, match=r"per timestep|\[T\]|dimension"):
        episodes(**{name: torch.ones(T, 1)})


@pytest.mark.parametrize("name", ["lengths", "terminated", "truncated"])
def test_an_episode_too_few(name):
    with pytest.raises(ValueError, match="not one entry per episode each"):
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


def test_returns_add_up_in_double_precision():
    rewards = torch.full((T,), 0.1, dtype=torch.float32)
    expected = [n * rewards[0].double().item() for n in LENGTHS]
    assert episodes(rewards=rewards).returns.tolist() == pytest.approx(expected, rel=1e-14)


@given(st.integers(1, 10))
def test_chunks_cover_every_timestep_once_and_in_order(size):
    sample = episodes()
    batch = Batch(sample, torch.arange(T) / 2)
    chunks = list(batch.chunks(size))
    assert len(chunks) == math.ceil(T / size)
    assert [len(chunk.actions) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    for name in ("observations", "actions"):
        assert torch.equal(torch.cat([getattr(chunk, name) for chunk in chunks]), getattr(sample, name))
    assert torch.equal(torch.cat([chunk.advantages for chunk in chunks]), batch.advantages)
    for layer, mask in enumerate(sample.masks):
        assert torch.equal(torch.cat([chunk.masks[layer] for chunk in chunks]), mask)
    assert {chunk.num_episodes for chunk in chunks} == {E}


def test_chunks_are_views():
    sample = episodes()
    chunk = list(Batch(sample, torch.zeros(T)).chunks(3))[1]
    assert chunk.observations.data_ptr() == sample.observations[3:].data_ptr()


def test_to_takes_every_tensor_along_and_keeps_the_rest():
    sample = episodes()
    moved = sample.to("cpu", copy=True)
    assert moved.update == 7
    for before, after in zip(tensors(sample), tensors(moved), strict=True):
        assert torch.equal(before, after) and before.dtype == after.dtype
        assert before.data_ptr() != after.data_ptr()
