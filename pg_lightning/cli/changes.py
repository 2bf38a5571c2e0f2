"""What has changed between the configuration of a run and that with which it goes on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pg_lightning.cli.resume import Resumed


def going_on(resumed: Resumed, folder: Path, base: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Say which run goes on, from where and in which folder, and which options are not what they were.

    Args:
        resumed: the checkpoint.
        folder: of the run that writes.
        base: configuration that it had.
        config: configuration of now.
    """
    changed = ", ".join(changes(base, config if resumed.folder else {name: config[name] for name in base}))
    text = f"Going on with {resumed.folder or resumed.path} after update {resumed.checkpoint['global_step']:,}"
    if folder != resumed.folder:
        text += f", in {folder}"
    return text + (f"; changed: {changed}" if changed else "")


def changes(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield what differs between two configurations: of a part of another class the class alone.

    >>> list(changes({"gamma": 1, "b": {"class_path": "x.B"}}, {"gamma": 1, "b": {"class_path": "x.C"}}, "model"))
    ['model.b B -> C']
    """
    are_mappings = isinstance(before, Mapping) and isinstance(now, Mapping)
    if are_mappings and before.get("class_path") == now.get("class_path"):
        for name in before | now:
            inner = place if name == "init_args" else f"{place}.{name}".removeprefix(".")
            yield from changes(before.get(name), now.get(name), inner)
    elif before != now:
        yield f"{place} {shown(before)} -> {shown(now)}"


def shown(value: Any) -> str:
    """Write a value of a configuration, a part by the name of its class."""
    is_part = isinstance(value, Mapping) and "class_path" in value
    return value["class_path"].rpartition(".")[2] if is_part else str(value)
