"""Counts of a program that are exact: multiply-accumulates, parameters, activations and memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from search_spaces.program import Form, Op, Program, Shape, Step, elements


def operators(program: Program, form: Form = "deployed") -> Iterator[tuple[Op, tuple[Shape, ...], Shape]]:
    """Each operator of a form, by default that which a device runs, with the shapes of its inputs and its output."""
    program = program.in_form(form)
    for number, step in enumerate(program.steps, len(program.inputs)):
        yield step.op, program.shapes_into(step), program.shapes[number]


def macs(program: Program, form: Form = "deployed") -> int:
    """Multiply-accumulates at batch 1."""
    return sum(op.macs(inputs, output) for op, inputs, output in operators(program, form))


def params(program: Program, form: Form = "deployed") -> int:
    """Parameters as torch counts them: those that are trained; BatchNorm has two per channel."""
    return sum(elements(p.shape) for p in program.in_form(form).parameters if p.trained)


def activations(program: Program) -> int:
    """Elements that operators write whose work is multiply-accumulates: the outputs of convolutions and linear layers.

    Radosavovic et al., "Designing Network Design Spaces" (arXiv:2003.13678), who find that the time on accelerators
    follows them more closely than MACs.
    """
    return sum(elements(output) for op, _, output in operators(program) if op.linear)


def peak_elements(program: Program) -> int:
    """Peak of a program that is alone on a device, see `peak_of`; its output is alive to the end."""
    deployed = program.deployed
    return peak_of(deployed.steps, deployed.shapes, {deployed.output})


def occupancy(program: Program) -> tuple[int, ...]:
    """Sum of the sizes of the tensors alive while each operator of a program runs, (operators,); see `occupancy_of`."""
    deployed = program.deployed
    return occupancy_of(deployed.steps, deployed.shapes, {deployed.output})


def peak_of(steps: Sequence[Step], shapes: Sequence[Shape], kept: Collection[int]) -> int:
    """Largest sum of the sizes of tensors alive at once, in the beginning and while each operator runs; see
    `occupancy_of`."""
    first = len(shapes) - len(steps)
    return max([sum(map(elements, shapes[:first])), *occupancy_of(steps, shapes, kept)])


def occupancy_of(steps: Sequence[Step], shapes: Sequence[Shape], kept: Collection[int]) -> tuple[int, ...]:
    """Sum of the sizes of the tensors alive while each operator runs, (operators,).

    A tensor lives from the operator that makes it to the last that reads it (inputs that nothing reads are alive in the
    beginning); activations, sums and products write over their first input if nobody needs it later.

    Args:
        steps: operators in the order in which they run.
        shapes: of all tensors: those that are there in the beginning, then one per step.
        kept: tensors that are alive to the end.
    """
    first = len(shapes) - len(steps)
    last_use, sizes = _last_use(steps, kept), [elements(shape) for shape in shapes]
    ending = [0] * (len(steps) + 1)  # sizes of the tensors that die with each operator; of those that do not at the end
    for tensor, size in enumerate(sizes):
        ending[last_use.get(tensor, max(tensor - first, 0))] += size
    alive, found = sum(sizes[:first]), []
    for number, step in enumerate(steps):
        over_its_input = step.op.in_place and last_use[step.inputs[0]] == number
        alive += sizes[first + number]
        found.append(alive - (sizes[step.inputs[0]] if over_its_input else 0))
        alive -= ending[number]
    return tuple(found)


def _last_use(steps: Sequence[Step], kept: Collection[int]) -> dict[int, int]:
    """Number of the last operator that reads each tensor; of those that are kept one behind all."""
    last_use = dict.fromkeys(kept, len(steps))
    for number, step in enumerate(steps):
        for tensor in step.inputs:
            last_use[tensor] = max(last_use.get(tensor, -1), number)
    return last_use


def traffic(program: Program, buffer_words: int = 0) -> int:
    """Words that go between the memory and the chip, one per element, at batch 1.

    Operators run one after the other as devices have them (BatchNorm folded), and none is fused with another. Each
    reads its inputs and weights once, of which slices, gathers and embeddings need a part, and writes its output once:
    the compulsory misses of Williams et al., "Roofline", CACM 52(4), 2009. A convolution or pooling whose windows leave
    gaps, such as a 1x1 one with a stride, reads all of its input, as memories give whole lines. A view moves nothing.
    Without a buffer all of that goes through the memory; Chao et al., "HarDNet" (arXiv:1909.00948), count the inputs
    and outputs of convolutions so.

    With a buffer a tensor stays on the chip if, all the while that it is alive, all tensors alive at once fit
    (`occupancy`); weights pass through. One that stays is not written and not read again. The inputs of the program
    come from the memory and its output goes there, once each, so that the words of layers add up.
    """
    inference, first = program.inference, len(program.inputs)
    sizes, steps = [elements(shape) for shape in inference.shapes], inference.steps
    whole = list(range(first))  # the tensor that each tensor is, or is a view of
    read, words = [0] * len(sizes), 0
    for made, step in enumerate(steps, first):
        whole.append(whole[step.inputs[0]] if step.op.view else made)
        inputs = inference.shapes_into(step)
        words += step.op.weights_read(*inputs)
        if not step.op.view:
            for tensor, count in zip(step.inputs, step.op.words_read(inputs, inference.shapes[made]), strict=True):
                read[whole[tensor]] += count
    needed, last_use, end = occupancy(program), _last_use(steps, {program.output}), [0] * len(sizes)
    for tensor, own in enumerate(whole):
        end[own] = max(end[own], last_use.get(tensor, tensor - first) + 1)
    for tensor in dict.fromkeys(whole):
        is_input, is_output = tensor < first, whole[program.output] == tensor
        if max(needed[max(tensor - first, 0) : end[tensor]], default=0) > buffer_words:
            words += read[tensor] + (0 if is_input else sizes[tensor])
        elif is_input:
            words += min(read[tensor], sizes[tensor])
        else:
            words += sizes[tensor] * is_output
    return words
