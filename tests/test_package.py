"""Installed as people install things: every room and configuration ships, and the command works elsewhere."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import pg_lightning
from pg_lightning.cli import main
from pg_lightning.cli.configs import by_name, shipped

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_room_is_listed():
    rooms = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("pg_lightning/**/*.py")}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == {*rooms, "pg_lightning.configs"}


def test_the_version_is_that_of_the_project(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"{pg_lightning.__version__}\n"
    assert pg_lightning.__version__ == SETTINGS["project"]["version"]


def test_configurations_are_found_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert set(shipped()) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert by_name(["fit", "--config", "article"]) == ["fit", "--config", str(shipped()["article"])]
    assert by_name(["fit", "--config=article"]) == ["fit", f"--config={shipped()['article']}"]
    (tmp_path / "article").write_text("seed_everything: 3")  # A file of one's own wins.
    assert by_name(["fit", "--config", "article"]) == ["fit", "--config", "article"]
    assert by_name(["fit", "--config"]) == ["fit", "--config"]
    with pytest.raises(SystemExit) as ended:
        main(["configs"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(shipped())
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(tmp_path):
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(wheel, check=True)
    (built,) = tmp_path.glob("*.whl")
    names = ZipFile(built).namelist()
    assert {"pg_lightning/py.typed", "pg_lightning/configs/article.yaml"} <= set(names)
    assert not [name for name in names if name.startswith("tests")]
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, built], check=True)
    away = {**os.environ, "PYTHONPATH": str(site)}
    fit = ["fit", "--config", "article", "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"]
    for words in (["--version"], ["configs"], fit, ["test", "--ckpt_path", "last", "--data.eval_episodes", "2"]):
        for command in ([sys.executable, "-m", "pg_lightning"], [str(site / "bin" / "pg-lightning")]):
            done = subprocess.run([*command, *words], env=away, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0 and done.stdout, done
    imported = subprocess.run(
        [sys.executable, "-c", "import pg_lightning; print(pg_lightning.__file__)"],
        env=away,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert imported.stdout.startswith(str(site))
