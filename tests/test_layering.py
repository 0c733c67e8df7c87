"""Packages import only leftwards, and the light ones do not import torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["search_spaces", "hardware_profiles", "predictors", "nas", "experiments", "tests"]

CORE = {"problem", "pareto", "searcher", "search", "exact", "seen"}
MAY_IMPORT = {
    "pareto": {"pareto"},
    "problem": {"problem", "pareto"},
    "seen": {"seen"},
    "searcher": {"searcher", "problem", "pareto"},
    "search": CORE,
    "searchers": CORE | {"searchers", "gradient", "supernet", "data"},
}
"""Parts of nas -> the parts of nas that they may import, where that is a short list."""

RUN_PARTS = (
    "run_folder",
    "reuse",
    "labelling",
    "fitting",
    "searching",
    "checks",
    "stages",
    "pipeline",
    "cli",
    "__main__",
)
"""Parts of nas that know a run and its folder, from the lowest to the command line; each imports only lower ones."""

MUST_NOT_IMPORT = {
    "supernet": {"searchers", "searcher", "search"},
    **{part: {"searchers", *RUN_PARTS[i + 1 :]} for i, part in enumerate(RUN_PARTS)},
    "searching": {"checks", "stages", "pipeline", "cli", "__main__"},
    "cli": set[str](),
    "__main__": set[str](),
}


def imported(source: str) -> Iterator[str]:
    """Dotted names that a file imports, anywhere in it; ``from a import b`` counts as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)
            if node.level:
                yield "relative import"


def violations(path: str, source: str) -> list[str]:
    """Imports that a file of the repository must not have; the path is relative to its root."""
    package, *rest = Path(path).with_suffix("").parts
    part = rest[0] if rest else ""
    found = []
    for name in imported(source):
        target, *inner = name.split(".")
        if target in ORDER and ORDER.index(target) > ORDER.index(package):
            found.append(f"{path} imports {name}: {target} is right of {package}")
        if name == "relative import":
            found.append(f"{path} imports relatively, which hides the package")
        if package != "nas" or target != "nas":
            continue
        other = inner[0] if inner else ""
        forbidden = MUST_NOT_IMPORT.get(part, {"searchers"})
        if part not in RUN_PARTS:
            forbidden = forbidden | set(RUN_PARTS)
        allowed = MAY_IMPORT.get(part)
        if other in forbidden if allowed is None else other not in allowed:
            found.append(f"{path} imports {name}: nas.{part} must not know nas.{other}")
    return found


FILES = sorted(p.relative_to(ROOT) for package in ORDER for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_leftwards(path: Path) -> None:
    assert violations(str(path), (ROOT / path).read_text()) == []


def test_there_are_files_to_look_at() -> None:
    assert {path.parts[0] for path in FILES} >= {"search_spaces", "hardware_profiles", "predictors", "nas", "tests"}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("search_spaces/a.py", "import hardware_profiles.device"),
        ("search_spaces/a.py", "def f():\n    from predictors import base"),
        ("hardware_profiles/backends/a.py", "from predictors.base import Predictor"),
        ("predictors/a.py", "from nas.problem import Problem"),
        ("nas/a.py", "import experiments.benchmarks.a"),
        ("nas/a.py", "from tests.conftest import rng"),
        ("search_spaces/a.py", "from . import space"),
        ("nas/problem.py", "from nas.search import search"),
        ("nas/pareto.py", "from nas import problem"),
        ("nas/search.py", "from nas.searchers.nsga2 import NSGA2"),
        ("nas/searchers/a.py", "from nas import export"),
        ("nas/searchers/a.py", "from nas.stages import search"),
        ("nas/supernet/a.py", "from nas.searchers.random import RandomSearch"),
        ("nas/supernet/a.py", "import nas.search"),
        ("nas/report.py", "from nas import stages"),
        ("nas/report.py", "from nas.searchers import random"),
        ("nas/stages.py", "from nas.cli import main"),
        ("nas/labelling.py", "from nas.stages import STAGES"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hardware_profiles/a.py", "from search_spaces.space import SearchSpace"),
        ("nas/searchers/a.py", "from nas import pareto\nfrom nas.searchers.random import RandomSearch"),
        ("nas/searching.py", "from nas.searchers.random import RandomSearch\nfrom nas import supernet, search"),
        ("nas/stages.py", "from nas.searching import search_fronts\nfrom nas.run_folder import Run"),
        ("nas/cli.py", "from nas import stages"),
        ("nas/supernet/a.py", "from nas.data import digits\nfrom nas.supernet.b import c"),
        ("tests/test_a.py", "import nas, predictors"),
    ],
)
def test_a_right_import_is_not(path: str, source: str) -> None:
    assert violations(path, source) == []


@pytest.mark.parametrize("module", ["search_spaces", "hardware_profiles", "predictors", "nas.search", "nas.searchers"])
def test_light_packages_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_testing_needs_torch_only_when_it_is_called() -> None:
    code = "import sys, search_spaces.testing, hardware_profiles.testing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
