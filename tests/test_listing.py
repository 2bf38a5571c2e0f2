"""``runs``: what is listed, and that nothing is deleted but what was listed and is not running."""

import json
import os
import pty
import time
from pathlib import Path

import pytest

from pg_lightning.cli import main
from pg_lightning.cli.listing import Run, delete, read_run, run_folders
from pg_lightning.cli.runs import RunFolder
from tests.runs import FEW, RUN, content, error, folder  # noqa: F401

OTHER = Path("runs/Acrobot-v1/first/version_3")


def make(path, days=0.0, **summary):
    """A run's folder with the files that tell what it is."""
    (path / "checkpoints").mkdir(parents=True)
    told = {"env_id": path.parts[1], "seed": 7, "reason": "max_steps", "episodes": 1200, "running_reward": 20.25}
    (path / "config.yaml").write_text("seed_everything: 7\n")
    (path / "summary.json").write_text(json.dumps(told | summary))
    (path / "checkpoints/last.ckpt").write_bytes(bytes(1_500_000))
    os.link(path / "checkpoints/last.ckpt", path / "checkpoints/best.ckpt")
    for file in path.rglob("*"):
        os.utime(file, (time.time() - 86_400 * days,) * 2)
    return path


def runs(*words):
    with pytest.raises(SystemExit) as ended:
        main(["runs", *words])
    return ended.value.code


def test_a_real_run_is_listed(capsys):
    main(["fit", *FEW, "--trainer.max_steps", "2", "--seed_everything", "3"])
    capsys.readouterr()
    assert runs() == 0
    summary = json.loads((RUN / "summary.json").read_text())
    fields = capsys.readouterr().out.splitlines()[1].split("  ")
    fields = [field.strip() for field in fields if field]
    assert fields[:4] == [str(RUN), "CartPole-v1", "3", "ended"]
    assert fields[4] == f"running reward {summary['running_reward']:.1f} after {summary['episodes']} episodes"


def test_the_table_says_what_became_of_each_run(capsys):
    make(RUN, days=2, reason=None)
    make(OTHER, days=1, first_solved={"episodes": 640}, reason="solved")
    writing = RunFolder(make(RUN.with_name("version_1"), reason=None))
    Path("runs/CartPole-v1/version_2").mkdir()
    Path("runs/CartPole-v1/version_2/.lock").write_text("12345")  # Killed before its first checkpoint.
    Path("runs/errors").mkdir()
    runs()
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in capsys.readouterr().out.splitlines()]
    writing.release()
    date = time.strftime("%Y-%m-%d", time.localtime(time.time() - 2 * 86_400))
    assert rows[1][:6] == [
        str(RUN), "CartPole-v1", "7", "interrupted", "running reward 20.2 after 1,200 episodes", "1.5 MB"
    ]  # fmt: skip
    assert rows[1][6].startswith(date)
    assert rows[2][:5] == [str(OTHER), "Acrobot-v1", "7", "ended", "solved after 640 episodes"]
    assert {(row[0], row[3]) for row in rows[3:]} == {
        ("runs/CartPole-v1/version_1", "running"),
        ("runs/CartPole-v1/version_2", "interrupted"),
    }
    runs("runs", "--state", "ended", "--older_than", "0.5")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [str(OTHER)]


def test_what_is_listed_is_deleted_and_nothing_else(capsys):
    make(RUN, reason=None), make(OTHER)
    writing = RunFolder(make(RUN.with_name("version_1"), reason=None))
    Path("runs/notes.txt").write_text("keep")
    kept = {path for path in content("runs") if OTHER not in path.parents}
    assert runs("--state", "ended", "--prune", "--yes") == 0
    assert set(content("runs")) == kept and not Path("runs/Acrobot-v1").exists()
    assert runs("--prune", "--yes") == 0
    writing.release()
    assert "Deleted 1 runs (1.5 MB)" in capsys.readouterr().out
    assert not RUN.exists() and RUN.with_name("version_1").exists() and Path("runs/notes.txt").exists()


def test_links_are_not_followed(folder):  # noqa: F811
    outside = make(folder / "elsewhere/version_0")
    make(RUN)
    (RUN / "videos").symlink_to(outside)
    Path("runs/CartPole-v1/version_5").symlink_to(outside)
    Path("runs/linked").symlink_to(folder / "elsewhere")
    before = content("elsewhere")
    assert [str(path) for path in run_folders(Path("runs"))] == [str(RUN)]
    assert runs("--prune", "--yes") == 0
    assert content("elsewhere") == before and not RUN.exists()
    through = Path("runs/linked/version_0")
    assert not delete(Run(through, "", "", "ended", "", 0, read_run(through).changed), Path("runs"))
    assert content("elsewhere") == before


def test_a_folder_that_is_no_run_is_left(folder):  # noqa: F811
    make(Path("runs/CartPole-v1/results"))
    Path("version_0").mkdir()
    Path("version_0/config.yaml").write_text("")  # Lightning's own has no summary.json.
    assert runs(".", "--prune", "--yes") == 0
    assert Path("runs/CartPole-v1/results/summary.json").exists() and Path("version_0").exists()


def test_a_run_that_was_written_after_it_was_listed_is_left(capsys):
    run = read_run(make(RUN, days=1))
    (RUN / "summary.json").write_text("{}")
    assert not delete(run, Path("runs"))
    assert RUN.exists() and not (RUN / ".lock").exists()
    assert capsys.readouterr().err == f"{RUN} is left as it is: it was written meanwhile\n"


@pytest.mark.parametrize(("typed", "gone"), [("y\n", True), ("n\n", False), ("\n", False), ("\x04", False)])
def test_it_asks_at_a_terminal(typed, gone):
    make(RUN)
    pid, terminal = pty.fork()
    if pid == 0:
        import sys

        sys.stdin = os.fdopen(0)
        try:
            runs("--prune")
        finally:
            os._exit(0)
    os.write(terminal, typed.encode())
    os.waitpid(pid, 0)
    os.close(terminal)
    assert RUN.exists() is not gone


def test_without_a_terminal_it_refuses_in_one_line(monkeypatch):
    make(RUN)
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert "there is no terminal: --yes answers for you" in error("runs", "--prune")
    assert RUN.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "runs: there is no folder 'nowhere'"),
        (["--state", "lost"], "runs: argument --state: invalid choice: 'lost'"),
        (["--older_than", "nan"], "--older_than must be at least 0 days, not nan"),
        (["--delete"], "runs: there is no option --delete; see --help"),
    ],
)
def test_bad_input(words, message):
    Path("runs").mkdir()
    assert message in error("runs", *words)
