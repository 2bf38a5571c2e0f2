"""REINFORCE with reward-to-go and a leave-one-out baseline on CartPole-v1: ``python docs/minimal.py``.

Each step is derived in docs/policy_gradients.md. It needs PyTorch and Gymnasium only.
"""

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

GAMMA, EPISODES_PER_UPDATE, UPDATES, LEARNING_RATE = 0.99, 16, 30, 0.01


def make_network():
    """Make the policy's network: observations [T, 4] to the logits of both actions [T, 2]."""
    return nn.Sequential(nn.Linear(4, 128, bias=False), nn.ReLU(), nn.Linear(128, 2, bias=False))


def play(env, network):
    """Play one complete episode; return its observations, actions and rewards, T of each."""
    observations, actions, rewards, ended = [], [], [], False
    observation, _ = env.reset()
    while not ended:
        with torch.no_grad():  # The gradient comes later, for all timesteps at once.
            action = Categorical(logits=network(torch.from_numpy(observation))).sample().item()
        observations.append(observation)
        actions.append(action)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        ended = terminated or truncated
    return observations, actions, rewards


def returns_to_go(rewards, gamma):
    """Sum what follows each timestep, from the end backwards: G_t = R_{t+1} + gamma G_{t+1}."""
    returns = [0.0]
    for reward in reversed(rewards):
        returns.insert(0, reward + gamma * returns[0])
    return returns[:-1]


def leave_one_out(returns, own):
    """Average the returns of the other episodes that still run at t; where none does, of all their timesteps."""
    others = [episode for i, episode in enumerate(returns) if i != own]
    running = [[other[t] for other in others if len(other) > t] for t in range(len(returns[own]))]
    return [np.mean(values) if values else np.mean(np.concatenate(others)) for values in running]


def policy_gradient_loss(network, episodes, gamma=GAMMA):
    """Return minus the sum of log-probability times advantage, mean over at least two episodes."""
    observations, actions, rewards = zip(*episodes, strict=True)
    returns = [returns_to_go(each, gamma) for each in rewards]
    baselines = [leave_one_out(returns, i) for i in range(len(returns))]
    advantages = torch.tensor(np.concatenate(returns) - np.concatenate(baselines))  # [T], of all episodes
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + torch.finfo(torch.float32).eps)
    logits = network(torch.from_numpy(np.concatenate(observations)))  # [T, 2]
    log_probs = Categorical(logits=logits).log_prob(torch.from_numpy(np.concatenate(actions)))  # [T]
    return -(log_probs * advantages).sum() / len(episodes)


def train(updates=UPDATES, seed=0):
    """Train; print and return the mean return of every update's episodes."""
    torch.manual_seed(seed)
    env, network, mean_returns = gym.make("CartPole-v1"), make_network(), []
    env.reset(seed=seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for update in range(updates):
        episodes = [play(env, network) for _ in range(EPISODES_PER_UPDATE)]  # By the policy as it is now.
        optimizer.zero_grad()
        policy_gradient_loss(network, episodes).backward()
        optimizer.step()
        mean_returns.append(np.mean([sum(rewards) for _, _, rewards in episodes]))
        print(f"update {update + 1:3d}   mean return {mean_returns[-1]:6.1f}")
    return mean_returns


if __name__ == "__main__":
    train()
