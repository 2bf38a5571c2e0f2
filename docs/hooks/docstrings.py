"""Griffe extension: docstrings as Markdown. Roles become code or equations, doctests become blocks of code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|mod):`~?([^`]+)`")
MATH = re.compile(r":math:`([^`]+)`")
DOCTEST = re.compile(r"^(?:>>> .*\n?)(?:.+\n?)*", flags=re.MULTILINE)


class PlainMarkdown(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a class, a function, a module or an attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """Turn a docstring into Markdown."""
    text = MATH.sub(r"$\1$", ROLE.sub(r"`\1`", docstring)).replace("``", "`")
    return DOCTEST.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
