"""Packages import only leftwards, and the light ones do not import torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["search_spaces", "hardware_profiles", "predictors", "nas", "experiments", "tests"]

WINGS = ["core", "tasks", "data", "supernet", "searchers", "run", "report", "pipeline", "commands"]
"""Folders of nas, from the lowest to the command line; files beside them are above all."""

IN_ORDER = {
    "core": [
        "terminal",
        "processes",
        "progress",
        "history",
        "schedule",
        "checkpoint",
        "loop",
        "seen",
        "arrays",
        "pareto",
        "problem",
        "searcher",
        "exact_front",
        "evaluations",
        "search_loop",
        "searcher_contract",
    ],
    "pipeline": ["checks", "stages", "running"],
}
"""Wings whose files import only those before them."""

MUST_NOT_IMPORT = {
    ("run", "searchers"): {"nas/run/searching.py"},
    ("report", "searchers"): set(),
    ("pipeline", "searchers"): set(),
}
"""Wings that know other wings by protocol and name only, with their exceptions: searchers are named by YAML files."""


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
    """Imports that a file of the repository must not have, those inside functions too; the path is relative to its
    root."""
    package, *rest = Path(path).with_suffix("").parts
    found = []
    for name in imported(source):
        target, *inner = name.split(".")
        if target in ORDER and ORDER.index(target) > ORDER.index(package):
            found.append(f"{path} imports {name}: {target} is right of {package}")
        if name == "relative import":
            found.append(f"{path} imports relatively, which hides the package")
        if package != "nas" or target != "nas" or rest[0] not in WINGS or not inner:
            continue
        wing, other = rest[0], inner[0]
        if other not in WINGS:
            continue
        files = IN_ORDER.get(wing, []) if other == wing else []
        back = len(inner) > 1 and inner[1] in files and files.index(inner[1]) > files.index(rest[1])
        if WINGS.index(other) > WINGS.index(wing) or back or path not in MUST_NOT_IMPORT.get((wing, other), {path}):
            found.append(f"{path} imports {name}: nas.{wing} must not know nas.{other}")
    return found


def modules() -> dict[str, str]:
    """Dotted name -> source of all modules of the packages."""
    paths = (path for package in ORDER[:4] for path in (ROOT / package).rglob("*.py"))
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}
    return {name: path.read_text() for name, path in names.items()}


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import themselves in the end, counting imports inside functions."""
    reached = {
        name: {known(target, sources) for target in imported(at_run_time(source))} - {name, ""}
        for name, source in sources.items()
    }
    for via in sources:
        for name in sources:
            if via in reached[name]:
                reached[name] |= reached[via]
    return sorted(name for name in sources if name in reached[name])


def at_run_time(source: str) -> str:
    """A module without what it imports for its annotations alone."""
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return ast.unparse(tree)


def known(name: str, sources: dict[str, str]) -> str:
    """The module that an imported name is, or is in; empty where it is of none of ours, or a package's own face."""
    while name and name not in sources:
        name = name.rpartition(".")[0]
    return name


def test_no_module_imports_itself_in_the_end() -> None:
    assert circle(modules()) == []
    sources = {"nas.a": "def f():\n    import nas.b", "nas.b": "from nas.a import c", "nas.c": "import nas.a"}
    assert circle(sources) == ["nas.a", "nas.b"]
    sources["nas.b"] = "if TYPE_CHECKING:\n    from nas.a import c"
    assert circle(sources) == []


def test_a_newcomer_finds_the_way() -> None:
    rooms = [p for p in (ROOT / "nas").iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert len(rooms) <= 10
    assert {p.name for p in rooms} == {*WINGS, "conf"}


FILES = sorted(p.relative_to(ROOT) for package in ORDER for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_leftwards(package: str) -> None:
    files = [path for path in FILES if path.parts[0] == package]
    assert [found for path in files for found in violations(str(path), (ROOT / path).read_text())] == []


def test_there_are_files_to_look_at() -> None:
    assert {path.parts[0] for path in FILES} >= {"search_spaces", "hardware_profiles", "predictors", "nas", "tests"}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("search_spaces/a.py", "import hardware_profiles.device"),
        ("search_spaces/a.py", "def f():\n    from predictors import base"),
        ("hardware_profiles/backends/a.py", "from predictors.base import Predictor"),
        ("predictors/a.py", "from nas.problem import Problem"),
        ("nas/run/a.py", "import experiments.benchmarks.a"),
        ("nas/run/a.py", "from tests.conftest import rng"),
        ("search_spaces/a.py", "from . import space"),
        ("nas/core/problem.py", "from nas.core.search_loop import search"),
        ("nas/core/pareto.py", "from nas.core import problem"),
        ("nas/core/search_loop.py", "from nas.searchers.nsga2 import NSGA2"),
        ("nas/searchers/a.py", "from nas.run import export"),
        ("nas/searchers/a.py", "from nas.pipeline.stages import search"),
        ("nas/supernet/a.py", "from nas.searchers.random import RandomSearch"),
        ("nas/supernet/a.py", "def f():\n    import nas.run.settings"),
        ("nas/report/page.py", "from nas.pipeline import stages"),
        ("nas/report/page.py", "from nas.searchers import random"),
        ("nas/run/fitting.py", "from nas.searchers import random"),
        ("nas/pipeline/stages.py", "from nas.commands.cli import main"),
        ("nas/pipeline/stages.py", "from nas.pipeline.running import plan"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hardware_profiles/a.py", "from search_spaces.space import SearchSpace"),
        ("nas/searchers/a.py", "from nas.core import pareto\nfrom nas.searchers.random import RandomSearch"),
        ("nas/run/searching.py", "from nas.searchers.random import RandomSearch\nfrom nas import supernet, core"),
        (
            "nas/pipeline/stages.py",
            "from nas.run.searching import search_fronts\nfrom nas.pipeline.checks import check",
        ),
        ("nas/commands/cli.py", "from nas.pipeline import stages"),
        ("nas/supernet/a.py", "from nas.data import digits\nfrom nas.supernet.b import c"),
        ("tests/test_a.py", "import nas, predictors"),
    ],
)
def test_a_right_import_is_not(path: str, source: str) -> None:
    assert violations(path, source) == []


OF_DEVICES = ("search_spaces", "hardware_profiles", "hardware_profiles.worker_main")
"""What every process of a device imports."""
CONTRACTS = ("search_spaces.space_contract", "hardware_profiles.backend_contract")


def test_light_packages_import_no_torch() -> None:
    """Nor do contracts, before they are called; processes of devices do without SciPy too."""
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "    print(name, *(heavy for heavy in ('torch', 'scipy') if heavy in sys.modules))"
    names = [*OF_DEVICES, *CONTRACTS, "predictors", "nas.core.search_loop", "nas.searchers"]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    found = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert list(found) == names and not any("torch" in heavy for heavy in found.values())
    assert not any(found[name] for name in OF_DEVICES)
