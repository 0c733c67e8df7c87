"""Operators and networks of any shape on Ethos-U: on the NPU, with all of their time attributed, or refused by name."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("ethosu")

from hardware_profiles.backends.ethos_u import EthosUBackend, open_backend
from hardware_profiles.device import load_device
from hardware_profiles.model import Model
from search_spaces.base.errors import MeasurementError
from search_spaces.loading import load_space
from search_spaces.network import Network
from search_spaces.ops.movement import Reshape, Slice
from search_spaces.ops.pooling import Pool
from search_spaces.ops.reduction import Reduce
from search_spaces.ops.resize import Resize
from search_spaces.program import Shape
from tests.hardware_profiles.mystery import Mystery
from tests.hardware_profiles.networks import Steps, graph, network_of
from tests.hardware_profiles.test_tflite_operators import IMAGE, TOKENS, WRITTEN, network

REFUSED = {"ethos_u55_128": ("gather of many", "embedding"), "ethos_u85_256": ("gather of many",)}
"""What Vela leaves to the CPU of what a file can hold."""


@functools.cache
def npu(device: str) -> EthosUBackend:
    return open_backend(load_device(device))


def milliseconds(device: str, net: Network) -> dict[str, float]:
    loaded = npu(device).load(Model(net))
    split_ms = dict(loaded.positions_ms(1))
    assert loaded.sample_ms(1) == pytest.approx(sum(split_ms.values())) and loaded.memory_bytes > 0
    return split_ms


@pytest.mark.parametrize("device", REFUSED)
def test_all_that_is_written_runs_on_the_npu_or_is_refused_by_name(device: str) -> None:
    for name in WRITTEN:
        if name in REFUSED[device]:
            with pytest.raises(MeasurementError, match=r"Vela leaves GATHER .* to the CPU, whose time .* \(.+\)"):
                milliseconds(device, network(name))
        else:
            assert milliseconds(device, network(name))["layer"] > 0, name


@pytest.mark.parametrize("device", REFUSED)
def test_windows_of_what_may_be_negative_run_on_the_npu(device: str) -> None:
    """Copies of the border around them, which MIRROR_PAD makes."""
    model = Model(network_of(Pool("max", 3, 2), IMAGE), ranges=[(-2.0, 1.0)] * 2)
    assert npu(device).load(model).sample_ms(1) > 0


@pytest.mark.parametrize("device", REFUSED)
def test_positions_of_a_graph(device: str) -> None:
    split_ms = milliseconds(device, graph())
    assert list(split_ms) == ["left", "right", "gate", "join", "side", "head"]
    assert split_ms["gate"] == 0 < min(split_ms[name] for name in ("left", "right", "join", "side", "head"))


def test_a_detector_runs_on_the_npu() -> None:
    """All of its maps, which nothing joins or transposes."""
    space = load_space("mobilenet_v3_ssdlite", resolutions=["48x64"])
    split_ms = milliseconds("ethos_u55_128", space.lower(space.smallest))
    assert min(split_ms[f"head_{kind}{m}"] for kind in ("scores", "boxes") for m in range(1, 5)) > 0


@pytest.mark.parametrize(
    ("steps", "shape", "what"),
    [
        (Slice(0, 0, 8, 2), IMAGE, "STRIDED_SLICE .*StridedSlice with unsupported stride axis"),
        (Resize("bilinear", 0.5), IMAGE, "RESIZE_BILINEAR .*unsupported scale-factor=0.5"),
        (Reduce("mean", (0, 1), True), IMAGE, "MEAN .*Unsupported depth-reduction"),
        (Mystery(), TOKENS, "TFLite here has no operator Mystery"),
    ],
)
def test_what_the_npu_lacks_is_refused_with_its_reason(
    steps: Steps, shape: Shape, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MeasurementError, match=what):
        milliseconds("ethos_u55_128", network_of(steps, shape))
    assert capfd.readouterr() == ("", "")


def test_what_only_moves_values_is_not_free() -> None:
    assert milliseconds("ethos_u55_128", network_of(Reshape((24, 7)), TOKENS))["layer"] > 0
