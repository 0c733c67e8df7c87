from typing import Any

import numpy as np
import pytest

from nas.run.networks import covering_networks, distinct_networks, split_networks
from search_spaces import Architecture, Layer, MBConv, MobileNetV3, SearchSpace


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 2), (30, 30), (800, 800), (5000, 800)])
def test_distinct_networks(small_space: MobileNetV3, n: int, expected: int) -> None:
    found = distinct_networks(small_space, n, np.random.default_rng(0))
    assert len(found) == len(set(found)) == expected
    assert found[0] == small_space.smallest and (n == 1 or found[1] == small_space.biggest)
    assert found == distinct_networks(small_space, n, np.random.default_rng(0))


def held(space: SearchSpace, genes: Any) -> dict[tuple[str, Layer], int]:
    """How many of the networks hold a layer at a position."""
    counts: dict[tuple[str, Layer], int] = {}
    for row in genes:
        for pair in space.lower(Architecture(space, row)).items():
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def all_pairs(space: SearchSpace) -> set[tuple[str, Layer]]:
    return {
        (position.name, layer)
        for p, position in enumerate(space.positions)
        for layer in space.layers_at(p)
        if layer is not None
    }


@pytest.mark.parametrize("repeats", [1, 3])
def test_few_networks_hold_every_layer_at_every_position(
    digits_space: MobileNetV3, rng: np.random.Generator, repeats: int
) -> None:
    genes = covering_networks(digits_space, repeats, rng)
    assert np.array_equal(genes, digits_space.canonical(genes)) and len(np.unique(genes, axis=0)) == len(genes)
    counts = held(digits_space, genes)
    assert set(counts) == all_pairs(digits_space) and min(counts.values()) >= repeats
    most_at_a_position = max(sum(pair[0] == position.name for pair in counts) for position in digits_space.positions)
    assert len(genes) <= 2.2 * repeats * most_at_a_position  # it cannot be fewer than repeats times that
    assert np.array_equal(genes, covering_networks(digits_space, repeats, np.random.default_rng(0)))


def test_a_cover_of_a_tiny_space_ends_when_there_are_no_more_networks(tiny_space: MobileNetV3) -> None:
    genes = covering_networks(tiny_space, 100, np.random.default_rng(0))
    assert 20 <= len(genes) <= tiny_space.size


def test_a_cover_keeps_clear_of_layers_that_do_not_run(small_space: MobileNetV3, rng: np.random.Generator) -> None:
    without = [layer for layer in small_space.distinct_layers if isinstance(layer, MBConv) and layer.kernel == 5]
    counts = held(small_space, covering_networks(small_space, 1, rng, without=without))
    assert {layer for _, layer in counts} == set(small_space.distinct_layers) - set(without)
    assert len(covering_networks(small_space, 1, rng, without=small_space.distinct_layers)) == 0
    assert len(covering_networks(small_space, 3, rng, most=4)) == 4


@pytest.mark.parametrize(
    ("size", "split"),
    [
        (30, (20, 10, True)),
        (29, (20, 9, True)),
        (12, (8, 4, True)),
        (11, (8, 3, True)),
        (9, (9, 9, False)),
        (2, (2, 2, False)),
    ],
)
def test_networks_of_a_small_space_are_shared_out(size: int, split: tuple[int, int, bool]) -> None:
    assert split_networks(size, 20, 10) == split
