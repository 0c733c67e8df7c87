"""Ratings of networks by how well their blocks make a teacher's feature maps: the lower, the better.

Li et al., "Block-wisely Supervised Neural Architecture Search with Knowledge Distillation" (DNA), CVPR 2020,
arXiv:1911.13053, section 3.3. As every block reads the teacher's feature map, whatever the blocks before it are, the
rating of a network is a sum of one entry per block. So all ways to fill a block are tried once, and the best network of
the whole space is known exactly.

    rating = block_rating(supernet, data, Blockwise(), teacher=beginning(space, folder / "checkpoint.pt"))
    front = nas.search(space, [rating, latency])
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.core.checkpoint import read_checkpoint
from nas.core.progress import each
from nas.data import Data, resize
from nas.supernet.blocks import NetworkBlock, blocks_of, layers_in, shape_at
from nas.supernet.losses.blockwise import Blockwise, Features, block_loss, running
from nas.supernet.supernet import Supernet, input_resolution
from predictors.elimination import Factor
from predictors.factor_table import FactorTable
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import DamagedFileError, InvalidValueError
from search_spaces.layers import Layer
from search_spaces.network import Network
from search_spaces.space import SearchSpace

MOST_ASSIGNMENTS = 2**18
"""Assignments of the choices of a block that are gone through."""

MOST_TRIED = 20_000
"""Different fillings of a block that are run."""


def block_rating(
    supernet: Supernet, data: Data, loss: Blockwise, *, teacher: Supernet | None = None, images: int = 512
) -> FactorTable:
    """Sum of the losses of a network's blocks, with its exact minimum.

    Networks whose feature maps have other shapes than the teacher's, such as those of another resolution, are inf.

    Args:
        supernet: trained block by block.
        data: whose validation part the losses are taken on.
        loss: it was trained with.
        teacher: weights of the teacher, where the loss names no file of them.
        images: of the validation part, evenly spread; BatchNorm takes the statistics of all of them.

    Raises:
        InvalidValueError: a block that can be filled in too many ways, or no images.
    """
    space, factors = supernet.space, []
    if len(supernet.parts) > 1:
        raise InvalidValueError(
            f"Space {space.name!r} is divided into {len(supernet.parts)} parts, so that the blocks of a network are "
            "not independent. Rate with a supernet of one part."
        )
    student, x, wanted = _lesson(supernet, data, loss, supernet if teacher is None else teacher, images)
    for block in blocks_of(space, tuple(loss.ends)):
        factors.append(_factor(student, block, x, wanted[block.end(space)]))
        x = wanted[block.end(space)]
    return FactorTable.of(space, "block_loss", "1", factors, "sum")


@torch.no_grad()
def ratings_of(
    genes: Genes, supernet: Supernet, data: Data, loss: Blockwise, *, teacher: Supernet | None = None, images: int = 512
) -> NDArray[np.float64]:
    """Ratings (n,) of some networks (n, choices), where those of all are more than is wanted; see `block_rating`.

    Raises:
        MismatchError: a network whose feature maps have other shapes than the teacher's.
    """
    student, x, wanted = _lesson(supernet, data, loss, supernet if teacher is None else teacher, images)
    found = np.empty(len(genes))
    for i in each(range(len(genes)), "rate", "network"):
        maps = loss.outputs(student, x, Architecture(supernet.space, genes[i]), wanted)
        found[i] = sum(float(block_loss(maps[end], wanted[end])) for end in maps)
    return found


def _lesson(
    supernet: Supernet, data: Data, loss: Blockwise, teacher: Supernet, images: int
) -> tuple[Supernet, Tensor, Features]:
    """A copy of a supernet, in training mode, whose running statistics may change; images at the teacher's resolution,
    (B, C, H, W); and the teacher's feature maps of them."""
    if images < 2:
        raise InvalidValueError(f"`images` must be at least 2, but got {images}.")
    space, device = supernet.space, next(supernet.parameters()).device
    count = min(images, len(data.validation))
    inputs, _ = data.validation.take(torch.arange(count) * len(data.validation) // count)
    wanted: Features = loss.teacher(teacher)(lambda size: resize(inputs, size).to(device))
    student = Supernet(space, parts=supernet.parts).to(device).train()
    student.load_state_dict(supernet.state_dict())
    return student, resize(inputs, input_resolution(space, loss.architecture(space))).to(device), wanted


@torch.no_grad()
def _factor(supernet: Supernet, block: NetworkBlock, x: Tensor, wanted: Tensor) -> Factor:
    """Losses of a block by the choices that it depends on.

    Args:
        supernet: in training mode.
        block: to fill in all ways.
        x: what it reads, (B, *shape).
        wanted: values at its end, (B, *shape).
    """
    space, columns = supernet.space, block.columns(supernet.space)
    cards = [int(space.cardinalities[column]) for column in columns]
    _check_count(space, block, math.prod(cards), MOST_ASSIGNMENTS)
    rows = np.zeros((math.prod(cards), len(space.choices)), np.int16)
    rows[:, list(columns)] = list(itertools.product(*map(range, cards)))
    rows = space.canonical(rows)
    index = space.position_index(rows)[:, list(block.positions)]
    _, first, filling = np.unique(index, axis=0, return_index=True, return_inverse=True)
    _check_count(space, block, len(first), MOST_TRIED)
    known: dict[tuple[Layer | None, ...], float] = {}
    losses = []
    for row in each(list(first), f"rate {block.end(space)}", "filling"):
        architecture = Architecture(space, rows[row])
        network = space.lower(architecture)
        if not _fits(space, block, network, x, wanted):
            losses.append(math.inf)
            continue
        key = layers_in(space, block, network)
        if key not in known:
            known[key] = float(block_loss(block.run(space, network, running(supernet, architecture), x), wanted))
        losses.append(known[key])
    return columns, np.array(losses)[filling.ravel()].reshape(cards)


def _fits(space: SearchSpace, block: NetworkBlock, network: Network, x: Tensor, wanted: Tensor) -> bool:
    """True if a block of a network reads and gives values of the shapes that the teacher has."""
    inside = [space.positions[p].name for p in block.positions]
    shape = tuple(x.shape[1:])
    for name in inside:
        reads = network.layers[name].input_shapes if name in network.layers else ()
        sources = network.sources.get(name, ())
        if any(source not in inside and read != shape for source, read in zip(sources, reads, strict=False)):
            return False
    return shape_at(space, network, inside[-1]) == tuple(wanted.shape[1:])


def _check_count(space: SearchSpace, block: NetworkBlock, count: int, most: int) -> None:
    if count > most:
        raise InvalidValueError(
            f"The block of space {space.name!r} that ends with {block.end(space)!r} can be filled in {count:,} ways, "
            f"more than {most:,}: none is tried. Train and rate smaller blocks, with more `ends` or none."
        )


def beginning(space: SearchSpace, checkpoint: Path) -> Supernet:
    """The supernet as it was when the last phase of a training began, of which the teacher of that phase is a part.

    Raises:
        DamagedFileError: the checkpoint holds none.
    """
    content = read_checkpoint(checkpoint, space)
    supernet = Supernet(space, parts=content.get("parts", ()))
    try:
        supernet.load_state_dict(content["start"])
    except Exception as error:  # whatever stands in place of a mapping of tensors
        raise DamagedFileError(
            f"{checkpoint} does not hold the weights that its last phase began with: no teacher that was a part of the "
            "supernet taught there, or it is damaged."
        ) from error
    return supernet.eval()
