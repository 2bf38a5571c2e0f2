import pytest

from pg_lightning import Linear
from pg_lightning.schedules import value_of


def test_a_line_from_the_start_to_the_end_of_a_run():
    line = Linear(0.02, 0.01)
    assert [line(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.02, 0.015, 0.01])


def test_a_schedule_needs_an_end():
    assert value_of(0.3, None) == 0.3
    assert value_of(Linear(1.0), 0.25) == 0.75
    assert value_of(Linear(1.0), 7.0) == 0.0
    with pytest.raises(ValueError, match=r"needs the end of the run: give StopAtRewardThreshold\(max_env"):
        value_of(Linear(1.0), None)


def test_values_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        Linear(float("nan"))
