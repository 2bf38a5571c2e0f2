"""Sampling: complete episodes of a policy in vector environments, and the datasets that yield them."""

from pg_lightning.sampling.dataset import EpisodeDataModule, EpisodeDataset, EvaluationDataset
from pg_lightning.sampling.playing import play
from pg_lightning.sampling.sampler import EpisodeSampler

__all__ = ["EpisodeDataModule", "EpisodeDataset", "EpisodeSampler", "EvaluationDataset", "play"]
