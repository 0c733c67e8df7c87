"""Branches merge into one operator that computes the same."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hardware_profiles.backend_contract import check_layer_lowering
from search_spaces import counting
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Conv, Layer
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.merging import NormLinear, RepConvolution
from search_spaces.program import Op, Program, Shape, Traced
from search_spaces.reparameterised import RepConv
from search_spaces.torch_program import StaticLayer, StaticNetwork, merged

IMAGE = (6, 7, 9)

PLAIN = RepConvolution("conv", 6)
CONVOLUTIONS = [
    PLAIN,
    RepConvolution("conv", 8, stride=2),
    RepConvolution("conv", 6, kernel=(5, 3), branches=3),
    RepConvolution("conv", 6, groups=3),
    RepConvolution("conv", 6, groups=6, pointwise="bias", identity="bare", norm=True),
    RepConvolution("conv", 6, kernel=1, branches=4, pointwise="none"),
    RepConvolution("conv", 8, identity="bare", norm=True),
    RepConvolution("conv", 6, pointwise="none", identity="none"),
]


def trained(program: Program) -> StaticLayer:
    """The training form in float64, as if it were trained."""
    layer = StaticLayer(program).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if tensor.is_floating_point():
                low, high = (0.5, 2) if name.endswith(("running_var", "norm.weight")) else (-1, 1)
                tensor.uniform_(low, high, generator=generator)
    return layer


def of(op: Op, shape: Shape) -> Program:
    return Program.of(lambda x: op(x), [shape])


@pytest.mark.parametrize("op", CONVOLUTIONS, ids=str)
def test_merged_convolution_computes_the_sum_of_its_branches(op: RepConvolution) -> None:
    program = of(op, IMAGE)
    layer = trained(program)
    x = torch.randn(2, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    folded = program.folded({name: tensor.numpy() for name, tensor in layer.state_dict().items()}, layer.norm_eps)
    merged = StaticLayer(program.inference).double().eval()
    merged.load_state_dict({name: torch.from_numpy(array).double() for name, array in folded.items()})
    with torch.no_grad():
        expected, got = layer(x), merged(x)
    assert got.shape[1:] == program.output_shape
    np.testing.assert_allclose(got, expected, atol=5e-6 * float(expected.abs().max()))  # weights are float32


@pytest.mark.parametrize("op", CONVOLUTIONS, ids=str)
def test_devices_run_one_convolution(op: RepConvolution) -> None:
    program = of(op, IMAGE)
    (step,) = program.deployed.steps
    assert step.op == Convolution("conv", op.channels, op.kernel, op.stride, op.groups, norm=False)
    assert program.inference == program.deployed
    assert counting.macs(program) == counting.macs(program.deployed, "training")


def test_numbers_of_both_forms_by_hand() -> None:
    program = of(RepConvolution("conv", 6, branches=2), IMAGE)
    pixels, per_spatial, per_pointwise = 7 * 9, 6 * 6 * 9, 6 * 6
    assert counting.macs(program, "training") == pixels * (2 * per_spatial + per_pointwise)
    assert counting.params(program, "training") == 2 * per_spatial + per_pointwise + 4 * 2 * 6
    assert (counting.macs(program), counting.params(program)) == (pixels * per_spatial, per_spatial + 6)
    norm = of(NormLinear("classify", 5), (6, 1, 1))
    assert (counting.params(norm, "training"), counting.params(norm)) == (6 * 5 + 5 + 12, 6 * 5 + 5)
    kept = of(Convolution("conv", 4, 3), IMAGE)
    assert [counting.params(kept, form) for form in ("training", "deployed", "inference")] == [224, 224, 220]


@pytest.mark.parametrize("shape", [(6, 1, 1), (6,)])
def test_linear_layer_takes_up_the_norm_before_it(shape: Shape) -> None:
    program = of(NormLinear("classify", 5), shape)
    layer = trained(program)
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert program.inference.steps[0].op == Linear("classify", 5)
    folded = program.folded({name: tensor.numpy() for name, tensor in layer.state_dict().items()}, layer.norm_eps)
    with torch.no_grad():
        np.testing.assert_allclose(
            x.flatten(1).numpy() @ folded["classify.weight"].T + folded["classify.bias"], layer(x), atol=1e-5
        )


@pytest.mark.parametrize("changed", [{"kernel": 4}, {"kernel": (3, 2)}, {"branches": 0}])
def test_convolution_that_could_not_merge_is_refused(changed: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match="merging branches|RepConvolution.branches must be int from 1"):
        of(dataclasses.replace(PLAIN, **changed), IMAGE)


class ForgetsIdentity(RepConvolution):
    """Merges without the branch over the input itself."""

    def folded(
        self, arrays: Mapping[str, NDArray[Any]], inputs: tuple[Shape, ...], norm_eps: float
    ) -> dict[str, NDArray[np.float32]]:
        return dataclasses.replace(PLAIN, identity="none").folded(arrays, inputs, norm_eps)


class ForgetfulLayer(Layer):
    """Layer of an operator whose merging is wrong."""

    @property
    def input_shape(self) -> Shape:
        return IMAGE

    def define(self, x: Traced) -> Traced:
        return ForgetsIdentity("conv", 6)(x)


def test_forgotten_branch_is_caught_by_the_contract() -> None:
    with pytest.raises(AssertionError, match="differs by"):
        check_layer_lowering(ForgetfulLayer())


def test_merged_network_keeps_what_does_not_merge() -> None:
    layers = {"stem": Conv(3, 8, 3, 1, "relu", 9), "block": RepConv(8, 8, 3, 1, 2, "relu", 9)}
    network = StaticNetwork(layers).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.uniform_(-1, 1)
        x = torch.randn(2, 3, 9, 9)
        together = merged(network)
        torch.testing.assert_close(together(x), network(x))
    kept = [one.get_parameter("stem.conv.conv.weight").data_ptr() for one in (together, network)]
    assert kept[0] == kept[1]
    assert set(together.get_submodule("block").state_dict()) == {"conv.weight", "conv.bias"}
    assert merged(together) is together
    plain = StaticNetwork({"stem": layers["stem"]})
    assert merged(plain) is plain
