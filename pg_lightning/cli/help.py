"""What ``--help`` prints: the options that a beginner needs, in groups, with the defaults that the parser has."""

import argparse
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pg_lightning.cli.resume import flatten
from pg_lightning.sampling.dataset import UPDATES_PER_EPOCH

WIDTH, INDENT = 100, 40
"""Columns of a line, and where its text begins."""

Row = tuple[str, str, str]
"""Option, placeholder of its value, text."""

DESCRIPTIONS = {
    "fit": f"""\
Train. One update is one optimizer step, from complete episodes of the policy as it is. An epoch is
{UPDATES_PER_EPOCH:,} updates; --trainer.max_steps counts updates, --stop.max_env_steps env steps.""",
    "validate": "Play episodes with a trained policy, sampled and greedily, and print a table.",
    "test": "Play episodes with a trained policy, sampled and greedily; print a table and write evaluation.json.",
    "predict": "Play episodes with a trained policy, and write them to a file.",
    "watch": "Play episodes with a trained policy in a window.",
    "export": "Write a trained policy to one file that needs no pg_lightning: observations in, actions out.",
    "compare": "Train configurations with many seeds each; a table and figures.",
    "tune": "Search for good options with Optuna.",
    "configs": "List the configurations that --config takes by name.",
    "runs": "List the runs, and delete those that are not needed any more.",
}
"""Commands, and what they do."""

EXAMPLES = {
    "fit": {
        "--config cartpole": "`configs` lists what comes along",
        "--env.id Acrobot-v1 --name first": "by the default recipe",
        "--model.baseline LeaveOneOut --model.direction Gradient --optimizer.lr 0.01": "",
        "--ckpt_path last --trainer.max_steps 2000": "go on with the newest run",
    },
    "validate": {"--ckpt_path last": "the newest run"},
    "test": {"--ckpt_path best --video 3": "and three episodes as mp4"},
    "predict": {"--ckpt_path last --data.eval_episodes 20": "the newest run"},
    "watch": {"--ckpt_path last --env.id CartPole-v1": "the newest run of this environment"},
    "export": {"--ckpt_path last --output agent.onnx": "the newest run"},
}
"""Options to begin with."""

CONFIG: Row = ("config", "NAME_OR_FILE", "YAML file of options, or the name of one that comes along")
ROOT_DIR: Row = ("trainer.default_root_dir", "FOLDER", "folder of all runs")
SEED: Row = ("seed_everything", "N", "seed of weights, environments and actions")
ENV: tuple[Row, ...] = (
    ("env.id", "ID", "Gymnasium id, or module:Env-v0"),
    ("env.kwargs", "MAPPING", "arguments of the environment: '{map_name: 8x8}'"),
)

FIT: dict[str, tuple[Row, ...]] = {
    "Run": (
        CONFIG,
        ("name", "NAME", "of the experiment: the run's folder is <root>/<environment>/NAME/version_N"),
        SEED,
        ("ckpt_path", "CHECKPOINT", "resume: a file, a run folder, last, best, or auto (that of this command, if any)"),
        ROOT_DIR,
    ),
    "Environment": (
        *ENV,
        ("env.max_episode_steps", "N", "time limit of an episode; the environment's own where none is given"),
        ("env.wrappers", "[CLASS,...]", "wrappers of each environment, innermost first"),
        ("data.num_envs", "N", "environments that step together"),
        ("data.episodes_per_update", "N", "complete episodes of an update; one per environment by default"),
        ("data.backend", "NAME", "how they step: sync, async (processes), native, envpool, or auto"),
    ),
    "End": (
        ("trainer.max_steps", "N", "updates"),
        ("stop.max_env_steps", "N", "env steps; no limit by default"),
        ("trainer.max_time", "DD:HH:MM:SS", "wall-clock time; no limit by default"),
        ("stop.threshold", "RETURN", "running reward that solves it; by default the environment's own"),
        ("stop.confirm_episodes", "N", "fresh episodes that confirm it; 0 for none"),
    ),
    "Agent": (
        ("model.policy", "CLASS", "MLPPolicy, CNNPolicy, or your own my_module.MyPolicy"),
        ("model.policy.hidden_sizes", "[N,...]", "units of each hidden layer"),
        ("model.policy.dropout", "P", "probability of dropout"),
        ("model.baseline", "CLASS", "Critic, LeaveOneOut, TimestepBaseline, MeanBaseline, NoBaseline, ..."),
        ("model.returns", "CLASS", "GAE with a Critic, else MonteCarlo, unless it is given"),
        ("model.normalization", "CLASS", "of the advantages: PerBatch, PerEpisode, NoNormalization"),
        ("model.direction", "CLASS", "NaturalGradient, or Gradient for the plain one"),
        ("model.direction.max_kl", "KL", "step of the natural gradient: Kullback-Leibler divergence per update"),
        ("optimizer", "CLASS", "of torch; by default SGD for NaturalGradient, Adam for Gradient"),
        ("optimizer.lr", "LR", "learning rate; by default 1 for NaturalGradient, 0.02 for Gradient"),
        ("lr_scheduler", "CLASS", "of torch, stepped after every update"),
        ("model.gamma", "GAMMA", "discount factor per timestep"),
        ("model.entropy_coef", "C", "entropy bonus"),
    ),
    "Output": (
        ("data.eval_episodes", "N", "episodes that validate, test and predict play"),
        ("lines.every_n_episodes", "N", "episodes between two lines; 0 for none"),
        ("checkpoint.every_seconds", "S", "seconds between two checkpoints"),
        ("trainer.logger", "CLASS", "CSVLogger, TensorBoardLogger, WandbLogger, MLFlowLogger or false"),
        (
            "trainer.enable_progress_bar",
            "false",
            "no progress: a bar on a terminal, a line every few seconds elsewhere",
        ),
    ),
}
"""Options of ``fit`` in groups."""

OWN: dict[str, tuple[Row, ...]] = {
    "validate": (),
    "test": (("video", "N", "episodes to record as mp4, greedily"),),
    "predict": (("format", "FORMAT", "npz, or minari for a data set"),),
    "watch": (("episodes", "N", "episodes to play"), ("greedy", "false", "sample the actions")),
    "export": (
        ("format", "FORMAT", "onnx, or torch_export for torch.export.load"),
        ("output", "FILE", "by default agent.onnx or agent.pt2 in the run folder"),
    ),
}
"""Options that a command has beside those of all."""

EVALUATED: tuple[Row, ...] = (
    ("data.eval_episodes", "N", "episodes to play"),
    ("data.num_envs", "N", "environments that step together"),
)


def program() -> str:
    """Return how this command line was started, for commands that are printed."""
    started = Path(sys.argv[0])
    if started.name == "pg-lightning":
        return "pg-lightning"
    module = started.name == "__main__.py" and started.parent.name == "pg_lightning"
    return "python -m pg_lightning" if module else "python train.py"


def command_parser(usage: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of a command that is not one of Lightning's; its errors can be caught.

    Args:
        usage: the command and its options.
        description: text; ``{program}`` in it is how this command line was started.
    """
    return argparse.ArgumentParser(
        usage=f"{program()} {usage}",
        description=description.replace("{program}", program()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )


def overview() -> str:
    """Return the help of the command line as a whole: its commands."""
    width = max(map(len, DESCRIPTIONS))
    lines = [f"  {name.ljust(width)}  {text.partition('. ')[0].rstrip('.')}" for name, text in DESCRIPTIONS.items()]
    usage = f"usage: {program()} COMMAND [--OPTION VALUE ...]"
    return "\n".join([usage, "", *lines, "", "Each has a --help of its own; --version prints the version."])


def short_help(command: str, defaults: Mapping[str, Any]) -> str:
    """Return the help of a command: what it does, examples, and the options to begin with.

    Args:
        command: one of Lightning's.
        defaults: of all options.
    """
    start, flat = f"{program()} {command}", flatten(defaults)
    lines = [f"usage: {start} [--OPTION VALUE ...]", "", DESCRIPTIONS[command], ""]
    lines += [f"  {start} {words}" + f"  # {text}" * bool(text) for words, text in EXAMPLES[command].items()]
    for title, rows in groups(command).items():
        lines += ["", f"{title}:", *(line_of(row, flat) for row in rows)]
    lines += ["", "More:", line_of(("help-all", "", "every option, with Lightning's Trainer"), {})]
    if command == "fit":
        lines += [
            line_of(
                ("model.baseline.help", "Critic", "the options of one class, here --model.baseline.lr and others"), {}
            ),
            line_of(("print_config", "", "all settings as YAML, for --config"), {}),
        ]
    return "\n".join(lines)


def groups(command: str) -> dict[str, tuple[Row, ...]]:
    """Return the options that the help of a command names, in groups."""
    if command == "fit":
        return FIT
    named = "consider the runs of this experiment only, for last and best"
    common: tuple[Row, ...] = (
        ("ckpt_path", "CHECKPOINT", "a file, a run folder, last or best"),
        ("name", "NAME", named),
        ("untrained", "true", "an untrained policy, instead of a checkpoint"),
        *OWN[command],
        *(EVALUATED if command in ("validate", "test", "predict") else ()),
        *ENV,
        SEED,
        CONFIG,
        ROOT_DIR,
    )
    return {"Options": common}


def line_of(row: Row, defaults: Mapping[str, Any]) -> str:
    """Format an option, its placeholder, what it means and its default, given the defaults by option."""
    option, placeholder, text = row
    group, _, last = option.rpartition(".")
    names = (option, f"{option}.class_path", f"{group}.init_args.{last}")
    value = next((defaults[name] for name in names if defaults.get(name) is not None), None)
    if isinstance(value, str):
        value = value.rpartition(".")[2]
    default = "" if value is None or isinstance(value, bool) else f" (default {value})"
    named = f"  --{option} {placeholder}".ljust(INDENT)
    return textwrap.fill(f"{named}{text}{default}", WIDTH, subsequent_indent=" " * INDENT, break_on_hyphens=False)
