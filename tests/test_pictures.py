"""Pictures of a run: drawn from its files, kept up to date, and handed to loggers that take images."""

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.image import imread

from pg_lightning.callbacks import recorder
from pg_lightning.callbacks.pictures import draw, pixels
from pg_lightning.cli import main
from pg_lightning.plotting.run import plot_diagnostics, plot_learning_curve

RUN = Path("runs/CartPole-v1/version_0")
FEW = ["--data.num_envs", "2", "--stop.confirm_episodes", "0", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("pictures"))
        main(["fit", *FEW, "--trainer.max_steps", "6", "--model.gradient_variance", "true"])
        yield RUN.absolute()


def test_both_pictures_are_drawn_from_the_files(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for path in copy.glob("*.png"):
        path.unlink()
    assert [path.name for path in draw(copy)] == ["learning_curve.png", "diagnostics.png"]
    for name in ("learning_curve.png", "diagnostics.png"):
        assert (imread(copy / name) == imread(run / name)).all()
        assert pixels(copy / name).std() > 15


def test_what_is_not_there_is_not_drawn(run, tmp_path):
    summary = json.loads((run / "summary.json").read_text())
    assert plot_diagnostics(tmp_path / "metrics.csv", summary) is None
    (tmp_path / "episodes.csv").write_text("episode,update,return,length,truncated\n")
    assert plot_learning_curve(tmp_path / "episodes.csv", summary) is None
    constant = "step,kl,grad_norm\n1,0.02,3\n2,0.02,3\n"
    (tmp_path / "metrics.csv").write_text(constant)
    assert plot_diagnostics(tmp_path / "metrics.csv", summary) is None


def test_pictures_are_drawn_with_the_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recorder, "DRAW_EVERY", 0.0)
    drawn = []
    monkeypatch.setattr(recorder, "draw", lambda folder: drawn.append(folder) or [])
    main(["fit", *FEW, "--trainer.max_steps", "3", "--checkpoint.every_seconds", "0"])
    assert drawn == [RUN] * 4  # With each checkpoint, and at the end.


def test_a_logger_that_takes_images_gets_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *FEW, "--trainer.max_steps", "2", "--trainer.logger", "TensorBoardLogger"])
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    written = events.EventAccumulator(str(RUN), size_guidance={"images": 0})
    written.Reload()
    assert written.Tags()["images"] == ["learning_curve"]  # The other one is drawn from metrics.csv.
    main(["fit", *FEW, "--trainer.max_steps", "2", "--trainer.logger", "MLFlowLogger"])
    assert list(Path("runs/CartPole-v1/version_1").rglob("artifacts/learning_curve.png"))
