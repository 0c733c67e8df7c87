"""Compiling for targets that are not here, and which position each kernel belongs to."""

from __future__ import annotations

import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
import tvm_ffi
from tvm import relax

from hardware_profiles.model import Model
from hardware_profiles.tvm.compiler import KERNELS, Compiler, positions_of_calls
from hardware_profiles.tvm.graph import relax_module
from search_spaces.architecture import Architecture
from search_spaces.base.errors import MeasurementError, MismatchError
from search_spaces.layers import Bottleneck, Classifier, Conv, Layer, MBConv
from search_spaces.mobilenet_v3 import MobileNetV3
from search_spaces.ops.activation import Activate, Activation
from search_spaces.program import Shape, Traced

FIRST, SECOND = MBConv(8, 8, 16, True, 3, 1, 8, "h_swish", 8), Conv(8, 8, 3, 1, "none", 8)
HOST = {"kind": "llvm", "opt-level": 1}


@dataclass(frozen=True)
class Pointwise(Layer):
    """A layer of nothing but activations."""

    kinds_of: tuple[Activation, ...] = ()

    @property
    def input_shape(self) -> Shape:
        return (8, 8, 8)

    def define(self, x: Traced) -> Traced:
        for kind in self.kinds_of:
            x = Activate(kind)(x)
        return x


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(tvm.target.Target(HOST))


def grouped(model: Model) -> tuple[Any, Any, list[int]]:
    module, operators = relax_module(model, 1)
    assert list(operators) == list(model.layers)
    single = tvm.transform.Sequential(KERNELS)(module)
    return single, relax.transform.FuseOps()(single), list(operators.values())


def kernels(groups: Any) -> list[int]:
    """The kernel of each call, in order, as a number that is equal for equal ones."""
    module = relax.transform.FuseTIR()(groups)
    calls = [binding.value for block in module["main"].body.blocks for binding in block.bindings]
    return [tvm_ffi.structural_hash(module[call.args[0]]) for call in calls if isinstance(call, relax.Call)]


def outputs(library: Any, images: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(library, tvm.cpu())
    result: np.ndarray = machine["main"](tvm.runtime.tensor(images)).numpy()
    return result


def test_a_library_holds_the_kernels_of_every_network_before(compiler: Compiler, tmp_path: Path) -> None:
    for model in (Model.of_layer(FIRST), Model.of_layer(SECOND)):
        compiler.compile(model, 1)
    executable = compiler.compile(Model({"a": FIRST, "b": SECOND, "c": Classifier(8, 8, 3, "relu", 8)}), 1)
    executable.export_library(str(tmp_path / "network.so"))
    images = np.random.default_rng(0).standard_normal((1, 8, 8, 8), np.float32)
    loaded = outputs(tvm.runtime.load_module(str(tmp_path / "network.so")), images)
    assert loaded.std() > 0
    np.testing.assert_array_equal(loaded, outputs(executable.mod, images))


@pytest.mark.parametrize("stamped", [False, True])
def test_compiles_for_another_processor(tmp_path: Path, stamped: bool) -> None:
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"})
    executable = Compiler(target, 4).compile(Model({"a": FIRST, "b": SECOND}), 1, stamped=stamped)
    machines = []

    def link(path: str, files: list[str], **_: Any) -> None:
        for file in map(Path, files):
            if file.suffix == ".o":
                machines.append(struct.unpack_from("<H", file.read_bytes(), 18))  # e_machine of an ELF file
        shutil.copy(files[0], path)

    executable.export_library(str(tmp_path / "network.so"), fcompile=link)
    assert machines and set(machines) == {(183,)}  # EM_AARCH64


def test_wrong_weights_are_named(compiler: Compiler) -> None:
    weights = {"layer.conv.weight": np.zeros((8, 8, 1, 1), np.float32), "layer.conv.bias": np.zeros(8, np.float32)}
    with pytest.raises(MismatchError, match=r"layer\.conv"):
        compiler.compile(Model({"layer": SECOND}, weights), 1)


@pytest.mark.parametrize("seed", range(3))
def test_each_position_has_the_kernels_that_its_layer_has_alone(digits_space: MobileNetV3, seed: int) -> None:
    genes = digits_space.sample(1, np.random.default_rng(seed))[0]
    model = Model(digits_space.lower(Architecture(digits_space, genes)))
    single, groups, operators = grouped(model)
    of_calls = positions_of_calls(single, groups, operators)
    found = kernels(groups)
    for i, (name, layer) in enumerate(model.layers.items()):
        _, alone, _ = grouped(Model({name: layer}))
        assert [kernel for kernel, position in zip(found, of_calls, strict=True) if position == i] == kernels(alone)
    assert len(set(found)) > len(model.layers) / 2


def test_branches_stay_in_their_position() -> None:
    block = Bottleneck(8, 16, 8, True, 2, "relu", 8)
    single, groups, operators = grouped(Model({"a": SECOND, "b": block, "c": Conv(16, 8, 1, 1, "relu", 4)}))
    of_calls = positions_of_calls(single, groups, operators)
    assert of_calls == sorted(of_calls) and set(of_calls) == {0, 1, 2}
    assert of_calls.count(1) == len(positions_of_calls(*grouped(Model.of_layer(block))))


def test_a_kernel_of_two_positions_belongs_to_the_first() -> None:
    layers: dict[str, Any] = {
        "conv": SECOND,
        "nothing": Pointwise(),
        "activation": Pointwise(("relu",)),
        "last": SECOND,
        "end": Pointwise(),
    }
    single, groups, operators = grouped(Model(layers))
    assert operators == [2, 0, 1, 2, 0]
    assert positions_of_calls(single, groups, operators) == [0, 3]  # convolution with activation, convolution


def test_operators_that_do_not_add_up_are_refused() -> None:
    single, groups, operators = grouped(Model({"a": FIRST, "b": SECOND}))
    with pytest.raises(MeasurementError, match="positions cannot be told apart"):
        positions_of_calls(single, groups, [operators[0] + 1, operators[1]])
