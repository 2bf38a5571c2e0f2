"""The same metrics under the same names, whichever logger the command line names."""

import csv
import struct
from pathlib import Path

import pytest

from pg_lightning.cli import main

METRICS = {
    *("loss", "entropy", "episode_return", "episode_length", "truncated", "policy_lag", "grad_norm", "kl", "lr"),
    *("episodes", "env_steps", "timesteps", "running_reward", "explained_variance"),
}
FIT = ["fit", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
FIT += ["--trainer.max_steps", "3", "--data.num_envs", "2", "--trainer.logger"]
RUN = Path("runs/CartPole-v1/version_0")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_csv():
    main([*FIT, "CSVLogger"])
    rows = list(csv.DictReader((RUN / "metrics.csv").read_text().splitlines()))
    assert rows[0].keys() == METRICS | {"step"}
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(float(value) == float(value) for row in rows for value in row.values())


def test_tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    main([*FIT, "TensorBoardLogger"])
    main(["fit", "--ckpt_path", "last", "--trainer.max_steps", "5"])
    events = EventAccumulator(str(RUN)).Reload()
    assert {tag for tag in events.Tags()["scalars"] if tag != "hp_metric"} == METRICS
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore")  # MLflow's own.
@pytest.mark.parametrize("store", ["folder", "sqlite"])
def test_mlflow(store):
    from mlflow.tracking import MlflowClient

    where = [] if store == "folder" else ["--trainer.logger.tracking_uri", "sqlite:///mlflow.db", "--name", "first"]
    main([*FIT, "MLFlowLogger", *where])
    client = MlflowClient(where[1] if where else f"file:{RUN.absolute() / 'mlruns'}")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.data.metrics.keys() == METRICS and (not where or run.info.run_name == "first")
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3]


def wandb_records(data):
    """Yield the records of W&B's offline file: LevelDB's log format behind a header of its own."""
    place, record = 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:  # A block's end too small for a record's header.
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")  # W&B's own.
def test_wandb_offline(monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    main([*FIT, "WandbLogger", "--trainer.logger.offline", "true", "--name", "first"])
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # The command line leaves it to the end of its process.
    names, titles = set(), set()
    for data in wandb_records(next(Path("runs").rglob("*.wandb")).read_bytes()):
        record = Record.FromString(data)
        names |= {"".join([item.key, *item.nested_key]) for item in record.history.item}
        titles.add(record.run.display_name)
    assert titles == {"", "first"}
    assert any(name.startswith("learning_curve") for name in names)  # The picture.
    numbers = {name for name in names if not name.startswith(("_", "learning_curve"))}
    assert numbers - {"trainer/global_step"} == METRICS


def test_none():
    main([*FIT, "false"])
    assert not (RUN / "metrics.csv").exists() and (RUN / "summary.json").exists()


def test_log_every_n_steps():
    main([*FIT, "CSVLogger", "--trainer.max_steps", "7", "--trainer.log_every_n_steps", "3"])
    assert [row["step"] for row in csv.DictReader((RUN / "metrics.csv").read_text().splitlines())] == [
        "3",
        "6",
        "7",
    ]  # The last one, too.
