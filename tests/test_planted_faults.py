"""Each contract catches the fault that it is for."""

import functools
import sys
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from hardware_profiles import DeviceProfile, Model, load_device
from hardware_profiles.backend_contract import SMALL, check_device, check_layer_lowering
from hardware_profiles.backends.onnxruntime import LoadedSession, OnnxRuntimeBackend
from search_spaces import Classifier, Conv, Genes, Layer, MBConv, MobileNetV3, Position, Value
from search_spaces.metric import MEMORY, Metric
from search_spaces.ops.convolution import Convolution
from search_spaces.program import Arrays, Parameter, Shape, Traced
from search_spaces.space_contract import check_layer, check_space
from search_spaces.torch_program import run as run_torch

# -- spaces ------------------------------------------------------------------------------------------------------------


class Sound(MobileNetV3):
    """What every faulty space below is but for its fault."""

    def __init__(self) -> None:
        super().__init__(
            name="planted",
            resolutions=[8, 12, 16],
            in_channels=1,
            classes=3,
            stem=8,
            stem_stride=1,
            stages=[{"channels": 8, "stride": 2, "squeeze": False, "activation": "relu"}],
            depths=[1, 2, 3],
            kernels=[3, 5],
            expands=[1, 2],
            last_channels=8,
            features=8,
        )

    def _replace_position(self, name: str, *depends_on: str) -> None:
        self.positions = tuple(Position(name, depends_on) if p.name == name else p for p in self.positions)
        self._steps, self.offsets, self.table_size = self._position_steps()
        self._columns = [[self.index[name] for name in position.depends_on] for position in self.positions]


class DeadGenesKept(Sound):
    def canonical(self, genes: Genes) -> Genes:
        return genes


class DeadGenesCalledAlive(Sound):
    def active(self, genes: Genes) -> NDArray[np.bool_]:
        return np.ones(genes.shape, bool)


class DeadGenesNotZero(Sound):
    def canonical(self, genes: Genes) -> Genes:
        return np.where(self.active(genes), genes, np.int16(1))


class LiveGeneZeroed(Sound):
    def canonical(self, genes: Genes) -> Genes:
        canonical = super().canonical(genes)
        canonical[:, self.index["expand.1.1"]] = 0
        return canonical


class NotIdempotent(Sound):
    def canonical(self, genes: Genes) -> Genes:
        canonical = super().canonical(genes)
        canonical[:, 0] = (canonical[:, 0] + 1) % 3
        return canonical


class WiderDtype(Sound):
    def canonical(self, genes: Genes) -> Genes:
        return super().canonical(genes).astype(np.int64)  # type: ignore[return-value]


class GlobalSample(Sound):
    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        shape = (n, len(self.choices))
        return self.canonical(np.random.randint(0, self.cardinalities, shape).astype(np.int16))  # noqa: NPY002


class GlobalMutate(Sound):
    def mutate(self, genes: Genes, rng: np.random.Generator, probability: float) -> Genes:
        drawn = rng.integers(0, self.cardinalities, genes.shape, np.int16)
        return self.canonical(np.where(np.random.random(genes.shape) < probability, drawn, genes))  # noqa: NPY002


class GlobalCross(Sound):
    def cross(self, first: Genes, second: Genes, rng: np.random.Generator) -> Genes:
        return self.canonical(np.where(np.random.random(first.shape) < 0.5, first, second))  # noqa: NPY002


class GlobalStateTouched(Sound):
    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        np.random.random()  # noqa: NPY002
        return super().sample(n, rng)


class FreshGenerator(Sound):
    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        return super().sample(n, np.random.default_rng())


class FixedSeed(Sound):
    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        return super().sample(n, np.random.default_rng(0))


class SampleNotCanonical(Sound):
    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        return rng.integers(0, self.cardinalities, (n, len(self.choices)), np.int16)


class LastValueNeverDrawn(Sound):
    def sample(self, n: int, rng: np.random.Generator) -> Genes:
        return self.canonical(rng.integers(0, self.cardinalities - 1, (n, len(self.choices)), np.int16))


class MutateOutOfRange(Sound):
    def mutate(self, genes: Genes, rng: np.random.Generator, probability: float) -> Genes:
        mutated = super().mutate(genes, rng, probability)
        mutated[:, self.index["expand.1.1"]] += 1
        return mutated


class MutateInPlace(Sound):
    def mutate(self, genes: Genes, rng: np.random.Generator, probability: float) -> Genes:
        mutated = super().mutate(np.zeros_like(genes), rng, 1.0)
        genes[-1] = 0
        return mutated


class MutateAlways(Sound):
    def mutate(self, genes: Genes, rng: np.random.Generator, probability: float) -> Genes:
        return super().mutate(genes, rng, 1.0)


class CrossOfStrangers(Sound):
    def cross(self, first: Genes, second: Genes, rng: np.random.Generator) -> Genes:
        same = (first == second).all(1, keepdims=True)
        return np.where(same, first, self.sample(len(first), rng))


class WrongSize(Sound):
    @functools.cached_property
    def size(self) -> int:
        return super().size + 1


class SizeWithDeadGenes(Sound):
    @functools.cached_property
    def size(self) -> int:
        return int(np.prod(self.cardinalities.astype(int)))


class OneBlockTooFew(Sound):
    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        if position == "stage1_block3" and values["depth.1"] == 3:
            return None
        return super().layer(position, values)


class OneBlockTooMany(Sound):
    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        depth = values.get("depth.1")
        return super().layer(position, values if depth is None else {**values, "depth.1": int(depth) + 1})


class KernelIgnored(Sound):
    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        return super().layer(position, {**values, "kernel.1.2": 3})


class DependencyMissing(Sound):
    def __init__(self) -> None:
        super().__init__()
        self._replace_position("stage1_block1", "resolution", "kernel.1.1")


class DependencyOnDepthMissing(Sound):
    def __init__(self) -> None:
        super().__init__()
        self._replace_position("stage1_block3", "resolution", "kernel.1.3", "expand.1.3")


class DependencyOnAnotherBlock(Sound):
    def __init__(self) -> None:
        super().__init__()
        self._replace_position("stage1_block1", "resolution", "kernel.1.1", "expand.1.2")

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        return super().layer(position, {"expand.1.1": values.get("expand.1.2", 1), **values})


class HiddenState(Sound):
    calls = 0

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        self.calls += 1
        layer = super().layer(position, values)
        return replace(layer, classes=2 + self.calls) if isinstance(layer, Classifier) else layer


class LowerDiffersFromTable(Sound):
    def lower(self, architecture: Any) -> dict[str, Layer]:
        layers = super().lower(architecture)
        return {**layers, "last": replace(layers["last"], activation="relu")}  # type: ignore[type-var]


class FirstDependencyFastest(Sound):
    def position_index(self, genes: Genes) -> NDArray[np.int64]:
        index = np.tile(self.offsets[:-1], (len(genes), 1))
        for p, position in enumerate(self.positions):
            step = 1
            for name in position.depends_on:
                index[:, p] += step * genes[:, self.index[name]].astype(np.int64)
                step *= int(self.cardinalities[self.index[name]])
        return index


class WrongShapeInTheChain(Sound):
    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        layer = super().layer(position, values)
        return replace(layer, size=layer.size + 1) if position == "last" and isinstance(layer, Conv) else layer


class EncodingLosesAChoice(Sound):
    def encode(self, genes: Genes) -> NDArray[np.float32]:
        return super().encode(genes)[:, 3:]


class EncodingWithNan(Sound):
    def encode(self, genes: Genes) -> NDArray[np.float32]:
        encoded = super().encode(genes)
        encoded[-1, -1] = np.nan
        return encoded


class AnyValueAccepted(Sound):
    def genes_of(self, values: Mapping[str, Value]) -> Genes:
        good = {c.name: values[c.name] if values.get(c.name) in c.values else c.values[0] for c in self.choices}
        genes = np.array([[c.values.index(good[c.name]) for c in self.choices]], np.int16)
        return self.canonical(genes)[0]


class JsonReadsTheSmallest(Sound):
    def genes_of(self, values: Mapping[str, Value]) -> Genes:
        return super().genes_of(values) * np.int16(0)


FAULTY_SPACES: dict[type[Sound], str] = {
    DeadGenesKept: "does not matter",
    DeadGenesCalledAlive: "Two canonical rows are one network",
    DeadGenesNotZero: "does not matter.*must be 0",
    LiveGeneZeroed: "canonical changes the network",
    NotIdempotent: "not canonical",
    WiderDtype: "int16.*int64",
    GlobalSample: "sample gives other rows for the same seed",
    GlobalMutate: "mutate gives other rows for the same seed",
    GlobalCross: "cross gives other rows for the same seed",
    GlobalStateTouched: "global random state",
    FreshGenerator: "sample gives other rows for the same seed",
    FixedSeed: "same rows for another seed",
    SampleNotCanonical: "sample gives rows that are not canonical",
    LastValueNeverDrawn: "sample never gives 'resolution' the value 16",
    MutateOutOfRange: "mutate gives a row that is out of range: .*'expand.1.1'",
    MutateInPlace: "changes its arguments",
    MutateAlways: "probability 0",
    CrossOfStrangers: "neither parent",
    WrongSize: "size states 253 networks, but enumeration finds 252",
    SizeWithDeadGenes: "size states 576 networks, but enumeration finds 252",
    OneBlockTooFew: "Two canonical rows are one network|'stage1_block3'.*never has a layer",
    OneBlockTooMany: "canonical changes the network",
    KernelIgnored: "Two canonical rows are one network.*'kernel.1.2'",
    DependencyMissing: "'stage1_block1' depends on 'expand.1.1', but states only",
    DependencyOnDepthMissing: "canonical changes the network",
    DependencyOnAnotherBlock: "canonical changes the network|Two canonical rows",
    HiddenState: "alone: layer",
    LowerDiffersFromTable: "'last'.*lower gives",
    FirstDependencyFastest: "last dependency fastest",
    WrongShapeInTheChain: "'last' takes",
    EncodingLosesAChoice: "not injective",
    EncodingWithNan: "finite",
    AnyValueAccepted: "must be refused",
    JsonReadsTheSmallest: "comes back from JSON",
}


def test_the_sound_space_is_sound(rng: np.random.Generator) -> None:
    check_space(Sound(), rng)


@pytest.mark.parametrize("faulty", FAULTY_SPACES, ids=lambda kind: kind.__name__)
def test_a_faulty_space_is_caught(faulty: type[Sound], rng: np.random.Generator) -> None:
    with pytest.raises(AssertionError, match=FAULTY_SPACES[faulty]):
        check_space(faulty(), rng)


@pytest.mark.parametrize("faulty", [DeadGenesKept, LiveGeneZeroed, KernelIgnored, OneBlockTooMany, WrongSize])
def test_a_faulty_space_too_large_to_enumerate_is_caught(
    faulty: type[Sound], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 300 if faulty is WrongSize else 10  # the rows of one group of choices, but not of the whole space
    monkeypatch.setattr("search_spaces.space_contract.ENUMERABLE", limit)
    with pytest.raises(AssertionError, match=FAULTY_SPACES[faulty]):
        check_space(faulty(), rng)


# -- layers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoundLayer(MBConv):
    """What every faulty layer below is but for its fault."""


class WrongParams(SoundLayer):
    @property
    def params(self) -> int:
        return super().params + 1


class WrongMacs(SoundLayer):
    @property
    def macs(self) -> int:
        return super().macs // 2


class WrongOutputShape(SoundLayer):
    @property
    def output_shape(self) -> Shape:
        return (self.out_channels, self.size // 2, self.size // 2)


class WrongPeak(SoundLayer):
    @property
    def peak_elements(self) -> int:
        return 0


class JsonLosesAField(SoundLayer):
    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "kernel": 3}


class AnotherKernel(SoundLayer):
    """States the counts of a smaller kernel than it runs."""

    @property
    def counts(self) -> tuple[int, int, int]:  # type: ignore[override]
        return MBConv(**{**asdict(self), "kernel": 3}).counts


class Forgetful(Convolution):
    """Forgets to fold the BatchNorm's offset."""

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> Any:
        folded = super().folded(arrays, inputs, norm_eps)
        return {name: 0 * array if name.endswith("bias") else array for name, array in folded.items()}


class Misnamed(Convolution):
    """Folds into parameters that its deployed form does not have."""

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> Any:
        folded = super().folded(arrays, inputs, norm_eps)
        return {name.replace(self.name, "inner"): array for name, array in folded.items()}


class Twice(Convolution):
    """Counts one of every two multiply-accumulates."""

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        return super().macs(inputs, output) // 2


class Remembers(Convolution):
    """Gives more with each call."""

    calls: ClassVar[list[None]] = []

    def to_torch(self, parameters: Any, mode: Any, x: Any) -> Any:
        self.calls.append(None)
        return run_torch.dispatch(Convolution)(self, parameters, mode, x) * len(self.calls)


class Overwrites(Convolution):
    """Writes over its input."""

    def to_torch(self, parameters: Any, mode: Any, x: Any) -> Any:
        return run_torch.dispatch(Convolution)(self, parameters, mode, x.relu_())


class Detaches(Convolution):
    """Hands no gradient to its weight."""

    def to_torch(self, parameters: Any, mode: Any, x: Any) -> Any:
        return run_torch.dispatch(Convolution)(self, [p.detach() for p in parameters], mode, x)


for _kind in (Remembers, Overwrites, Detaches):
    run_torch.register(_kind, lambda op, *given: op.to_torch(*given))


class WithConvolution(SoundLayer):
    operator: ClassVar[type[Convolution]] = Convolution

    def define(self, x: Traced) -> Traced:
        return self.operator("after", self.out_channels, 3)(super().define(x))


class WithForgetful(WithConvolution):
    operator = Forgetful


class WithMisnamed(WithConvolution):
    operator = Misnamed


class WithTwice(WithConvolution):
    operator = Twice


class Shaped(Convolution):
    """Computes with weights of another shape."""

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        weight, *others = super().parameters(*inputs)
        return replace(weight, shape=(*weight.shape[:2], 1, 3, 3)), *others


class WithShaped(WithConvolution):
    operator = Shaped


class WithRemembers(WithConvolution):
    operator = Remembers


class WithOverwrites(WithConvolution):
    operator = Overwrites


class WithDetaches(WithConvolution):
    operator = Detaches


def faulty_layer(kind: type[SoundLayer]) -> SoundLayer:
    return kind(8, 8, 16, True, 5, 1, 8, "h_swish", 6)


def test_the_sound_layer_is_sound() -> None:
    check_layer(faulty_layer(SoundLayer))
    check_layer_lowering(faulty_layer(SoundLayer))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WrongParams, "parameters"),
        (WrongMacs, "MACs"),
        (WrongOutputShape, "output shape"),
        (WrongPeak, "peak"),
        (JsonLosesAField, "JSON"),
        (AnotherKernel, "parameters"),
        (WithShaped, "does not run in torch"),
    ],
)
def test_a_layer_with_wrong_counts_is_caught(kind: type[SoundLayer], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_layer(faulty_layer(kind))


@pytest.mark.parametrize(
    ("kind", "message"), [(WithForgetful, "differs by"), (WithMisnamed, "does not use|no 'layer.after")]
)
def test_an_operator_that_is_deployed_as_something_else_is_caught(kind: type[SoundLayer], message: str) -> None:
    check_layer_lowering(faulty_layer(WithConvolution))
    with pytest.raises(AssertionError, match=message):
        check_layer_lowering(faulty_layer(kind))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WithRemembers, "gives something else when called again"),
        (WithOverwrites, "changes its input"),
        (WithDetaches, "gets no gradient"),
    ],
)
def test_an_operator_that_is_no_function_to_train_is_caught(kind: type[SoundLayer], message: str) -> None:
    check_layer(faulty_layer(WithConvolution))
    with pytest.raises(AssertionError, match=message):
        check_layer(faulty_layer(kind))


def test_an_operator_that_miscounts_is_caught() -> None:
    with pytest.raises(AssertionError, match="MACs"):
        check_layer(faulty_layer(WithTwice))


def test_batch_norm_that_is_not_folded_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from search_spaces import torch_program

    def unfolded(network: Any) -> Any:
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.zero_()
        return folded(network)

    folded = torch_program.folded_weights
    monkeypatch.setattr(torch_program, "folded_weights", unfolded)
    with pytest.raises(AssertionError, match="differs by"):
        check_layer_lowering(SMALL)


# -- devices -----------------------------------------------------------------------------------------------------------


class ThreadsNotApplied(OnnxRuntimeBackend):
    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        self._options.intra_op_num_threads = 1


class ThreadsClaimed(ThreadsNotApplied):
    @property
    def environment(self) -> dict[str, Any]:
        return {**super().environment, "intra_op_threads": self.profile.threads}


class NoThreads(OnnxRuntimeBackend):
    @property
    def environment(self) -> dict[str, Any]:
        return {key: value for key, value in super().environment.items() if "threads" not in key}


class NoVersions(OnnxRuntimeBackend):
    @property
    def environment(self) -> dict[str, Any]:
        return {key: value for key, value in super().environment.items() if "." not in str(value)}


class EnvironmentNotJson(OnnxRuntimeBackend):
    @property
    def environment(self) -> dict[str, Any]:
        return {**super().environment, "options": self._options}


class WrongLoaded(LoadedSession):
    def __init__(self, session: LoadedSession) -> None:
        self.__dict__.update(session.__dict__)


class Loads(OnnxRuntimeBackend):
    wrong: Any

    def load(self, model: Model) -> Any:
        return self.wrong(super().load(model))


class ZeroSamples(Loads):
    class wrong(WrongLoaded):
        def sample_ms(self, runs: int) -> float:
            return 0.0


class NanSamples(Loads):
    class wrong(WrongLoaded):
        def sample_ms(self, runs: int) -> float:
            return float("nan")


class Reports(Loads):
    capabilities = replace(
        OnnxRuntimeBackend.capabilities, metrics=(MEMORY, Metric("energy_mj", "mJ", of_layers="sum"))
    )


class NegativeMemory(Reports):
    class wrong(WrongLoaded):
        def values(self, runs: int) -> Mapping[str, float]:
            return {"memory_bytes": -1, "energy_mj": 1.0}


class NanEnergy(Reports):
    class wrong(WrongLoaded):
        def values(self, runs: int) -> Mapping[str, float]:
            return {"memory_bytes": 1, "energy_mj": float("nan")}


class EnergyMissing(Reports):
    class wrong(WrongLoaded):
        def values(self, runs: int) -> Mapping[str, float]:
            return {"memory_bytes": 1}


class EnergyOfNetworksInOtherUnit(Reports):
    def load(self, model: Model) -> Any:
        loaded = super().load(model)
        energy = 1000.0 if len(model.layers) > 1 else 1.0
        loaded.values = lambda runs: {"memory_bytes": 1, "energy_mj": energy}
        return loaded

    wrong = WrongLoaded


class MemoryNotStated(Loads):
    class wrong(WrongLoaded):
        def values(self, runs: int) -> Mapping[str, float]:
            return {"memory_bytes": 1000}


class WrongSplit(Loads):
    capabilities = replace(OnnxRuntimeBackend.capabilities, in_context=True)
    split: Mapping[str, float]

    def load(self, model: Model) -> Any:
        loaded = super().load(model)
        loaded.split = self.split
        return loaded

    class wrong(WrongLoaded):
        split: Mapping[str, float]

        def positions_ms(self, runs: int) -> Mapping[str, float]:
            return self.split


class PositionLost(WrongSplit):
    split = {"first": 1.0}


class PositionNegative(WrongSplit):
    split = {"first": 1.0, "second": -0.1}


class PositionsMixed(WrongSplit):
    split = {"first": 0.1, "second": 0.9}


class PositionsTooLong(WrongSplit):
    split = {"first": 1e6, "second": 1e5}


class NoOutputs(Loads):
    class wrong(WrongLoaded):
        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
            return None


class WrongOutputs(Loads):
    class wrong(WrongLoaded):
        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
            return super().run(np.zeros_like(images))


class OutputsWithoutBatch(Loads):
    class wrong(WrongLoaded):
        def run(self, images: NDArray[np.float32]) -> NDArray[np.float32] | None:
            outputs = super().run(images)
            assert outputs is not None
            return outputs[0]


class OtherWeights(OnnxRuntimeBackend):
    def load(self, model: Model) -> LoadedSession:
        if len(model.layers) > 1:
            return super().load(model)
        (layer,) = model.layers.values()
        return super().load(Model({"another name": layer}))


def planted(monkeypatch: pytest.MonkeyPatch, backend: type[OnnxRuntimeBackend]) -> DeviceProfile:
    module = types.ModuleType("hardware_profiles.backends.planted")
    module.open_backend = backend  # type: ignore[attr-defined]
    module.CAPABILITIES = backend.capabilities  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("hardware_profiles.device.backend_names", lambda: ["onnxruntime", "planted"])
    return replace(load_device("host_ort"), backend="planted", threads=2)


def test_the_sound_device_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device(planted(monkeypatch, OnnxRuntimeBackend))


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (ThreadsNotApplied, "asks for 2 threads, but reads back intra_op_threads = 1"),
        (ThreadsClaimed, "with 2 threads, but ONNX Runtime uses"),
        (NoThreads, "must state the threads"),
        (NoVersions, "must state the versions"),
        (EnvironmentNotJson, "must be JSON"),
        (ZeroSamples, "positive, finite"),
        (NanSamples, "positive, finite"),
        (NegativeMemory, "memory_bytes must be a finite number >= 0"),
        (NanEnergy, "energy_mj must be a finite number >= 0"),
        (EnergyMissing, "declares energy_mj, but does not report it"),
        (EnergyOfNetworksInOtherUnit, "energy_mj of a network must be about the sum of its layers, 2, but got 1000"),
        (MemoryNotStated, "reports memory_bytes, but does not declare it"),
        (PositionLost, "of the positions"),
        (PositionNegative, ">= 0"),
        (PositionsMixed, "each position its own"),
        (PositionsTooLong, "about the whole"),
        (NoOutputs, "must give the outputs"),
        (WrongOutputs, "differ by"),
        (OutputsWithoutBatch, "shape"),
        (OtherWeights, "differ by"),
    ],
)
def test_a_faulty_device_is_caught(
    monkeypatch: pytest.MonkeyPatch, backend: type[OnnxRuntimeBackend], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_device(planted(monkeypatch, backend))
