"""Policy gradients from complete episodes, for PyTorch Lightning."""

import warnings
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pg_lightning")
except PackageNotFoundError:  # A checkout that is not installed.
    __version__ = "unknown"

# Lightning 2.6 calls what torch 2.13 deprecates; users of either can do nothing about it.
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*distributed.nn.functional.all_gather", category=FutureWarning)

from pg_lightning.baselines import (  # noqa: E402
    Baseline,
    LeaveOneOut,
    LinearBaseline,
    MeanBaseline,
    NoBaseline,
    TimestepBaseline,
)
from pg_lightning.callbacks import EpisodeLines, StopAtRewardThreshold, VideoRecorder  # noqa: E402
from pg_lightning.critic import Critic, PolicyEncoder  # noqa: E402
from pg_lightning.directions import Direction, Gradient, NaturalGradient  # noqa: E402
from pg_lightning.envs import Environment, EnvironmentFault, RepeatAction  # noqa: E402
from pg_lightning.episodes import Batch, Episodes  # noqa: E402
from pg_lightning.metrics import RunningReward  # noqa: E402
from pg_lightning.normalizations import NoNormalization, Normalization, PerBatch, PerEpisode  # noqa: E402
from pg_lightning.policies import ConsistentDropout, Encoder, Head, MLPPolicy, Policy  # noqa: E402
from pg_lightning.policies.normalization import NormalizeObservations  # noqa: E402
from pg_lightning.reinforce import Reinforce  # noqa: E402
from pg_lightning.returns import GAE, MonteCarlo, Returns, ScaledRewards  # noqa: E402
from pg_lightning.sampling import EpisodeDataModule, EpisodeDataset, EpisodeSampler, play  # noqa: E402
from pg_lightning.schedules import Linear, Schedule  # noqa: E402

__all__ = [
    "GAE",
    "Baseline",
    "Batch",
    "ConsistentDropout",
    "Critic",
    "Direction",
    "Encoder",
    "Environment",
    "EnvironmentFault",
    "EpisodeDataModule",
    "EpisodeDataset",
    "EpisodeLines",
    "EpisodeSampler",
    "Episodes",
    "Gradient",
    "Head",
    "LeaveOneOut",
    "Linear",
    "LinearBaseline",
    "MLPPolicy",
    "MeanBaseline",
    "MonteCarlo",
    "NaturalGradient",
    "NoBaseline",
    "NoNormalization",
    "Normalization",
    "NormalizeObservations",
    "PerBatch",
    "PerEpisode",
    "Policy",
    "PolicyEncoder",
    "Reinforce",
    "RepeatAction",
    "Returns",
    "RunningReward",
    "ScaledRewards",
    "Schedule",
    "StopAtRewardThreshold",
    "TimestepBaseline",
    "VideoRecorder",
    "play",
]
