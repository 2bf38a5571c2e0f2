"""Atari: ids, frames, backends and seeds. ale-py is needed (the extra ``atari``)."""

import gymnasium as gym
import numpy as np
import pytest

from pg_lightning.envs import Environment
from pg_lightning.envs.frames import FrameStackSpace

pytest.importorskip("ale_py")

PONG, GREY = "ALE/Pong-v5", {"obs_type": "grayscale"}


def pong(*names):
    return Environment(PONG, GREY, wrappers=[f"pg_lightning.envs.atari.{name}" for name in names])


def reference(screen):
    """The field as pg.py prepares it: cropped, every other pixel, two backgrounds erased, the rest 1."""
    field = screen[35:195][::2, ::2, 0].copy()
    field[(field == 144) | (field == 109)] = 0
    field[field != 0] = 1
    return field


def test_an_id_is_known_without_an_import_and_pays_whole_rewards():
    plain = Environment(PONG)
    assert plain.observation_space == gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
    assert plain.action_space == gym.spaces.Discrete(6) and plain.reward_threshold is None
    spec = plain.registration()
    assert spec.kwargs["repeat_action_probability"] == 0.25 and spec.kwargs["frameskip"] == 4
    assert spec.additional_wrappers == ()


def test_frames_are_the_references():
    stack, difference = (pong(name).make() for name in ("pong_stack", "pong_difference"))
    emulator, before = stack.unwrapped.ale, None
    assert isinstance(stack.observation_space, FrameStackSpace) and stack.observation_space.shape == (2, 80, 80)
    (stacked, _), (changed, _) = (env.reset(seed=4) for env in (stack, difference))
    rng = np.random.default_rng(0)
    for _ in range(120):  # Two points of 60 steps.
        frame = reference(emulator.getScreenRGB())
        assert np.array_equal(stacked[1], frame)
        assert np.array_equal(stacked[0], frame if before is None else before)
        expected = np.zeros((80, 80), int) if before is None else frame.astype(int) - before
        assert np.array_equal(changed, expected) and changed.dtype == np.int8
        action, before = int(rng.integers(6)), frame
        stacked, changed = stack.step(action)[0], difference.step(action)[0]
    assert 0 < before.sum() < 200 and np.abs(expected).sum() > 0


def test_two_actions_are_up_and_down():
    env = pong("pong_difference", "pong_up_or_down").make()
    assert env.action_space == gym.spaces.Discrete(2)
    meanings = env.unwrapped.get_action_meanings()
    assert [meanings[env.func(action)] for action in (0, 1)] == ["RIGHT", "LEFT"]  # Of the paddle's knob.


def test_other_games_are_halved():
    env = Environment("ALE/Breakout-v5", GREY, wrappers=["pg_lightning.envs.atari.atari_stack"]).make()
    first, _ = env.reset(seed=0)
    screen = env.unwrapped.ale.getScreenGrayscale().astype(int)
    assert first.shape == (4, 105, 80) and first.dtype == np.uint8
    assert first[-1, 40, 30] == screen[80:82, 60:62].sum() // 4 and (first == first[-1]).all()


def test_games_of_another_size_are_halved_too():
    env = Environment("ALE/AirRaid-v5", GREY, wrappers=["pg_lightning.envs.atari.atari_stack"]).make()
    assert env.reset(seed=0)[0].shape == (4, 125, 80)


@pytest.mark.parametrize("wrapper", ["pong_stack", "pong_difference", "pong_up_or_down"])
def test_what_is_for_pong_is_for_no_other_game(wrapper):
    with pytest.raises(ValueError, match="its field and its actions are Pong's, not those of ALE/Breakout-v5: give"):
        Environment("ALE/Breakout-v5", GREY, wrappers=[f"pg_lightning.envs.atari.{wrapper}"]).make()


def test_colours_are_refused():
    message = r"reads grey frames, \[height, width\], not \(210, 160, 3\): give --env.kwargs '\{obs_type: grayscale\}'"
    with pytest.raises(ValueError, match=message):
        Environment(PONG, wrappers=["pg_lightning.envs.atari.pong_stack"]).make()


def test_other_backends_show_other_frames_and_are_refused():
    """ale-py's own vector environment stacks, shrinks and clips rewards."""
    envs = Environment(PONG).make_vector(2)
    assert envs.backend == "sync"
    with pytest.raises(ValueError, match="ALE/Pong-v5 has other spaces than ALE/Pong-v5 itself: use the backend sync"):
        Environment(PONG).make_vector(2, "native")
    with pytest.raises(ValueError, match="takes no wrappers: use the backend sync or async"):
        pong("pong_stack").make_vector(2, "native")


def test_a_seed_decides_everything_also_in_other_processes():
    """Sticky actions too: the same actions give the same frames and rewards."""
    seen = []
    for backend in ("sync", "sync", "async"):
        envs, rng = pong("pong_stack").make_vector(2, backend), np.random.default_rng(1)
        steps = [envs.reset(seed=7)[0].copy()]
        steps += [envs.step(rng.integers(6, size=2))[0].copy() for _ in range(60)]
        envs.close()
        seen.append(np.stack(steps))
    assert np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0][:, 0], seen[0][:, 1])
