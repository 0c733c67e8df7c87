"""Counts against a second, slower way of counting."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from search_spaces.graph import Activation, Counts, Tensor

from search_spaces import Architecture, Classifier, Conv, Layer, MBConv, MobileNetV3
from search_spaces.base.errors import InvalidValueError

Name = int
"""A tensor of the brute force: the number of the operator that made it, from 1; 0 is the input."""


@dataclass
class Recorder:
    """A graph that writes down operators as numbers; shapes are kept beside."""

    shapes: dict[Name, tuple[int, ...]]
    operators: list[tuple[list[Name], Name]] = field(default_factory=list)

    def _made(self, inputs: list[Name], shape: tuple[int, ...]) -> Name:
        self.operators.append((inputs, len(self.operators) + 1))
        self.shapes[len(self.operators)] = shape
        return len(self.operators)

    def conv(
        self, x: Name, name: str, *, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, norm: bool = True
    ) -> Name:
        _, height, width = self.shapes[x]
        return self._made([x], (channels, (height + kernel // 2 * 2 - kernel) // stride + 1, (width - 1) // stride + 1))

    def activation(self, x: Name, kind: Activation) -> Name:
        return x

    def global_pool(self, x: Name) -> Name:
        return self._made([x], (self.shapes[x][0], 1, 1))

    def linear(self, x: Name, name: str, *, features: int, bias: bool = True) -> Name:
        return self._made([x], (features,))

    def add(self, a: Name, b: Name) -> Name:
        return self._made([a, b], self.shapes[a])

    def multiply(self, a: Name, b: Name) -> Name:
        return self._made([a, b], self.shapes[a])

    def peak(self, output: Name) -> int:
        """For each operator, look at every tensor anew: it is there if it was made before and is read now or later."""
        size = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        peaks = [size[0]]
        for step, (inputs, made) in enumerate(self.operators):
            needed = size[made]
            for name in size:
                exists = name == 0 or name <= step  # made by an earlier operator
                read_later = name == output or any(name in i for i, _ in self.operators[step + 1 :])
                overwritten = (
                    len(inputs) == 2 and name == inputs[0] and not read_later and self.shapes[name] == self.shapes[made]
                )
                if exists and (read_later or name in inputs) and not overwritten:
                    needed += size[name]
            peaks.append(needed)
        return max(peaks)


def random_chain(rng: np.random.Generator) -> list[Layer]:
    """Convolutions and inverted residuals of every variety, then perhaps a classifier."""
    channels, size = int(rng.integers(1, 9)), int(rng.integers(3, 17))
    layers: list[Layer] = []
    for _ in range(rng.integers(1, 6)):
        kernel, stride = int(rng.choice([1, 3, 5])), int(rng.integers(1, 3))
        out = channels if rng.random() < 0.5 else int(rng.integers(1, 9))
        layer: Layer = Conv(channels, out, kernel, stride, "relu", size)
        if rng.random() < 0.7:
            expands = bool(rng.random() < 0.7)
            hidden = int(rng.integers(1, 20)) if expands else channels
            squeeze = int(rng.integers(0, 4))
            layer = MBConv(channels, out, hidden, expands, kernel, stride, squeeze, "h_swish", size)
        layers.append(layer)
        channels, size = layer.output_shape[:2]
    if rng.random() < 0.5:
        layers.append(Classifier(channels, 7, 3, "relu", size))
    return layers


@pytest.mark.parametrize("seed", range(60))
def test_peak_is_that_of_a_brute_force_over_random_chains(seed: int) -> None:
    layers = random_chain(np.random.default_rng(seed))
    counts, x = Counts(), Tensor(-1, layers[0].input_shape)
    recorder, y, name = Recorder({0: layers[0].input_shape}), x, 0
    for layer in layers:
        y, name = layer.emit(counts, y, ""), layer.emit(recorder, name, "")
    assert recorder.shapes[name] == y.shape == layers[-1].output_shape
    assert counts.peak_elements(x, y) == recorder.peak(name)
    assert counts.macs == sum(layer.macs for layer in layers)
    assert counts.params == sum(layer.params for layer in layers)


def test_the_brute_force_meets_residual_squeeze_and_classifier() -> None:
    chains = [layer for seed in range(60) for layer in random_chain(np.random.default_rng(seed))]
    blocks = [layer for layer in chains if isinstance(layer, MBConv)]
    assert any(b.residual and b.squeeze for b in blocks) and any(not b.expands for b in blocks)
    assert any(isinstance(layer, Classifier) for layer in chains)


def test_peak_by_hand() -> None:
    counts, x = Counts(), Tensor(-1, (2, 4, 4))  # 32
    wide = counts.conv(x, "a", channels=8)  # 128
    narrow = counts.conv(wide, "b", channels=2)  # 32
    y = counts.add(narrow, x)  # over narrow
    assert counts.peak_elements(x, y) == 32 + 128 + 32  # x waits for the sum while b reads wide
    assert Counts().peak_elements(x, x) == 32


def test_a_sum_does_not_write_over_what_is_needed_later() -> None:
    counts, x = Counts(), Tensor(-1, (1, 1, 10))
    a = counts.conv(x, "a", channels=1)
    b = counts.add(a, x)  # x is dead, a is read again: 3 tensors
    y = counts.add(b, a)
    assert counts.peak_elements(x, y) == 30


def test_peak_of_a_network_is_no_less_than_of_each_layer(digits_space: MobileNetV3, rng: np.random.Generator) -> None:
    for genes in digits_space.sample(20, rng):
        layers = digits_space.lower(Architecture(digits_space, genes))
        first = next(iter(layers.values()))
        counts, x = Counts(), Tensor(-1, first.input_shape)
        y = x
        for layer in layers.values():
            y = layer.emit(counts, y, "")
        assert counts.peak_elements(x, y) == max(layer.peak_elements for layer in layers.values())


def test_groups_must_divide() -> None:
    with pytest.raises(InvalidValueError, match="'a'.*6 -> 8 in 4"):
        Counts().conv(Tensor(-1, (6, 2, 2)), "a", channels=8, groups=4)


def test_tensor_is_plain_data() -> None:
    assert Tensor(0, (2, 3, 4)).elements == 24 and Tensor(0, ()).elements == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Tensor(0, (1,)).made_by = 1  # type: ignore[misc]
