"""Pong from pixels, hours: learning curves of ``configs/pong.yaml`` and of the reference's settings.

    python -m tests.benchmarks.pong run pong --seed 1016            # type it again to go on
    python -m tests.benchmarks.pong run pong_karpathy --seed 1004
    python -m tests.benchmarks.pong ppo --seed 1                    # a peer: it begins anew each time
    python -m tests.benchmarks.pong write                           # docs/pong.md, its figure and raw CSV
    python -m tests.benchmarks.pong gif pong --seed 1016            # docs/pong.gif: the beginning of a game

One thread. A decision is one action, which the game takes for 4 frames; actions repeat with probability 0.25.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image

from pg_lightning import Reinforce
from pg_lightning.envs import atari
from pg_lightning.plotting.common import COLOURS, png, read_columns
from tests.benchmarks.common import ENVIRONMENT, ROOT, machine, say, table
from tests.benchmarks.pixels import pong, sb3_ppo

RUNS, DOCS = ROOT / "runs" / "pong", ROOT / "docs" / "pong"
NAMES = ["pong", "pong_karpathy"]
OTHERS = {
    "pong_falling_lr": "critic's rate falling",
    "pong_apart": "encoders apart",
    "pong_by_hand": "changed by hand",
}
"""Runs of other settings of ``configs/pong.yaml``, and their titles, which the page explains."""

PPO = "stable_baselines3_ppo"
"""Name of the peer's runs."""

TITLES = {**OTHERS, PPO: "Stable-Baselines3 PPO"}

BUDGET = 5_000_000
"""Decisions of the peer."""

WINDOW = 50
"""Games of the running mean."""

FRAMES = 4
"""Frames of a decision."""

MARKS = [-20, -18, -15, -10, -5, 0, 10, 15]
"""Mean returns whose first time is told."""


def run(name: str, seed: int) -> None:
    """Train a configuration, or go on with its run."""
    folder = RUNS / f"{name}_{seed}"
    command = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(ROOT / "configs" / f"{name}.yaml")]
    command += ["--seed_everything", str(seed), "--data.backend", "sync", "--trainer.default_root_dir", str(folder)]
    command += ["--ckpt_path", "auto"]
    # In the process's place, so that a signal reaches the training itself.
    os.execve(sys.executable, command, dict(ENVIRONMENT))


def ppo(seed: int) -> None:
    """Train Stable-Baselines3's PPO on the same frames and actions, with the settings of RL Zoo for Atari games."""
    from stable_baselines3.common.env_util import make_vec_env

    from tests.benchmarks.peers import sb3_callback

    torch.set_num_threads(1)
    atari.register()
    envs = make_vec_env(pong, n_envs=8, seed=seed)
    settings = {"n_steps": 128, "n_epochs": 4, "batch_size": 256, "vf_coef": 0.5, "ent_coef": 0.01}
    falling = {"learning_rate": lambda left: 2.5e-4 * left, "clip_range": lambda left: 0.1 * left}
    algorithm = sb3_ppo(envs, shared=2, seed=seed, **settings, **falling)
    RUNS.mkdir(parents=True, exist_ok=True)
    with (RUNS / f"{PPO}_{seed}.csv").open("w") as file:
        log = GameLog(file)
        algorithm.learn(total_timesteps=BUDGET, callback=sb3_callback(log))


class GameLog:
    """Writes the games of a peer as they end, and a line about every hundred."""

    over = False

    def __init__(self, file: TextIO) -> None:
        self.file, self.decisions, self.started, self.returns = file, 0, time.perf_counter(), list[float]()
        print("decisions,seconds,return", file=file)

    def saw(self, decisions: int, returns: list[float]) -> None:
        """Count decisions, and write the games that ended in them."""
        self.decisions += decisions
        for one in returns:
            self.returns.append(one)
            print(f"{self.decisions},{time.perf_counter() - self.started:.0f},{one:.0f}", file=self.file, flush=True)
            if len(self.returns) % 100 == 0:
                say(f"{self.decisions:,} decisions, mean of 100 games {np.mean(self.returns[-100:]):.1f}")


def gather(name: str, folder: Path) -> None:
    """Write a run's games to the docs: decisions and seconds at the end of their update, return and length."""
    games, times = read_columns(folder / "episodes.csv"), read_columns(folder / "times.csv")
    row = np.searchsorted(times["update"], games["update"])
    columns = times["env_steps"][row], times["seconds"][row], games["return"], games["length"]
    lines = [f"{n:.0f},{s:.0f},{r:.0f},{length:.0f}" for n, s, r, length in zip(*columns, strict=True)]
    DOCS.mkdir(exist_ok=True)
    (DOCS / f"{name}.csv").write_text("\n".join(["decisions,seconds,return,length", *lines]) + "\n")


def running_mean(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the last games at each game from the 50th on, and the half width of its 95 % interval."""
    windows = np.lib.stride_tricks.sliding_window_view(returns, WINDOW)
    return windows.mean(1), 1.96 * windows.std(1, ddof=1) / WINDOW**0.5


def column_of(name: str, games: dict[str, np.ndarray]) -> list[str]:
    """Turn a run into its column of the table."""
    mean, half = running_mean(games["return"])
    decisions = games["decisions"][WINDOW - 1 :]
    config, _, seed = name.rpartition("_")
    title = TITLES.get(config, f"`configs/{config}.yaml`")
    cells = [title, seed, f"{decisions[-1]:,.0f}", f"{FRAMES * decisions[-1]:,.0f}"]
    cells += [f"{games['seconds'][-1] / 3600:.1f}", f"{len(games['return']):,}"]
    cells += [f"{mean[-1]:.1f} ({mean[-1] - half[-1]:.1f} to {mean[-1] + half[-1]:.1f})"]
    return cells + [f"{decisions[np.argmax(mean > mark)]:,.0f}" if (mean > mark).any() else "not yet" for mark in MARKS]


def draw(runs: dict[str, dict[str, np.ndarray]]) -> bytes:
    """Draw the running means by decisions and by hours."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    configs = list(dict.fromkeys(name.rpartition("_")[0] for name in runs))
    scales = [("decisions", 1, "decisions"), ("seconds", 3600, "hours")]
    for axes, (column, unit, label) in zip(panels, scales, strict=True):
        for name, games in runs.items():
            mean, half = running_mean(games["return"])
            places, colour = games[column][WINDOW - 1 :] / unit, COLOURS[configs.index(name.rpartition("_")[0])]
            axes.plot(places, mean, color=colour, linewidth=1.8, label=name.replace("_", " "))
            axes.fill_between(places, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel=label, ylim=(-21.5, 21.5))
        axes.axhline(0, color="grey", linestyle="--")
        axes.grid(alpha=0.3)
    panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel("points won minus points lost")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"ALE/Pong-v5, sticky actions: mean of the last {WINDOW} games in training, 95 % interval shaded")
    return png(figure)


TEXT = """\
# Pong

`ALE/Pong-v5` from pixels, with sticky actions: the last action is repeated with probability 0.25. The mean return of
the last {window} games in training, sampled actions, with its 95 % interval over these games, and the number of
decisions after which that mean first exceeded a return. Each run is of one seed, and one seed is an example
([trials](trials.md)):

{table}

"Critic's rate falling" is `configs/pong.yaml` with a learning rate of the critic that falls from 0.0003 to 0, and
"encoders apart" with convolutions for policy and critic each. The run "changed by hand" had the settings of the latter,
which were changed six times while it went on, as the trials tell. PPO has the frames, the actions and the layers of
`configs/pong.yaml`, all but the last shared between policy and critic, and the settings of
RL Zoo for Atari games. The budget is 5,000,000 decisions, and 20,000,000 for the reference's settings; a run with fewer
was stopped there for want of time. Seed 2031 went on to 5,000,000 decisions and a mean of 13.7, but the later rows were
lost, as the trials tell.

One thread, {where}, with other work on the machine: the hours are a rough figure.
{frames} frames to a decision. Typed again, a command goes on; PPO's begins anew.

```sh
{runs}
python -m tests.benchmarks.pong write
python -m tests.benchmarks.pong gif {film}
```

![Learning curves of Pong](pong.png)

The beginning of a game of the last policy of `configs/pong.yaml`, which plays on the right:

![A game of Pong](pong.gif)

For PPO others report 0 after 1.2 to 1.4 million decisions and 18 after 3.1 to 3.3 million, on `PongNoFrameskip-v4`
without sticky actions, which is another game. Games and seconds of each run are in `docs/pong/`.
What the curves teach is in the [explanation](policy_gradients.md#15-from-pixels), time and memory in
[Benchmarks](benchmarks.md#pixels).
"""


def write() -> None:
    """Write the page, the figure and the raw CSV from the runs that there are."""
    for folder in sorted(path for name in [*NAMES, *OTHERS] for path in RUNS.glob(f"{name}_[0-9]*/*/version_*")):
        if (folder / "times.csv").is_file():
            gather(folder.parents[1].name, folder)
    for file in RUNS.glob(f"{PPO}_*.csv"):
        shutil.copy(file, DOCS)
    runs = {path.stem: read_columns(path) for path in sorted(DOCS.glob("*.csv"))}
    runs = {name: games for name, games in runs.items() if len(games["return"]) >= WINDOW}
    titles = ["", "seed", "decisions", "frames", "hours", "games", f"mean of the last {WINDOW} games"]
    titles += [f"decisions until it was above {mark}" for mark in MARKS]
    header, *rows = zip(titles, *(column_of(name, games) for name, games in runs.items()), strict=True)
    ours = [" --seed ".join(name.rsplit("_", 1)) for name in runs if name.rpartition("_")[0] in NAMES]
    commands = [f"run {command}" for command in ours]
    commands += [f"ppo --seed {name.rpartition('_')[2]}" for name in runs if name.startswith(PPO)]
    text = TEXT.format(
        table=table(header, rows),
        where=machine(),
        window=WINDOW,
        frames=FRAMES,
        runs="\n".join(f"python -m tests.benchmarks.pong {command}" for command in commands),
        film=ours[0],
    )
    (ROOT / "docs" / "pong.md").write_text(text)
    (ROOT / "docs" / "pong.png").write_bytes(draw(runs))


def film(name: str, seed: int, frames: int = 240) -> None:
    """Play a game with the last policy of a run, sampled actions, and film its first decisions, every second one."""
    folder = max((RUNS / f"{name}_{seed}").glob("*/version_*"), key=lambda path: path.stat().st_mtime)
    agent = Reinforce.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    env, pictures = agent.env.make(render_mode="rgb_array"), list[Image.Image]()
    observation, _ = env.reset(seed=seed)
    for decision in range(2 * frames):
        observation, _, terminated, truncated, _ = env.step(agent.act(observation, greedy=False))
        if decision % 2 == 0:
            pictures.append(Image.fromarray(env.render()).quantize(16))
        if terminated or truncated:
            break
    env.close()
    options = {"duration": 2000 * FRAMES // 60, "loop": 0, "optimize": True}
    pictures[0].save(ROOT / "docs" / "pong.gif", save_all=True, append_images=pictures[1:], **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="write the page, the figure and the raw CSV")
    for command, text in (("run", "train a configuration, or go on with its run"), ("gif", "film its last policy")):
        one = commands.add_parser(command, help=text)
        one.add_argument("name", choices=NAMES)
        one.add_argument("--seed", type=int, default=1016)
    peer = commands.add_parser("ppo", help="train the peer")
    peer.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.command == "write":
        write()
    elif options.command == "ppo":
        ppo(options.seed)
    else:
        {"run": run, "gif": film}[options.command](options.name, options.seed)


if __name__ == "__main__":
    main()
