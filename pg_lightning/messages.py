"""Errors in one line: what was wrong, where, and what would be right."""

import re

_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value type:|Expected a path but|Problem with given class_path"
    r"|Expected a <class '(NoneType|collections\.abc\.Iterable|bool)'>$|.* does not correspond to a subclass of"
)
"""Lines of a parser's message that list what a value might also have been."""


def condense(message: str) -> str:
    """Fold a message of many lines into one: the option, what is wrong with it, and what was given.

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
    if given and not given.startswith("Namespace("):
        text += f"; got {given}"
    if not options:
        return text
    return f"--{'.'.join(options)}: {text[0].lower()}{text[1:]}"


def _plain(line: str) -> str:
    """Name types as a user would: ``<class 'int'>`` -> ``int``."""
    line = re.sub(r"typing\.Literal\[(.*?)\]", r"value out of \1", line)
    line = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", line)
    line = re.sub(r"Expected a dot import path string: .*", "expected the name or the import path of a class", line)
    line = re.sub(r"Type \S.*? expects a function or a callable class:\s*", "", line)
    return re.sub(r"\ba int\b", "an int", line)
