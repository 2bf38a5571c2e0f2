"""What the README shows works as it stands there: its Python, its files and its command lines."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from pg_lightning import Reinforce
from pg_lightning.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
FILES = {block.splitlines()[0][2:]: block for block in PYTHON if re.match(r"# \w+\.py\n", block)}
SNIPPETS = [block for block in PYTHON if block not in FILES.values()]
COMMANDS = [
    shlex.join(shlex.split(line, comments=True))
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
TRAIN = [command.partition("train.py ")[2] for command in COMMANDS if "train.py " in command]
BENCHMARKS = [command.partition("python -m ")[2] for command in COMMANDS if "python -m tests." in command]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the files that the README shows, where its commands find them and the configs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)
    gym.registry.pop("Drift-v0", None)


def test_the_python_of_the_readme(capsys):
    train, load, own_env = SNIPPETS
    names: dict = {}
    exec(train, names)
    assert "Solved and confirmed after" in capsys.readouterr().out
    trained = names["agent"]
    exec(load, names)
    assert names["action"].shape == () and names["action"] in (0, 1)
    loaded = names["agent"]
    assert isinstance(trained, Reinforce) and trained is not loaded
    for left, right in zip(trained.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert left.equal(right)
    exec(own_env, names)
    assert names["agent"].env.make().unwrapped.wind == 0.2


def test_a_policy_of_ones_own_takes_at_most_12_lines():
    assert len([line for line in FILES["my_policy.py"].splitlines()[1:] if line.strip()]) <= 12


def test_the_commands_of_the_readme(folder, capsys, monkeypatch):
    """Each runs one update, in their order, so that there is a run to go on with; two processes are only parsed."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    quiet = ["--trainer.enable_progress_bar", "false"]
    assert len(TRAIN) > 10
    for update, command in enumerate(TRAIN, start=1):
        arguments = shlex.split(command)
        if "--help" in arguments or "ddp" in arguments:
            arguments += [] if "--help" in arguments else ["--print_config"]
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert not ended.value.code, command
        elif arguments[0] == "fit":
            last = update if "--ckpt_path" in arguments else 1
            main([*arguments, *quiet, "--trainer.max_steps", str(last)])
            assert "Ended: max_steps. Run folder: runs/" in capsys.readouterr().out, command
        elif arguments[0] in ("compare", "tune"):
            small = ["--seeds", "1", "--eval_episodes", "2", "--workers", "1", "--trainer.max_steps", "1"]
            with pytest.raises(SystemExit) as ended:
                main([*arguments, *small, *["--trials", "1"] * (arguments[0] == "tune")])
            assert ended.value.code == 0, command
        else:
            main([*arguments, *quiet, *["--data.eval_episodes", "2"], *["--episodes", "1"] * (arguments[0] == "watch")])
            expected = "Exported to runs/" if arguments[0] == "export" else "95 % interval"
            assert expected in capsys.readouterr().out, command


def options_of(text):
    """Every option in a text, without its value: ``--model.baseline.lr``."""
    return {option.rstrip(".") for option in re.findall(r"--[a-z][\w.]*", text)}


def test_every_option_that_the_readme_names_exists(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    known = options_of(capsys.readouterr().out)
    inside = {
        "--model.baseline.lr",
        "--optimizer.lr",
        "--trainer.callbacks.every_n_updates",
    }  # Options of a class that is chosen.
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = {option for option in options_of(text) if "." in option} - inside
    assert len(named) > 20
    assert named <= known | {"--model.baseline.help", "--model.policy.head", "--model.policy.my_policy"}, named - known


def test_every_class_that_the_readme_names_exists():
    import pg_lightning
    from pg_lightning import policies

    parts = "".join(line for line in README.splitlines() if line.startswith("| `--model."))
    names = re.findall(r"`([A-Z]\w+)`", parts)
    assert len(names) > 15
    for name in names:
        assert hasattr(pg_lightning, name) or hasattr(policies, name), name


@pytest.mark.parametrize("command", BENCHMARKS)
def test_the_benchmarks_of_the_readme_take_their_options(command):
    """Options with a dot are handed on to ``train.py fit``."""
    module = importlib.util.find_spec(command.split()[0])
    assert module is not None and module.origin is not None
    source = Path(module.origin).read_text()
    for option in options_of(command):
        assert "." in option or f'"{option}"' in source, option


def test_each_config_is_named():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.name in README, path.name
