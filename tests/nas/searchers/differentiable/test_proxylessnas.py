"""Binarised paths: gradients of gates, the reinforce gradient, and the memory of one path."""

import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.core.problem import Objective, Problem
from nas.searchers.differentiable.base import GradientRun, LatencyLoss, detached
from nas.searchers.differentiable.proxylessnas import ProxylessNAS, drawn_layer
from nas.supernet.relaxed import weighted_sum
from predictors import PositionTable
from search_spaces.base.errors import InvalidValueError
from search_spaces.mobilenet_v3 import MobileNetV3

Planted = Any


def test_the_planted_optimum_is_found_by_reinforce(planted: Planted) -> None:
    """By the gradient update: `test_gradient_contracts`."""
    run = planted.run(ProxylessNAS, update="reinforce", epochs=16)
    assert np.array_equal(run.candidates()[0], planted.best)


def test_reinforce_gives_the_same_for_a_seed(planted: Planted) -> None:
    found = [planted.run(ProxylessNAS, update="reinforce", epochs=2, images=128, seed=seed) for seed in (3, 3, 4)]
    logits = [torch.cat([values.detach() for values in run.logits.values()]) for run in found]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def layers(x: torch.Tensor, called: list[int]) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Three layers that note when they run."""
    scales = torch.tensor([2.0, -1.0, 3.0], requires_grad=True)

    def make(k: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(y: torch.Tensor) -> torch.Tensor:
            called.append(k)
            return scales[k] * y.sin()

        return run

    return [make(k) for k in range(3)]


def test_gates_get_the_gradient_of_the_dense_sum() -> None:
    """Equation 4, against autograd through a sum of all layers."""
    found = []
    for mix in ("dense", "drawn"):
        x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
        gates, called = torch.tensor([0.0, 1.0, 0.0], requires_grad=True), list[int]()
        parts = layers(x, called)
        if mix == "dense":
            y = torch.stack([gate * part(x) for gate, part in zip(gates, parts, strict=True)]).sum(0)
        else:
            y = drawn_layer(x, gates, parts)
            assert called == [1]
        (y.square() * torch.arange(4)).sum().backward()
        assert sorted(called) == ([0, 1, 2])
        found.append((y, gates.grad, x.grad))
    for dense, drawn in zip(*found, strict=True):
        torch.testing.assert_close(drawn, dense)


def test_only_the_drawn_layer_is_run_for_the_weights() -> None:
    called: list[int] = []
    x = torch.ones(2, 3, requires_grad=True)
    drawn_layer(x, torch.tensor([0.0, 0.0, 1.0]), layers(x, called)).sum().backward()
    assert called == [2]
    assert x.grad is not None and bool((x.grad != 0).all())


def test_weights_of_no_path_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="One drawn layer"):
        drawn_layer(torch.ones(1), torch.tensor([0.5, 0.5]), layers(torch.ones(1), []))


def test_gates_are_drawn_by_their_probability_and_hand_on_its_gradient() -> None:
    logits = {"a": torch.tensor([0.0, 1.0, 2.0], requires_grad=True)}
    run = cast(GradientRun, SimpleNamespace(generator=torch.Generator().manual_seed(0)))
    method = ProxylessNAS(data=None)  # type: ignore[arg-type]
    drawn = torch.stack([method.mixture(run, logits, 0.0)["a"] for _ in range(2000)])
    assert set(drawn.detach().unique().tolist()) == {0.0, 1.0}
    p = logits["a"].softmax(0)
    torch.testing.assert_close(drawn.detach().mean(0), p.detach(), atol=0.03, rtol=0)
    (gates,) = torch.autograd.grad(drawn[0] @ torch.tensor([1.0, 5.0, -2.0]), logits["a"])
    (soft,) = torch.autograd.grad(p @ torch.tensor([1.0, 5.0, -2.0]), logits["a"])
    torch.testing.assert_close(gates, soft)


def two_choices(losses: torch.Tensor) -> GradientRun:
    """What the reinforce update needs of a run, where the loss of each of the six networks is known."""
    logits = {
        "a": torch.tensor([0.3, -0.2], requires_grad=True),
        "b": torch.tensor([0.0, 0.5, -1.0], requires_grad=True),
    }

    def task_loss(batch: object, path: dict[str, torch.Tensor]) -> torch.Tensor:
        return path["a"] @ losses @ path["b"]

    generator = torch.Generator().manual_seed(0)
    return cast(GradientRun, SimpleNamespace(logits=logits, generator=generator, task_loss=task_loss))


LOSSES = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 1.0]])
REINFORCE = ProxylessNAS(data=None, update="reinforce", paths=3)  # type: ignore[arg-type]
BATCH = cast(Any, None)


def test_reinforce_has_the_gradient_of_the_mean_loss() -> None:
    """Section 3.3.2: its mean is the gradient of E[L], here known by enumeration; its value is the mean loss."""
    run = two_choices(LOSSES)
    mean = torch.stack([REINFORCE._reinforce(run, BATCH, 0.0) for _ in range(1000)]).mean()
    exact = run.logits["a"].softmax(0) @ LOSSES @ run.logits["b"].softmax(0)
    assert float(mean.detach()) == pytest.approx(float(exact.detach()), abs=0.1)
    for values in run.logits.values():
        (found,) = torch.autograd.grad(mean, values, retain_graph=True)
        (wanted,) = torch.autograd.grad(exact, values, retain_graph=True)
        torch.testing.assert_close(found, wanted, atol=0.08, rtol=0)


def test_the_baseline_takes_out_what_all_paths_share() -> None:
    gradients = []
    for shared in (0.0, 64.0):
        run = two_choices(LOSSES + shared)
        total = torch.stack([REINFORCE._reinforce(run, BATCH, 0.0) for _ in range(5)]).sum()
        gradients.append(torch.autograd.grad(total, list(run.logits.values())))
    for alone, raised in zip(*gradients, strict=True):
        assert bool((alone != 0).any())
        torch.testing.assert_close(alone, raised, atol=1e-4, rtol=0)


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made inside: of those that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return out

    def _freed(self, key: int, size: int) -> None:
        self.known.remove(key)
        self.bytes -= size


def peak_bytes(function: Callable[[], object]) -> int:
    """Most bytes alive at a time of what a function makes; exact, and the same on any machine."""
    with Alive() as alive:
        function()
    return alive.peak


def test_bytes_are_counted_while_they_are_alive() -> None:
    def work() -> None:
        x = torch.zeros(100)  # 400 bytes
        y = x + 1  # 800
        del x  # 400
        y.view(10, 10)  # no more
        y.exp().log()  # 1200: what exp gives is freed after log

    assert peak_bytes(work) == 1200


def many_candidates() -> MobileNetV3:
    """Eight positions of nine layers each."""
    stage = {"channels": 8, "stride": 1, "squeeze": False, "activation": "relu"}
    return MobileNetV3(
        name="nine",
        resolutions=[16],
        in_channels=1,
        classes=2,
        stem=8,
        stem_stride=1,
        stages=[stage, stage],
        depths=[4],
        kernels=[3, 5, 7],
        expands=[1, 2, 4],
        last_channels=8,
        features=8,
    )


@pytest.mark.parametrize("update", ["gradient", "reinforce"])
def test_a_step_takes_the_memory_of_one_path(planted: Planted, update: str) -> None:
    """Against training the largest of the paths that it draws, without a search; and the mixture of DARTS beside it."""
    space = many_candidates()
    latency = PositionTable.of_layers(space, "latency", "ms", lambda layer: layer.macs)
    problem = Problem(space, [Objective.of(latency, "min")])
    method = ProxylessNAS(data=planted.data, fixed={"resolution": 16}, update=update)
    batch = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2

    def fresh() -> GradientRun:
        run = GradientRun(problem, method)
        run.generator.manual_seed(0)
        return run

    run = fresh()
    step = peak_bytes(lambda: method.step(run, batch, batch, 0.0, True))
    draws = method.paths + 1 if update == "reinforce" else 2
    paths = [detached(method.mixture(run, run.logits, 0.0)) for run in [fresh()] for _ in range(draws)]

    def train(path: dict[str, torch.Tensor]) -> int:
        run = fresh()
        run.relaxed.mix = weighted_sum
        return peak_bytes(lambda: run.descend_weights(run.task_loss(batch, path)))

    run = fresh()
    run.relaxed.mix = weighted_sum
    mixture = {name: values.softmax(0) for name, values in run.logits.items()}
    darts = peak_bytes(lambda: run.descend_logits(run.task_loss(batch, mixture)))
    one = max(map(train, paths))
    assert step < 1.3 * one
    assert darts > 4 * one


def test_settings_are_checked(planted: Planted) -> None:
    with pytest.raises(InvalidValueError, match="`update` must be gradient or reinforce"):
        ProxylessNAS(data=planted.data, update="evolution")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="`paths` must be >= 2"):
        ProxylessNAS(data=planted.data, paths=1)
    assert ProxylessNAS(data=planted.data).latency == LatencyLoss("linear")
