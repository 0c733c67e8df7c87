import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from predictors import GaussianProcess, PositionTable, Predictor, macs
from predictors.predictor_contract import check_predictor, check_trainable
from predictors.transfer import CONSTANT, DeviceTransfer, TransferredLatency
from search_spaces import Genes, MobileNetV3
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import read_arrays, write_arrays

Matrix = NDArray[np.float64]
LATENCIES = Path(os.environ.get("HWNAS_DATA", "no data")) / "nasbench201" / "latency_ms.csv"


def some_devices(seed: int = 0, networks: int = 400, devices: int = 9) -> Matrix:
    """Latencies (networks, devices): each device weighs compute, memory traffic and launches in its own way."""
    rng = np.random.default_rng(seed)
    work = np.exp(rng.normal(0, [0.5, 0.4, 0.3], (networks, 3)))  # ms
    ways = rng.dirichlet([1.0, 1.0, 1.0], devices) * rng.uniform(1, 30, (devices, 1))
    return np.asarray(work @ ways.T * np.exp(rng.normal(0, 0.01, (networks, devices))))


def error(transfer: DeviceTransfer, known: Matrix, truth: Matrix) -> float:
    return float(np.median(np.abs(transfer.predict(known) / truth - 1)))


@functools.cache
def fitted(n: int = 8, device: int = 0) -> tuple[DeviceTransfer, Matrix, Matrix]:
    """A transfer to a device, and what it has not seen: latencies on the known devices and the truth."""
    latencies = some_devices()
    known, truth = np.delete(latencies, device, 1), latencies[:, device]
    transfer = DeviceTransfer(known[:200])
    rows = transfer.choose(n)
    transfer.fit(known[rows], truth[rows])
    return transfer, known[200:], truth[200:]


def test_a_few_measurements_predict_networks_that_were_not_measured() -> None:
    for device in range(4):
        transfer, known, truth = fitted(8, device)
        assert spearmanr(transfer.predict(known), truth).statistic > 0.98
        assert error(transfer, known, truth) < 0.05


def test_chosen_networks_tell_more_than_random_ones() -> None:
    chosen, random = [], []
    for seed in range(12):
        latencies = some_devices(seed)
        known, truth = latencies[:, 1:], latencies[:, 0]
        transfer = DeviceTransfer(known[:200])
        for errors, rows in (
            (chosen, transfer.choose(5)),
            (random, np.random.default_rng(seed).permutation(200)[:5]),
        ):
            transfer.fit(known[rows], truth[rows])
            errors.append(error(transfer, known[200:], truth[200:]))
    assert np.mean(chosen) < 0.75 * np.mean(random)


def test_each_choice_leaves_the_least_variance_over_all_networks() -> None:
    transfer = DeviceTransfer(some_devices()[:60])
    design, noise = transfer._pool_design, float(np.exp(np.log(transfer._noises).mean()))
    kernel = design @ design.T

    def left(rows: list[int]) -> float:
        """Total variance once rows are measured, from the kernel (Rasmussen & Williams, equation 2.26)."""
        gram = kernel[np.ix_(rows, rows)] + noise * np.eye(len(rows))
        return float(np.trace(kernel - kernel[:, rows] @ np.linalg.solve(gram, kernel[rows])))

    expected: list[int] = []
    for _ in range(4):
        others = [row for row in range(60) if row not in expected]
        expected.append(min(others, key=lambda row: left([*expected, row])))
    assert transfer.choose(4).tolist() == expected


def test_choices_are_distinct_and_longer_ones_extend_shorter_ones() -> None:
    transfer = DeviceTransfer(np.repeat(some_devices()[:10], 3, 0))  # equal networks among them
    everything = transfer.choose(30)
    assert sorted(everything.tolist()) == list(range(30))
    assert transfer.choose(7).tolist() == everything[:7].tolist()


def test_the_prior_is_what_the_known_devices_show() -> None:
    """Two devices of correlation 0.8, each described by the other alone: weight 0.8**2, noise 1 - 0.8**2."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(500, 2))
    noise = (noise - noise.mean(0)) / noise.std(0)
    first, second = noise[:, 0], noise[:, 1] - noise[:, 0] * (noise[:, 0] @ noise[:, 1]) / 500
    known = np.exp(np.column_stack([first, 0.8 * first + 0.6 * second / second.std()]))
    transfer = DeviceTransfer(known)
    assert transfer._weights == pytest.approx([0.64, 1e-6], rel=1e-6)
    assert transfer._noises == pytest.approx([0.36, 0.36], rel=1e-6)
    scores = transfer._pool_design / np.sqrt([CONSTANT, *transfer._weights])
    assert scores.T @ scores / 500 == pytest.approx(np.eye(3), abs=1e-9)  # components of variance 1


def test_a_device_is_described_by_other_groups_and_groups_weigh_the_same() -> None:
    latencies = some_devices()[:, :3]
    transfer = DeviceTransfer(latencies[:, [0, 0, 0, 1, 2]], groups=["a", "a", "a", "b", "c"])
    once = DeviceTransfer(latencies)
    assert transfer._shares == pytest.approx([1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3])
    assert transfer._noises == pytest.approx(once._noises[[0, 0, 0, 1, 2]], rel=1e-6)


def test_settings_of_one_device_count_as_one() -> None:
    """Three settings of each device describe each other nearly perfectly, which says nothing of a new device."""
    rng = np.random.default_rng(1)
    latencies = some_devices()
    known = np.repeat(latencies[:, 1:5], 3, 1) * np.exp(rng.normal(0, 0.002, (400, 12)))
    truth, errors = latencies[:, 0], []
    for groups in ([name for name in "abcd" for _ in range(3)], None):
        transfer = DeviceTransfer(known[:200], groups=groups)
        rows = transfer.choose(6)
        transfer.fit(known[rows], truth[rows])
        errors.append(transfer.expected_error())
    assert errors[0] > 1.5 * errors[1]


@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_the_expected_error_is_the_true_one(outliers: float) -> None:
    """Also where timers have outliers, which make the deviation of a device much larger than its median error."""
    ratios = []
    for seed in range(6):
        rng, latencies = np.random.default_rng(seed), some_devices(seed)
        latencies *= np.where(rng.random(latencies.shape) < outliers, np.exp(rng.normal(0, 1, latencies.shape)), 1)
        for device in (0, 1):
            known, truth = np.delete(latencies, device, 1), latencies[:, device]
            transfer = DeviceTransfer(known[:200])
            rows = transfer.choose(12)
            transfer.fit(known[rows], truth[rows])
            ratios.append(transfer.expected_error() / error(transfer, known[200:], truth[200:]))
    assert 0.6 < np.exp(np.mean(np.log(ratios))) < 1.6


def test_the_expected_error_is_scaled_by_how_far_off_it_is_on_known_devices() -> None:
    def unscaled(transfer: DeviceTransfer) -> float:
        deviation = transfer._predict(transfer._pool_design)[1]
        return 0.6745 * float(np.median(deviation))  # of the absolute value of a normal variable

    transfer, _, _ = fitted(8)
    known, ratios = transfer.known_ms, []
    for device in range(known.shape[1]):
        rest = DeviceTransfer(np.delete(known, device, 1))
        rows = rest.choose(8)
        rest.fit(rest.known_ms[rows], known[rows, device])
        ratios.append(error(rest, rest.known_ms, known[:, device]) / unscaled(rest))
    factor = np.exp(np.mean(np.log(ratios)))
    assert abs(factor - 1) > 0.1
    assert transfer.expected_error() == pytest.approx(factor * unscaled(transfer))


def test_a_noisy_device_expects_larger_errors() -> None:
    latencies = some_devices()
    known, errors = latencies[:, 1:], []
    for noise in (0.0, 0.3):
        truth = latencies[:, 0] * np.exp(np.random.default_rng(0).normal(0, noise, 400))
        transfer = DeviceTransfer(known[:200])
        rows = transfer.choose(15)
        transfer.fit(known[rows], truth[rows])
        errors.append(transfer.expected_error())
    assert errors[1] > 3 * errors[0]


def test_one_outlier_does_little_harm() -> None:
    latencies = some_devices()
    known, truth = latencies[:, 1:], latencies[:, 0]
    transfer = DeviceTransfer(known[:200])
    rows = transfer.choose(20)
    measured = truth[rows].copy()
    transfer.fit(known[rows], measured)
    clean = error(transfer, known[200:], truth[200:])
    measured[10] *= 5
    transfer.fit(known[rows], measured)
    spoiled = error(transfer, known[200:], truth[200:])
    scores = np.column_stack([np.ones(400), np.log(known)])
    squares = np.linalg.lstsq(scores[rows], np.log(measured), rcond=None)[0]  # least squares, for comparison
    assert spoiled < 3 * clean
    assert spoiled < 0.5 * np.median(np.abs(np.exp(scores[200:] @ squares) / truth[200:] - 1))


def test_deviations_cover_the_errors_and_units_do_not_matter() -> None:
    transfer, known, truth = fitted(8, 1)
    mean, std = transfer.predict_with_std(known)
    assert np.array_equal(mean, transfer.predict(known)) and (std > 0).all()
    assert 0.7 < np.mean(np.abs(mean - truth) < 2 * std) <= 1

    latencies = some_devices()
    rows = transfer.choose(8)
    scaled = DeviceTransfer(1000 * np.delete(latencies, 1, 1)[:200])
    scaled.fit(scaled.known_ms[rows], 1e-3 * latencies[rows, 1])
    assert scaled.predict(1000 * known) == pytest.approx(1e-3 * mean, rel=1e-6)


def test_a_device_that_is_equally_fast_on_all_networks() -> None:
    known = some_devices()[:, 1:]
    transfer = DeviceTransfer(known)
    transfer.fit(known[:5], np.full(5, 7.0))
    assert transfer.predict(known) == pytest.approx(np.full(400, 7.0))
    assert np.isfinite(transfer.expected_error())


def test_it_says_which_networks_are_unlike_those_to_choose_from() -> None:
    transfer, known, _ = fitted()
    assert not transfer.extrapolates(transfer.known_ms).any()
    odd = known[:2] * np.geomspace(0.1, 10, known.shape[1])
    assert transfer.extrapolates(odd).all()
    assert (transfer.predict_with_std(odd)[1] / transfer.predict(odd)).min() > (
        np.median(transfer.predict_with_std(known)[1] / transfer.predict(known))
    )


def test_two_known_devices_suffice() -> None:
    latencies = some_devices()
    transfer = DeviceTransfer(latencies[:, 1:3])
    rows = transfer.choose(6)
    transfer.fit(latencies[rows, 1:3], latencies[rows, 0])
    assert spearmanr(transfer.predict(latencies[:, 1:3]), latencies[:, 0]).statistic > 0.8
    assert 0 < transfer.expected_error() < 1


def test_bad_values_are_refused() -> None:
    known = some_devices()[:, 1:]
    for value in (np.nan, -1.0, 0.0, np.inf):
        wrong = known.copy()
        wrong[4, 2] = value
        with pytest.raises(InvalidValueError, match=f"finite and positive, but network 4 has {value} on device 2"):
            DeviceTransfer(wrong)
    with pytest.raises(InvalidValueError, match=r"shape \(networks, devices\), but got \(400,\)"):
        DeviceTransfer(known[:, 0])
    with pytest.raises(InvalidValueError, match="two or more known devices and networks, but got 1 and 400"):
        DeviceTransfer(known, groups=["a"] * 8)
    with pytest.raises(InvalidValueError, match="one group per known device, but got 7 for 8"):
        DeviceTransfer(known, groups=["a"] * 7)
    with pytest.raises(InvalidValueError, match="Known device 3 is equally fast"):
        DeviceTransfer(np.where(np.arange(8) == 3, 2.0, known))

    transfer = DeviceTransfer(known)
    for n in (0, -1, 401):
        with pytest.raises(InvalidValueError, match=f"Between 1 and 400 networks can be chosen, but got n={n}"):
            transfer.choose(n)
    for unfitted in (
        lambda: transfer.predict(known),
        lambda: transfer.predict_with_std(known),
        lambda: transfer.extrapolates(known),
        transfer.expected_error,
        transfer.to_arrays,
    ):
        with pytest.raises(InvalidValueError, match="not fitted"):
            unfitted()
    with pytest.raises(InvalidValueError, match="At least 3 measured networks are needed, but got 2"):
        transfer.fit(known[:2], np.ones(2))
    with pytest.raises(InvalidValueError, match=r"one latency per network, but got \(4,\) for 5"):
        transfer.fit(known[:5], np.ones(4))
    with pytest.raises(InvalidValueError, match="There are 8 known devices, but got latencies on 7"):
        transfer.fit(known[:5, 1:], np.ones(5))
    for value in (np.nan, -1.0, 0.0, np.inf):
        with pytest.raises(InvalidValueError, match="Latencies must be finite and positive"):
            transfer.fit(known[:4], np.array([1.0, 2.0, value, 3.0]))


def test_arrays_hold_all_that_prediction_needs(tmp_path: Path) -> None:
    transfer, known, _ = fitted()
    write_arrays(tmp_path / "transfer.npz", transfer.to_arrays())
    again = DeviceTransfer.from_arrays(read_arrays(tmp_path / "transfer.npz"))
    assert np.array_equal(again.predict(known), transfer.predict(known))
    assert again.expected_error() == transfer.expected_error()
    assert again.choose(9).tolist() == transfer.choose(9).tolist()


# -- on the networks of a space ----------------------------------------------------------------------------------------


def tables(space: MobileNetV3, devices: int) -> list[PositionTable]:
    """Latency tables of devices: a cost per layer, per multiply-accumulate and per byte, each device its own mix."""
    rng = np.random.default_rng(3)
    made = []
    for mix in rng.dirichlet([1.0, 1.0, 1.0], devices):
        speed = np.exp(rng.normal(0, 0.7))
        mix = mix * speed / (0.3, 1e5, 1e4)  # the three parts of a typical layer
        made.append(
            PositionTable.of_layers(
                space,
                "latency",
                "ms",
                lambda layer, mix=mix: float(mix @ (1.0, layer.macs, layer.peak_elements)),
            )
        )
    return made


def test_it_predicts_every_architecture_of_a_space(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    truth, *known = tables(digits_space, 6)
    predictor = TransferredLatency(digits_space, known)
    genes = predictor.choose(6)
    predictor.fit(genes, truth.predict(genes))
    unseen = digits_space.sample(500, rng)
    mean, std = predictor.predict_with_std(unseen)
    assert spearmanr(mean, truth.predict(unseen)).statistic > 0.99
    assert np.median(np.abs(mean / truth.predict(unseen) - 1)) < 0.03
    assert (std > 0).all() and 0 < predictor.expected_error() < 0.1
    assert predictor.extrapolates(unseen).mean() < 0.05


def test_contract(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    known = tables(digits_space, 4)
    check_trainable(lambda: TransferredLatency(digits_space, known, size=300), digits_space, rng)
    predictor = TransferredLatency(digits_space, known, size=300)
    genes = predictor.choose(10)
    predictor.fit(genes, macs(digits_space).predict(genes) / 1e5)
    check_predictor(predictor, digits_space, rng)


def test_the_pool_is_drawn_by_seed_or_given(space: MobileNetV3, everything: Genes) -> None:
    known = tables(space, 4)
    first, same, other = (TransferredLatency(space, known, size=100, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.choose(5), same.choose(5))
    assert not np.array_equal(first.pool, other.pool)
    given = TransferredLatency(space, known, pool=everything[10:40])
    assert len(given.pool) == 30
    assert all((everything[10:40] == row).all(1).any() for row in given.choose(5))


def test_groups_and_pool_survive_a_file(space: MobileNetV3, everything: Genes, tmp_path: Path) -> None:
    truth, *known = tables(space, 5)
    predictor = TransferredLatency(space, known, groups=["a", "a", "b", "c"], pool=everything[::3])
    genes = predictor.choose(5)
    predictor.fit(genes, truth.predict(genes))
    write_arrays(tmp_path / "p.npz", predictor.to_arrays())
    again = TransferredLatency.from_arrays(space, read_arrays(tmp_path / "p.npz"))
    assert np.array_equal(again.predict(everything), predictor.predict(everything))
    assert again.transfer.groups == ["a", "a", "b", "c"]
    assert again.expected_error() == predictor.expected_error()


def test_known_devices_that_will_not_do(
    space: MobileNetV3, random_table: Callable[..., PositionTable], rng: np.random.Generator
) -> None:
    with pytest.raises(InvalidValueError, match=r"latency in ms, but got \['1'\]"):
        TransferredLatency(space, [*tables(space, 3), macs(space)])
    with pytest.raises(InvalidValueError, match="in ms, but got none"):
        TransferredLatency(space, [])
    with pytest.raises(InvalidValueError, match="finite and positive"):
        TransferredLatency(space, [*tables(space, 3), random_table(space, 0, infinite=0.9)])

    class Doubled:
        """A predictor that no file can hold."""

        metric, unit = "latency", "ms"

        def predict(self, genes: Genes) -> Matrix:
            return 2 * tables(space, 1)[0].predict(genes)

    known: list[Predictor] = [*tables(space, 3), Doubled()]
    predictor = TransferredLatency(space, known, size=100)
    with pytest.raises(InvalidValueError, match="not fitted"):
        predictor.to_arrays()
    genes = predictor.choose(4)
    predictor.fit(genes, np.arange(1.0, 5.0))
    with pytest.raises(InvalidValueError, match="Known device 3 is a Doubled, which cannot be saved"):
        predictor.to_arrays()


def test_a_fitted_process_can_be_a_known_device(space: MobileNetV3, everything: Genes) -> None:
    truth, *known = tables(space, 4)
    process = GaussianProcess(space, metric="latency", unit="ms", log_error=False)
    process.fit(everything[::20], known[0].predict(everything[::20]))
    predictor = TransferredLatency(space, [process, *known[1:]], pool=everything)
    genes = predictor.choose(6)
    predictor.fit(genes, truth.predict(genes))
    assert spearmanr(predictor.predict(everything), truth.predict(everything)).statistic > 0.95
    again = TransferredLatency.from_arrays(space, predictor.to_arrays())
    assert again.predict(everything) == pytest.approx(predictor.predict(everything), rel=1e-9)


@pytest.mark.skipif(not LATENCIES.exists(), reason="HWNAS_DATA does not name a folder with nasbench201/latency_ms.csv")
def test_real_devices() -> None:
    """Ten networks measured on a device of NAS-Bench-201 rank those that were not measured."""
    latencies = np.loadtxt(LATENCIES, delimiter=",", skiprows=1)[:, 1:]
    names = LATENCIES.read_text().split("\n", 1)[0].split(",")[1:]
    order = np.random.default_rng(0).permutation(len(latencies))
    for device in ("gold_6240", "samsung_a50", "titanx_256"):
        out = [name.split("_")[0] == device.split("_")[0] for name in names]
        known, truth = latencies[:, ~np.array(out)][order], latencies[order, names.index(device)]
        transfer = DeviceTransfer(known[:2000])
        rows = transfer.choose(10)
        transfer.fit(known[rows], truth[rows])
        assert spearmanr(transfer.predict(known[2000:]), truth[2000:]).statistic > 0.93
