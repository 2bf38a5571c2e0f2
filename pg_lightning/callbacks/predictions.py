"""Callback that writes the episodes of ``predict``: as an npz file, or as a Minari data set."""

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pg_lightning.callbacks.files import write_whole
from pg_lightning.envs import Environment
from pg_lightning.envs.masks import ACTION_MASK
from pg_lightning.episodes import Episodes
from pg_lightning.sampling.actors import action_adapter
from pg_lightning.tree import Tree, tree_map, tree_named


class PredictionWriter(Callback):
    """Writes the episodes that ``predict`` played into the Trainer's ``default_root_dir``.

    With several processes each writes the episodes that it played, as ``episodes_rank0`` and so on.

    Args:
        format: ``"npz"`` for ``episodes.npz``, with the actions as the policy's distribution has them; ``"minari"`` for
            the Minari data set ``episodes-v0`` in the folder ``minari``, with the actions as the environment took them.

    Raises:
        ImportError: minari or h5py is not installed.
    """

    def __init__(self, format: Literal["npz", "minari"] = "npz") -> None:
        if format == "minari":
            _import_minari()
        self.format = format

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Episodes, *_: Any
    ) -> None:
        """Write the episodes and say where they are."""
        folder = Path(trainer.default_root_dir)
        name = f"episodes_rank{trainer.global_rank}" if trainer.world_size > 1 else "episodes"
        folder.mkdir(parents=True, exist_ok=True)
        if self.format == "minari":
            path, agent = folder / "minari" / f"{name}-v0", pl_module
            to_env = action_adapter(agent.policy, agent.env.action_space)  # type: ignore[arg-type, union-attr]
            write_minari(path, batch, agent.env, to_env)  # type: ignore[arg-type]
            loading = f"minari.MinariDataset({str(path / 'data')!r})"
        else:
            path, loading = folder / f"{name}.npz", ""
            file = io.BytesIO()
            np.savez(file, **flat(batch))  # type: ignore[arg-type]
            write_whole(path, file.getvalue())
        print(f"{len(batch)} episodes, mean return {batch.returns.mean():.2f}: {loading or path}")


def flat(episodes: Episodes) -> dict[str, np.ndarray]:
    """Name every array of some episodes: ``observations``, or ``observations/key`` where they are a Dict or Tuple."""
    names = ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "final_observations")
    leaves = {full: leaf for name in names for full, leaf in tree_named(name, getattr(episodes, name)).items()}
    return {name: leaf.numpy(force=True) for name, leaf in leaves.items()}


def write_minari(path: Path, episodes: Episodes, env: Environment, to_env: Callable[[Tree], Tree]) -> None:
    """Write episodes as a Minari data set, whole or not at all; one that is there already is replaced.

    Observations have the environment's dtypes, but a float64 no more digits than the policy saw. Where it read action
    masks from the observations, these are left out. Images are stored without loss.

    Args:
        path: folder of the data set; its name is the id, such as ``episodes-v0``.
        episodes: that were played.
        env: of these episodes.
        to_env: turns raw actions into those that the environment took.

    Raises:
        ImportError: minari or h5py is not installed.
    """
    minari = _import_minari()
    space = env.observation_space
    if episodes.action_masks and isinstance(space, gym.spaces.Dict):
        space = gym.spaces.Dict({key: part for key, part in space.items() if key != ACTION_MASK})
    path.parent.mkdir(parents=True, exist_ok=True)
    absolute = path.parent.resolve()  # Minari does not find its own files below a relative path.
    with tempfile.TemporaryDirectory(prefix=".", dir=absolute) as temporary, _storage(temporary):
        minari.create_dataset_from_buffers(
            path.name,
            list(_buffers(episodes, space, to_env)),
            _with_spec(env),
            observation_space=space,
            action_space=env.action_space,
            algorithm_name="pg_lightning",
            description=f"Episodes of a trained policy on {env.name}",
            data_format="hdf5",
            jpeg_encoding=False,
        )
        if path.exists():
            os.replace(path, Path(temporary, "before"))
        os.replace(Path(temporary, path.name), path)


def _import_minari() -> Any:
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError:
        raise ImportError("Minari data sets need minari and h5py: pip install 'pg_lightning[minari]'") from None
    return minari


@contextmanager
def _storage(folder: str) -> Iterator[None]:
    """Have Minari write to a folder, and leave out what it recommends to authors who publish a data set."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = folder
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def _with_spec(env: Environment) -> gym.Env | None:
    """Make the environment, from whose spec a data set can make it again; ``None`` where no file can hold that."""
    made = env.make()
    made.close()
    try:
        assert made.spec is not None
        made.spec.to_json()
    except (AssertionError, TypeError, ValueError):
        return None
    return made


def _buffers(episodes: Episodes, space: gym.Space, to_env: Callable[[Tree], Tree]) -> Iterator[Any]:
    """Yield each episode in Minari's form: one observation more than actions, and the ends step by step."""
    from minari.data_collector import EpisodeBuffer

    arrays = episodes.map(lambda tensor: tensor.numpy(force=True))
    actions, ends = to_env(arrays.actions), np.cumsum([0, *arrays.lengths])
    for episode, (first, end) in enumerate(pairwise(ends.tolist())):
        rows, last = slice(first, end), slice(episode, episode + 1)
        observations = tree_map(
            lambda leaf, final, rows=rows, last=last: np.concatenate([leaf[rows], final[last]]),
            arrays.observations,
            arrays.final_observations,
        )
        is_last = np.arange(end - first) == end - first - 1
        yield EpisodeBuffer(
            id=episode,
            observations=_as_emitted(space, observations),
            actions=tree_map(lambda leaf, rows=rows: leaf[rows], actions),
            rewards=arrays.rewards[rows],
            terminations=is_last & arrays.terminated[last],
            truncations=is_last & arrays.truncated[last],
        )


def _as_emitted(space: gym.Space, observations: Tree) -> Tree:
    """Turn stored observations into those that the environment emitted: of its dtypes, texts as strings."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _as_emitted(part, observations[key]) for key, part in space.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_as_emitted(part, observations[place]) for place, part in enumerate(space))
    if isinstance(space, gym.spaces.Text):
        return ["".join(map(chr, row[row != 0])) for row in observations]
    return observations.astype(space.dtype, copy=False)
