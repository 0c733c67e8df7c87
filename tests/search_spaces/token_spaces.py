"""Spaces of transformers: over patches of images, and over words, which are integers."""

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces import Choice, Condition, Layer, Position, SearchSpace, Value
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Scale
from search_spaces.ops.convolution import Convolution, Linear
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.movement import Concat, Reshape, Slice, Transpose, flatten
from search_spaces.ops.normalisation import LayerNorm
from search_spaces.ops.reduction import Reduce
from search_spaces.program import Shape, Traced

HEAD = 4
"""Features of a head."""


@dataclass(frozen=True)
class Patches(Layer):
    """Patches of an image as tokens, a class token before them, and a table of positions (ViT, arXiv:2010.11929)."""

    in_channels: int
    features: int
    patch: int
    size: int

    @property
    def input_shape(self) -> Shape:
        return (self.in_channels, self.size, self.size)

    def define(self, x: Traced) -> Traced:
        y = Convolution("embed", self.features, self.patch, self.patch, norm=False, padding=0)(x)
        y = Transpose((1, 0))(flatten(y, 1))  # (tokens, features)
        y = Concat()(Learned("class_token", (1, self.features))(x), y)
        return Add()(y, Learned("positions", y.shape)(x))


@dataclass(frozen=True)
class WordTokens(Layer):
    """Vectors of words, and a table of positions."""

    entries: int
    tokens: int
    features: int

    @property
    def input_shape(self) -> Shape:
        return (self.tokens,)

    def define(self, x: Traced) -> Traced:
        y = Embedding("words", self.entries, self.features)(x)
        return Add()(y, Learned("positions", y.shape)(x))


@dataclass(frozen=True)
class Transformer(Layer):
    """Self-attention and two linear layers, each behind LayerNorm and added to its input."""

    tokens: int
    features: int
    heads: int
    hidden: int

    @property
    def input_shape(self) -> Shape:
        return (self.tokens, self.features)

    def define(self, x: Traced) -> Traced:
        def part(name: str) -> Traced:
            wide = Linear(name, self.heads * HEAD)(normed)
            return Transpose((1, 0, 2))(Reshape((self.tokens, self.heads, HEAD))(wide))

        normed = LayerNorm("before_attention")(x)
        scores = Scale(HEAD**-0.5)(Matmul(transposed=True)(part("query"), part("key")))
        y = Transpose((1, 0, 2))(Matmul()(Softmax()(scores), part("value")))
        x = Add()(x, Linear("project", self.features)(flatten(y, 1)))
        y = Activate("gelu")(Linear("expand", self.hidden)(LayerNorm("before_linear")(x)))
        return Add()(x, Linear("reduce", self.features)(y))


@dataclass(frozen=True)
class TokenClassifier(Layer):
    """LayerNorm and a linear layer of the class token, or of the mean of all tokens."""

    tokens: int
    features: int
    classes: int
    mean: bool

    @property
    def input_shape(self) -> Shape:
        return (self.tokens, self.features)

    def define(self, x: Traced) -> Traced:
        x = LayerNorm("norm")(x)
        x = Reduce("mean", (0,))(x) if self.mean else flatten(Slice(0, 0, 1)(x))
        return Linear("classify", self.classes)(x)


class Transformers(SearchSpace):
    """Width, depth, heads and hidden features of a transformer over an image of 8 x 8 pixels, or over 6 of 11 words."""

    def __init__(self, name: str = "transformers", words: bool = False, blocks: int = 2) -> None:
        self.words, self.blocks = words, blocks
        choices = [Choice("features", (8, 12)), Choice("mean", (0, 1)), Choice("depth", tuple(range(1, blocks + 1)))]
        choices += [] if words else [Choice("patch", (2, 4))]
        size = () if words else ("patch",)
        positions = [Position("tokens", ("features", *size))]
        for b in range(1, blocks + 1):
            deep = Condition("depth", tuple(range(b, blocks + 1))) if b > 1 else None
            choices += [Choice(f"heads.{b}", (1, 3), deep), Choice(f"hidden.{b}", (1, 2, 4), deep)]
            positions.append(Position(f"block{b}", ("features", *size, "depth", f"heads.{b}", f"hidden.{b}")))
        positions.append(Position("classifier", ("features", *size, "mean")))
        super().__init__(name, {"words": words, "blocks": blocks}, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        number = {name: int(value) for name, value in values.items()}
        features = number["features"]
        tokens = 6 if self.words else (8 // number["patch"]) ** 2 + 1
        if position == "tokens":
            return WordTokens(11, tokens, features) if self.words else Patches(1, features, number["patch"], 8)
        if position == "classifier":
            return TokenClassifier(tokens, features, 3, bool(number["mean"]))
        b = int(position.removeprefix("block"))
        if b > number["depth"]:
            return None
        return Transformer(tokens, features, number[f"heads.{b}"], number[f"hidden.{b}"] * features)
