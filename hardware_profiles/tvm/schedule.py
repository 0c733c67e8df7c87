"""A schedule for the loops of channels-last networks on CPUs, which TVM's default pipelines leave as scalar loops.

One rule serves most operators, because with the channels innermost they are all the same: for each pixel and each
channel, reduce over something. The rule keeps a tile of output pixels times vectors of channels in registers while the
reduction runs around it, and applies the element-wise operators that TVM fused behind to the finished tile, so that
they read registers instead of memory. It is the register blocking of Georganas et al., "Anatomy of High-Performance
Deep Learning Convolutions on SIMD Architectures", SC 2018, arXiv:1808.05567, without blocked weights.

What sums along the innermost axis instead (softmax, norms) has a rule of its own: row by row, in vectors.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import IRModule, tirx
from tvm.ir.expr import Call, TensorLoad
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import ScheduleError
from tvm.target import Target, codegen

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Processor:
    """Facts of a CPU that the schedule has to know.

    Args:
        lanes: float32 numbers in one vector register.
        registers: vector registers.
        threads: threads that one operator is split over.
    """

    lanes: int
    registers: int
    threads: int = 1

    @staticmethod
    def of_target(target: Target, threads: int) -> Processor:
        """Vector registers of an LLVM target."""
        features = codegen.llvm_get_cpu_features(target)
        if "avx512f" in features:
            return Processor(16, 32, threads)
        if "avx" in features:
            return Processor(8, 16, threads)
        return Processor(4, 32 if "neon" in features else 16, threads)


def scheduled(function: tirx.PrimFunc, processor: Processor) -> tirx.PrimFunc:
    """The same computation with its loops ordered for a CPU; the function itself where the rule does not apply.

    Args:
        function: a fused operator whose last axis is the channels.
        processor: what it will run on.
    """
    schedule = Schedule(IRModule({"main": function}))
    try:
        _schedule(schedule, processor)
    except Exception as error:  # a schedule primitive refuses with errors of many kinds
        blocks = [schedule.get(block).name_hint for block in _blocks(schedule)]
        logger.debug("Blocks %s stay unscheduled: %s", blocks, str(error).strip().rpartition("\n")[2])
        return function
    return schedule.mod["main"]


def _schedule(schedule: Schedule, processor: Processor) -> None:
    reductions = [block for block in _blocks(schedule) if _is_reduction(schedule, block)]
    if len(reductions) == 1:
        _pad_product(schedule, reductions[0], processor)
    _inline(schedule)
    if len(reductions) > 1 or any(_reduces_last_axis(schedule, block) for block in reductions):
        _by_rows(schedule, reductions, processor)
        return
    tiles = [(reduction, _epilogue(schedule, reduction)) for reduction in reductions]
    tiled = [schedule.get_sref(block) for tile in tiles for block in tile]
    # The others are passes of their own: padding before the reduction, a product with a larger tensor behind it.
    for block in _blocks(schedule):
        if not any(schedule.get_sref(block).same_as(other) for other in tiled):
            _vectorize(schedule, block, processor)
    for reduction, epilogue in tiles:
        _tile(schedule, reduction, epilogue, processor)


def _inline(schedule: Schedule) -> None:
    """Compute element-wise blocks where their values are used.

    Not those that a larger block reads (a gate that is multiplied with a whole image would be computed per pixel), and
    not padding (its condition would be tested once per kernel tap).
    """
    outputs = [schedule.get_sref(block) for block in schedule.get_output_blocks("root")]
    for block in _blocks(schedule):
        consumers = schedule.get_consumers(block)
        if any(schedule.get_sref(block).same_as(output) for output in outputs) or _is_reduction(schedule, block):
            continue
        if any(_is_reduction(schedule, consumer) for consumer in consumers):
            fits = isinstance(schedule.get(block).body.value, TensorLoad)  # padding by nothing is a plain copy
        else:
            fits = all(_extents(schedule, consumer) == _extents(schedule, block) for consumer in consumers)
        if fits:
            schedule.compute_inline(block)


def _epilogue(schedule: Schedule, reduction: Any) -> Any:
    """The block that takes finished sums out of registers: what follows element by element, or else a plain copy."""
    consumers = schedule.get_consumers(reduction)
    if len(consumers) == 1 and _extents(schedule, consumers[0]) == _extents(schedule, reduction):
        schedule.set_scope(reduction, 0, "local")
        return consumers[0]
    return schedule.cache_write(reduction, 0, "local")


def _pad_product(schedule: Schedule, reduction: Any, processor: Processor) -> None:
    """Extend a matrix product by zeros where its columns fill no vectors, or its rows no tile: 197 tokens, say."""
    block = schedule.get(reduction)
    kept = [variable for variable in block.iter_vars if variable.iter_type == tirx.IterVar.DataPar]
    if len(kept) < 2 or len(block.reads) != 2 or not _is_product(block, kept[-2].var, kept[-1].var):
        return
    rows, columns = (int(variable.dom.extent) for variable in kept[-2:])
    vectors_fit = columns == 1 or _lanes(columns, processor) >= processor.lanes // 2
    tiles_fit = rows < 4 or max(size for size in _divisors(rows) if size <= 8) >= 4
    if not (vectors_fit and tiles_fit):
        padding = [1] * len(block.iter_vars)
        padding[len(kept) - 2 : len(kept)] = [1 if tiles_fit else 4, 1 if vectors_fit else processor.lanes]
        with contextlib.suppress(ScheduleError):  # a convolution is no product in its own terms
            schedule.pad_einsum(reduction, padding)


def _is_product(block: Any, row: Any, column: Any) -> bool:
    """True if one input has no column, and the other has no row."""
    used = [
        [variable for place in region.region for variable in tirx.analysis.undefined_vars(place.min)]
        for region in block.reads
    ]
    lacks_row, lacks_column = ([not _meet([variables], [axis]) for variables in used] for axis in (row, column))
    return lacks_column != lacks_row and sorted(lacks_row) == sorted(lacks_column) == [False, True]


def _by_rows(schedule: Schedule, reductions: Sequence[Any], processor: Processor) -> None:
    """Do all that is to be done with a row, whose numbers lie side by side, before the next one: softmax, norms, sums.

    A sum is taken in as many parts as a vector register has numbers, which are added up at the end.
    """
    sizes = [_extents(schedule, block) for block in (*reductions, _blocks(schedule)[-1])]
    shared = list(itertools.takewhile(lambda extents: len({*extents}) == 1, zip(*sizes, strict=False)))
    if not shared:
        raise ValueError("reductions of one function share no rows")
    parts = [part for block in reductions if (part := _in_lanes(schedule, block, processor)) is not None]
    *others, last = _blocks(schedule)
    row = schedule.fuse(*schedule.get_loops(last)[: len(shared)])
    if processor.threads > 1:
        schedule.parallel(row)
    for block in reversed(others):
        schedule.compute_at(block, row, preserve_unit_loops=True)
    for block in parts:
        kinds = [variable.iter_type for variable in schedule.get(block).iter_vars]
        loops = schedule.get_loops(block)[-len(kinds) :]
        sums = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce]
        lane, *kept = (loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar)
        schedule.reorder(*kept, *sums, lane)
        schedule.vectorize(lane)
        schedule.decompose_reduction(block, sums[0])
    for block in (*others, last):
        loops = schedule.get_loops(block)[1:]
        if loops and not _is_reduction(schedule, block):
            _vectorize_loop(schedule, block, loops[-1], processor)


def _in_lanes(schedule: Schedule, reduction: Any, processor: Processor) -> Any:
    """The block that takes a sum in parts; None where its last loop cannot be cut into vectors."""
    *_, last = (variable for variable in schedule.get(reduction).iter_vars)
    loop = schedule.get_loops(reduction)[-1]
    lanes = _lanes(int(schedule.get(loop).extent), processor)
    if last.iter_type != tirx.IterVar.CommReduce or lanes == 1:
        return None
    _, lane = schedule.split(loop, [None, lanes])
    return schedule.rfactor(lane, len(_extents(schedule, reduction)))


def _tile(schedule: Schedule, reduction: Any, epilogue: Any, processor: Processor) -> None:
    *outer, rows, columns, channels = schedule.get_loops(epilogue)
    height, width, depth = (int(schedule.get(loop).extent) for loop in (rows, columns, channels))
    lanes = _lanes(depth, processor)
    tile = tile_sizes(height, width, depth // lanes, _shares_inputs(schedule, reduction), processor)
    row_tile, column_tile, vectors = tile

    row_outer, row_inner = schedule.split(rows, [None, row_tile])
    column_outer, column_inner = schedule.split(columns, [None, column_tile])
    channel_outer, vector, lane = schedule.split(channels, [None, vectors, lanes])
    # Channels outside the pixels: the weights of a few vectors of channels stay in the cache for the whole image.
    tiles = [*outer, channel_outer, row_outer, column_outer]
    schedule.reorder(*tiles, row_inner, column_inner, vector, lane)
    if processor.threads > 1:
        tiles = [schedule.fuse(*tiles)]
        schedule.parallel(tiles[0])
    for loop in (row_inner, column_inner, vector):
        schedule.unroll(loop)
    schedule.vectorize(lane)

    schedule.compute_at(reduction, tiles[-1], preserve_unit_loops=True)
    loops = schedule.get_loops(reduction)[len(tiles) :]
    kinds = [variable.iter_type for variable in schedule.get(reduction).iter_vars]
    *_, channels = pixels = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    sums = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce]
    vector, lane = schedule.split(channels, [None, lanes])
    schedule.reorder(*sums, *pixels[:-1], vector, lane)
    # LLVM keeps the tile in registers only if every access to it has a constant index.
    for loop in (*pixels[:-1], vector):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    schedule.decompose_reduction(reduction, sums[0])


def _vectorize(schedule: Schedule, block: Any, processor: Processor) -> None:
    *outer, channels = schedule.get_loops(block)
    _vectorize_loop(schedule, block, channels, processor)
    if processor.threads > 1 and outer:
        schedule.parallel(schedule.fuse(*outer))


def _vectorize_loop(schedule: Schedule, block: Any, loop: Any, processor: Processor) -> None:
    """Cut a loop into vectors, unless a condition would be tested for each of their numbers: LLVM moves it outside."""
    if not _has_condition(schedule.get(block)):
        _, lane = schedule.split(loop, [None, _lanes(int(schedule.get(loop).extent), processor)])
        schedule.vectorize(lane)


def _has_condition(block: Any) -> bool:
    """True if it depends on the place along a block's last axis whether something is read."""
    last, found = block.iter_vars[-1].var, []

    def visit(node: Any) -> None:
        if str(getattr(node.op, "name", "")).endswith("if_then_else"):
            found.append(_meet([tirx.analysis.undefined_vars(node.args[0])], [last]))

    tvm_ffi.structural_walk(block.body, (Call, visit))
    return any(found)


def _lanes(channels: int, processor: Processor) -> int:
    """Widest vector that the channels can be cut into without a rest."""
    return math.gcd(channels, processor.lanes)


def tile_sizes(
    height: int, width: int, vectors: int, shares_inputs: bool, processor: Processor
) -> tuple[int, int, int]:
    """Rows, columns and vectors of a register tile.

    A step of the reduction loads one weight per vector of channels and uses it for every pixel of the tile. Where all
    output channels share their inputs it loads one input per pixel and uses it for every vector, else (depthwise) one
    per pixel and vector. The tile with the fewest loads per multiplication wins, the widest one of equals: it reads
    consecutive memory.
    """
    accumulators = processor.registers // 2  # more were not faster, and the unrolled code takes longer to compile

    def loads(tile: tuple[int, int, int]) -> tuple[float, int, int]:
        rows, columns, chosen = tile
        return 1 / (rows * columns) + (1 / chosen if shares_inputs else 1), -columns, -chosen

    tiles = itertools.product(_divisors(height), _divisors(width), _divisors(vectors))
    return min((tile for tile in tiles if math.prod(tile) <= accumulators), key=loads)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _shares_inputs(schedule: Schedule, reduction: Any) -> bool:
    """True if some input does not depend on the output channel."""
    block = schedule.get(reduction)
    channel = [variable.var for variable in block.iter_vars if variable.iter_type == tirx.IterVar.DataPar][-1]
    used = [tirx.analysis.undefined_vars(region.region[-1].min) for region in block.reads]
    return not all(any(channel.same_as(variable) for variable in variables) for variables in used)


def _blocks(schedule: Schedule) -> list[Any]:
    blocks: list[Any] = schedule.get_child_blocks(schedule.get_sblock("root"))
    return blocks


def _reduces_last_axis(schedule: Schedule, block: Any) -> bool:
    """True if sums are taken along rows of memory: what is read has numbers side by side that go into one output."""
    iterated = schedule.get(block).iter_vars
    kept = [variable.var for variable in iterated if variable.iter_type == tirx.IterVar.DataPar]
    summed = [variable.var for variable in iterated if variable.iter_type == tirx.IterVar.CommReduce]
    last = [tirx.analysis.undefined_vars(region.region[-1].min) for region in schedule.get(block).reads]
    return _meet(last, summed) and not _meet(last, kept)


def _meet(used: Sequence[Sequence[Any]], variables: Sequence[Any]) -> bool:
    return any(one.same_as(other) for some in used for one in some for other in variables)


def _is_reduction(schedule: Schedule, block: Any) -> bool:
    return any(variable.iter_type == tirx.IterVar.CommReduce for variable in schedule.get(block).iter_vars)


def _extents(schedule: Schedule, block: Any) -> list[int]:
    """Sizes of what a block writes."""
    variables = schedule.get(block).iter_vars
    return [int(variable.dom.extent) for variable in variables if variable.iter_type == tirx.IterVar.DataPar]
