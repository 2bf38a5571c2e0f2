"""Vector environments -> complete, unbiased, seeded episodes."""

import warnings

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from pg_lightning.envs.frames import FrameStackSpace
from pg_lightning.envs.rows import out_of_range
from pg_lightning.episodes import Episodes
from pg_lightning.frames import FrameStacks
from pg_lightning.sampling.actors import Actor, PolicyError
from pg_lightning.sampling.reading import ObservationReader
from pg_lightning.sampling.steps import Steps
from pg_lightning.sampling.watchdog import watchdog
from pg_lightning.tree import Tree, tree_leaves, tree_map

EVALUATION_UPDATE = 2**24
"""Evaluation episodes are seeded like those of this update, which no training reaches."""

MANY_STEPS = 100_000
"""After so many environment steps of an update without the end of an episode, one warning says so."""

OUT_OF_RANGE = "it emitted an index that its observation space does not have"


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

    The number of episodes of each environment is decided beforehand: taking "the first N to finish" would favour short
    episodes. Everything random about an update follows from (seed, rank, update) alone, and it starts from a reset, so
    a resumed run samples what the uninterrupted one would have.

    Args:
        envs: environments in any of Gymnasium's autoreset modes.
        episodes_per_update: complete episodes of an update, at least one per environment. Where they cannot be shared
            equally, the first environments run one more.
        seed: of the run.
        rank: of this process among ``world_size``; each samples different episodes.
        world_size: number of processes.
        step_timeout: seconds that a step, with the policy's share, or a reset may take before that counts as a failure;
            ``None`` for no limit.

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
        self.skips_idle = getattr(envs, "skips_idle", False)
        space = envs.single_observation_space
        self._stack_size = space.shape[0] if isinstance(space, FrameStackSpace) else 0
        self._steps = Steps(envs.num_envs, of_stacks=self._stack_size > 0)
        self._warned = False

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
        actor.begin(self.envs.num_envs, np.random.default_rng([self.seed, self.rank, update]))
        self._steps.clear(np.float64 if actor.is_double else np.float32)
        self._step = 0
        # Numbers that are not finite are refused by name, when they are packed.
        with np.errstate(invalid="ignore", over="ignore"):
            try:
                with watchdog(lambda: self._step, self.step_timeout):
                    steps = self._run(actor, self._env_seed(update))
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # A panic of a simulator written in Rust is no Exception.
                raise self._explained(error, update) from error
        return self._pack(actor, steps, update)

    def probe(self, actor: Actor) -> None:
        """Let an actor act on first observations, to find out whether it can."""
        observations, infos = self.envs.reset(seed=self._env_seed(EVALUATION_UPDATE))
        actor.begin(self.envs.num_envs, np.random.default_rng(self.seed))
        self._steps.clear(np.float64 if actor.is_double else np.float32)
        read, masks = self._reader(actor).read(observations, infos)
        actor.act(self._steps.observe(0, read), *masks)

    def _reader(self, actor: Actor) -> ObservationReader:
        """Make the reader of an update's observations."""
        return ObservationReader(self.envs.single_observation_space, self.envs.single_action_space, actor.takes_masks)

    def _explained(self, error: BaseException, update: int) -> ValueError:
        """Say in one line whose error ended the update, and where."""
        where = f"{self._when(update)}, step {self._step}"
        if isinstance(error, PolicyError):
            return PolicyError(f"{where}: the policy failed: {error}")
        died = ", the process of an environment died" * self._has_died()
        what = f"sys.exit({error.code})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        return ValueError(f"{where}: the environment failed: {what}{died}")

    def _name(self) -> str:
        """Name the environment, for a message."""
        spec = self.envs.spec
        return spec.id if spec is not None else getattr(self.envs, "name", type(self.envs).__name__)

    def _when(self, update: int) -> str:
        """Name the environment and the update, for an error."""
        return f"{self._name()}, " + (f"update {update}" if update < EVALUATION_UPDATE else "evaluation")

    def _warn_of_many_steps(self) -> None:
        """Warn, once per sampler, of episodes that do not end."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._name()}: no episode has ended within {MANY_STEPS:,} steps; an update needs complete episodes "
                "(--env.max_episode_steps, in Python Environment(max_episode_steps=...), cuts those that never end)",
                stacklevel=3,
            )

    def _run(self, actor: Actor, seed: int) -> int:
        """Step all environments until each has run its quota; return the number of steps."""
        envs, steps, owed, step, last_end = self.envs, self._steps, self.quotas.copy(), 0, 0
        reader, idle, no_end = self._reader(actor), None, bytes(envs.num_envs)
        masks: tuple[np.ndarray, ...] = ()
        observations, infos = envs.reset(seed=seed)
        unfinished = True
        while unfinished:
            self._step = step
            if step % steps.block_size == 0 and (step - last_end) * envs.num_envs >= MANY_STEPS:
                self._warn_of_many_steps()
            if infos or reader.has_work:
                observations, masks = reader.read(observations, infos, idle)
            seen = steps.observe(step, observations)
            try:
                actions = actor.act(seen, *masks)
                played = actor.to_env(actions)
            except Exception as error:
                if out_of_range(self.envs.single_observation_space, seen):
                    raise ValueError(OUT_OF_RANGE) from error
                raise PolicyError(f"{type(error).__name__}: {error}") from error
            observations, rewards, terminated, truncated, infos = envs.step(played)
            steps.write(step, actions, rewards, masks)
            idle = None
            if terminated.tobytes() != no_end or truncated.tobytes() != no_end:  # A tenth of the time of any().
                ended = terminated | truncated
                due = ended & (owed > 0)
                last_end = step if due.any() else last_end
                if self.autoreset == AutoresetMode.SAME_STEP:
                    final = reader.final_observations(infos["final_obs"])
                else:
                    final, idle = reader.observations(observations), ended
                steps.end(step, terminated, truncated, np.flatnonzero(due), final)
                owed -= due
                unfinished = bool(owed.any())
                if self.autoreset == AutoresetMode.DISABLED and unfinished:
                    mask = due & (owed > 0) if self.skips_idle else ended
                    if mask.any():
                        observations, infos = envs.reset(options={"reset_mask": mask})
                        idle &= ~mask
            step += 1
        return step

    def _env_seed(self, update: int) -> int:
        """Seed of the first environment, environment i getting this plus i: no two of a run's ranges overlap."""
        half, index = divmod(update, EVALUATION_UPDATE)  # Training has the lower half of all seeds.
        return half * 2**30 + (self._first_seed + (index * self.world_size + self.rank) * self.envs.num_envs) % 2**30

    def _select(self, ended: np.ndarray) -> tuple[np.ndarray, int]:
        """Find the timesteps that belong to the quotas, one environment after the other.

        Args:
            ended: whether an episode ended in a step ``[S, N]``.

        Returns:
            Their places ``[T]`` among all S x N, counted step by step, and the environment steps that were taken.
        """
        steps, num_envs = ended.shape
        env, step = np.nonzero(ended.T)
        last = step[np.searchsorted(env, np.arange(num_envs)) + self.quotas - 1]  # Of each environment's quota.
        wanted = np.arange(steps)[:, None] <= last
        taken = int(wanted.sum()) if self.skips_idle else ended.size
        if self.autoreset == AutoresetMode.NEXT_STEP:
            wanted[1:] &= ~ended[:-1]  # The step after an episode's last only resets; its action is ignored.
            taken -= int(np.count_nonzero(ended[:-1]))
        return np.arange(ended.size).reshape(steps, num_envs).T[wanted.T], taken

    def _pack(self, actor: Actor, num_steps: int, update: int) -> Episodes:
        """Copy the episodes of the quotas out of the steps."""
        steps, num_envs = self._steps, self.envs.num_envs
        flags = steps.flags(num_steps)  # [2, S, N]
        rows, taken = self._select(flags[0] | flags[1])
        terminated, truncated = flags.reshape(2, -1)[:, rows]  # [T]
        ends = np.flatnonzero(terminated | truncated)
        lengths = torch.from_numpy(ends - np.concatenate([[-1], ends[:-1]]))
        observations = steps.take("observations", rows)
        if out_of_range(self.envs.single_observation_space, observations):
            raise ValueError(f"{self._when(update)}: the environment failed: {OUT_OF_RANGE}")
        if steps.of_stacks:
            observations = FrameStacks.of_episodes(observations, lengths, self._stack_size)
        actions = steps.take("actions", rows)
        log_probs, masks = actor.record(actions, rows)
        episodes = Episodes(
            observations=observations,
            actions=actions,
            log_probs=log_probs,
            rewards=steps.take("rewards", rows),
            dropout_masks=masks,
            lengths=lengths,
            terminated=torch.from_numpy(terminated[ends]),
            truncated=torch.from_numpy(truncated[ends]),
            final_observations=steps.final_observations(rows[ends]),
            env_steps=taken,
            update=update,
            action_masks=steps.take("action_masks", rows),
        )
        cut = episodes.cut
        final = tree_map(lambda leaf: leaf[cut], episodes.final_observations)  # The others are never used.
        emitted = (
            ("observations", observations, rows),
            ("observations", final, rows[ends[cut.numpy()]]),
            ("rewards", episodes.rewards, rows),
        )
        for name, values, places in emitted:
            if (place := first_not_finite(values)) is not None:
                step, env = divmod(int(places[place]), num_envs)
                where = f"environment {env} emitted {name} that are not finite, at step {step}"
                raise ValueError(f"{self._when(update)}: {where}")
        if not torch.isfinite(log_probs).all():
            raise PolicyError(
                f"{self._when(update)}: the policy failed: the log-probability of an action it took is not finite: "
                "its outputs are NaN, or it forbids all actions"
            )
        return episodes

    def _has_died(self) -> bool:
        """Tell whether an environment's process is gone."""
        return isinstance(self.envs, AsyncVectorEnv) and not all(one.is_alive() for one in self.envs.processes)

    def close(self) -> None:
        """Close the environments; processes that are gone, or that have not answered, are ended."""
        envs = self.envs
        if isinstance(envs, AsyncVectorEnv) and (envs._state != AsyncState.DEFAULT or self._has_died()):
            envs._state = AsyncState.DEFAULT  # Or Gymnasium would wait for the answer once more.
            envs.close(terminate=True)
        envs.close()


def first_not_finite(values: Tree) -> int | None:
    """Return the first row of a tree of ``[T, ...]`` with a number that is not finite, if there is one."""
    leaves = (leaf.numpy() for leaf in tree_leaves(values) if leaf.is_floating_point())
    return next((int(np.argwhere(~finite)[0, 0]) for leaf in leaves if not (finite := np.isfinite(leaf)).all()), None)
