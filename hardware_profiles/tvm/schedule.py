"""A schedule for the loops of channels-last networks on CPUs, which TVM's default pipelines leave as scalar loops.

One rule serves every operator that `search_spaces.graph.Graph` has, because with the channels innermost they are all
the same: for each pixel and each channel, reduce over something. The rule keeps a tile of output pixels times vectors
of channels in registers while the reduction runs around it, and applies the element-wise operators that TVM fused
behind to the finished tile, so that they read registers instead of memory. It is the register blocking of Georganas et
al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures", SC 2018, arXiv:1808.05567, without
blocked weights.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass
from typing import Any

from tvm import IRModule, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import Schedule
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
    if len(reductions) > 1:
        raise ValueError(f"one function has {len(reductions)} reductions")
    _inline(schedule)
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
    for block in _blocks(schedule):
        consumers = schedule.get_consumers(block)
        if not consumers or _is_reduction(schedule, block):
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
    _, lane = schedule.split(channels, [None, _lanes(int(schedule.get(channels).extent), processor)])
    schedule.vectorize(lane)
    if processor.threads > 1 and outer:
        schedule.parallel(schedule.fuse(*outer))


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


def _is_reduction(schedule: Schedule, block: Any) -> bool:
    return any(variable.iter_type == tirx.IterVar.CommReduce for variable in schedule.get(block).iter_vars)


def _extents(schedule: Schedule, block: Any) -> list[int]:
    """Sizes of what a block writes."""
    variables = schedule.get(block).iter_vars
    return [int(variable.dom.extent) for variable in variables if variable.iter_type == tirx.IterVar.DataPar]
