"""Spaces whose positions form graphs: branches with skips, several kinds at a position, several inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces import Choice, Condition, Layer, Position, SearchSpace, Value
from search_spaces.layers import (
    Conv,
    FusedMBConv,
    LinearClassifier,
    MBConv,
    ResidualConv,
    Size,
    image_shape,
    size_of,
    strided,
)
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add, Scale
from search_spaces.ops.convolution import Linear
from search_spaces.ops.learned import Embedding
from search_spaces.ops.matmul import Matmul, Softmax
from search_spaces.ops.normalisation import LayerNorm
from search_spaces.ops.reduction import Reduce
from search_spaces.program import Shape, Traced


@dataclass(frozen=True)
class Sum(Layer):
    """Sum of two branches and an activation."""

    channels: int
    size: Size

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (image_shape(self.channels, self.size),) * 2

    def define(self, x: Traced, y: Traced) -> Traced:
        return Activate("relu")(Add()(x, y))


def whole(value: Value) -> int:
    assert isinstance(value, int)
    return value


class Branches(SearchSpace):
    """Two branches of a stem, a block, and a long skip from the stem: 1296 networks."""

    def __init__(self, name: str = "branches") -> None:
        choices = [
            Choice("resolution", (8, 12)),
            Choice("width", (8, 12)),
            Choice("left.1", (0, 3, 5)),
            Choice("left.2", (0, 1, 3)),
            Choice("right", ("none", "conv", "inverted")),
            Choice("block", (0, 2)),
            Choice("deep", ("none", "conv", "inverted")),
            Choice("wide", (1, 2)),
        ]
        common = ("resolution", "width")
        positions = [
            Position("stem", common),
            Position("left1", (*common, "left.1")),
            Position("left2", (*common, "left.2")),
            Position("right", (*common, "right"), ("stem",)),
            Position("join", common, ("left2", "right")),
            Position("block", (*common, "block")),
            Position("deep", (*common, "deep")),
            Position("long", common, ("deep", "stem")),
            Position("head", (*common, "wide")),
            Position("classifier", (*common, "wide")),
        ]
        super().__init__(name, {}, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        width, size = whole(values["width"]), whole(values["resolution"]) // 2
        if position == "stem":
            return Conv(1, width, 3, 2, "relu", 2 * size)
        if position in ("join", "long"):
            return Sum(width, size)
        if position == "left1":
            kernel = whole(values["left.1"])
            return Conv(width, width, kernel, 1, "relu", size) if kernel else None
        if position in ("left2", "block"):
            factor = whole(values["left.2" if position == "left2" else "block"])
            hidden = factor * width
            return MBConv(width, width, hidden, factor > 1, 3, 1, 0, "relu", size) if factor else None
        if position in ("right", "deep"):
            if values[position] == "conv":
                return ResidualConv(width, 3, "relu", size)
            return MBConv(width, width, 2 * width, True, 5, 1, 4, "relu", size) if values[position] != "none" else None
        out = whole(values["wide"]) * 8
        if position == "head":
            return Conv(width, out, 1, 2, "relu", size)
        return LinearClassifier(out, 3, -(-size // 2))


class Operators(SearchSpace):
    """Which operator at each of some positions: an inverted bottleneck, a fused one, a plain convolution or nothing."""

    def __init__(self, name: str = "operators", blocks: int = 3) -> None:
        self.blocks = blocks
        kinds = ("skip", "conv", "fused", "inverted")
        choices = [Choice("resolution", ("8x12", "12x8"))]
        positions = [Position("stem", ("resolution",))]
        for b in range(1, blocks + 1):
            kernels = Condition(f"kind.{b}", kinds[1:])
            factors = Condition(f"kind.{b}", kinds[2:])
            choices.append(Choice(f"kind.{b}", kinds))
            choices += [Choice(f"kernel.{b}", (3, 5), kernels), Choice(f"factor.{b}", (2, 3), factors)]
            positions.append(Position(f"block{b}", ("resolution", f"kind.{b}", f"kernel.{b}", f"factor.{b}")))
        positions.append(Position("classifier", ("resolution",)))
        super().__init__(name, {"blocks": blocks}, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        size = size_of(values["resolution"])
        if position == "stem":
            return Conv(1, 8, 3, 2, "relu", size)
        size = strided(size, 2)
        if position == "classifier":
            return LinearClassifier(8, 3, size)
        b = position.removeprefix("block")
        kernel, hidden = whole(values[f"kernel.{b}"]), 8 * whole(values[f"factor.{b}"])
        match values[f"kind.{b}"]:
            case "conv":
                return ResidualConv(8, kernel, "relu", size)
            case "fused":
                return FusedMBConv(8, 8, hidden, kernel, 1, "relu", "none", size)
            case "inverted":
                return MBConv(8, 8, hidden, True, kernel, 1, 4, "relu", size)
        return None


class TwoByTwo(SearchSpace):
    """A camera and a depth sensor of half its resolution in, classes and a map out: several inputs and outputs."""

    def __init__(self, name: str = "two_by_two") -> None:
        choices = [
            Choice("resolution", ("8x12", "16x12")),
            Choice("width", (8, 12)),
            Choice("camera", ("conv", "pool", "inverted")),
            Choice("depth", (3, 5)),
            Choice("refine", ("none", "conv", "inverted")),
            Choice("map", (3, 5)),
        ]
        common = ("resolution", "width")
        positions = [
            Position("camera", (*common, "camera"), ("image",)),
            Position("depth", (*common, "depth"), ("distance",)),
            Position("fuse", common, ("camera", "depth")),
            Position("refine", (*common, "refine")),
            Position("classes", common, ("refine",)),
            Position("map", (*common, "map"), ("fuse",)),
        ]
        outputs = {"logits": "classes", "mask": "map"}
        super().__init__(name, {}, choices, positions, inputs=("image", "distance"), outputs=outputs)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        width, full = whole(values["width"]), size_of(values["resolution"])
        size = strided(full, 2)
        match position:
            case "camera":
                if values["camera"] == "inverted":
                    return MBConv(3, width, 9, True, 3, 2, 0, "relu", full)
                return Conv(3, width, 3 if values["camera"] == "conv" else 1, 2, "relu", full)
            case "depth":
                return Conv(1, width, whole(values["depth"]), 1, "none", size)
            case "fuse":
                return Sum(width, size)
            case "refine":
                if values["refine"] == "none":
                    return None
                conv = ResidualConv(width, 3, "relu", size)
                return conv if values["refine"] == "conv" else MBConv(width, width, 24, True, 3, 1, 4, "relu", size)
            case "classes":
                return LinearClassifier(width, 5, size)
        return Conv(width, 2, whole(values["map"]), 1, "none", size)


class Coupled(SearchSpace):
    """Every position depends on several of many choices, each pair of which meets somewhere: no table stays small."""

    def __init__(self, name: str = "coupled", choices: int = 14) -> None:
        self.count = choices
        names = [f"c{i}" for i in range(choices)]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
        super().__init__(
            name,
            {"choices": choices},
            [Choice(one, (1, 2, 3, 4)) for one in names],
            [Position(f"p{i}", pair) for i, pair in enumerate(pairs)],
        )

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        a, b = map(whole, values.values())
        return MBConv(8, 8, 4 * a + b, True, 3, 1, 0, "relu", 4)


@dataclass(frozen=True)
class SumOfAll(Layer):
    """Sum of the branches that are there."""

    channels: int
    size: Size
    branches: int

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (image_shape(self.channels, self.size),) * self.branches

    def define(self, x: Traced, *others: Traced) -> Traced:
        for other in others:
            x = Add()(x, other)
        return x


class Parts(SearchSpace):
    """Branches that are part of some networks only, behind a stem that the classifier reads as well."""

    PAIRS = ("a", "a+b", "b+c", "a+b+c")

    def __init__(self, name: str = "parts") -> None:
        choices = [Choice("width", (4, 6)), Choice("parts", self.PAIRS)]
        positions = [Position("stem", ("width",))]
        for branch in "abc":
            there = Condition("parts", tuple(parts for parts in self.PAIRS if branch in parts))
            choices.append(Choice(f"of.{branch}", ("skip", "conv", "inverted"), there))
            positions.append(Position(branch, ("width", "parts", f"of.{branch}"), ("stem",), there))
        positions += [
            Position("sum", ("width", "parts"), ("a", "b", "c")),
            Position("long", ("width",), ("sum", "stem")),
            Position("classifier", ("width",)),
        ]
        super().__init__(name, {}, choices, positions)

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        width, size = whole(values["width"]), 6
        match position:
            case "stem":
                return Conv(1, width, 3, 2, "relu", 12)
            case "sum":
                return SumOfAll(width, size, len(str(values["parts"]).split("+")))
            case "long":
                return Sum(width, size)
            case "classifier":
                return LinearClassifier(width, 3, size)
        match values[f"of.{position}"]:
            case "conv":
                return ResidualConv(width, 3, "relu", size)
            case "inverted":
                return MBConv(width, width, 2 * width, True, 3, 1, 0, "relu", size)
        return None


@dataclass(frozen=True)
class Words(Layer):
    """Embedding of the words of a text of a fixed length."""

    words: int
    features: int
    length: int

    @property
    def input_shape(self) -> Shape:
        return (self.length,)

    def define(self, x: Traced) -> Traced:
        return Embedding("table", self.words, self.features)(x)


@dataclass(frozen=True)
class Attention(Layer):
    """Self-attention of one head, added to its input."""

    features: int
    width: int
    length: int

    @property
    def input_shape(self) -> Shape:
        return (self.length, self.features)

    def define(self, x: Traced) -> Traced:
        y = LayerNorm("norm")(x)
        query, key, value = (Linear(name, self.width)(y) for name in ("query", "key", "value"))
        scores = Scale(self.width**-0.5)(Matmul(transposed=True)(query, key))
        return Add()(Linear("out", self.features)(Matmul()(Softmax()(scores), value)), x)


@dataclass(frozen=True)
class FeedForward(Layer):
    """Two linear layers of each token, added to their input."""

    features: int
    hidden: int
    length: int

    @property
    def input_shape(self) -> Shape:
        return (self.length, self.features)

    def define(self, x: Traced) -> Traced:
        y = Activate("gelu")(Linear("widen", self.hidden)(LayerNorm("norm")(x)))
        return Add()(Linear("narrow", self.features)(y), x)


@dataclass(frozen=True)
class MeanOfTokens(Layer):
    """Classes from the mean over all tokens."""

    features: int
    classes: int
    length: int

    @property
    def input_shape(self) -> Shape:
        return (self.length, self.features)

    def define(self, x: Traced) -> Traced:
        return Linear("classify", self.classes)(Reduce("mean", (0,))(x))


class Texts(SearchSpace):
    """Sequences of words: attention, a feed-forward layer or nothing at each of three positions."""

    def __init__(self, name: str = "texts", blocks: int = 3) -> None:
        choices = [Choice("length", (5, 7)), Choice("features", (8, 12))]
        common = ("length", "features")
        positions = [Position("words", common, ("tokens",))]
        for b in range(1, blocks + 1):
            there = Condition(f"kind.{b}", ("attention", "forward"))
            choices += [Choice(f"kind.{b}", ("skip", "attention", "forward")), Choice(f"width.{b}", (4, 6, 16), there)]
            positions.append(Position(f"block{b}", (*common, f"kind.{b}", f"width.{b}")))
        positions.append(Position("classifier", common))
        super().__init__(name, {"blocks": blocks}, choices, positions, inputs=("tokens",))

    def layer(self, position: str, values: Mapping[str, Value]) -> Layer | None:
        length, features = whole(values["length"]), whole(values["features"])
        if position == "words":
            return Words(20, features, length)
        if position == "classifier":
            return MeanOfTokens(features, 3, length)
        b = position.removeprefix("block")
        kind, width = values[f"kind.{b}"], whole(values[f"width.{b}"])
        if kind == "attention":
            return Attention(features, width, length)
        return FeedForward(features, width, length) if kind == "forward" else None


GRAPHS = (Branches, Operators, TwoByTwo, Parts, Texts)
"""Spaces that all tests of graphs run on."""
