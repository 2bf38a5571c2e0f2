"""REINFORCE: the policy gradient of complete episodes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from pg_lightning import defaults
from pg_lightning.agent import Agent
from pg_lightning.baselines import Baseline
from pg_lightning.diagnostics import entropy, gradient_variance
from pg_lightning.directions import Direction
from pg_lightning.envs import Environment
from pg_lightning.episodes import Batch, Chunk, Episodes, checked
from pg_lightning.functional import policy_gradient_loss, timestep_discounts
from pg_lightning.gathering import gather_episodes, own_part, sum_over_processes
from pg_lightning.gradients import summed_over_chunks
from pg_lightning.normalizations import Normalization
from pg_lightning.policies.policy import PolicyFactory
from pg_lightning.returns import Returns
from pg_lightning.schedules import Schedule, value_of


class Reinforce(Agent):
    """Policy gradient from complete episodes, each update by the policy as it is (on-policy).

    Args:
        env: what is played: an Environment, a Gymnasium id, or a callable that makes an environment. Its spaces decide
            what the policy reads and chooses.
        policy: makes the policy of an observation and an action space: a class such as MLPPolicy.
        returns: estimates the return from each timestep on; by default that of the baseline (Critic: GAE).
        baseline: subtracted from the returns; by default Critic.
        normalization: of the advantages; by default PerBatch.
        direction: from the gradient to the step; by default NaturalGradient.
        gamma: discount factor per timestep, from 0 to 1.
        discount_states: whether timestep t counts gamma**t, as the gradient of the discounted objective has it. By
            default it does not, as in nearly all implementations: late actions count as much as early ones.
        optimizer: makes the optimizer of the policy's parameters; by default that of the direction.
        lr_scheduler: makes the learning-rate scheduler of the optimizer; it steps once per update.
        lr_schedule: factor of the learning rate by the run's progress, such as Linear(1.0); in place of a scheduler.
        entropy_coef: β, weight of the entropy bonus: a number or a schedule.
        chunk_size: timesteps that are learnt from at a time, of images no more than 16 MiB hold; it bounds the memory
            and does not change the gradient.
        gradient_variance: whether the gradient's variance is estimated in every update, from up to 16 episodes, and
            logged as ``grad_variance``.

    Raises:
        ValueError: an argument out of range, or a policy that does not fit the environment.
    """

    def __init__(
        self,
        env: Environment | str | Callable[..., gym.Env] | None = None,
        policy: PolicyFactory | None = None,
        returns: Returns | None = None,
        baseline: Baseline | None = None,
        normalization: Normalization | None = None,
        direction: Direction | None = None,
        gamma: float = 0.99,
        discount_states: bool = False,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_schedule: Schedule | None = None,
        entropy_coef: float | Schedule = 0.0,
        chunk_size: int = 4096,
        gradient_variance: bool = False,
    ) -> None:
        super().__init__(
            env, policy or defaults.policy, direction or defaults.direction(), optimizer, lr_scheduler, lr_schedule
        )
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be from 0 to 1, not {gamma}")
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 timestep, not {chunk_size}")
        if not isinstance(entropy_coef, Schedule | dict) and not math.isfinite(entropy_coef):
            raise ValueError(f"entropy_coef must be a finite number or a schedule, not {entropy_coef}")
        self.baseline = self.part("baseline", baseline or defaults.baseline(), Baseline)
        self.returns = self.part("returns", returns or self.baseline.returns(), Returns)
        self.normalization = self.part("normalization", normalization or defaults.normalization(), Normalization)
        self.entropy_coef = self.part("entropy_coef", entropy_coef, Schedule)
        self.baseline.prepare(self.env.observation_space, self.policy)
        self.gamma, self.discount_states, self.chunk_size = gamma, discount_states, chunk_size
        self.gradient_variance = gradient_variance
        self.save_hyperparameters({"gamma": gamma, "discount_states": discount_states})
        self.save_hyperparameters({"chunk_size": chunk_size, "gradient_variance": gradient_variance})

    def estimate(self, episodes: Episodes) -> Batch:
        r"""Estimate an advantage for every timestep, :math:`\hat A_t = G_t - b(S_t)`, given all processes' episodes."""
        outcome, played = episodes.outcome(), self.returns.select(episodes)
        episodes = gather_episodes(self, played)
        values = self.baseline.values(episodes)  # [T], where there is a critic
        returns = checked("returns", self.returns(episodes, values, self.gamma), episodes)  # [T]
        baseline = checked("baseline", self.baseline(episodes, returns), episodes)  # [T]
        normalized = self.normalization(returns - baseline, episodes.lengths)
        advantages = checked("advantages", normalized, episodes)  # [T]
        if self.discount_states:
            advantages = advantages * timestep_discounts(episodes.lengths, self.gamma)  # [T]
        estimates = returns, baseline, advantages.to(self.dtype)
        batch = Batch(episodes, *estimates, len(episodes), outcome, self.progress)
        return own_part(self, batch, played)

    def loss(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        r"""Return a chunk's part of :math:`-\frac{1}{E} \sum_t (\log\pi(A_t|S_t) \hat A_t + \beta H_t)`, entropy H."""
        distribution = chunk.distribution(self.policy)
        log_probs = distribution.log_prob(chunk.actions)  # [C]
        loss = policy_gradient_loss(log_probs, chunk.advantages, chunk.num_episodes)  # []
        bonus = value_of(self.entropy_coef, self.progress)
        if bonus:
            loss = loss - bonus * entropy(distribution, chunk.actions).sum() / chunk.num_episodes  # []
        return loss, log_probs.detach()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss of episodes that the policy sampled just now, with the gradient of all chunks."""
        self.check_on_policy(batch)
        chunks = batch.chunks(self.chunk_size)
        loss, log_probs = summed_over_chunks(self.loss, chunks, self.learning_parameters())
        outcome = self.report(batch, loss, log_probs)
        if self.gradient_variance:
            over = self.chunk_size, self.learning_parameters(), partial(sum_over_processes, self)
            self.measured |= gradient_variance(self.loss, batch, *over)
        return {"loss": loss, "outcome": outcome}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the gradient, averaged over all processes, into the direction of the step."""
        self.check_gradient()
        self.measured |= self.direction(self.policy, self.batch, self.progress, partial(sum_over_processes, self))
