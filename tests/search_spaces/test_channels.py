"""Channels are told by the operator that makes them."""

from search_spaces.channels import Segment, channels_read, places
from search_spaces.concatenation import OSA, FasterNetBlock, HarDBlock
from search_spaces.layers import MBConv
from search_spaces.ops.convolution import Convolution
from search_spaces.ops.merging import RepConvolution
from search_spaces.ops.movement import Concat, Gather, Slice
from search_spaces.program import Program, Traced


def test_parts_of_an_aggregation() -> None:
    read = channels_read(OSA(6, 8, 4, 2, 3, 1, False, "relu", 5).program)
    assert read == {
        "aggregate.conv.weight": (
            Segment("input 0", 0, 6),
            Segment("layer1.conv.weight", 0, 4),
            Segment("layer2.conv.weight", 0, 4),
        )
    }


def test_narrower_parts_are_the_first_channels_of_each() -> None:
    (full,) = channels_read(OSA(6, 8, 4, 3, 3, 1, False, "relu", 5).program).values()
    (small,) = channels_read(OSA(5, 8, 2, 2, 3, 1, False, "relu", 5).program).values()
    assert places(small, full) == [(0, 5), (6, 2), (10, 2)]
    assert places(full, full) == [(0, 18)]


def test_untouched_channels_of_a_partial_convolution_keep_their_places() -> None:
    (full,) = channels_read(FasterNetBlock(16, 16, 8, 32, 3, 1, "relu", 5).program).values()
    for channels, convolved in ((16, 4), (12, 3), (12, 6)):
        (small,) = channels_read(FasterNetBlock(channels, channels, convolved, 32, 3, 1, "relu", 5).program).values()
        assert small == (Segment("partial.weight", 0, convolved), Segment("input 0", convolved, channels - convolved))
        assert places(small, full) == [(0, channels)]


def test_layers_of_a_harmonic_block() -> None:
    block = HarDBlock(48, 96, 16, 16, 4, 3, 1, "relu6", 5)
    read = {name: [(s.source, s.length) for s in parts] for name, parts in channels_read(block.program).items()}
    assert read == {
        "layer2.conv.weight": [("layer1.conv.weight", 16), ("input 0", 48)],
        "layer4.conv.weight": [("layer3.conv.weight", 16), ("layer2.conv.weight", 26), ("input 0", 48)],
        "transition.conv.weight": [("layer1.conv.weight", 16), ("layer3.conv.weight", 16), ("layer4.conv.weight", 40)],
    }


def test_slices_of_a_concatenation() -> None:
    def program(of: tuple[int, int]) -> Program:
        return Program.of(
            lambda x: Convolution("read", 2)(Slice(0, *of)(Concat()(x, Convolution("make", 3)(x), x))), [(4, 5, 5)]
        )

    assert channels_read(program((2, 9)))["read.conv.weight"] == (
        Segment("input 0", 2, 2),
        Segment("make.conv.weight", 0, 3),
        Segment("input 0", 0, 2),
    )
    assert channels_read(program((4, 7))) == {}  # one part alone: its first channels


def test_axes_may_be_counted_from_the_end() -> None:
    def program(axis: int) -> Program:
        return Program.of(
            lambda x: Convolution("read", 2)(Slice(axis, 1, 6)(Concat(axis)(x, Convolution("make", 3)(x)))), [(4, 5, 5)]
        )

    parts = (Segment("input 0", 1, 3), Segment("make.conv.weight", 0, 2))
    assert channels_read(program(-3)) == channels_read(program(0)) == {"read.conv.weight": parts}


def test_parts_of_other_axes_have_all_channels() -> None:
    def define(x: Traced) -> Traced:
        y = Concat()(x, Convolution("make", 2)(x))
        y = Concat(1)(Slice(1, 0, 2)(y), Gather((3, 3), 1)(y))
        return Convolution("read", 2)(y)

    parts = (Segment("input 0", 0, 4), Segment("make.conv.weight", 0, 2))
    assert channels_read(Program.of(define, [(4, 5, 5)]))["read.conv.weight"] == parts


def test_a_depthwise_convolution_of_merging_branches_keeps_channels() -> None:
    def define(x: Traced) -> Traced:
        y = Concat()(x, Convolution("make", 2)(x))
        return Convolution("read", 2)(RepConvolution("mixer", 6, groups=6)(y))

    parts = (Segment("input 0", 0, 4), Segment("make.conv.weight", 0, 2))
    assert channels_read(Program.of(define, [(4, 5, 5)]))["read.conv.weight"] == parts


def test_layers_without_concatenation_read_the_first_channels() -> None:
    assert channels_read(MBConv(8, 8, 16, True, 3, 1, 8, "h_swish", 8).program) == {}
