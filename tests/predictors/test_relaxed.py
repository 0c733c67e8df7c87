"""Means over networks whose choices are still probabilities: against enumeration, sampling and finite differences."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from predictors import CorrectedLookup, PositionTable, macs, peak_memory
from predictors.base import Differentiable
from search_spaces import Choice, Conv, Genes, Layer, Position, SearchSpace
from search_spaces.architecture import Condition, Value
from search_spaces.base.errors import InvalidValueError
from tests.conftest import shipped

Table = Callable[..., PositionTable]


def drawn(space: SearchSpace, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    return {c.name: torch.from_numpy(rng.dirichlet(np.ones(len(c.values)))) for c in space.choices}


def certain(space: SearchSpace, genes: Genes) -> dict[str, torch.Tensor]:
    pairs = zip(space.choices, genes.tolist(), strict=True)
    return {c.name: torch.eye(len(c.values), dtype=torch.float64)[gene] for c, gene in pairs}


def enumerated(table: PositionTable, probabilities: Mapping[str, torch.Tensor]) -> float:
    """Every assignment of all choices, whether they matter or not."""
    space = table.space
    genes = np.array(list(itertools.product(*(range(int(c)) for c in space.cardinalities))), np.int16)
    weights = np.ones(len(genes))
    for column, choice in enumerate(space.choices):
        weights *= probabilities[choice.name].numpy()[genes[:, column]]
    possible = weights > 0
    return float(weights[possible] @ table.predict(space.canonical(genes[possible])))


def test_mean_is_that_of_enumeration(space: SearchSpace, random_table: Table, rng: np.random.Generator) -> None:
    for seed in range(5):
        table, probabilities = random_table(space, seed, constant=0.25), drawn(space, rng)
        assert float(table.relaxed(probabilities)) == pytest.approx(enumerated(table, probabilities), rel=1e-9)


def test_mean_over_equal_cells_is_that_of_enumeration(rng: np.random.Generator) -> None:
    space = shipped("nasbench201")
    table = PositionTable(space, "latency", "ms", rng.random(space.table_size))  # equal cells have unequal entries
    probabilities = drawn(space, rng)
    assert float(table.relaxed(probabilities)) == pytest.approx(enumerated(table, probabilities), rel=1e-9)


class Nested(SearchSpace):
    """Its second layer's width matters in some networks only, which the layer itself does not say."""

    def __init__(self) -> None:
        choices = [
            Choice("depth", (1, 2)),
            Choice("branch", (0, 1, 2), Condition("depth", (2,))),
            Choice("width", (8, 16, 24), Condition("branch", (1, 2))),
        ]
        super().__init__("nested", {}, choices, [Position("first", ("depth",)), Position("second", ("width",))])

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        channels = int(values["width"]) if position == "second" else 8
        return Conv(3, channels, 3, 1, "relu", 8)


def test_a_choice_that_does_not_matter_counts_as_its_first_value(rng: np.random.Generator) -> None:
    space = Nested()
    table = PositionTable(space, "latency", "ms", np.array([0.0, 0.0, 1.0, 10.0, 100.0]))
    probabilities = drawn(space, rng)
    assert float(table.relaxed(probabilities)) == pytest.approx(enumerated(table, probabilities), rel=1e-9)
    matters = float(probabilities["depth"][1] * probabilities["branch"][1:].sum())
    by_hand = (1 - matters) + matters * float(probabilities["width"] @ torch.tensor([1.0, 10.0, 100.0]).double())
    assert float(table.relaxed(probabilities)) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("name", ["mobilenet_v3_digits", "fbnet", "nasbench201", "ofa_resnet50", "ofa_mobilenet_v3"])
class TestSpaces:
    def test_mean_is_that_of_samples(self, name: str, random_table: Table, rng: np.random.Generator) -> None:
        space = shipped(name)
        table, probabilities = random_table(space, 1), drawn(space, rng)
        columns = [rng.choice(len(p), 40_000, p=p.numpy()) for p in probabilities.values()]
        sampled = table.predict(space.canonical(np.stack(columns, 1).astype(np.int16)))
        assert float(table.relaxed(probabilities)) == pytest.approx(sampled.mean(), rel=0.01)

    def test_certain_choices_are_an_architecture(self, name: str, rng: np.random.Generator) -> None:
        space = shipped(name)
        table = macs(space)
        for genes in space.sample(3, rng):
            value = float(table.relaxed(certain(space, genes)))
            assert value == pytest.approx(table.predict(genes[None])[0], rel=1e-12)

    def test_gradient_is_the_finite_difference(self, name: str, random_table: Table, rng: np.random.Generator) -> None:
        space = shipped(name)
        table, probabilities = random_table(space, 2), drawn(space, rng)
        leaves = {key: p.clone().requires_grad_() for key, p in probabilities.items()}
        table.relaxed(leaves).backward()  # type: ignore[no-untyped-call]
        for key, leaf in leaves.items():
            p = probabilities[key]
            step = float(p[[0, -1]].min()) / 2  # of any size: the mean is linear in the probabilities of one choice
            if len(p) == 1:
                continue
            shift = torch.zeros_like(p)
            shift[0], shift[-1] = step, -step
            up, down = (float(table.relaxed({**probabilities, key: p + sign * shift})) for sign in (1, -1))
            assert leaf.grad is not None
            expected = float(leaf.grad[0] - leaf.grad[-1])
            assert (up - down) / (2 * step) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_a_descent_finds_the_minimum(space: SearchSpace, random_table: Table) -> None:
    table = random_table(space, 3)
    logits = {c.name: torch.zeros(len(c.values), requires_grad=True) for c in space.choices}
    optimiser = torch.optim.Adam(logits.values(), lr=0.2)
    for _ in range(100):
        optimiser.zero_grad()
        table.relaxed({name: logit.softmax(0) for name, logit in logits.items()}).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    chosen = np.array([[int(logit.argmax()) for logit in logits.values()]], np.int16)
    assert table.predict(space.canonical(chosen))[0] <= np.quantile(table.predict(space.sample(2000, rng_of(0))), 0.02)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_layers_that_do_not_run(space: SearchSpace) -> None:
    table = PositionTable.of_layers(
        space, "latency", "ms", lambda layer: np.inf if getattr(layer, "kernel", 0) == 5 else 1.0
    )
    logits = {c.name: torch.zeros(len(c.values), dtype=torch.float64) for c in space.choices}
    assert float(table.relaxed({name: logit.softmax(0) for name, logit in logits.items()})) == np.inf
    for choice in space.choices:
        if choice.name.startswith("kernel"):
            logits[choice.name] = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    leaves = {name: logit.requires_grad_() for name, logit in logits.items()}
    probabilities = {name: logit.softmax(0) for name, logit in leaves.items()}
    mean = table.relaxed(probabilities)
    assert float(mean.detach()) == pytest.approx(
        enumerated(table, {name: p.detach() for name, p in probabilities.items()}), rel=1e-9
    )
    mean.backward()  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for leaf in leaves.values()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert any(bool((g != 0).any()) for g in gradients if g is not None)


def test_a_layer_that_does_not_run_behind_a_depth_that_is_not_taken(space: SearchSpace) -> None:
    deep = [c for c in space.choices if c.active_when is not None and c.name.startswith("kernel")][0]
    assert deep.active_when is not None
    parent = deep.active_when.choice
    values = np.zeros(space.table_size)
    rows = space.sample(500, rng_of(0))
    p = next(p for p, position in enumerate(space.positions) if deep.name in position.depends_on)
    taken = rows[:, space.index[parent]] == 1
    values[space.position_index(rows[taken])[:, p]] = np.inf  # every layer there
    table = PositionTable(space, "latency", "ms", values)
    probabilities = drawn(space, rng_of(1))
    assert float(table.relaxed(probabilities)) == np.inf
    probabilities[parent] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert float(table.relaxed(probabilities)) == 0.0


def test_corrected_lookup(space: SearchSpace, rng: np.random.Generator) -> None:
    layers = PositionTable.of_layers(space, "latency", "ms", lambda layer: 0.01 + 1e-6 * layer.macs)
    lookup = CorrectedLookup(layers)
    genes = space.sample(40, rng)
    lookup.fit(genes, 0.7 * layers.predict(genes) + 0.3)
    assert isinstance(lookup, Differentiable) and isinstance(layers, Differentiable)
    probabilities = drawn(space, rng)
    before = float(lookup.relaxed(probabilities))
    assert before == pytest.approx(enumerated(lookup.table, probabilities), rel=1e-9)
    lookup.fit(genes, 2 * (0.7 * layers.predict(genes) + 0.3))
    assert float(lookup.relaxed(probabilities)) == pytest.approx(2 * before, rel=1e-3)  # nothing of the old fit is kept


def test_probabilities_of_single_precision_give_single_precision(ofa_space: SearchSpace) -> None:
    table, genes = macs(ofa_space), ofa_space.biggest.genes
    probabilities = {name: p.float() for name, p in certain(ofa_space, genes).items()}
    mean = table.relaxed(probabilities)
    assert mean.dtype == torch.float32 and mean.shape == ()
    assert float(mean.detach()) == pytest.approx(table.predict(genes[None])[0], rel=1e-5)
    assert table.relaxed(certain(ofa_space, genes)).dtype == torch.float64


def test_bad_probabilities_are_refused(space: SearchSpace, rng: np.random.Generator) -> None:
    table, good = macs(space), drawn(space, rng)
    name = space.choices[1].name
    short = {key: p for key, p in good.items() if key != name}
    for bad, message in (
        (short, f"Choice '{name}' needs probabilities of shape .2,., but got none"),
        (good | {name: torch.ones(3) / 3}, r"shape \(2,\), but got \(3,\)"),
        (good | {"colour": torch.ones(1)}, "has no choice 'colour'"),
        (good | {name: torch.tensor([0.5, 0.6], dtype=torch.float64)}, "add up to 1"),
        (good | {name: torch.tensor([1.5, -0.5], dtype=torch.float64)}, ">= 0"),
        (good | {name: torch.tensor([torch.nan, 0.5], dtype=torch.float64)}, "softmax"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            table.relaxed(bad)
    with pytest.raises(InvalidValueError, match="maximum over positions"):
        peak_memory(space).relaxed(good)


def test_a_table_that_is_not_relaxed_needs_no_torch() -> None:
    code = "import sys, predictors, predictors.relaxed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
