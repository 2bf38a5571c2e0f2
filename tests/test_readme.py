"""What README and the pages in docs/ show works as it stands there: Python, files, command lines and scripts."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from pg_lightning import Reinforce
from pg_lightning.cli import main
from pg_lightning.cli.compare import parse, seeds_of, variants_of
from pg_lightning.cli.jobs import parsed_config
from pg_lightning.cli.tune import read_space

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


@dataclass
class Page:
    """A Markdown file and its blocks of code."""

    path: Path

    def __post_init__(self):
        self.name, self.text = str(self.path.relative_to(ROOT)), self.path.read_text()
        self.blocks = BLOCK.findall(self.text)
        python = self.of("python")
        self.files = {block.splitlines()[0][2:]: block for block in python if re.match(r"# \w+\.py\n", block)}
        self.snippets = [block for block in python if block not in self.files.values()]
        self.commands = [
            shlex.join(shlex.split(line, comments=True))
            for block in self.of("sh")
            for line in block.replace("\\\n", " ").splitlines()
            if line.partition("#")[0].strip()
        ]

    def of(self, language):
        return [block for name, block in self.blocks if name == language]

    def train(self):
        """Return what stands behind ``train.py`` of every command that no page before this one has."""
        before = {c for page in PAGES.values() if page.name < self.name for c in page.commands}
        return [c.partition("train.py ")[2] for c in self.commands if "train.py " in c and c not in before]


PAGES = {page.name: page for page in map(Page, [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])}
MEASURES = {c.partition("python -m ")[2] for p in PAGES.values() for c in p.commands if "python -m tests." in c}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def those_with(has):
    return pytest.mark.parametrize("page", [page for page in PAGES.values() if has(page)], ids=lambda page: page.name)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the files that a page shows, where its commands find them and the configs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    files = {name: text for page in PAGES.values() for name, text in page.files.items()}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)
    gym.registry.pop("Drift-v0", None)


@those_with(lambda page: page.blocks)
def test_every_block_is_of_a_kind_that_is_checked(page):
    """Python, files and commands are run; settings are read; scripts are read by bash; the rest are diagrams."""
    assert {language for language, _ in page.blocks} <= {"python", "sh", "bash", "yaml", "text"}
    for command in page.commands:
        assert re.search(r"train\.py |python3? -m (tests\.|venv)|pip install |^\. \.venv|^mkdocs|^\.ci/", command), (
            command
        )
    for block in page.of("yaml"):
        assert yaml.safe_load(block)


@those_with(lambda page: page.snippets)
def test_the_python_of_a_page(page, capsys):
    names: dict = {}
    for snippet in page.snippets:
        exec(compile(snippet, page.name, "exec"), names)
    assert isinstance(names["agent"] if "agent" in names else names["trainer"].lightning_module, Reinforce)
    printed = capsys.readouterr().out
    if page.name in ("README.md", "docs/index.md"):
        assert "Solved and confirmed after" in printed
        assert names["action"].shape == () and names["action"] in (0, 1)
    if page.name == "docs/howto/environment.md":
        assert names["agent"].env.make().unwrapped.wind == 0.2


def test_a_policy_of_ones_own_takes_at_most_12_lines():
    lines = PAGES["docs/howto/policy.md"].files["my_policy.py"].splitlines()[1:]
    assert len([line for line in lines if line.strip()]) <= 12


def test_the_readme_is_one_screen():
    readme = PAGES["README.md"]
    assert len(readme.text.splitlines()) < 100
    (python,) = readme.of("python")
    assert len([line for line in python.splitlines() if line.strip()]) <= 10


@those_with(Page.train)
def test_the_commands_of_a_page(page, capsys, monkeypatch):
    """Each runs one update, in their order, so that there is a run to go on with; large ones are only parsed."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    quiet = ["--trainer.enable_progress_bar", "false"]
    if any("--ckpt_path" in command for command in page.train()):
        main(["fit", *quiet, "--trainer.max_steps", "1"])
    compared = False
    for update, command in enumerate(page.train(), start=2):
        arguments = shlex.split(command)
        kind = arguments[0]
        if kind in ("configs", "runs") or "--help" in arguments:
            assert ends_well(arguments), command
        elif {"ddp", "gpu"} & {*arguments} or kind == "export":  # The Python of the same page exports.
            assert ends_well([*arguments, "--print_config"]), command
        elif kind == "compare" and (compared or page.name != "docs/howto/compare.md"):
            assert_can_compare(arguments[1:])
        elif kind in ("compare", "tune"):
            compared = True
            small = ["--seeds", "1", "--eval_episodes", "2", "--workers", "1", "--trainer.max_steps", "1"]
            assert ends_well([*arguments, *small, *["--trials", "1"] * (kind == "tune")]), command
        elif kind == "fit":
            last = update if "--ckpt_path" in arguments else 1
            main([*arguments, *quiet, "--trainer.max_steps", str(last)])
            assert "Ended: max_steps. Run folder: runs/" in capsys.readouterr().out, command
        else:
            few = ["--data.eval_episodes", "2"]
            few += ["--episodes", "1"] * (kind == "watch") + ["--video", "1"] * ("--video" in arguments)
            main([*arguments, *quiet, *few])
            expected = "episodes" if kind == "predict" else "95 % interval"
            assert expected in capsys.readouterr().out, command


def ends_well(arguments):
    """Run a command that ends the process itself; return whether it says that it went well."""
    try:
        main(arguments)
    except SystemExit as ended:
        return not ended.code
    return True


def assert_can_compare(arguments):
    """Read the command line of a comparison, and the configuration of each of its runs."""
    configs, options, fit = parse(arguments)
    assert seeds_of(options.seeds)
    # Tests do without Box2D: its import crashes where warnings are errors.
    if any("lunar_lander" in str(config) for config in configs):
        fit = [*fit, "--env.id", "CartPole-v1"]
    for words in variants_of(configs, options.vary, fit).values():
        assert parsed_config(words)


@those_with(lambda page: page.of("bash"))
def test_the_scripts_of_a_page(page):
    """Bash can read them, and ``fit`` the options of the training that they start."""
    for block in page.of("bash"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        (command,) = re.findall(r"^srun python train\.py (.*)$", block.replace("\\\n", " "), flags=re.MULTILINE)
        command = command.replace('"$SLURM_ARRAY_TASK_ID"', "3").replace("$SLURM_ARRAY_TASK_ID", "3")
        assert ends_well([*shlex.split(command), "--print_config"]), command


def test_a_space_to_search_can_be_read(folder):
    (block,) = PAGES["docs/howto/tune.md"].of("yaml")
    (folder / "space.yaml").write_text(block)
    assert len(read_space(folder / "space.yaml")) == 3


def test_the_extras_that_are_installed_exist():
    named = re.findall(r"pip install [^\n`]*-e '\.\[([\w,]+)\]'", "\n".join(page.text for page in PAGES.values()))
    assert len(named) > 5
    assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)


def options_of(text):
    """Every option in a text, without its value: ``--model.baseline.lr``."""
    return {option.rstrip(".") for option in re.findall(r"--[a-z][\w.]*", text)}


def flat(config, prefix="--"):
    """Name every option of a configuration, options of its classes directly behind theirs."""
    for key, value in config.items():
        name = prefix if key == "init_args" else f"{prefix}{key}."
        yield name.rstrip(".")
        if isinstance(value, dict):
            yield from flat(value, name)


def test_every_option_that_a_page_names_exists(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--print_config"])
    known = set(flat(yaml.safe_load(capsys.readouterr().out)))
    # Options of a class that is chosen, or of another option.
    inside = {"--optimizer.lr", "--trainer.callbacks.every_n_updates", "--model.baseline.help", "--model.policy.head"}
    inside |= {"--model.returns.gae_lambda", "--model.returns.truncation", "--model.returns.returns"}
    inside |= {"--model.policy.units", "--model.lr_schedule.initial", "--lr_scheduler.step_size"}
    named = set()
    for page in PAGES.values():
        named |= {option for option in options_of(BLOCK.sub("", page.text)) if "." in option} - inside
    assert len(named) > 20
    assert named <= known, named - known


def test_every_class_that_the_options_name_exists():
    import pg_lightning
    from pg_lightning import policies

    parts = "".join(line for line in PAGES["docs/options.md"].text.splitlines() if line.startswith("| `--model."))
    names = re.findall(r"`([A-Z]\w+)`", parts)
    assert len(names) > 15
    for name in names:
        assert hasattr(pg_lightning, name) or hasattr(policies, name), name


@pytest.mark.parametrize("command", sorted(MEASURES))
def test_the_benchmarks_take_their_options(command):
    """Options with a dot, and a configuration, are handed on to ``train.py fit``."""
    module = importlib.util.find_spec(command.split()[0])
    assert module is not None and module.origin is not None
    source = Path(module.origin).read_text()
    for option in options_of(command):
        assert "." in option or option == "--config" or f'"{option}"' in source, option


def test_each_config_is_named():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert any(path.name in page.text for page in PAGES.values()), path.name
