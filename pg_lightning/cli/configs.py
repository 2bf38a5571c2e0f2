"""``configs``: configurations that come with the package, which ``--config`` takes by name."""

import argparse
import difflib
import importlib.util
from pathlib import Path

from pg_lightning.cli.help import program


def folder() -> Path:
    """Return where the configurations are: in the installed package, or beside it in a checkout."""
    spec = importlib.util.find_spec("pg_lightning.configs")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else Path(__file__).parents[2] / "configs"


def shipped() -> dict[str, Path]:
    """Return the configurations by name."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def by_name(words: list[str]) -> list[str]:
    """Replace names of shipped configurations by their files, where a ``--config`` names no file of its own.

    Raises:
        ValueError: no file, and nearly the name of a configuration.
    """
    known, replaced = shipped(), list(words)
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            continue
        value = value if equals else words[place + 1] if place + 1 < len(words) else ""
        if Path(value).exists() or value.startswith("{"):
            continue
        if value not in known and (close := difflib.get_close_matches(value, known, n=1)):
            raise ValueError(f"--config: there is no file {value}; did you mean {close[0]}?")
        if value in known:
            replaced[place if equals else place + 1] = f"{option}={known[value]}" if equals else str(known[value])
    return replaced


def main(arguments: list[str]) -> int:
    """Print the names, and what each configuration is for: the comment at its top."""
    parser = argparse.ArgumentParser(
        f"{program()} configs", description="List the configurations that --config takes by name."
    )
    parser.parse_args(arguments)
    known = shipped()
    for name, path in known.items():
        comment = path.read_text().partition("\n")[0].lstrip("# ")
        print(f"{name.ljust(max(map(len, known)))}  {comment}")
    return 0
