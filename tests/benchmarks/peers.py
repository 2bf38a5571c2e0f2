"""Peers learn CartPole-v1, each in the settings that it is tuned or shipped with.

Every function trains until its :class:`~tests.benchmarks.common.Watch` says that it is over. Constructing is not
measured, for peers as for this package.
"""

from typing import Any

import torch

from tests.benchmarks.common import Over, Watch


def sb3_callback(watch: Any) -> Any:
    """Make the callback of Stable-Baselines3 that tells a watch what is seen, and ends training when it is over."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Watcher(BaseCallback):
        def _on_step(self) -> bool:
            envs = self.training_env.num_envs
            watch.saw(envs, [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info])
            return not watch.over

    return Watcher()


def _stable_baselines3(name: str, seed: int, seconds: float, until_solved: bool, **settings: Any) -> dict:
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    envs = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    algorithm = getattr(stable_baselines3, name)("MlpPolicy", envs, seed=seed, device="cpu", **settings)
    watch = Watch(seconds, until_solved)
    # The linear schedules run over this many steps; a run of a minute sees the beginning of them.
    algorithm.learn(total_timesteps=1_000_000, callback=sb3_callback(watch))
    return watch.result()


def a2c(seed: int, seconds: float, until_solved: bool) -> dict:
    """Stable-Baselines3 A2C, as RL Zoo tuned it for CartPole-v1."""
    return _stable_baselines3("A2C", seed, seconds, until_solved, ent_coef=0.0)


def ppo(seed: int, seconds: float, until_solved: bool) -> dict:
    """Stable-Baselines3 PPO, as RL Zoo tuned it for CartPole-v1."""
    settings = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98, "ent_coef": 0.0}
    schedules = {"learning_rate": lambda left: left * 0.001, "clip_range": lambda left: left * 0.2}
    return _stable_baselines3("PPO", seed, seconds, until_solved, **settings, **schedules)


def tianshou(seed: int, seconds: float, until_solved: bool) -> dict:
    """Tianshou's REINFORCE, set as in its own CartPole-v1 script, without test episodes and TensorBoard."""
    import gymnasium as gym
    import numpy as np
    from tianshou.algorithm import Reinforce
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net

    class WatchedCollector(Collector):
        def collect(self, *args: Any, **kwargs: Any) -> CollectStats:
            if watch.over:
                raise Over
            stats = super().collect(*args, **kwargs)
            watch.saw(stats.n_collected_steps, stats.returns.tolist())
            return stats

    np.random.seed(seed)
    torch.manual_seed(seed)
    envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(8)])
    envs.seed(seed)
    net = Net(state_shape=(4,), action_shape=2, hidden_sizes=[64, 64], softmax=True)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight, gain=np.sqrt(2))
            torch.nn.init.zeros_(module.bias)
    policy = DiscreteActorPolicy(
        actor=net, dist_fn=torch.distributions.Categorical, action_space=gym.spaces.Discrete(2)
    )
    optimizer = AdamOptimizerFactory(lr=1e-3)
    algorithm = Reinforce(policy=policy, optim=optimizer, gamma=0.95, return_standardization=True)
    parameters = OnPolicyTrainerParams(
        training_collector=WatchedCollector(algorithm, envs, VectorReplayBuffer(20_000, 8)),
        max_epochs=10**9,
        epoch_num_steps=40_000,
        collection_step_num_episodes=8,
        collection_step_num_env_steps=None,
        update_step_num_repetitions=2,
        batch_size=64,
        verbose=False,
    )
    watch = Watch(seconds, until_solved)
    try:
        algorithm.run_training(parameters)
    except Over:
        pass
    return watch.result()


def torchrl(seed: int, seconds: float, until_solved: bool) -> dict:
    """TorchRL's ReinforceTrainer, set as in its own script for Pendulum-v1; 8 environments in this process.

    Its REINFORCE always has a critic; it learns from 1,024 timesteps at a time, not from complete episodes.
    """
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
    from torchrl.envs import Compose, GymEnv, RewardSum, SerialEnv, StepCounter, TransformedEnv
    from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
    from torchrl.objectives import ReinforceLoss
    from torchrl.trainers.algorithms import ReinforceTrainer

    torch.manual_seed(seed)
    envs = SerialEnv(8, lambda: TransformedEnv(GymEnv("CartPole-v1"), Compose(StepCounter(), RewardSum())))
    network = MLP(in_features=4, out_features=2, num_cells=[128, 128])
    actor = ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=envs.action_spec,
        distribution_class=OneHotCategorical,
    )
    critic = ValueOperator(MLP(in_features=4, out_features=1, num_cells=[128, 128]), in_keys=["observation"])
    loss = ReinforceLoss(actor, critic)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(drop_last=True), batch_size=128
    )
    trainer = ReinforceTrainer(
        collector=Collector(envs, actor, frames_per_batch=1024),
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=0.001),
        replay_buffer=buffer,
        total_frames=10**9,
        frame_skip=1,
        optim_steps_per_batch=None,
        clip_norm=100.0,
        seed=seed,
    )

    def watcher(batch: Any) -> None:
        ended = batch["next", "done"]
        watch.saw(batch.numel(), batch["next", "episode_reward"][ended].tolist())
        if watch.over:
            trainer.request_stop("the benchmark's time is over")

    trainer.register_op("batch_process", watcher)
    watch = Watch(seconds, until_solved)
    trainer.train()
    return watch.result()
