"""Tensors that are learned: by themselves, and looked up by integers."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.base.values import Count
from search_spaces.program import Op, Parameter, Shape, elements


@dataclass(frozen=True)
class Learned(Op):
    """A parameter as a tensor, equal for all images of a batch: a class token, a table of positions.

    The input says how large the batch is, and nothing else; call it on the input of the layer.
    """

    name: str
    extents: tuple[Count, ...]
    """Shape, without the batch."""

    def shape(self, *inputs: Shape) -> Shape:
        return self.extents

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        return (Parameter(self.name, self.extents, "normal"),)

    def words_read(self, inputs: tuple[Shape, ...], output: Shape) -> tuple[int, ...]:
        return (0,)


@dataclass(frozen=True)
class Embedding(Op):
    """Learned vectors that integers name: (...) -> (..., features)."""

    name: str
    entries: Count
    """Number of vectors; the input is from 0 up to, not including, this number."""
    features: Count

    def index_limits(self, *inputs: Shape) -> tuple[int | None, ...]:
        return (self.entries,)

    def shape(self, *inputs: Shape) -> Shape:
        return (*inputs[0], self.features)

    def parameters(self, *inputs: Shape) -> tuple[Parameter, ...]:
        return (Parameter(f"{self.name}.weight", (self.entries, self.features), "normal"),)

    def weights_read(self, *inputs: Shape) -> int:
        """The vectors that are named, once each time."""
        return elements(self.shape(*inputs))
