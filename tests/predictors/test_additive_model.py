from collections.abc import Callable

import numpy as np
import pytest

from predictors import CorrectedLookup, PositionTable, macs, peak_memory
from predictors.additive_model import additive, spread_sample, table_of
from predictors.base import Predictor, Values
from search_spaces import Genes, MobileNetV3, SearchSpace
from search_spaces.base.errors import InvalidValueError

Table = Callable[..., PositionTable]


class Of:
    """A function of genes as a predictor."""

    metric, unit = "accuracy", "1"

    def __init__(self, function: Callable[[Genes], Values]) -> None:
        self.predict = function


def of_choices(space: SearchSpace) -> Predictor:
    """A random number per value of each choice, added up over the choices that matter: no layer is special."""
    weights = np.random.default_rng(3).normal(size=int(space.cardinalities.sum()))
    return Of(lambda genes: space.encode(genes) @ weights)


def test_a_sum_over_positions_is_found_again(
    space: MobileNetV3, everything: Genes, random_table: Table, rng: np.random.Generator
) -> None:
    for seed in range(3):
        hidden = random_table(space, seed, constant=2.5)
        model = additive(Of(hidden.predict), space, rng, rows=800, held_out=100)
        assert model.r2 > 1 - 1e-9 and model.largest_error < 1e-3
        assert model.table.predict(everything) == pytest.approx(hidden.predict(everything), abs=1e-3)


def test_what_is_a_sum_already_is_given_back(space: MobileNetV3, random_table: Table, rng: np.random.Generator) -> None:
    table = random_table(space, 0)
    assert additive(table, space, rng).table is table
    lookup = CorrectedLookup(table)
    genes = space.sample(20, rng)
    lookup.fit(genes, 2 * table.predict(genes) + 1)
    model = additive(lookup, space, rng)
    assert model.table is lookup.table and (model.r2, model.largest_error, model.mean_error) == (1, 0, 0)
    assert table_of(of_choices(space)) is None


def test_a_maximum_is_fitted(space: MobileNetV3, everything: Genes, rng: np.random.Generator) -> None:
    memory = peak_memory(space)
    model = additive(memory, space, rng)
    assert model.table.combine == "sum" and model.table.metric == "memory"
    truth = memory.predict(everything)
    assert np.abs(model.table.predict(everything) - truth).mean() < 0.5 * np.abs(truth - truth.mean()).mean()


def test_the_stated_errors_are_those_of_other_networks(space: MobileNetV3, rng: np.random.Generator) -> None:
    size = macs(space)
    curved = Of(lambda genes: np.log(size.predict(genes)))
    model = additive(curved, space, rng)
    fresh = spread_sample(space, 3000, rng)
    truth = curved.predict(fresh)
    error = np.abs(model.table.predict(fresh) - truth)
    assert model.mean_error == pytest.approx(error.mean(), rel=0.15)
    assert model.largest_error == pytest.approx(error.max(), rel=0.5)
    assert model.r2 == pytest.approx(1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum(), abs=0.02)
    assert model.r2 > 0.9 and model.held_out == 500


def test_layers_that_were_never_drawn_are_told_by_their_choices(
    ofa_space: MobileNetV3, rng: np.random.Generator
) -> None:
    hidden = of_choices(ofa_space)
    rows = 600  # of 9,100 entries far more than half are in none of them
    model = additive(hidden, ofa_space, rng, rows=rows, held_out=200)
    assert model.r2 > 0.97


def test_genes_that_do_not_matter_do_not_count(
    space: MobileNetV3, everything: Genes, random_table: Table, rng: np.random.Generator
) -> None:
    """The exact minimum looks at all rows of genes, also at such that no network has."""
    model = additive(Of(random_table(space, 5).predict), space, rng)
    _, least = model.table.minimum()
    assert least == pytest.approx(model.table.predict(everything).min(), abs=1e-9)
    raw = rng.integers(0, space.cardinalities, (500, len(space.choices))).astype(np.int16)
    assert model.table.predict(raw) == pytest.approx(model.table.predict(space.canonical(raw)), abs=1e-9)


def test_it_is_nearer_where_it_is_told_to_be(space: MobileNetV3, rng: np.random.Generator) -> None:
    size = macs(space)
    curved = Of(lambda genes: np.sqrt(size.predict(genes)))
    corner = space.mutate(np.repeat(space.biggest.genes[None], 400, 0), rng, 0.05)

    def error(also: Genes | None) -> float:
        table = additive(curved, space, np.random.default_rng(1), rows=300, also=also).table
        return float(np.abs(table.predict(corner) - curved.predict(corner)).mean())

    assert error(np.repeat(corner, 5, 0)) < 0.5 * error(None)


def test_networks_that_the_device_cannot_run_are_left_out(
    space: MobileNetV3, everything: Genes, random_table: Table, rng: np.random.Generator
) -> None:
    hidden = random_table(space, 1, infinite=0.03)
    truth = hidden.predict(everything)
    runs = np.isfinite(truth)
    assert 0.2 < runs.mean() < 1
    table = additive(Of(hidden.predict), space, rng).table
    assert table.predict(everything[runs]) == pytest.approx(truth[runs], abs=1e-2)
    with pytest.raises(InvalidValueError, match="accuracy of only 0 of 2500 architectures is finite"):
        additive(Of(lambda genes: np.full(len(genes), np.inf)), space, rng)


def test_a_constant_is_one(space: MobileNetV3, everything: Genes, rng: np.random.Generator) -> None:
    model = additive(Of(lambda genes: np.full(len(genes), 0.7)), space, rng)
    assert model.table.predict(everything) == pytest.approx(0.7, abs=1e-12) and model.r2 == 1


def test_same_seed_same_sum(space: MobileNetV3) -> None:
    size = macs(space)
    curved = Of(lambda genes: np.log(size.predict(genes)))
    first, again, other = (additive(curved, space, np.random.default_rng(s)).table.values for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_the_sample_reaches_small_and_large_networks(ofa_space: MobileNetV3, rng: np.random.Generator) -> None:
    rows = spread_sample(ofa_space, 2000, rng)
    assert rows.dtype == np.int16 and np.array_equal(ofa_space.canonical(ofa_space.validate(rows)), rows)
    size = macs(ofa_space)
    leaning, uniform = size.predict(rows), size.predict(ofa_space.sample(2000, rng))
    assert leaning.min() < 0.8 * uniform.min() and leaning.max() > 1.2 * uniform.max()


@pytest.mark.parametrize(("rows", "held_out"), [(19, 100), (100, 19)])
def test_too_few_rows_are_refused(space: MobileNetV3, rng: np.random.Generator, rows: int, held_out: int) -> None:
    with pytest.raises(InvalidValueError, match="must be >= 20"):
        additive(of_choices(space), space, rng, rows=rows, held_out=held_out)
