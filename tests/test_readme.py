"""What the README shows in Python works as it stands there."""

import re
from pathlib import Path

from pg_lightning import Reinforce

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_python_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train, load = SNIPPETS
    assert len(train.strip().splitlines()) < 10
    names: dict = {}
    exec(train, names)
    assert "Solved after" in capsys.readouterr().out
    exec(load, names)
    assert names["action"].shape == () and names["action"] in (0, 1)
    trained, loaded = names["trainer"].lightning_module, names["agent"]
    assert isinstance(trained, Reinforce) and trained is not loaded
    for left, right in zip(trained.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert left.equal(right)


def test_each_config_is_named():
    text = (ROOT / "README.md").read_text()
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"configs/{path.name}" in text, path.name
