"""Errors in one line: what was wrong, where, whose fault it was, and where the full traceback is."""

import difflib
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import gymnasium as gym
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import pg_lightning
from pg_lightning.envs import EnvironmentFault
from pg_lightning.sampling.actors import PolicyError
from pg_lightning.sampling.playing import origin

PACKAGE = Path(__file__).parents[1]

COMPLETE = (ValueError, OSError, ImportError, gym.error.Error, MisconfigurationException)
"""Errors whose message says it all; of others the line names the type."""

ROOMS = {
    **dict.fromkeys(("envs", "sampling"), "environment"),
    **dict.fromkeys(("policies", "gradients", "episodes"), "policy"),
}
"""Rooms of this package whose errors come from the code that they call."""

POLICY = ("made_policy", "loss", "measure", "report")
"""Functions of the agent that call the policy."""

_BROKEN_CONNECTION = re.compile("closed by peer|reset by peer|Broken pipe|gloo|NCCL|c10d|TCPStore", re.IGNORECASE)
"""What torch's backends say when another process is gone."""

_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value type:|Expected a path but|Problem with given class_path"
    r"|Expected a <class '(NoneType|collections\.abc\.Iterable|bool)'>$|.* does not correspond to a subclass of"
)
"""Lines of a parser's message that list what a value might also have been."""


CLASS = "expected the name or the import path of a class"
"""What is said of a value that names no class."""


def interrupted(error: BaseException) -> bool:
    """Tell whether the user ended the process: Lightning makes a SystemExit of a KeyboardInterrupt."""
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)


def from_another_process(error: BaseException) -> bool:
    """Tell whether an error only says that another process of a distributed run has ended."""
    return isinstance(error, RuntimeError) and bool(_BROKEN_CONNECTION.search(str(error)))


def told_by_another(root: Path, started: float) -> bool:
    """Wait a moment for the log of the process that failed first."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        if any(path.stat().st_mtime >= started for path in root.glob("errors/*.log")):
            return True
        time.sleep(0.1)
    return False


def one_line(error: BaseException, root: Path, world_size: int = 1) -> str:
    """Describe an error in one line of at most 600 characters; write its traceback below ``root``, if it tells more.

    Args:
        error: whatever ended the run.
        root: folder of all runs. ``errors/<time>.log`` in it gets the traceback of an error in other code than this
            package's own checks.
        world_size: number of processes; with several there is always a log, by which the others know.
    """
    first = origin(error)
    text = condense(str(error))
    if isinstance(error, SystemExit):
        text = f"sys.exit({'' if error.code is None else error.code!r}) was called"
    elif not isinstance(error, COMPLETE) or not str(error).strip():
        text = f"{type(error).__name__}: {text}" if str(error).strip() else type(error).__name__
    text = as_options(option_of_constructor(first, text))
    if len(text) > 600:
        text = f"{text[:400]} ... {text[-190:]}"
    notes = []
    if (fault := whose_fault(error)) and fault not in text:
        notes.append(f"fault of the {fault}")
    if (world_size > 1 or first is not error or not is_ours(first)) and (log := write_log(error, root)):
        notes.append(f"traceback in {log}")
    return f"error: {text}" + (f" ({'; '.join(notes)})" if notes else "")


GROUPS = {"Environment": "env", "EpisodeDataModule": "data", "Reinforce": "model", "StopAtRewardThreshold": "stop"}
GROUPS |= {"Trainer": "trainer"}
"""Groups of options by the class whose arguments they are."""


def as_options(text: str) -> str:
    """Write arguments of Python as the options of the command line that they are.

    >>> as_options("wrap it (Environment(wrappers=...)), or use Reinforce(baseline=Critic()), or MonteCarlo")
    'wrap it (--env.wrappers), or use --model.baseline Critic, or MonteCarlo'
    """
    argument = re.compile(rf"\b({'|'.join(GROUPS)})\((\w+)=(?:\.\.\.|(\w+)\(\))\)")
    return argument.sub(lambda m: f"--{GROUPS[m[1]]}.{m[2]}" + (f" {m[3]}" if m[3] else ""), text)


def option_of_constructor(error: BaseException, text: str) -> str:
    """Name the option, where a message of a constructor begins with one of its arguments."""
    name = text.partition(" ")[0]
    for frame in frames(error):
        owner, code = type(frame.f_locals.get("self")), frame.f_code
        groups = [GROUPS[base.__name__] for base in owner.__mro__ if base.__name__ in GROUPS]
        if groups and code.co_name == "__init__" and name in code.co_varnames[: code.co_argcount]:
            return f"--{groups[0]}.{text}"
    return text


def frames(error: BaseException) -> list[FrameType]:
    """List the frames that an error went through, outermost first."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def is_ours(error: BaseException) -> bool:
    """Tell whether this package raised the error itself."""
    return bool(passed := frames(error)) and Path(passed[-1].f_code.co_filename).is_relative_to(PACKAGE)


def whose_fault(error: BaseException) -> str:
    """Name whose fault an error is: environment, policy or configuration; "" where the message of a check says it."""
    for link in chain(error):
        if isinstance(link, EnvironmentFault):
            return "environment"
        if isinstance(link, PolicyError):
            return "policy"
    first = origin(error)
    if is_ours(first) or isinstance(first, OSError):  # The machine's fault, which the message names.
        return ""
    ours = [frame for frame in frames(first) if Path(frame.f_code.co_filename).is_relative_to(PACKAGE)]
    if not ours:
        return "configuration"
    name = ours[-1].f_code.co_name
    room = Path(ours[-1].f_code.co_filename).relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name in ("__init__", "__post_init__"):
        return "configuration"
    return "policy" if name in POLICY else ROOMS.get(room, "configuration")


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    yield error
    if error.__cause__ is not None:
        yield from chain(error.__cause__)


def write_log(error: BaseException, root: Path) -> Path | None:
    """Write the traceback to ``errors/<time>.log``; return the path, ``None`` where it cannot be written."""
    with suppress(OSError):
        folder = root / "errors"
        folder.mkdir(parents=True, exist_ok=True)
        text = f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
        for number in range(1000):
            path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}{f'-{number}' if number else ''}.log"
            with suppress(FileExistsError), path.open("x") as file:
                file.write(text)
                return path
    return None


def condense(message: str) -> str:
    """Fold a message of many lines into one: the option, what is wrong with it, and the value.

    jsonargparse explains each alternative that a value did not fit; here the ones that nobody meant are left out.

    >>> condense('''Parser key "stop.threshold":
    ...   Does not validate against any of the Union subtypes
    ...   Errors:
    ...     - Expected a <class 'float'>
    ...     - Expected a <class 'NoneType'>
    ...   Given value: x''')
    '--stop.threshold: expected a float; got x'
    """
    options, reasons, given = list[str](), list[str](), ""
    for line in message.splitlines():
        line = line.strip().removeprefix("- ")
        if found := re.match(r'Parser key "([^"]+)":\s*', line):
            options.append(found[1])
            line = line[found.end() :]
        if found := re.match(r"(.*?)\.? ?(?:Given value|Got value): (.*)", line):
            line, given = found[1], re.sub(r"NestedArg\(key='.*', val='?(.*?)'?\)$", r"\1", found[2])
        if line and not _NOISE.match(line) and (line := _plain(line)) not in reasons:
            reasons.append(line)
    text = "; ".join(reasons) or "not a valid value"
    if CLASS in text and (close := difflib.get_close_matches(given, pg_lightning.__all__, n=1)):
        text += f" (did you mean {close[0]}?)"
    if given and not given.startswith("Namespace("):
        text += f"; got {given}"
    if not options:
        return text
    return f"--{'.'.join(options)}: {text[0].lower()}{text[1:]}"


def _plain(line: str) -> str:
    """Name types as a user would: ``<class 'int'>`` -> ``int``."""
    line = re.sub(r"typing\.Literal\[(.*?)\]", r"value out of \1", line)
    line = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", line)
    line = re.sub(r"Expected a dot import path string: .*", CLASS, line)
    line = re.sub(r"Expected a Sequence$", "expected a list such as [64, 64]", line)
    line = re.sub(r"Type \S.*? expects a function or a callable class:\s*", "", line)
    return re.sub(r"\ba int\b", "an int", line)
