"""Trainer with the commands that Lightning's has not."""

import os
import sys
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from pg_lightning.callbacks.video import rendering
from pg_lightning.checkpoint_file import read_checkpoint
from pg_lightning.evaluation import evaluate, evaluation_table
from pg_lightning.export import SUFFIXES, export
from pg_lightning.sampling.playing import play

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
"""Variables one of which is set where windows can be shown on Linux."""


class RunTrainer(pl.Trainer):
    """Lightning's Trainer, with ``watch`` and ``export``."""

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
        if sys.platform.startswith("linux") and not any(map(os.environ.get, DISPLAYS)):  # Some are played as text.
            print("There is no display: if nothing is to be seen, test --video 3 records episodes", file=sys.stderr)
        if ckpt_path is not None:
            model.load_state_dict(read_checkpoint(ckpt_path)["state_dict"])
        env, seed = rendering(model.env, "human"), getattr(datamodule, "seed", 0)
        played = play(model.policy, env, episodes, seed, greedy, num_envs=1, backend="sync")
        print(evaluation_table({"greedy" if greedy else "sampled": evaluate(played.outcome())}))

    def export(
        self,
        model: Any,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        format: Literal["onnx", "torch_export"] = "onnx",
        output: str | None = None,
    ) -> None:
        """Write the policy to one file: raw observations in, greedy actions and the distribution's parameters out.

        Args:
            model: agent with the policy.
            datamodule: for the seed.
            ckpt_path: a checkpoint file, a run folder, ``last`` or ``best``.
            format: ``onnx``, or ``torch_export`` for ``torch.export.load``.
            output: path of the file; by default ``agent.onnx`` or ``agent.pt2`` in the run folder.
        """
        metadata = {"seed": getattr(datamodule, "seed", None), "update": 0}
        if ckpt_path is not None:
            checkpoint = read_checkpoint(ckpt_path)
            model.load_state_dict(checkpoint["state_dict"])
            metadata["update"] = checkpoint["global_step"]
        path = Path(self.default_root_dir, f"agent{SUFFIXES[format]}") if output is None else Path(output)
        print(f"Exported to {export(model, path, format, metadata)}")
