import json
from collections import Counter, OrderedDict
from functools import partial

import numpy as np
import pytest
import torch

from pg_lightning import Advantage, CategoricalMLP, Returns, StandardizedReturns, TimestepBaseline
from pg_lightning.envs import spaces
from pg_lightning.specs import UNNAMED, build, describe
from tests.envs import OwnPolicy, ScaledReturns

PLAIN = [None, True, 3, 0.99, "text", [1, "a", None], {"a": {"b": [1.5]}}, {}, []]


@pytest.mark.parametrize("value", PLAIN)
def test_plain_data_stays_what_it_is(value):
    assert describe(value) == value
    assert build(value, object) == value
    assert build(value, object, instance=True) == value


@pytest.mark.parametrize("advantage", [Returns(), StandardizedReturns(), TimestepBaseline(), ScaledReturns(2.5)])
def test_advantages_come_back_with_their_settings(advantage):
    spec = json.loads(json.dumps(describe(advantage)))
    again = build(spec, object, instance=True)
    assert type(again) is type(advantage) and vars(again) == vars(advantage)


@pytest.mark.parametrize(
    ("policy", "class_path", "arguments"),
    [
        (CategoricalMLP, "pg_lightning.policies.CategoricalMLP", {}),
        (OwnPolicy, "tests.envs.OwnPolicy", {}),
        (partial(OwnPolicy, units=7), "tests.envs.OwnPolicy", {"units": 7}),
        (
            partial(CategoricalMLP, hidden_sizes=[3, 2], dropout=0.5),
            "pg_lightning.policies.CategoricalMLP",
            {"hidden_sizes": [3, 2], "dropout": 0.5},
        ),
        (partial(partial(OwnPolicy, units=7), p=0.1), "tests.envs.OwnPolicy", {"units": 7, "p": 0.1}),
    ],
)
def test_policies_come_back_with_their_arguments(policy, class_path, arguments):
    spec = describe(policy)
    assert spec == {"class_path": class_path, "init_args": arguments}
    torch.manual_seed(0)
    expected = policy(*spaces("CartPole-v1"))
    torch.manual_seed(0)
    made = build(json.loads(json.dumps(spec)), torch.nn.Module)(*spaces("CartPole-v1"))
    assert str(made) == str(expected)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), expected.parameters(), strict=True))


def test_an_optimizer_comes_back():
    weights = [torch.nn.Parameter(torch.ones(2))]
    optimizer = build(describe(partial(torch.optim.SGD, lr=0.25, momentum=0.5)), torch.optim.Optimizer)(weights)
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.25, 0.5)


@pytest.mark.parametrize("kind", [torch.nn.Module, torch.optim.Optimizer, Advantage])
@pytest.mark.parametrize("class_path", ["subprocess.Popen", "os.system", "builtins.exec", "torch.nn.init.constant_"])
def test_what_is_of_another_kind_is_never_called(class_path, kind):
    with pytest.raises(ValueError, match=rf"{class_path} is no {kind.__name__}"):
        build({"class_path": class_path, "init_args": {}}, kind)


class Outer:
    class Inner:
        pass


def nameless():
    class Local:
        pass

    holder = ScaledReturns()
    holder.scale = torch.ones(2)
    unnamed = [lambda: 0, Local, Local(), Outer.Inner, holder]
    arguments = [partial(Counter, {}), partial(Counter, a=torch.ones(1)), {"a": object()}, np.arange(3), np.int64(3)]
    return unnamed + arguments


@pytest.mark.parametrize("value", nameless())
def test_what_cannot_be_named(value):
    assert describe(value) == UNNAMED


def test_specs_without_arguments():
    assert build({"class_path": "collections.Counter"}, dict, instance=True) == Counter()
    assert build({"class_path": "collections.OrderedDict", "init_args": None}, dict, instance=True) == OrderedDict()


@pytest.mark.parametrize("class_path", ["collections.NoSuchThing", "no_such_module.Thing"])
def test_a_spec_of_what_is_not_there(class_path):
    with pytest.raises((ImportError, AttributeError), match=r"NoSuchThing|no_such_module"):
        build({"class_path": class_path}, object)
