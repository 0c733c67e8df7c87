import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from hardware_profiles import DeviceProfile, Measurement, Model, load_device
from hardware_profiles.backends.onnxruntime import LoadedSession, OnnxRuntimeBackend
from hardware_profiles.measure import Measurer
from nas.data import Data, Part, digits, resize
from nas.run.records import Column, Exports, Measured
from nas.run.verify import file_score, standing, verified_values, verify_device, violations
from nas.tasks import Classification
from predictors import Function
from search_spaces import Architecture, MobileNetV3, SearchSpace
from search_spaces.base.errors import DamagedFileError, MeasurementError
from search_spaces.network import INPUT, OUTPUT


@pytest.fixture(scope="module")
def data() -> Data:
    whole = digits()
    parts = [Part(p.images[:40], p.labels[:40]) for p in (whole.train, whole.validation, whole.test_part())]
    return Data("few", *parts, task=Classification(10), mean=whole.mean, std=whole.std)


@pytest.fixture(scope="session")
def tiny_cli_space() -> SearchSpace:
    """The space of the tiny run."""
    return MobileNetV3(
        name="tiny",
        resolutions=[8, 12],
        in_channels=1,
        classes=10,
        stem=8,
        stem_stride=1,
        stages=[
            {"channels": 8, "stride": 2, "squeeze": False, "activation": "relu"},
            {"channels": 16, "stride": 2, "squeeze": True, "activation": "relu"},
        ],
        depths=[1, 2],
        kernels=[3, 5],
        expands=[2, 3],
        last_channels=16,
        features=16,
    )


@pytest.fixture
def exported(unbroken: Path, tmp_path: Path) -> Path:
    (path,) = unbroken.glob("export/*/networks.json")
    return Path(shutil.copytree(path.parent, tmp_path / "export"))


@pytest.fixture
def quick() -> DeviceProfile:
    return dataclasses.replace(
        load_device("host_ort"), warm_up=0, runs=1, sample_ms=0, passes=1, max_passes=1, agreement=1e9
    )


LIMITS = {
    "accuracy": Column("accuracy", "1", "max", 0.9, True),
    "latency_ms": Column("latency_ms", "ms", "min", 1.4),
    "memory_bytes": Column("memory_bytes", "bytes", None, 1024.0),
    "macs": Column("macs", "1", None, 1e6),
    "params": Column("params", "1", "min", 1234.0),
    "energy_mj": Column("energy_mj", "mJ", None, 3.0),
    "score": Column("score", "1", None, 2.0, True),
}


def measured_of(latency_ms: float, accuracy: float, memory_bytes: float | None = None) -> Measured:
    return Measured(
        latency_ms=latency_ms,
        p10_ms=latency_ms,
        p90_ms=latency_ms,
        noise=1.0,
        validation_accuracy=accuracy,
        test_accuracy=0.5,
        memory_bytes=memory_bytes,
    )


def values_of(**changes: float) -> dict[str, tuple[float, str]]:
    """Values that keep all of LIMITS, but for the changes."""
    predicted, counts = {"energy_mj": 3.0, "score": 2.0, "macs": 5.0}, {"macs": 1000000, "params": 1234}
    kept = verified_values(predicted, measured_of(1.4, 0.9, 1024), counts)
    return {**kept, **{name: (value, kept[name][1]) for name, value in changes.items()}}


def test_a_limit_may_be_reached() -> None:
    assert violations(list(LIMITS.values()), values_of(), 100) == []
    assert violations([replace(column, limit=None) for column in LIMITS.values()], values_of(macs=9e9), 100) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency_ms": 1.5}, "latency 1.5 ms is above the limit 1.4 ms"),
        ({"memory_bytes": 2048}, "memory 2.0 KiB is above the limit 1.0 KiB"),
        ({"macs": 1000001}, "MACs 1,000,001 is above the limit 1,000,000"),
        ({"params": 1300}, "parameters 1,300 is above the limit 1,234"),
        ({"energy_mj": 3.5}, "energy 3.5 mJ, predicted, is above the limit 3 mJ"),
        ({"score": 1.0}, "score 1, predicted, is below the limit 2"),
        ({"accuracy": 0.8}, "accuracy 80.0 % is below the limit 90 % by 10.0 ± 4.0 points"),
        (
            {"accuracy": 0.88},
            "accuracy 88.0 % is below the limit 90 % by 2.0 ± 3.2 points, which is within its standard error",
        ),
    ],
)
def test_every_kind_of_limit_is_verified(changes: dict[str, float], words: str) -> None:
    assert violations(list(LIMITS.values()), values_of(**changes), 100) == [words]


def test_a_limit_on_another_tasks_metric_has_its_standard_error() -> None:
    """Shares of right answers alone have the error of a binomial distribution."""
    column = Column("miou", "1", "max", 0.5, True)
    values = verified_values({}, measured_of(1.0, 0.45), {}, "miou")
    assert values["miou"] == (0.45, "measured") and "accuracy" not in values
    assert violations([column], values, 100, 0.06) == [
        "mIoU 0.45 is below the limit 0.5 by 0.05 ± 0.06, which is within its standard error"
    ]
    assert violations([column], values, 100) == ["mIoU 0.45 is below the limit 0.5"]
    error = Column("mae", "cm", "min", 2.0)
    worse = verified_values({}, measured_of(1.0, 2.5), {}, "mae")
    assert violations([error], worse, 100, 0.1) == ["mean absolute error 2.5 cm is above the limit 2 cm by 0.5 ± 0.1"]


def test_memory_that_the_device_does_not_report_is_that_of_the_prediction() -> None:
    measured = measured_of(1.0, 0.95)
    values = verified_values({"memory_bytes": 2048.0}, measured, {})
    assert violations([LIMITS["memory_bytes"]], values, 100) == [
        "memory 2.0 KiB, predicted, is above the limit 1.0 KiB"
    ]
    assert violations([LIMITS["memory_bytes"]], verified_values({}, measured, {}), 100) == []


# accuracy, latency as measured
MEASURED = [(0.90, 1.0), (0.80, 1.1), (0.95, 1.5), (0.955, 3.0), (0.85, 4.0)]


def test_labels_are_given_by_what_was_verified() -> None:
    table: list[Any] = [{"accuracy": (a, "measured"), "latency_ms": (ms, "measured")} for a, ms in MEASURED]
    goals = [Column("accuracy", "1", "max"), Column("latency_ms", "ms", "min")]
    exported = [(1, "fastest"), (4, "knee"), (6, "front 1"), (7, "front 2"), (9, "most accurate")]
    labels, dominated_by = standing(goals, table, exported)
    assert labels == ["fastest", "network 4", "knee", "most accurate", "network 9"]
    assert dominated_by == [None, 0, None, None, 0], "by the fastest of those that dominate it"


def test_the_best_by_another_metric_is_called_so() -> None:
    table: list[Any] = [{"mae": (1 - a, "measured"), "latency_ms": (ms, "measured")} for a, ms in MEASURED]
    goals = [Column("mae", "cm", "min"), Column("latency_ms", "ms", "min")]
    exported = [(1, "fastest"), (4, "knee"), (6, "front 1"), (7, "front 2"), (9, "best")]
    labels, dominated_by = standing(goals, table, exported)
    assert labels == ["fastest", "network 4", "knee", "best", "network 9"]
    assert dominated_by == [None, 0, None, None, 0]


def test_domination_is_in_the_goals() -> None:
    """A third goal saves a network; the latency of this device stands for that of all."""
    table: list[Any] = [
        {"accuracy": (0.9, "measured"), "latency_ms": (1.0, "measured"), "params": (500.0, "exact")},
        {"accuracy": (0.8, "measured"), "latency_ms": (2.0, "measured"), "params": (100.0, "exact")},
    ]
    accuracy, share = Column("accuracy", "1", "max"), Column("latency_share", "1", "min")
    exported = [(1, "fastest"), (2, "most accurate")]
    assert standing([accuracy, share], table, exported) == (["fastest and most accurate", "network 2"], [None, 0])
    labels, dominated_by = standing([accuracy, share, Column("params", "1", "min")], table, exported)
    assert dominated_by == [None, None] and labels == ["fastest and most accurate", "network 2"]
    assert standing([accuracy], [], []) == ([], [])


def test_equal_networks_do_not_dominate_each_other() -> None:
    table: list[Any] = [{"accuracy": (0.9, "measured"), "latency_ms": (1.0, "measured")}] * 2
    goals = [Column("accuracy", "1", "max"), Column("latency_ms", "ms", "min")]
    assert standing(goals, table, [(1, "fastest"), (2, "knee")])[1] == [None, None]


def test_accuracy_of_a_file_is_that_of_its_outputs(exported: Path, data: Data) -> None:
    path = exported / "fastest" / "network.onnx"
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = resize(data.validation.images, session.get_inputs()[0].shape[-1]).numpy()
    outputs = [session.run([OUTPUT], {INPUT: image[None]})[0][0] for image in images]
    expected = np.mean(
        [np.argmax(o) == label for o, label in zip(outputs, data.validation.labels.numpy(), strict=True)]
    )
    assert file_score(path, data.task, data.validation) == pytest.approx(expected)


def test_a_damaged_file_is_told(tmp_path: Path, data: Data) -> None:
    (tmp_path / "network.onnx").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match=r"network\.onnx cannot be loaded.*Run `nas export` again"):
        file_score(tmp_path / "network.onnx", data.task, data.validation)


def test_result(
    exported: Path, data: Data, quick: DeviceProfile, tiny_cli_space: SearchSpace, rng: np.random.Generator
) -> None:
    result = verify_device(tiny_cli_space, data, quick, exported, {}, rng)
    entries = Exports.read(exported / "networks.json").networks
    assert [n.exported_as for n in result.networks] == [e.label for e in entries]
    assert (result.drift, result.test_images, result.estimates) == (1.0, 40, False)
    for network, entry in zip(result.networks, entries, strict=True):
        path = exported / entry.folder / "network.onnx"
        architecture = Architecture.from_json(tiny_cli_space, network.architecture)
        layers = tiny_cli_space.lower(architecture).values()
        assert network.macs == sum(layer.macs for layer in layers)
        assert network.params == sum(layer.params for layer in layers)
        assert network.measured.latency_ms > 0 and network.predicted == entry.predicted
        assert network.measured.test_accuracy == file_score(path, data.task, data.test_part())
        assert network.measured.validation_accuracy == file_score(path, data.task, data.validation)
        assert network.parity == max(entry.parity.values())


def test_what_the_device_reports_is_verified_as_measured() -> None:
    measured = replace(measured_of(1.0, 0.95), values={"energy_mj": 3.5})
    values = verified_values({"energy_mj": 2.0}, measured, {})
    assert values["energy_mj"] == (3.5, "measured")
    assert violations([LIMITS["energy_mj"]], values, 100) == ["energy 3.5 mJ is above the limit 3 mJ"]


def test_a_broken_limit_on_a_function_is_told_as_exact(
    exported: Path, data: Data, quick: DeviceProfile, tiny_cli_space: SearchSpace, rng: np.random.Generator
) -> None:
    """The function is asked anew for each exported network; what was predicted does not count."""
    file = exported / "networks.json"
    found = Exports.read(file)
    replace(found, objectives=[*found.objectives, Column("energy_mj", "mJ", None, 3.0)]).write(file)
    energy = Function("energy_mj", "mJ", lambda architecture: 3.0 + (architecture.values["resolution"] > 0))
    exact = {"energy_mj": energy.predictor(tiny_cli_space)}
    result = verify_device(tiny_cli_space, data, quick, exported, {}, rng, exact)
    assert all("energy 4 mJ is above the limit 3 mJ" in network.violations for network in result.networks)


class WrongOutputs(OnnxRuntimeBackend):
    def load(self, model: Model) -> LoadedSession:
        return super().load(Model(model.layers))  # random weights in place of the trained ones


def test_a_device_that_computes_something_else_is_refused(
    exported: Path,
    data: Data,
    quick: DeviceProfile,
    tiny_cli_space: SearchSpace,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DeviceProfile, "open", lambda profile: WrongOutputs(profile))
    with pytest.raises(MeasurementError, match="computes something else than the exported network"):
        verify_device(tiny_cli_space, data, quick, exported, {}, rng)


@pytest.mark.parametrize(
    ("speeds", "attempts", "drift"),
    [([1.0], 1, 1.0), ([1.5, 1.02], 2, 1.02), ([2.0, 1.5, 1.8, 1.3, 1.0], 4, 1.3), ([0.5, 0.97], 2, 0.97)],
)
def test_measuring_is_repeated_while_the_device_drifts(
    exported: Path,
    data: Data,
    quick: DeviceProfile,
    tiny_cli_space: SearchSpace,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    speeds: list[float],
    attempts: int,
    drift: float,
) -> None:
    seen: list[float] = []

    def measure(self: Measurer, items: Any) -> Iterator[tuple[int, Measurement]]:
        seen.append(speeds[len(seen)])
        for i, _model in items:
            ms = 2.0 * seen[-1]
            yield i, Measurement(ms, ms, ms, ms, runs=1, passes=1, noise=1.0, agreed=True)

    monkeypatch.setattr(Measurer, "measure", measure)
    profiled = Measurement(2.0, 2.0, 2.0, 2.0, runs=1, passes=1, noise=1.0, agreed=True)
    references = dict.fromkeys([tiny_cli_space.smallest, tiny_cli_space.biggest], profiled)
    result = verify_device(tiny_cli_space, data, quick, exported, references, rng)
    assert len(seen) == attempts and result.drift == pytest.approx(drift)
    assert result.networks[0].measured.latency_ms == pytest.approx(2.0 * drift)  # of the best attempt
