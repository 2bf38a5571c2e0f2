"""MkDocs hook: equations become MathML while the site is built, so that pages need no script and no network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

ARITHMATEX = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)
FUNCTION = re.compile(r"<mi>(log|max|min)</mi>(?!<mo[^>]*>(?:\(|&#x00028;))")
TAG = re.compile(r"\\tag\{(\d+)\}")


def on_page_content(text: str, **_: Any) -> str:
    """Replace what the extension arithmatex marked."""
    return ARITHMATEX.sub(lambda found: mathml(html.unescape(found[3]), found[2] == "["), text)


def mathml(formula: str, is_block: bool) -> str:
    r"""Convert a formula; the number of a ``\tag`` stands beside it."""
    tag = TAG.search(formula)
    converted = convert(TAG.sub("", formula).strip(), display="block" if is_block else "inline")
    converted = FUNCTION.sub(r'<mi>\1</mi><mspace width="0.17em"/>', converted)
    if not is_block:
        return converted
    number = f'<span class="equation-number" id="equation-{tag[1]}">({tag[1]})</span>' if tag else ""
    return f'<div class="equation"><div>{converted}</div>{number}</div>'
