"""Callbacks: end a run, show its progress, end it gracefully on a signal, record it."""

from pg_lightning.callbacks.interrupt import GracefulInterrupt
from pg_lightning.callbacks.lines import EpisodeLines
from pg_lightning.callbacks.progress import UpdateProgressBar
from pg_lightning.callbacks.stop import StopAtRewardThreshold
from pg_lightning.callbacks.video import VideoRecorder

__all__ = ["EpisodeLines", "GracefulInterrupt", "StopAtRewardThreshold", "UpdateProgressBar", "VideoRecorder"]
