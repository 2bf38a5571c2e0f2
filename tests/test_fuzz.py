"""Random options, environments and faults (see tests/fuzz.py): a short version, and with ``-m slow`` all cases."""

import json

import pytest

from tests.fuzz import check
from tests.fuzz_cases import Case, generate
from tests.fuzz_checks import Checks


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_random_runs(seed, tmp_path):
    result = check(seed, tmp_path)
    assert not result["wrong"], json.dumps(result, indent=1)


def test_a_case_follows_from_its_seed_and_every_second_has_a_fault():
    cases = [generate(seed) for seed in range(300)]
    assert cases == [generate(seed) for seed in range(300)]
    assert sum(case.kind != "none" for case in cases) >= 0.4 * len(cases)


VALIDATES = {"--trainer.limit_val_batches": "1.0", "--trainer.val_check_interval": "1"}
PLATEAU = {"--lr_scheduler": "ReduceLROnPlateau", "--lr_scheduler.monitor": "episode_return"}
FOUND = {
    "validation leaves dropout in eval mode": VALIDATES | {"--model.policy.dropout": "0.3"},
    "rows of validation have the step before": VALIDATES,
    "the last row is missing": {"--trainer.log_every_n_steps": "2"},
    "a plateau is stepped before the first update after resuming": VALIDATES | PLATEAU,
    "numbers reach workers as scalars": {"--data.backend": "async", "--env.kwargs": '{"actions": "scalar"}'},
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name, tmp_path):
    plain = {"--env.id": "tests.fuzz_envs:Fuzz-v0", "--data.num_envs": "2", "--data.eval_episodes": "2"}
    plain |= {"--trainer.max_steps": "3", "--trainer.log_every_n_steps": "1", "--checkpoint.every_seconds": "0"}
    checks = Checks(Case(0, plain | FOUND[name]), tmp_path, fresh=False)
    assert not checks()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_many_random_runs(seed, tmp_path):
    result = check(seed, tmp_path)
    assert not result["wrong"], json.dumps(result, indent=1)
