"""``docs/cartpole.ipynb``: valid, short, and its code runs from top to bottom."""

import ast
import json
import logging

import numpy as np
import pytest

from tests.helpers import ROOT

FILE = ROOT / "docs/cartpole.ipynb"
NOTEBOOK = json.loads(FILE.read_text())
CODE = {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}


def test_it_is_a_notebook():
    """What nbformat 4.5 demands of a file."""
    assert NOTEBOOK["nbformat"] == 4 and NOTEBOOK["nbformat_minor"] >= 5
    assert NOTEBOOK["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | code
        assert cell["cell_type"] in ("code", "markdown")
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_its_outputs_are_committed_and_small():
    """GitHub and the site show them; what a run wrote to standard error is left out."""
    outputs = {cell["id"]: cell["outputs"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}
    assert {name for name, shown in outputs.items() if shown} == {"train", "plot", "watch", "film", "variance-plot"}
    kinds = {output.get("name", output["output_type"]) for shown in outputs.values() for output in shown}
    assert kinds == {"stdout", "display_data", "execute_result"}
    assert "Solved and confirmed" in "".join(outputs["train"][0]["text"])
    assert len(FILE.read_text()) < 400_000


def test_training_plotting_and_watching_take_fewer_than_20_lines():
    lines = [line for name in ("train", "plot", "watch") for line in CODE[name].splitlines() if line.strip()]
    assert len(lines) < 20


def shown(source, names):
    """Run a cell as Jupyter does; return the value of its last line where that is an expression without a semicolon."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
    exec(compile(tree, FILE.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), FILE.name, "eval"), names) if last is not None else None


def test_its_code_runs(tmp_path, monkeypatch, capsys):
    """In one namespace, from the first cell to the last, without a screen."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("pygame")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "level", logging.INFO)  # Restored afterwards.
    names = {"__name__": "__main__"}
    lines = {}
    with pyplot.rc_context():
        for name, source in CODE.items():
            value = shown(source, names)
            lines[name] = sum(len(axes.lines) for number in pyplot.get_fignums() for axes in pyplot.figure(number).axes)
            pyplot.close("all")  # As Jupyter does after each cell.
            if name == "film":
                film = value._repr_html_()

    assert "Solved and confirmed after" in capsys.readouterr().out
    assert film.count("data:image/png") == len(names["frames"][::5]) > 20
    assert lines == dict.fromkeys(CODE, 0) | {"plot": 2, "variance-plot": 3}
    assert np.ptp(names["frames"][0]) > 0 and not np.array_equal(names["frames"][0], names["frames"][-1])
    assert list(tmp_path.iterdir()) == []

    rows, series = names["variances"], {}
    assert rows.keys() == {"NoBaseline", "LeaveOneOut", "Critic"}
    for name, updates in rows.items():
        assert len(updates) == 20
        assert [row["episode_return"] for row in updates] == [row["episode_return"] for row in rows["NoBaseline"]]
        series[name] = np.array([row["grad_variance"] for row in updates])
    assert 1.5 * series["LeaveOneOut"].mean() < series["NoBaseline"].mean()
    assert series["Critic"][0] == pytest.approx(series["NoBaseline"][0], rel=0.05)  # It has learnt nothing yet.
    assert 3 * series["Critic"][-5:].mean() < series["NoBaseline"][-5:].mean()
