"""What a step is worth on other episodes, at one policy: by discount and λ, by direction, and by episodes of an update.

    python -m tests.benchmarks.gradient_signal runs/.../checkpoints/last.ckpt --episodes 64 --update 4

The policy of a checkpoint stays as it is and plays some episodes, which are cut into groups of the size of an update. A
group makes a step, and the *other* groups tell by how much it raises their return, undiscounted, to first order. This
gain grows with the root of the step's KL divergence, and is given per root of it, so that steps of any length compare.
A gradient that were all noise would gain 0. All is seen with the critic of the checkpoint, without normalisation of
advantages and without an entropy bonus. The error is the jackknife's over groups: each is left out, as a step and as a
judge. Rows of a table have the same episodes, so that they differ by less than their errors say. Write a page with
``--out``.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pg_lightning import GAE, Episodes, NaturalGradient, NoNormalization, Reinforce
from pg_lightning.directions import Direction, Gradient
from pg_lightning.fisher import FisherProduct
from pg_lightning.sampling import play
from tests.benchmarks.common import say, table
from tests.benchmarks.variance import gradient

ESTIMATES = ((0.99, 0.8), (0.99, 0.9), (0.99, 0.95), (0.99, 0.98), (0.99, 1.0), (0.98, 0.95), (1.0, 1.0))
"""Discount factor and λ."""

SOLUTIONS = ((1024, 5), (1024, 10), (4096, 5), (4096, 10))
"""Timesteps of the Fisher matrix, and iterations of the conjugate gradient."""

REFERENCE = 8192
"""Timesteps that the divergence of every step is measured on."""

ASKED = 0.01
"""Divergence that the natural gradient is asked for."""


class Measure:
    """Gains of steps at one policy.

    Args:
        agent: of the checkpoint.
        episodes: that its policy played.
    """

    def __init__(self, agent: Reinforce, episodes: Episodes) -> None:
        self.agent, self.episodes = agent, episodes
        self.gamma, self.gae_lambda = agent.gamma, agent.returns.gae_lambda
        self.goals = self._gradients(1.0, 1.0)
        everything = agent.estimate(episodes).spaced(REFERENCE)
        self.fisher = FisherProduct(agent.policy, agent.learning_parameters(), everything, alone)
        self.rows = self._gradients(self.gamma, self.gae_lambda)

    def gradients(self, gamma: float, gae_lambda: float) -> Tensor:
        """Return the gradient of the expected return as each episode tells it ``[E, P]``, float64."""
        found = {(1.0, 1.0): self.goals, (self.gamma, self.gae_lambda): self.rows}.get((gamma, gae_lambda))
        return self._gradients(gamma, gae_lambda) if found is None else found

    def _gradients(self, gamma: float, gae_lambda: float) -> Tensor:
        self.agent.gamma, self.agent.returns.gae_lambda = gamma, gae_lambda
        single = torch.eye(len(self.episodes), dtype=torch.bool)
        found = torch.stack([gradient(self.agent, self.episodes.select(one)) for one in single])
        self.agent.gamma, self.agent.returns.gae_lambda = self.gamma, self.gae_lambda
        return found

    def gain(self, name: str, rows: Tensor, direction: Direction, update: int) -> list[str]:
        """Return a line: the gain of steps of updates of some episodes, and their divergence to the asked-for."""
        groups = [torch.arange(len(rows)) // update == index for index in range(len(rows) // update)]
        steps = [self.step(rows[group].mean(0), self.episodes.select(group), direction) for group in groups]
        divergences = torch.stack([0.5 * (step @ self.fisher(step)) for step in steps])
        goals = torch.stack([self.goals[group].mean(0) for group in groups])
        gains = torch.stack(steps) @ goals.T / divergences.sqrt()[:, None]  # [steps, judges]
        mean, error = across_groups(gains)
        ratio = f"{divergences.mean() / ASKED:.2f}" if isinstance(direction, NaturalGradient) else ""
        line = [name, f"{mean:.2f} ± {error:.2f}", ratio]
        say("  ".join(line))
        return line

    def step(self, mean: Tensor, episodes: Episodes, direction: Direction) -> Tensor:
        """Return what a direction makes of the mean gradient ``[P]`` of some episodes."""
        parameters = self.agent.learning_parameters()
        for parameter, part in zip(parameters, (-mean).split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        direction(self.agent.policy, self.agent.estimate(episodes), None, alone)
        return -torch.cat([parameter.grad.reshape(-1).double() for parameter in parameters])


def alone(tensor: Tensor) -> Tensor:
    """Add up over the one process that there is."""
    return tensor


def across_groups(gains: Tensor) -> tuple[float, float]:
    """Return the mean of what groups gain on others, and its jackknife standard error, given all gains ``[G, G]``.

    >>> mean, error = across_groups(torch.tensor([[9.0, 1.0, 1.0], [1.0, 9.0, 4.0], [1.0, 4.0, 9.0]]))
    >>> round(mean, 4), round(error, 4)
    (2.0, 2.0)
    """
    count, others = len(gains), gains - gains.diag().diag()
    without = others.sum() - others.sum(0) - others.sum(1)  # The sum that is left without each group.
    left = without / ((count - 1) * (count - 2))
    error = left.std(correction=0) * (count - 1) ** 0.5
    return (others.sum() / (count * (count - 1))).item(), error.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--update", type=int, default=4, help="episodes of an update")
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    if not 0 < 4 * options.update <= options.episodes // 3:  # Three groups at least, for the standard error.
        parser.error("--update must be at least 1 and at most a twelfth of --episodes")
    torch.set_num_threads(1)
    agent = Reinforce.load_from_checkpoint(options.checkpoint).eval()
    if not isinstance(agent.returns, GAE):
        parser.error("the checkpoint must be of a run with GAE")
    agent.normalization, agent.entropy_coef = NoNormalization(), 0.0
    episodes = play(agent.policy, agent.env, options.episodes, greedy=False, num_envs=4, backend="sync")
    played = (
        f"{len(episodes)} episodes, {episodes.num_timesteps:,} timesteps, mean return {episodes.returns.mean():.1f}"
    )
    say(played)
    measure, natural = Measure(agent, episodes), natural_gradient(*SOLUTIONS[0])
    sizes = [options.update // 4 or 1, options.update, 4 * options.update]
    of_sizes = [measure.gain(f"{size}", measure.rows, natural, size) for size in dict.fromkeys(sizes)]
    directions: dict[str, Direction] = {"the gradient itself": Gradient()}
    directions |= {f"{n:,} timesteps, {k} iterations": natural_gradient(n, k) for n, k in SOLUTIONS}
    of_directions = [measure.gain(name, measure.rows, one, options.update) for name, one in directions.items()]
    of_estimates = []
    for gamma, gae_lambda in ESTIMATES:
        rows = measure.gradients(gamma, gae_lambda)
        of_estimates.append(measure.gain(f"discount {gamma}, λ {gae_lambda}", rows, natural, options.update))
    titles = ["gain per root of divergence", "divergence to asked-for"]
    tables = [table(["episodes of an update", *titles], of_sizes)]
    tables += [table(["direction", *titles], of_directions), table(["estimate", *titles], of_estimates)]
    text = "\n\n".join([played, *tables]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def natural_gradient(max_timesteps: int, cg_iterations: int) -> NaturalGradient:
    """Make a natural gradient that is solved for in some way."""
    return NaturalGradient(max_kl=ASKED, max_timesteps=max_timesteps, cg_iterations=cg_iterations)


if __name__ == "__main__":
    main()
