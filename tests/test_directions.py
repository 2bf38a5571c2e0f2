"""The natural gradient against enumerated Fisher matrices, and the length of its steps."""

import math
from functools import partial

import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.distributions import Distribution, Normal, kl_divergence

from pg_lightning import (
    EpisodeDataModule,
    Gradient,
    Linear,
    MLPPolicy,
    NaturalGradient,
    NormalizeObservations,
    Reinforce,
)
from pg_lightning.cli import main
from pg_lightning.directions import Surrogate
from pg_lightning.episodes import Batch, Outcome
from pg_lightning.fisher import FisherProduct, conjugate_gradient
from tests.helpers import episodes_of, trainer

SMALL = partial(MLPPolicy, hidden_sizes=(6,), activation="tanh", bias=True)


def ALONE(tensor):
    return tensor


class Wrapped(nn.Module):
    """A policy that hides its head."""

    def __init__(self, policy):
        super().__init__()
        self.inner = policy

    def forward(self, observations):
        return self.inner(observations)


class OddPolicy(Wrapped):
    def forward(self, observations):
        inner = self.inner(observations)
        return Independently(inner.logits)


class Independently(Distribution):
    """Softmax over two actions, without a KL divergence."""

    def __init__(self, logits):
        super().__init__(logits.shape[:-1], validate_args=False)
        self.logits = logits.log_softmax(-1)

    def log_prob(self, value):
        return self.logits.gather(-1, value[:, None])[:, 0]


def batch_of(policy, observations, actions, advantages):
    with torch.no_grad():
        log_probs = policy(observations).log_prob(actions)
    episodes = episodes_of(
        rewards=[1.0] * len(actions),
        lengths=[len(actions)],
        observations=observations,
        actions=actions,
        log_probs=log_probs,
    )
    outcome = Outcome(episodes.returns, episodes.lengths, episodes.truncated, torch.tensor(len(actions)))
    return Batch(episodes, advantages, torch.zeros_like(advantages), advantages, 1, outcome)


def discrete(timesteps=30):
    torch.manual_seed(0)
    agent = Reinforce("CartPole-v1", policy=SMALL).double()
    observations = torch.randn(timesteps, 4, dtype=torch.float64)
    actions = torch.randint(0, 2, (timesteps,))
    advantages = torch.randn(timesteps, dtype=torch.float64)
    return agent.policy, batch_of(agent.policy, observations, actions, advantages)


def test_products_are_those_of_the_kl_divergence_of_a_gaussian():
    torch.manual_seed(1)
    agent = Reinforce("Pendulum-v1", policy=SMALL).double()
    policy, observations = agent.policy, torch.randn(50, 3, dtype=torch.float64)
    batch = batch_of(policy, observations, policy(observations).sample(), torch.randn(50, dtype=torch.float64))
    parameters = list(policy.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    products = [FisherProduct(p, parameters, batch.chunk(), ALONE)(vector) for p in (policy, Wrapped(policy))]
    torch.testing.assert_close(*products)
    with torch.no_grad():
        before = Normal(policy(observations).mean.clone(), policy(observations).stddev.clone())
        for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
            parameter += 1e-5 * part.view_as(parameter)
        divergence = kl_divergence(before, Normal(policy(observations).mean, policy(observations).stddev))
    found = 2e10 * divergence.sum(-1).mean()
    torch.testing.assert_close(vector @ products[0], found, rtol=1e-3, atol=0)


def enumerated(policy, observations):
    """Mean over observations of the expectation over both actions of the scores' outer products."""
    parameters, total = list(policy.parameters()), 0
    for observation in observations:
        for action in (0, 1):
            log_prob = policy(observation[None]).log_prob(torch.tensor([action]))
            score = torch.cat([g.reshape(-1) for g in torch.autograd.grad(log_prob, parameters)])
            total = total + log_prob.exp().detach() * score[:, None] * score / len(observations)
    return total


def set_gradient(policy, batch):
    policy.zero_grad()
    chunk = batch.chunk()
    (-(chunk.distribution(policy).log_prob(chunk.actions) * chunk.advantages).mean()).backward()
    return torch.cat([p.grad.reshape(-1) for p in policy.parameters()])


@pytest.mark.parametrize("wrap", [lambda policy: policy, Wrapped])
def test_products_are_those_of_the_enumerated_fisher_matrix(wrap):
    policy, batch = discrete()
    matrix = enumerated(policy, batch.episodes.observations)
    fisher = FisherProduct(wrap(policy), list(policy.parameters()), batch.chunk(), ALONE)
    for _ in range(3):
        vector = torch.randn(len(matrix), dtype=torch.float64)
        torch.testing.assert_close(fisher(vector), matrix @ vector, rtol=1e-9, atol=1e-12)


def test_products_in_chunks_and_subsamples(monkeypatch):
    policy, batch = discrete()
    whole = FisherProduct(policy, list(policy.parameters()), batch.chunk(), ALONE)
    monkeypatch.setattr("pg_lightning.fisher.CHUNK", 7)
    parts = FisherProduct(policy, list(policy.parameters()), batch.chunk(), ALONE)
    vector = torch.randn(sum(p.numel() for p in policy.parameters()), dtype=torch.float64)
    torch.testing.assert_close(parts(vector), whole(vector))
    assert batch.spaced(8).log_probs.shape == (8,) and batch.spaced(None).log_probs.shape == (30,)


def test_scores_serve_where_there_is_no_kl_divergence():
    policy, batch = discrete()
    odd = OddPolicy(policy)
    parameters = list(odd.parameters())
    scores = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(odd(o[None]).log_prob(a[None]), parameters)])
        for o, a in zip(batch.episodes.observations, batch.episodes.actions, strict=True)
    ]
    matrix = sum(score[:, None] * score for score in scores) / len(scores)
    vector = torch.randn(len(matrix), dtype=torch.float64)
    fisher = FisherProduct(odd, parameters, batch.chunk(), ALONE)
    torch.testing.assert_close(fisher(vector), matrix @ vector, rtol=1e-9, atol=1e-12)


def test_the_direction_solves_the_damped_system():
    policy, batch = discrete()
    matrix = enumerated(policy, batch.episodes.observations)
    gradient = set_gradient(policy, batch)
    NaturalGradient(max_kl=0.01, damping=0.1, cg_iterations=100)(policy, batch, None, ALONE)
    step = torch.cat([p.grad.reshape(-1) for p in policy.parameters()])
    expected = torch.linalg.solve(matrix + 0.1 * torch.eye(len(matrix)), gradient)
    cosine = torch.cosine_similarity(step, expected, dim=0).item()
    assert 1 - cosine < 1e-8
    assert (step @ matrix @ step / 2).item() == pytest.approx(0.01, rel=1e-6)  # The quadratic model of the KL.


@pytest.mark.parametrize("radius", [1e-4, 1e-3])
def test_the_measured_kl_of_a_gaussian_step_is_that_asked_for(radius):
    torch.manual_seed(1)
    agent = Reinforce("Pendulum-v1", policy=partial(SMALL, hidden_sizes=(32, 32))).double()
    policy, observations = agent.policy, torch.randn(200, 3, dtype=torch.float64)
    actions = policy(observations).sample()
    batch = batch_of(policy, observations, actions, torch.randn(200, dtype=torch.float64))
    set_gradient(policy, batch)
    NaturalGradient(max_kl=radius)(policy, batch, None, ALONE)
    with torch.no_grad():
        before = policy(observations)
        mean, std = before.mean.clone(), before.stddev.clone()
        for parameter in policy.parameters():
            parameter -= parameter.grad
        after = policy(observations)
        found = kl_divergence(Normal(mean, std), Normal(after.mean, after.stddev)).sum(-1).mean().item()
    assert found == pytest.approx(radius, rel=0.2)


def test_the_log_std_moves_by_its_share():
    torch.manual_seed(1)
    steps = []
    for share in (1.0, 0.2):
        torch.manual_seed(2)
        from pg_lightning.policies.heads import GaussianHead

        agent = Reinforce(
            "Pendulum-v1", policy=partial(SMALL, head=partial(GaussianHead, log_std_share=share))
        ).double()
        policy, observations = agent.policy, torch.randn(100, 3, dtype=torch.float64)
        actions = policy(observations).sample()
        batch = batch_of(policy, observations, actions, torch.randn(100, dtype=torch.float64))
        set_gradient(policy, batch)
        NaturalGradient(max_kl=0.01, cg_iterations=50)(policy, batch, None, ALONE)
        steps.append({name: p.grad.clone() for name, p in policy.named_parameters()})
    ratio = {name: (steps[1][name] / steps[0][name]).flatten()[0].item() for name in steps[0]}
    log_std = next(name for name in ratio if name.startswith("head."))
    body = next(name for name in ratio if name.startswith("body."))
    assert ratio[log_std] / ratio[body] == pytest.approx(0.2, rel=1e-4)


def test_nothing_to_learn_leaves_the_gradient_zero():
    policy, batch = discrete()
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    NaturalGradient()(policy, batch, None, ALONE)
    assert not any(p.grad.any() for p in policy.parameters())


def test_a_radius_by_the_progress_of_the_run():
    policy, batch = discrete()
    lengths = []
    for progress in (0.0, 0.75):
        set_gradient(policy, batch)
        NaturalGradient(Linear(0.04))(policy, batch, progress, ALONE)
        lengths.append(sum(p.grad.square().sum() for p in policy.parameters()).sqrt().item())
    assert lengths[1] == pytest.approx(lengths[0] / 2)  # A quarter of the KL is half of the step.
    with pytest.raises(ValueError, match="needs the end of the run"):
        NaturalGradient(Linear(0.04))(policy, batch, None, ALONE)


def test_conjugate_gradient_solves_in_as_many_steps_as_dimensions():
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    matrix, target = root @ root.T + torch.eye(6), torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(
        conjugate_gradient(lambda v: matrix @ v, target, 6), torch.linalg.solve(matrix, target), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_kl": 0},
        {"max_kl": float("inf")},
        {"max_kl": Linear(-0.02)},
        {"max_kl": Linear(0.02, -0.01)},
        {"damping": -1},
        {"cg_iterations": 0},
        {"max_timesteps": 0},
        {"backtracks": -1},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        NaturalGradient(**arguments)


def test_conjugate_gradient_does_not_amplify_rounding():
    """Two eigenvalues far above the others, as Fisher matrices have; the products differ in the sixteenth digit."""
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64))
    values = torch.cat([torch.tensor([46.0, 31.0]), torch.logspace(-4, 0.3, 98)]).double() + 0.1
    target = torch.randn(100, dtype=torch.float64)

    def product(v):
        return basis @ (values * (basis.T @ v))

    def other(v):
        return product(v) * (1 + 2.3e-16 * torch.randn(100, dtype=torch.float64).sign())

    solutions = [conjugate_gradient(function, target, 10) for function in (product, other)]
    assert (solutions[0] - solutions[1]).norm() < 1e-13 * solutions[0].norm()


def test_normalised_observations_are_differentiated_through():
    torch.manual_seed(0)
    agent = Reinforce("CartPole-v1", policy=partial(SMALL, encoder=NormalizeObservations)).double()
    observations = torch.randn(20, 4, dtype=torch.float64) * 5 + 3
    actions = torch.randint(0, 2, (20,))
    batch = batch_of(agent.policy, observations, actions, torch.randn(20, dtype=torch.float64))
    agent.policy.encoder.fit(batch)
    matrix = enumerated(agent.policy, observations)
    fisher = FisherProduct(agent.policy, list(agent.policy.parameters()), batch.chunk(), ALONE)
    vector = torch.randn(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(fisher(vector), matrix @ vector, rtol=1e-9, atol=1e-12)


class Bowl(nn.Module):
    """A softmax policy over two actions, the same at every observation, whose logit is a function of one parameter."""

    def __init__(self, logit):
        super().__init__()
        self.theta, self.logit = nn.Parameter(torch.zeros((), dtype=torch.float64)), logit

    def forward(self, observations):
        logit = self.logit(self.theta).expand(len(observations))
        return torch.distributions.Categorical(logits=torch.stack([logit, torch.zeros_like(logit)], -1))


def searched(logit, backtracks, max_kl=0.01, **arguments):
    """Search from theta = 0, where action 0 is better and each is taken half of the time; return the policy too."""
    policy, actions = Bowl(logit), torch.tensor([0, 1] * 10)
    batch = batch_of(policy, torch.zeros(20, 1, dtype=torch.float64), actions, 1.0 - 2 * actions.double())
    set_gradient(policy, batch)
    direction = NaturalGradient(max_kl, damping=0.0, backtracks=backtracks, **arguments)
    return direction(policy, batch, None, ALONE), policy


def kl_of(logit):
    """KL divergence from the uniform policy over two actions to the one with this logit."""
    uniform, now = (torch.distributions.Categorical(logits=torch.tensor([x, 0.0])) for x in (0.0, logit))
    return kl_divergence(uniform, now).item()


def test_a_full_step_that_serves_is_taken_as_it_is():
    metrics, policy = searched(lambda theta: theta, backtracks=4)
    without, same = searched(lambda theta: theta, backtracks=0)
    assert metrics == {"line_search_backtracks": 0.0, "line_search_success": 1.0} and without == {}
    assert torch.equal(policy.theta.grad, same.theta.grad) and policy.theta == 0
    assert policy.theta.grad.item() == pytest.approx(-math.sqrt(2 * 0.01 / 0.25))  # F = p (1 - p) = 1 / 4.


def test_the_step_is_halved_until_the_measured_kl_fits():
    """The logit is theta + 100 theta**3: the quadratic model is far too bold."""

    def logit(theta):
        return theta + 100 * theta**3

    full = math.sqrt(2 * 0.01 / 0.25)
    fits = [kl_of(logit(full * part)) <= 1.5 * 0.01 for part in (1.0, 0.5, 0.25, 0.125)]
    assert fits == [False, False, True, True]
    metrics, policy = searched(logit, backtracks=3)
    assert metrics == {"line_search_backtracks": 2.0, "line_search_success": 1.0}
    assert policy.theta.grad.item() == pytest.approx(-full / 4) and policy.theta == 0


def test_the_tolerance_is_one_and_a_half():
    """Logits that the full step takes just below and just above 1.5 max_kl."""
    full = math.sqrt(2 * 0.01 / 0.25)
    bound = brentq(lambda logit: kl_of(logit) - 0.015, 0.01, 1.0)

    for end, halvings in ((bound - 1e-3, 0.0), (bound + 1e-3, 1.0)):
        bend = (end - full) / full**3

        def logit(theta, bend=bend):
            return theta + bend * theta**3

        assert searched(logit, backtracks=3)[0]["line_search_backtracks"] == halvings


def test_the_step_is_halved_until_the_surrogate_improves():
    """The logit is theta - 10 theta**2: beyond 0.1 it falls below where it started; the full step is 0.28."""
    metrics, policy = searched(lambda theta: theta - 10 * theta**2, backtracks=5, max_kl=0.01)
    assert metrics == {"line_search_backtracks": 2.0, "line_search_success": 1.0}
    assert policy.theta.grad.item() == pytest.approx(-math.sqrt(2 * 0.01 / 0.25) / 4)


@pytest.mark.parametrize("logit", [lambda theta: theta - 1e6 * theta**2, lambda theta: theta + theta * float("inf")])
def test_no_step_is_taken_where_no_length_serves(logit):
    def safe(theta):
        return theta if theta == 0 else logit(theta)

    metrics, policy = searched(safe, backtracks=3)
    assert metrics == {"line_search_backtracks": 3.0, "line_search_success": 0.0}
    assert policy.theta.grad == 0 and policy.theta == 0


def test_the_parameters_are_what_they_were_to_the_bit():
    torch.manual_seed(3)
    agent = Reinforce("Pendulum-v1", policy=partial(SMALL, hidden_sizes=(32, 32)))
    policy, observations = agent.policy, torch.randn(200, 3)
    batch = batch_of(policy, observations, policy(observations).sample(), torch.randn(200))
    before = [p.detach().clone() for p in policy.parameters()]
    set_gradient(policy, batch)
    metrics = NaturalGradient(0.5, damping=1e-8, cg_iterations=40, backtracks=10)(policy, batch, None, ALONE)
    assert metrics["line_search_backtracks"] > 0
    assert all(torch.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True))
    assert all(p.requires_grad for p in policy.parameters())


def test_the_line_search_takes_the_subsample_and_sums_over_processes():
    """Two processes with the same timesteps decide as one of them would."""
    seen = []

    def doubled(tensor):
        seen.append(tensor)
        return tensor * 2

    policy, batch = discrete()
    set_gradient(policy, batch)
    NaturalGradient(0.01, max_timesteps=10, backtracks=2)(policy, batch, None, doubled)
    assert seen[-1].shape == (2,) and {tensor.item() for tensor in seen if tensor.ndim == 0} == {10}
    both = Surrogate(policy, batch.spaced(10), doubled), Surrogate(policy, batch.spaced(10), ALONE)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1
    assert both[0]() == pytest.approx(both[1]())
    chunk = batch.spaced(10)
    ratio = (chunk.distribution(policy).log_prob(chunk.actions) - chunk.log_probs).exp()
    assert len(chunk.log_probs) == 10
    assert both[1]()[0] == pytest.approx(((ratio - 1) * chunk.advantages).mean().item())


def test_surrogate_in_chunks_and_without_a_kl_divergence(monkeypatch):
    policy, batch = discrete()
    odd = OddPolicy(policy)
    whole = [Surrogate(net, batch.chunk(), ALONE) for net in (policy, odd)]
    monkeypatch.setattr("pg_lightning.directions.CHUNK", 7)
    parts = Surrogate(policy, batch.chunk(), ALONE)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert parts() == pytest.approx(whole[0]())
    log_ratio = policy(batch.episodes.observations).log_prob(batch.episodes.actions) - batch.episodes.log_probs
    assert whole[1]()[0] == pytest.approx(whole[0]()[0])
    assert whole[1]()[1] == pytest.approx((log_ratio.exp() - 1 - log_ratio).mean().item())


def test_nothing_to_learn_is_no_step():
    policy, batch = discrete()
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    metrics = NaturalGradient(backtracks=2)(policy, batch, None, ALONE)
    assert metrics == {"line_search_backtracks": 0.0, "line_search_success": 0.0}


def test_a_run_logs_the_line_search_only_where_it_is_on():
    for backtracks, logged in ((0, False), (5, True)):
        agent = Reinforce("CartPole-v1", policy=SMALL, direction=NaturalGradient(backtracks=backtracks))
        trainer(2).fit(agent, EpisodeDataModule(num_envs=4))
        assert ("line_search_backtracks" in agent.metrics) is logged
        assert ("line_search_success" in agent.metrics) is logged
        assert 0 < agent.metrics["kl"] < 0.04


def test_the_line_search_of_a_policy_from_the_command_line(tmp_path, monkeypatch):
    """Its constructor arguments hold what jsonargparse made, which cannot be copied."""
    monkeypatch.chdir(tmp_path)
    options = ["--model.policy", "MLPPolicy", "--model.policy.encoder", "NormalizeObservations"]
    options += ["--model.direction", "NaturalGradient", "--model.direction.backtracks", "2"]
    options += ["--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false", "--data.num_envs", "2"]
    main(["fit", *options])
    rows = (tmp_path / "runs/CartPole-v1/version_0/metrics.csv").read_text().splitlines()
    assert len(rows) == 3 and "line_search_success" in rows[0]


class Classified(nn.Module):
    """A policy of one's own with a module that is called head, as many are."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.head = nn.Linear(*observation_space.shape, int(action_space.n))

    def forward(self, observations):
        return torch.distributions.Categorical(logits=self.head(observations))


class WithSpare(MLPPolicy):
    """Has a layer that its forward does not use."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space, hidden_sizes=(6,))
        self.spare = nn.Linear(3, 4)


class Frozen(MLPPolicy):
    """Learns the deviation of its actions alone."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space, hidden_sizes=(6,))
        self.body.requires_grad_(False)


@pytest.mark.parametrize(
    ("env_id", "policy"),
    [("CartPole-v1", Classified), ("CartPole-v1", WithSpare), ("Pendulum-v1", WithSpare), ("Pendulum-v1", Frozen)],
)
@pytest.mark.parametrize("direction", [Gradient, NaturalGradient])
def test_what_can_learn_learns_and_nothing_else(env_id, policy, direction):
    agent = Reinforce(env_id, policy=policy, direction=direction())
    before = {name: parameter.clone() for name, parameter in agent.policy.named_parameters()}
    trainer(1).fit(agent, EpisodeDataModule(num_envs=2))
    moved = {name for name, parameter in agent.policy.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if not name.startswith("spare") and before[name].requires_grad}


class Hot(MLPPolicy):
    """A forward of its own, whose logits are other than its outputs."""

    def forward(self, observations):
        return torch.distributions.Categorical(logits=self.outputs(observations) * 20)


def test_a_forward_of_ones_own_moves_by_the_divergence_asked_for():
    torch.manual_seed(0)
    agent = Reinforce("CartPole-v1", policy=Hot)
    trainer(1).fit(agent, EpisodeDataModule(num_envs=8))
    assert agent.metrics["kl"] == pytest.approx(0.02, rel=0.5)


def test_products_with_a_parameter_that_is_not_used_are_those_without_it():
    policy, batch = discrete()
    unused, parameters = nn.Parameter(torch.ones(2, dtype=torch.float64)), list(policy.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    for one in (policy, Wrapped(policy), OddPolicy(policy)):
        found = FisherProduct(one, [unused, *parameters], batch.chunk(), ALONE)(torch.cat([torch.ones(2), vector]))
        expected = FisherProduct(one, parameters, batch.chunk(), ALONE)(vector)
        torch.testing.assert_close(found, torch.cat([torch.zeros(2), expected]))
