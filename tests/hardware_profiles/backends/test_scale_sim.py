import dataclasses
import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware_profiles.backends import scale_sim
from hardware_profiles.backends.scale_sim import (
    Array,
    ScaleSimBackend,
    SystolicConvolution,
    Work,
    add_work,
    open_backend,
)
from hardware_profiles.device import DeviceProfile, availability, load_device
from hardware_profiles.measure import REFERENCE
from hardware_profiles.model import Model
from search_spaces.base.errors import DeviceLostError, DeviceUnavailableError, InvalidValueError, MeasurementError
from search_spaces.counting import operators
from search_spaces.layers import (
    UIB,
    Bottleneck,
    Conv,
    FBNetBlock,
    FusedMBConv,
    Layer,
    LinearClassifier,
    MaxPool,
    MBConv,
    NormClassifier,
    ResidualConv,
)
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.nasbench201 import Cell201, Head201, Reduction201

KINDS: list[Layer] = [
    Conv(3, 8, 3, 2, "relu", 9),
    MBConv(8, 8, 16, True, 5, 1, 8, "h_swish", 7),
    ResidualConv(8, 3, "relu", 6),
    MaxPool(8, 3, 2, 7),
    Bottleneck(8, 16, 4, True, 2, "relu", 7),
    UIB(8, 8, 16, 3, 5, 1, "relu", 6),
    FusedMBConv(8, 8, 16, 3, 1, "relu", "none", 6),
    NormClassifier(8, 16, 10, "relu", 3),
    LinearClassifier(8, 10, 3),
    FBNetBlock(8, 8, 16, 3, 1, 2, "relu", 6),
    Cell201(4, 6, ("nor_conv_3x3", "none", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "none")),
    Cell201(4, 6, ("none",) * 6),
    Reduction201(4, 8, 6),
    Head201(8, 10, 3),
]


def profile_with(device: str = "systolic_eyeriss", **options: Any) -> DeviceProfile:
    profile = load_device(device)
    merged = {key: value for key, value in {**profile.options, **options}.items() if value is not None}
    return dataclasses.replace(profile, options=merged)


def work_of(layer: Layer) -> Work:
    work = Work()
    for op, inputs, _ in operators(layer.program):
        add_work(op, work, *inputs)
    return work


@pytest.fixture(scope="module")
def backend() -> Iterator[ScaleSimBackend]:
    profile = profile_with()
    reason = availability(profile)
    if reason is not None:
        pytest.skip(reason)
    opened = open_backend(profile)
    yield opened
    opened.close()


@pytest.mark.parametrize("layer", KINDS, ids=lambda layer: type(layer).__name__)
def test_all_products_of_a_layer_are_convolutions_and_nothing_is_free(layer: Layer) -> None:
    work = work_of(layer)
    assert sum(n * c.pixels * c.window * c.filters for c, n in work.convolutions.items()) == layer.macs
    array = Array(rows=8, columns=8, dataflow="ws", clock_mhz=1, vector_lanes=8)
    assert array.cycles(work, {c: 1 for c in work.convolutions}) > 0
    assert all(elements > 0 for elements in work.vectors)


def test_depthwise_and_grouped_convolutions_run_group_by_group() -> None:
    work = work_of(FBNetBlock(8, 16, 24, 5, 2, 2, "relu", 8))
    assert work.convolutions == {
        SystolicConvolution(side=8, kernel=1, channels=4, filters=12, stride=1): 2,
        SystolicConvolution(
            side=11, kernel=5, channels=1, filters=1, stride=2
        ): 24,  # of 12 with padding, 4 windows reach 11
        SystolicConvolution(side=4, kernel=1, channels=12, filters=8, stride=1): 2,
    }
    assert work.vectors == [24 * 64, 24 * 64, 24 * 16]  # activation, shuffle, activation; no sum at stride 2


def test_a_vector_operator_takes_its_elements_by_lanes() -> None:
    work = work_of(MBConv(8, 8, 16, True, 3, 1, 4, "relu", 5))
    array = Array(rows=8, columns=8, dataflow="ws", clock_mhz=1, vector_lanes=10)
    # Two activations, pooling, two of the gate, the product, the sum; 400 = 16 x 5 x 5.
    expected = 40 + 40 + 40 + 1 + 2 + 40 + 20
    assert array.cycles(Work(vectors=work.vectors), {}) == expected


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_operands_move_once_where_the_buffers_hold_them(dataflow: str) -> None:
    array = Array(4, 4, dataflow, 1, 4, 1.0, 10**6, 10**6, 10**6)
    convolution = SystolicConvolution(side=6, kernel=3, channels=8, filters=10, stride=1)
    assert array.moved_words(convolution) == 36 * 8 + 72 * 10 + 16 * 10


@pytest.mark.parametrize(
    ("dataflow", "words"),
    [
        ("ws", 3 * 288 + 720 + (2 * 18 - 1) * 160),  # 10 filters in 3 columns of tiles, 72 products in 18 rows of them
        ("os", 3 * 288 + 720 + 160),
        ("is", 288 + 4 * 720 + (2 * 18 - 1) * 160),  # 16 pixels in 4 columns of tiles
    ],
)
def test_what_the_buffers_do_not_hold_moves_again(dataflow: str, words: int) -> None:
    array = Array(4, 4, dataflow, 1, 4, 1.0, 1, 1, 1)
    assert array.moved_words(SystolicConvolution(side=6, kernel=3, channels=8, filters=10, stride=1)) == words


def test_a_convolution_takes_the_longer_of_computing_and_moving() -> None:
    convolution = SystolicConvolution(side=6, kernel=3, channels=8, filters=10, stride=1)
    work = Work()
    work.convolutions[convolution] = 3
    array = Array(4, 4, "ws", 1, 4, 10.0, 10**6, 10**6, 10**6)
    assert array.cycles(work, {convolution: 50}) == 3 * 117  # 1168 words
    assert array.cycles(work, {convolution: 200}) == 3 * 200
    assert dataclasses.replace(array, bandwidth_words=math.inf).cycles(work, {convolution: 50}) == 3 * 50


def test_cycles_equal_a_full_simulation(backend: ScaleSimBackend) -> None:
    """SCALE-Sim with its memory simulated as well never stalls, and reports the cycles that the backend takes."""
    draw = random.Random(0)
    cases = []
    for dataflow in ("ws", "os", "is"):
        for rows, columns in ((4, 6), (12, 14), (32, 32)):
            for _ in range(3):
                kernel = draw.choice([1, 1, 3, 5])
                stride = draw.choice([1, 2])
                side = (draw.randint(1, 5) - 1) * stride + kernel
                convolution = [side, kernel, draw.choice([1, 3, 40]), draw.choice([1, 20]), stride]
                cases.append([{"rows": rows, "columns": columns, "dataflow": dataflow}, convolution])
    script = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("runner", sys.argv[2])
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
for request, convolution in json.loads(sys.argv[1]):
    simulator = runner.layer_simulator(request, convolution)
    simulator.run()
    _, total, stalls, *_ = simulator.get_compute_report_items()
    print(json.dumps([runner.cycles_of(request, convolution), int(total), int(stalls)]))
"""
    python, _, path = backend._process.args  # type: ignore[misc]
    command = [python, "-I", "-c", script, json.dumps(cases), path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases)
    for (request, convolution), line in zip(cases, lines, strict=True):
        ours, total, stalls = json.loads(line)
        assert (ours, 0) == (total, stalls), (request, convolution)


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_cycles_follow_the_papers_equation(backend: ScaleSimBackend, dataflow: str) -> None:
    """Samajdar et al., ISPASS 2020, section III; outputs that stay are not loaded, so one `rows` less."""
    convolutions = [
        SystolicConvolution(12, 3, 8, 20, 1),
        SystolicConvolution(11, 5, 1, 1, 2),
        SystolicConvolution(1, 1, 100, 10, 1),
    ]
    opened = open_backend(profile_with(dataflow=dataflow, rows=16, columns=8))
    try:
        opened._simulate(convolutions)
    finally:
        opened.close()
    for c in convolutions:
        down, across, steps = {
            "ws": (c.window, c.filters, c.pixels),
            "os": (c.pixels, c.filters, c.window),
            "is": (c.window, c.pixels, c.filters),
        }[dataflow]
        tile = (16 if dataflow == "os" else 2 * 16) + 8 + steps - 2
        assert opened._known[c] == math.ceil(down / 16) * math.ceil(across / 8) * tile - 1


def test_a_network_is_the_sum_of_its_layers_and_costs_nothing_after_them(
    backend: ScaleSimBackend, digits_space: MobileNetV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = digits_space.lower(digits_space.biggest)
    parts = {name: backend.load(Model.of_layer(layer)).sample_ms(1) for name, layer in layers.items()}
    monkeypatch.setattr(backend, "_read", lambda: pytest.fail("it asked the simulator again"))
    whole = backend.load(Model(layers))
    assert whole.positions_ms(3) == parts
    assert whole.sample_ms(1) == whole.sample_ms(5) == pytest.approx(sum(parts.values()))
    assert whole.run(np.zeros((1, 1, 24, 24), np.float32)) is None and whole.values(1) == {}


def test_clock_array_and_bandwidth_count(backend: ScaleSimBackend) -> None:
    layer = ResidualConv(32, 3, "relu", 6)

    def ms(**options: Any) -> float:
        opened = open_backend(profile_with(**options))
        try:
            return opened.load(Model.of_layer(layer)).sample_ms(1)
        finally:
            opened.close()

    usual = backend.load(Model.of_layer(layer)).sample_ms(1)
    assert ms(clock_mhz=100) == pytest.approx(2 * usual)
    assert ms(bandwidth_words=0.1) > usual
    unlimited = ms(bandwidth_words=None, ifmap_kib=None, filter_kib=None, ofmap_kib=None)
    assert unlimited <= usual
    assert ms(rows=24, columns=28) < usual
    assert ms(vector_lanes=1) > usual


def test_environment_states_versions_and_whose_model_is_what(backend: ScaleSimBackend) -> None:
    environment = backend.environment
    assert backend.estimates and environment["latency"] == "estimate by simulator"
    assert environment["scalesim"].startswith("3.") and environment["numpy"].split(".")[0].isdigit()
    assert environment["convolutions"] == "cycles by SCALE-Sim"
    assert "hwnas" in environment["other_operators"] and "hwnas" in environment["memory"]
    assert (environment["rows"], environment["columns"], environment["ifmap_words"]) == (12, 14, 36 * 1024)
    unlimited = open_backend(profile_with(bandwidth_words=None, ifmap_kib=None, filter_kib=None, ofmap_kib=None))
    unlimited.close()
    assert unlimited.environment["memory"].startswith("none")
    json.dumps(unlimited.environment, allow_nan=False)


def test_what_the_simulator_refuses_is_an_error_and_the_next_works(backend: ScaleSimBackend) -> None:
    with pytest.raises(MeasurementError, match="AssertionError: Filter height cannot be larger"):
        backend._simulate([SystolicConvolution(side=1, kernel=3, channels=1, filters=1, stride=1)])
    assert backend.load(Model.of_layer(Conv(5, 7, 3, 1, "relu", 4))).sample_ms(1) > 0


def test_a_process_that_ends_is_a_lost_device(backend: ScaleSimBackend) -> None:
    opened = open_backend(profile_with())
    opened._process.kill()
    with pytest.raises(DeviceLostError, match="ended with status -9"):
        opened.load(Model.of_layer(REFERENCE))
    opened.close()
    closed = open_backend(profile_with())
    closed.close()
    closed.close()
    assert closed._process.returncode is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataflow": "rs"}, "`dataflow` must be one of ws, os, is, but got 'rs'"),
        ({"rows": 0}, "`rows` must be a positive integer, but got 0"),
        ({"columns": 1.5}, "`columns` must be a positive integer, but got 1.5"),
        ({"rows": True}, "`rows` must be a positive integer, but got True"),
        ({"clock_mhz": "fast"}, "`clock_mhz` must be a positive number, but got 'fast'"),
        ({"bandwidth_words": math.nan}, "`bandwidth_words` must be a positive number"),
        ({"ofmap_kib": None}, "count only together, but there is only `bandwidth_words`, `ifmap_kib`, `filter_kib`"),
        ({"bandwidth_words": None}, "count only together"),
        ({"clock_mhz": None}, "needs the option `clock_mhz`"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as raised:
        profile_with(python="/nowhere/python", **options).open()
    assert "systolic_eyeriss" in str(raised.value)


@pytest.mark.parametrize(("python", "reason"), [("/nowhere/python", "does not run"), (sys.executable, "no working")])
def test_no_simulator_says_how_to_get_it(python: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if python == sys.executable and importlib.util.find_spec("scalesim"):
        pytest.skip("this interpreter has scalesim")
    for profile in (profile_with(python=python), profile_with()):  # by the option, then by the variable
        with pytest.raises(DeviceUnavailableError, match=reason) as raised:
            profile.open()
        assert "python3 -m venv .venv-scalesim" in str(raised.value)
        assert ".venv-scalesim/bin/python -m pip install scalesim==3.0.0 numpy==2.2.6" in str(raised.value)
        monkeypatch.setenv("HWNAS_SCALESIM_PYTHON", python)


def test_the_environment_beside_hwnas_is_found_and_none_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HWNAS_SCALESIM_PYTHON", raising=False)
    monkeypatch.setattr(scale_sim, "__file__", str(tmp_path / "site" / "hardware_profiles" / "backends" / "a.py"))
    python, other = (tmp_path / folder / ".venv-scalesim" / "bin" / "python" for folder in ("here", "anyones"))
    for path in (python, other):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.chdir(tmp_path / "anyones")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "here" / ".venv"))
    assert scale_sim._interpreter(profile_with()) == str(python)
    monkeypatch.setenv("HWNAS_SCALESIM_PYTHON", "/other/python")
    assert scale_sim._interpreter(profile_with()) == "/other/python"
    assert scale_sim._interpreter(profile_with(python="/third/python")) == "/third/python"


def test_a_simulator_that_hangs_is_lost(backend: ScaleSimBackend) -> None:
    hanging = open_backend(dataclasses.replace(profile_with(), timeout_s=5.0))
    os.kill(hanging._process.pid, signal.SIGSTOP)
    with pytest.raises(DeviceLostError, match=r"did not answer within 5 s.*was ended"):
        hanging.load(Model.of_layer(LinearClassifier(8, 10, 3)))
    assert hanging._process.poll() is not None
    hanging.close()
