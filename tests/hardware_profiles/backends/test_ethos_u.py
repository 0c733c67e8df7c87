"""The Ethos-U backend with the real Vela."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("ethosu")


import hardware_profiles.tflite_graph
from hardware_profiles.backends.ethos_u import EthosUBackend, cycles_of_operators, estimate_of_summary, open_backend
from hardware_profiles.device import DeviceProfile, load_device
from hardware_profiles.measure import Measurement, measure
from hardware_profiles.model import Model
from hardware_profiles.quantisation import activation_ranges
from search_spaces.architecture import Architecture
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MeasurementError, MismatchError
from search_spaces.layers import Conv, Layer, MBConv
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.ops.activation import Activate
from search_spaces.program import Traced

DEVICES = ("ethos_u55_128", "ethos_u65_256", "ethos_u85_256")
BLOCK = MBConv(16, 16, 48, True, 3, 1, 8, "h_swish", 6)
SUMMARY = {
    "cycles_total": "2000",
    "cycles_npu": "1500",
    "core_clock": "500000000.0",
    "nn_macs": "64000",
    "sram_memory_used": "4.5",
    **{f"{memory}_total_bytes": "0" for memory in ("dram", "on_chip_flash", "off_chip_flash")},
    **{f"{memory}_bandwidth": "3.7" for memory in ("sram", "dram", "on_chip_flash", "off_chip_flash")},
    "sram_total_bytes": "1000",
}


@pytest.fixture(scope="module")
def space() -> MobileNetV3:
    path = Path(__file__).parents[3] / "search_spaces/space/mobilenet_v3_digits.yaml"
    settings = yaml.safe_load(path.read_text())
    del settings["_target_"]
    return MobileNetV3(**settings)


@pytest.fixture(scope="module")
def u55() -> EthosUBackend:
    return open_backend(load_device("ethos_u55_128"))


def profile_with(**options: Any) -> DeviceProfile:
    profile = load_device("ethos_u55_128")
    merged = {key: value for key, value in {**profile.options, **options}.items() if value is not None}
    return dataclasses.replace(profile, options=merged)


def biggest(space: MobileNetV3) -> dict[str, Layer]:
    return space.lower(Architecture(space, space.cardinalities - np.int16(1)))


@pytest.mark.parametrize("device", DEVICES)
def test_every_layer_of_the_digits_space_compiles_onto_the_npu(device: str, space: MobileNetV3) -> None:
    backend = open_backend(load_device(device))
    for layer in space.distinct_layers[:: 1 if device == "ethos_u55_128" else 7]:
        loaded = backend.load(Model.of_layer(layer))
        assert 0 < loaded.latency_ms < 1 and loaded.memory_bytes > 0
        assert loaded.run(np.zeros((1, *layer.input_shape), np.float32)) is None


def test_a_network_takes_the_sum_of_its_layers(u55: EthosUBackend, space: MobileNetV3) -> None:
    for row in space.sample(3, np.random.default_rng(0)):
        layers = space.lower(Architecture(space, row))
        whole = u55.load(Model(layers))
        parts = [u55.load(Model.of_layer(layer)) for layer in layers.values()]
        assert sum(part.latency_ms for part in parts) == pytest.approx(whole.latency_ms, rel=0.1)
        assert 1 <= whole.memory_bytes / max(part.memory_bytes for part in parts) < 1.3


def test_u85_is_faster_than_u55(u55: EthosUBackend, space: MobileNetV3) -> None:
    model = Model(biggest(space))
    u85 = open_backend(load_device("ethos_u85_256"))
    assert u85.load(model).latency_ms < u55.load(model).latency_ms


def test_trained_weights_count_because_vela_compresses_them(u55: EthosUBackend) -> None:
    layer = Conv(64, 64, 3, 1, "relu", 4)
    zeros = np.zeros((64, 64, 3, 3), np.float32)
    zeros[:, 0, 0, 0] = 1
    weights = {"layer.conv.weight": zeros, "layer.conv.bias": np.ones(64, np.float32)}
    sparse = u55.load(Model({"layer": layer}, weights))
    assert 0 < sparse.latency_ms < 0.7 * u55.load(Model.of_layer(layer)).latency_ms
    with pytest.raises(MismatchError):
        u55.load(Model({"other": layer}, weights))


def test_activation_scales_do_not_count(u55: EthosUBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.of_layer(BLOCK)
    expected = u55.load(model)
    images = np.random.default_rng(0).standard_normal((8, *model.input_shape)).astype(np.float32)
    ranges = activation_ranges(model, images)
    content = hardware_profiles.tflite_graph.tflite_model(model, ranges)
    monkeypatch.setattr(hardware_profiles.tflite_graph, "tflite_model", lambda model: content)
    assert u55.load(model) == expected


def test_measure_compiles_once_and_repeats_nothing(u55: EthosUBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(u55, "_run_vela", lambda arguments: compiled.append(arguments) or run_vela(arguments))
    run_vela = EthosUBackend._run_vela.__get__(u55)
    profile = load_device("ethos_u55_128")
    ((item, result),) = measure([("block", Model.of_layer(BLOCK))], u55, profile, np.random.default_rng(0))
    assert item == "block" and isinstance(result, Measurement)
    assert (len(compiled), result.runs, result.passes, result.noise, result.agreed) == (1, 1, 1, 1.0, True)
    assert result.median_ms == result.p10_ms == result.p90_ms > 0


def test_the_same_figures_again_and_in_another_process(u55: EthosUBackend) -> None:
    expected = u55.load(Model.of_layer(BLOCK))
    assert u55.load(Model.of_layer(BLOCK)) == expected
    script = (
        "from hardware_profiles.device import load_device\n"
        "from hardware_profiles.model import Model\n"
        "from search_spaces.layers import MBConv\n"
        f"print(load_device('ethos_u55_128').open().load(Model.of_layer({BLOCK!r})))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == repr(expected)


def test_environment_is_read_back(u55: EthosUBackend) -> None:
    assert u55.estimates
    environment = u55.environment
    assert environment["latency"] == "estimate by compiler"
    assert environment["vela"].split(".")[0].isdigit()
    assert environment["accelerator"] == "Ethos_U55_128" and environment["clock_mhz"] == 500
    other = open_backend(profile_with(system_config="Ethos_U55_Deep_Embedded")).environment
    assert other["system_config"] == "Ethos_U55_Deep_Embedded" and other["clock_mhz"] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "ethos-u55-100"}, r"`accelerator` must be one of .*ethos-u55-128.*'ethos-u55-100'"),
        ({"accelerator": None}, "needs the option `accelerator`"),
        ({"accelerator": 55}, "must be text, but got 55"),
        ({"system_config": "Ethos_U85_SYS_Flash_High"}, "Ethos_U55 to suit ethos-u55-128"),
        ({"system_config": "Ethos_U55_Tiny"}, r"Ethos_U55_Tiny.*Arm/vela.ini"),
        ({"memory_mode": "No_Sram"}, "No_Sram"),
        ({"memory_mode": "Dedicated_Sram"}, "arena_mem_area"),  # no DRAM on a U55
        ({"config": "Arm/none.ini"}, "Arm/none.ini"),
        ({"optimise": "Size"}, "no option 'optimise'. There are `accelerator`"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as raised:
        profile_with(**options).open()
    assert "\n" not in str(raised.value) and "ethos_u55_128" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dtype", "float32", "no `dtype: float32`; it has int8"),
        ("batch", 2, "needs `batch: 1`, but got 2"),
        ("threads", 4, "needs `threads: 1`, but got 4"),
    ],
)
def test_settings_that_the_npu_does_not_have_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"ethos_u55_128.*{message}"):
        dataclasses.replace(load_device("ethos_u55_128"), **{name: value}).open()


def test_missing_vela_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "ethosu" or name.startswith("ethosu.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ethosu", None)
    with pytest.raises(DeviceUnavailableError, match=r"pip install 'hwnas\[ethos-u\]'"):
        load_device("ethos_u55_128").open()


def test_an_operator_on_the_cpu_is_an_error(u55: EthosUBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(u55, "_arguments", [*u55._arguments, "--ignore-ops=HARD_SWISH"])
    with pytest.raises(MeasurementError, match=r"leaves HARD_SWISH \(layer/\w+\).* to the CPU"):
        u55.load(Model.of_layer(BLOCK))


@pytest.mark.parametrize("content", [b"", b"not a flatbuffer" * 9])
def test_a_file_that_vela_refuses_is_an_error(
    u55: EthosUBackend, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(hardware_profiles.tflite_graph, "tflite_model", lambda model: content)
    with pytest.raises(MeasurementError, match=r"Vela does not compile the model: \w+") as raised:
        u55.load(Model.of_layer(BLOCK))
    assert "\n" not in str(raised.value)


def test_vela_leaves_no_trace(
    u55: EthosUBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    limit = sys.getrecursionlimit()
    monkeypatch.setattr(u55, "_arguments", list(u55._arguments))
    try:
        sys.setrecursionlimit(limit + 500)
        u55.load(Model.of_layer(BLOCK))
        assert sys.getrecursionlimit() == limit + 500
    finally:
        sys.setrecursionlimit(limit)
    u55._arguments.append("--no-such-argument")
    with pytest.raises(MeasurementError, match="no-such-argument"):
        u55.load(Model.of_layer(BLOCK))
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


MEMORIES = {
    "u55": ("ethos_u55_128", {}),
    "u65": ("ethos_u65_256", {}),
    "u65 with DRAM": ("ethos_u65_512", {}),
    "u85": ("ethos_u85_256", {}),
    "u85 with little SRAM": ("ethos_u85_1024", {"memory_mode": "Dedicated_Sram_256KB"}),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_all_of_a_network_is_attributed_to_its_positions(name: str, digits_space: MobileNetV3) -> None:
    device, options = MEMORIES[name]
    profile = load_device(device)
    backend = open_backend(dataclasses.replace(profile, options={**profile.options, **options}))
    layers = digits_space.lower(digits_space.biggest)
    loaded = backend.load(Model(layers))
    split = loaded.positions_ms(1)
    assert list(split) == list(layers) and min(split.values()) > 0
    assert sum(split.values()) == pytest.approx(loaded.latency_ms, rel=1e-9)


def test_a_position_takes_about_what_its_layer_takes_where_memory_is_fast(
    u55: EthosUBackend, digits_space: MobileNetV3
) -> None:
    layers = digits_space.lower(digits_space.biggest)
    split = u55.load(Model(layers)).positions_ms(1)
    ratios = {
        position: split[position] / u55.load(Model.of_layer(layer)).latency_ms for position, layer in layers.items()
    }
    assert np.median(list(ratios.values())) == pytest.approx(1, rel=0.02)
    assert 0.8 < min(ratios.values()) and max(ratios.values()) < 1.5  # one is kept in another format between layers


def test_layers_in_context_predict_where_layers_by_themselves_do_not(ofa_space: MobileNetV3) -> None:
    backend = open_backend(load_device("ethos_u65_512"))
    genes = ofa_space.sample(2, np.random.default_rng(0))
    genes[:, ofa_space.index["resolution"]] = 0
    parents = [ofa_space.lower(Architecture(ofa_space, row)) for row in genes]
    in_context: dict[Layer, float] = {}
    for layers in parents:
        split = backend.load(Model(layers)).positions_ms(1)
        in_context.update({layer: split[position] for position, layer in layers.items()})
    middle = ofa_space.index["depth.3"]
    mixed = ofa_space.canonical(np.r_[genes[0, :middle], genes[1, middle:]][None])[0]
    child = ofa_space.lower(Architecture(ofa_space, mixed))
    whole = backend.load(Model(child)).latency_ms
    assert sum(in_context[layer] for layer in child.values()) == pytest.approx(whole, rel=0.02)
    assert sum(backend.load(Model.of_layer(layer)).latency_ms for layer in child.values()) > 1.3 * whole


class Activated(Conv):
    """Begins with an activation, which is fused into the layer before it."""

    def define(self, x: Traced) -> Traced:
        return super().define(Activate("relu")(x))


def test_an_operator_that_is_fused_leaves_its_position(u55: EthosUBackend) -> None:
    big, small = (8, 64, 5, 1, "none", 16), (64, 4, 1, 2, "none", 16)
    split = u55.load(Model({"a/b": Conv(*big), "c": Activated(*small)})).positions_ms(1)
    plain = u55.load(Model({"a/b": Conv(*big), "c": Conv(*small)})).positions_ms(1)
    assert set(split) == {"a/b", "c"} and split == pytest.approx(plain, rel=0.05)
    assert split["a/b"] > 5 * split["c"]


DATABASE = """<?xml version='1.0' encoding='UTF-8'?>
<debug source="folder & model">
<table name="perf">
<![CDATA[
"id","source_id","operator","op_cycles"
7,2,"Conv2D",100
8,1,"Mean",30
9,1,"Mul",4
10,99,"Memcpy",1000
]]>
</table>
<table name="source">
<![CDATA[
"id","operator","ext_key"
1,"Mean",5
2,"Conv2D",0
]]>
</table>
</debug>
"""


def test_cycles_of_operators() -> None:
    assert cycles_of_operators(DATABASE) == {0: 100, 5: 34}
    for damaged in ("", DATABASE.replace("ext_key", "key"), DATABASE.replace("op_cycles", "cycles")):
        assert cycles_of_operators(damaged) == {}
    assert cycles_of_operators(DATABASE.replace(",100", ",fast")) == {}


def test_cycles_of_no_position_are_an_error() -> None:
    estimate = estimate_of_summary(SUMMARY, 128, {"a": 1500, "b": 500})
    assert estimate.positions_ms(1) == pytest.approx({"a": 0.003, "b": 0.001})
    for cycles in ({"a": 1500, "b": 0}, {}):
        with pytest.raises(MeasurementError, match=r"attributes 0(\.003)? of 0.004 ms to positions"):
            estimate_of_summary(SUMMARY, 128, cycles).positions_ms(1)


def test_estimate_of_summary() -> None:
    estimate = estimate_of_summary(SUMMARY, 128)
    assert estimate.latency_ms == pytest.approx(2000 / 500e6 * 1e3) and estimate.memory_bytes == 4608


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("cycles_total", "0"),
        ("cycles_total", "nan"),
        ("cycles_total", "inf"),
        ("cycles_total", "499"),  # 64,000 multiplications take 500 cycles
        ("cycles_total", "7400000"),
        ("sram_memory_used", "nan"),
        ("sram_memory_used", "-1"),
        ("core_clock", "fast"),
        ("nn_macs", None),
    ],
)
def test_implausible_figures_are_errors(column: str, value: str | None) -> None:
    summary = {key: text for key, text in {**SUMMARY, column: value}.items() if text is not None}
    with pytest.raises(MeasurementError, match="Vela's"):
        estimate_of_summary(summary, 128)


def test_the_memory_limit_cuts_off_a_part_of_the_digits_space(u55: EthosUBackend, space: MobileNetV3) -> None:
    limit = load_device("ethos_u55_128").memory_limit_bytes
    assert limit is not None
    resolution = space.index["resolution"]
    genes = space.sample(3, np.random.default_rng(0))
    genes[:, resolution] = [0, 1, 2]
    needed = [u55.load(Model(space.lower(Architecture(space, row)))).memory_bytes for row in genes]
    assert needed[0] < needed[1] < limit < needed[2]
    assert all(math.isfinite(value) for value in needed)
