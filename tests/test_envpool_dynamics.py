"""EnvPool's environments behave as Gymnasium's do: where auto puts one in the place of the other, and only there."""

import warnings
from contextlib import suppress

import gymnasium as gym
import numpy as np
import pytest

from pg_lightning.envs import Environment
from pg_lightning.envs.envpool import DIFFERENT

with warnings.catch_warnings(action="ignore"), suppress(ImportError):
    import Box2D  # noqa: F401  # Its import would not survive pytest, which makes errors of warnings.

NUM_ENVS, STEPS, RESETS = 16, 50, 10


def eligible():
    """Ids that Gymnasium's own classes and EnvPool both have, and that can be made here."""
    envpool = pytest.importorskip("envpool")
    both = set(envpool.list_all_envs()) & gym.registry.keys()
    names = sorted(name for name in both if str(gym.spec(name).entry_point).startswith("gymnasium.envs."))
    return [name for name in names if not name.startswith(("phys2d", "tabular"))]


def statistics(env_id, backend):
    """Per episode of random actions, cut after 50 steps: return, length, and means of what was observed [E, K]."""
    envs, rows = Environment(env_id).make_vector(NUM_ENVS, backend), []
    actions, rng = envs.single_action_space, np.random.default_rng(0)
    for reset in range(RESETS if len(envs.single_observation_space.shape) < 3 else 1):
        observations = [np.array(envs.reset(seed=1000 * reset)[0])]
        live, totals = np.ones(NUM_ENVS, bool), np.zeros((NUM_ENVS, 3))
        sums = np.zeros((NUM_ENVS, observations[0][0].size * 2))
        for _ in range(STEPS):
            shape = (NUM_ENVS, *actions.shape)
            chosen = rng.integers(0, actions.n, shape) if actions.shape == () else rng.uniform(-1, 1, shape)
            chosen = chosen if actions.shape == () else actions.low + (chosen + 1) / 2 * (actions.high - actions.low)
            seen, rewards, terminated, truncated, _ = envs.step(chosen.astype(actions.dtype))
            flat = np.asarray(seen, np.float64).reshape(NUM_ENVS, -1)
            totals += live[:, None] * np.stack([rewards, np.ones(NUM_ENVS), terminated], 1)
            # Roots, because a few contacts would else outweigh all other steps.
            sums += live[:, None] * np.concatenate([flat, np.sqrt(np.abs(flat))], 1)
            live &= ~(terminated | truncated)
        rows.append(np.concatenate([totals, sums / totals[:, 1:2]], 1))
    envs.close()
    return np.concatenate(rows)


def distance(env_id):
    """The largest difference of two means, in standard errors."""
    ours, theirs = (statistics(env_id, backend) for backend in ("sync", "envpool"))
    scale = 1e-5 * (1 + np.abs(ours.mean(0)))  # EnvPool's numbers are float32 in part.
    errors = np.sqrt((ours.var(0) + theirs.var(0)) / len(ours)) + scale
    return (np.abs(ours.mean(0) - theirs.mean(0)) / errors).max()


@pytest.mark.slow
def test_auto_takes_what_agrees():
    found = {}
    for env_id in eligible():
        try:
            Environment(env_id).make_vector(2, "envpool").close()
        except ValueError:  # Other spaces, or one that cannot be made here.
            continue
        found[env_id] = distance(env_id)
        print(f"{env_id:30} {found[env_id]:.1f}")
    assert {env_id for env_id, value in found.items() if value > 6} == set(DIFFERENT)
    assert len(found) >= 30
