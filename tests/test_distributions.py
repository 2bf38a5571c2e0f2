"""A Categorical that is made while acting answers like torch's own, to whatever it is asked first."""

import pytest
import torch
from torch.distributions import Categorical, Independent, OneHotCategorical

from pg_lightning.distributions import DeferredCategorical, acting, unnormalized_logits

LOGITS = torch.tensor([[1.0, 2.0, -3.0], [0.0, 0.5, 4.0]])
ACTIONS = torch.tensor([2, 0])

QUESTIONS = {
    "logits": lambda d: d.logits,
    "probs": lambda d: d.probs,
    "log_prob": lambda d: d.log_prob(ACTIONS),
    "entropy": lambda d: d.entropy(),
    "mode": lambda d: d.mode,
    "shapes": lambda d: torch.tensor([*d.batch_shape, *d.event_shape, *d.param_shape]),
    "support": lambda d: torch.tensor(d.support.upper_bound),
    "expand": lambda d: d.expand((4, 2)).logits,
    "sample": lambda d: (torch.manual_seed(0), d.sample((5,)))[1],
    "independent": lambda d: Independent(d, 1).log_prob(ACTIONS),
    "isinstance": lambda d: torch.tensor(isinstance(d, Categorical)),
}


@pytest.mark.parametrize("arguments", [{"logits": LOGITS}, {"probs": LOGITS.exp()}], ids=["logits", "probs"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_it_answers_like_torchs_own(question, arguments):
    expected = QUESTIONS[question](Categorical(**arguments))
    with acting():
        deferred = Categorical(**arguments)
        assert type(deferred) is DeferredCategorical
        answer = QUESTIONS[question](deferred)
        assert torch.equal(answer, expected)
    assert torch.equal(QUESTIONS[question](deferred), expected)
    assert type(deferred) is (DeferredCategorical if question == "isinstance" else Categorical)


def test_what_was_made_while_acting_can_be_asked_later():
    with acting():
        deferred = Categorical(LOGITS.exp())
    assert torch.equal(deferred.log_prob(ACTIONS), Categorical(LOGITS.exp()).log_prob(ACTIONS))


def test_its_logits_are_those_it_was_made_of():
    with acting():
        assert unnormalized_logits(Categorical(logits=LOGITS)) is LOGITS
        asked = Categorical(logits=LOGITS)
        assert torch.equal(unnormalized_logits(asked), LOGITS)
        assert asked.entropy().shape == (2,)
        assert torch.equal(unnormalized_logits(asked), Categorical(logits=LOGITS).logits)
        assert torch.equal(unnormalized_logits(Categorical(LOGITS.exp())), Categorical(LOGITS.exp()).logits)
        assert unnormalized_logits(OneHotCategorical(logits=LOGITS)) is None
        with pytest.raises(ValueError, match="Either `probs` or `logits`"):
            Categorical().log_prob(ACTIONS)


def test_both_probs_and_logits_are_refused_as_ever():
    with acting(), pytest.raises(ValueError, match="Either `probs` or `logits`"):
        unnormalized_logits(Categorical(probs=LOGITS.exp(), logits=LOGITS))


def test_compiled_policies_act():
    def forward(logits):
        return Categorical(logits=logits + 1)

    compiled = torch.compile(forward, backend="eager")
    with acting():
        for _ in range(2):
            assert torch.allclose(compiled(LOGITS).logits, Categorical(logits=LOGITS).logits)


class Own(Categorical):
    """Somebody's own kind of Categorical."""


def test_nothing_changes_beyond_the_context():
    make, validate = Categorical.__init__, Categorical._validate_args
    with pytest.raises(KeyError), acting(), acting():
        assert type(Own(logits=LOGITS)) is Own
        assert torch.equal(Own(logits=LOGITS).entropy(), Categorical(logits=LOGITS).entropy())
        assert unnormalized_logits(Own(logits=LOGITS)) is None, "it may score and sample in its own way"
        raise KeyError
    assert Categorical.__init__ is make and Categorical._validate_args is validate
    assert type(Categorical(logits=LOGITS)) is Categorical
    with pytest.raises(ValueError, match="constraint"):
        Categorical(logits=torch.tensor([float("nan")]), validate_args=True)
