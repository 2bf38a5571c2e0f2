"""Video of episodes, recorded by Gymnasium's own wrapper, without a display."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pg_lightning.envs import Environment
from pg_lightning.sampling.playing import play


class VideoRecorder(Callback):
    """Records episodes every so many updates, into ``videos/`` of the Trainer's ``default_root_dir``.

    The policy plays as it would be deployed: in eval mode, greedily by default. Training is untouched by it. Loggers
    that take videos are handed the files.

    Args:
        every_n_updates: interval in updates.
        episodes: to record each time.
        greedy: the most probable actions, rather than sampled ones.

    Raises:
        ValueError: an interval or a number of episodes below 1.
    """

    def __init__(self, every_n_updates: int = 100, episodes: int = 1, greedy: bool = True) -> None:
        for name, value in (("every_n_updates", every_n_updates), ("episodes", episodes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.every_n_updates, self.episodes, self.greedy = every_n_updates, episodes, greedy

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what cannot be recorded, before anything is learnt."""
        recordable(pl_module.env)  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Record if it is time, in the first process."""
        if trainer.global_step % self.every_n_updates or not trainer.is_global_zero:
            return
        agent, folder = pl_module, Path(trainer.default_root_dir, "videos")
        name = f"update_{trainer.global_step}"
        paths = record(agent, agent.env, folder, name, self.episodes, greedy=self.greedy)  # type: ignore[arg-type]
        for logger in trainer.loggers:
            if hasattr(logger, "log_video"):
                logger.log_video("videos", [str(path) for path in paths], step=trainer.global_step)


def record(
    agent: Any, env: Environment, folder: Path, name: str, episodes: int, seed: int = 0, greedy: bool = True
) -> list[Path]:
    """Record whole episodes as mp4 files.

    Args:
        agent: with the policy that plays.
        env: what is played.
        folder: of the files; it is made.
        name: what the file names begin with.
        episodes: how many.
        seed: of the episodes.
        greedy: the most probable actions, rather than sampled ones.

    Returns:
        Paths of the files, one an episode.

    Raises:
        ValueError: the environment cannot be rendered, or moviepy is not installed.
    """
    rendered = recordable(env)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}-episode-{episode}.mp4" for episode in range(episodes)]
    with tempfile.TemporaryDirectory(dir=folder) as made:  # What has appeared in the folder is whole.

        def recorder(one: gym.Env) -> gym.Env:
            new = f"{made}/{len(list(Path(made).iterdir()))}"  # The wrapper warns of a folder that is there.
            return gym.wrappers.RecordVideo(one, new, lambda episode: True, name_prefix=name, disable_logger=True)

        recorded = replace(rendered, wrappers=[*(rendered.wrappers or ()), recorder])
        play(agent.policy, recorded, episodes, seed, greedy, num_envs=1, backend="sync")
        return [next(Path(made).glob(f"*/{one}")).replace(folder / one) for one in names]


def recordable(env: Environment) -> Environment:
    """Return an environment that renders pictures.

    Raises:
        ImportError: moviepy is not installed.
        ValueError: the environment cannot be rendered.
    """
    try:
        import moviepy  # noqa: F401
    except ImportError:
        raise ImportError("videos need moviepy: pip install 'pg_lightning[video]'") from None
    return rendering(env, "rgb_array")


def rendering(env: Environment, mode: str) -> Environment:
    """Return an environment that renders in a mode: ``human`` in a window, ``rgb_array`` as pictures.

    Raises:
        ValueError: it does not offer that mode.
    """
    rendered = replace(env, kwargs={**(env.kwargs or {}), "render_mode": mode})
    made = env.make()
    modes = made.metadata.get("render_modes") or []
    made.close()
    if mode not in modes:
        raise ValueError(f"{env.name} cannot be rendered as {mode!r}: its render_modes are {modes}")
    return rendered
