"""Callbacks: end a run, show and record its progress, write its files, end it gracefully on a signal."""

from pg_lightning.callbacks.checkpoint import RunCheckpoint
from pg_lightning.callbacks.interrupt import GracefulInterrupt
from pg_lightning.callbacks.lines import EpisodeLines
from pg_lightning.callbacks.predictions import PredictionWriter
from pg_lightning.callbacks.progress import ProgressLines, UpdateProgressBar
from pg_lightning.callbacks.recorder import RunRecorder
from pg_lightning.callbacks.report import EvaluationReport
from pg_lightning.callbacks.stop import StopAtRewardThreshold
from pg_lightning.callbacks.video import VideoRecorder

__all__ = [
    "EpisodeLines",
    "EvaluationReport",
    "GracefulInterrupt",
    "PredictionWriter",
    "ProgressLines",
    "RunCheckpoint",
    "RunRecorder",
    "StopAtRewardThreshold",
    "UpdateProgressBar",
    "VideoRecorder",
]
