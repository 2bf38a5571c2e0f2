"""Where experience comes from: a dataset that runs complete episodes with the policy as it is now."""

import math
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import IterableDataset

from pg_lightning.actors import ActorFactory, make_actor
from pg_lightning.envs import Backend, env_spec, make_vector_env
from pg_lightning.episodes import Batch, Episodes
from pg_lightning.reinforce import Reinforce
from pg_lightning.sampling import EVALUATION_UPDATE, EpisodeSampler, check_quota

UPDATES_PER_EPOCH = 1000
"""What Lightning calls an epoch. Only a length makes its fetcher take one batch at a time instead of running ahead."""


class EpisodeDataset(IterableDataset[Batch]):
    """Runs full episodes with the current policy, one update's worth per item.

    Hand it to the Trainer as it is: it already yields batches. A DataLoader worker would hold a copy of the policy
    that never learns; ``Reinforce`` refuses it.

    Args:
        agent: whose policy acts, and which weighs the timesteps.
        sampler: runs the episodes.
        actor: makes what acts for the policy.
    """

    def __init__(self, agent: Reinforce, sampler: EpisodeSampler, actor: ActorFactory = make_actor) -> None:
        self.agent, self._sampler, self.make_actor = agent, sampler, actor

    def __len__(self) -> int:
        """Return the number of updates in an epoch."""
        return UPDATES_PER_EPOCH

    def __iter__(self) -> Iterator[Batch]:
        """Yield a batch for each update, sampled by the policy at the moment the batch is asked for."""
        actor = self.make_actor(self.agent.policy, False)
        while True:
            yield self.agent.weigh(self._sampler.sample(actor, self.agent.global_step))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: an update depends on its index and the weights alone, so Lightning may resume within an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class EvaluationDataset(IterableDataset[Episodes]):
    """Plays a number of episodes with the policy as it is, all in one item.

    Args:
        agent: whose policy acts.
        sampler: runs the episodes.
        greedy: whether the most probable action is taken, rather than a sampled one.
        actor: makes what acts for the policy.
    """

    def __init__(
        self, agent: Reinforce, sampler: EpisodeSampler, greedy: bool, actor: ActorFactory = make_actor
    ) -> None:
        self.agent, self._sampler, self.greedy, self.make_actor = agent, sampler, greedy, actor

    def __len__(self) -> int:
        """Return 1: all episodes are one item."""
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        """Yield all episodes."""
        yield self._sampler.sample(self.make_actor(self.agent.policy, self.greedy), EVALUATION_UPDATE)


class EpisodeDataModule(pl.LightningDataModule):
    """Environments to learn from and to be tested on.

    Args:
        env_id: a Gymnasium id, or ``module:Env-v0`` to import the module first.
        env_kwargs: arguments of the environment.
        num_envs: environments that step together.
        episodes_per_update: complete episodes to learn from in one update, over all environments; by default one
            per environment.
        backend: what steps the environments: their own vectorised implementation (native), one after the other
            (sync), a process each (async), EnvPool's C++ implementation (envpool, an extra), or the best that
            Gymnasium itself has (auto).
        max_episode_steps: timesteps after which an episode is cut (truncated); by default the environment's own limit.
        step_timeout: seconds that a step or a reset of the environments may take before the run ends with an error;
            null for as long as it takes.
        actor: makes what acts for the policy; by default NumPy for a CategoricalMLP, and torch for every other
            (``pg_lightning.actors.TorchActor`` is torch for all).
        eval_episodes: episodes that validate, test and predict play, each in the sampled and the greedy way.
        seed: of everything random about sampling.

    Raises:
        ValueError: an argument out of range, an unknown environment.
    """

    def __init__(
        self,
        env_id: str = "CartPole-v1",
        env_kwargs: dict[str, Any] | None = None,
        num_envs: int = 64,
        episodes_per_update: int | None = None,
        backend: Backend = "auto",
        max_episode_steps: int | None = None,
        step_timeout: float | None = 300.0,
        actor: ActorFactory | None = None,
        eval_episodes: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if eval_episodes < 1:
            raise ValueError(f"eval_episodes must be at least 1, not {eval_episodes}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, not {seed}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1 timestep, not {max_episode_steps}")
        if step_timeout is not None and not 0 < step_timeout < math.inf:
            raise ValueError(f"step_timeout must be more than 0 seconds, and finite, or null; not {step_timeout}")
        env_spec(env_id)
        check_quota(num_envs, num_envs if episodes_per_update is None else episodes_per_update)
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        self.env_id, self.env_kwargs = env_id, (env_kwargs or {}) | limit
        self.num_envs, self.backend, self.step_timeout = num_envs, backend, step_timeout
        self.episodes_per_update = num_envs if episodes_per_update is None else episodes_per_update
        self.actor, self.eval_episodes, self.seed = actor or make_actor, eval_episodes, seed
        self._samplers: dict[str, EpisodeSampler] = {}

    def _sampler(self, stage: str, num_envs: int, episodes: int) -> EpisodeSampler:
        """Make the sampler of a stage once, and keep it."""
        if stage not in self._samplers:
            rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
            envs = make_vector_env(self.env_id, num_envs, self.backend, self.env_kwargs)
            self._samplers[stage] = EpisodeSampler(envs, episodes, self.seed, rank, world_size, self.step_timeout)
        return self._samplers[stage]

    def train_dataloader(self) -> EpisodeDataset:
        """Complete episodes of the policy as it is, an update's worth at a time."""
        return EpisodeDataset(self._agent, self._sampler("fit", self.num_envs, self.episodes_per_update), self.actor)

    def val_dataloader(self) -> list[EvaluationDataset]:
        """Evaluation episodes, sampled and greedy."""
        return [self._evaluation(greedy) for greedy in (False, True)]

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> EvaluationDataset:
        """Greedy episodes."""
        return self._evaluation(greedy=True)

    def _evaluation(self, greedy: bool) -> EvaluationDataset:
        num_envs = min(self.num_envs, self.eval_episodes)
        sampler = self._sampler("evaluate", num_envs, self.eval_episodes)
        return EvaluationDataset(self._agent, sampler, greedy, self.actor)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to where the policy is; Lightning would look for the tensors in it one by one."""
        return batch.to(device)

    @property
    def _agent(self) -> Reinforce:
        assert self.trainer is not None and isinstance(self.trainer.lightning_module, Reinforce)
        return self.trainer.lightning_module

    def teardown(self, stage: str) -> None:
        """Close the environments."""
        for sampler in self._samplers.values():
            sampler.close()
        self._samplers.clear()
