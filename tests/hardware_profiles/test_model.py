import subprocess
import sys

import numpy as np
import pytest

from hardware_profiles import Model
from search_spaces import Classifier, Conv, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.program import Op, Shape


def test_shapes_and_emission_are_those_of_the_chain(tiny_space: MobileNetV3) -> None:
    model = Model(tiny_space.lower(tiny_space.biggest))
    assert model.input_shape == (1, 12, 12) and model.output_shape == (3,)
    found: list[tuple[str, int]] = []

    def count(position: str, op: Op, *shapes: Shape) -> Shape:
        found.append((position, op.macs(shapes, op.shape(*shapes))))
        return op.shape(*shapes)

    assert model.fold(count, model.input_shape) == (3,)
    assert list(dict.fromkeys(position for position, _ in found)) == list(model.layers)
    assert sum(n for _, n in found) == sum(layer.macs for layer in model.layers.values())


def test_a_model_without_layers_cannot_be_built() -> None:
    with pytest.raises(InvalidValueError, match="at least one layer"):
        Model({})


def test_random_weights_depend_on_name_and_shape_only() -> None:
    model, other = Model.of_layer(Conv(3, 8, 3, 1, "relu", 8)), Model.of_layer(Classifier(8, 8, 2, "relu", 4))
    weight, bias = model.parameters("a", (8, 3, 3, 3))
    again, _ = other.parameters("a", (8, 3, 3, 3))
    assert weight.shape == (8, 3, 3, 3) and bias.shape == (8,) and weight.dtype == bias.dtype == np.float32
    assert np.array_equal(weight, again)
    assert not np.array_equal(weight, model.parameters("b", (8, 3, 3, 3))[0])
    assert not np.array_equal(weight[:4], model.parameters("a", (4, 3, 3, 3))[0])


def test_random_weights_are_the_same_in_another_process() -> None:
    code = (
        "from hardware_profiles import Model; from search_spaces import Conv;"
        "print(float(Model.of_layer(Conv(3, 8, 3, 1, 'relu', 8)).parameters('a', (8, 3))[0].sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = Model.of_layer(Conv(3, 8, 3, 1, "relu", 8)).parameters("a", (8, 3))[0].sum()
    assert float(done.stdout) == float(here)


@pytest.mark.parametrize(
    ("shape", "bias", "message"),
    [(None, (8,), "no 'layer.conv.weight'"), ((8, 3, 1, 1), (8,), "shape"), ((8, 3, 3, 3), (7,), "shape")],
)
def test_weights_of_another_network_are_refused(
    shape: tuple[int, ...] | None, bias: tuple[int, ...], message: str
) -> None:
    name = "other" if shape is None else "layer.conv"
    weight = np.zeros(shape or (8, 3, 3, 3), np.float32)
    weights = {f"{name}.weight": weight, f"{name}.bias": np.zeros(bias, np.float32)}
    model = Model({"layer": Conv(3, 8, 3, 1, "relu", 8)}, weights)
    with pytest.raises(MismatchError, match=message):
        model.parameters("layer.conv", (8, 3, 3, 3))
