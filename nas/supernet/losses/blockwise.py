"""Block-wise distillation: each block of a network learns to make a teacher's feature map of the one before it.

Li et al., "Block-wisely Supervised Neural Architecture Search with Knowledge Distillation" (DNA), CVPR 2020,
arXiv:1911.13053. Every block reads what the teacher has at the end of the block before, so that blocks learn apart from
each other, and a space that is too large to be trained fairly becomes a few small ones. The loss of a block is the mean
squared error over the variance of the teacher's values (equation 4). `nas.supernet.block_rating` rates networks by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas.supernet.blocks import Apply, blocks_of, check_shape, features, shape_at
from nas.supernet.losses.base import Lesson, Teacher
from nas.supernet.losses.distillation import in_training
from nas.supernet.region import Region
from nas.supernet.supernet import Supernet, input_resolution

if TYPE_CHECKING:
    from search_spaces.architecture import Architecture, Value
    from search_spaces.layers import Layer, Size
    from search_spaces.space import SearchSpace

Features = Mapping[str, Tensor]
"""Values at the ends of blocks, by position, (B, *shape) each."""


@dataclass(frozen=True)
class Blockwise:
    """The teacher's feature maps, block by block.

    Args:
        ends: last positions of the blocks; none: the smallest blocks that there are.
        choices: values of choices of the teacher, by name or pattern; it takes the last of them, and of all others.
        supernet: file that the teacher's weights come from; null: they are those of the phase's beginning.
    """

    ends: tuple[str, ...] = ()
    choices: Mapping[str, Sequence[Value] | int] = field(default_factory=dict)
    supernet: str | None = None

    @property
    def independent(self) -> bool:
        return self.supernet is not None

    def architecture(self, space: SearchSpace) -> Architecture:
        """The teacher's."""
        return Region(space, self.choices).biggest

    def teacher(self, supernet: Supernet) -> Teacher:
        """Feature maps of the teacher, without gradients; BatchNorm takes the statistics of the batch."""
        space = supernet.space
        source = supernet if self.supernet is None else Supernet.load(space, Path(self.supernet))
        architecture = self.architecture(space)
        network, resolution = in_training(source.extract(architecture)), input_resolution(space, architecture)
        network.to(next(supernet.parameters()).device)
        blocks = blocks_of(space, tuple(self.ends))

        def run(position: str, layer: Layer, *inputs: Tensor) -> Tensor:
            y: Tensor = network.get_submodule(position)(*inputs)
            return y

        @torch.no_grad()
        def says(view: Callable[[Size], Tensor]) -> Features:
            return features(space, blocks, network.network, run, view(resolution))

        return says

    def check(self, region: Region) -> None:
        """Check that networks have feature maps of the teacher's shapes.

        Raises:
            MismatchError: the smallest or the biggest network of the region has others.
        """
        space = region.space
        teacher = space.lower(self.architecture(space))
        for architecture in (region.smallest, region.biggest):
            network = space.lower(architecture)
            for block in blocks_of(space, tuple(self.ends)):
                end = block.end(space)
                check_shape(space, end, shape_at(space, teacher, end), shape_at(space, network, end))

    def outputs(self, supernet: Supernet, images: Tensor, architecture: Architecture, outside: Features) -> Features:
        """Feature maps of a network, of which each block reads the teacher's of the one before."""
        space, network = supernet.space, supernet.lower(architecture)
        blocks = blocks_of(space, tuple(self.ends))
        return features(space, blocks, network, running(supernet, architecture), images, outside)

    def __call__(self, outputs: Features, lesson: Lesson) -> Tensor:
        wanted: Features = lesson.outside
        return torch.stack([block_loss(outputs[end], wanted[end]) for end in outputs]).sum()


def running(supernet: Supernet, architecture: Architecture) -> Apply:
    """Function that runs a layer of a network with its slice of the shared weights."""
    positions = supernet.weights_of(supernet.part_of(architecture))

    def run(position: str, layer: Layer, *inputs: Tensor) -> Tensor:
        y: Tensor = positions[position](layer, *inputs)
        return y

    return run


def block_loss(x: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of values (B, *shape) over the variance of those wanted, a scalar."""
    wanted = wanted.float()
    return (x.float() - wanted).square().mean() / wanted.var(correction=0).clamp_min(1e-12)
