"""What a run costs beside training: ``python train.py fit`` from a cold start, and how fast ``--help`` answers.

The run is that of ``configs/cartpole.yaml``.

    python -m tests.benchmarks.startup --rounds 5

Whole processes, by the wall clock, medians over interleaved rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.common import CARTPOLE, ENVIRONMENT, ROOT, say, table

TRAIN = [sys.executable, str(ROOT / "train.py")]
COMMANDS = {
    'python -c "import torch"': [sys.executable, "-c", "import torch"],
    'python -c "import pytorch_lightning.cli"': [sys.executable, "-c", "import pytorch_lightning.cli"],
    "python train.py --help": [*TRAIN, "--help"],
    "python train.py fit --help": [*TRAIN, "fit", "--help"],
    "python train.py fit --config configs/cartpole.yaml": [*TRAIN, "fit", *CARTPOLE],
}
IMPORT, *_, FIT = list(COMMANDS)[1:]


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Run a command in an empty folder; return its seconds, and those of training if it trained."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
        seconds = time.perf_counter() - started
        summaries = list(Path(folder).glob("runs/**/summary.json"))
        return seconds, json.loads(summaries[0].read_text())["seconds"] if summaries else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    training = []
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            seconds, train_seconds = seconds_of(command)
            if number == 0:  # It writes the compiled modules and fills the disk's cache.
                continue
            times[name].append(seconds)
            if name == FIT:
                training.append(train_seconds)
            say(f"round {number}/{rounds}  {name}: {seconds:.2f} s")
    medians = {name: statistics.median(values) for name, values in times.items()}
    trained = statistics.median(training)
    allowed = medians[IMPORT] + trained
    rows = [[f"`{name}`", f"{value:.2f}"] for name, value in medians.items()]
    rows += [["of which training", f"{trained:.2f}"]]
    rows += [["`python train.py fit ...` / (import + training)", f"{medians[FIT] / allowed:.2f}"]]
    print(table(["whole process", "seconds"], rows))


if __name__ == "__main__":
    main()
