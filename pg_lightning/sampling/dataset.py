"""Datasets and the DataModule: complete episodes of the policy as it is now."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gymnasium as gym
import pytorch_lightning as pl
import torch
from gymnasium.vector import VectorEnv
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.utils.data import IterableDataset

from pg_lightning.envs import Environment, as_environment
from pg_lightning.episodes import Batch, Episodes
from pg_lightning.policies.dropout import evaluating
from pg_lightning.sampling.actors import make_actor
from pg_lightning.sampling.playing import MAX_STEPS, evaluation_envs, play_on
from pg_lightning.sampling.sampler import EpisodeSampler, check_quota

UPDATES_PER_EPOCH = 1000
"""What Lightning calls an epoch. Only a length makes its fetcher take one batch at a time instead of running ahead."""


class Learner(Protocol):
    """What a dataset needs of a LightningModule: a policy, the update to sample for, and an advantage estimate."""

    policy: nn.Module
    env: Environment
    global_step: int
    estimate: Callable[[Episodes], Batch]


class EpisodeDataset(IterableDataset[Batch]):
    """Runs full episodes with the current policy, one update's worth per item.

    Hand it to the Trainer itself: it already yields batches. A DataLoader worker would hold a copy of the policy that
    never learns; ``Reinforce`` refuses it.

    Args:
        agent: with the policy that samples, and the estimate of the advantages.
        sampler: runs the episodes.
    """

    def __init__(self, agent: Learner, sampler: EpisodeSampler) -> None:
        self.agent, self._sampler = agent, sampler

    def __len__(self) -> int:
        """Return the number of updates in an epoch."""
        return UPDATES_PER_EPOCH

    def __iter__(self) -> Iterator[Batch]:
        """Yield a batch for each update, sampled by the policy at the moment of asking for it."""
        actor = make_actor(self.agent.policy, self._sampler.envs.single_action_space)
        while True:
            yield self.agent.estimate(self._sampler.sample(actor, self.agent.global_step))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: an update depends on its index and the weights alone, so Lightning may resume within an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class EvaluationDataset(IterableDataset[Episodes]):
    """Plays a number of episodes with the policy in eval mode, all in one item.

    Args:
        policy: maps observations to a Distribution.
        sampler: runs the episodes.
        greedy: whether to take the most probable action, rather than to sample one.
        max_steps: timesteps after which the environments cut an episode, where that is a limit of the evaluation alone.

    Attributes:
        num_episodes: played so far.
        num_cut: of these, cut after ``max_steps``.
    """

    def __init__(self, policy: nn.Module, sampler: EpisodeSampler, greedy: bool, max_steps: int | None = None) -> None:
        self.policy, self._sampler, self.greedy, self.max_steps = policy, sampler, greedy, max_steps
        self.num_episodes = self.num_cut = 0

    def __len__(self) -> int:
        """Return 1: all episodes are one item."""
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        """Yield all episodes."""
        episodes = play_on(self._sampler, self.policy, self.greedy)
        self.num_episodes += len(episodes)
        if self.max_steps is not None:
            cut = episodes.cut & (episodes.lengths == self.max_steps)
            self.num_cut += int(cut.sum())
        yield episodes


class EpisodeDataModule(pl.LightningDataModule):
    """Environments to learn from and to be tested on.

    Args:
        env: what is played: an Environment, a Gymnasium id, or a callable that makes an environment; by default the
            agent's. It must be the agent's environment, or have its spaces.
        num_envs: environments that step together.
        episodes_per_update: complete episodes to learn from in one update, over all environments; by default one
            per environment.
        backend: what steps the environments: their own vectorised implementation (native), one after the other
            (sync), a process each (async), or EnvPool's C++ implementation (envpool, an extra). auto takes native
            or else envpool, where there is one that agrees with the environment, else sync; a resumed run takes what
            it took before.
        step_timeout: seconds that a step or a reset of the environments may take before the run ends with an error;
            null for no limit.
        eval_episodes: episodes that validate, test and predict play, each in the sampled and the greedy way.
        eval_max_steps: timesteps after which these cut an episode of an environment that has no time limit (it counts
            as truncated, and a warning says how many were cut); null for no limit. A backend that takes no time limit
            gives way to sync there. Training is not affected: that is ``max_episode_steps`` of the environment.
        seed: of everything random about sampling.

    Raises:
        ValueError: an argument out of range, an unknown environment.
    """

    def __init__(
        self,
        env: Environment | str | Callable[..., gym.Env] | None = None,
        num_envs: int = 8,
        episodes_per_update: int | None = None,
        backend: str = "auto",
        step_timeout: float | None = 300.0,
        eval_episodes: int = 100,
        eval_max_steps: int | None = MAX_STEPS,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if eval_episodes < 1:
            raise ValueError(f"eval_episodes must be at least 1, not {eval_episodes}")
        if eval_max_steps is not None and eval_max_steps < 1:
            raise ValueError(f"eval_max_steps must be at least 1 timestep, or null, not {eval_max_steps}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, not {seed}")
        if step_timeout is not None and not 0 < step_timeout < math.inf:
            raise ValueError(f"step_timeout must be more than 0 seconds, and finite, or null; not {step_timeout}")
        check_quota(num_envs, num_envs if episodes_per_update is None else episodes_per_update)
        self.env = None if env is None else as_environment(env)
        self.num_envs, self.backend, self.step_timeout = num_envs, backend, step_timeout
        self.episodes_per_update = num_envs if episodes_per_update is None else episodes_per_update
        self.eval_episodes, self.eval_max_steps, self.seed = eval_episodes, eval_max_steps, seed
        self._samplers: dict[str, EpisodeSampler] = {}
        self._evaluations: list[EvaluationDataset] = []
        self._chosen: dict[str, str] = {}
        self._recorded: dict[str, str] = {}
        settings = {
            "num_envs": num_envs,
            "episodes_per_update": episodes_per_update,
            "backend": backend,
            "step_timeout": step_timeout,
            "eval_episodes": eval_episodes,
            "eval_max_steps": eval_max_steps,
            "seed": seed,
        }
        self.save_hyperparameters(settings, logger=False)  # So that a checkpoint alone can be resumed.

    def setup(self, stage: str) -> None:
        """Let auto choose anew, unless a checkpoint says what it chose."""
        self._recorded = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the backends of training and of evaluation."""
        return {"backends": self._chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have auto choose the same again where training goes on: another backend would play other episodes."""
        if self.backend == "auto" and self.trainer is not None and self.trainer.state.fn == "fit":
            self._recorded = dict(state_dict.get("backends", {}))

    def _sampler(self, stage: str, num_envs: int, episodes: int) -> EpisodeSampler:
        """Make the sampler of a stage once, and keep it."""
        if stage not in self._samplers:
            rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
            envs = self._make_envs(stage, num_envs)
            self._samplers[stage] = EpisodeSampler(envs, episodes, self.seed, rank, world_size, self.step_timeout)
        return self._samplers[stage]

    def _make_envs(self, stage: str, num_envs: int) -> VectorEnv:
        """Make the environments of a stage; those of an evaluation have a time limit."""
        recorded = self._recorded.get(stage)
        limit = self.eval_max_steps if stage == "evaluate" else None
        try:
            envs = evaluation_envs(self._checked_env(), num_envs, recorded or self.backend, limit)
        except (ValueError, ImportError) as error:
            if recorded is None:
                raise
            raise ValueError(
                f"this run was sampled on the backend {recorded}, which is not available here: {error}; "
                "the backend sync would go on, but with other episodes"
            ) from error
        self._note(stage, envs.backend)  # type: ignore[attr-defined]
        return envs

    def _note(self, stage: str, backend: str) -> None:
        """Note the backend of a stage; say so once if auto has chosen another one than Gymnasium's."""
        if self.backend == "auto" and backend == "envpool" and backend not in self._chosen.values():
            line = "EnvPool steps the environments (backend auto); the backend sync takes Gymnasium's own"
            rank_zero_only(print)(line)
        self._chosen[stage] = backend

    def _added_limit(self) -> int | None:
        """Return the time limit that evaluation adds to the environment, ``None`` where that has its own."""
        return self.eval_max_steps if self._checked_env().time_limit is None else None

    def _checked_env(self) -> Environment:
        """Return the environment; refuse one with other spaces than the agent's policy was made for."""
        agents = self._agent.env
        env = self.env or agents
        for kind in ("observation_space", "action_space"):
            if (ours := getattr(env, kind)) != (theirs := getattr(agents, kind)):
                raise ValueError(
                    f"the data's environment {env.name} has the {kind} {ours}, but the agent was made for "
                    f"{agents.name} with {theirs}"
                )
        return env

    def train_dataloader(self) -> EpisodeDataset:
        """Complete episodes of the policy as it is, an update's worth at a time."""
        return EpisodeDataset(self._agent, self._sampler("fit", self.num_envs, self.episodes_per_update))

    def val_dataloader(self) -> list[EvaluationDataset]:
        """Evaluation episodes, sampled and, where the policy's distribution has a mode, greedy."""
        return [self._evaluation(greedy) for greedy in (False, True)[: 1 + self._has_mode()]]

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> EvaluationDataset:
        """Greedy episodes; sampled ones where the policy's distribution has no mode."""
        return self._evaluation(greedy=self._has_mode())

    def _has_mode(self) -> bool:
        """Find out whether the policy's distribution has a mode, with one warning where it has none."""
        actor = make_actor(self._agent.policy, self._checked_env().action_space, greedy=True)
        sampler = self._sampler("evaluate", min(self.num_envs, self.eval_episodes), self.eval_episodes)
        try:
            with evaluating(self._agent.policy), torch.random.fork_rng(devices=[]):
                sampler.probe(actor)
        except NotImplementedError:
            warnings.warn("the policy's distribution has no mode: sampled episodes only, no greedy ones", stacklevel=2)
            return False
        return True

    def _evaluation(self, greedy: bool) -> EvaluationDataset:
        sampler = self._sampler("evaluate", min(self.num_envs, self.eval_episodes), self.eval_episodes)
        self._evaluations.append(EvaluationDataset(self._agent.policy, sampler, greedy, self._added_limit()))
        return self._evaluations[-1]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the policy's device; Lightning would look for the tensors in it one by one."""
        return batch.to(device)

    @property
    def _agent(self) -> Learner:
        assert self.trainer is not None
        return self.trainer.lightning_module  # type: ignore[return-value]

    def teardown(self, stage: str) -> None:
        """Close the environments; warn of evaluation episodes that were cut."""
        num_cut, num_episodes = (
            sum(getattr(one, name) for one in self._evaluations) for name in ("num_cut", "num_episodes")
        )
        self._evaluations.clear()
        if num_cut:
            what = f"cut {num_cut:,} of {num_episodes:,} episodes after {self.eval_max_steps:,} steps"
            warnings.warn(f"evaluation {what} (eval_max_steps): they count as truncated", stacklevel=2)
        for sampler in self._samplers.values():
            sampler.close()
        self._samplers.clear()
