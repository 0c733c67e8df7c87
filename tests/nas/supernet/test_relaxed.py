"""Mixtures against networks of the supernet, sums written out by hand, and finite differences."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.supernet import Supernet
from nas.supernet.relaxed import RelaxedSupernet, Runner, weighted_sum
from search_spaces import Architecture, MobileNetV3, NasBench201, ResNet50, SearchSpace
from search_spaces.base.errors import InvalidValueError, MismatchError
from tests.search_spaces.graph_spaces import TwoByTwo

Randomise = Callable[[Supernet], Supernet]


@pytest.fixture(scope="module")
def cells() -> NasBench201:
    return NasBench201(name="cells", in_channels=1, classes=3, resolution=8, channels=4, cells=1)


def one_hot(relaxed: RelaxedSupernet, architecture: Architecture) -> dict[str, Tensor]:
    space = relaxed.space
    return {
        name: torch.eye(len(space.choices[space.index[name]].values))[int(architecture.genes[space.index[name]])]
        for name in relaxed.searched
    }


def drawn(relaxed: RelaxedSupernet, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(int(relaxed.space.cardinalities[relaxed.space.index[name]]), generator=generator).softmax(0)
        for name in relaxed.searched
    }


def pixels(relaxed: RelaxedSupernet, n: int = 4) -> Tensor:
    first = next(iter(relaxed.space.lower(relaxed.architecture(drawn(relaxed))).values()))
    return torch.randn(n, *first.input_shape, generator=torch.Generator().manual_seed(1))


def fixed_values(space: SearchSpace) -> dict[str, int | str]:
    fixed: dict[str, int | str] = {"resolution": 8} if isinstance(space, MobileNetV3) else {}
    if isinstance(space, ResNet50):
        fixed = {c.name: c.values[-1] for c in space.choices if c.name == "resolution" or "width" in c.name}
    return fixed


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["space", "resnet_space", "cells"])
def test_a_one_hot_mixture_is_the_network(
    name: str, training: bool, request: pytest.FixtureRequest, randomise: Randomise
) -> None:
    space: SearchSpace = request.getfixturevalue(name)
    relaxed = RelaxedSupernet(space, fixed=fixed_values(space)).train(training)
    randomise(relaxed.supernet)
    images = pixels(relaxed)
    genes = relaxed.sample(drawn(relaxed), 12, np.random.default_rng(0))
    for row in genes:
        architecture = Architecture(space, row)
        weights = one_hot(relaxed, architecture)
        assert relaxed.architecture(weights) == architecture
        assert torch.equal(relaxed(images, weights), relaxed.supernet(images, architecture))


def test_a_position_is_the_weighted_sum_of_its_layers(space: MobileNetV3, randomise: Randomise) -> None:
    """Of the first block, whose kernel and expansion are mixed, all other choices certain."""
    relaxed = RelaxedSupernet(space, fixed={"resolution": 8}).eval()
    randomise(relaxed.supernet)
    weights = one_hot(relaxed, space.smallest)
    kernel, expand = torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.1, 0.6, 0.3])
    weights |= {"kernel.1.1": kernel, "expand.1.1": expand}
    images = pixels(relaxed)

    layers = {position.name: space.layers_at(p) for p, position in enumerate(space.positions)}
    run = relaxed.supernet.positions
    x = run["first"](layers["first"][0], run["stem"](layers["stem"][0], images))
    block = [space.layer("stage1_block1", {"resolution": 8, "kernel.1.1": k, "expand.1.1": e})
             for k in (3, 5, 7) for e in (1, 2, 4)]  # fmt: skip
    x = sum(
        w * run["stage1_block1"](layer, x) for w, layer in zip((kernel[:, None] * expand).flatten(), block, strict=True)
    )
    rest = space.lower(Architecture(space, space.canonical(space.smallest.genes[None])[0]))
    for name in list(rest)[3:]:
        x = run[name](rest[name], x)
    torch.testing.assert_close(relaxed(images, weights), x)


def test_depth_mixes_a_block_with_its_input(space: MobileNetV3, randomise: Randomise) -> None:
    """With weight w on one block more, the stage gives (1 - w) x + w block(x)."""
    relaxed = RelaxedSupernet(space, fixed={"resolution": 8}).eval()
    randomise(relaxed.supernet)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(x: Tensor, weights: Tensor, layers: Sequence[Runner]) -> Tensor:
        y = weighted_sum(x, weights, layers)
        seen.append((weights, x, y))
        return y

    relaxed.mix = watch
    weights = one_hot(relaxed, space.smallest)
    moves = []
    for w in (0.0, 0.25, 1.0):
        seen.clear()
        relaxed(pixels(relaxed), weights | {"depth.1": torch.tensor([1 - w, w])})
        shares, x, y = seen[1]
        moves.append(y - x)
        assert float(shares.sum()) == pytest.approx(1)
    assert not moves[0].any()
    torch.testing.assert_close(moves[1], 0.25 * moves[2])


@pytest.mark.parametrize("name", ["space", "cells"])
def test_gradient_of_weights_is_a_finite_difference(
    name: str, request: pytest.FixtureRequest, randomise: Randomise
) -> None:
    space: SearchSpace = request.getfixturevalue(name)
    relaxed = RelaxedSupernet(space, fixed=fixed_values(space))
    randomise(relaxed.supernet)
    relaxed = relaxed.double().eval()
    images = pixels(relaxed).double()
    weights = {key: values.double().requires_grad_() for key, values in drawn(relaxed).items()}

    def loss(given: Mapping[str, Tensor]) -> Tensor:
        return relaxed(images, given).square().mean()

    loss(weights).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for key, values in list(weights.items())[:6]:
            for i in range(len(values)):
                step = torch.zeros_like(values)
                step[i] = 1e-6
                moved = [float(loss(weights | {key: values + sign * step})) for sign in (1, -1)]
                assert values.grad is not None
                assert float(values.grad[i]) == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_what_weighs_nothing_is_not_run(space: MobileNetV3) -> None:
    ran: list[int] = []

    def watch(x: Tensor, weights: Tensor, layers: Sequence[Runner]) -> Tensor:
        counted = [lambda x, k=k, layer=layer: (ran.append(k), layer(x))[1] for k, layer in enumerate(layers)]
        return weighted_sum(x, weights, counted)

    relaxed = RelaxedSupernet(space, fixed={"resolution": 8}, mix=watch)
    relaxed(pixels(relaxed), one_hot(relaxed, space.smallest))
    searched = [place for place in relaxed.places if place.is_searched]
    assert len(searched) == 4 and len(ran) == 4
    ran.clear()
    relaxed(pixels(relaxed), drawn(relaxed))
    assert len(ran) == sum(len(place.layers) for place in searched) == 2 * 9 + 2 * 10


def test_no_weight_at_all_gives_zeros() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(weighted_sum(x, torch.zeros(2), [lambda x: x, lambda x: 2 * x]), torch.zeros(2, 3))


def test_cells_are_not_enumerated(cells: NasBench201) -> None:
    places = [place for place in RelaxedSupernet(cells).places if place.cell]
    assert [place.name for place in places] == ["stage1_cell1", "stage2_cell1", "stage3_cell1"]
    assert all(len(place.layers) == 1 and place.is_searched for place in places)


def test_samples_follow_the_weights(space: MobileNetV3) -> None:
    relaxed = RelaxedSupernet(space, fixed={"resolution": 12})
    weights = drawn(relaxed)
    genes = relaxed.sample(weights, 20_000, np.random.default_rng(0))
    assert np.array_equal(genes, space.canonical(genes)) and genes.dtype == np.int16
    assert (genes[:, space.index["resolution"]] == 1).all()
    found = np.bincount(genes[:, space.index["kernel.1.1"]], minlength=3) / len(genes)
    assert found == pytest.approx(weights["kernel.1.1"].numpy(), abs=0.015)
    again = relaxed.sample(weights, 20_000, np.random.default_rng(0))
    assert np.array_equal(genes, again)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({}, r"Position 'stem' of space 'tiny' cannot be relaxed.*\(resolution\)"),
        ({"size": 8}, "has no choice 'size'"),
        ({"resolution": 9}, r"is one of \[8, 12\], but got 9"),
    ],
)
def test_what_cannot_be_relaxed_is_named(space: MobileNetV3, fixed: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        RelaxedSupernet(space, fixed=fixed)


def test_a_position_of_different_widths_is_named(resnet_space: ResNet50) -> None:
    with pytest.raises(InvalidValueError, match="cannot be relaxed.*Fix a choice that it depends on .*width"):
        RelaxedSupernet(resnet_space, fixed={"resolution": 16})


def test_wrong_weights_and_images_are_refused(space: MobileNetV3) -> None:
    relaxed = RelaxedSupernet(space, fixed={"resolution": 8})
    weights, images = drawn(relaxed), pixels(relaxed)
    with pytest.raises(MismatchError, match=r"take 'image' of shape \(1, 8, 8\), but got .* \(1, 12, 12\)"):
        relaxed(torch.zeros(2, 1, 12, 12), weights)
    with pytest.raises(InvalidValueError, match="but got 'resolution'"):
        relaxed(images, weights | {"resolution": torch.ones(2) / 2})
    with pytest.raises(InvalidValueError, match=r"'depth.1' needs weights of shape \(2,\), but got \(3,\)"):
        relaxed(images, weights | {"depth.1": torch.ones(3) / 3})
    del weights["depth.2"]
    with pytest.raises(InvalidValueError, match="'depth.2' needs weights of shape .* but got none"):
        relaxed(images, weights)


# -- several inputs and outputs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_by_two() -> RelaxedSupernet:
    return RelaxedSupernet(TwoByTwo(), fixed={"resolution": "8x12", "width": 8})


def views(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(n, 3, 8, 12, generator=generator),
        "distance": torch.randn(n, 1, 4, 6, generator=generator),
    }


@pytest.mark.parametrize("training", [False, True])
def test_one_hot_mixtures_of_several_inputs_are_networks(two_by_two: RelaxedSupernet, training: bool) -> None:
    two_by_two.train(training)
    for row in two_by_two.sample(drawn(two_by_two), 8, np.random.default_rng(0)):
        architecture = Architecture(two_by_two.space, row)
        found = two_by_two(views(), one_hot(two_by_two, architecture))
        wanted = two_by_two.supernet(views(), architecture)
        assert set(found) == {"logits", "mask"} and found["mask"].shape == (4, 2, 4, 6)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_each_output_is_mixed_and_gives_gradients(two_by_two: RelaxedSupernet) -> None:
    two_by_two.eval()
    weights = one_hot(two_by_two, two_by_two.architecture(drawn(two_by_two)))
    parts = [two_by_two(views(), weights | {"map": torch.eye(2)[k]})["mask"] for k in range(2)]
    mixed = two_by_two(views(), weights | {"map": torch.tensor([0.25, 0.75])})
    torch.testing.assert_close(mixed["mask"], 0.25 * parts[0] + 0.75 * parts[1])
    learnt = {name: values.requires_grad_() for name, values in drawn(two_by_two).items()}
    found = two_by_two(views(), learnt)
    (found["logits"].square().mean() + found["mask"].square().mean()).backward()
    assert all(values.grad is not None and bool((values.grad != 0).all()) for values in learnt.values())


def test_an_input_that_is_missing_is_named(two_by_two: RelaxedSupernet) -> None:
    weights = drawn(two_by_two)
    with pytest.raises(
        MismatchError, match=r"take 'image' of shape \(3, 8, 12\), 'distance' of .*, but got 'image' of"
    ):
        two_by_two(views()["image"], weights)
