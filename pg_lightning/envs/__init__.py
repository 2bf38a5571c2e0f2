"""Environments: one description of what is played, and backends that step many of them."""

from pg_lightning.envs.environment import Environment, as_environment
from pg_lightning.envs.envpool import EnvPoolEnvs
from pg_lightning.envs.errors import EnvironmentFault, environment_errors
from pg_lightning.envs.repeat import RepeatAction
from pg_lightning.envs.vector import BACKENDS, AsyncEnvs, SyncEnvs, make_vector

__all__ = [
    "BACKENDS",
    "AsyncEnvs",
    "EnvPoolEnvs",
    "Environment",
    "EnvironmentFault",
    "RepeatAction",
    "SyncEnvs",
    "as_environment",
    "environment_errors",
    "make_vector",
]
