"""Operators that only move values."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.base.errors import InvalidValueError
from search_spaces.program import Op, Shape


@dataclass(frozen=True)
class Shuffle(Op):
    """Channel c of C goes to c // (C / groups) + groups * (c % (C / groups)): each group is dealt out to all groups
    (ShuffleNet, arXiv:1707.01083)."""

    groups: int

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0][0] % self.groups:
            raise InvalidValueError(f"A shuffle of {inputs[0][0]} channels needs a divisor of it, not {self.groups}.")
        return inputs[0]
