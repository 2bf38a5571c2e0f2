"""Variance of each estimator's gradient, at an early, a middle and a late policy of CartPole-v1 and LunarLander-v3.

    python -m tests.benchmarks.variance --out runs/variance --figure docs/variance.png

The policies are those of one run of this package per environment, of seed 0: natural gradient, critic and GAE, with 16
episodes per update, after the numbers of updates in ``STAGES``. Each of them then stays as it is, plays ``--repeats``
updates of 16 episodes, and every estimator gets the same episodes. Its variance is the trace of the covariance matrix
of the policy gradient over those updates, without normalisation of advantages; the interval is a bootstrap over
updates (95 %, 2,000 resamples), and so is that of its share of the variance without a baseline, from the same updates.

The critic is that of the run, as it was after that update, for both rows: trained on λ-returns. The linear baseline is
fitted to one other update of the same policy. GAE with λ = 0.95 is biased, and so is a mean of few episodes' returns:
less variance is not all. A run that was stopped goes on where it was, from the files in the folder.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Callback

from pg_lightning import (
    GAE,
    Critic,
    EpisodeDataModule,
    Episodes,
    EpisodeSampler,
    LeaveOneOut,
    LinearBaseline,
    MeanBaseline,
    MLPPolicy,
    MonteCarlo,
    NaturalGradient,
    NoBaseline,
    NoNormalization,
    PerBatch,
    Reinforce,
    TimestepBaseline,
)
from pg_lightning.gradients import summed_over_chunks
from pg_lightning.sampling.actors import make_actor
from tests.benchmarks.common import record, say, table

STAGES = {"CartPole-v1": (1, 5, 17), "LunarLander-v3": (5, 16, 50)}
"""Updates after which the policy is early, middle and late."""

NAMES = "early", "middle", "late"
EPISODES = 16
RESAMPLES = 2000

ESTIMATORS: dict[str, Any] = {
    "NoBaseline": (MonteCarlo, NoBaseline),
    "MeanBaseline": (MonteCarlo, MeanBaseline),
    "TimestepBaseline": (MonteCarlo, TimestepBaseline),
    "LeaveOneOut": (MonteCarlo, LeaveOneOut),
    "LinearBaseline": (MonteCarlo, LinearBaseline),
    "Critic, MonteCarlo": (partial(MonteCarlo, "bootstrap"), Critic),
    "Critic, GAE 0.95": (partial(GAE, 0.95), Critic),
}
"""Returns and baseline of each row; returns without a critic count a truncated episode as terminal."""


class Keep(Callback):
    """Writes the state after some updates: the weights, and the critic fitted by then."""

    def __init__(self, env: str, out: Path) -> None:
        self.env, self.out = env, out

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        update, metrics = trainer.global_step, pl_module.metrics
        if update in STAGES[self.env]:
            torch.save({"state": pl_module.state_dict(), "metrics": metrics}, state_file(self.out, self.env, update))
            say(f"{self.env}: update {update}, return {metrics['episode_return']:.0f}")


def state_file(out: Path, env: str, update: int) -> Path:
    return out / f"{env}-{update}.pt"


def agent_of(env: str, **parts: Any) -> Reinforce:
    policy = partial(MLPPolicy, hidden_sizes=(64, 64), activation="tanh", bias=True, init="orthogonal")
    return Reinforce(env, policy=policy, gamma=0.99, **parts)


def train(env: str, out: Path) -> None:
    """Make the policies."""
    pl.seed_everything(0, verbose=False)
    parts = {"returns": GAE(0.95), "baseline": Critic(), "normalization": PerBatch()}
    agent = agent_of(env, direction=NaturalGradient(0.02), **parts)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    limits = {"max_steps": STAGES[env][-1], "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"}
    trainer = pl.Trainer(**quiet, **limits, callbacks=[Keep(env, out)])  # type: ignore[arg-type]
    trainer.fit(agent, EpisodeDataModule(num_envs=EPISODES, backend="sync"))


def gradient(agent: Reinforce, episodes: Episodes) -> torch.Tensor:
    """Return the policy gradient that the agent would follow from these episodes ``[P]``."""
    parameters = agent.learning_parameters()
    loss, _ = summed_over_chunks(agent.loss, agent.estimate(episodes).chunks(agent.chunk_size), parameters)
    return -torch.cat([part.reshape(-1).double() for part in torch.autograd.grad(loss, parameters)])


def measure_stage(env: str, update: int, out: Path, repeats: int) -> dict[str, Any]:
    """Play updates with a policy, and return the variance of every estimator's gradient."""
    kept = torch.load(state_file(out, env, update), weights_only=True)
    agents = {
        name: agent_of(env, returns=returns(), baseline=baseline(), normalization=NoNormalization())
        for name, (returns, baseline) in ESTIMATORS.items()
    }
    for agent in agents.values():
        prefixes = ("policy.", "baseline.") if isinstance(agent.baseline, Critic) else ("policy.",)
        agent.load_state_dict({k: v for k, v in kept["state"].items() if k.startswith(prefixes)}, strict=False)
    one = agents["NoBaseline"]
    sampler = EpisodeSampler(one.env.make_vector(EPISODES, "sync"), EPISODES, seed=1)
    actor = make_actor(one.policy, one.env.action_space)
    linear = agents["LinearBaseline"]
    linear.baseline.fit(linear.estimate(sampler.sample(actor, repeats)))  # type: ignore[operator]
    gradients: dict[str, list[torch.Tensor]] = {name: [] for name in ESTIMATORS}
    lengths, said = [], time.monotonic()
    for index in range(repeats):
        episodes = sampler.sample(actor, index)
        lengths.append(episodes.num_timesteps / EPISODES)
        for name, agent in agents.items():
            gradients[name].append(gradient(agent, episodes))
        if time.monotonic() - said > 20:
            said = time.monotonic()
            say(f"{env}, update {update}: {index + 1} of {repeats}")
    sampler.close()
    means = {"return": kept["metrics"]["episode_return"], "length": float(np.mean(lengths))}
    grams = {name: torch.stack(found) @ torch.stack(found).T for name, found in gradients.items()}
    return {"env": env, "update": update, "repeats": repeats, **means, "estimators": variances(grams)}


def variances(grams: dict[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Return the variance of each estimator, its share of the first one's, and bootstrap intervals.

    Args:
        grams: dot products of the gradients of all updates with each other ``[R, R]``.
    """
    count = len(next(iter(grams.values())))
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)  # [B, R]
    found: dict[str, dict[str, Any]] = {}
    first: tuple[float, np.ndarray] | None = None
    for name, gram in grams.items():
        array = gram.numpy()
        variance = traces(array, np.ones((1, count)))[0]
        # Of a resample, whose variance is too small by (R - 1) / R.
        resampled = traces(array, drawn) * count / (count - 1)
        if first is None:
            first = variance, resampled
        found[name] = {
            "variance": variance,
            "interval": np.quantile(resampled, [0.025, 0.975]).tolist(),
            "share": variance / first[0],
            "share_interval": np.quantile(resampled / first[1], [0.025, 0.975]).tolist(),
            "mean_norm": float(np.sqrt(max(array.mean() - variance / count, 0.0))),
        }
    return found


def traces(gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the trace of the covariance matrix of weighted gradients ``[B]``, weights ``[B, R]`` that sum to R."""
    count = len(gram)
    return (weights @ gram.diagonal() - np.einsum("br,rs,bs->b", weights, gram, weights) / count) / (count - 1)


def draw(rows: list[dict[str, Any]], image: Path) -> None:
    """Draw the variances, one panel an environment."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, env in zip(figure.subplots(1, len(STAGES)), STAGES, strict=True):
        stages = [row for row in rows if row["env"] == env]
        for place, name in enumerate(ESTIMATORS):
            found = [row["estimators"][name] for row in stages]
            values = np.array([each["variance"] for each in found])
            bars = np.abs(np.array([each["interval"] for each in found]).T - values)
            across = np.arange(len(stages)) + 0.11 * (place - (len(ESTIMATORS) - 1) / 2)
            axes.errorbar(across, values, bars, fmt="o", markersize=5, capsize=2, label=name)
        labels = [
            f"{name}: update {row['update']}\nreturn {row['return']:.0f}"
            for name, row in zip(NAMES, stages, strict=True)
        ]
        axes.set_xticks(range(len(stages)), labels)
        axes.set(yscale="log", title=env, ylabel="variance of the gradient (trace of covariance)")
        axes.grid(alpha=0.3, axis="y", which="both")
    axes.legend(fontsize="small")
    repeats = rows[0]["repeats"]
    figure.suptitle(f"Gradient of {EPISODES} episodes, gamma 0.99: {repeats} updates, 95 % bootstrap intervals")
    figure.savefig(image, dpi=100)


def table_of(rows: list[dict[str, Any]]) -> str:
    """Write the share of each estimator's variance of that without a baseline, with its interval."""
    lines = []
    for name in ESTIMATORS:
        found = [row["estimators"][name] for row in rows]
        if name == "NoBaseline":
            lines.append([f"`{name}`, absolute", *(f"{each['variance']:.3g}" for each in found)])
        else:
            shares = ((each["share"], *each["share_interval"]) for each in found)
            lines.append([f"`{name}`", *("{:.3f} ({:.3f} to {:.3f})".format(*share) for share in shares)])
    stages = [f"{row['env']}, update {row['update']}, return {row['return']:.0f}" for row in rows]
    return table(["variance / that of NoBaseline", *stages], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/variance"), help="folder for policies and variance.jsonl"
    )
    parser.add_argument("--figure", type=Path, help="where the figure is written; by default in the folder")
    parser.add_argument("--repeats", type=int, default=60, help="updates per policy, at least 10")
    options = parser.parse_args()
    if options.repeats < 10:
        parser.error(f"--repeats must be at least 10, not {options.repeats}")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    results, rows = options.out / "variance.jsonl", []
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for env, updates in STAGES.items():
        if not all(state_file(options.out, env, update).exists() for update in updates):
            train(env, options.out)
        for update in updates:
            key = {"env": env, "update": update, "repeats": options.repeats}
            row = next((row for row in done if row.items() >= key.items()), None)
            if row is None:
                started = time.monotonic()
                row = measure_stage(env, update, options.out, options.repeats)
                record(options.out, results.name, row)
                say(f"{env}, update {update}: measured in {time.monotonic() - started:.0f} s")
            rows.append(row)
    draw(rows, options.figure or options.out / "variance.png")
    print(table_of(rows))


if __name__ == "__main__":
    main()
