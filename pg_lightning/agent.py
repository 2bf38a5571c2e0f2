"""Agent: a policy as a LightningModule, with everything around an algorithm that is not the algorithm."""

import math
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pg_lightning import checks
from pg_lightning.checkpoint_file import FORMAT, FORMAT_KEY, arguments_of, load_agent
from pg_lightning.diagnostics import STEP_TIMESTEPS, explained_variance, measure_step, relative_lag
from pg_lightning.directions import Direction
from pg_lightning.envs import Environment, as_environment
from pg_lightning.episodes import Batch, Episodes, Outcome
from pg_lightning.evaluation import Evaluation, evaluate
from pg_lightning.fitted import Fitted
from pg_lightning.gathering import gather_outcome, sum_over_processes
from pg_lightning.hparams import build, describe
from pg_lightning.memory import keep_freed_memory
from pg_lightning.optimizers import configure_optimizers
from pg_lightning.policies.dropout import evaluating, with_consistent_dropout
from pg_lightning.sampling.actors import make_actor
from pg_lightning.sampling.reading import read_one
from pg_lightning.schedules import Schedule, value_of
from pg_lightning.tree import Tree, tree_map


class Agent(pl.LightningModule):
    """Policy with optimizers, checks, metrics, evaluation and checkpoints; algorithms derive from it.

    Args:
        env: what is played.
        policy: makes the policy of an observation and an action space.
        direction: from the gradient to the step; it names the default optimizer.
        optimizer: makes the optimizer of the policy's parameters.
        lr_scheduler: makes its learning-rate scheduler, which steps once per update.
        lr_schedule: factor of the learning rate, by the progress of the run; in place of a scheduler.

    Attributes:
        metrics: of the last update, by name.
        batch: of the update in progress.
        max_env_steps: env steps after which the run ends, where a callback limits them.
        measured: metrics of the update in progress, which may yet be refused.
        evaluations: the latest of ``validate`` or ``test``: "sampled" and, where the policy has a mode, "greedy".
    """

    num_episodes: Tensor
    num_env_steps: Tensor
    num_timesteps: Tensor
    outcome: Outcome

    def __init__(
        self, env: Any, policy: Any, direction: Any, optimizer: Any, lr_scheduler: Any, lr_schedule: Any
    ) -> None:
        super().__init__()
        self.env: Environment = as_environment(env)
        self.save_hyperparameters({"env": self.env.spec()})
        make_policy = self.part("policy", policy, nn.Module, instance=False)
        spaces = self.env.observation_space, self.env.action_space
        self.policy = with_consistent_dropout(checks.made_policy(make_policy, spaces))
        self.direction = self.part("direction", direction, Direction)
        self.make_optimizer = self.part("optimizer", optimizer, torch.optim.Optimizer, instance=False)
        schedulers = torch.optim.lr_scheduler.LRScheduler
        self.make_lr_scheduler = self.part("lr_scheduler", lr_scheduler, schedulers, instance=False)
        self.lr_schedule = self.part("lr_schedule", lr_schedule, Schedule)
        if lr_schedule is not None and lr_scheduler is not None:
            raise ValueError("lr_schedule and lr_scheduler both set the learning rate: give one of them")
        for name in ("num_episodes", "num_env_steps", "num_timesteps"):
            self.register_buffer(name, torch.tensor(0))
        self.metrics, self.measured = dict[str, float](), dict[str, float]()
        self.evaluations: dict[str, Evaluation] = {}
        self.batch: Batch | None = None
        self.max_env_steps: int | None = None
        self._logged, self._learnt = 0, -1

    def part(self, name: str, value: Any, kind: type, instance: bool = True) -> Any:
        """Record a part as a hyper-parameter, and build it where it is a spec from a checkpoint."""
        self.save_hyperparameters({name: describe(value, name)})
        return value if isinstance(value, int | float) else build(value, kind, name=name, instance=instance)

    def save_hyperparameters(self, *args: Any, ignore: Any = (), frame: Any = None, logger: bool = True) -> None:
        """Record constructor arguments for checkpoints; without ``args`` those of the class that calls.

        What a base class has recorded stays: a checkpoint can hold its specs, but not the parts themselves.
        """
        frame, ignored = frame or sys._getframe(1), [ignore] if isinstance(ignore, str) else ignore or ()
        args = args or (arguments_of(frame, {*self.hparams, *ignored}),)
        super().save_hyperparameters(*args, frame=frame, logger=logger)

    def learning_parameters(self) -> list[nn.Parameter]:
        """List the policy's parameters that are not frozen."""
        return [parameter for parameter in self.policy.parameters() if parameter.requires_grad]

    def forward(self, observations: Tree, *action_masks: Tensor) -> Distribution:
        """Return the distribution over raw actions, given raw observations, a tree of ``[T, ...]``, and masks."""
        return self.policy(observations, *action_masks)

    def to_onnx(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a distribution is no tensor, which ONNX needs."""
        raise NotImplementedError("write an ONNX file with pg_lightning.export.export(agent, path)")

    # Checks

    def setup(self, stage: str) -> None:
        """Refuse numbers in which the policy cannot learn what it did, and what a checkpoint cannot hold."""
        checks.check_numbers(self.trainer)
        checks.have_convolutions_repeat(self.trainer)
        checks.check_hyper_parameters(self.hparams)

    def on_train_start(self) -> None:
        """Refuse what would go wrong in the run that begins."""
        keep_freed_memory()
        self._logged, self._learnt = self.global_step, -1
        self._publish()
        checks.check_start(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Refuse gradient accumulation, which a callback may have switched on: episodes would be learnt from twice."""
        checks.check_accumulation(self.trainer)

    def check_on_policy(self, batch: Batch) -> None:
        """Refuse episodes that another policy sampled, or that were learnt from before."""
        update = batch.episodes.update
        if update != self.global_step:
            raise ValueError(f"episodes of update {update} came when update {self.global_step} was due")
        if update == self._learnt:
            raise ValueError(
                f"update {update} was to be learnt from twice: gradient accumulation, or an optimizer that calls its "
                "closure more than once (such as LBFGS), needs episodes that the changed policy has not sampled"
            )
        self._learnt, self.batch = update, batch

    def check_gradient(self) -> None:
        """Measure the norm of the gradient; stop before one that is not finite reaches the weights."""
        self.measured["grad_norm"] = checks.checked_norm(self.policy, self.global_step)

    # Metrics

    def report(self, batch: Batch, loss: Tensor, log_probs: list[Tensor]) -> Outcome:
        """Check what was measured before the weights change; nothing is counted before they have."""
        lag = relative_lag(torch.cat(log_probs), batch.episodes.log_probs)
        checks.check_lag(lag, self.global_step, torch.is_autocast_enabled(self.device.type))
        if not math.isfinite(value := loss.item()):
            raise ValueError(f"update {self.global_step}: the loss is {value}; weights unchanged")
        self.outcome = gather_outcome(self, batch.outcome)
        self.measured = {
            "loss": value,
            **self.outcome.statistics(),
            "explained_variance": explained_variance(batch.whole.baseline, batch.whole.returns),
            "policy_lag": lag,
        }
        return self.outcome

    def count(self, batch: Batch, outcome: Outcome) -> None:
        """Count an update whose step was taken, and complete its metrics."""
        self.num_episodes.add_(len(outcome.lengths))
        self.num_env_steps.add_(outcome.env_steps)
        self.num_timesteps.add_(batch.whole.episodes.num_timesteps)
        counters = {name: getattr(self, f"num_{name}").item() for name in ("episodes", "env_steps", "timesteps")}
        self.metrics = self.measured | counters

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take the step, measure it, fit every Fitted part, and publish the metrics before any callback runs."""
        if self.lr_schedule is not None:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * value_of(self.lr_schedule, self.progress)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        assert self.batch is not None
        self.count(self.batch, self.outcome)
        measured = sum_over_processes(self, measure_step(self.policy, self.batch.spaced(STEP_TIMESTEPS)))
        self.metrics["kl"], self.metrics["entropy"] = (measured / self.trainer.world_size).tolist()
        self.metrics["lr"] = optimizer.param_groups[0]["lr"]
        fitted = [module for module in self.modules() if isinstance(module, Fitted)]
        for module in sorted(fitted, key=lambda module: module.order):
            self.metrics |= module.fit(self.batch.whole)
            checks.check_fitted(module, self.global_step)
        self.batch = None  # Or its memory would stay while the next one is sampled.
        self._publish()

    def _publish(self) -> None:
        """Let callbacks and schedulers monitor the last update's metrics by name."""
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self.metrics.items()})

    @property
    def progress(self) -> float | None:
        """Progress of the run, from 0 to 1: by env steps if they are limited, else by updates; ``None`` if endless."""
        if self.max_env_steps is not None:
            return min(self.num_env_steps.item() / self.max_env_steps, 1.0)
        if self._trainer is None or self.trainer.max_steps < 1:
            return None
        return min(self.global_step / self.trainer.max_steps, 1.0)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Hand this update's metrics to the loggers, unless a checkpoint of it has had that done already."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.global_step % every == 0:
            self.log_update()

    def on_train_end(self) -> None:
        """Hand the last update's metrics to the loggers, whatever ``log_every_n_steps`` is."""
        self.log_update()

    def log_update(self) -> None:
        """Hand the last update's metrics to the loggers, once; ``self.log`` would take 0.4 ms for each of them."""
        if self._logged < self.global_step and self.metrics:
            self._logged = self.global_step
            for logger in self.loggers:
                logger.log_metrics(self.metrics, step=self.global_step)

    # Optimizers

    def configure_optimizers(self) -> Any:
        """Make the optimizer, and a scheduler that steps once per update."""
        return configure_optimizers(self.policy, self.direction, self.make_optimizer, self.make_lr_scheduler)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a scheduler once per update; Lightning repeats the end of the last update when it resumes a run."""
        if self._learnt >= 0:
            super().lr_scheduler_step(scheduler, metric)

    # Evaluation

    def _evaluate(self, episodes: Episodes, dataloader_idx: int) -> None:
        """Log mean, standard deviation and count of the returns of all processes' evaluation episodes."""
        way, one = ("sampled", "greedy")[dataloader_idx], evaluate(gather_outcome(self, episodes.outcome()))
        self.evaluations[way] = one
        metrics = {f"{way}_return_mean": one.mean, f"{way}_return_std": one.std, f"{way}_episodes": float(one.episodes)}
        self.log_dict(metrics, add_dataloader_idx=False, batch_size=1, sync_dist=True)

    def validation_step(self, batch: Episodes, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the evaluation episodes' returns, sampled and greedy."""
        self._evaluate(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Give the row of a validation the number of its update; Lightning would take the one before."""
        if self.trainer.state.fn == "fit":
            self.log("step", float(self.global_step))

    test_step = validation_step

    def predict_step(self, batch: Episodes, batch_idx: int, dataloader_idx: int = 0) -> Episodes:
        """Return the episodes as they were played."""
        return batch

    @torch.no_grad()
    def act(self, observation: Any, greedy: bool = True, action_mask: Any = None) -> Any:
        """Choose an action for one observation, without dropout.

        Args:
            observation: as the environment emits it.
            greedy: the most probable action, rather than a sampled one.
            action_mask: the ``action_mask`` of the info, where the environment gives one there.

        Returns:
            The action, ready for ``env.step``.

        Raises:
            ValueError: the environment has action masks, and none was given.
        """
        actor = make_actor(self.policy, self.env.action_space, greedy)
        with evaluating(self.policy):
            actor.begin(1, np.random.default_rng(int(torch.randint(2**62, ()))))
            actions = actor.to_env(actor.act(*read_one(actor, self.env, observation, action_mask)))
        # A number of a Box without dimensions must be an array.
        return tree_map(lambda values: np.asarray(values[0]) if values.dtype.kind == "f" else values[0], actions)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note the version of the checkpoint's content, and the metrics, which a scheduler may watch."""
        checkpoint[FORMAT_KEY] = FORMAT
        checkpoint["metrics"] = self.metrics

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the metrics of the last update from a checkpoint."""
        self.metrics = checkpoint.get("metrics", {})

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, strict: bool = True, **arguments: Any
    ) -> Self:
        """Build an agent from a checkpoint, which is read as data: nothing that it carries is run.

        Args:
            checkpoint_path: of the file.
            map_location: device of the agent; by default the CPU.
            strict: whether the checkpoint must have all weights of the agent and no others.
            **arguments: constructor arguments that win over those of the checkpoint: a policy of one's own
                (``policy=MyPolicy``) where its module is not imported, an environment that has no id (``env=...``).

        Raises:
            ValueError: a file that cannot be read, that names what is not imported here, or a hyper-parameter that the
                class does not take.
        """
        return load_agent(cls, checkpoint_path, map_location, strict, arguments)
