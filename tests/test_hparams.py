import copy
import functools
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pytest
import torch
from torch import nn

from pg_lightning import EpisodeDataModule, LeaveOneOut, Reinforce
from pg_lightning.hparams import Recorded, build, check_trusted, describe, recorded_arguments
from tests.helpers import plain, trainer


class Part(Recorded):
    """Stores its argument under another name, which no look at the attributes could tell."""

    def __init__(self, scale: float = 1.0, *, shift: float = 0.0) -> None:
        self.factor, self.offset = scale, shift


class Smaller(Part):
    """Has a constructor of its own."""

    def __init__(self, half: float) -> None:
        super().__init__(half * 2, shift=9.0)


class Renamed(Part):
    """Inherits its constructor."""


class Empty(Recorded):
    """Has no constructor."""


class Passing(Part):
    def __init__(self, extra: int = 0, **rest: Any) -> None:
        super().__init__(**rest)
        self.extra = extra


class Positional(Recorded):
    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes


@dataclass(frozen=True)
class Frozen(Recorded):
    size: int
    names: tuple[str, ...] = ("a",)


class Network(Recorded, nn.Module):
    def __init__(self, units: int, part: Part | None = None) -> None:
        super().__init__()
        self.layer, self.part = nn.Linear(2, units), part


class Factory(nn.Module):
    """A policy of parts: of one that is made here, and one that is given."""

    def __init__(
        self,
        inputs: int,
        make: Callable[[int], nn.Module] | None = None,
        kind: type[Part] = Part,
        part: Part | None = None,
        loose=None,
        table: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.made, self.kind, self.part, self.loose, self.table = (
            (make or nn.Identity)(inputs),
            kind,
            part,
            loose,
            table,
        )


class NotRecorded:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale


class Colour(Enum):
    RED = 1


def again(spec, kind=object, **options):
    """Build a spec that went through a file."""
    return build(json.loads(json.dumps(spec)), kind, **options)


def path(name):
    return f"{__name__}.{name}"


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        (Part(2.5), {"scale": 2.5}),
        (Part(2.5, shift=1.0), {"scale": 2.5, "shift": 1.0}),
        (Part(scale=2.5), {"scale": 2.5}),
        (Part(), {}),
        (Smaller(3.0), {"half": 3.0}),
        (Renamed(4.0), {"scale": 4.0}),
        (Passing(7, scale=2.0), {"extra": 7, "scale": 2.0}),
        (Frozen(3), {"size": 3}),
        (Network(5), {"units": 5}),
        (Empty(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_are_recorded_and_the_object_is_built_again(value, arguments):
    assert recorded_arguments(value) == arguments
    spec = describe(value)
    assert spec == {"class_path": path(type(value).__name__), "init_args": arguments}
    made = again(spec, Recorded, instance=True)
    assert type(made) is type(value) and describe(made) == spec
    if not isinstance(value, nn.Module):
        assert {**vars(made), "_recorded": None} == {**vars(value), "_recorded": None}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize("value", [Part(2.5, shift=1.0), Smaller(3.0), Frozen(3), Network(5, Part(2.0))])
def test_copies_keep_their_arguments(value, copied):
    assert describe(copied(value)) == describe(value)


def test_a_class_without_constructor_still_refuses_arguments():
    with pytest.raises(TypeError, match=r"Empty\(\) takes no arguments"):
        Empty(5)
    with pytest.raises(TypeError, match="whole"):
        Smaller(whole=1.0)


def test_a_command_line_reads_the_constructor_of_a_recorded_class():
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--part", type=Part)
    parsed = parser.parse_args(["--part", path("Passing"), "--part.extra", "3", "--part.scale", "0.5"])
    part = parser.instantiate(parsed).part
    assert (part.extra, part.factor) == (3, 0.5)
    assert describe(part)["init_args"] == {"extra": 3, "scale": 0.5, "shift": 0.0}


@pytest.mark.parametrize("value", [None, True, 3, 0.99, "text", [1, "a", None], {"a": {"b": [1.5]}}, {}, [], (1, (2,))])
def test_plain_data_stays_what_it_is(value):
    assert describe(value) == value and type(describe(value)) is type(value)


def test_specs_of_a_config_stay_what_they_are():
    spec = {"class_path": "no_such_module.Optimizer", "init_args": {"lr": 0.1}}
    assert describe(spec) == spec


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.int64(3), np.bool_(True), np.float64(0.1), np.str_("a")])
def test_numpy_scalars_become_pythons(scalar):
    assert type(describe(scalar)) in (float, int, bool, str) and describe(scalar) == scalar
    assert type(describe({"a": [scalar]})["a"][0]) is not type(scalar)


@pytest.mark.parametrize(
    ("value", "class_path", "arguments"),
    [
        (Network, path("Network"), {}),
        (partial(Network, units=7), path("Network"), {"units": 7}),
        (partial(partial(Network, units=7), part=None), path("Network"), {"units": 7, "part": None}),
        (torch.optim.Adam, "torch.optim.Adam", {}),
        (partial(torch.optim.SGD, lr=0.25), "torch.optim.SGD", {"lr": 0.25}),
        (partial(torch.optim.lr_scheduler.StepLR, step_size=3), "torch.optim.lr_scheduler.StepLR", {"step_size": 3}),
        (nn.Linear, "torch.nn.Linear", {}),
    ],
)
def test_classes_and_partials_of_classes(value, class_path, arguments):
    spec = describe(value)
    assert spec == {"class_path": class_path, "init_args": arguments}
    made, kind = again(spec, object), value.func if isinstance(value, partial) else value
    assert (made.func, made.keywords) == (kind, arguments) if arguments else made is kind


def test_an_optimizer_as_the_command_line_hands_it_over():
    from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable

    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--optimizer", type=OptimizerCallable)
    parser.add_argument("--scheduler", type=LRSchedulerCallable)
    typed = ["--optimizer", "Adam", "--optimizer.lr", "0.3", "--scheduler", "StepLR", "--scheduler.step_size", "3"]
    made = parser.instantiate(parser.parse_args(typed))
    optimizer, scheduler = describe(made.optimizer), describe(made.scheduler)
    assert (optimizer["class_path"], optimizer["init_args"]["lr"]) == ("torch.optim.Adam", 0.3)
    assert (scheduler["class_path"], scheduler["init_args"]["step_size"]) == ("torch.optim.lr_scheduler.StepLR", 3)
    built = again(optimizer, torch.optim.Optimizer)([nn.Parameter(torch.ones(2))])
    assert type(built) is torch.optim.Adam and built.defaults["lr"] == 0.3
    assert again(scheduler, torch.optim.lr_scheduler.LRScheduler)(built).step_size == 3


def test_parts_of_parts():
    value = partial(Factory, make=partial(Network, part=Smaller(1.5)), kind=Renamed, part=Part(2.0), loose=Part(3.0))
    spec = describe(partial(value, table={"parts": [Part(4.0)], "n": 1}))
    assert spec["init_args"] == {
        "make": {
            "class_path": path("Network"),
            "init_args": {"part": {"class_path": path("Smaller"), "init_args": {"half": 1.5}}},
        },
        "kind": {"class_path": path("Renamed"), "init_args": {}},
        "part": {"class_path": path("Part"), "init_args": {"scale": 2.0}},
        "loose": {"class_path": path("Part"), "init_args": {"scale": 3.0}},
        "table": {"parts": [{"class_path": path("Part"), "init_args": {"scale": 4.0}}], "n": 1},
    }
    made = again(spec, nn.Module)(6)
    assert made.made.layer.out_features == 6 and (made.made.part.factor, made.made.part.offset) == (3.0, 9.0)
    assert made.kind is Renamed and (made.part.factor, made.loose.factor) == (2.0, 3.0)
    assert made.table["parts"][0].factor == 4.0 and made.table["n"] == 1


def function(*spaces):
    return Network(3)


def nameless():
    class Local(Network):
        pass

    local = Local(3)
    shadow = type("Part", (Recorded,), {"__module__": __name__})
    return [
        (lambda: 0, "a checkpoint cannot name the function <lambda>; pass a class, functools.partial of a class, or"),
        (function, "a checkpoint cannot name the function function; pass a class"),
        (partial(function, units=3), "a checkpoint cannot name the function function; pass a class"),
        (Local, r"a checkpoint cannot name the class nameless.<locals>.Local; define it at top level"),
        (local, r"a checkpoint cannot name the class nameless.<locals>.Local; define it at top level"),
        (shadow, f"there is no class Part in module {__name__}; define it there"),
        (
            NotRecorded(),
            "a checkpoint cannot name an object of class NotRecorded; .* whose class derives from Recorded",
        ),
        (nn.Linear(2, 2), "a checkpoint cannot name an object of class Linear"),
        (NotRecorded, "NotRecorded is not a class that derives from Recorded or Module or Optimizer or LRScheduler"),
        (partial(Counter, a=1), "Counter is not a class that derives from Recorded or"),
        (partial(Network, 3), r"functools.partial\(Network, ...\) must bind its arguments by keyword"),
        (torch.ones(2), "a checkpoint cannot name an object of class Tensor"),
        (np.arange(3), "a checkpoint cannot name an object of class ndarray"),
        (Colour.RED, "a checkpoint cannot name an object of class Colour"),
        ({Colour.RED: 1}, "a checkpoint cannot hold the key <Colour.RED: 1>; use a str"),
        (Positional(3, 4), "the constructor of Positional must take 'sizes' by keyword"),
    ]


@pytest.mark.parametrize(("value", "message"), nameless(), ids=lambda case: case if isinstance(case, str) else "")
def test_what_a_checkpoint_could_not_name_is_refused(value, message):
    with pytest.raises(ValueError, match=message) as refused:
        describe(value, "policy")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("policy: ") or isinstance(value, Positional)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Part(torch.ones(2)), "policy.scale: a checkpoint cannot name an object of class Tensor"),
        (partial(Network, units=lambda: 3), "policy.units: a checkpoint cannot name the function <lambda>"),
        (partial(Factory, part=Part(NotRecorded())), "policy.part.scale: a checkpoint cannot name an object of class"),
        (partial(Factory, table={"a": [0, {1, 2}]}), r"policy.table.a\[1\]: a checkpoint cannot name an object of"),
        (partial(Factory, loose=Part), "policy.loose: expected an object, not the class Part .*annotate it with Call"),
        (partial(Factory, make=Part()), "policy.make: expected a class or functools.partial of a class, not an object"),
        (partial(Factory, make=Part), "policy.make: Part is not a class that derives from Module"),
        (partial(Factory, part=Empty()), "policy.part: Empty is not a class that derives from Part"),
    ],
)
def test_the_argument_that_a_checkpoint_could_not_name_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        describe(value, "policy")


def built(class_path, kind=nn.Module, name="policy", **options):
    return build({"class_path": class_path, "init_args": {}}, kind, name=name, **options)


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module beside the checkpoint, which leaves a file behind when it is imported."""
    (tmp_path / "payload.py").write_text(
        "import pathlib\nfrom torch import nn\npathlib.Path(__file__).with_name('ran').touch()\n"
        "class Policy(nn.Module):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("payload", None)


def test_a_module_that_a_checkpoint_names_is_not_imported(payload):
    message = r"policy: the checkpoint names payload.Policy, and the module payload is not imported. .*policy=\.\.\.\)"
    with pytest.raises(ValueError, match=message):
        built("payload.Policy")
    nested = {"class_path": path("Factory"), "init_args": {"make": {"class_path": "payload.Policy"}}}
    with pytest.raises(ValueError, match=r"policy.make: the checkpoint names .*load_from_checkpoint\(path, policy="):
        build(nested, nn.Module, name="policy")
    listed = {"class_path": path("Factory"), "init_args": {"table": {"a": [{"class_path": "payload.Policy"}]}}}
    with pytest.raises(ValueError, match=r"policy.table: the checkpoint names payload.Policy"):
        build(listed, nn.Module, name="policy")
    assert not payload.exists() and "payload" not in sys.modules
    assert built("payload.Policy", trusted={"payload"}).__name__ == "Policy" and payload.exists()
    assert built("payload.Policy").__name__ == "Policy"  # By now somebody has imported it.


@pytest.mark.parametrize("module", ["payload", "torchpayload.nn", "pg_lightning_payload", "torch.__main__", "os2"])
def test_modules_of_similar_names_are_not_trusted(module):
    with pytest.raises(ValueError, match=f"module {module} is not imported"):
        check_trusted(module, f"{module}.Name", "env")


def test_modules_of_torch_and_this_package_are_imported(monkeypatch):
    for module in ("pg_lightning.another", "torch.another", "pytorch_lightning.another"):
        check_trusted(module, f"{module}.Name", "env")
    monkeypatch.delitem(sys.modules, "torch.nn.qat", raising=False)
    assert built("torch.nn.qat.Linear").__name__ == "Linear" and "torch.nn.qat" in sys.modules


@pytest.mark.parametrize(
    "class_path",
    [
        "subprocess.Popen",
        "os.system",
        "builtins.exec",
        "builtins.type",
        "torch.nn.init.constant_",
        "torch.Tensor",
        path("NotRecorded"),
        path("Part"),
        path("function"),
    ],
)
def test_what_is_of_another_kind_is_refused(class_path):
    with pytest.raises(ValueError, match=f"^policy: {class_path} is not a class that derives from Module$"):
        built(class_path)


def test_a_class_that_is_not_here_is_to_be_passed():
    """A policy of another script's __main__, for example."""
    message = r"^policy: there is no __main__.MyPolicy here; pass the object: load_from_checkpoint\(path, policy=...\)$"
    with pytest.raises(ValueError, match=message):
        built("__main__.MyPolicy")


def test_what_is_built_already_is_checked_too():
    made, bound = Part(2.0), partial(Network, units=3)
    assert build(made, Part, instance=True) is made and build(bound, nn.Module) is bound
    assert build(None, Part, instance=True) is None and build(Network, nn.Module) is Network
    with pytest.raises(ValueError, match=r"^returns: expected an object, not the class Part$"):
        build(Part, Part, name="returns", instance=True)
    with pytest.raises(ValueError, match=r"^returns: Empty is not a class that derives from Part$"):
        build(Empty(), Part, name="returns", instance=True)
    with pytest.raises(ValueError, match=r"^policy: Part is not a class that derives from Module$"):
        build(partial(Part, scale=2.0), nn.Module, name="policy")
    with pytest.raises(ValueError, match=r"^policy: a checkpoint cannot name the function <lambda>; "):
        build(lambda *spaces: None, nn.Module, name="policy")


def test_a_loose_kind_still_builds_nothing_foreign():
    with pytest.raises(ValueError, match=r"^policy: subprocess.Popen is not a class"):
        built("subprocess.Popen", object)


@pytest.mark.parametrize(
    "class_path", ["torch.os.system", "torch.nn.os.Path", "pg_lightning.hparams.sys.modules", "torch.nn.Linear.forward"]
)
def test_attributes_of_attributes_are_not_looked_up(class_path):
    with pytest.raises(ValueError, match=f"^policy: {class_path} cannot be imported: ModuleNotFoundError"):
        built(class_path)


@pytest.mark.parametrize("class_path", ["", "Linear", "torch.nn.", ".Linear", "torch.nn.Linear()", "a:b.C", "torch..C"])
def test_what_is_no_import_path(class_path):
    with pytest.raises(ValueError, match="is not the import path of a class"):
        built(class_path)


@pytest.mark.parametrize(
    ("argument", "class_path", "message"),
    [
        ("make", path("Part"), r"policy.make: .*Part is not a class that derives from Module"),
        ("kind", path("Empty"), r"policy.kind: .*Empty is not a class that derives from Part"),
        ("part", path("Empty"), r"policy.part: .*Empty is not a class that derives from Part"),
        ("loose", "subprocess.Popen", r"policy.loose: subprocess.Popen is not a class that derives from Recorded or"),
        ("unknown", "subprocess.Popen", r"policy.unknown: subprocess.Popen is not a class"),
    ],
)
def test_arguments_are_of_the_kind_that_the_constructor_declares(argument, class_path, message):
    spec = {"class_path": path("Factory"), "init_args": {argument: {"class_path": class_path, "init_args": {}}}}
    with pytest.raises(ValueError, match=message):
        build(spec, nn.Module, name="policy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 1.0}, "got an unexpected keyword argument 'factor'"),
        ([1.0], "init_args of .* must map names to values"),
        ({1: 1.0}, "init_args of .* must map names to values"),
    ],
)
def test_arguments_that_the_constructor_does_not_have(arguments, message):
    with pytest.raises(ValueError, match=message):
        build({"class_path": path("Part"), "init_args": arguments}, Part, name="returns", instance=True)


def test_specs_without_arguments_or_with_those_that_jsonargparse_did_not_find():
    assert build({"class_path": path("Part")}, Part, instance=True).factor == 1.0
    assert build({"class_path": path("Part"), "init_args": None}, Part, instance=True).factor == 1.0
    spec = {"class_path": path("Part"), "init_args": {"scale": 2.0}, "dict_kwargs": {"shift": 3.0}}
    made = build(spec, Part, instance=True)
    assert (made.factor, made.offset) == (2.0, 3.0)
    assert spec["init_args"] == {"scale": 2.0}


def test_a_class_of_several_kinds():
    assert build({"class_path": "torch.nn.Linear"}, (Part, nn.Module)) is nn.Linear
    with pytest.raises(ValueError, match="derives from Part or Optimizer"):
        build({"class_path": "torch.nn.Linear"}, (Part, torch.optim.Optimizer))


def test_the_specs_load_as_plain_data(tmp_path):
    spec = describe(partial(Factory, make=partial(Network, units=np.int64(3)), part=Part(np.float64(0.5))))
    torch.save({"hyper_parameters": spec}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"] == spec


def test_an_annotation_that_names_nothing_imported():
    class Vague(Part):
        def __init__(self, other: "NoSuchClass" = None) -> None:  # noqa: F821
            super().__init__()
            self.other = other

    sys.modules[__name__].Vague, Vague.__qualname__ = Vague, "Vague"
    try:
        spec = describe(Vague(Part(2.0)))
        assert build(spec, Part, instance=True).other.factor == 2.0
    finally:
        del sys.modules[__name__].Vague


def test_partials_of_methods_are_functions():
    with pytest.raises(ValueError, match="cannot name"):
        describe(functools.partial(nn.Module.eval))


class Own(nn.Module):
    """A policy of one's own, whose attribute has another name than its argument."""

    def __init__(self, observation_space, action_space, units: int = 3) -> None:
        super().__init__()
        size = observation_space.shape[0]
        self.width, self.body = units, nn.Sequential(nn.Linear(size, units), nn.Linear(units, int(action_space.n)))

    def forward(self, observations):
        return torch.distributions.Categorical(logits=self.body(observations))


def saved(agent, path):
    fitted = trainer()
    fitted.fit(agent, EpisodeDataModule("CartPole-v1", num_envs=2))
    fitted.save_checkpoint(path)


def test_an_agent_of_parts_of_ones_own_is_loaded_back(tmp_path):
    agent = plain("CartPole-v1", policy=partial(Own, units=np.int64(5)), optimizer=partial(torch.optim.SGD, lr=0.5))
    saved(agent, tmp_path / "a.ckpt")
    again = Reinforce.load_from_checkpoint(tmp_path / "a.ckpt")
    assert type(again.policy) is Own and again.policy.width == 5
    assert all(map(torch.equal, agent.policy.parameters(), again.policy.parameters()))
    assert again.configure_optimizers().defaults["lr"] == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy", lambda *spaces: Own(*spaces)),
        ("policy", partial(function, 3)),
        ("optimizer", lambda parameters: torch.optim.SGD(parameters, lr=1.0)),
        ("returns", NotRecorded()),
        ("returns", Part()),
    ],
)
def test_an_agent_whose_checkpoint_could_not_be_loaded_is_refused_at_construction(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "):
        plain("CartPole-v1", **{name: value})


def test_a_checkpoint_of_an_agent_imports_nothing(tmp_path, payload):
    saved(plain("CartPole-v1", policy=Own), tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["policy"] = {"class_path": "payload.Policy", "init_args": {}}
    torch.save(checkpoint, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"policy: the checkpoint names payload.Policy, .*\(path, policy=\.\.\.\)"):
        Reinforce.load_from_checkpoint(tmp_path / "b.ckpt")
    assert not payload.exists()
    assert type(Reinforce.load_from_checkpoint(tmp_path / "b.ckpt", policy=Own).policy) is Own
    assert not payload.exists()


class Habit(Reinforce):
    """A subclass as Lightning's users write one."""

    def __init__(self, env="CartPole-v1", limit: float = 3.0, *, label="x", **kwargs):
        super().__init__(env, **kwargs)
        self.save_hyperparameters()
        self.limit = limit


def test_a_subclass_with_the_habits_of_lightning_is_saved_and_loaded(tmp_path):
    agent = Habit("Acrobot-v1", limit=2.0, baseline=LeaveOneOut(), gamma=0.9)
    assert agent.hparams["limit"] == 2.0 and agent.hparams["label"] == "x"
    assert agent.hparams["env"]["id"] == "Acrobot-v1"  # The spec, not what was handed in.
    fitter = trainer(1)
    fitter.fit(agent, EpisodeDataModule(num_envs=2))
    fitter.save_checkpoint(path := tmp_path / "a.ckpt")
    loaded = Habit.load_from_checkpoint(path, map_location="cpu")
    assert (loaded.limit, loaded.gamma, loaded.env.id) == (2.0, 0.9, "Acrobot-v1")
    assert all(map(torch.equal, loaded.policy.parameters(), agent.policy.parameters()))
    with pytest.raises(ValueError, match="Reinforce does not take: 'limit', 'label'"):
        Reinforce.load_from_checkpoint(path)


class Settled(Reinforce):
    """A subclass that settles its parts itself."""

    def __init__(self, env="CartPole-v1", limit: float = 3.0):
        super().__init__(env, policy=Own, baseline=LeaveOneOut(), gamma=0.9)
        self.save_hyperparameters()
        self.limit = limit


def test_a_subclass_that_settles_its_parts_is_saved_and_loaded(tmp_path):
    agent = Settled(limit=2.0)
    saved(agent, path := tmp_path / "a.ckpt")
    loaded = Settled.load_from_checkpoint(path)
    assert (loaded.limit, loaded.gamma, type(loaded.policy)) == (2.0, 0.9, Own)
    assert all(map(torch.equal, loaded.policy.parameters(), agent.policy.parameters()))
    with pytest.raises(ValueError, match="Settled does not take: 'gamma'"):
        Settled.load_from_checkpoint(path, gamma=0.5)
    saved(plain("CartPole-v1", policy=Own, gamma=0.5), path)
    with pytest.raises(ValueError, match="has another direction, gamma than Settled settles"):
        Settled.load_from_checkpoint(path)


class SettledTwice(Reinforce):
    """A subclass that settles what its keyword arguments may bring, too."""

    def __init__(self, env="CartPole-v1", **kwargs):
        super().__init__(env, gamma=0.9, **kwargs)


def test_an_argument_that_comes_twice_is_one_line(tmp_path):
    saved(SettledTwice(policy=Own), path := tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt: SettledTwice: .* multiple values for keyword argument 'gamma'"):
        SettledTwice.load_from_checkpoint(path)


@pytest.mark.parametrize("value", [Path("x"), np.float64(1.0), {"a": [object()]}])
def test_a_hyper_parameter_that_no_checkpoint_can_hold_is_refused_before_training(value):
    agent = Reinforce("CartPole-v1")
    agent.save_hyperparameters({"mine": value})
    with pytest.raises(ValueError, match=r"the hyper-parameter mine\S* is a \w+, which a checkpoint cannot hold"):
        trainer(1).fit(agent, EpisodeDataModule(num_envs=2))
