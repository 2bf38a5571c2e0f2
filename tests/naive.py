"""The loop everyone writes first: the article's agent, one environment, one forward and one graph node per step.

It is the reference that the package is compared with: its gradient (``test_gradient.py``), its learning curve and its
speed (``benchmarks/``). It shares no code with ``pg_lightning``, on purpose.

    python -m tests.naive --seeds 20 --episodes 1500
"""

import argparse
import json
import time

import gymnasium as gym
import torch
from torch import nn


class ArticlePolicy(nn.Module):
    """4 -> 128 -> 2 without biases, dropout 0.6 before the ReLU, softmax on top."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 128, bias=False)
        self.dropout = nn.Dropout(0.6)
        self.logits = nn.Linear(128, 2, bias=False)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of both actions."""
        return torch.softmax(self.logits(torch.relu(self.dropout(self.hidden(observation)))), dim=-1)


def discounted(rewards: list[float], gamma: float) -> torch.Tensor:
    """Return-to-go of every timestep, summed backwards one step at a time."""
    total, returns = 0.0, list[float]()
    for reward in reversed(rewards):
        total = reward + gamma * total
        returns.insert(0, total)
    return torch.tensor(returns)


def article_loss(log_probs: list[torch.Tensor], rewards: list[float], gamma: float = 0.99) -> torch.Tensor:
    """Minus the sum of log-probabilities times returns standardised within the episode."""
    returns = discounted(rewards, gamma)
    std = returns.std() if len(returns) > 1 else torch.tensor(0.0)
    weights = (returns - returns.mean()) / (std + torch.finfo(torch.float32).eps)
    return -(torch.stack(log_probs) * weights).sum()


def train(seed: int, max_episodes: int, max_seconds: float = float("inf")) -> dict:
    """Train until the article's running reward passes 475; return what it took."""
    torch.manual_seed(seed)
    env = gym.make("CartPole-v1")
    policy = ArticlePolicy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    running_reward, steps, solved, started = 10.0, 0, False, time.perf_counter()
    for episode in range(max_episodes):
        observation, _ = env.reset(seed=seed * 100_003 + episode)
        log_probs, rewards, ended = [], [], False
        while not ended:
            distribution = torch.distributions.Categorical(policy(torch.from_numpy(observation)))
            action = distribution.sample()
            log_probs.append(distribution.log_prob(action))
            observation, reward, terminated, truncated, _ = env.step(action.item())
            rewards.append(float(reward))
            ended = terminated or truncated
        optimizer.zero_grad()
        article_loss(log_probs, rewards).backward()
        optimizer.step()
        steps += len(rewards)
        running_reward = 0.99 * running_reward + 0.01 * (len(rewards) - 1)
        solved = running_reward > 475
        if solved or time.perf_counter() - started > max_seconds:
            break
    seconds = time.perf_counter() - started
    return {
        "seed": seed,
        "solved": solved,
        "episodes": episode + 1,
        "env_steps": steps,
        "timesteps": steps,
        "seconds": seconds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(options.seeds):
        print(json.dumps(train(seed, options.episodes)), flush=True)
