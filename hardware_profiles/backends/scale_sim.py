"""A systolic array (TPU-like, Eyeriss-like), estimated by the simulator SCALE-Sim.

Samajdar et al., "A systematic methodology for characterizing scalability of DNN accelerators using SCALE-Sim",
ISPASS 2020; version 3: Raj et al., arXiv:2504.15377; https://github.com/scalesim-project/SCALE-Sim.

What is whose number:

- Convolutions and linear layers on the array, as long as the memory keeps up: SCALE-Sim's cycles ("CALC" mode). A
  depthwise or grouped convolution is one convolution per group, one after the other, as SCALE-Sim does it. BatchNorm is
  folded and a bias starts the sums, so both cost nothing.
- What SCALE-Sim's topologies cannot say is stated as convolutions of equal products: a signal as an image of one row,
  linear layers of tokens and each product of two matrices as 1x1 convolutions of as many pixels as rows, a dilated
  kernel as one of adjacent pixels, a transposed convolution as one convolution per phase of its stride.
- Everything else (activations, pooling, sums, products, softmax, norms, moves, BatchNorm that no convolution takes up)
  is unknown to SCALE-Sim. It runs on a vector unit beside the array, one element per lane and cycle, once for each pass
  over the tensor that the operator needs: our model. A reshape moves nothing.
- Memory, only with the options ``bandwidth_words`` and the three buffers: moving a convolution's operands is hidden
  behind computing, so it takes the longer of both: our model (`moved_words`). SCALE-Sim's own bandwidth mode is not
  used: version 3.0.0 adds every stall of a read twice, and charged 113,621 cycles of stalls at 10 words per cycle for
  a convolution whose operands are 158,560 words with all repetitions (12x14 array, 336 to 160 channels of 5x5 pixels).

So a network is the sum of its operators, and a split by position is exact. All are estimates, and the environment says
which. Words are bytes: the network is in int8.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardware_profiles.backends.base import Backend, Capabilities, Loaded
from hardware_profiles.device import DeviceProfile
from hardware_profiles.model import Model
from hardware_profiles.time_limit import TimeLimit
from search_spaces.base.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    InvalidValueError,
    MeasurementError,
)
from search_spaces.counting import operators
from search_spaces.ops.convolution import Convolution, Linear, per_axis
from search_spaces.ops.learned import Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import Reshape
from search_spaces.ops.normalisation import GroupNorm, LayerNorm, RmsNorm
from search_spaces.ops.pooling import GlobalPool, Pool
from search_spaces.ops.reduction import Reduce
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Op, Shape, elements, own_method

CAPABILITIES = Capabilities(
    dtypes=("int8",),
    options={
        "rows": "of the array",
        "columns": "of the array",
        "dataflow": "what stays in the array: ws (weights), os (outputs) or is (inputs)",
        "clock_mhz": "turns cycles into time",
        "vector_lanes": "elements per cycle of all that is no convolution (default: as many as columns)",
        "bandwidth_words": "words per cycle between DRAM and the buffers (default: memory always keeps up)",
        "ifmap_kib": "buffer of inputs; needs `bandwidth_words`",
        "filter_kib": "buffer of weights; needs `bandwidth_words`",
        "ofmap_kib": "buffer of outputs; needs `bandwidth_words`",
        "python": "Python with scalesim (default: $HWNAS_SCALESIM_PYTHON, else hwnas's .venv-scalesim, or this one)",
    },
    required=("rows", "columns", "dataflow", "clock_mhz"),
    programs=("python",),
    batch=False,
    threads=False,
    estimates=True,
    in_context=True,
)

DATAFLOWS = ("ws", "os", "is")
VARIABLE = "HWNAS_SCALESIM_PYTHON"
ENVIRONMENT = ".venv-scalesim"
BUFFERS = ("ifmap_kib", "filter_kib", "ofmap_kib")


Square = int | tuple[int, int]
"""Height and width: one number where they are equal."""


def _square(values: Sequence[int]) -> Square:
    height, width = values
    return height if height == width else (height, width)


@dataclasses.dataclass(frozen=True)
class SystolicConvolution:
    """Layer in SCALE-Sim's terms: ``side`` is height and width of the input with its padding, as far as the windows
    reach, so that its rounding (up) and ours (of the output's size) agree."""

    side: Square
    kernel: Square
    channels: int
    filters: int
    stride: Square

    @property
    def pixels(self) -> int:
        """Pixels of the output, per filter."""
        axes = zip(per_axis(self.side, 2), per_axis(self.kernel, 2), per_axis(self.stride, 2), strict=True)
        return math.prod((side - kernel) // stride + 1 for side, kernel, stride in axes)

    @property
    def window(self) -> int:
        """Products that make one output."""
        return math.prod(per_axis(self.kernel, 2)) * self.channels

    @property
    def inputs(self) -> int:
        """Words of the input."""
        return math.prod(per_axis(self.side, 2)) * self.channels


@dataclasses.dataclass
class Work:
    """Work of a systolic array with a vector unit.

    ``convolutions``: each with how often it runs. ``vectors``: elements that each other operator goes through; pooling
    goes through those of every window.
    """

    convolutions: Counter[SystolicConvolution] = dataclasses.field(default_factory=Counter)
    vectors: list[int] = dataclasses.field(default_factory=list)


@functools.singledispatch
def add_work(op: Op, work: Work, *inputs: Shape) -> None:
    """Add the work of an operator: its own method's where it has multiply-accumulates, else a pass of the vector unit
    over the elements of its output."""
    if op.linear:
        own_method(op, "to_systolic", "SCALE-Sim")(work, *inputs)
    else:
        work.vectors.append(elements(op.shape(*inputs)))


def _add_convolution(
    work: Work, size: Shape, kernel: Shape, stride: Shape, channels: int, filters: int, times: int = 1
) -> None:
    """Add a convolution.

    Args:
        work: that it is added to.
        size: of its output; of a signal its length.
        kernel, stride: for each axis of the size.
        channels, filters: of one group.
        times: groups.
    """
    rows = (1,) * (2 - len(size))
    size, kernel, stride = (*rows, *size), (*rows, *kernel), (*rows, *stride)
    side = [(n - 1) * s + k for n, k, s in zip(size, kernel, stride, strict=True)]
    convolution = SystolicConvolution(_square(side), _square(kernel), channels, filters, _square(stride))
    work.convolutions[convolution] += times


@add_work.register
def _(op: Convolution, work: Work, *inputs: Shape) -> None:
    (in_channels, *_), (channels, *size) = inputs[0], op.shape(*inputs)
    kernel, stride = (per_axis(value, len(size)) for value in (op.kernel, op.stride))
    _add_convolution(work, tuple(size), kernel, stride, in_channels // op.groups, channels // op.groups, op.groups)


@add_work.register
def _(op: TransposedConvolution, work: Work, *inputs: Shape) -> None:
    (in_channels, *_), (channels, *size) = inputs[0], op.shape(*inputs)
    rank = len(size)
    kernel, stride, dilation = (per_axis(value, rank) for value in (op.kernel, op.stride, op.dilation))
    cuts = [cut for cut, _ in op.cuts(rank)]
    for phase in itertools.product(*map(range, stride)):
        axes = list(zip(phase, kernel, stride, dilation, size, cuts, strict=True))
        taps = tuple(sum(tap * d % s == r for tap in range(k)) for r, k, s, d, _, __ in axes)
        outputs = tuple(sum((place + cut) % s == r for place in range(n)) for r, _, s, __, n, cut in axes)
        if all(taps) and all(outputs):
            steps = (1,) * rank
            _add_convolution(work, outputs, taps, steps, in_channels // op.groups, channels // op.groups, op.groups)


@add_work.register
def _(op: Linear, work: Work, *inputs: Shape) -> None:
    rows = elements(op.shape(*inputs)) // op.features
    _add_convolution(work, (rows, 1), (1, 1), (1, 1), op.width(*inputs), op.features)


@add_work.register
def _(op: Matmul, work: Work, *inputs: Shape) -> None:
    *batch, rows, columns = op.shape(*inputs)
    _add_convolution(work, (rows, 1), (1, 1), (1, 1), inputs[0][-1], columns, math.prod(batch))


@add_work.register
def _(op: GlobalPool, work: Work, *inputs: Shape) -> None:
    work.vectors.append(elements(inputs[0]))


@add_work.register
def _(op: Reduce, work: Work, *inputs: Shape) -> None:
    work.vectors.append(elements(inputs[0]))


@add_work.register
def _(op: Pool, work: Work, *inputs: Shape) -> None:
    work.vectors.append(elements(op.shape(*inputs)) * elements(per_axis(op.kernel, len(inputs[0]) - 1)))


@add_work.register
def _(op: Reshape, work: Work, *inputs: Shape) -> None:
    """Add nothing: the memory stays the same."""


@add_work.register
def _(op: Learned, work: Work, *inputs: Shape) -> None:
    """Add nothing: it lies in memory."""


@add_work.register(Softmax)
@add_work.register(LayerNorm)
@add_work.register(GroupNorm)
def _(op: Op, work: Work, *inputs: Shape) -> None:
    """Maximum, exponentials with their sum, and quotients; or mean, variance, and result."""
    work.vectors += [elements(inputs[0])] * 3


@add_work.register
def _(op: RmsNorm, work: Work, *inputs: Shape) -> None:
    work.vectors += [elements(inputs[0])] * 2


@dataclasses.dataclass(frozen=True)
class Array:
    """The accelerator of one profile; sizes of buffers in words."""

    rows: int
    columns: int
    dataflow: str
    clock_mhz: float
    vector_lanes: int
    bandwidth_words: float = math.inf
    ifmap_words: int = 0
    filter_words: int = 0
    ofmap_words: int = 0

    def moved_words(self, convolution: SystolicConvolution) -> int:
        """Words between DRAM and the buffers.

        The array takes a matrix product in tiles of rows x columns, the tiles of a column after each other. What stays
        in the array moves once. What streams past it for every column of tiles moves once if half of its buffer holds
        it (the other half is being filled), else once per column. Sums that wait for the next tile of a column, where
        the products of an output are cut into tiles, move out and in again if half of their buffer does not hold those
        of one column; a sum counts as one word.
        """
        ifmap = convolution.inputs
        filters = convolution.window * convolution.filters
        outputs = convolution.pixels * convolution.filters
        tiled = {"ws": convolution.filters, "os": convolution.filters, "is": convolution.pixels}[self.dataflow]
        column_tiles = math.ceil(tiled / self.columns)
        if self.dataflow == "is":
            filters *= column_tiles if 2 * filters > self.filter_words else 1
        else:
            ifmap *= column_tiles if 2 * ifmap > self.ifmap_words else 1
        if self.dataflow != "os":
            row_tiles = math.ceil(convolution.window / self.rows)
            waiting = outputs // tiled * min(tiled, self.columns)
            outputs *= 2 * row_tiles - 1 if 2 * waiting > self.ofmap_words else 1
        return ifmap + filters + outputs

    def cycles(self, work: Work, computing: Mapping[SystolicConvolution, int]) -> int:
        """All cycles of some work.

        Args:
            work: what is done.
            computing: cycles that each convolution takes in the array.
        """
        array = sum(
            times * max(computing[c], math.ceil(self.moved_words(c) / self.bandwidth_words))
            for c, times in work.convolutions.items()
        )
        return array + sum(math.ceil(elements / self.vector_lanes) for elements in work.vectors)


@dataclasses.dataclass(frozen=True)
class ScaleSimEstimate(Loaded):
    """Milliseconds of each position of a model; a `Loaded`."""

    parts_ms: Mapping[str, float]

    def sample_ms(self, runs: int) -> float:
        return sum(self.parts_ms.values())

    def positions_ms(self, runs: int) -> Mapping[str, float]:
        return dict(self.parts_ms)


class ScaleSimBackend(Backend):
    """SCALE-Sim in a process of its own, set up for one array. It simulates each convolution once."""

    capabilities = CAPABILITIES

    def __init__(self, profile: DeviceProfile) -> None:
        self._name = profile.name
        self._array = _array(profile)
        self._known: dict[SystolicConvolution, int] = {}
        python = _interpreter(profile)
        runner = Path(__file__).parents[1] / "scale_sim_runner.py"
        self._log = tempfile.TemporaryFile("w+", errors="replace")
        try:
            self._process = subprocess.Popen(
                [python, "-I", str(runner)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        except OSError as error:
            self._log.close()
            raise _unavailable(profile, f"{python} does not run: {error.strerror}") from error
        self._timeout_s, self._limit = profile.timeout_s, TimeLimit(self._process)
        try:
            with self._limit.of(self._timeout_s):
                self._versions = self._read()
        except DeviceLostError as error:
            self.close()
            raise _unavailable(profile, f"{python} has no working SCALE-Sim: {error}") from error

    @property
    def environment(self) -> dict[str, Any]:
        array = {k: v for k, v in dataclasses.asdict(self._array).items() if v not in (0, math.inf)}
        stalls = "hwnas's model of moved words" if self._array.bandwidth_words < math.inf else "none: it keeps up"
        return {
            **self._versions,
            "latency": "estimate by simulator",
            **array,
            "convolutions": "cycles by SCALE-Sim",
            "other_operators": "hwnas's model: elements / vector_lanes cycles",
            "memory": stalls,
        }

    def load(self, model: Model) -> ScaleSimEstimate:
        works = {position: Work() for position in model.layers}
        for position, layer in model.layers.items():
            for op, inputs, _ in operators(layer.program):
                add_work(op, works[position], *inputs)
        self._simulate(c for work in works.values() for c in work.convolutions)
        per_ms = self._array.clock_mhz * 1e3
        return ScaleSimEstimate({name: self._array.cycles(work, self._known) / per_ms for name, work in works.items()})

    def _simulate(self, convolutions: Iterable[SystolicConvolution]) -> None:
        unknown = list(dict.fromkeys(c for c in convolutions if c not in self._known))
        if not unknown:
            return
        if self._process.poll() is not None:
            raise self._lost()
        array = {name: getattr(self._array, name) for name in ("rows", "columns", "dataflow")}
        request = {**array, "convolutions": [dataclasses.astuple(c) for c in unknown]}
        try:
            assert self._process.stdin is not None
            with self._limit.of(self._timeout_s * len(unknown)):
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                answer = self._read()
        except OSError as error:
            raise self._lost() from error
        if "error" in answer:
            raise MeasurementError(f"Device {self._name!r}: SCALE-Sim does not simulate the model: {answer['error']}")
        self._known |= dict(zip(unknown, answer["cycles"], strict=True))

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._lost()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise DeviceLostError(f"Device {self._name!r}: SCALE-Sim's process wrote {line.strip()!r}.") from error
        return answer

    def _lost(self) -> DeviceLostError:
        status = self._process.wait()
        if self._limit.exceeded_s is not None:
            return DeviceLostError(
                f"Device {self._name!r}: SCALE-Sim's process did not answer within {self._limit.exceeded_s:g} s "
                "(`timeout_s` of the device for each convolution) and was ended."
            )
        self._log.seek(0)
        said = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return DeviceLostError(
            f"Device {self._name!r}: SCALE-Sim's process ended with status {status}" + (f": {said[-1]}" if said else "")
        )

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()  # it keeps nothing that could be lost
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def _array(profile: DeviceProfile) -> Array:
    device, options = f"Device {profile.name!r}", profile.options
    if options["dataflow"] not in DATAFLOWS:
        raise InvalidValueError(
            f"{device}: option `dataflow` must be one of {', '.join(DATAFLOWS)}, but got {options['dataflow']!r}."
        )
    for name, value in options.items():
        kinds = {"clock_mhz": (int, float), "bandwidth_words": (int, float)}.get(name, (int,))
        if name not in ("dataflow", "python") and not (type(value) in kinds and 0 < value < math.inf):
            kind = "number" if float in kinds else "integer"
            raise InvalidValueError(f"{device}: option `{name}` must be a positive {kind}, but got {value!r}.")
    memory = [name for name in ("bandwidth_words", *BUFFERS) if name in options]
    if memory and len(memory) < 4:
        raise InvalidValueError(
            f"{device}: options `bandwidth_words`, {', '.join(f'`{b}`' for b in BUFFERS)} count only together, but "
            f"there is only {', '.join(f'`{name}`' for name in memory)}."
        )
    return Array(
        rows=options["rows"],
        columns=options["columns"],
        dataflow=options["dataflow"],
        clock_mhz=options["clock_mhz"],
        vector_lanes=options.get("vector_lanes", options["columns"]),
        bandwidth_words=options.get("bandwidth_words", math.inf),
        **{name.replace("kib", "words"): options.get(name, 0) * 1024 for name in BUFFERS},
    )


def _interpreter(profile: DeviceProfile) -> str:
    """Python of the environment with SCALE-Sim: the option, the variable, ``.venv-scalesim`` beside the package
    or beside this environment, or this one. The current folder may be anyone's: nothing in it is run."""
    chosen = profile.options.get("python") or os.environ.get(VARIABLE)
    if chosen:
        return str(Path(chosen).expanduser())
    for folder in (Path(__file__).parents[2], Path(sys.prefix).parent):
        for python in (folder / ENVIRONMENT / "bin" / "python", folder / ENVIRONMENT / "Scripts" / "python.exe"):
            if python.is_file():
                return str(python)
    if importlib.util.find_spec("scalesim") is not None:
        return sys.executable
    raise _unavailable(profile, "no interpreter with it was found")


def _unavailable(profile: DeviceProfile, reason: str) -> DeviceUnavailableError:
    return DeviceUnavailableError(
        f"Device {profile.name!r} needs SCALE-Sim in an environment of its own, because it breaks on newer numpy: "
        f"{reason}. Make it with `python3 -m venv {ENVIRONMENT}` and `{ENVIRONMENT}/bin/python -m pip install "
        f"scalesim==3.0.0 numpy==2.2.6`, or name an interpreter in ${VARIABLE} or in the option `python`."
    )


def open_backend(profile: DeviceProfile) -> ScaleSimBackend:
    """See `hardware_profiles.backends.base`."""
    return ScaleSimBackend(profile)
