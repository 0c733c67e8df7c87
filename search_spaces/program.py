"""Programs: what a layer computes, as data that every target reads.

A layer *defines* itself by calling operators on traced tensors; the calls that are recorded are its program. Counting,
torch, ONNX, TVM Relax, TFLite and the simulators are each a fold over it (`Program.fold`), so what is trained is what
is counted, measured and exported.

Shapes have no batch: (channels, height, width) of images, (channels, length) of signals, (tokens, features) of
sequences, (features,) of vectors.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError, MissingOperatorError
from search_spaces.base.values import FieldRules, finite

Shape = tuple[int, ...]
"""Extents of a tensor, without the batch."""

Arrays = Mapping[str, NDArray[Any]]
"""Values of parameters by name."""

Form = Literal["training", "deployed", "inference"]
"""Forms of a layer: all branches, as defined; branches merged and BatchNorm by itself, which is what networks are
compared by; BatchNorm folded in too, so that each convolution has a bias."""

T = TypeVar("T")


Initial = Literal["kaiming", "bias", "ones", "zeros", "normal", "quarter", "count"]
"""Distribution of the initial values of a parameter."""

INITIALS = get_args(Initial)


@dataclass(frozen=True)
class Parameter:
    """Tensor of numbers that an operator owns.

    A smaller operator of the same name takes its slice of a larger one's parameter: the first entries of each axis,
    the blocks on the diagonal where there are more ``groups``, the centre of a kernel.
    """

    name: str
    """Dotted path within the layer."""
    shape: Shape
    initial: Initial = "kaiming"
    """Distribution of the initial values: torch's own for convolutions and linear layers (uniform, bounded by
    1 / sqrt(fan_in)), constants, normal with standard deviation 0.02, 0.25, or a count of batches."""
    fan_in: int = 1
    """Number of products that make one output."""
    trained: bool = True
    """False for running statistics."""
    groups: int = 1
    """Number of blocks along the first axis that each read other inputs."""
    kernel_axes: int = 0
    """Number of trailing axes that are a kernel."""
    input_axis: int | None = None
    """Axis whose entries belong one by one to the channels of the input; None: none does."""

    def __post_init__(self) -> None:
        if self.initial not in INITIALS:
            raise InvalidValueError(
                f"Parameter {self.name!r} begins with {self.initial!r}; there are {', '.join(INITIALS)}."
            )

    @property
    def kernel(self) -> Shape:
        """Extents of the kernel, () where there is none."""
        return self.shape[len(self.shape) - self.kernel_axes :]


@dataclass(frozen=True)
class Traced:
    """A tensor of a program that is being defined: its shape, and its place in the trace."""

    trace: Trace
    index: int
    shape: Shape


class Trace:
    """Record of the operators that a definition calls, in order."""

    def __init__(self, inputs: Sequence[Shape]) -> None:
        self.steps: list[Step] = []
        self.shapes = [tuple(shape) for shape in inputs]

    def add(self, op: Op, inputs: tuple[Traced, ...]) -> Traced:
        """The result of an operator, checked and recorded.

        Raises:
            InvalidValueError: inputs of another program, of another number, or of shapes that do not meet.
        """
        for x in inputs:
            if x.trace is not self:
                kind = type(op).__name__
                raise InvalidValueError(f"Operator {kind} has an input of another program; use those of `define`.")
        if op.arity is not None and len(inputs) != op.arity:
            raise InvalidValueError(f"Operator {type(op).__name__} takes {op.arity} inputs, but got {len(inputs)}.")
        shapes = tuple([x.shape for x in inputs])
        shape = op.shape(*shapes)
        if not shape or min(shape) < 1:
            raise InvalidValueError(f"{op} on shapes {shapes} gives the shape {shape}, whose extents are not positive.")
        self.steps.append(Step(op, tuple([x.index for x in inputs])))
        self.shapes.append(shape)
        return Traced(self, len(self.shapes) - 1, shape)


@dataclass(frozen=True)
class Op(ABC):
    """Base of all operators. A kind is a frozen dataclass, whose fields say all but the values of its parameters.

    A target (ONNX, TVM Relax, TFLite, ...) reads an operator by what its own ``singledispatch`` function has registered
    for the kind, or else by the method of the operator that is named after the target: ``to_torch``, ``to_onnx``,
    ``to_relax``, ``to_tflite``, ``to_systolic``. An operator without either is refused there by name.
    """

    arity: ClassVar[int | None] = 1
    """Number of inputs; None: any."""
    in_place: ClassVar[bool] = False
    """True if the output may be written over the first input."""
    view: ClassVar[bool] = False
    """True if the output is the first input as it lies in memory."""
    linear: ClassVar[bool] = False
    """True if multiply-accumulates are its work."""
    moves: ClassVar[bool] = False
    """True if the output's values are those of the first input (or between them, or 0), and so have no range of their
    own."""

    keeps_channels: ClassVar[bool] = False
    """True if each channel of the output is made of the same channel of the first input."""

    def index_limits(self, *inputs: Shape) -> tuple[int | None, ...]:
        """Number of different integers, from 0 on, that each input is of; None: it is float32."""
        return (None,) * len(inputs)

    @abstractmethod
    def shape(self, *inputs: Shape) -> Shape:
        """Shape of the output.

        Raises:
            InvalidValueError: the inputs do not fit.
        """

    def macs(self, inputs: tuple[Shape, ...], output: Shape) -> int:
        """Multiply-accumulates at batch 1, given the shapes of the inputs and of the output."""
        return 0

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        """Parameters and running statistics that are trained, in order."""
        return ()

    def words_read(self, inputs: tuple[Shape, ...], output: Shape) -> tuple[int, ...]:
        """Elements of each input that one run reads."""
        return tuple(map(elements, inputs))

    def weights_read(self, *inputs: Shape) -> int:
        """Elements of the parameters that one run reads."""
        return sum(elements(p.shape) for p in self.parameters(*inputs))

    def deployed(self) -> Op:
        """The operator that devices run in its place, where training uses another form."""
        return self

    def inference(self, *inputs: Shape) -> Op:
        """The deployed operator with BatchNorm folded into its parameters."""
        return self.deployed()

    def folded(self, arrays: Arrays, inputs: tuple[Shape, ...], norm_eps: float) -> dict[str, NDArray[np.float32]]:
        """Parameters of the operator for inference, from the trained ones.

        Args:
            arrays: values of `parameters` by name.
            inputs: shapes.
            norm_eps: number that BatchNorm adds to the variance.
        """
        return {p.name: np.asarray(arrays[p.name], np.float32) for p in self.parameters(*inputs)}

    def __post_init__(self) -> None:
        _rules(type(self)).check(self)

    def __call__(self, *inputs: Traced) -> Traced:
        if not inputs:
            raise InvalidValueError(f"Operator {type(self).__name__} takes traced tensors, but got none.")
        return inputs[0].trace.add(self, inputs)


@functools.cache
def _rules(kind: type[Op]) -> FieldRules:
    """Annotations that the fields of a kind of operator must fit."""
    return FieldRules(kind, lambda name, hint: finite(hint))


Definition = Callable[..., Traced]
"""Function of traced inputs that calls operators on them and gives the output."""


@dataclass(frozen=True)
class Step:
    """One call of an operator: inputs are numbers of tensors, those of the program first, then one per step."""

    op: Op
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Operators in the order in which they run."""

    inputs: tuple[Shape, ...]
    steps: tuple[Step, ...]
    output: int
    """Number of the tensor that is the result."""

    @staticmethod
    def of(define: Definition, inputs: Sequence[Shape]) -> Program:
        """Program that a definition records, given the shapes of its inputs."""
        trace = Trace(inputs)
        given = tuple(trace.shapes)
        output = define(*[Traced(trace, number, shape) for number, shape in enumerate(given)])
        if not isinstance(output, Traced) or output.trace is not trace:
            raise InvalidValueError(f"A definition returns one of its own traced tensors, but got {output!r}.")
        program = Program(given, tuple(trace.steps), output.index)
        vars(program)["shapes"] = tuple(trace.shapes)  # known already
        return program

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of all tensors, the inputs first."""
        shapes = list(self.inputs)
        for step in self.steps:
            shapes.append(step.op.shape(*(shapes[i] for i in step.inputs)))
        return tuple(shapes)

    @functools.cached_property
    def output_shape(self) -> Shape:
        """Shape of the result."""
        return self.shapes[self.output]

    def shapes_into(self, step: Step) -> tuple[Shape, ...]:
        """Shapes of the inputs of a step."""
        shapes = self.shapes
        return tuple([shapes[i] for i in step.inputs])

    @functools.cached_property
    def index_limits(self) -> tuple[int | None, ...]:
        """Number of different integers that each input can be, from 0 on; None: it is float32.

        Raises:
            InvalidValueError: integers are wanted of what an operator computes.
        """
        found: dict[int, int] = {}
        for number, step in reversed(list(enumerate(self.steps, len(self.inputs)))):
            limits = step.op.index_limits(*self.shapes_into(step))
            if number in found:
                if not step.op.moves:
                    raise InvalidValueError(
                        f"An operator looks up by integers, but {step.op} gives float32; give an input."
                    )
                limits = (found[number], *limits[1:])
            for i, limit in zip(step.inputs, limits, strict=True):
                if limit is not None:
                    found[i] = min(limit, found.get(i, limit))
        return tuple(found.get(i) for i in range(len(self.inputs)))

    @functools.cached_property
    def deployed(self) -> Program:
        """The program that devices run: branches that merge after training are merged."""
        ops = [step.op.deployed() for step in self.steps]
        if all(op is step.op for op, step in zip(ops, self.steps, strict=True)):
            return self
        steps = (Step(op, step.inputs) for op, step in zip(ops, self.steps, strict=True))
        return Program(self.inputs, tuple(steps), self.output)

    @functools.cached_property
    def inference(self) -> Program:
        """The deployed program with BatchNorm folded into the parameters."""
        steps = (Step(s.op.inference(*self.shapes_into(s)), s.inputs) for s in self.steps)
        return Program(self.inputs, tuple(steps), self.output)

    @functools.cached_property
    def owned(self) -> tuple[tuple[Parameter, ...], ...]:
        """Parameters of the operator of each step."""
        return tuple([step.op.parameters(*self.shapes_into(step)) for step in self.steps])

    def in_form(self, form: Form) -> Program:
        """The program of a form."""
        if form == "training":
            return self
        return self.deployed if form == "deployed" else self.inference

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters of all operators.

        Raises:
            InvalidValueError: two operators with parameters have one name.
        """
        owners = [(step.op, own) for step, own in zip(self.steps, self.owned, strict=True) if own]
        names = [getattr(op, "name", own[0].name) for op, own in owners]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidValueError(
                f"Two operators of a layer have parameters and the name {twice!r}; give each a name of its own."
            )
        return tuple([parameter for _, own in owners for parameter in own])

    def folded(self, arrays: Arrays, norm_eps: float) -> dict[str, NDArray[np.float32]]:
        """Parameters of the program for inference, from those of this one."""
        found: dict[str, NDArray[np.float32]] = {}
        for step in self.steps:
            found |= step.op.folded(arrays, self.shapes_into(step), norm_eps)
        return found

    def fold(self, apply: Callable[..., T], *inputs: T) -> T:
        """The result of the steps, each ``apply(op, *its inputs)``, in order."""
        values = list(inputs)
        for step in self.steps:
            values.append(apply(step.op, *(values[i] for i in step.inputs)))
        return values[self.output]


def own_method(op: Op, method: str, target: str) -> Callable[..., Any]:
    """Method by which an operator states what it is on a target that knows no form of its kind.

    Raises:
        MissingOperatorError: it has none.
    """
    found: Callable[..., Any] | None = getattr(op, method, None)
    if found is None:
        raise MissingOperatorError(
            f"{target} here has no operator {type(op).__name__}; choose layers without it, another device, or give the "
            f"operator a method `{method}`."
        )
    return found


class Shaped(Protocol):
    """Tensor of a target, whose shape has no batch."""

    @property
    def shape(self) -> Shape:
        """Extents."""


def shape_of(op: Op, inputs: Iterable[Shaped]) -> Shape:
    """Shape of the output of an operator on the tensors of a target."""
    return op.shape(*(x.shape for x in inputs))


def elements(shape: Shape) -> int:
    """Number of elements of a tensor, batch 1."""
    return math.prod(shape)
