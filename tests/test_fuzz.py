"""Random options, environments and faults (see tests/fuzz.py): a short version, and with ``-m slow`` all cases."""

import json

import pytest

from tests.fuzz import check
from tests.fuzz_cases import generate


@pytest.mark.parametrize("seed", range(1000, 1025))
def test_random_runs(seed, tmp_path):
    result = check(seed, tmp_path)
    assert not result["wrong"], json.dumps(result, indent=1)


def test_a_case_follows_from_its_seed_and_every_second_has_a_fault():
    cases = [generate(seed) for seed in range(300)]
    assert cases == [generate(seed) for seed in range(300)]
    assert sum(case.kind != "none" for case in cases) >= 0.4 * len(cases)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_many_random_runs(seed, tmp_path):
    result = check(seed, tmp_path)
    assert not result["wrong"], json.dumps(result, indent=1)
