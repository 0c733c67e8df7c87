"""A layer of each operator, which tests of several targets share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from search_spaces.layers import Layer
from search_spaces.ops.activation import Activate, Activation, LeakyRelu, PRelu
from search_spaces.ops.movement import Concat, Slice, split
from search_spaces.program import Shape, Traced

IMAGE, SIGNAL, TOKENS = (6, 9, 7), (6, 11), (5, 8)

CASES: dict[str, tuple[tuple[Shape, ...], Callable[..., Traced]]] = {
    **{kind: ((IMAGE,), Activate(kind)) for kind in get_args(Activation)},
    "leaky_relu": ((IMAGE,), LeakyRelu(0.1)),
    "prelu": ((IMAGE,), PRelu("act")),
    "prelu_of_a_signal": ((SIGNAL,), PRelu("act")),
    "prelu_of_features": (((8,),), PRelu("act")),
    "concat": ((IMAGE, (2, 9, 7), (1, 9, 7)), Concat()),
    "concat_of_tokens": ((TOKENS, (1, 8)), Concat(-2)),
    "concat_of_features": ((TOKENS, (5, 3)), Concat(1)),
    "slice": ((IMAGE,), Slice(0, 1, 4)),
    "slice_with_steps": ((IMAGE,), Slice(-2, 1, 9, 3)),
    "split": ((IMAGE,), lambda x: Concat()(*reversed(split(x, (1, 3, 2))))),
}
"""Name -> shapes of the inputs, and what is computed."""


@dataclass(frozen=True)
class Case(Layer):
    """The layer of one of the cases."""

    name: str

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return CASES[self.name][0]

    def define(self, *inputs: Any, **_: Any) -> Traced:
        return CASES[self.name][1](*inputs)
