"""Generator of the random test: options, an environment, and in every second case a fault with what it must lead to."""

import json
import random
import signal
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz_envs import ACTIONS, FLOATS, LENGTHS, OBSERVATIONS, REWARDS

OK, ERROR, EITHER = "ok", "error", "either"

FLOODED = ["raise", "exit", "panic", "wrong shape", "wrong dtype", "no observation", "nan reward", "infinite reward"]
ENVIRONMENT = {
    **dict.fromkeys([*FLOODED, "init", "exit in init", "no space", "reset", "nan observation"], ERROR),
    **dict.fromkeys(["reward of two", "reward of text", "no reward"], ERROR),
    **dict.fromkeys(["huge reward", "changing actions", "other actions"], EITHER),
}
"""Faults of the environment."""

POLICIES = ["BatchNorm", "FunctionalDropout", "Noisy", "HiddenState", "NanWeights", "Plain", "Raising", "Unmakeable"]
POLICIES += ["no_policy", "Missing"]

OPTIONS: list[dict[str, str]] = [
    {"--optimizer.lr": ".inf"},
    {"--optimizer.lr": ".nan"},
    {"--optimizer.lr": "-0.1"},
    {"--optimizer.lr": "fast"},
    {"--optimizer": "LBFGS"},
    {"--optimizer": "SparseAdam"},
    {"--optimizer": "Adamm"},
    {"--optimizer": "torch.nn.Linear"},
    {"--lr_scheduler": "StepLR", "--lr_scheduler.step_size": "0"},
    {"--lr_scheduler": "StepLR"},
    {"--lr_scheduler": "CosineAnnealingLR", "--lr_scheduler.T_max": "0"},
    {"--lr_scheduler": "ReduceLROnPlateau", "--lr_scheduler.monitor": "nothing"},
    {"--model.gamma": "1.01"},
    {"--model.gamma": "nan"},
    {"--model.gamma": "[0.9]"},
    {"--model.gama": "0.9"},
    {"--model.chunk_size": "0"},
    {"--model.chunk_size": "many"},
    {"--model.entropy_coef": ".inf"},
    {"--model.entropy_coef": "much"},
    {"--model.policy.hidden_sizes": "[0]"},
    {"--model.policy.hidden_sizes": "[8, x]"},
    {"--model.policy.hidden_sizes": "8"},
    {"--model.policy.hidden_sizes": "[100000000000]"},
    {"--model.policy.dropout": "1.0"},
    {"--model.policy.activation": "gelu"},
    {"--model.policy": "torch.nn.Linear"},
    {"--model.baseline": "Nope"},
    {"--model.baseline": "pg_lightning.MLPPolicy"},
    {"--model.returns": "pg_lightning.GAE", "--model.returns.gae_lambda": "1.5"},
    {"--model.returns": "pg_lightning.GAE", "--model.baseline": "pg_lightning.NoBaseline"},
    {"--model.returns.truncation": "cut"},
    {"--model.direction": "pg_lightning.NaturalGradient", "--model.direction.max_kl": "0"},
    {"--model.direction": "pg_lightning.NaturalGradient", "--model.direction.cg_iterations": "-1"},
    {"--data.num_envs": "0"},
    {"--data.num_envs": "two"},
    {"--data.num_envs": "7", "--data.episodes_per_update": "3"},
    {"--data.backend": "native"},
    {"--data.backend": "envpool"},
    {"--data.backend": "threads"},
    {"--data.step_timeout": "0"},
    {"--data.eval_episodes": "0"},
    {"--env.id": "Fuzz-v7"},
    {"--env.id": "tests.fuzz_envs:Nope-v0"},
    {"--env.id": "tests.no_such_module:Fuzz-v0"},
    {"--env.id": ""},
    {"--env.id": "../../x"},
    {"--env.kwargs": '{"gravity": 9}'},
    {"--env.kwargs": "[1]"},
    {"--env.max_episode_steps": "0"},
    {"--env.max_episode_steps": "-3"},
    {"--env.wrappers": "[gymnasium.wrappers.Nope]"},
    {"--env.wrappers": "[builtins.dict]"},
    {"--env.wrappers": "3"},
    {"--stop.threshold": ".nan"},
    {"--stop.decay": "1"},
    {"--stop.min_episodes": "-1"},
    {"--stop.max_env_steps": "0"},
    {"--stop.statistic": "mean"},
    {"--stop.initial": "-.inf"},
    {"--lines.every_n_episodes": "-1"},
    {"--checkpoint.every_seconds": "-1"},
    {"--checkpoint.every_seconds": ".inf"},
    {"--seed_everything": "-1"},
    {"--seed_everything": "4294967296"},
    {"--trainer.max_steps": "0"},
    {"--trainer.max_steps": "-2"},
    {"--trainer.max_epochs": "0"},
    {"--trainer.precision": "16-mixed"},
    {"--trainer.precision": "bf16-true"},
    {"--trainer.precision": "12"},
    {"--trainer.accumulate_grad_batches": "2"},
    {"--trainer.gradient_clip_val": "-1"},
    {"--trainer.limit_train_batches": "0"},
    {"--trainer.limit_val_batches": "-1"},
    {"--trainer.val_check_interval": "0"},
    {"--trainer.logger": "NoLogger"},
    {"--trainer.callbacks": "EarlyStopping"},
    {"--trainer.callbacks": "EarlyStopping", "--trainer.callbacks.monitor": "nothing"},
    {"--trainer.callbacks": "ModelCheckpoint", "--trainer.callbacks.monitor": "nothing"},
    {"--trainer.strategy": "nope"},
    {"--trainer.devices": "0"},
    {"--trainer.accelerator": "abacus"},
    {"--trainer.zzz": "1"},
    {"--zzz": "1"},
    {"--config": "nope.yaml"},
    {"--ckpt_path": "missing.ckpt"},
    {"--ckpt_path": ""},
    {"--ckpt_path": "missing/"},
]
"""Options with values that must be refused."""

OPTIMIZERS: list[dict[str, str]] = [
    {},
    {},
    {"--optimizer.lr": "0.01"},
    {"--optimizer": "SGD", "--optimizer.lr": "1e-4"},
    {"--optimizer": "AdamW"},
    {"--optimizer": "RMSprop", "--optimizer.lr": "1e-4"},
]

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
FILES = {
    "truncated last": OK,  # previous.ckpt is there.
    "truncated both": ERROR,
    "text for last": OK,
    "no config": ERROR,
    "root is a file": ERROR,
    "read-only": ERROR,
    "second run": ERROR,
    "full disk": EITHER,
}
"""Faults of files."""


@dataclass
class Case:
    """One case: the options of a run, of the run that resumes it, and the fault in one of them."""

    seed: int
    options: dict[str, str]
    kind: str = "none"
    fault: str = ""
    wrong: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    expect: str = OK
    number: float = 0.0
    allowed: list[str] = field(default_factory=list)

    def words(self, **more: str) -> list[str]:
        """Return the words of the command line of the first run."""
        return words(self.options | ({} if self.resumed else self.wrong) | more)


def words(options: dict[str, str]) -> list[str]:
    """Return the words of a command line."""
    # A value that begins with a dash needs the equals sign: argparse takes it for an option.
    pairs = [[f"{name}={value}"] if value.startswith("-") else [name, value] for name, value in options.items()]
    return [word for pair in pairs for word in pair]


def generate(seed: int) -> Case:
    """Make the case of a seed."""
    chance = random.Random(seed)
    kind = chance.choice(["none"] * 5 + ["environment", "environment", "policy", "option", "option", "files", "signal"])
    env, limit = environment(chance, plain=kind in ("policy", "signal"))
    options = settings(chance, env, limit)
    updates = int(options["--trainer.max_steps"])
    case = Case(seed, options, kind, number=chance.random())
    if kind == "none" and chance.random() < 0.3:
        options |= stopping(chance)
    elif kind == "environment":
        case.fault = chance.choice([*ENVIRONMENT])
        case.resumed, case.expect = chance.random() < 0.4, ENVIRONMENT[case.fault]
        if case.fault == "nan observation" and env["observations"] not in FLOATS:
            env["observations"] = "vector"
            options["--env.kwargs"] = json.dumps(env)
        at = 0 if case.resumed else chance.randrange(updates)
        case.wrong = {"--env.kwargs": json.dumps(env | {"fault": case.fault, "at": at})}
    elif kind == "policy":
        case.fault, case.expect = chance.choice(POLICIES), ERROR
        # In batches of all timesteps BatchNorm and hidden states would act as they learn.
        options |= {"--data.num_envs": "2", "--data.episodes_per_update": "7"}
        case.wrong = {"--model.policy": f"tests.fuzz_envs.{case.fault}"}
        for name in [name for name in options if name.startswith("--model.policy")]:
            del options[name]
    elif kind == "option":
        case.wrong, case.resumed, case.expect = chance.choice(OPTIONS), chance.random() < 0.4, ERROR
        case.fault = " ".join(words(case.wrong))
        if any(name.startswith(("--ckpt_path", "--config")) for name in case.wrong):
            case.resumed = False
    elif kind == "files":
        case.fault = chance.choice([*FILES])
        case.expect = FILES[case.fault]
        case.resumed = case.fault not in ("root is a file", "full disk") or (
            case.fault == "full disk" and chance.random() < 0.5
        )
        if case.fault.endswith("last"):
            options |= {"--trainer.max_steps": str(max(2, updates)), "--checkpoint.every_seconds": "0"}
            case.allowed.append(r"last\.ckpt cannot be read .*going on from .*previous\.ckpt")
    elif kind == "signal":
        case.fault = chance.choice([*SIGNALS])
        options |= {"--trainer.max_steps": "1000000"}
    case.allowed += expected_warnings(options | case.wrong)
    return case


def environment(chance: random.Random, plain: bool) -> tuple[dict[str, Any], int | None]:
    """Choose the environment's arguments, and its limit."""
    env = {
        "observations": "vector" if plain else chance.choice([*OBSERVATIONS]),
        "actions": "discrete" if plain else chance.choice([*ACTIONS]),
        "lengths": "random" if plain else chance.choice(LENGTHS),
        "rewards": chance.choice(REWARDS),
        "truncate": chance.random() < 0.2,
    }
    endless = env["lengths"] == "endless"
    return env, chance.randint(1, 9) if endless or chance.random() < 0.2 else None


def settings(chance: random.Random, env: dict[str, Any], limit: int | None) -> dict[str, str]:
    """Choose good options."""
    num_envs = chance.choice([1, 1, 2, 3, 5])
    episodes = num_envs + chance.choice([0, 0, 1, num_envs])
    options = {
        "--env.id": "tests.fuzz_envs:Fuzz-v0",
        "--env.kwargs": json.dumps(env),
        "--data.num_envs": str(num_envs),
        "--data.episodes_per_update": "null" if episodes == num_envs else str(episodes),
        "--data.backend": chance.choice(["auto", "sync", "sync", "async"]),
        "--data.eval_episodes": "2",
        "--model.gamma": chance.choice(["0", "0.5", "0.99", "1"]),
        "--model.discount_states": chance.choice(["true", "false"]),
        "--model.chunk_size": chance.choice(["1", "3", "4096"]),
        "--trainer.max_steps": str(chance.randint(1, 5)),
        "--trainer.log_every_n_steps": chance.choice(["1", "1", "3"]),
        "--trainer.enable_progress_bar": chance.choice(["true", "false"]),
        "--trainer.accelerator": "cpu",
        "--checkpoint.every_seconds": chance.choice(["0", "0", "10"]),
        "--lines.every_n_episodes": chance.choice(["0", "1", "500"]),
        "--seed_everything": str(chance.randrange(100)),
    }
    if limit:
        options["--env.max_episode_steps"] = str(limit)
    some: dict[str, list[str]] = {
        "--model.policy.hidden_sizes": ["[]", "[8]", "[4, 3]"],
        "--model.policy.dropout": ["0.3", "0.6"],
        "--model.policy.activation": ["tanh"],
        "--model.policy.bias": ["true"],
        "--model.policy.init": ["orthogonal"],
        "--model.normalization": ["NoNormalization", "PerEpisode"],
        "--model.entropy_coef": ["0.01"],
        "--trainer.precision": ["64-true", "bf16-mixed"],
        "--trainer.gradient_clip_val": ["0.5"],
        "--trainer.logger": ["false", "TensorBoardLogger"],
        "--stop.decay": ["0", "0.5"],
        "--stop.initial": ["10"],
    }
    options |= {name: chance.choice(values) for name, values in some.items() if chance.random() < 0.25}
    baselines = ["NoBaseline", "MeanBaseline", "LinearBaseline", "Critic", "LeaveOneOut"]
    options["--model.baseline"] = baseline = chance.choice(baselines + ["TimestepBaseline"] * (episodes > 1))
    if baseline in ("LinearBaseline", "Critic") and chance.random() < 0.7:
        options["--model.returns"] = "GAE"
    options |= chance.choice(OPTIMIZERS)
    options |= chance.choice([{}, {}, {}, {"--lr_scheduler": "StepLR", "--lr_scheduler.step_size": "2"},
                              {"--lr_scheduler": "CosineAnnealingLR", "--lr_scheduler.T_max": "9"},
                              {"--lr_scheduler": "ReduceLROnPlateau", "--lr_scheduler.monitor": "episode_return"},
                              {"--model.lr_schedule": "Linear", "--model.lr_schedule.initial": "1.0"}])  # fmt: skip
    natural = chance.random() < 0.25 and "--optimizer" not in options and "--optimizer.lr" not in options
    options["--model.direction"] = "NaturalGradient" if natural else "Gradient"
    if chance.random() < 0.25:
        options |= {"--trainer.limit_val_batches": "1.0", "--trainer.val_check_interval": chance.choice(["1", "2"])}
    if chance.random() < 0.2:
        options["--trainer.limit_train_batches"] = chance.choice(["2", "3"])
    return options


def stopping(chance: random.Random) -> dict[str, str]:
    """Choose options that may end a run before its last update."""
    solved = {"--stop.threshold": chance.choice(["-1e9", "0", "1e9"]), "--stop.min_episodes": chance.choice(["0", "6"])}
    return chance.choice([solved, {"--stop.max_env_steps": str(chance.randint(1, 60))}])


def expected_warnings(options: dict[str, str]) -> list[str]:
    """List what good options may be warned of."""
    allowed = list[str]()
    if options["--data.num_envs"] == "1" and options["--data.episodes_per_update"] == "null":
        allowed.append("LeaveOneOut compares the episodes of an update, but there is only 1")
    if options.get("--model.direction") == "NaturalGradient":
        allowed.append("NaturalGradient sets the length of the step by max_kl, which does not hold")
    if int(options["--trainer.log_every_n_steps"]) > int(options.get("--trainer.limit_train_batches", 1000)):
        allowed.append("is smaller than the logging interval")
    return allowed
