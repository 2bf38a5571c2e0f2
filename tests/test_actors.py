import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

from pg_lightning import EpisodeSampler, MLPPolicy
from pg_lightning.envs import Environment
from pg_lightning.policies import Categorical as UnnormalizedCategorical
from pg_lightning.policies import GaussianHead, SquashedGaussianHead
from pg_lightning.policies.dropout import consistent_dropouts, replay_masks, with_consistent_dropout
from pg_lightning.policies.head_distributions import DiagonalGaussian
from pg_lightning.policies.heads import HEADS
from pg_lightning.policies.twins import Drawing, numpy_twin
from pg_lightning.sampling.actors import HeadActor, ModuleActor, PolicyError, make_actor
from tests.envs import GaussianPolicy, OwnPolicy

OBSERVATIONS, ACTIONS = gym.spaces.Box(-3, 3, (5,), np.float32), gym.spaces.Discrete(3)
NUM_ENVS = 64
BLOCK = Drawing(NUM_ENVS, np.random.default_rng(0)).steps
STEPS = 2 * BLOCK + 7


def rng(seed=0):
    return np.random.default_rng(seed)


def mlp(**settings):
    torch.manual_seed(1)
    return MLPPolicy(OBSERVATIONS, ACTIONS, **{"hidden_sizes": (32,)} | settings)


def own(**settings):
    torch.manual_seed(1)
    return with_consistent_dropout(OwnPolicy(OBSERVATIONS, ACTIONS, **settings))


class TorchBody(nn.Sequential):
    """A body without a twin: the head still samples, torch computes its outputs."""


def torch_body(**settings):
    policy = mlp(**settings)
    policy.body = TorchBody(*policy.body)
    return policy


ACTORS = {"twins": (HeadActor, mlp), "torch body": (HeadActor, torch_body), "module": (ModuleActor, mlp)}
actors = pytest.mark.parametrize(("actor_class", "make"), ACTORS.values(), ids=ACTORS)


def actor_of(policy, actor_class=None, greedy=False):
    return make_actor(policy, ACTIONS, greedy) if actor_class is None else actor_class(policy, ACTIONS, greedy)


def play(actor, observations, seed=0):
    """Act on observations ``[S, N, *obs]``; return actions, log-probs and masks, each ``[S, N, ...]``."""
    steps, num_envs = observations.shape[:2]
    actor.begin(num_envs, rng(seed))
    actions = np.stack([actor.act(rows) for rows in observations])
    flat = torch.from_numpy(actions).flatten(0, 1)
    log_probs, masks = actor.record(flat, np.arange(steps * num_envs))
    shaped = [values.numpy().reshape(steps, num_envs, *values.shape[1:]) for values in (log_probs, *masks)]
    return actions, shaped[0], shaped[1:]


def rescore(policy, observations, actions, masks):
    """Log-probs ``[S, N]`` that the policy itself gives, under the masks that were recorded."""
    rows = [torch.from_numpy(values).flatten(0, 1) for values in (observations, actions, *masks)]
    with torch.no_grad(), replay_masks(policy, rows[2:]):
        return policy(rows[0]).log_prob(rows[1]).reshape(observations.shape[:2]).numpy()


@actors
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": 0.6},
        {"bias": True},
        {"hidden_sizes": ()},
        {"hidden_sizes": (16, 8, 4), "bias": True, "dropout": 0.3},
    ],
)
def test_recorded_log_probs_are_the_policys_own(actor_class, make, settings):
    policy = make(**settings)
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(actor_of(policy, actor_class), observations)
    assert log_probs.shape == (STEPS, NUM_ENVS)
    units = settings.get("hidden_sizes", (32,)) if settings.get("dropout") else ()
    assert [(mask.shape, mask.dtype) for mask in masks] == [((STEPS, NUM_ENVS, n), np.bool_) for n in units]
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)
    assert set(np.unique(actions)) == {0, 1, 2}


def test_a_users_module_with_dropout_records_its_own_log_probs():
    policy = own()
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(actor_of(policy), observations)
    assert [mask.shape for mask in masks] == [(STEPS, NUM_ENVS, 16)]
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)
    fresh = [~mask for mask in masks]
    assert not np.allclose(log_probs, rescore(policy, observations, actions, fresh), atol=1e-2)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int64])
def test_observations_of_any_shape_and_type(dtype):
    policy = MLPPolicy(gym.spaces.Box(0, 9, (2, 3), dtype), ACTIONS, hidden_sizes=(8,))
    observations = rng().integers(0, 10, (20, NUM_ENVS, 2, 3)).astype(dtype)
    for actor in (actor_of(policy, HeadActor), actor_of(policy, ModuleActor)):
        actions, log_probs, masks = play(actor, observations)
        np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)


def test_dropout_that_ends_during_training_is_still_recorded():
    policy = mlp(dropout=0.5)
    actor = actor_of(policy, HeadActor)
    consistent_dropouts(policy)[0].p = 0.0
    observations = rng(2).normal(size=(20, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(actor, observations)
    assert len(masks) == 1 and masks[0].all()
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), atol=1e-5)


def test_large_logits_give_finite_log_probs():
    policy = mlp()
    with torch.no_grad():
        policy.body[0].weight.mul_(1e4)
    observations = rng(2).normal(size=(20, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(actor_of(policy, HeadActor), observations)
    assert np.isfinite(log_probs).all()
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, masks), rtol=1e-4, atol=1e-2)


class Shifted(nn.Module):
    """A policy whose logits have an offset, which changes no probability, but leaves float32 few digits."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(1e6 + torch.tensor([0.0, 1.0, -0.5]))

    def forward(self, observations):
        return Categorical(logits=self.logits.expand(len(observations), 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (mlp(bias=True), HeadActor),
        lambda: (mlp(bias=True), ModuleActor),
        lambda: (own(p=0.0), ModuleActor),
        lambda: (Shifted(), ModuleActor),
    ],
)
def test_actions_are_taken_as_often_as_they_are_probable(make):
    policy, actor_class = make()
    observation = np.array([0.5, -1, 2, 0.3, 1], np.float32)
    num_envs, steps = 400, 250
    actions, _, _ = play(actor_of(policy, actor_class), np.broadcast_to(observation, (steps, num_envs, 5)).copy())
    probs = policy(torch.from_numpy(observation)[None]).probs[0].detach().double().numpy()
    frequencies = np.bincount(actions.ravel(), minlength=3) / actions.size
    assert (np.abs(frequencies - probs) < 4 * np.sqrt(probs * (1 - probs) / actions.size)).all()


class Reusing(Shifted):
    """A policy that gives its outputs in the same tensor each time."""

    def __init__(self):
        super().__init__()
        self.outputs = torch.zeros(NUM_ENVS, 3)

    def forward(self, observations):
        return UnnormalizedCategorical(self.outputs.copy_(observations[:, :3]).to(self.dtype))

    dtype = torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outputs_are_recorded_before_the_policy_overwrites_them(dtype):
    policy, observations = Reusing(), rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    policy.dtype = dtype
    actions, log_probs, _ = play(actor_of(policy, ModuleActor), observations)
    exact = torch.from_numpy(observations[..., :3]).log_softmax(-1).numpy()
    exact = np.take_along_axis(exact, actions[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_probs, exact, atol=1e-5 if dtype == torch.float32 else 0.05)


class Nowhere(Shifted):
    def forward(self, observations):
        return Categorical(logits=self.logits.expand(len(observations), 3) * float("nan"), validate_args=False)


def test_outputs_that_are_no_numbers_are_the_policys_fault():
    env = Environment("CartPole-v1")
    sampler = EpisodeSampler(env.make_vector(2, "sync"), 2)
    with pytest.raises(
        PolicyError, match=r"CartPole-v1, update 3: the policy failed: .* not finite: its outputs are NaN"
    ):
        sampler.sample(make_actor(Nowhere(), env.action_space), 3)


@pytest.mark.parametrize("lag", [1, BLOCK])
@pytest.mark.parametrize("actor", [lambda: actor_of(mlp(dropout=0.5)), lambda: actor_of(own())])
def test_noise_is_not_used_twice(actor, lag):
    actions, _, (masks, *_) = play(actor(), np.zeros((STEPS, 50, 5), np.float32))
    for values in (actions == 0, masks):
        values = values - values.mean()
        for one, other in ((values[:-lag], values[lag:]), (values[:, :-1], values[:, 1:])):
            assert abs((one * other).mean() / values.var()) < 4 / np.sqrt(one.size)


@pytest.mark.parametrize("p", [0.1, 0.6, 0.95])
@actors
def test_units_are_kept_as_often_as_they_should(actor_class, make, p):
    policy = make(hidden_sizes=(64, 9), dropout=p)
    _, _, masks = play(actor_of(policy, actor_class), np.ones((STEPS, 20, 5), np.float32))
    for mask in masks:
        for axes, bound in ((None, 4), ((0, 1), 5), ((0, 2), 5), ((1, 2), 5)):
            kept = mask.mean(axes)
            assert (np.abs(kept - (1 - p)) < bound * np.sqrt(p * (1 - p) * kept.size / mask.size)).all()


@pytest.mark.parametrize("make", [lambda: actor_of(mlp(dropout=0.4)), lambda: actor_of(own())])
def test_an_update_follows_from_its_generator_alone(make):
    observations, actor = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32), make()
    actions, log_probs, (mask,) = play(actor, observations, seed=3)
    actions, log_probs, mask = actions.copy(), log_probs.copy(), mask.copy()
    play(actor, observations[:9], seed=4)
    again, log_probs_again, (mask_again,) = play(make(), observations, seed=3)
    assert (actions == again).all() and (log_probs == log_probs_again).all() and (mask == mask_again).all()
    other, _, (other_mask,) = play(actor, observations, seed=4)
    assert (actions != other).any() and (mask != other_mask).any()


def test_an_optimizer_step_is_seen_without_a_copy():
    policy = mlp(bias=True)
    observations = np.ones((10, NUM_ENVS, 5), np.float32)
    actor = actor_of(policy, HeadActor)
    actor.begin(NUM_ENVS, rng())
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter) * torch.arange(len(parameter)).view(-1, *[1] * (parameter.ndim - 1))
    torch.optim.SGD(policy.parameters(), lr=0.05).step()
    actions = np.stack([actor.act(rows) for rows in observations])
    log_probs, _ = actor.record(torch.from_numpy(actions).flatten(), np.arange(actions.size))
    expected = rescore(policy, observations, actions, [])
    np.testing.assert_allclose(log_probs.numpy().reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize("policy", [mlp(dropout=0.6), own()])
def test_greedy_takes_the_most_probable_action_and_eval_drops_nothing(policy):
    policy.eval()
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, masks = play(actor_of(policy, greedy=True), observations)
    with torch.no_grad():
        logits = policy(torch.from_numpy(observations).flatten(0, 1)).logits
    assert masks == []
    assert (actions.ravel() == logits.argmax(-1).numpy()).all()
    np.testing.assert_allclose(log_probs.ravel(), logits.max(-1).values.numpy(), atol=1e-5)


def test_numpy_and_torch_outputs_act_alike():
    observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
    (actions, log_probs, _), (others, others_log_probs, _) = (
        play(actor_of(make(bias=True)), observations) for make in (mlp, torch_body)
    )
    assert (actions == others).mean() > 0.9999  # The last digit of a logit may decide between equals.
    same = actions == others
    np.testing.assert_allclose(log_probs[same], others_log_probs[same], atol=1e-5)


def test_records_of_some_rows_are_those_rows():
    for actor in (actor_of(mlp(dropout=0.5)), actor_of(own())):
        observations = rng(2).normal(size=(STEPS, NUM_ENVS, 5)).astype(np.float32)
        actions, log_probs, (mask,) = play(actor, observations)
        rows = rng().choice(actions.size, 500, replace=False)
        some, (some_masks,) = actor.record(torch.from_numpy(actions.ravel()[rows]), rows)
        np.testing.assert_allclose(some, log_probs.ravel()[rows], atol=1e-6)
        assert torch.equal(some_masks, torch.from_numpy(mask.reshape(-1, mask.shape[2])[rows]))


class Continuous:
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    observations = np.broadcast_to(np.array([0.5, -1, 2, 0.3, 1], np.float32), (100, 300, 5)).copy()

    def policy(self, **settings):
        torch.manual_seed(1)
        return GaussianPolicy(OBSERVATIONS, self.space, **settings)


def test_continuous_actions_follow_their_density():
    policy, observations = Continuous().policy(), Continuous.observations
    actions, log_probs, masks = play(actor_of(policy), observations)
    assert actions.shape == (100, 300, 2) and masks == []
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, []), atol=1e-5)
    mean = policy(torch.from_numpy(observations[0, :1])).mean[0].detach().numpy()
    std, count = np.exp(-0.5), 100 * 300
    assert (np.abs(actions.mean((0, 1)) - mean) < 4 * std / np.sqrt(count)).all()
    assert (np.abs(actions.std((0, 1)) - std) < 4 * std / np.sqrt(2 * count)).all()
    repeated = play(actor_of(policy), observations)[0]
    assert (repeated == actions).all()


def test_greedy_continuous_actions_are_the_mode():
    policy, observations = Continuous().policy(), Continuous.observations[:3]
    actions, _, _ = play(actor_of(policy, greedy=True), observations)
    expected = policy.mean(torch.from_numpy(observations)).detach().numpy()
    np.testing.assert_allclose(actions, expected, atol=1e-6)


class JointCategorical(OwnPolicy):
    """Two choices for each observation, with a log-probability each."""

    def forward(self, observations):
        return Categorical(logits=self.body(observations)[:, None].expand(-1, 2, -1))


@pytest.mark.parametrize(
    "policy",
    [Continuous().policy(independent=False), with_consistent_dropout(JointCategorical(OBSERVATIONS, ACTIONS))],
    ids=["normal", "categorical"],
)
def test_one_log_prob_per_observation(policy):
    with pytest.raises(
        ValueError, match=r"one log-probability per observation \[64\].*torch.distributions.Independent"
    ):
        play(actor_of(policy), np.zeros((2, NUM_ENVS, 5), np.float32))


class Subclass(MLPPolicy):
    def forward(self, observations):
        return super().forward(-observations)


def twins_of(policy):
    """Whether both the encoder and the body run in NumPy, seen from where the actor gets its outputs."""
    actor = actor_of(policy)
    actor.begin(3, rng())
    return isinstance(actor, HeadActor) and actor.layers != [actor._torch_outputs]


def test_a_forward_of_ones_own_is_always_called():
    subclass = Subclass(OBSERVATIONS, ACTIONS)
    assert twins_of(mlp()) and twins_of(mlp().double()) and not twins_of(torch_body())
    for policy in (subclass, own(), nn.Sequential(mlp())):
        assert isinstance(actor_of(policy), ModuleActor)
    observations = rng(2).normal(size=(9, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, _ = play(actor_of(subclass), observations)
    np.testing.assert_allclose(log_probs, rescore(subclass, observations, actions, []), atol=1e-5)


class Cooled(MLPPolicy):
    def outputs(self, observations):
        return super().outputs(observations) * 100


class Quiet(GaussianHead):
    """Less noise than its log-std says."""

    def distribution(self, outputs):
        return DiagonalGaussian(outputs, self.log_std - 3, self.shape)


def test_outputs_of_ones_own_act():
    policy, observations = Cooled(OBSERVATIONS, ACTIONS), rng(2).normal(size=(9, NUM_ENVS, 5)).astype(np.float32)
    assert not twins_of(policy)
    actions, log_probs, _ = play(actor_of(policy), observations)
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, []), atol=1e-4)


def test_a_head_that_changes_its_distribution_alone_is_sampled_from_that():
    space, observations = gym.spaces.Box(-1, 1, (2,)), np.zeros((9, NUM_ENVS, 5), np.float32)
    policy = MLPPolicy(OBSERVATIONS, space, head=Quiet)
    actions, _, _ = play(make_actor(policy, space), observations)
    assert actions.std() == pytest.approx(np.exp(-3), rel=0.1)
    assert isinstance(make_actor(MLPPolicy(OBSERVATIONS, space, head=SquashedGaussianHead), space), HeadActor)


def test_so_is_one_inside_of_another(monkeypatch):
    monkeypatch.setitem(HEADS, gym.spaces.Box, Quiet)
    space, observations = gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (2,))), np.zeros((9, NUM_ENVS, 5), np.float32)
    actor = make_actor(MLPPolicy(OBSERVATIONS, space), space)
    actor.begin(NUM_ENVS, rng())
    assert np.std([actor.act(rows)["a"] for rows in observations]) == pytest.approx(np.exp(-3), rel=0.1)


def test_dropout_layers_come_in_module_order():
    policy = mlp(hidden_sizes=(16, 8, 4), dropout=0.5)
    _, _, masks = play(actor_of(policy, HeadActor), np.zeros((2, 3, 5), np.float32))
    assert [mask.shape[-1] for mask in masks] == [16, 8, 4]
    assert len(consistent_dropouts(policy)) == 3


class Raw(nn.Module):
    """A policy as a user writes it: whatever distribution ``make`` returns, given the outputs of a linear layer."""

    def __init__(self, make, outputs):
        super().__init__()
        torch.manual_seed(1)
        self.linear, self.make = nn.Linear(5, outputs), make

    def forward(self, observations):
        return self.make(self.linear(observations))


def test_A5_integer_boxes_get_rounded_and_clipped_actions_and_the_raw_sample_is_scored():
    for dtype, low, high in ((np.int32, -2, 2), (np.uint8, 0, 3)):
        space = gym.spaces.Box(low, high, (2,), dtype)
        policy = Raw(lambda outputs: Independent(Normal(outputs, 2.0), 1), 2)
        actor = make_actor(policy, space)
        observations = rng(2).normal(size=(9, NUM_ENVS, 5)).astype(np.float32)
        actions, log_probs, _ = play(actor, observations)
        assert actions.dtype == np.float32 and (actions != actions.round()).all()
        np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, []), atol=1e-5)
        played = actor.to_env(actions[0])
        assert played.dtype == dtype and (actions[0] > high).any() and (actions[0] < low).any()
        assert (played == np.clip(np.rint(actions[0]), low, high)).all()
        assert all(space.contains(action) for action in played)


def test_A6_bits_of_a_bernoulli():
    space = gym.spaces.MultiBinary(3)
    policy = Raw(lambda outputs: Independent(Bernoulli(logits=outputs), 1), 3)
    actor = make_actor(policy, space)
    observations = rng(2).normal(size=(9, NUM_ENVS, 5)).astype(np.float32)
    actions, log_probs, _ = play(actor, observations)
    assert set(np.unique(actions)) == {0, 1} and actions.dtype == np.float32
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, []), atol=1e-5)
    played = actor.to_env(actions[0])
    assert played.dtype == np.int8 and (played == actions[0]).all() and space.contains(played[0])


def sets_logits(outputs):
    distribution = Categorical(logits=torch.zeros_like(outputs))
    distribution.logits = (outputs * 3).log_softmax(-1)
    return distribution


def of_anothers_type(outputs):
    first = Categorical(logits=outputs)
    return type(first)(logits=first.logits * 3)


@pytest.mark.parametrize("make", [sets_logits, of_anothers_type])
def test_A8_what_the_policy_returns_is_what_acts(make):
    policy = Raw(make, 3)
    observation = np.array([0.5, -1, 2, 0.3, 1], np.float32)
    observations = np.broadcast_to(observation, (250, 400, 5)).copy()
    actions, log_probs, _ = play(actor_of(policy), observations)
    probs = (policy.linear(torch.from_numpy(observation)) * 3).softmax(-1).detach().double().numpy()
    frequencies = np.bincount(actions.ravel(), minlength=3) / actions.size
    assert np.abs(probs - 1 / 3).max() > 0.2
    assert (np.abs(frequencies - probs) < 4 * np.sqrt(probs * (1 - probs) / actions.size)).all()
    np.testing.assert_allclose(log_probs, rescore(policy, observations, actions, []), atol=1e-5)


def test_actions_in_trees_are_recorded_and_scored():
    """A distribution of a user's own whose samples are a dict."""

    class Pair(Distribution):
        def __init__(self, outputs):
            self.kind, self.force = Categorical(logits=outputs[:, :3]), Normal(outputs[:, 3], 1.0)
            super().__init__(self.kind.batch_shape, validate_args=False)

        def sample(self, shape=()):
            return {"kind": self.kind.sample(), "force": self.force.sample()}

        def log_prob(self, value):
            return self.kind.log_prob(value["kind"]) + self.force.log_prob(value["force"])

    space = gym.spaces.Dict({"kind": gym.spaces.Discrete(3, start=4), "force": gym.spaces.Box(-1, 1, (), np.float64)})
    policy = Raw(Pair, 4)
    actor = make_actor(policy, space)
    observations = rng(2).normal(size=(NUM_ENVS, 5)).astype(np.float32)
    actor.begin(NUM_ENVS, rng())
    actions = actor.act(observations)
    played = actor.to_env(actions)
    assert (played["kind"] == actions["kind"] + 4).all() and np.abs(played["force"]).max() == 1
    recorded, _ = actor.record({name: torch.from_numpy(each) for name, each in actions.items()}, np.arange(NUM_ENVS))
    outputs = policy.linear(torch.from_numpy(observations))
    expected = Pair(outputs).log_prob({name: torch.from_numpy(each) for name, each in actions.items()})
    torch.testing.assert_close(recorded, expected.detach())


def test_what_is_no_distribution_is_named():
    with pytest.raises(PolicyError, match="the policy must return a torch Distribution, not Tensor"):
        play(actor_of(Raw(lambda outputs: outputs, 3)), np.zeros((1, 2, 5), np.float32))


def test_a_dropout_that_is_not_called_is_named():
    class Idle(OwnPolicy):
        def forward(self, observations):
            return Categorical(logits=self.body[3](self.body[0](observations)))

    policy = with_consistent_dropout(Idle(OBSERVATIONS, ACTIONS))
    with pytest.raises(PolicyError, match=r"did not call its ConsistentDropout\(p=0.3\)"):
        play(actor_of(policy), np.zeros((1, 2, 5), np.float32))


def test_a_body_of_another_width_is_named():
    policy = mlp()
    policy.body = nn.Linear(5, 7)
    with pytest.raises(PolicyError, match=r"outputs \[N, O\] = \[2, 3\], not \[2, 7\]"):
        play(actor_of(policy), np.zeros((1, 2, 5), np.float32))


def test_twins_are_taken_by_exact_type_and_without_hooks():
    drawing = Drawing(2, rng())
    hooked, own_forward = nn.Linear(2, 3), nn.Linear(2, 3)
    hooked.register_forward_hook(lambda module, inputs, output: output + 1)
    own_forward.forward = lambda inputs: inputs
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    assert numpy_twin(nn.Linear(2, 3), drawing) is not None
    for module in (hooked, own_forward, parametrised, type("Mine", (nn.Linear,), {})(2, 3), nn.GELU()):
        assert numpy_twin(module, drawing) is None
        assert numpy_twin(nn.Sequential(nn.Linear(2, 2), module), drawing) is None


def test_acting_changes_nothing_for_other_threads_and_leaves_validation_as_it_was():
    seen = {}

    class Looks(OwnPolicy):
        def forward(self, observations):
            def other():
                seen["other"] = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return super().forward(observations)

    validate = Distribution._validate_args
    play(actor_of(with_consistent_dropout(Looks(OBSERVATIONS, ACTIONS))), np.zeros((1, 2, 5), np.float32))
    assert seen["other"] == (False, True)
    assert Distribution._validate_args is validate is True
