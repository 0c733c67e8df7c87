"""Few-shot search: the space is divided where gradients disagree, and each part has weights of its own."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.core.checkpoint import write_checkpoint
from nas.data import Data
from nas.supernet import Phase, Supernet, SupernetAccuracy, TrainingSettings, train
from nas.supernet.few_shot import GradientMatching, LossOf, best_cut
from nas.supernet.losses import Labels
from nas.supernet.region import Region
from nas.supernet.samplers import SinglePath
from nas.supernet.supernet import Part, position_of
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import DamagedFileError, InvalidValueError
from tests.nas.supernet.conftest import make_space

KERNEL = "kernel.1.1"
QUICK = TrainingSettings(epochs=2, batch_size=32, sampler=SinglePath(2), loss=Labels(), evaluate_every=0, threads=1)


@pytest.fixture(scope="module")
def four() -> MobileNetV3:
    return make_space("four", kernels=[3, 5, 7, 9])


def pushing(supernet: Supernet, choices: Sequence[str], values: set[object]) -> Iterator[LossOf]:
    """Losses of networks that push the stem of their part one way, or the other way where a choice, one for each
    part, has one of some values; with a little noise."""
    turn = torch.Generator().manual_seed(0)

    def loss(network: Architecture) -> Tensor:
        part = supernet.part_of(network)
        stem = next(supernet.weights_of(part)["stem"].parameters())
        sign = -1.0 if network.values[choices[part]] in values else 1.0
        return (stem * (sign + 0.05 * torch.randn(stem.shape, generator=turn))).sum()

    return itertools.repeat(loss)


def test_values_that_conflict_come_apart(four: MobileNetV3) -> None:
    losses = pushing(supernet := Supernet(four), [KERNEL], {5, 9})
    parts = GradientMatching(batches=4).divide(supernet, Region(four), losses, np.random.default_rng(0))
    assert parts == [(0, {KERNEL: (3, 7)}), (0, {KERNEL: (5, 9)})]


def test_a_part_is_divided_again(four: MobileNetV3) -> None:
    halves: list[tuple[int, Part]] = [(0, {KERNEL: (3, 7)}), (0, {KERNEL: (5, 9)})]
    supernet = Supernet(four).divided(halves)
    losses = pushing(supernet, ["expand.1.1", "kernel.2.1"], {1, 3, 9})
    parts = GradientMatching(batches=8).divide(supernet, Region(four), losses, np.random.default_rng(0))
    assert parts == [
        (0, {KERNEL: (3, 7), "expand.1.1": (1,)}),
        (0, {KERNEL: (3, 7), "expand.1.1": (2, 4)}),
        (1, {KERNEL: (5, 9), "kernel.2.1": (3, 9)}),
        (1, {KERNEL: (5, 9), "kernel.2.1": (5, 7)}),
    ]


def test_what_shares_no_weights_has_no_conflict(four: MobileNetV3) -> None:
    supernet, division = Supernet(four), GradientMatching(batches=2)
    column = four.index["resolution"]
    weights = [next(supernet.weights_of(0)[name].parameters()) for name in ("stem", "classifier")]
    losses: Iterator[LossOf] = itertools.repeat(lambda network: weights[int(network.genes[column])].sum())
    distances = division.distances(supernet, Region(four), 0, column, losses, np.random.default_rng(0))
    assert distances.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    both: Iterator[LossOf] = itertools.repeat(lambda network: weights[0].sum() * (1 - 2 * int(network.genes[column])))
    assert division.distances(supernet, Region(four), 0, column, both, np.random.default_rng(0)).tolist() == [
        [0.0, pytest.approx(2.0)],
        [pytest.approx(2.0), 0.0],
    ]


def test_a_choice_of_one_value_left_is_not_divided(space: MobileNetV3) -> None:
    supernet = Supernet(space).divided([(0, {"resolution": (8,)}), (0, {"resolution": (12,)})])
    division = GradientMatching(choices="resolution", batches=1)
    loss = itertools.repeat(lambda network: next(supernet.parameters()).sum())
    assert division.divide(supernet, Region(space), loss, np.random.default_rng(0)) == list(enumerate(supernet.parts))


def test_the_best_cut() -> None:
    distances = np.array([[0, 9, 1, 9], [9, 0, 9, 1], [1, 9, 0, 9], [9, 1, 9, 0]], float)
    assert best_cut(distances) == (9.0, ([0, 2], [1, 3]))
    assert best_cut(np.array([[0.0, 0.5], [0.5, 0.0]])) == (0.5, ([0], [1]))
    three = np.array([[0, 1, 1], [1, 0, 5], [1, 5, 0]], float)
    assert best_cut(three) == (3.0, ([1], [0, 2]))


def test_each_network_takes_the_weights_of_its_part(space: MobileNetV3, tmp_path: Path) -> None:
    whole = Supernet(space, seed=3)
    divided = whole.divided([(0, {KERNEL: [3]}), (0, {KERNEL: [5, 7]})])
    genes = space.sample(20, np.random.default_rng(0))
    networks = [Architecture(space, row) for row in genes]
    expected = [0 if network.values[KERNEL] == 3 else 1 for network in networks]
    assert [divided.part_of(network) for network in networks] == expected and set(expected) == {0, 1}
    with torch.no_grad():
        for parameter in divided.weights_of(1).parameters():
            parameter.mul_(0.5)
    divided.save(tmp_path / "supernet.pt")
    back = Supernet.load(space, tmp_path / "supernet.pt")
    assert back.parts == divided.parts and back.digest == divided.digest != whole.digest
    for network, part in zip(networks, expected, strict=True):
        x = torch.randn(2, 1, *2 * [network.values["resolution"]])  # type: ignore[list-item]
        y = divided.eval()(x, network)
        assert torch.allclose(divided.extract(network)(x), y, atol=1e-6)
        assert torch.equal(back(x, network), y)
        assert torch.equal(y, whole.eval()(x, network)) is (part == 0)


def test_the_file_of_one_weight_set_is_as_before(space: MobileNetV3) -> None:
    supernet = Supernet(space)
    assert all(name.startswith("positions.") for name in supernet.state_dict())
    modules = {name.split(".")[0] for name in supernet.state_dict()._metadata}  # type: ignore[attr-defined]
    assert modules == {"", "positions"}, "torch writes the names of modules too"
    again = Supernet(space, parts=[{}])
    assert again.digest == supernet.digest
    divided = supernet.divided([(0, {KERNEL: [3]}), (0, {KERNEL: [5, 7]})])
    names = {position_of(name) for name, _ in divided.named_parameters()}
    assert names == {position.name for position in space.positions}


def test_wrong_parts_are_refused(space: MobileNetV3, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="'colour'"):
        Supernet(space, parts=[{"colour": [1]}])
    with pytest.raises(InvalidValueError, match=f"'{KERNEL}'.*got 9"):
        Supernet(space, parts=[{KERNEL: [9]}])
    half = Supernet(space, parts=[{KERNEL: [3]}, {KERNEL: [5]}])
    biggest = space.biggest
    with pytest.raises(InvalidValueError, match="None of 2 parts"):
        half.part_of(biggest)
    content = {"supernet": half.state_dict(), "parts": [{"colour": [1]}]}
    write_checkpoint(tmp_path / "supernet.pt", space, content)
    with pytest.raises(DamagedFileError, match="supernet.pt"):
        Supernet.load(space, tmp_path / "supernet.pt")
    with pytest.raises(InvalidValueError, match="first|later phases"):
        TrainingSettings(phases=(Phase(division=GradientMatching()),))
    with pytest.raises(InvalidValueError, match="'colour\\*'"):
        GradientMatching("colour*").columns(space)
    with pytest.raises(InvalidValueError, match="`batches`"):
        GradientMatching(batches=0)


def test_a_divided_training_is_labelled_like_any_other(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, phases=(Phase(), Phase(division=GradientMatching(batches=2))), ema=0.5)
    trained = train(space, data, settings, tmp_path).supernet
    assert len(trained.parts) == 2
    first, second = (dict(trained.weights_of(part).named_parameters()) for part in (0, 1))
    assert any(not torch.equal(value, second[name]) for name, value in first.items())
    genes = space.sample(4, np.random.default_rng(0))
    loaded = SupernetAccuracy(space, Supernet.load(space, tmp_path / "supernet.pt"), data, recalibration_images=32)
    given = SupernetAccuracy(space, trained, data, recalibration_images=32)
    assert np.array_equal(loaded.predict(genes), given.predict(genes))


def test_a_division_trains_no_more_than_before(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    phases = (Phase(), Phase(division=GradientMatching(KERNEL, batches=1)))
    settings = dataclasses.replace(QUICK, phases=phases, trained=("classifier.*",))
    trained, fresh = train(space, data, settings, tmp_path).supernet, Supernet(space, seed=settings.seed)
    assert len(trained.parts) == 2
    before = dict(fresh.weights_of(0).named_parameters())
    for part in (0, 1):
        moved = {
            name.split(".")[0]
            for name, value in trained.weights_of(part).named_parameters()
            if not torch.equal(value, before[name])
        }
        assert moved == {"classifier"}


def test_only_its_own_part_learns_from_a_network(space: MobileNetV3, data: Data) -> None:
    supernet = Supernet(space).divided([(0, {KERNEL: [3]}), (0, {KERNEL: [5, 7]})])
    inputs, targets = data.train.take(torch.arange(8))
    row = space.biggest.genes.copy()
    network = Architecture(space, row)
    x = torch.nn.functional.interpolate(inputs, network.values["resolution"])  # type: ignore[arg-type]
    torch.nn.functional.cross_entropy(supernet.train()(x, network), targets).backward()
    assert all(parameter.grad is None for parameter in supernet.weights_of(0).parameters())
    assert any(parameter.grad is not None for parameter in supernet.weights_of(1).parameters())


def test_channels_are_not_sorted_after_a_division() -> None:
    divides = Phase(division=GradientMatching(), sort=True)
    assert TrainingSettings(phases=(Phase(), divides))
    with pytest.raises(InvalidValueError, match="`sort` must not follow a `division`"):
        TrainingSettings(phases=(Phase(), divides, Phase(sort=True)))
