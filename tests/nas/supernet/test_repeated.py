"""Networks that repeat are compiled, and train as those that are not.

Quick tests let the first half of torch's compiler trace a network as a whole, forwards and backwards, and run what it
traced with torch's own kernels; slow ones compile kernels too, which takes minutes.
"""

import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from nas.data import Data
from nas.supernet import Epoch, Supernet, TrainingSettings, check_device, repeated, train
from nas.supernet.losses import Blockwise, Labels
from nas.supernet.repeated import AFTER, RepeatedNetworks
from nas.supernet.samplers import Sandwich
from nas.supernet.training_settings import Phase
from search_spaces import Architecture, Darts, MobileNetV3, NasBench201, SearchSpace
from search_spaces.base import compiling
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.torch_program import ACTIVATIONS
from tests.nas.supernet.conftest import make_space

WARNINGS = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch uses what it deprecates

STAGE: dict[str, Any] = {"channels": 8, "stride": 2, "squeeze": True, "activation": "h_swish"}
SETTINGS = TrainingSettings(epochs=2, batch_size=8, sampler=Sandwich(1), evaluate_every=0, threads=1, compile=True)


def one_stage() -> MobileNetV3:
    return make_space(resolutions=[8], stages=[STAGE], depths=[1])


def one_network() -> MobileNetV3:
    """A space whose biggest network is its smallest, so that little is to be traced."""
    return make_space(resolutions=[8], stages=[STAGE], depths=[1], kernels=[3], expands=[2])


def one_cell() -> NasBench201:
    return NasBench201(name="cells", in_channels=1, classes=10, resolution=8, channels=4, cells=1)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are run by torch's own kernels."""

    def trace(function: Callable[..., Any], threads: int, *, graphs: bool = False) -> Callable[..., Any]:
        def forward(*inputs: Tensor) -> Any:
            return function(*inputs)

        forward.__code__ = forward.__code__.replace()
        run: Callable[..., Any] = torch.compile(forward, fullgraph=True, dynamic=False, backend="aot_eager")
        return run

    monkeypatch.setattr(repeated, "compiled", trace)


@pytest.fixture
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """Functions that would be compiled, and are only noted."""
    noted: list[Callable[..., Any]] = []

    def note(function: Callable[..., Any], threads: int, *, graphs: bool = False) -> Callable[..., Any]:
        noted.append(function)
        return function

    monkeypatch.setattr(repeated, "compiled", note)
    return noted


def graphs_made() -> int:
    """Graphs that torch has compiled in this process."""
    return int(counters["stats"]["unique_graphs"])


def check_equal(supernet: Supernet, steps: int, images: Callable[..., Tensor]) -> None:
    """Networks that are compiled give the outputs, gradients and running statistics of those that are not, and are
    compiled once."""
    space, other = supernet.space, copy.deepcopy(supernet)
    networks, made = RepeatedNetworks(supernet), graphs_made()
    ends = list(dict.fromkeys([space.biggest, space.smallest]))
    for _ in range(steps):
        for one in (supernet, other):
            one.zero_grad()
        for architecture in ends:
            x = images(space, architecture)
            y, expected = networks(x, architecture), other(x, architecture)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
            for output in (y, expected):
                output.square().mean().backward()
        for (name, weights), theirs in zip(supernet.named_parameters(), other.parameters(), strict=True):
            if theirs.grad is None:
                assert weights.grad is None, name
            else:
                torch.testing.assert_close(weights.grad, theirs.grad, rtol=1e-5, atol=1e-5, msg=name)
        for (name, buffer), theirs in zip(supernet.named_buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(buffer, theirs, rtol=1e-5, atol=1e-5, msg=name)
    assert graphs_made() - made == len(ends)


@pytest.mark.parametrize("make", [one_stage, pytest.param(one_cell, marks=pytest.mark.slow)])
def test_a_compiled_network_trains_as_one_that_is_not(
    make: Callable[[], SearchSpace],
    images: Callable[..., Tensor],
    randomise: Callable[[Supernet], Supernet],
    traced: None,
) -> None:
    check_equal(randomise(Supernet(make())).train(), AFTER + 2, images)


@pytest.mark.slow
@WARNINGS
@pytest.mark.parametrize(
    "make",
    [
        make_space,
        one_cell,
        lambda: Darts(name="tiny_darts", in_channels=1, classes=4, resolution=8, channels=4, cells=2),
    ],
)
def test_compiled_kernels_train_as_torchs_own(
    make: Callable[[], SearchSpace], images: Callable[..., Tensor], randomise: Callable[[Supernet], Supernet]
) -> None:
    check_equal(randomise(Supernet(make())).train(), AFTER + 2, images)


@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ({"accumulate": 2, "ema": 0.5, "optimiser": "sgd", "learning_rate": 0.1}, 1e-4),
        pytest.param({"precision": "bfloat16"}, 0.05, marks=pytest.mark.slow),
    ],
)
def test_a_training_is_the_same_one(
    changes: dict[str, Any], within: float, data: Data, tmp_path: Path, traced: None
) -> None:
    space, settings, made = one_network(), dataclasses.replace(SETTINGS, **changes), graphs_made()
    compiled = train(space, data, settings, tmp_path / "compiled")
    assert graphs_made() - made == 1  # and so nothing anew for a step
    eager = train(space, data, dataclasses.replace(settings, compile=False), tmp_path / "eager")
    assert [e.loss for e in compiled.history] == pytest.approx([e.loss for e in eager.history], rel=within)


def test_a_stopped_training_goes_on(data: Data, tmp_path: Path, traced: None) -> None:
    space, epochs = one_network(), list[Epoch]()

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(space, data, SETTINGS, tmp_path, on_epoch=stop)
    resumed = train(space, data, SETTINGS, tmp_path, on_epoch=epochs.append)
    assert [epoch.epoch for epoch in epochs] == [2]
    eager = train(space, data, dataclasses.replace(SETTINGS, compile=False), tmp_path / "eager")
    assert [e.loss for e in resumed.history] == pytest.approx([e.loss for e in eager.history], rel=1e-4)
    with pytest.raises(MismatchError, match=r"other settings \(compile\)"):
        train(space, data, dataclasses.replace(SETTINGS, compile=False), tmp_path)


def test_what_comes_often_is_compiled(
    space: MobileNetV3, images: Callable[..., Tensor], as_they_are: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeated, "MOST", 2)
    supernet = Supernet(space).train()
    networks = RepeatedNetworks(supernet)
    drawn = [
        space.biggest,
        space.smallest,
        *(Architecture(space, row) for row in space.sample(1, np.random.default_rng(0))),
    ]
    counts = []
    for _ in range(AFTER + 2):
        for architecture in drawn:
            x = images(space, architecture)
            assert networks(x, architecture).shape == (len(x), 10)
        counts.append(len(as_they_are))
    assert counts == [0] * AFTER + [2, 2]  # the third one is one too many


def test_networks_that_do_not_come_again_are_forgotten(
    space: MobileNetV3, images: Callable[..., Tensor], as_they_are: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeated, "REMEMBERED", 4)
    networks = RepeatedNetworks(Supernet(space).train())
    for row in space.sample(2 * AFTER, np.random.default_rng(0)):
        for architecture in (space.biggest, Architecture(space, row)):
            networks(images(space, architecture, 2), architecture)
        assert len(networks._came) <= 5
    assert len(as_they_are) == 1


def test_a_network_that_cannot_be_compiled_runs_as_it_is(
    data: Data, tmp_path: Path, traced: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What an operator computes depends on values; sums over them are said to be no constants."""
    monkeypatch.setitem(ACTIVATIONS, "h_swish", lambda x: x if float(x.detach().sum()) > 0 else -x)
    space = one_network()
    with caplog.at_level(logging.WARNING, repeated.__name__):
        trained = train(space, data, SETTINGS, tmp_path / "compiled")
    (warning,) = [record.message for record in caplog.records if record.name == repeated.__name__]
    assert warning.startswith("`training.compile=true`: torch cannot compile a network of space 'tiny', so it runs as")
    eager = train(space, data, dataclasses.replace(SETTINGS, compile=False), tmp_path / "eager")
    assert [e.loss for e in trained.history] == [e.loss for e in eager.history]


def test_other_errors_are_not_hidden(
    space: MobileNetV3, images: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(repeated, "compiled", lambda *_, **__: fail)
    networks, x = RepeatedNetworks(Supernet(space).train()), images(space, space.smallest)
    for _ in range(AFTER):
        networks(x, space.smallest)
    with pytest.raises(RuntimeError, match="out of memory"):
        networks(x, space.smallest)


def test_what_cannot_be_compiled_is_refused_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(SETTINGS)
    monkeypatch.setattr("nas.supernet.training.why_not_compiled", lambda kind: f"needs a compiler for {kind}")
    with pytest.raises(InvalidValueError, match=r"`training.compile=true` needs a compiler for cpu. .*compile=false"):
        check_device(SETTINGS)
    check_device(dataclasses.replace(SETTINGS, compile=False))
    assert compiling.why_not_compiled("cpu") is None
    for given in ({"loss": Blockwise()}, {"phases": (Phase(), Phase(loss=Blockwise()))}):
        with pytest.raises(InvalidValueError, match="`compile` is for networks that run as a whole, .*Blockwise"):
            dataclasses.replace(SETTINGS, **given)
    dataclasses.replace(SETTINGS, loss=Blockwise(), phases=(Phase(loss=Labels()),))  # where nothing uses it


@pytest.mark.slow
@WARNINGS
def test_a_compiled_training_reaches_the_losses_of_one_that_is_not(
    space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=3)
    compiled = train(space, data, settings, tmp_path / "compiled")
    eager = train(space, data, dataclasses.replace(settings, compile=False), tmp_path / "eager")
    assert [e.loss for e in compiled.history] == pytest.approx([e.loss for e in eager.history], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_graphs_of_a_gpu_train_as_networks_that_are_not_compiled(
    precision: str, space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, device="cuda", precision=precision, epochs=4, accumulate=2)
    found = [
        train(space, data, dataclasses.replace(settings, compile=compile), tmp_path / str(compile))
        for compile in (True, False)
    ]
    losses = [[epoch.loss for epoch in one.history] for one in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2 if precision == "float32" else 0.1)
    assert counters["inductor"]["cudagraph_skips"] == 0


@pytest.mark.gpu
def test_gradients_of_graphs_add_up(space: MobileNetV3, images: Callable[..., Tensor]) -> None:
    """Gradients of several networks, and of several runs of one, before a step of the optimiser."""
    torch.backends.cudnn.allow_tf32 = False
    supernet = Supernet(space).train().cuda()
    other = copy.deepcopy(supernet)
    networks = RepeatedNetworks(supernet)
    for _ in range(AFTER + 4):  # the first run of a graph warms up, the second records, the third plays
        for one in (supernet, other):
            one.zero_grad()
        for architecture in (space.biggest, space.smallest, space.biggest):
            x = images(space, architecture).cuda()
            first, expected = networks(x, architecture), other(x, architecture)
            torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)
            for output in (first, expected):
                output.square().mean().backward()
        for weights, theirs in zip(supernet.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(weights.grad, theirs.grad, rtol=1e-3, atol=1e-4)
        for buffer, theirs in zip(supernet.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(buffer, theirs, rtol=1e-3, atol=1e-4)
