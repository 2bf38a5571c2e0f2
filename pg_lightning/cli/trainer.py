"""Trainer with the commands that Lightning's has not."""

from typing import Any

import pytorch_lightning as pl

from pg_lightning.callbacks.video import rendering
from pg_lightning.checkpoint_file import read_checkpoint
from pg_lightning.evaluation import evaluate, evaluation_table
from pg_lightning.sampling.playing import play


class RunTrainer(pl.Trainer):
    """Lightning's Trainer, with ``watch``."""

    def watch(
        self, model: Any, datamodule: Any = None, ckpt_path: str | None = None, episodes: int = 3, greedy: bool = True
    ) -> None:
        """Play in a window.

        Args:
            model: agent that plays.
            datamodule: for the seed.
            ckpt_path: a checkpoint file, a run folder, ``last`` or ``best``.
            episodes: how many to play.
            greedy: the most probable actions, rather than sampled ones.
        """
        if ckpt_path is not None:
            model.load_state_dict(read_checkpoint(ckpt_path)["state_dict"])
        env, seed = rendering(model.env, "human"), getattr(datamodule, "seed", 0)
        played = play(model.policy, env, episodes, seed, greedy, num_envs=1, backend="sync")
        print(evaluation_table({"greedy" if greedy else "sampled": evaluate(played.outcome())}))
