from collections.abc import Sequence

import numpy as np
import pytest

from predictors.layer_model import (
    FEATURES,
    MINIMUM_ROWS,
    OPERATORS,
    ROWS_TO_STEER,
    LayerModel,
    layer_features,
    next_layers,
)
from search_spaces import Layer, MobileNetV3
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import (
    UIB,
    Bottleneck,
    Conv,
    FBNetBlock,
    FusedMBConv,
    LinearClassifier,
    MaxPool,
    MBConv,
    NormClassifier,
    ResidualConv,
)
from search_spaces.nasbench201 import Cell201, Head201, Reduction201

OF_OTHER_SPACES: list[Layer] = [
    Bottleneck(64, 64, 64, True, 2, "relu", 14),
    UIB(16, 32, 64, 3, 5, 2, "relu", 14),
    FusedMBConv(16, 32, 64, 3, 2, "relu", "none", 14),
    FBNetBlock(16, 16, 48, 3, 1, 2, "relu", 14),
    Cell201(16, 14, ("nor_conv_3x3", "none", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "none")),
    Reduction201(16, 32, 14),
    Head201(64, 10, 8),
    NormClassifier(96, 128, 10, "relu", 7),
    LinearClassifier(96, 10, 7),
    ResidualConv(16, 3, "relu", 14),
    MaxPool(16, 3, 2, 14),
]
"""One of each layer kind that the digits space lacks."""


def device_ms(layers: Sequence[Layer]) -> np.ndarray:
    """A made-up device: operators of each class have rates of their own, and depthwise ones prefer large channels."""
    columns = dict(zip(FEATURES, np.expm1(layer_features(layers)).T, strict=True))
    depthwise = sum(columns[name] for name in FEATURES if name.startswith("depthwise") and name.endswith("macs"))
    return np.asarray(
        3e-3 * columns["all_operators"]
        + 2e-6 * columns["pointwise_macs"]
        + 1e-5 * depthwise * (1 + 8 / columns["output_channels"])
        + 1e-6 * columns["all_elements"]
    )


def noisy(layers: Sequence[Layer], seed: int, noise: float = 0.03) -> np.ndarray:
    return np.asarray(device_ms(layers) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(layers))))


def split(layers: Sequence[Layer], n: int, seed: int) -> tuple[list[Layer], list[Layer]]:
    order = np.random.default_rng(seed).permutation(len(layers))
    return [layers[i] for i in order[:n]], [layers[i] for i in order[n:]]


@pytest.fixture(scope="module")
def layers(digits_space: MobileNetV3) -> tuple[Layer, ...]:
    return digits_space.distinct_layers


@pytest.fixture(scope="module")
def fitted(layers: tuple[Layer, ...]) -> LayerModel:
    measured, _ = split(layers, 60, 0)
    return LayerModel().fit(measured, noisy(measured, 0))


# -- features ----------------------------------------------------------------------------------------------------------


def counted(layer: Layer) -> dict[str, float]:
    """The features other than 0, before the logarithm."""
    row = np.expm1(layer_features([layer])[0])
    return {name: round(value) for name, value in zip(FEATURES, row, strict=True) if value > 0}


def test_features_of_a_block_counted_by_hand() -> None:
    block = MBConv(4, 4, 8, True, 3, 1, 0, "relu", 6)  # 1x1 4 -> 8, relu, 3x3 depthwise, relu, 1x1 8 -> 4, add
    wide, narrow = 8 * 36, 4 * 36
    pointwise = {"operators": 2, "macs": 2 * 32 * 36, "elements": 2 * (wide + narrow), "params": 64 + 16 + 8}
    depthwise = {"operators": 1, "macs": 72 * 36, "elements": 2 * wide, "params": 72 + 16}
    relu, add = {"operators": 2, "elements": 4 * wide}, {"operators": 1, "elements": 3 * narrow}
    classes = {"pointwise": pointwise, "depthwise_3": depthwise, "relu": relu, "add": add}
    expected = {f"{name}_{key}": value for name, row in classes.items() for key, value in row.items()}
    for key in pointwise:
        expected[f"all_{key}"] = sum(row.get(key, 0) for row in classes.values())
    expected |= {"input_channels": 4, "input_size": 6, "output_channels": 4, "output_size": 6}
    assert counted(block) == expected | {"peak_elements": block.peak_elements}


def test_classes_of_convolutions() -> None:
    def classes(layer: Layer) -> set[str]:
        return {name for name in OPERATORS if f"{name}_operators" in counted(layer)}

    assert classes(Conv(4, 8, 1, 1, "none", 6)) == {"pointwise"}
    assert classes(Conv(4, 8, 3, 1, "h_swish", 6)) == {"dense", "h_swish"}
    assert classes(MBConv(4, 8, 8, True, 9, 1, 0, "relu6", 6)) == {"pointwise", "depthwise_other", "relu6"}
    assert classes(FBNetBlock(4, 8, 8, 5, 1, 2, "relu", 6)) == {"grouped", "depthwise_5", "relu", "shuffle"}
    assert {"dense", "average_pool", "pointwise", "relu", "add"} == classes(Reduction201(4, 8, 6))


def test_features_of_all_kinds_add_up_to_the_layers_own_counts(layers: tuple[Layer, ...]) -> None:
    everything = [*layers, *OF_OTHER_SPACES]
    table = dict(zip(FEATURES, np.expm1(layer_features(everything)).T, strict=True))
    for name in ("macs", "params"):
        own = np.array([getattr(layer, name) for layer in everything])
        assert table[f"all_{name}"] == pytest.approx(own)
        assert sum(table[f"{operator}_{name}"] for operator in OPERATORS) == pytest.approx(own)
    assert layer_features([]).shape == (0, len(FEATURES))


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "median", "mean"), [(16, 0.1, 0.15), (40, 0.05, 0.07), (80, 0.03, 0.05)])
def test_it_predicts_layers_that_were_not_measured(
    layers: tuple[Layer, ...], n: int, median: float, mean: float
) -> None:
    measured, unseen = split(layers, n, 0)
    predicted, _ = LayerModel().fit(measured, noisy(measured, 0)).predict(unseen)
    error = np.abs(predicted / device_ms(unseen) - 1)
    assert np.median(error) < median and error.mean() < mean


def test_it_beats_time_per_mac(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    measured, unseen = split(layers, 60, 0)
    macs, ms = np.array([layer.macs for layer in measured]), noisy(measured, 0)
    slope, offset = np.polyfit(macs, ms, 1, w=1 / ms)
    plain = np.abs((slope * np.array([layer.macs for layer in unseen]) + offset) / device_ms(unseen) - 1)
    assert np.abs(fitted.predict(unseen)[0] / device_ms(unseen) - 1).mean() < plain.mean() / 3


def test_two_standard_deviations_cover_most_unseen_layers(layers: tuple[Layer, ...]) -> None:
    covered = []
    for seed in range(4):
        measured, unseen = split(layers, 60, seed)
        predicted, deviation = LayerModel(seed, trees=16).fit(measured, noisy(measured, seed)).predict(unseen)
        covered.append(np.abs(np.log(noisy(unseen, seed + 9) / predicted)) < 2 * deviation)
    assert 0.85 <= np.mean(covered) <= 0.995


def test_noise_widens_the_deviation(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    measured, unseen = split(layers, 60, 0)
    wild = LayerModel().fit(measured, noisy(measured, 0, noise=0.3))
    assert np.median(wild.predict(unseen)[1]) > 3 * np.median(fitted.predict(unseen)[1])


def test_far_from_the_measured_layers_it_is_unsure_yet_sane(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    measured, unseen = split(layers, 60, 0)
    usual = np.median(fitted.predict(unseen)[1])
    operators = [i for i, name in enumerate(FEATURES) if name.endswith("_operators")]
    never_seen = layer_features(measured)[:, operators].max(0) == 0
    strange = [layer for layer in OF_OTHER_SPACES if layer_features([layer])[0, operators][never_seen].any()]
    big = MBConv(160, 160, 960, True, 5, 1, 240, "h_swish", 56)  # 1000 times the work of what was measured
    assert len(strange) > 5
    assert fitted.predict([*strange, big])[1].min() > 3 * usual
    assert fitted.predict(OF_OTHER_SPACES)[1].min() > 1.5 * usual
    predicted, _ = fitted.predict([*OF_OTHER_SPACES, big])
    assert np.isfinite(predicted).all() and (predicted > 0).all()
    assert predicted[-1] / device_ms([big])[0] == pytest.approx(1, abs=0.5)


def test_an_operator_that_no_measured_layer_has_is_the_least_sure(layers: tuple[Layer, ...]) -> None:
    plain = [layer for layer in layers if isinstance(layer, MBConv) and layer.squeeze == 0]
    squeezed = [layer for layer in layers if isinstance(layer, MBConv) and layer.squeeze > 0]
    model = LayerModel().fit(plain, noisy(plain, 0))
    assert model.predict(squeezed)[1].min() > 3 * np.median(model.predict(plain)[1])


def test_the_same_rows_and_seed_give_the_same_model(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    measured, unseen = split(layers, 60, 0)
    again = LayerModel().fit(measured, noisy(measured, 0))
    other = LayerModel(seed=1).fit(measured, noisy(measured, 0))
    for first, second, third in zip(fitted.predict(unseen), again.predict(unseen), other.predict(unseen), strict=True):
        assert np.array_equal(first, second)
        assert not np.array_equal(first, third)
    assert fitted.expected_error(unseen) == again.expected_error(unseen)


def test_one_layer_is_predicted_as_among_many(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    many, one = fitted.predict(layers), fitted.predict(layers[7:8])
    assert one[0][0] == pytest.approx(many[0][7]) and one[1][0] == pytest.approx(many[1][7])
    assert [len(part) for part in fitted.predict([])] == [0, 0]


def test_latencies_scale(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    measured, unseen = split(layers, 60, 0)
    slower = LayerModel().fit(measured, 2**13 * noisy(measured, 0))  # a power of 2, so that nothing is rounded
    assert slower.predict(unseen)[0] == pytest.approx(2**13 * fitted.predict(unseen)[0])
    assert slower.predict(unseen)[1] == pytest.approx(fitted.predict(unseen)[1])


@pytest.mark.parametrize("chosen", [False, True])
def test_the_expected_error_is_honest(layers: tuple[Layer, ...], chosen: bool) -> None:
    ratios = []
    for seed in range(5):
        measured, _ = split(layers, 40, seed)
        if chosen:
            measured = next_layers(None, layers, measured[:1], 39, np.random.default_rng(seed)) + measured[:1]
        unseen = [layer for layer in layers if layer not in set(measured)]
        model = LayerModel(seed, trees=16).fit(measured, noisy(measured, seed))
        true = np.abs(model.predict(unseen)[0] / noisy(unseen, seed + 9) - 1).mean()
        ratios.append(model.expected_error(unseen) / true)
    assert 0.6 < np.median(ratios) < 2.5  # chosen layers are the hard ones, so it is rather too high


@pytest.mark.parametrize(
    ("n", "value", "message"),
    [
        (MINIMUM_ROWS - 1, 1.0, "At least 12 measured layers"),
        (20, np.nan, "finite and positive, but .* has nan ms"),
        (20, np.inf, "finite and positive, but .* has inf ms"),
        (20, 0.0, "finite and positive, but .* has 0.0 ms"),
        (20, -1.0, "finite and positive, but .* has -1.0 ms"),
    ],
)
def test_bad_rows_are_refused(layers: tuple[Layer, ...], n: int, value: float, message: str) -> None:
    ms = device_ms(layers[:n])
    ms[3] = value
    model = LayerModel()
    with pytest.raises(InvalidValueError, match=message):
        model.fit(layers[:n], ms)
    for ask in (model.predict, model.expected_error):
        with pytest.raises(InvalidValueError, match="not fitted"):
            ask(layers)


def test_wrong_lengths_and_settings_are_refused(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    for ms in (np.ones(19), np.ones((20, 1)), 1.0):
        with pytest.raises(InvalidValueError, match="one latency per layer"):
            LayerModel().fit(layers[:20], ms)
    for settings in ({"trees": 1}, {"folds": 1}, {"folds": MINIMUM_ROWS + 1}):
        with pytest.raises(InvalidValueError, match="`trees` must be >= 2"):
            LayerModel(**settings)
    with pytest.raises(InvalidValueError, match="at least one layer"):
        fitted.expected_error([])


def test_a_refused_fit_leaves_the_model_as_it_was(layers: tuple[Layer, ...]) -> None:
    model = LayerModel().fit(layers[:20], device_ms(layers[:20]))
    before = model.predict(layers)
    with pytest.raises(InvalidValueError):
        model.fit(layers[:20], -device_ms(layers[:20]))
    assert np.array_equal(before, model.predict(layers))


# -- what to measure next ----------------------------------------------------------------------------------------------


def test_chosen_layers_predict_the_others_better_than_random_ones(layers: tuple[Layer, ...]) -> None:
    def error(measured: list[Layer]) -> float:
        unseen = [layer for layer in layers if layer not in set(measured)]
        predicted, _ = LayerModel(trees=16).fit(measured, device_ms(measured)).predict(unseen)
        return float(np.abs(predicted / device_ms(unseen) - 1).mean())

    rng = np.random.default_rng(0)
    first = next_layers(None, layers, [], 16, rng)
    model = LayerModel().fit(first, device_ms(first))
    both = first + next_layers(model, layers, first, 16, rng)
    assert len(set(both)) == 32
    assert error(first) < np.mean([error(split(layers, 16, seed)[0]) for seed in range(5)])
    assert error(both) < np.mean([error(split(layers, 32, seed)[0]) for seed in range(5)])


def test_what_is_measured_is_not_chosen_and_what_is_left_is(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    for model in (None, fitted):
        rng = np.random.default_rng(0)
        left = next_layers(model, layers, layers[:-5], 9, rng)
        assert sorted(map(str, left)) == sorted(map(str, layers[-5:]))
        assert next_layers(model, layers, layers, 9, rng) == []
        assert next_layers(model, [], layers[:3], 9, rng) == []
        assert next_layers(model, layers[:1], [], 9, rng) == [layers[0]]
        assert len(set(next_layers(model, layers, [], 9, rng, weights=np.zeros(len(layers))))) == 9


def test_no_near_duplicates_in_a_batch() -> None:
    crowd = [Conv(256, 256, 3, 1, "relu", 100 + i) for i in range(20)]
    others = [Conv(8, channels, kernel, 1, "relu", 8) for channels in (8, 64) for kernel in (1, 3)]
    chosen = next_layers(None, [*crowd, *others], [], 6, np.random.default_rng(0))
    assert set(others) <= set(chosen)
    assert not set(crowd) & set(next_layers(None, [*crowd, *others], crowd[:2], 4, np.random.default_rng(0)))


def test_a_model_sends_to_where_it_is_unsure(layers: tuple[Layer, ...]) -> None:
    def wild(some: Sequence[Layer]) -> np.ndarray:
        return np.array([layer.input_shape[-1] < 8 for layer in some])

    measured, unseen = split(layers, 50, 0)
    ms = np.where(wild(measured), noisy(measured, 0, noise=0.5), device_ms(measured))
    model = LayerModel().fit(measured, ms)
    share = [wild(next_layers(m, unseen, measured, 10, np.random.default_rng(0))).mean() for m in (None, model)]
    assert share[1] > share[0] + 0.2


def test_a_rough_model_does_not_steer(layers: tuple[Layer, ...]) -> None:
    measured, unseen = split(layers, ROWS_TO_STEER - 1, 0)
    model = LayerModel().fit(measured, noisy(measured, 0))
    first, second = (next_layers(m, unseen, measured, 10, np.random.default_rng(0)) for m in (None, model))
    assert first == second


def test_weights_say_what_matters(layers: tuple[Layer, ...]) -> None:
    early = np.array([layer.input_shape[-1] > 10 for layer in layers])
    share = {}
    for name, weights in (("early", early), ("late", ~early), ("all", None)):
        chosen = next_layers(None, layers, [], 12, np.random.default_rng(0), weights=weights)
        share[name] = np.mean([layer.input_shape[-1] > 10 for layer in chosen])
    assert share["late"] < share["all"] < share["early"]


def test_the_choice_depends_on_its_arguments_alone(layers: tuple[Layer, ...], fitted: LayerModel) -> None:
    def choose(seed: int) -> list[Layer]:
        return next_layers(fitted, layers, layers[:9], 8, np.random.default_rng(seed), references=30)

    assert choose(0) == choose(0)
    assert choose(0) != choose(1)  # other references


def test_bad_requests_are_refused(layers: tuple[Layer, ...]) -> None:
    rng = np.random.default_rng(0)
    for n, weights in ((0, None), (3, np.ones(3)), (3, np.full(len(layers), -1.0)), (3, np.full(len(layers), np.nan))):
        with pytest.raises(InvalidValueError, match="Choosing layers needs"):
            next_layers(None, layers, [], n, rng, weights=weights)
    with pytest.raises(InvalidValueError, match="not fitted"):
        next_layers(LayerModel(), layers, layers[:ROWS_TO_STEER], 3, rng)
