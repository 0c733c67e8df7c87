"""Metrics that are plain functions."""

import functools
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import nas
from nas.core.problem import Objective, Problem
from nas.core.search_loop import search
from nas.searchers.random import RandomSearch
from predictors import Function, macs
from predictors.base import Bounded
from search_spaces import Architecture, Genes, MobileNetV3
from search_spaces.base.errors import InfeasibleError, InvalidValueError
from search_spaces.metric import Limit


def of_network(architecture: Architecture) -> float:
    return sum(layer.macs for layer in architecture.space.lower(architecture).values()) / 1e3


def test_a_function_of_a_network_of_its_layers_and_of_many_at_once_agree(digits_space: MobileNetV3) -> None:
    genes = digits_space.sample(20, np.random.default_rng(0))
    expected = macs(digits_space).predict(genes) / 1e3
    whole = nas.Function("energy_mj", "mJ", of_network)
    layers = Function("energy_mj", "mJ", lambda layer: layer.macs / 1e3, layers=True)
    batched = Function("energy_mj", "mJ", lambda genes: macs(digits_space).predict(genes) / 1e3, batched=True)
    for function in (whole, layers, batched):
        predictor = function.predictor(digits_space)
        assert (predictor.metric, predictor.unit) == ("energy_mj", "mJ")
        assert predictor.predict(genes) == pytest.approx(expected)
        assert predictor.predict(genes[:0]).shape == (0,)
    least = layers.predictor(digits_space)
    assert isinstance(least, Bounded)
    assert least.minimum()[1] == pytest.approx(macs(digits_space).minimum()[1] / 1e3)
    assert (whole.metric.of_layers, layers.metric.of_layers) == (None, "sum")


@pytest.mark.parametrize(
    "value", [float("nan"), -np.inf, "3", None, True, 1j, 10**400, pytest.param(10**9999, id="huge"), np.complex64(1)]
)
def test_what_is_no_number_is_told_with_the_function_and_the_network(digits_space: MobileNetV3, value: Any) -> None:
    function = Function("energy_mj", "mJ", lambda architecture: value)
    with pytest.raises(InvalidValueError, match=r"function .*lambda.* of the metric energy_mj must .*'resolution': "):
        function.predictor(digits_space).predict(digits_space.smallest.genes[None])


def test_what_a_function_raises_is_told_with_the_network(digits_space: MobileNetV3) -> None:
    def broken(architecture: Architecture) -> float:
        raise KeyError("joule")

    predictor = Function("energy_mj", "mJ", broken).predictor(digits_space)
    with pytest.raises(InvalidValueError, match=r"broken of the metric energy_mj fails for \{'resolution': .*joule"):
        predictor.predict(digits_space.smallest.genes[None])
    with pytest.raises(InvalidValueError, match="broken .* fails for MBConv|broken .* fails for"):
        Function("energy_mj", "mJ", broken, layers=True).predictor(digits_space)


def test_a_function_that_ends_the_program_fails_and_a_fraction_is_a_number(digits_space: MobileNetV3) -> None:
    genes = digits_space.smallest.genes[None]
    with pytest.raises(InvalidValueError, match="fails for .*SystemExit"):
        Function("energy_mj", "mJ", lambda architecture: sys.exit(0)).predictor(digits_space).predict(genes)
    third = Function("energy_mj", "mJ", lambda architecture: Fraction(1, 3)).predictor(digits_space)
    assert third.predict(genes) == pytest.approx([1 / 3])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda n: [[1.0], [1.0, 2.0], 3], "array of numbers"),
        (lambda n: np.zeros(n + 1), r"shape \(3,\)"),
        (lambda n: ["a"] * n, "numbers"),
        (lambda n: [np.nan] * n, "nan"),
    ],
)
def test_values_of_many_networks_are_checked(digits_space: MobileNetV3, values: Any, message: str) -> None:
    def of_genes(genes: Genes) -> Any:
        return values(len(genes))

    genes = np.repeat(digits_space.smallest.genes[None], 3, 0)
    with pytest.raises(InvalidValueError, match=message):
        Function("energy_mj", "mJ", of_genes, batched=True).predictor(digits_space).predict(genes)


def test_the_fingerprint_follows_the_source() -> None:
    def one(architecture: Architecture) -> float:
        return 1.0

    first = Function("energy_mj", "mJ", one).fingerprint
    assert first == Function("energy_mj", "mJ", one).fingerprint

    def one(architecture: Architecture) -> float:  # type: ignore[no-redef]
        return 2.0

    assert first != Function("energy_mj", "mJ", one).fingerprint
    parts = [Function("e", "J", functools.partial(pow, exp)).fingerprint for exp in (2, 3, 3)]
    assert parts[0] != parts[1] == parts[2]
    compiled = [eval(text) for text in ("lambda a: 1.0", "lambda a: 2.0")]
    assert len({Function("e", "J", f).fingerprint for f in compiled}) == 2


@pytest.mark.parametrize("given", [{"name": "Energy (mJ)"}, {"f": 3}, {"layers": True, "batched": True}])
def test_a_malformed_metric_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        Function(**{"name": "energy_mj", "unit": "mJ", "f": of_network, **given})


def test_a_search_for_and_within_a_function(digits_space: MobileNetV3) -> None:
    function = Function("size", "1", lambda layer: layer.params, "max", layers=True)
    energy = Function("energy_mj", "mJ", of_network)
    size = Objective(function.predictor(digits_space), function.metric)
    least = float(macs(digits_space).minimum()[1]) / 1e3

    def within(bound: float) -> Problem:
        limit = Limit(energy.metric, bound, "limit.energy_mj")
        return Problem(digits_space, [size, Objective(energy.predictor(digits_space), energy.metric, False, limit)])

    found = search(within(1.3 * least), RandomSearch(), evaluations=400, seed=0)
    assert len(found.values) == 1 and (found.values[:, 1] <= 1.3 * least).all()
    with pytest.raises(InfeasibleError, match=r"`limit.energy_mj`=.*the closest has size .*energy .* mJ"):
        search(within(0.9 * least), RandomSearch(), evaluations=50, seed=0)
