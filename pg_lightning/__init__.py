"""Monte-Carlo policy gradient (REINFORCE) for PyTorch Lightning."""

import warnings

# Lightning 2.6 asks torch 2.13 a question in a deprecated way; nothing that a user of either could mend.
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)

from pg_lightning.advantages import Advantage, Returns, StandardizedReturns, TimestepBaseline  # noqa: E402
from pg_lightning.callbacks import StopAtRewardThreshold  # noqa: E402
from pg_lightning.dataset import EpisodeDataModule, EpisodeDataset  # noqa: E402
from pg_lightning.envs import make_env  # noqa: E402
from pg_lightning.episodes import Batch, Episodes  # noqa: E402
from pg_lightning.metrics import RunningReward  # noqa: E402
from pg_lightning.policies import CategoricalMLP, ConsistentDropout  # noqa: E402
from pg_lightning.reinforce import Reinforce  # noqa: E402

__all__ = [
    "Advantage",
    "Batch",
    "CategoricalMLP",
    "ConsistentDropout",
    "EpisodeDataModule",
    "EpisodeDataset",
    "Episodes",
    "Reinforce",
    "Returns",
    "RunningReward",
    "StandardizedReturns",
    "StopAtRewardThreshold",
    "TimestepBaseline",
    "make_env",
]
