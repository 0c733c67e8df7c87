"""Counts of a program that are exact: multiply-accumulates, parameters, activations and memory."""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces.program import Op, Program, Shape, elements


def operators(program: Program) -> Iterator[tuple[Op, tuple[Shape, ...], Shape]]:
    """Each operator that a device runs, with the shapes of its inputs and its output."""
    deployed = program.deployed
    for number, step in enumerate(deployed.steps, len(deployed.inputs)):
        yield step.op, deployed.shapes_into(step), deployed.shapes[number]


def macs(program: Program) -> int:
    """Multiply-accumulates at batch 1."""
    return sum(op.macs(inputs, output) for op, inputs, output in operators(program))


def params(program: Program) -> int:
    """Parameters as torch counts them: those that are trained, of the form that is deployed (BatchNorm has two per
    channel)."""
    return sum(elements(p.shape) for p in program.deployed.parameters if p.trained)


def peak_elements(program: Program) -> int:
    """Largest sum of the sizes of tensors alive at once, while each operator runs.

    A tensor lives from the operator that makes it to the last that reads it (inputs that nothing reads are alive in the
    beginning, the output to the end); activations, sums and products write over their first input if nobody needs it
    later.
    """
    steps, shapes = program.deployed.steps, program.deployed.shapes
    last_use = {program.output: len(steps)}
    for number, step in enumerate(steps):
        for tensor in step.inputs:
            last_use[tensor] = max(last_use.get(tensor, -1), number)
    sizes = [elements(shape) for shape in shapes]
    alive = set(range(len(program.inputs)))
    peak = sum(sizes[tensor] for tensor in alive)
    for number, step in enumerate(steps):
        over_its_input = step.op.in_place and last_use[step.inputs[0]] == number
        alive.add(len(program.inputs) + number)
        needed = sum(sizes[tensor] for tensor in alive) - (sizes[step.inputs[0]] if over_its_input else 0)
        peak = max(peak, needed)
        alive = {tensor for tensor in alive if last_use.get(tensor, -1) > number}
    return peak
