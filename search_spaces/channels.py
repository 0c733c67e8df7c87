"""Origins of channels: which output of which operator each channel is that a weight reads.

Layers of other widths concatenate parts of other lengths, so that the first channels of a concatenation are not the
same ones in both. The weights that a supernet shares between them are therefore found by the channels' origins.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.ops.convolution import Convolution
from search_spaces.ops.movement import Concat, Gather, Slice, axis_of
from search_spaces.ops.transposed_convolution import TransposedConvolution
from search_spaces.program import Op, Program


@dataclass(frozen=True)
class Segment:
    """Consecutive channels of the result of one operator, or of one input of the program."""

    source: str
    first: int
    length: int


Segments = tuple[Segment, ...]
"""Channels of a tensor, in order."""


def channels_read(program: Program) -> dict[str, Segments]:
    """Input channels of each parameter that has entries for the channels of several segments, by its name."""
    tensors: list[Segments] = [(Segment(f"input {i}", 0, shape[0]),) for i, shape in enumerate(program.inputs)]
    found: dict[str, Segments] = {}
    for number, (step, parameters) in enumerate(zip(program.steps, program.owned, strict=True)):
        inputs = [tensors[i] for i in step.inputs]
        if inputs and len(inputs[0]) > 1:
            found |= {p.name: inputs[0] for p in parameters if p.input_axis is not None}
        name = parameters[0].name if parameters else f"step {number}"
        new = (Segment(name, 0, program.shapes[len(program.inputs) + number][0]),)
        tensors.append(_result(step.op.deployed(), len(program.shapes_into(step)[0]), inputs) or new)
    return found


def places(wanted: Segments, full: Segments) -> list[tuple[int, int]]:
    """Runs (first, length) of the channels of ``full`` that those of ``wanted`` are. A channel that ``full`` lacks, as
    a wider partial convolution has taken its place, is where it stands in ``wanted``."""
    numbers = {origin: place for place, origin in enumerate(_origins(full))}
    runs: list[tuple[int, int]] = []
    for here, origin in enumerate(_origins(wanted)):
        place = numbers.get(origin, here)
        if runs and place == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((place, 1))
    return runs


def _origins(segments: Segments) -> list[tuple[str, int]]:
    return [(one.source, one.first + i) for one in segments for i in range(one.length)]


def _result(op: Op, rank: int, inputs: list[Segments]) -> Segments | None:
    """Channels of the output of an operator over tensors of so many axes; None: they are its own."""
    if isinstance(op, Concat | Slice | Gather):
        if axis_of(op.axis, rank, "A channel") > 0:
            return inputs[0]
        if isinstance(op, Concat):
            return tuple(segment for segments in inputs for segment in segments)
        return _cut(inputs[0], op.start, op.stop) if isinstance(op, Slice) and op.step == 1 else None
    channels = sum(segment.length for segment in inputs[0])
    if op.keeps_channels or (isinstance(op, Convolution | TransposedConvolution) and op.depthwise(channels)):
        return inputs[0]
    return None


def _cut(segments: Segments, start: int, stop: int) -> Segments:
    found = []
    for segment in segments:
        first, last = max(start, 0), min(stop, segment.length)
        if first < last:
            found.append(Segment(segment.source, segment.first + first, last - first))
        start, stop = start - segment.length, stop - segment.length
    return tuple(found)
