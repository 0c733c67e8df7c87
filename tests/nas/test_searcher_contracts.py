"""The contract that ships with nas, over every searcher that has a YAML."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate

import nas
from nas.core.problem import Problem
from nas.core.search_loop import search
from nas.core.searcher_contract import check_searcher
from search_spaces import Architecture, Genes

FOLDER = Path(nas.__file__).parent / "conf" / "searcher"
SEARCHERS = sorted(path for path in FOLDER.glob("*.yaml") if "_partial_" not in path.read_text())
"""All but those that train on images, which have a contract of their own in `test_gradient`."""

SMALLER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "auto": ({}, {"ends": True}),
    "exact": ({}, {"ends": True}),
    "smbo": ({"start": 10, "pool": 1000, "generations": 3}, {"evaluations": 60, "seeds": 3}),
    # A model-based searcher takes some 20 ms per architecture.
    "optuna_gp": ({"batch": 3, "startup": 6, "recent": 8}, {"evaluations": 20, "seeds": 1}),
    "optuna_nsga2": ({"batch": 10, "startup": 10}, {"evaluations": 60, "seeds": 3}),
    "optuna_nsga3": ({"batch": 10, "startup": 10}, {"evaluations": 60, "seeds": 3}),
    "tpe": ({"batch": 4, "startup": 8, "recent": 100}, {"evaluations": 60, "seeds": 3}),
}
"""Settings and budget of the searchers that are too slow for those of their YAML."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.slow if path.stem.startswith(("optuna_", "tpe")) else ())
        for path in SEARCHERS
    ],
    ids=lambda path: path.stem,
)
def test_contract(path: Path, rng: np.random.Generator) -> None:
    searcher = instantiate(yaml.safe_load(path.read_text()))
    settings, budget = SMALLER.get(path.stem, ({}, {}))
    check_searcher(dataclasses.replace(searcher, **settings), rng, **budget)


@pytest.mark.parametrize("path", SEARCHERS, ids=lambda path: path.stem)
def test_fixed_choices_stay_fixed(path: Path, digits_problem: Problem) -> None:
    """Of two resolutions and kernels the part has one each, whoever searches it."""
    fixed = {"resolution": 12, "kernel.1.1": 5}
    problem = Problem(digits_problem.space.restricted(fixed), digits_problem.objectives)
    searcher = instantiate(yaml.safe_load(path.read_text()))
    searcher = dataclasses.replace(searcher, **SMALLER.get(path.stem, ({}, {}))[0])
    asked = []

    class Watched:
        batch = searcher.batch
        init, tell = staticmethod(searcher.init), staticmethod(searcher.tell)

        @staticmethod
        def ask(*arguments: Any) -> Genes:
            asked.append(searcher.ask(*arguments))
            return asked[-1]

    result = search(problem, Watched(), evaluations=min(60, 3 * searcher.batch), seed=0)
    for row in np.concatenate([*asked, result.genes]):
        values = Architecture(digits_problem.space, row).values
        assert all(values[name] == value for name, value in fixed.items())


@pytest.mark.slow
def test_contract_of_tpe_with_a_larger_budget(rng: np.random.Generator) -> None:
    path = next(path for path in SEARCHERS if path.stem == "tpe")
    searcher = instantiate(yaml.safe_load(path.read_text()))
    check_searcher(dataclasses.replace(searcher, batch=10, startup=30), rng, evaluations=300, seeds=3)


def test_there_are_searchers() -> None:
    assert {path.stem for path in SEARCHERS} >= {"nsga2", "random", "tpe"}
