"""Vector environments -> complete, unbiased, seeded episodes."""

from contextlib import suppress

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from pg_lightning.actors import Actor
from pg_lightning.distributions import acting
from pg_lightning.envs import SingleEnv, misshapen
from pg_lightning.episodes import Episodes
from pg_lightning.watchdog import watchdog

EVALUATION_UPDATE = 2**24
"""Evaluation episodes are seeded like those of this update, which no training reaches."""


def check_quota(num_envs: int, episodes_per_update: int) -> None:
    """Refuse fewer than one environment, or fewer episodes than environments, with a ValueError."""
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, not {num_envs}")
    if episodes_per_update < num_envs:
        raise ValueError(
            f"episodes_per_update ({episodes_per_update}) must be at least num_envs ({num_envs}): "
            "each environment runs at least one complete episode"
        )


class EpisodeSampler:
    """Runs a fixed quota of complete episodes in each environment, for one update at a time.

    Which environment owes how many episodes is decided beforehand: taking "the first N to finish" would favour short
    episodes. Everything random about an update follows from (seed, rank, update) alone, and it starts from a reset, so
    a resumed run samples what the uninterrupted one would have.

    Args:
        envs: environments in any of Gymnasium's autoreset modes.
        episodes_per_update: how many complete episodes an update holds, at least one per environment. Where they
            cannot be shared equally, the first environments owe one more.
        seed: of the run.
        rank: of this process among ``world_size``; each samples different episodes.
        world_size: number of processes.
        step_timeout: seconds that a step, with the policy's share, or a reset may take before that counts as a failure;
            ``None`` for as long as it takes.

    Raises:
        ValueError: fewer episodes than environments.
    """

    def __init__(
        self,
        envs: VectorEnv,
        episodes_per_update: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        step_timeout: float | None = None,
    ) -> None:
        check_quota(envs.num_envs, episodes_per_update)
        self.envs = envs
        share, rest = divmod(episodes_per_update, envs.num_envs)
        self.quotas = share + (np.arange(envs.num_envs) < rest)
        self.seed, self.rank, self.world_size, self.step_timeout = seed, rank, world_size, step_timeout
        self._first_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self.autoreset = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        time_limit = envs.spec.max_episode_steps if envs.spec is not None else None
        self._allocate(min(share * (time_limit or 1000), 10_000) + 1)

    def _allocate(self, steps: int) -> None:
        """Make room for some steps ``[S, N]`` of all environments; observations of float64 are kept as float32."""

        def room(space: gym.Space) -> np.ndarray:
            return np.empty((steps, *(space.shape or ())), np.float32 if space.dtype == np.float64 else space.dtype)

        self._observations, self._actions = room(self.envs.observation_space), room(self.envs.action_space)
        self._rewards = np.empty((steps, self.envs.num_envs))
        self._terminated, self._truncated = np.empty((2, steps, self.envs.num_envs), bool)

    def _grow(self) -> None:
        """Double the room, keeping what is in it."""
        for name in ("_observations", "_actions", "_rewards", "_terminated", "_truncated"):
            rows = getattr(self, name)
            setattr(self, name, np.concatenate([rows, np.zeros_like(rows)]))

    def sample(self, actor: Actor, update: int) -> Episodes:
        """Run the episodes of an update.

        Args:
            actor: chooses the actions.
            update: index of the update, which decides everything random.

        Returns:
            The quota of complete episodes, those of the first environment first.

        Raises:
            ValueError: an environment failed, did not answer in time, or emitted a number that is not finite.
        """
        run = self._run_one if isinstance(self.envs, SingleEnv) else self._run
        # What is not finite is refused by name, when it is packed.
        with acting(), np.errstate(invalid="ignore", over="ignore"):
            actor.begin(self.envs.num_envs, np.random.default_rng([self.seed, self.rank, update]))
            self._step = 0
            try:
                with watchdog(lambda: self._step, self.step_timeout):
                    steps = run(actor, self._env_seed(update))
            except Exception as error:
                what = f"{type(error).__name__}: {error}" + ", the process of an environment died" * self._has_died()
                with suppress(Exception), watchdog(lambda: 0, self.step_timeout):
                    self.close()
                raise ValueError(
                    f"{self._when(update)}, step {self._step}: the environments or the policy failed: {what} "
                    "(PG_LIGHTNING_TRACEBACK=1 shows where)"
                ) from error
        return self._pack(actor, steps, update)

    def _when(self, update: int) -> str:
        """Name the environment and the update, for an error."""
        name = self.envs.spec.id if self.envs.spec is not None else type(self.envs).__name__
        return f"{name}, update {update}" if update < EVALUATION_UPDATE else f"{name}, evaluation"

    def _run(self, actor: Actor, seed: int) -> int:
        """Step all environments until each has run its quota; return the number of steps."""
        envs, owed, step, unfinished = self.envs, self.quotas.copy(), 0, True
        observations, _ = envs.reset(seed=seed)
        shape = self._observations.shape[1:]
        while unfinished:
            self._step = step
            if step == len(self._rewards):
                self._grow()
            if np.shape(observations) != shape:
                raise misshapen(observations, shape)
            self._observations[step] = observations
            self._actions[step] = actions = actor.act(self._observations[step])
            observations, self._rewards[step], terminated, truncated, _ = envs.step(actions)
            self._terminated[step], self._truncated[step] = terminated, truncated
            ended = terminated | truncated
            if np.count_nonzero(ended):  # On few numbers a tenth of what ended.any() takes.
                owed -= ended & (owed > 0)
                unfinished = bool(owed.any())
                if self.autoreset == AutoresetMode.DISABLED:
                    observations, _ = envs.reset(options={"reset_mask": ended})
            step += 1
        return step

    def _run_one(self, actor: Actor, seed: int) -> int:
        """Do the same with a single environment, with little more per step than the step itself."""
        env, step = self.envs.env, 0  # type: ignore[attr-defined]
        shape, scalar = env.observation_space.shape, env.action_space.shape == ()
        self._terminated.fill(False)
        self._truncated.fill(False)
        for episode in range(int(self.quotas[0])):
            observation, _ = env.reset(seed=seed if episode == 0 else None)
            terminated = truncated = False
            while not (terminated or truncated):
                self._step = step
                if step == len(self._rewards):
                    self._grow()
                if np.shape(observation) != shape:
                    raise misshapen(observation, shape)
                row = self._observations[step]
                row[0] = observation
                # Gymnasium checks a Python number faster than one of NumPy's.
                action = actor.act(row).item() if scalar else actor.act(row)[0]
                self._actions[step, 0] = action
                observation, reward, terminated, truncated, _ = env.step(action)
                self._rewards[step] = reward
                step += 1
            self._terminated[step - 1], self._truncated[step - 1] = terminated, truncated
        return step

    def _env_seed(self, update: int) -> int:
        """Seed of the first environment, environment i getting this plus i: no two of a run's ranges overlap."""
        half, index = divmod(update, EVALUATION_UPDATE)  # Training has the lower half of all seeds.
        return half * 2**30 + (self._first_seed + (index * self.world_size + self.rank) * self.envs.num_envs) % 2**30

    def _rows(self, ended: np.ndarray) -> np.ndarray | slice:
        """Find the timesteps that belong to the quotas, one environment after the other.

        Args:
            ended: whether an episode ended in a step ``[S, N]``.

        Returns:
            Their places in what was written ``[S x N]``.
        """
        if isinstance(self.envs, SingleEnv):  # It is stepped, and reset, no more than it owes.
            return slice(None)
        steps, num_envs = ended.shape
        env, step = np.nonzero(ended.T)
        last = step[np.searchsorted(env, np.arange(num_envs)) + self.quotas - 1]  # Of what each environment owes.
        wanted = np.arange(steps)[:, None] <= last
        if self.autoreset == AutoresetMode.NEXT_STEP:
            wanted[1:] &= ~ended[:-1]  # The step after an episode's last only resets; its action is ignored.
        return np.arange(ended.size).reshape(steps, num_envs).T[wanted.T]

    def _pack(self, actor: Actor, steps: int, update: int) -> Episodes:
        """Copy the episodes of the quotas out of the ``steps`` rows that were written."""
        ended, num_envs = self._terminated[:steps] | self._truncated[:steps], self.envs.num_envs
        rows = self._rows(ended)

        def packed(values: np.ndarray) -> np.ndarray:
            values = values[:steps].reshape(steps * num_envs, *values.shape[2:])
            return values.copy() if isinstance(rows, slice) else values.take(rows, axis=0)

        ends = np.flatnonzero(packed(ended))
        lengths = ends.copy()
        lengths[1:] -= ends[:-1]
        lengths[0] += 1
        log_probs, masks = actor.record(self._actions[:steps])
        episodes = Episodes(
            observations=torch.from_numpy(packed(self._observations)),
            actions=torch.from_numpy(packed(self._actions)),
            log_probs=torch.from_numpy(packed(log_probs)),
            rewards=torch.from_numpy(packed(self._rewards)),
            masks=tuple(torch.from_numpy(packed(mask)) for mask in masks),
            lengths=torch.from_numpy(lengths),
            terminated=torch.from_numpy(packed(self._terminated)[ends]),
            truncated=torch.from_numpy(packed(self._truncated)[ends]),
            update=update,
        )
        for name in ("observations", "rewards"):
            finite = np.isfinite(getattr(episodes, name).numpy())
            if not finite.all():
                place = np.arange(steps * num_envs)[rows][np.argwhere(~finite)[0, 0]]
                where = (
                    f"environment {place % num_envs} emitted {name} that are not finite, at step {place // num_envs}"
                )
                raise ValueError(f"{self._when(update)}: {where}")
        return episodes

    def _has_died(self) -> bool:
        """Tell whether an environment's process is gone."""
        return isinstance(self.envs, AsyncVectorEnv) and not all(one.is_alive() for one in self.envs.processes)

    def close(self) -> None:
        """Close the environments; processes that are gone or owe an answer are not asked, but ended."""
        envs = self.envs
        if isinstance(envs, AsyncVectorEnv) and (envs._state != AsyncState.DEFAULT or self._has_died()):
            envs._state = AsyncState.DEFAULT  # Or Gymnasium would ask for the answer once more.
            envs.close(terminate=True)
        envs.close()
