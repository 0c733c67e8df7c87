"""The words of the packages: a docstring begins with a noun or a verb and so says what the thing is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_spaces", "hardware_profiles", "predictors", "nas")

PRONOUNS = "it its they them their we our you your he she i this that these those none nothing nobody such"
QUESTIONS = "what which who whom whose where when why how whether"
PREPOSITIONS = """about above across after against along among around as at before behind below beneath beside besides
    between beyond by despite down during except for from in inside into like near of off on onto out outside over per
    since through throughout till to toward towards under underneath unlike until up upon via with within without"""
CONJUNCTIONS = "although and because but either if neither nor not or so than though unless while yet"
ADVERBS = """again almost already also always apart exactly here just mostly never no now often once only quickly
    roughly slowly still then there together too twice usually very"""
PARTICIPLES = "being doing done found given having known made making measured seen shown taken taking used using"
REFUSED = set(" ".join((PRONOUNS, QUESTIONS, PREPOSITIONS, CONJUNCTIONS, ADVERBS, PARTICIPLES)).split())


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines and texts of all docstrings, those below attributes and constants too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield getattr(node, "lineno", 1), text
        if isinstance(node, ast.Module | ast.ClassDef):
            for one, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(one, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                    if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                        yield after.lineno, after.value.value


def refused(source: str) -> list[str]:
    """Beginnings of docstrings that do not say what the thing is, with their lines."""
    found = []
    for line, text in docstrings(ast.parse(source)):
        if text.split()[0].strip("`'\"(),.:;").lower() in REFUSED:
            found.append(f"{line}: {text.strip().splitlines()[0]}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_begin_with_a_noun_or_a_verb(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files and not [f"{path.relative_to(ROOT)}:{line}" for path in files for line in refused(path.read_text())]


def test_what_is_refused() -> None:
    source = '"""Whether it is."""\nA = 1\n"""Of a thing."""\nclass B:\n    x: int\n    """Number of things."""\n'
    assert refused(source) == ["1: Whether it is.", "3: Of a thing."]
    assert refused('def f():\n    """True if it is."""') == []


SHARED = {"FBNet"}
"""Names that papers have given to a space and to a way to search it."""


def test_no_two_public_classes_have_one_name() -> None:
    found: dict[str, list[str]] = {}
    for package in ("search_spaces", "hardware_profiles", "predictors", "nas"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1 and name not in SHARED} == {}


def test_terms_of_the_glossary_are_sorted_and_unique() -> None:
    terms = re.findall(r"^\*\*(.+?)\.\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 30 and terms == sorted(set(terms), key=str.casefold)
