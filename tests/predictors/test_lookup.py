import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import LatencyTable, Measurement
from predictors import CorrectedLookup, LayerModel, PositionTable, coverage, plain_sum, sums_left_out
from predictors.base import Values
from predictors.lookup import TERMS
from predictors.predictor_contract import check_predictor, check_trainable
from search_spaces import Architecture, Genes, Layer, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MissingLayerError

Table = Callable[..., PositionTable]


def measurement(ms: float) -> Measurement:
    return Measurement(latency_ms=ms, median_ms=ms, p10_ms=ms, p90_ms=ms, runs=1, passes=1, noise=1.0, agreed=True)


def layer_ms(layer: Layer) -> float:
    return 0.01 + 1e-6 * layer.macs + 3e-7 * layer.params


def lookup_of(space: MobileNetV3, **settings: float) -> CorrectedLookup:
    return CorrectedLookup(PositionTable.of_layers(space, "latency", "ms", layer_ms), **settings)  # type: ignore[arg-type]


def planted(space: MobileNetV3, genes: Genes, terms: dict[str, float]) -> np.ndarray:
    """The model of the module's docstring, network by network."""
    values = []
    for row in genes:
        layers = space.lower(Architecture(space, row)).values()
        elements = sum(np.prod(layer.input_shape) + np.prod(layer.output_shape) for layer in layers)
        values.append(
            terms["scale"] * sum(map(layer_ms, layers))
            + terms["per_layer"] * len(layers)
            + terms["per_element"] * elements
            + terms["constant"]
        )
    return np.array(values)


def test_plain_sum_of_a_table(tmp_path: Path, space: MobileNetV3, everything: Genes) -> None:
    table = LatencyTable(tmp_path / "table.jsonl", "device", {})
    for layer in space.distinct_layers[1:]:
        table.add(layer, measurement(layer_ms(layer)))
    with pytest.raises(MissingLayerError, match="Measure it with `nas profile`"):
        plain_sum(space, table)  # never 0 ms
    table.add_failure(space.distinct_layers[0], "too large")
    assert np.isinf(plain_sum(space, table).predict(everything)).any()
    table.add(space.distinct_layers[0], measurement(layer_ms(space.distinct_layers[0])))
    expected = planted(space, everything, {"scale": 1, "per_layer": 0, "per_element": 0, "constant": 0})
    assert plain_sum(space, table).predict(everything) == pytest.approx(expected)


def test_a_model_fills_what_the_table_lacks(
    tmp_path: Path, digits_space: MobileNetV3, rng: np.random.Generator
) -> None:
    table = LatencyTable(tmp_path / "table.jsonl", "device", {})
    layers = [digits_space.distinct_layers[i] for i in rng.permutation(len(digits_space.distinct_layers))]
    for layer in layers[:40]:
        table.add(layer, measurement(layer_ms(layer)))
    table.add_failure(layers[40], "too large")
    model = LayerModel().fit(list(table), [m.latency_ms for m in table.values()])
    covered = coverage(digits_space, table)
    assert (set(covered.measured), set(covered.failed), set(covered.absent)) == (
        set(layers[:40]),
        {layers[40]},
        set(layers[41:]),
    )
    with pytest.raises(MissingLayerError):
        plain_sum(digits_space, table)
    with pytest.raises(InvalidValueError, match="not fitted"):
        plain_sum(digits_space, table, LayerModel())
    expected = {layer: layer_ms(layer) for layer in layers[:40]} | {layers[40]: np.inf}
    expected |= dict(zip(covered.absent, model.predict(covered.absent)[0], strict=True))
    filled = plain_sum(digits_space, table, model)
    assert np.array_equal(
        filled.values, PositionTable.of_layers(digits_space, "latency", "ms", expected.__getitem__).values
    )
    check_predictor(filled, digits_space, rng, infinite=True)
    complete = PositionTable.of_layers(digits_space, "latency", "ms", layer_ms)
    genes = digits_space.sample(500, rng)
    genes = genes[np.isfinite(filled.predict(genes))]
    assert filled.predict(genes) == pytest.approx(complete.predict(genes), rel=0.05)


@pytest.mark.parametrize(
    "terms",
    [
        {"scale": 1.0, "per_layer": 0.0, "per_element": 0.0, "constant": 0.0},
        {"scale": 0.7, "per_layer": -0.002, "per_element": 2e-7, "constant": 0.03},
        {"scale": 1.4, "per_layer": 0.01, "per_element": -1e-7, "constant": -0.01},
    ],
)
def test_planted_terms_are_recovered(digits_space: MobileNetV3, terms: dict[str, float]) -> None:
    lookup = lookup_of(digits_space, ridge=1e-12)
    genes = digits_space.sample(40, np.random.default_rng(0))
    lookup.fit(genes, planted(digits_space, genes, terms))
    assert [lookup.terms[name] for name in TERMS] == pytest.approx([terms[name] for name in TERMS], rel=1e-3, abs=1e-6)
    unseen = digits_space.sample(200, np.random.default_rng(1))
    assert lookup.predict(unseen) == pytest.approx(planted(digits_space, unseen, terms), rel=1e-6)


def test_with_the_usual_ridge_and_noise_it_predicts_unseen_networks(digits_space: MobileNetV3) -> None:
    rng = np.random.default_rng(0)
    terms = {"scale": 0.7, "per_layer": -0.002, "per_element": 2e-7, "constant": 0.03}
    genes, unseen = digits_space.sample(20, rng), digits_space.sample(200, rng)
    lookup = lookup_of(digits_space)
    lookup.fit(genes, planted(digits_space, genes, terms) * rng.normal(1, 0.01, 20))
    truth = planted(digits_space, unseen, terms)
    error = np.abs(lookup.predict(unseen) - truth) / truth
    plain = np.abs(lookup.layers.predict(unseen) - truth) / truth
    assert error.mean() < 0.02 < plain.mean()


def test_a_heavy_ridge_leaves_the_plain_sum(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    lookup = lookup_of(digits_space, ridge=1e9)
    genes = digits_space.sample(20, rng)
    lookup.fit(genes, 3 * lookup.layers.predict(genes))
    assert lookup.predict(genes) == pytest.approx(lookup.layers.predict(genes), rel=1e-6)


def test_minimum_is_exact(space: MobileNetV3, everything: Genes, rng: np.random.Generator) -> None:
    lookup = lookup_of(space)
    genes = space.sample(20, rng)
    lookup.fit(genes, planted(space, genes, {"scale": 0.5, "per_layer": -0.02, "per_element": 1e-6, "constant": 0.3}))
    best, least = lookup.minimum()
    assert least == pytest.approx(lookup.predict(everything).min()) == pytest.approx(lookup.predict(best[None])[0])


def hole(layer: Layer) -> float:
    return np.inf if getattr(layer, "kernel", 0) == 5 and getattr(layer, "stride", 0) == 2 else layer_ms(layer)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_what_cannot_run_stays_infinite_whatever_the_terms(space: MobileNetV3, everything: Genes, slope: float) -> None:
    layers = PositionTable.of_layers(space, "latency", "ms", hole)
    plain = layers.predict(everything)
    runnable = everything[np.isfinite(plain)]
    lookup = CorrectedLookup(layers)
    values = 1 + slope * layers.predict(runnable)  # a negative slope turns inf into -inf if left to itself
    lookup.fit(runnable, values)
    lookup._set({"scale": slope, "per_layer": 0.0, "per_element": 0.0, "constant": 1.0})
    assert np.array_equal(np.isposinf(lookup.predict(everything)), np.isinf(plain))
    assert not np.isneginf(lookup.predict(everything)).any()
    check_predictor(lookup, space, np.random.default_rng(0), infinite=True)
    with pytest.raises(InvalidValueError, match="cannot run"):
        lookup.fit(everything, np.ones(len(everything)))


@pytest.mark.parametrize(
    ("n", "change", "message"),
    [
        (7, 1.0, "At least 8 measured networks"),
        (20, np.nan, "finite and positive, but row 0 is nan"),
        (20, np.inf, "finite and positive, but row 0 is inf"),
        (20, 0.0, "finite and positive, but row 0 is 0"),
        (20, -1.0, "finite and positive, but row 0 is -"),
    ],
)
def test_bad_pairs_are_refused(
    space: MobileNetV3, rng: np.random.Generator, n: int, change: float, message: str
) -> None:
    lookup, genes = lookup_of(space), space.sample(n, rng)
    values = lookup.layers.predict(genes)
    values[0] *= change
    with pytest.raises(InvalidValueError, match=message):
        lookup.fit(genes, values)
    with pytest.raises(InvalidValueError, match="not fitted"):
        lookup.predict(genes)
    with pytest.raises(InvalidValueError, match="not fitted"):
        lookup.minimum()


def test_contract(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    check_trainable(lambda: lookup_of(digits_space), digits_space, rng)
    lookup = lookup_of(digits_space)
    genes = digits_space.sample(20, rng)
    lookup.fit(genes, 0.9 * lookup.layers.predict(genes))
    check_predictor(lookup, digits_space, rng)


@pytest.mark.parametrize(
    ("terms", "chosen"),
    [
        ({"scale": 1.0, "per_layer": 0.0, "per_element": 0.0, "constant": 0.0}, ()),
        ({"scale": 0.7, "per_layer": 0.0, "per_element": 0.0, "constant": 0.0}, ("scale",)),
        ({"scale": 0.7, "per_layer": -0.002, "per_element": 2e-6, "constant": 0.03}, TERMS),
    ],
)
def test_only_terms_that_help_on_networks_left_out_are_fitted(
    digits_space: MobileNetV3, terms: dict[str, float], chosen: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(3)
    genes = digits_space.sample(30, rng)
    lookup = lookup_of(digits_space)
    lookup.fit(genes, planted(digits_space, genes, terms) * rng.normal(1, 1e-3, 30))
    assert lookup.chosen == chosen


def test_leaving_out_is_what_refitting_without_gives(digits_space: MobileNetV3) -> None:
    rng = np.random.default_rng(4)
    genes = digits_space.sample(12, rng)
    values = lookup_of(digits_space).layers.predict(genes) * rng.normal(0.8, 0.05, 12)
    lookup = lookup_of(digits_space, ridge=1e-12)
    features = np.stack([lookup.layers.predict(genes), *np.ones((3, 12))], axis=1)
    _, left_out = lookup._fit(features, values, ("scale",))
    for i in range(12):
        rest = np.arange(12) != i
        (scale, *_), _ = lookup._fit(features[rest], values[rest], ("scale",))
        assert left_out[i] == pytest.approx((values[i] - scale * features[i, 0]) / values[i], rel=1e-6)


def test_the_stated_deviation_is_that_of_unseen_networks(tmp_path: Path, digits_space: MobileNetV3) -> None:
    from predictors import load, save

    rng = np.random.default_rng(5)
    genes, unseen = digits_space.sample(40, rng), digits_space.sample(2000, rng)
    lookup = lookup_of(digits_space)
    genes = genes[lookup.layers.predict(genes) < 0.8 * lookup.layers.predict(digits_space.biggest.genes[None])]
    with pytest.raises(InvalidValueError, match="not fitted"):
        lookup.predict_with_std(genes)
    with pytest.raises(InvalidValueError, match="not fitted"):
        lookup.extrapolates(genes)
    lookup.fit(genes, 0.8 * lookup.layers.predict(genes) * rng.normal(1, 0.02, len(genes)))
    predicted, std = lookup.predict_with_std(unseen)
    truth = 0.8 * lookup.layers.predict(unseen) * rng.normal(1, 0.02, 2000)
    assert 0.9 < (np.abs(predicted - truth) <= 2 * std).mean() < 0.99
    assert std.min() > 0 and lookup.expected_error == pytest.approx(0.02, rel=0.3)
    biggest = digits_space.biggest.genes[None]
    assert lookup.extrapolates(biggest).all() and not lookup.extrapolates(genes).any()
    assert lookup.predict_with_std(biggest)[1] / lookup.predict(biggest) > (std / predicted).min()
    save(lookup, digits_space, tmp_path / "lookup.npz")
    again = load(tmp_path / "lookup.npz", digits_space)
    assert isinstance(again, CorrectedLookup)
    assert all(np.array_equal(a, b) for a, b in zip(again.predict_with_std(unseen), (predicted, std), strict=True))


def in_context(path: Path, space: MobileNetV3, genes: Genes, rng: np.random.Generator) -> tuple[LatencyTable, Values]:
    """A table of networks whose layers take a tenth more or less in each, and the networks' latencies."""
    table, values = LatencyTable(path, "device", {"method": "in context"}), []
    for row in genes:
        layers = space.lower(Architecture(space, row))
        split = {position: layer_ms(layer) * rng.normal(1, 0.1) for position, layer in layers.items()}
        values.append(sum(split.values()))
        table.add_network(layers, dataclasses.replace(measurement(values[-1]), positions_ms=split))
    return table, np.array(values)


def test_sums_of_a_table_in_context_leave_the_network_out(tmp_path: Path, digits_space: MobileNetV3) -> None:
    rng = np.random.default_rng(0)
    genes = digits_space.sample(30, rng)
    table, _ = in_context(tmp_path / "table.jsonl", digits_space, genes, rng)
    sums = sums_left_out(digits_space, LatencyTable.read(tmp_path / "table.jsonl"), genes)
    for i in range(0, 30, 7):
        rest = LatencyTable(tmp_path / f"{i}.jsonl", "device", {})
        for record in np.delete(np.arange(30), i):
            layers = digits_space.lower(Architecture(digits_space, genes[record]))
            split = dict(zip(layers, table._networks[tuple(layers.values())], strict=True))
            rest.add_network(layers, dataclasses.replace(measurement(1.0), positions_ms=split))
        layers = digits_space.lower(Architecture(digits_space, genes[i])).values()
        expected = [(rest if layer in rest else table)[layer].latency_ms for layer in layers]
        assert sums[i] == pytest.approx(sum(expected))


def test_networks_that_made_the_table_do_not_make_it_look_better(tmp_path: Path, digits_space: MobileNetV3) -> None:
    rng = np.random.default_rng(1)
    genes = digits_space.sample(40, rng)
    table, values = in_context(tmp_path / "table.jsonl", digits_space, genes, rng)
    fill = LayerModel()
    fill.fit(list(table), np.array([table[layer].latency_ms for layer in table]))
    layers = plain_sum(digits_space, table, fill=fill)
    naive, honest = CorrectedLookup(layers), CorrectedLookup(layers)
    naive.fit(genes, values)
    honest.fit(genes, values, sums=sums_left_out(digits_space, table, genes))
    unseen = digits_space.sample(200, rng)
    _, truth = in_context(tmp_path / "unseen.jsonl", digits_space, unseen, rng)
    within = []
    for lookup in (naive, honest):
        predicted, std = lookup.predict_with_std(unseen)
        within.append(float((np.abs(predicted - truth) <= 2 * std).mean()))
    assert naive.expected_error < honest.expected_error and within[0] < within[1]
    assert 0.9 < within[1] <= 1


def test_sums_of_layers_alone_are_the_tables(tmp_path: Path, digits_space: MobileNetV3) -> None:
    table = LatencyTable(tmp_path / "table.jsonl", "device", {})
    for layer in digits_space.distinct_layers:
        table.add(layer, measurement(layer_ms(layer)))
    genes = digits_space.sample(5, np.random.default_rng(0))
    sums = sums_left_out(digits_space, table, genes)
    assert sums == pytest.approx(plain_sum(digits_space, table).predict(genes))
    other = LatencyTable(tmp_path / "other.jsonl", "device", {})
    with pytest.raises(MissingLayerError):
        sums_left_out(digits_space, other, genes)


def busy(values: Values, rng: np.random.Generator) -> Values:
    """What whole networks seem to take where other programs run, by the clock on the wall: up to 11 times as long."""
    return values * rng.uniform(1, 11, len(values))


@pytest.mark.parametrize("seed", range(10))
def test_no_network_is_predicted_to_take_no_time(digits_space: MobileNetV3, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genes, lookup = digits_space.sample(12, rng), lookup_of(digits_space)
    sums = lookup.layers.predict(genes)
    lookup.fit(genes, np.sort(busy(sums, rng))[np.argsort(np.argsort(sums))])  # the slower, the more disturbed
    assert lookup.terms["scale"] > 0
    assert lookup.minimum()[1] >= lookup.layers.minimum()[1] / 2
    some = digits_space.sample(500, rng)
    assert (lookup.predict(some) >= lookup.layers.predict(some) / 2).all()


def test_terms_that_cannot_be_are_told(digits_space: MobileNetV3) -> None:
    genes = digits_space.sample(40, np.random.default_rng(0))
    lookup = lookup_of(digits_space)
    sums = lookup.layers.predict(genes)
    slow = genes[sums > np.quantile(sums, 0.5)]
    sums = lookup.layers.predict(slow)
    lookup.fit(slow, 10 * sums - 9.5 * sums.min())
    assert "constant" not in lookup.chosen and lookup.minimum()[1] > 0
    assert re.search(r"fit the measured networks best \(scale (9\.9|10)", lookup.doubt)
    assert "probably disturbed" in lookup.doubt
    lookup.fit(slow, 0.2 * sums + 0.5 * sums.min())  # a device whose networks take less than their layers, and a start
    assert lookup.terms["scale"] == pytest.approx(0.2, rel=0.01) and "constant" in lookup.chosen and not lookup.doubt
