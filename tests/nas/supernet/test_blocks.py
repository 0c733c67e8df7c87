"""Networks cut into blocks, block-wise distillation, and ratings by it."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.core.checkpoint import read_checkpoint
from nas.data import Data, resize
from nas.supernet import Phase, Supernet, TrainingSettings, train
from nas.supernet.block_rating import beginning, block_rating, ratings_of
from nas.supernet.blocks import blocks_of, cuts, features
from nas.supernet.losses import Blockwise, Labels, Lesson
from nas.supernet.losses.blockwise import block_loss, running
from nas.supernet.samplers import SinglePath
from nas.supernet.training import CHECKPOINT
from predictors import load, save
from search_spaces import Architecture, Genes, MobileNetV3, NasBench201, ResNet50
from search_spaces.base.errors import DamagedFileError, InvalidValueError, MismatchError

RESOLUTION = 12
TEACHER = Phase(choices={"resolution": [12], "depth*": [2], "kernel*": [7], "expand*": [4]})
PUPILS = Phase(loss=Blockwise(), choices={"resolution": [12]})
QUICK = TrainingSettings(
    epochs=4,
    batch_size=32,
    sampler=SinglePath(),
    loss=Labels(),
    evaluate_every=0,
    threads=1,
    phases=(TEACHER, PUPILS),
)


def of_teacher_shape(space: MobileNetV3, n: int) -> Genes:
    genes = space.sample(n, np.random.default_rng(0))
    genes[:, space.index["resolution"]] = 1
    return space.canonical(genes)


def ends_of(space: MobileNetV3 | NasBench201) -> list[str]:
    return [block.end(space) for block in blocks_of(space)]


def test_a_chain_is_cut_wherever_its_channels_are_fixed(space: MobileNetV3) -> None:
    names = [position.name for position in space.positions]
    assert ends_of(space) == names, "stages have fixed channels"
    coarse = blocks_of(space, (names[2], names[4]))
    assert [block.end(space) for block in coarse] == [names[2], names[4], names[-1]]
    assert list(itertools.chain(*(block.positions for block in coarse))) == list(range(len(names)))
    with pytest.raises(InvalidValueError, match="can end with .*'colour'"):
        blocks_of(space, ("colour",))


def test_networks_are_not_cut_where_channels_vary(resnet_space: ResNet50) -> None:
    last = len(resnet_space.positions) - 1
    for p in cuts(resnet_space):
        widths = {layer.output_shape[0] for layer in resnet_space.layers_at(p) if layer is not None}
        assert len(widths) == 1 or p == last
    assert last in cuts(resnet_space)


def test_features_of_the_whole_are_those_of_the_forward_pass(space: MobileNetV3) -> None:
    supernet = Supernet(space).eval()
    x = torch.randn(2, 1, RESOLUTION, RESOLUTION)
    for row in of_teacher_shape(space, 10):
        network = Architecture(space, row)
        found = features(space, blocks_of(space), space.lower(network), running(supernet, network), x)
        assert torch.equal(found[space.positions[-1].name], supernet(x, network))


def test_the_teacher_is_its_own_best_pupil(space: MobileNetV3) -> None:
    supernet, loss = Supernet(space).train(), Blockwise()
    says = loss.teacher(supernet)
    x = torch.randn(4, 1, RESOLUTION, RESOLUTION)
    wanted = says(lambda size: resize(x, size))
    assert list(wanted) == ends_of(space)
    own = loss.outputs(supernet, x, space.biggest, wanted)
    assert all(torch.allclose(own[end], wanted[end], atol=1e-5) for end in wanted)
    other = loss.outputs(supernet, x, Architecture(space, of_teacher_shape(space, 1)[0]), wanted)
    assert any(not torch.allclose(other[end], wanted[end], atol=1e-3) for end in wanted)


def test_the_loss_of_a_block_is_relative_to_the_variance() -> None:
    wanted = torch.tensor([[0.0, 2.0], [4.0, 6.0]])  # variance 5
    assert float(block_loss(wanted + 1, wanted)) == pytest.approx(1 / 5)
    assert float(block_loss(10 * (wanted + 1), 10 * wanted)) == pytest.approx(1 / 5)


def test_a_block_teaches_its_own_weights_alone(space: MobileNetV3) -> None:
    supernet, loss = Supernet(space).train(), Blockwise()
    x = torch.randn(4, 1, RESOLUTION, RESOLUTION)
    wanted = {end: value + torch.randn_like(value) for end, value in loss.teacher(supernet)(lambda size: x).items()}
    found = loss.outputs(supernet, x, space.biggest, wanted)
    end = ends_of(space)[2]
    block_loss(found[end], wanted[end]).backward()
    touched = {name.split(".")[1] for name, weights in supernet.named_parameters() if weights.grad is not None}
    assert touched == {end}


def test_networks_of_other_shapes_are_refused(space: MobileNetV3) -> None:
    supernet, loss = Supernet(space), Blockwise()
    x = torch.randn(2, 1, RESOLUTION, RESOLUTION)
    wanted = loss.teacher(supernet)(lambda size: resize(x, size))
    with pytest.raises(MismatchError, match="teacher has values of shape .*`choices`"):
        loss.outputs(supernet, resize(x, 8), space.smallest, wanted)


@pytest.fixture(scope="module")
def trained(space: MobileNetV3, data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Supernet, Path]:
    folder = tmp_path_factory.mktemp("blockwise")
    return train(space, data, dataclasses.replace(QUICK, epochs=8, learning_rate=1e-2), folder).supernet, folder


def test_ratings_are_the_sum_of_the_blocks(trained: tuple[Supernet, Path], space: MobileNetV3, data: Data) -> None:
    supernet, folder = trained
    start = beginning(space, folder / CHECKPOINT)
    loss = Blockwise()
    rating = block_rating(supernet, data, loss, teacher=start, images=32)
    some = of_teacher_shape(space, 12)
    directly = ratings_of(some, supernet, data, loss, teacher=start, images=32)
    assert rating.predict(some) == pytest.approx(directly, rel=1e-4)
    inputs, targets = data.validation.take(torch.arange(32) * len(data.validation) // 32)
    wanted = loss.teacher(start)(lambda size: resize(inputs, size))
    pupil = Supernet(space)
    pupil.load_state_dict(supernet.state_dict())
    genes = of_teacher_shape(space, 12)
    for row, value in zip(genes, rating.predict(genes), strict=True):
        found = loss.outputs(pupil.train(), resize(inputs, RESOLUTION), Architecture(space, row), wanted)
        lesson = Lesson(data.task, targets, 0.0, None, wanted)
        assert float(loss(found, lesson).detach()) == pytest.approx(float(value), rel=1e-4)
    assert rating.metric == "block_loss" and rating.unit == "1"


def test_the_minimum_of_a_rating_is_exact(trained: tuple[Supernet, Path], space: MobileNetV3, data: Data) -> None:
    rating = block_rating(trained[0], data, Blockwise(), teacher=beginning(space, trained[1] / CHECKPOINT), images=16)
    genes, value = rating.minimum()
    values = rating.predict(space.sample(4000, np.random.default_rng(1)))
    assert value <= values.min() and rating.predict(genes[None])[0] == pytest.approx(value)
    assert np.isinf(rating.predict(space.smallest.genes[None])[0]), "another resolution than the teacher's"
    assert math.isfinite(value) and genes[space.index["resolution"]] == 1


def test_pupils_come_to_resemble_the_teacher(trained: tuple[Supernet, Path], space: MobileNetV3, data: Data) -> None:
    supernet, folder = trained
    start = beginning(space, folder / CHECKPOINT)
    genes = of_teacher_shape(space, 40)
    before, after = (
        block_rating(one, data, Blockwise(), teacher=start, images=60).predict(genes) for one in (start, supernet)
    )
    assert np.isfinite(before).all() and np.isfinite(after).all()
    assert np.median(after) < 0.9 * np.median(before)


def test_a_rating_is_saved(trained: tuple[Supernet, Path], space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    rating = block_rating(trained[0], data, Blockwise(), images=16)
    save(rating, space, tmp_path / "block_loss.npz")
    genes = space.sample(20, np.random.default_rng(0))
    loaded = load(tmp_path / "block_loss.npz", space)
    assert np.array_equal(loaded.predict(genes), rating.predict(genes))  # type: ignore[attr-defined]


def test_cells_that_share_choices_are_blocks_too() -> None:
    tiny = NasBench201(name="tiny", in_channels=1, classes=10, resolution=8, channels=4, cells=1)
    assert ends_of(tiny) == [position.name for position in tiny.positions]
    supernet, loss = Supernet(tiny).train(), Blockwise(choices={"edge*": ["nor_conv_3x3"]})
    x = torch.randn(4, 1, 8, 8)
    wanted = loss.teacher(supernet)(lambda size: x)
    for row in tiny.sample(5, np.random.default_rng(0)):
        found: dict[str, Tensor] = dict(loss.outputs(supernet, x, Architecture(tiny, row), wanted))
        assert all(found[end].shape == wanted[end].shape for end in wanted)


def test_what_cannot_be_rated_is_refused(
    space: MobileNetV3, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = Supernet(space)
    monkeypatch.setattr("nas.supernet.block_rating.MOST_TRIED", 100)
    names = [position.name for position in space.positions]
    with pytest.raises(InvalidValueError, match="`images`"):
        block_rating(supernet, data, Blockwise(), images=1)
    with pytest.raises(InvalidValueError, match="can be filled in .* ways.*`ends`"):
        block_rating(supernet, data, Blockwise(ends=(names[-1],)), images=4)
    divided = supernet.divided([(0, {"resolution": [8]}), (0, {"resolution": [12]})])
    with pytest.raises(InvalidValueError, match="2 parts"):
        block_rating(divided, data, Blockwise())
    supernet.save(tmp_path / "supernet.pt")
    with pytest.raises(DamagedFileError, match="began with"):
        beginning(space, tmp_path / "supernet.pt")


def test_the_teacher_can_come_from_a_file(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    other = Supernet(space, seed=5)
    other.save(tmp_path / "teacher.pt")
    x = torch.randn(2, 1, RESOLUTION, RESOLUTION)
    told = Blockwise(supernet=str(tmp_path / "teacher.pt")).teacher(Supernet(space))(lambda size: x)
    expected = Blockwise().teacher(other)(lambda size: x)
    assert all(torch.equal(told[end], expected[end]) for end in expected)
    for loss, kept in ((Blockwise(), True), (Blockwise(supernet=str(tmp_path / "teacher.pt")), False)):
        phase, folder = Phase(loss=loss, choices={"resolution": [12]}), tmp_path / str(kept)
        train(space, data, dataclasses.replace(QUICK, epochs=1, phases=(phase,)), folder)
        assert (read_checkpoint(folder / CHECKPOINT, space)["start"] is not None) == kept
