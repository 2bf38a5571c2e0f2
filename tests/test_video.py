"""Videos exist, show something and hold whole episodes; watching needs a window or says so."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from pg_lightning import EpisodeDataModule
from pg_lightning.callbacks import VideoRecorder
from pg_lightning.callbacks.video import record
from pg_lightning.cli import main
from pg_lightning.sampling.playing import play
from tests.helpers import plain, trainer, weights_of
from tests.runs import error

pytestmark = [  # The packages that write and read videos leave pipes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

QUIET = ["--trainer.enable_progress_bar", "false"]
FEW = ["--data.num_envs", "2", "--trainer.max_steps", "2", "--stop.confirm_episodes", "0", *QUIET]


def frames_of(path):
    """Frames of a video ``[F, H, W, 3]``."""
    with imageio.imopen(path, "r", plugin="FFMPEG") as video:
        return video.read()


def test_a_video_shows_a_whole_episode(tmp_path):
    agent = plain("CartPole-v1")
    paths = record(agent, agent.env, tmp_path, "agent", episodes=2)
    lengths = play(agent.policy, agent.env, 2, num_envs=1, backend="sync").lengths.tolist()
    for path, length in zip(paths, lengths, strict=True):
        frames = frames_of(path)
        assert abs(len(frames) - (length + 1)) <= 1  # The first observation is a frame, too.
        assert frames.std() > 10 and np.abs(frames[0].astype(int) - frames[-1]).max() > 100  # Neither black nor still.


def test_test_records_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["fit", *FEW])
    main(["test", "--ckpt_path", "last", "--data.eval_episodes", "2", "--video", "2", *QUIET])
    videos = Path("runs/CartPole-v1/version_0/videos")
    assert {path.name for path in videos.iterdir()} == {f"test_2-episode-{number}.mp4" for number in (0, 1)}
    assert f"Video: {videos / 'test_2-episode-0.mp4'}" in capsys.readouterr().out


def test_recording_leaves_training_as_it_is(tmp_path):
    weights = []
    for callbacks in ([], [VideoRecorder(every_n_updates=2)]):
        torch.manual_seed(4)
        agent = plain("CartPole-v1")
        fitted = trainer(4, callbacks=callbacks, default_root_dir=tmp_path)
        fitted.fit(agent, EpisodeDataModule(num_envs=2))
        weights.append(weights_of(agent))
    assert all(one.equal(other) for one, other in zip(*weights, strict=True))
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {
        f"update_{update}-episode-0.mp4" for update in (2, 4)
    }


def test_what_cannot_be_recorded_is_said(tmp_path, monkeypatch):
    agent = plain("tests.envs:Counting-v0")
    with pytest.raises(ValueError, match=r"Counting-v0 cannot be rendered as 'rgb_array': its render_modes are \[\]"):
        record(agent, agent.env, tmp_path, "agent", 1)
    for options in ({"every_n_updates": 0}, {"episodes": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1, not 0"):
            VideoRecorder(**options)
    monkeypatch.setitem(sys.modules, "moviepy", None)
    with pytest.raises(ImportError, match=r"videos need moviepy: pip install 'pg_lightning\[video\]'"):
        record(agent, agent.env, tmp_path, "agent", 1)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_recorded_is_refused_before_anything_is_played(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counting = ["--env.id", "tests.envs:Counting-v0"]
    cannot = "Counting-v0 cannot be rendered as 'rgb_array'"
    assert cannot in error("test", *counting, "--untrained", "true", "--video", "1")
    callback = ["--trainer.callbacks", "pg_lightning.callbacks.VideoRecorder"]
    assert cannot in error("fit", *counting, *callback)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.csv"))


def test_watching_plays_in_a_window(tmp_path, monkeypatch):
    """pygame's dummy driver opens a window that nobody sees; a driver that there is not ends in one line."""
    monkeypatch.chdir(tmp_path)
    main(["fit", *FEW, "--env.max_episode_steps", "10"])
    watch = [sys.executable, "-m", "pg_lightning", "watch", "--ckpt_path", "last", "--episodes", "2"]
    done = subprocess.run(watch, env=environment("dummy"), capture_output=True, text=True)
    assert done.returncode == 0 and "greedy          2 " in done.stdout, done
    done = subprocess.run(watch, env=environment("nonsense"), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: CartPole-v1, evaluation, step 0: the environment")
    assert done.stderr.count("\n") == 1


class Printed(gym.Env):
    """One step long; "human" prints, as some games of text do."""

    metadata = {"render_modes": ["human"]}
    action_space, observation_space = gym.spaces.Discrete(2), gym.spaces.Box(0, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        print("a step")
        return np.zeros(1, np.float32), 1.0, True, False, {}


gym.register("Printed-v0", Printed)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a window needs no variable")
def test_without_a_display_it_says_what_to_do(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    fast = ["--env.id", "Printed-v0", "--episodes", "1"]
    main(["watch", "--untrained", "true", *fast])
    printed = capfd.readouterr()
    assert printed.err == "There is no display: if nothing is to be seen, test --video 3 records episodes\n"
    assert "a step\n" in printed.out


def environment(driver):
    """Variables of a process whose windows a driver of SDL opens."""
    return {**os.environ, "SDL_VIDEODRIVER": driver, "PYTHONPATH": str(Path(__file__).parents[1])}
