"""Side by side with peers on LunarLander-v3, Hopper-v5 and HalfCheetah-v5: speed, and seconds to a given return.

    python -m tests.benchmarks.rivals --env HalfCheetah-v5 --seconds 30 --seeds 3 --num_envs 16
    python -m tests.benchmarks.rivals --env LunarLander-v3 --target 200 --seconds 900

Every run is a fresh process with one thread for the networks. It ends with its seconds, its env steps, or at its
target, the mean return of the last 100 training episodes. Constructing is not measured, for peers as for this package;
the share of the environments is. Steps are those of the environment, of which this package's decisions on LunarLander
are four. Peers have the settings of the RL Zoo (Stable-Baselines3) and of their own examples (Tianshou, with
observations normalised as there), which were written for older versions of these environments. Tianshou steps EnvPool,
which it supports; Stable-Baselines3 steps Gymnasium's environments, as ``ours-sync`` does.
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from tests.benchmarks.common import ROOT, Over, answer, max_time, measure, record, say, table
from tests.benchmarks.peers import sb3_callback
from tests.benchmarks.results import HELD

CONFIGS = {"LunarLander-v3": "lunar_lander", "Hopper-v5": "hopper", "HalfCheetah-v5": "half_cheetah"}


class Meter:
    """Counts what a system does, and tells when it is over.

    Args:
        seconds: after which it is over.
        env_steps: after which it is over.
        target: mean return of the last 100 episodes at which it is over.
    """

    def __init__(self, seconds: float, env_steps: int, target: float) -> None:
        self.most_seconds, self.most_steps, self.target = seconds, env_steps, target
        self.env_steps, self.returns, self.reached = 0, deque[float](maxlen=100), False
        self.started = time.perf_counter()

    def saw(self, env_steps: int, episode_returns: Iterable[float]) -> None:
        """Count steps of the environments, and the episodes that ended in them."""
        self.env_steps += env_steps
        self.returns.extend(episode_returns)
        self.reached |= len(self.returns) == 100 and statistics.fmean(self.returns) >= self.target

    @property
    def over(self) -> bool:
        """Whether it is over."""
        late = time.perf_counter() - self.started > self.most_seconds
        return late or self.reached or self.env_steps >= self.most_steps

    def result(self) -> dict[str, Any]:
        """Say what was counted."""
        seconds = time.perf_counter() - self.started
        last = statistics.fmean(self.returns) if self.returns else float("nan")
        reached = {"reached_seconds": seconds, "reached_steps": self.env_steps} if self.reached else {}
        return {"env_steps": self.env_steps, "seconds": seconds, "last_100_mean": last, **reached}


def ours(env_id: str, num_envs: int, seed: int, limits: tuple[float, int, float], backend: str) -> dict[str, Any]:
    """Train this package with the environment's configuration; progress bar, logger and checkpoints as for a user."""
    from pg_lightning.cli import main
    from pg_lightning.cli.jobs import learning_curve

    seconds, env_steps, target = limits
    held = HELD.get(CONFIGS[env_id], 1)
    options = ["--config", str(ROOT / "configs" / f"{CONFIGS[env_id]}.yaml"), "--data.backend", backend]
    options += ["--data.num_envs", str(num_envs)] if num_envs else []
    options += ["--stop.max_env_steps", str(env_steps // held), *max_time(seconds), "--seed_everything", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        main(["fit", *options, "--trainer.default_root_dir", folder])
        curve = learning_curve(next(Path(folder).glob("**/summary.json")).parent, points=10**6)
    rows = zip(curve["return_mean"], curve["episodes"], curve["seconds"], curve["env_steps"], strict=True)
    found = next((row for row in rows if row[0] >= target and row[1] >= 100), None)
    reached = {"reached_seconds": found[2], "reached_steps": held * found[3]} if found else {}
    counts = {"env_steps": held * curve["env_steps"][-1], "seconds": curve["seconds"][-1]}
    return {**counts, "last_100_mean": curve["return_mean"][-1], **reached}


ZOO: dict[tuple[str, str], dict[str, Any]] = {
    ("PPO", "LunarLander-v3"): {
        **{"num_envs": 16, "n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999},
        **{"n_epochs": 4, "ent_coef": 0.01},
    },
    ("PPO", "Hopper-v5"): {
        **{"num_envs": 1, "normalize": True, "n_steps": 512, "batch_size": 32, "gae_lambda": 0.99, "gamma": 0.999},
        **{"n_epochs": 5, "ent_coef": 0.00229519, "learning_rate": 9.80828e-05, "clip_range": 0.2},
        **{"max_grad_norm": 0.7, "vf_coef": 0.835671, "wide": True},
    },
    ("PPO", "HalfCheetah-v5"): {
        **{"num_envs": 1, "normalize": True, "n_steps": 512, "batch_size": 64, "gae_lambda": 0.92, "gamma": 0.98},
        **{"n_epochs": 20, "ent_coef": 0.000401762, "learning_rate": 2.0633e-05, "clip_range": 0.1},
        **{"max_grad_norm": 0.8, "vf_coef": 0.58096, "wide": True},
    },
    ("A2C", "LunarLander-v3"): {
        **{"num_envs": 8, "n_steps": 5, "gamma": 0.995, "ent_coef": 1e-5},
        "learning_rate": lambda left: left * 0.00083,
    },
    ("A2C", "Hopper-v5"): {"num_envs": 1, "normalize": True},
    ("A2C", "HalfCheetah-v5"): {"num_envs": 1, "normalize": True},
}
"""Settings of the RL Zoo. For A2C on MuJoCo it names none but the normalisation."""


def stable_baselines3(
    env_id: str, num_envs: int, seed: int, limits: tuple[float, int, float], name: str
) -> dict[str, Any]:
    """Train PPO or A2C of Stable-Baselines3 as the RL Zoo tuned it."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    settings = dict(ZOO[name, env_id])
    envs: Any = make_vec_env(env_id, n_envs=num_envs or settings["num_envs"], seed=seed)
    if settings.pop("normalize", False):
        envs = VecNormalize(envs, gamma=settings.get("gamma", 0.99))
    if settings.pop("wide", False):
        network = {"activation_fn": nn.ReLU, "net_arch": {"pi": [256, 256], "vf": [256, 256]}}
        settings["policy_kwargs"] = {"log_std_init": -2, "ortho_init": False, **network}
    del settings["num_envs"]
    algorithm = getattr(stable_baselines3, name)("MlpPolicy", envs, seed=seed, device="cpu", **settings)
    meter = Meter(*limits)
    algorithm.learn(total_timesteps=limits[1], callback=sb3_callback(meter))
    return meter.result()


def tianshou(env_id: str, num_envs: int, seed: int, limits: tuple[float, int, float], name: str) -> dict[str, Any]:
    """Train REINFORCE or NPG of Tianshou as its MuJoCo examples do, on EnvPool, without test episodes."""
    import envpool
    from tianshou.algorithm import NPG, Reinforce
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import VectorEnvNormObs
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
    from tianshou.utils.net.discrete import DiscreteActor
    from torch.distributions import Categorical, Independent, Normal

    class WatchedCollector(Collector):
        def collect(self, *args: Any, **kwargs: Any) -> CollectStats:
            if meter.over:
                raise Over
            stats = super().collect(*args, **kwargs)
            meter.saw(stats.n_collected_steps, stats.returns.tolist())
            return stats

    np.random.seed(seed)
    torch.manual_seed(seed)
    number = num_envs or (16 if name == "NPG" else 10)
    envs = VectorEnvNormObs(envpool.make_gymnasium(env_id, num_envs=number, seed=seed))
    space, actions = gym.make(env_id).observation_space, gym.make(env_id).action_space
    nets = [Net(state_shape=space.shape, hidden_sizes=[64, 64], activation=nn.Tanh) for _ in range(2)]
    critic = ContinuousCritic(preprocess_net=nets[1])
    if isinstance(actions, gym.spaces.Discrete):
        actor: Any = DiscreteActor(preprocess_net=nets[0], action_shape=actions.n, softmax_output=False)
        last, distribution, scaling = actor.last, lambda logits: Categorical(logits=logits), False
    else:
        actor = ContinuousActorProbabilistic(preprocess_net=nets[0], action_shape=actions.shape, unbounded=True)
        nn.init.constant_(actor.sigma_param, -0.5)
        last, distribution, scaling = actor.mu, lambda both: Independent(Normal(*both), 1), True
    for module in [*actor.modules(), *critic.modules()]:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=np.sqrt(2))
            nn.init.zeros_(module.bias)
    for module in last.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.mul_(0.01)
    bound = {"action_bound_method": ("clip" if name == "NPG" else "tanh") if scaling else None}
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=distribution, action_space=actions, action_scaling=scaling, **bound
    )
    optimizer = AdamOptimizerFactory(lr=1e-3)
    if name == "NPG":
        settings = {"gae_lambda": 0.95, "return_scaling": True, "optim_critic_iters": 20, "trust_region_size": 0.1}
        algorithm: Any = NPG(policy=policy, critic=critic, optim=optimizer, gamma=0.99, **settings)
    else:
        algorithm = Reinforce(policy=policy, optim=optimizer, gamma=0.99, return_standardization=True)
    parameters = OnPolicyTrainerParams(
        training_collector=WatchedCollector(algorithm, envs, VectorReplayBuffer(4096, number), exploration_noise=True),
        max_epochs=10**9,
        epoch_num_steps=30_000,
        collection_step_num_env_steps=1024 if name == "NPG" else 2048,
        update_step_num_repetitions=1,
        batch_size=None,
        verbose=False,
        show_progress=False,
    )
    meter = Meter(*limits)
    try:
        algorithm.run_training(parameters)
    except Over:
        pass
    return meter.result()


SYSTEMS: dict[str, tuple[Callable[..., dict[str, Any]], str, str]] = {
    "ours": (ours, "auto", "pg_lightning"),
    "ours-sync": (ours, "sync", "pg_lightning, Gymnasium's environments one after the other"),
    "sb3-ppo": (stable_baselines3, "PPO", "Stable-Baselines3 PPO"),
    "sb3-a2c": (stable_baselines3, "A2C", "Stable-Baselines3 A2C"),
    "tianshou-npg": (tianshou, "NPG", "Tianshou NPG, EnvPool"),
    "tianshou-reinforce": (tianshou, "REINFORCE", "Tianshou REINFORCE, EnvPool"),
}


def row_of(name: str, runs: list[dict[str, Any]], own: float) -> list[Any]:
    """Turn a system's runs into its row of the table."""
    label = SYSTEMS[name][2]
    if errors := [run["error"] for run in runs if "error" in run]:
        return [label, errors[0], *[""] * 5]
    rate = statistics.median(run["env_steps"] / run["seconds"] for run in runs)
    reached = [run for run in runs if "reached_seconds" in run]
    columns = ([run[key] for run in reached] for key in ("reached_seconds", "reached_steps"))
    cells = [f"{statistics.median(column):,.0f}" if column else "" for column in columns]
    last = ", ".join(f"{run['last_100_mean']:,.0f}" for run in runs)
    return [label, f"{rate:,.0f}", f"{own / rate:.1f}" if own else "", f"{len(reached)}/{len(runs)}", *cells, last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="HalfCheetah-v5", choices=list(CONFIGS))
    parser.add_argument("--seconds", type=float, default=30, help="of training, after which a run ends")
    parser.add_argument("--env_steps", type=int, default=1_000_000, help="after which a run ends")
    parser.add_argument("--target", type=float, default=float("inf"), help="mean of the last 100 training episodes")
    parser.add_argument("--num_envs", type=int, default=0, help="for all; 0: each system's own setting")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder for rivals.jsonl")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name, runs in results.items():
            words = [name, options.env, options.num_envs, seed, options.seconds, options.env_steps, options.target]
            runs.append(run := measure("rivals", "--one", *words))
            record(options.out, "rivals.jsonl", {"system": name, "env": options.env, "seed": seed, **run})
            say(f"seed {seed}  {name}: {run}")
    first = [run["env_steps"] / run["seconds"] for run in results.get("ours", []) if "error" not in run]
    own = statistics.median(first) if first else 0.0
    header = ["system", "env steps/s", "ours / this", "reached", "seconds to it", "env steps to it", "last 100 mean"]
    print(f"{options.env}, {options.num_envs or 'own number of'} environments, target {options.target:g}\n")
    print(table(header, [row_of(name, runs, own) for name, runs in results.items()]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        system, env_id, num_envs, seed, seconds, env_steps, target = sys.argv[2:]
        train, detail, _ = SYSTEMS[system]
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        answer(train(env_id, int(num_envs), int(seed), (float(seconds), int(env_steps), float(target)), detail))
    else:
        main()
