"""The pages in ``docs/``: every name, link and picture that they refer to exists; the site is built."""

import ast
import importlib
import os
import re
import subprocess
import sys

import pytest

import pg_lightning
from tests.helpers import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXPLANATION = (ROOT / "docs/policy_gradients.md").read_text()
REFERENCE = re.compile(r"`([\w/]+\.py)(: |::)([\w.]+)`")


def names_in(file):
    """Functions, classes, variables, and methods as ``Class.method``, that a file defines."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def missing(text):
    """References to code (``file.py: name``) and to tests (``tests/file.py::test``) that lead nowhere."""
    wrong = []
    for path, colons, name in REFERENCE.findall(text):
        file = ROOT / path
        is_test = path.startswith("tests/test_") and name.rpartition(".")[2].startswith("test_")
        if not file.is_file() or name not in names_in(file) or (colons == "::" and not is_test):
            wrong.append(f"{path}{colons}{name}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_refers_to_exists(page):
    assert missing(page.read_text()) == []


def test_a_wrong_reference_is_found():
    right = "`pg_lightning/returns.py: Returns.select` `tests/test_docs.py::test_a_wrong_reference_is_found`"
    assert missing(right) == []
    wrong = [
        "pg_lightning/functional.py: no_such_function",
        "pg_lightning/no_such_file.py: Returns",
        "pg_lightning/returns.py: Returns.no_such_method",
        "tests/test_docs.py::test_no_such_test",
        "tests/test_docs.py::missing",
    ]
    assert missing(" ".join(f"`{one}`" for one in wrong)) == wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    named = re.findall(r"`((?:pg_lightning|tests|docs|configs)/[\w/.]+\.\w+)", text)
    linked = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    wrong = [path for path in named if not (ROOT / path).exists()]
    assert wrong + [target for target in linked if not (page.parent / target).exists()] == []


def test_all_that_is_public_is_documented():
    """Everything exported has a docstring and a place on the API page, and what stands there exists."""
    listed = re.findall(r"^::: pg_lightning\.([\w.]+)$", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert set(pg_lightning.__all__) <= set(listed)
    for name in listed:
        module, _, own = f"pg_lightning.{name}".rpartition(".")
        one = getattr(importlib.import_module(module), own)
        assert one.__doc__ and one.__doc__.strip(), name
        if isinstance(one, type):
            public = {key: value for key, value in vars(one).items() if not key.startswith("_") and callable(value)}
            undocumented = [key for key, value in public.items() if not getattr(value, "__doc__", None)]
            assert not undocumented, f"{name}: {undocumented}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2].partition("not_in_nav:")[0]
    for page in PAGES:
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in navigation or name.startswith("comparisons/"), name


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """Equations are in the pages, as MathML; nothing is loaded from elsewhere."""
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]  # With -q warnings do not count.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "policy_gradients.html").read_text()
    assert page.count("<math ") == len(re.findall(r"\$\$.*?\$\$|\$[^$]*\$", EXPLANATION, flags=re.DOTALL))
    assert "$" not in re.sub(r"<(script|code)\b.*?</\1>", "", page, flags=re.DOTALL)
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*\ssrc="(https?:[^"]*)|<link[^>]*rel="(?:stylesheet|preload)"[^>]*href="(https?:[^"]*)',
            page.read_text(),
        )
        assert not loaded, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_within_a_page_lead_to_a_heading(page):
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_the_explanation_names_code_and_tests():
    """Each part with an equation that ``estimate`` or ``loss`` computes says what computes and what tests it."""
    references = REFERENCE.findall(EXPLANATION)
    assert sum(colons == ": " for _, colons, _ in references) > 40
    assert len({name for _, colons, name in references if colons == "::"}) > 50
    for block in re.findall(r"^> .*(?:\n> .*)*", EXPLANATION, flags=re.MULTILINE):
        assert [part for part in ("**Code**", "**Test**") if part not in block] == [], block
    for part in re.split(r"^## ", EXPLANATION, flags=re.MULTILINE):
        assert "$$" not in part or "> **Code**" in part, part.splitlines()[0]


def test_equations_are_numbered_in_order_and_those_referred_to_exist():
    tags = [int(number) for number in re.findall(r"\\tag\{(\d+)\}", EXPLANATION)]
    assert tags == list(range(1, len(tags) + 1)) and len(tags) > 15
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", EXPLANATION, flags=re.DOTALL)
    referred = {int(number) for number in re.findall(r"(?<!\w)\((\d{1,2})\)", prose)}
    assert len(referred) > 5 and referred <= set(tags)


def test_equations_are_written_as_github_and_mkdocs_show_them():
    """Markdown takes a backslash before punctuation away, and with it the spaces of TeX."""
    math = re.findall(r"\$\$.*?\$\$|\$[^$]*\$", EXPLANATION, flags=re.DOTALL)
    assert len(math) > 150
    assert [formula for formula in math if re.search(r"\\[,;:!{}\\]", formula)] == []
    assert EXPLANATION.count("$") % 2 == 0
    for formula in math:
        assert formula.count("{") == formula.count("}"), formula
        assert "\n\n" not in formula, formula
