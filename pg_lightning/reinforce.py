"""REINFORCE: Monte-Carlo policy gradient, as a LightningModule."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from pg_lightning.advantages import Advantage, TimestepBaseline
from pg_lightning.envs import spaces
from pg_lightning.episodes import Batch, Episodes, Outcome
from pg_lightning.functional import summed_over_chunks
from pg_lightning.learners import learning_parameters, make_gradient
from pg_lightning.policies import CategoricalMLP, PolicyFactory, evaluating, with_consistent_dropout
from pg_lightning.specs import UNNAMED, build, describe

default_optimizer = partial(torch.optim.Adam, lr=0.02)


class Reinforce(pl.LightningModule):
    """The agent: a policy, how it weighs what it did, and how it learns from that.

    Args:
        env_id: Gymnasium id of the environment, which decides what the policy reads and chooses.
        env_kwargs: arguments of the environment.
        policy: makes the policy of an observation and an action space: a class such as CategoricalMLP.
        advantage: weighs each timestep of complete episodes; by default TimestepBaseline.
        gamma: discount factor per timestep, from 0 to 1.
        optimizer: makes the optimizer of the policy's parameters; by default Adam with learning rate 0.02.
        lr_scheduler: makes the learning-rate scheduler of the optimizer; it steps once per update.
        chunk_size: timesteps that learn at a time, which bounds the memory; the gradient does not depend on it.

    Raises:
        ValueError: an argument out of range, or a policy that does not fit the environment.
    """

    num_episodes: Tensor
    num_env_steps: Tensor

    def __init__(
        self,
        env_id: str = "CartPole-v1",
        env_kwargs: dict[str, Any] | None = None,
        policy: PolicyFactory = CategoricalMLP,
        advantage: Advantage | None = None,
        gamma: float = 0.99,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        chunk_size: int = 2048,
    ) -> None:
        super().__init__()
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be from 0 to 1, not {gamma}")
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 timestep, not {chunk_size}")
        self.save_hyperparameters()
        self.hparams.pop("_instantiator", None)  # LightningCLI's; the specs of the next line need no parser.
        for name, value in self.hparams.items():
            if value == UNNAMED:
                raise ValueError(f"the checkpoint could not name its {name}: load_from_checkpoint(path, {name}=...)")
            self.hparams[name] = describe(value)
        self.policy = with_consistent_dropout(build(policy, torch.nn.Module)(*spaces(env_id, env_kwargs)))
        self.advantage = build(advantage, Advantage, instance=True) or TimestepBaseline()
        self.gamma, self.chunk_size = gamma, chunk_size
        self.make_optimizer = build(optimizer, torch.optim.Optimizer) or default_optimizer
        self.make_lr_scheduler = build(lr_scheduler, torch.optim.lr_scheduler.LRScheduler)
        self.register_buffer("num_episodes", torch.tensor(0))
        self.register_buffer("num_env_steps", torch.tensor(0))
        self.metrics: dict[str, float] = {}
        self._logged = 0

    def weigh(self, episodes: Episodes) -> Batch:
        """Return-to-go, then normalise: give each timestep of some episodes the weight it will learn with."""
        advantages = self.advantage(episodes, self.gamma)
        if advantages.shape != episodes.rewards.shape:
            raise ValueError(f"advantages must be [T] = {list(episodes.rewards.shape)}, not {list(advantages.shape)}")
        return Batch(episodes, advantages.float())

    def on_train_start(self) -> None:
        """Refuse a loader that would sample with an older policy than the one that learns."""
        self._logged = self.global_step
        loader = self.trainer.train_dataloader
        if getattr(loader, "num_workers", 0) > 0:
            raise ValueError(
                "num_workers must be 0: a worker's copy of the policy never learns. Hand the EpisodeDataset itself to "
                "the Trainer; for environments in processes of their own use backend 'async'."
            )
        if self.trainer.num_training_batches == float("inf"):
            raise ValueError(
                "the training dataset needs a __len__: without one Lightning fetches a batch ahead, sampled by the "
                "policy before the last update"
            )
        if self.trainer.accumulate_grad_batches != 1:
            raise ValueError("accumulate_grad_batches must be 1: use more episodes_per_update instead")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the REINFORCE loss of episodes that the policy sampled just now."""
        episodes = batch.episodes
        if episodes.update != self.global_step:
            raise RuntimeError(f"episodes of update {episodes.update} came when update {self.global_step} was due")
        chunks, parameters = batch.chunks(self.chunk_size), learning_parameters(self.policy)
        loss = summed_over_chunks(make_gradient(self.policy), chunks, parameters)
        if not math.isfinite(value := loss.item()):
            raise ValueError(f"update {self.global_step}: the loss is {value}; nothing was learnt from it")
        self.outcome = outcome = self.gather(episodes.outcome())
        self.num_episodes.add_(len(outcome.lengths))
        self.num_env_steps.add_(outcome.lengths.sum())
        self.metrics = {
            "loss": value,
            **outcome.statistics(),
            "entropy": -episodes.log_probs.mean().item(),
            "episodes": self.num_episodes.item(),
            "env_steps": self.num_env_steps.item(),
        }
        return loss

    def gather(self, outcome: Outcome) -> Outcome:
        """Join the outcomes of all processes, so that each goes by the episodes of all."""
        if self.trainer.world_size == 1:
            return outcome
        ours = torch.stack([column.double() for column in outcome])  # [3, E]
        everywhere = [torch.empty_like(ours) for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather(everywhere, ours)
        returns, lengths, truncated = torch.cat(everywhere, dim=1)
        return Outcome(returns, lengths.long(), truncated.bool())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a gradient that is not finite reaches the weights."""
        for name, parameter in self.policy.named_parameters():
            # A sum that is finite has finite terms only, and takes a fifth of the time.
            if (gradient := parameter.grad) is None or math.isfinite(gradient.sum().item()):
                continue
            if not torch.isfinite(gradient).all():
                raise ValueError(f"update {self.global_step}: the gradient of {name} is not finite; weights unchanged")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Hand this update's metrics to the loggers, unless a checkpoint of it has had that done already."""
        self.log_update()

    def log_update(self) -> None:
        """Hand the last update's metrics to the loggers, once; ``self.log`` would take 0.4 ms for each of them."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._logged < self.global_step and every and self.global_step % every == 0:
            self._logged = self.global_step
            for logger in self.loggers:
                logger.log_metrics(self.metrics, step=self.global_step)

    def configure_optimizers(self) -> Any:
        """Make the optimizer, and a scheduler that steps once per update."""
        optimizer = self.make_optimizer(self.policy.parameters())
        if self.make_lr_scheduler is None:
            return optimizer
        return [optimizer], [{"scheduler": self.make_lr_scheduler(optimizer), "interval": "step"}]

    def _evaluate(self, episodes: Episodes, dataloader_idx: int) -> None:
        """Log what the evaluation episodes were worth: mean, standard deviation and count."""
        returns, way = episodes.returns, ("sampled", "greedy")[dataloader_idx]
        spread = returns.std() if len(returns) > 1 else torch.zeros(())
        metrics = {"return_mean": returns.mean(), "return_std": spread, "episodes": torch.tensor(float(len(returns)))}
        self.log_dict(
            {f"{way}_{name}": value for name, value in metrics.items()}, add_dataloader_idx=False, batch_size=1
        )

    def validation_step(self, batch: Episodes, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the evaluation episodes' returns, sampled and greedy."""
        self._evaluate(batch, dataloader_idx)

    def test_step(self, batch: Episodes, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the evaluation episodes' returns, sampled and greedy."""
        self._evaluate(batch, dataloader_idx)

    def predict_step(self, batch: Episodes, batch_idx: int, dataloader_idx: int = 0) -> Episodes:
        """Return the episodes as they were played."""
        return batch

    @torch.inference_mode()
    def act(self, observation: np.ndarray, greedy: bool = True) -> np.ndarray:
        """Map one observation to an action, without dropout.

        Args:
            observation: ``[*obs]``.
            greedy: the most probable action, rather than a sampled one.

        Returns:
            The action ``[*act]``, ready for ``env.step``.
        """
        inputs = torch.as_tensor(observation, device=self.device)[None]
        with evaluating(self.policy):
            distribution = self.policy(inputs.float() if inputs.dtype == torch.float64 else inputs)
        return (distribution.mode if greedy else distribution.sample())[0].cpu().numpy()[()]
