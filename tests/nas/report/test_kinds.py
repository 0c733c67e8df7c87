"""The table of the kinds that networks chose."""

from nas.report.kinds import KindTable, kind_table
from search_spaces import Architecture
from search_spaces.loading import load_space
from tests.search_spaces.graph_spaces import Operators


def test_kinds_of_each_stage_are_named_in_order() -> None:
    space = Operators()
    common = {"resolution": "8x12", "kernel.1": 3, "kind.1": "conv", "kind.2": "skip", "kind.3": "fused"}
    first = Architecture(space, space.genes_of({**common, "kernel.3": 3, "factor.3": 2}))
    table = kind_table(space, [("npu", "knee", first.layers), ("cpu", "fastest", space.smallest.layers)])
    assert table == KindTable(
        ("block1", "block2", "block3"),
        (("npu", "knee", ("ResidualConv", "–", "FusedMBConv")), ("cpu", "fastest", ("–", "–", "–"))),
    )


def test_blocks_of_a_stage_are_one_column() -> None:
    space = load_space("mobiledets")
    name = space.members[0]
    layers = space.member(name).layers
    table = kind_table(space, [("npu", name, layers)])
    assert table is not None and all(stage.startswith("stage") for stage in table.stages)
    ((_, _, texts),) = table.rows
    for stage, text in zip(table.stages, texts, strict=True):
        told = []
        for part in text.split(", "):
            kind, _, count = part.partition(" ×")
            told += [kind] * int(count or 1)
        assert told == [type(layer).__name__ for position, layer in layers.items() if position.startswith(f"{stage}_")]


def test_a_space_of_one_kind_has_no_table() -> None:
    space = load_space("mobilenet_v3_digits")
    assert kind_table(space, [("cpu", "knee", space.biggest.layers)]) is None
    assert kind_table(load_space("darts_cifar"), []) is None, "cells are alike, and many"
