"""What in the policy gradient is signal, at one policy: by λ, and by how the natural gradient is solved for.

    python -m tests.benchmarks.gradient_signal runs/.../checkpoints/last.ckpt --episodes 16

The policy of a checkpoint stays as it is and plays some episodes, half of them or fewer make a gradient, and the others
tell what it is worth. All are seen with the critic of the checkpoint, without normalisation of advantages and without
an entropy bonus. Write a page with ``--out``.

First table: the gradients of single episodes, g. The signal is the mean of g·g' over pairs of different episodes, free
of noise in the mean, and may come out below 0; the noise is the rest of the mean of g·g. Their ratio has its jackknife
standard error, and gives the cosine between the mean of an update's episodes and the signal. A λ below 1 has a bias,
which is part of its signal.

Second table: the step of an update, and by how much it raises the return of the *other* episodes, to first order, per
root of the KL divergence that it has at all timesteps. A divergence above the one that was asked for means that the
solution fits the timesteps that it was solved on.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pg_lightning import GAE, Batch, Episodes, NaturalGradient, NoNormalization, Reinforce
from pg_lightning.directions import Direction, Gradient
from pg_lightning.fisher import FisherProduct
from pg_lightning.sampling import play
from tests.benchmarks.common import say, table
from tests.benchmarks.variance import gradient

LAMBDAS = (0.5, 0.8, 0.9, 0.95, 1.0)
SOLUTIONS = ((1024, 5), (1024, 10), (4096, 5), (4096, 10))
"""Timesteps of the Fisher matrix, and iterations of the conjugate gradient."""

REFERENCE = 8192
"""Timesteps that the divergence of every step is measured on."""

ASKED = 0.01
"""Divergence that the natural gradient is asked for."""


def gradients(agent: Reinforce, episodes: Episodes) -> Tensor:
    """Return the gradient of the expected return as each episode tells it ``[E, P]``, float64."""
    return torch.stack([gradient(agent, episodes.select(one)) for one in torch.eye(len(episodes), dtype=torch.bool)])


def step_of(agent: Reinforce, direction: Direction, mean: Tensor, batch: Batch) -> Tensor:
    """Return what a direction makes of the mean gradient ``[P]`` of a batch."""
    parameters = agent.learning_parameters()
    for parameter, part in zip(parameters, (-mean).split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
    direction(agent.policy, batch, None, alone)
    return -torch.cat([parameter.grad.reshape(-1).double() for parameter in parameters])


def alone(tensor: Tensor) -> Tensor:
    """Add up over the one process that there is."""
    return tensor


def signal_to_noise(products: Tensor) -> float:
    """Return the squared norm of what vectors have in common over that of the rest of one, from their products [E, E].

    >>> signal_to_noise(torch.tensor([[5.0, -3.0], [-3.0, 5.0]]))
    -0.375
    """
    count = len(products)
    signal = (products.sum() - products.trace()) / (count * (count - 1))
    return (signal / (products.trace() / count - signal)).item()


def by_lambda(agent: Reinforce, episodes: Episodes, update: int) -> list[list[str]]:
    """Return the lines of the first table."""
    lines, count = [], len(episodes)
    for gae_lambda in LAMBDAS:
        agent.returns.gae_lambda = gae_lambda
        rows = gradients(agent, episodes)
        products = rows @ rows.T
        ratio = signal_to_noise(products)
        kept = [torch.arange(count) != index for index in range(count)]
        without = torch.tensor([signal_to_noise(products[some][:, some]) for some in kept])
        error = without.std(correction=0) * (count - 1) ** 0.5
        together = max(update * ratio, 0.0)
        lines.append([f"{gae_lambda}", f"{ratio:.2f} ± {error:.2f}", f"{(together / (1 + together)) ** 0.5:.2f}"])
        say(" ".join(lines[-1]))
    return lines


def by_solution(agent: Reinforce, episodes: Episodes, update: int) -> list[list[str]]:
    """Return the lines of the second table."""
    lines, rows, everything = [], gradients(agent, episodes), agent.estimate(episodes).spaced(REFERENCE)
    fisher = FisherProduct(agent.policy, agent.learning_parameters(), everything, alone)
    directions: dict[str, Direction] = {"the gradient itself": Gradient()}
    for timesteps, iterations in SOLUTIONS:
        one = NaturalGradient(max_kl=ASKED, max_timesteps=timesteps, cg_iterations=iterations)
        directions[f"{timesteps:,} timesteps, {iterations} iterations"] = one
    chosen = [torch.arange(len(rows)) // update == index for index in range(len(rows) // update)]
    updates = [(rows[some].mean(0), agent.estimate(episodes.select(some)), rows[~some].mean(0)) for some in chosen]
    for name, direction in directions.items():
        gains, divergences = [], []
        for mean, batch, goal in updates:
            step = step_of(agent, direction, mean, batch)
            divergences.append(0.5 * (step @ fisher(step)).item())
            gains.append((goal @ step).item() / divergences[-1] ** 0.5)
        gain, divergence = torch.tensor(gains), sum(divergences) / len(divergences)
        cells = [f"{gain.mean():.3g} ± {gain.std() / len(gains) ** 0.5:.2g}", f"{divergence / ASKED:.2f}"]
        lines.append([name, cells[0], cells[1] if isinstance(direction, NaturalGradient) else ""])
        say(" ".join(lines[-1]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--update", type=int, default=4, help="episodes of an update")
    parser.add_argument("--gae_lambda", type=float, help="of the second table; by default the checkpoint's")
    parser.add_argument("--out", type=Path, help="file for the two tables")
    options = parser.parse_args()
    if not 0 < options.update <= options.episodes // 2:  # Two updates at least, for the standard error.
        parser.error("--update must be at least 1 and at most half of --episodes")
    torch.set_num_threads(1)
    agent = Reinforce.load_from_checkpoint(options.checkpoint).eval()
    if not isinstance(agent.returns, GAE):
        parser.error("the checkpoint must be of a run with GAE")
    agent.normalization, agent.entropy_coef = NoNormalization(), 0.0
    gae_lambda = agent.returns.gae_lambda if options.gae_lambda is None else options.gae_lambda
    episodes = play(agent.policy, agent.env, options.episodes, greedy=False, num_envs=4, backend="sync")
    say(f"{len(episodes)} episodes, {episodes.num_timesteps:,} timesteps, mean return {episodes.returns.mean():.1f}")
    header = ["λ", "signal to noise, one episode", f"cosine with {options.update} episodes"]
    text = table(header, by_lambda(agent, episodes, options.update))
    agent.returns.gae_lambda = gae_lambda
    header = [f"direction, λ = {gae_lambda}", "gain per root of divergence", "divergence to asked-for"]
    text += "\n\n" + table(header, by_solution(agent, episodes, options.update))
    say(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
