import math
import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import ReduceLROnPlateau
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from pg_lightning import (
    ConsistentDropout,
    EpisodeDataModule,
    EpisodeSampler,
    LeaveOneOut,
    MLPPolicy,
    NoBaseline,
    NoNormalization,
    PerBatch,
    PerEpisode,
    Reinforce,
    StopAtRewardThreshold,
    TimestepBaseline,
)
from pg_lightning.sampling.actors import make_actor
from tests.envs import GaussianPolicy, OwnPolicy, ScaledReturns
from tests.helpers import ARTICLES, plain, trainer, weights_of

OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)

NAMES = {"loss", "episode_return", "episode_length", "truncated", "entropy", "policy_lag", "grad_norm"}
NAMES |= {"episodes", "env_steps", "timesteps"}
"""Every metric of an update."""


def train(agent, max_steps=3, num_envs=4, callbacks=(), episodes_per_update=None, **settings):
    fitted = trainer(max_steps, callbacks=list(callbacks), **settings)
    fitted.fit(agent, EpisodeDataModule(num_envs=num_envs, episodes_per_update=episodes_per_update))
    return fitted


def saved(agent, path, **settings):
    """Train a little, and save a checkpoint."""
    train(agent, **settings).save_checkpoint(path / "agent.ckpt", weights_only=False)
    return path / "agent.ckpt"


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


def test_cartpole_is_solved_in_a_few_lines():
    pl.seed_everything(0, verbose=False)
    agent, stop = plain("CartPole-v1", optimizer=partial(torch.optim.Adam, lr=0.02)), StopAtRewardThreshold()
    fitted = train(agent, max_steps=60, num_envs=64, callbacks=[stop])
    assert stop.solved and fitted.global_step < 60
    assert stop.running_reward.compute() > 475
    assert agent.num_episodes == 64 * fitted.global_step
    assert agent.num_env_steps > agent.num_timesteps  # CartPole's own vector implementation steps what owes nothing.
    env, returns = gym.make("CartPole-v1"), []
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total, ended = total + reward, terminated or truncated
        returns.append(total)
    assert np.mean(returns) > 450


def test_B10_a_trained_agent_is_loaded_back(tmp_path):
    """Also a part that keeps its argument under another name."""
    agent = plain(
        "CartPole-v1",
        policy=partial(MLPPolicy, hidden_sizes=[9, 7], bias=True, dropout=0.5),
        returns=ScaledReturns(0.5),
        baseline=TimestepBaseline(),
        normalization=PerEpisode(),
        gamma=0.9,
        discount_states=True,
        optimizer=partial(torch.optim.SGD, lr=0.001),
        chunk_size=50,
    )
    again = Reinforce.load_from_checkpoint(saved(agent, tmp_path))
    assert same_weights(agent, again)
    assert str(again.policy) == str(agent.policy)
    assert (type(again.returns), again.returns.factor) == (ScaledReturns, 0.5)
    assert (type(again.baseline), type(again.normalization)) == (TimestepBaseline, PerEpisode)
    assert (again.gamma, again.discount_states, again.chunk_size) == (0.9, True, 50)
    assert again.num_episodes == 12
    assert again.num_env_steps == agent.num_env_steps >= again.num_timesteps == agent.num_timesteps > 12
    optimizer = again.configure_optimizers()
    assert (type(optimizer), optimizer.defaults["lr"]) == (torch.optim.SGD, 0.001)
    for observation in OBSERVATIONS:
        probs = again.policy.eval()(torch.from_numpy(observation)[None]).probs
        assert again.act(observation) == agent.act(observation) == probs.argmax()


def test_acting_leaves_the_agent_as_it_was_and_drops_nothing():
    agent = plain("CartPole-v1", policy=partial(MLPPolicy, dropout=0.6)).train()
    agent.policy.body[1].eval()
    modes = [module.training for module in agent.modules()]
    assert len({int(agent.act(OBSERVATIONS[0])) for _ in range(30)}) == 1
    assert [module.training for module in agent.modules()] == modes


def test_acting_can_sample():
    torch.manual_seed(0)
    agent = plain("CartPole-v1")
    probability = agent.policy(torch.from_numpy(OBSERVATIONS[:1])).probs[0, 1].item()
    ones = sum(int(agent.act(OBSERVATIONS[0], greedy=False)) for _ in range(1000))
    assert abs(ones - 1000 * probability) < 4 * math.sqrt(1000 * probability * (1 - probability))


SPACES = [
    gym.spaces.Discrete(4),
    gym.spaces.Discrete(4, start=-2),
    gym.spaces.MultiDiscrete([2, 3]),
    gym.spaces.MultiBinary(3),
    gym.spaces.Box(0, 255, (2, 3), np.uint8),
    gym.spaces.Dict({"a": gym.spaces.Discrete(3, start=1), "b": gym.spaces.Box(-1, 1, (2,), np.float64)}),
    gym.spaces.Tuple([gym.spaces.MultiBinary(2), gym.spaces.Discrete(2)]),
]


@pytest.mark.parametrize("actions", [gym.spaces.Discrete(2), gym.spaces.Discrete(3, start=5)], ids=str)
@pytest.mark.parametrize("observations", SPACES, ids=str)
def test_act_takes_an_observation_and_returns_an_action_of_the_environment(observations, actions):
    """C6: as the environment itself has them, and as sampling does it."""
    environment = {"id": "tests.envs:Spaces-v0", "kwargs": {"observations": observations, "actions": actions}}
    agent = plain(environment)
    env = agent.env.make()
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        action = agent.act(observation, greedy=seed == 0)
        assert env.action_space.contains(action)
        env.step(action)
    train(agent, max_steps=1, num_envs=2)
    assert agent.metrics["episode_return"] >= actions.start


def test_act_takes_no_other_way_than_sampling():
    """Greedy actions of the sampler, one by one."""
    agent = plain("Acrobot-v1", policy=partial(OwnPolicy, p=0.0))
    sampler = EpisodeSampler(agent.env.make_vector(2, "sync"), 2)
    episodes = sampler.sample(make_actor(agent.policy.eval(), agent.env.action_space, greedy=True), 0)
    for observation, action in list(zip(episodes.observations, episodes.actions, strict=True))[:50]:
        assert agent.act(observation.numpy()) == action


def test_a_users_own_policy_learns_and_is_loaded_back(tmp_path):
    agent = plain("CartPole-v1", policy=partial(OwnPolicy, units=5))
    assert any(isinstance(module, ConsistentDropout) for module in agent.policy.modules())
    before = weights_of(agent)
    again = Reinforce.load_from_checkpoint(saved(agent, tmp_path))
    assert not any(map(torch.equal, before, weights_of(agent)))
    assert type(again.policy) is OwnPolicy and same_weights(agent, again)
    assert [agent.act(x) for x in OBSERVATIONS] == [again.act(x) for x in OBSERVATIONS]


def test_continuous_actions_learn(tmp_path):
    agent = plain("Pendulum-v1", policy=GaussianPolicy)
    before = weights_of(agent)
    path = saved(agent, tmp_path, num_envs=2)
    assert not any(map(torch.equal, before, weights_of(agent)))
    again = Reinforce.load_from_checkpoint(path)
    assert again.act(np.ones(3, np.float32)) == pytest.approx(agent.act(np.ones(3, np.float32)))
    with torch.no_grad():
        agent.policy.mean.bias.fill_(50)
    assert agent.act(np.ones(3, np.float32)).tolist() == [2.0], "clipped to the bounds of the space"


class Learnt(Callback):
    """Keeps the episodes of every update."""

    def __init__(self):
        self.episodes = []

    def on_train_batch_start(self, trainer, agent, batch, batch_idx):
        self.episodes.append(batch.episodes)


class Wide(nn.Module):
    """A Normal wider than the bounds of the actions."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.mean = nn.Linear(int(np.prod(observation_space.shape)), int(np.prod(action_space.shape)))

    def forward(self, observations):
        return Independent(Normal(self.mean(observations.flatten(1)), 2.0), 1)


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.int32, -2, 2), (np.uint8, 0, 3)])
def test_A5_integer_boxes_are_learnt_from_as_they_were_sampled(dtype, low, high):
    space = gym.spaces.Box(low, high, (2,), dtype)
    environment = {"id": "tests.envs:Spaces-v0", "kwargs": {"actions": space}}
    agent, learnt = plain(environment, policy=Wide), Learnt()
    before = weights_of(agent.policy)
    train(agent, callbacks=[learnt], num_envs=8)
    assert not any(map(torch.equal, before, agent.policy.parameters()))
    for episodes in learnt.episodes:
        assert episodes.actions.dtype == torch.float32
        played = episodes.actions.round().clamp(low, high)
        assert not torch.equal(played, episodes.actions)
        assert episodes.rewards.tolist() == played.sum(1).tolist(), "what the environment saw: whole and within bounds"


class Bits(nn.Module):
    """Independent bits."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.logits = nn.Linear(6, int(action_space.n))

    def forward(self, observations):
        return Independent(Bernoulli(logits=self.logits(observations.flatten(1))), 1)


def test_A6_bits_are_learnt():
    """The reward is the number of ones: the policy learns to choose them."""
    environment = {"id": "tests.envs:Spaces-v0", "kwargs": {"actions": gym.spaces.MultiBinary(3)}}
    pl.seed_everything(0, verbose=False)
    agent = plain(environment, policy=Bits, optimizer=partial(torch.optim.Adam, lr=0.1))
    train(agent, max_steps=40, num_envs=16)
    assert agent.metrics["episode_return"] > 2.5
    observation, _ = agent.env.make().reset(seed=0)
    assert agent.act(observation).tolist() == [1, 1, 1]


def test_B10_a_policy_without_a_name_is_refused_at_construction():
    with pytest.raises(ValueError, match=r"policy: a checkpoint cannot name the function <lambda>"):
        plain(policy=lambda *spaces: MLPPolicy(*spaces, hidden_sizes=(3,)))


class Nameless(ScaledReturns):
    """Its qualified name says that it was made in a function."""


Nameless.__qualname__ = "f.<locals>.Nameless"


@pytest.mark.parametrize(
    "settings",
    [{"returns": Nameless()}, {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1.0)}],
    ids=["returns", "optimizer"],
)
def test_B10_nothing_else_without_a_name_is_accepted(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: a checkpoint cannot name"):
        plain("CartPole-v1", **settings)


def test_an_environment_without_a_name_is_handed_in_again(tmp_path):
    def make():
        return gym.make("CartPole-v1")

    path = saved(agent := plain(make), tmp_path)
    with pytest.raises(ValueError, match=r"<make> is an object that no file can hold: .*\(env=...\)"):
        Reinforce.load_from_checkpoint(path)
    assert same_weights(agent, Reinforce.load_from_checkpoint(path, env=make))


class Misshapen(ScaledReturns):
    def __call__(self, episodes, values, gamma):
        return super().__call__(episodes, values, gamma)[:, None]


class WithGradient(NoNormalization):
    def __call__(self, advantages, lengths):
        return advantages.clone().requires_grad_()


class Nothing(NoNormalization):
    def __call__(self, advantages, lengths):
        return None


class NoReturns(ScaledReturns):
    def __call__(self, episodes, values, gamma):
        return None


class Integers(NoNormalization):
    def __call__(self, advantages, lengths):
        return advantages.long()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"returns": Misshapen()}, r"^returns must be \[T\]"),
        ({"returns": NoReturns()}, r"^returns must be a tensor \[T\], not NoneType"),
        ({"normalization": Nothing()}, r"^advantages must be a tensor \[T\], not NoneType"),
        ({"normalization": Integers()}, r"^advantages must be floating-point numbers, not torch\.int64"),
        ({"normalization": WithGradient()}, "advantages must not carry a gradient"),
    ],
    ids=["shape", "no returns", "no advantages", "integers", "gradient"],
)
def test_parts_that_return_something_else(settings, message):
    with pytest.raises(ValueError, match=message):
        train(plain("CartPole-v1", **{"baseline": NoBaseline(), "normalization": NoNormalization()} | settings))


def test_a_policy_that_is_no_module():
    with pytest.raises(ValueError, match=r"policy must make an nn\.Module, not Normal"):
        plain(policy=partial(NotAModule))


class NotAModule(nn.Module):
    """A class whose constructor makes something else."""

    def __new__(cls, *spaces):
        return Normal(0.0, 1.0)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_gamma_outside_of_its_range(gamma):
    with pytest.raises(ValueError, match="gamma must be from 0 to 1"):
        plain("CartPole-v1", gamma=gamma)


@pytest.mark.parametrize("chunk_size", [0, -5])
def test_chunks_of_no_timesteps(chunk_size):
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1 timestep, not {chunk_size}"):
        plain("CartPole-v1", chunk_size=chunk_size)


def test_the_learning_rate_is_scheduled_once_per_update():
    class Rates(pl.Callback):
        rates = []

        def on_before_optimizer_step(self, trainer, agent, optimizer):
            self.rates.append(optimizer.param_groups[0]["lr"])

    halve = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    agent = plain("CartPole-v1", optimizer=partial(torch.optim.Adam, lr=0.08), lr_scheduler=halve)
    train(agent, max_steps=4, callbacks=[Rates()])
    assert Rates.rates == [0.08, 0.04, 0.02, 0.01]


@pytest.mark.parametrize(
    "parts",
    [
        {"baseline": NoBaseline(), "normalization": PerEpisode()},
        {"baseline": TimestepBaseline(), "normalization": NoNormalization()},
        {"baseline": LeaveOneOut(), "normalization": PerBatch()},
    ],
    ids=["episode", "timestep", "default"],
)
def test_the_size_of_chunks_does_not_change_what_is_learnt(parts):
    learnt = []
    for chunk_size in (8192, 64, 7):
        pl.seed_everything(0, verbose=False)
        agent = plain("CartPole-v1", policy=partial(ARTICLES, dropout=0.5), chunk_size=chunk_size, **parts)
        train(agent, max_steps=5)
        learnt.append((weights_of(agent), agent.num_env_steps.item()))
    for weights, steps in learnt[1:]:
        assert steps == learnt[0][1]
        for one, other in zip(weights, learnt[0][0], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_frozen_parameters_stay_and_the_others_learn():
    agent = plain("CartPole-v1", policy=partial(ARTICLES, hidden_sizes=[8]))
    agent.policy.body[0].weight.requires_grad_(False)
    before = weights_of(agent)
    train(agent)
    assert [torch.equal(a, b) for a, b in zip(before, weights_of(agent), strict=True)] == [True, False]


class Published(Callback):
    """What a callback sees of each update."""

    def __init__(self):
        self.seen, self.outcomes = [], []

    def on_train_batch_end(self, trainer, agent, outputs, batch, batch_idx):
        self.seen.append({name: value.clone() for name, value in trainer.callback_metrics.items()})
        self.outcomes.append(outputs["outcome"])


BANDIT = {"id": "tests.envs:Bandit-v0", "kwargs": {"means": [2.0, 2.0], "noise": 0.0}}


def test_metrics_say_what_the_update_was():
    still = partial(torch.optim.SGD, lr=0.0)
    parts = {"baseline": NoBaseline(), "normalization": NoNormalization(), "returns": ScaledReturns()}
    agent = plain(BANDIT, **parts, optimizer=still)
    nn.init.zeros_(agent.policy.body[-1].weight)
    published, learnt = Published(), Learnt()
    train(agent, 1, num_envs=2, episodes_per_update=6, callbacks=[published, learnt])
    assert 0 < learnt.episodes[0].actions.sum() < 6
    expected = {
        "episode_return": 2,
        "episode_length": 1,
        "truncated": 0,
        "entropy": math.log(2),
        "kl": 0,
        "loss": 2 * math.log(2),
        "policy_lag": 0,
        "episodes": 6,
        "timesteps": 6,
        "env_steps": 6,
    }
    shown = {name: agent.metrics[name] for name in expected}
    assert shown == pytest.approx(expected, rel=1e-6, abs=1e-7)
    norm = torch.stack([parameter.grad.norm() for parameter in agent.policy.parameters()]).norm().item()
    assert agent.metrics["grad_norm"] == pytest.approx(norm, rel=1e-6)


def test_B13_every_metric_is_published_before_callbacks_run():
    published = Published()
    fitted = train(plain("CartPole-v1"), max_steps=3, callbacks=[published])
    for update, (seen, outcome) in enumerate(zip(published.seen, published.outcomes, strict=True), 1):
        assert seen.keys() >= NAMES
        assert all(value.ndim == 0 and torch.isfinite(value) for value in seen.values())
        assert seen["episodes"] == 4 * update
        assert seen["episode_return"].item() == pytest.approx(outcome.returns.mean().item())
    assert fitted.callback_metrics["episodes"] == 12


def test_B13_checkpoints_can_monitor_a_metric(tmp_path):
    pl.seed_everything(0, verbose=False)
    best = ModelCheckpoint(tmp_path, monitor="episode_return", mode="max", every_n_train_steps=1, save_top_k=1)
    published = Published()
    train(plain("CartPole-v1"), max_steps=6, callbacks=[published, best], enable_checkpointing=True)
    returns = [seen["episode_return"].item() for seen in published.seen]
    assert best.best_model_score == pytest.approx(max(returns)) and len(set(returns)) > 1
    again = Reinforce.load_from_checkpoint(best.best_model_path)
    assert again.num_episodes == 4 * (1 + returns.index(max(returns)))


def test_B13_a_run_can_be_stopped_early_by_a_metric():
    stop = EarlyStopping("episode_return", mode="max", stopping_threshold=1.0, check_on_train_epoch_end=True)
    fitted = train(plain("CartPole-v1"), max_steps=10, callbacks=[stop], limit_train_batches=2)
    assert (fitted.global_step, stop.stopped_epoch) == (2, 0)


def test_B13_a_learning_rate_can_wait_for_a_plateau():
    class Rates(Callback):
        rates = []

        def on_train_batch_end(self, trainer, agent, outputs, batch, batch_idx):
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    plateau = partial(ReduceLROnPlateau, monitor="episode_return", mode="max", factor=0.5, patience=0)
    agent = plain(BANDIT, optimizer=partial(torch.optim.SGD, lr=0.08), lr_scheduler=plateau)
    train(agent, max_steps=5, callbacks=[Rates()])
    assert Rates.rates == [0.08, 0.08, 0.04, 0.02, 0.01], "a return of 2 in every update is a plateau"
    assert agent.hparams["lr_scheduler"]["class_path"] == "pytorch_lightning.cli.ReduceLROnPlateau"


class Kept(Logger):
    """A logger that keeps what it is handed."""

    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step=None):
        assert step not in self.rows, "once per update"
        self.rows[step] = dict(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        pass


@pytest.mark.parametrize(("every", "steps"), [(50, [7]), (3, [3, 6, 7]), (1, [1, 2, 3, 4, 5, 6, 7])])
def test_B14_loggers_get_the_last_update_whatever_the_interval(every, steps):
    logger = Kept()
    agent = plain("CartPole-v1")
    fitted = trainer(7, logger=logger, log_every_n_steps=every)
    fitted.fit(agent, EpisodeDataModule(num_envs=2))
    assert list(logger.rows) == steps
    assert all(row.keys() >= NAMES for row in logger.rows.values())
    assert logger.rows[7] == agent.metrics and logger.rows[7]["episodes"] == 14


def test_64_bit_precision_trains():
    agent, learnt = plain("CartPole-v1", policy=partial(MLPPolicy, dropout=0.3)), Learnt()
    before = weights_of(agent.policy)
    train(agent, callbacks=[learnt], precision="64-true")
    assert all(parameter.dtype == torch.float64 for parameter in agent.policy.parameters())
    assert learnt.episodes[0].observations.dtype == learnt.episodes[0].log_probs.dtype == torch.float64
    assert agent.metrics["policy_lag"] < 1e-12
    assert not any(torch.equal(a.double(), b) for a, b in zip(before, agent.policy.parameters(), strict=True))


@pytest.mark.parametrize("policy", [MLPPolicy, OwnPolicy])
def test_mixed_bfloat_precision_trains(policy):
    agent = plain("CartPole-v1", policy=policy)
    before = weights_of(agent.policy)
    train(agent, precision="bf16-mixed")
    assert all(parameter.dtype == torch.float32 for parameter in agent.policy.parameters())
    assert 0 < agent.metrics["policy_lag"] < 0.1
    assert not any(map(torch.equal, before, agent.policy.parameters()))


def test_a_barebones_trainer_trains():
    agent = plain("CartPole-v1")
    fitted = pl.Trainer(barebones=True, max_steps=3, max_epochs=-1, accelerator="cpu")
    fitted.fit(agent, EpisodeDataModule(num_envs=2))
    assert (fitted.global_step, int(agent.num_episodes)) == (3, 6)
    assert fitted.callback_metrics.keys() >= NAMES


PAYLOAD = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
import gymnasium as gym
from pg_lightning import MLPPolicy as Policy, MonteCarlo
Wrap = gym.Wrapper
def instantiate(cls, arguments):
    return cls(**arguments)
"""

HOSTILE = {
    "policy": ({"policy": {"class_path": "payload.Policy"}}, "policy="),
    "returns": ({"returns": {"class_path": "payload.MonteCarlo"}}, "returns="),
    "argument": (
        {"policy": {"class_path": "pg_lightning.MLPPolicy", "init_args": {"head": {"class_path": "payload.Policy"}}}},
        "policy=",
    ),
    "env id": ({"env": {"id": "payload:CartPole-v1"}}, "env="),
    "env alone": ({"env": "payload:CartPole-v1"}, "env="),
    "wrapper": ({"env": {"id": "CartPole-v1", "wrappers": ["payload.Wrap"]}}, "env="),
    "wrapper, colon": ({"env": {"id": "CartPole-v1", "wrappers": ["payload:Wrap"]}}, "env="),
    "submodule": ({"env": {"id": "CartPole-v1", "wrappers": ["innocent.payload.Wrap"]}}, "env="),
    "module": ({"env": {"id": "CartPole-v1", "wrappers": ["innocent.payload"]}}, "env="),
    "instantiator": ({"_instantiator": "payload.instantiate"}, "policy=..., env=..."),
}


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module beside the checkpoint, and one in a package that is imported already: they leave a file when run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in (tmp_path / "payload.py", tmp_path / "innocent/payload.py", tmp_path / "innocent/__init__.py"):
        module.parent.mkdir(exist_ok=True)
        module.write_text(PAYLOAD if module.name == "payload.py" else "")
    __import__("innocent")
    yield
    for name in ("payload", "innocent", "innocent.payload"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("changes", "hint"), HOSTILE.values(), ids=HOSTILE)
def test_D1_a_checkpoint_imports_nothing_that_it_names(changes, hint, tmp_path, payload):
    path = saved(plain("CartPole-v1"), tmp_path, max_steps=1)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"] |= changes
    torch.save(checkpoint, path)
    with pytest.raises(ValueError) as refusal:
        Reinforce.load_from_checkpoint(path)
    assert "payload" in str(refusal.value) or "_instantiator" in str(refusal.value)
    assert hint in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list(tmp_path.rglob("ran")) and not {"payload", "innocent.payload"} & sys.modules.keys()


def test_D1_what_is_handed_in_or_imported_already_is_used(tmp_path, payload):
    agent = plain("CartPole-v1")
    path = saved(agent, tmp_path, max_steps=1)
    checkpoint = torch.load(path, weights_only=True)
    policy = checkpoint["hyper_parameters"]["policy"] | {"class_path": "payload.Policy"}
    for changes in ({"env": {"id": "payload:CartPole-v1"}}, {"policy": policy}):
        torch.save(checkpoint | {"hyper_parameters": checkpoint["hyper_parameters"] | changes}, path)
        again = Reinforce.load_from_checkpoint(path, env="CartPole-v1", policy=ARTICLES)
        assert same_weights(agent, again) and not list(tmp_path.rglob("ran"))
        __import__("payload")
        assert same_weights(agent, Reinforce.load_from_checkpoint(path))
        sys.modules.pop("payload")
        (tmp_path / "ran").unlink()


def test_a_file_that_is_no_checkpoint_of_an_agent(tmp_path):
    path = saved(plain("CartPole-v1"), tmp_path, max_steps=1)
    checkpoint = torch.load(path, weights_only=True)
    for changes, message in (
        ({"pg_lightning_format": 99}, "has format 99"),
        ({"pg_lightning_format": None}, "written by pg_lightning 0.1 or another program"),
        ({"hyper_parameters": None}, "holds no hyper-parameters"),
        ({"hyper_parameters": {"colour": "red"}}, "Reinforce does not take: 'colour'"),
    ):
        torch.save(checkpoint | changes, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match=message):
            Reinforce.load_from_checkpoint(tmp_path / "other.ckpt")
    (tmp_path / "other.ckpt").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        Reinforce.load_from_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        Reinforce.load_from_checkpoint(tmp_path / "missing.ckpt")
