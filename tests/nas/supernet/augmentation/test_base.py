"""Changes of a batch: their order, their parts, and trainings with them."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import nas
from nas.data import Data
from nas.supernet import Epoch, TrainingSettings, train
from nas.supernet.augmentation import Affine, Augmentation, Changes, Crop, CutMix, Flip, Mixup, RandAugment, drawn
from nas.supernet.augmentation.base import move, recolour
from nas.supernet.samplers import Sandwich
from nas.supernet.training import _parts
from nas.tasks import Classification
from search_spaces import MobileNetV3
from search_spaces.base.errors import InvalidValueError

ALL = (Affine(), Flip(), Crop(), Mixup(), CutMix(chance=0.5))
QUICK = TrainingSettings(epochs=2, batch_size=32, sampler=Sandwich(1), evaluate_every=0, threads=1, augment=ALL)
BLACK = torch.zeros(1, 1, 1, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(changes: Changes, images: torch.Tensor, labels: torch.Tensor, parts: int = 1) -> list[torch.Tensor]:
    """What networks are given of a batch, and its targets, in parts put together again."""
    found = _parts(Classification(10), images, labels, changes, BLACK, parts)
    assert len(found) == parts
    return [torch.cat([part.view(9) for part in found]), torch.cat([part.targets for part in found])]


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 1, 12, 12, generator=generator()), torch.arange(count) % 10


def test_the_same_generator_draws_the_same() -> None:
    images, labels = batch()
    one, two, other = (seen(drawn(ALL, 8, 12, generator(seed)), images, labels) for seed in (0, 0, 1))
    assert all(map(torch.equal, one, two)) and not torch.equal(one[0], other[0])


def test_movements_follow_each_other() -> None:
    """One map does what two resamplings do, but for their blur: of a plane, which has none."""
    down, right = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    images = (0.3 * right - 0.2 * down).expand(4, 1, 16, 16)
    first = drawn([Affine(shift=0, rotate=0, scale=0.1)], 4, 16, generator()).movement
    then = drawn([Affine(shift=0, rotate=0, scale=0.1)], 4, 16, generator(1)).movement
    assert first is not None and then is not None
    both = Changes(4, 16).moved(first).moved(then).movement
    one, two = move(images, both, BLACK), move(move(images, first, BLACK), then, BLACK)
    torch.testing.assert_close(one[..., 4:12, 4:12], two[..., 4:12, 4:12], atol=1e-4, rtol=0)
    turn = drawn([Affine(shift=0.1, rotate=30, scale=0)], 4, 16, generator()).movement
    flip = drawn([Flip(chance=1.0)], 4, 16, generator()).movement
    assert turn is not None and flip is not None
    flipped = move(move(images, turn, BLACK), flip, BLACK)
    torch.testing.assert_close(move(images, Changes(4, 16).moved(turn).moved(flip).movement, BLACK), flipped)
    torch.testing.assert_close(flipped, move(images, turn, BLACK).flip(3))


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_are_given_what_the_whole_is(parts: int) -> None:
    images, labels = batch()
    changes = drawn(ALL, 8, 12, generator())
    for whole, cut in zip(seen(changes, images, labels), seen(changes, images, labels, parts), strict=True):
        torch.testing.assert_close(cut, whole)


def test_processes_are_given_what_one_is() -> None:
    images, labels = batch()
    changes = drawn(ALL, 8, 12, generator())
    whole = seen(changes, images, labels)
    for rank in range(2):
        needed, mine = changes.of(torch.arange(rank, 8, 2))
        for all_of_it, share in zip(whole, seen(mine, images[needed], labels[needed], 2), strict=True):
            torch.testing.assert_close(share, all_of_it[rank::2])


def test_a_later_mixing_takes_its_share_of_the_images() -> None:
    mixing = drawn([Mixup(), CutMix(chance=0.25)], 4000, 12, generator()).mixing
    assert mixing is not None and mixing.blends
    blended = mixing.strength != 1
    assert float(blended.float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(mixing.box[blended], torch.tensor([0.0, 0, 1, 1]).expand(int(blended.sum()), 4))
    some = drawn([CutMix(chance=0.25)], 4000, 12, generator()).mixing
    assert some is not None and float((some.share == 0).float().mean()) == pytest.approx(0.75, abs=0.03)


def test_nothing_is_changed_without_augmentations() -> None:
    images, labels = batch()
    (part,) = _parts(Classification(10), images, labels, drawn((), 8, 12, generator()), BLACK, 1)
    assert part.view(12) is images and part.targets is labels and recolour(images, (), BLACK, BLACK) is images


def test_a_resumed_training_draws_the_same(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    whole = train(space, data, QUICK, tmp_path / "whole")

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(space, data, QUICK, tmp_path / "parts", on_epoch=stop)
    resumed = train(space, data, QUICK, tmp_path / "parts").supernet.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.supernet.state_dict().items())


class Unmixable(Classification):
    """A task whose targets cannot be mixed."""

    def mix(self, targets: object, others: object, mixing: object) -> torch.Tensor:
        raise InvalidValueError("These targets cannot be mixed.")


@pytest.mark.parametrize(("augment", "refused"), [((Affine(), Flip()), False), ((Mixup(),), True)])
def test_what_a_task_cannot_mix_is_refused_before_training(
    augment: Sequence[Augmentation], refused: bool, space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    other = Data("other", data.train, data.validation, data.test_part(), Unmixable(10), data.mean, data.std)
    settings = dataclasses.replace(QUICK, epochs=1, augment=tuple(augment))
    if not refused:
        train(space, other, settings, tmp_path)
        return
    with pytest.raises(InvalidValueError, match="cannot be mixed"):
        train(space, other, settings, tmp_path)


WORKER = """
import sys
from pathlib import Path
from nas.data import digits
from nas.supernet import TrainingSettings, train
from nas.supernet.augmentation import Affine, Crop, CutMix, Flip, Mixup
from nas.supernet.samplers import Sandwich
from tests.nas.supernet.conftest import make_space
augment = (Affine(), Flip(), Crop(), Mixup(), CutMix(chance=0.5))
settings = TrainingSettings(epochs=2, batch_size=96, sampler=Sandwich(0), evaluate_every=0, threads=1, augment=augment)
train(make_space(), digits(), settings, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_mix_as_one_does(tmp_path: Path) -> None:
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        (folder / "worker.py").write_text(WORKER)
        command = [sys.executable, str(folder / "worker.py"), str(folder)]
        if processes > 1:
            command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        losses.append([epoch["loss"] for epoch in json.loads((folder / "history.json").read_text())])
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_kornia_is_only_imported_where_it_is_used() -> None:
    """Inside functions alone, and none is needed to describe an augmentation."""
    package = Path(nas.__file__).parent
    imports = [
        (path, node)
        for path in package.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imports and not [path for path, node in imports if "kornia" in ast.unparse(node)]
    assert RandAugment().operations == 2


def test_what_comes_in_is_black_or_the_edge() -> None:
    """A row of four pixels moves to the left by two; the raw value 0 is -1 there."""
    row, black = torch.arange(4.0).reshape(1, 1, 1, 4), torch.full((1, 1, 1, 1), -1.0)
    left = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    assert move(row, left, black).flatten().tolist() == [2.0, 3.0, -1.0, -1.0]
    assert move(row, left, black, "edge").flatten().tolist() == [2.0, 3.0, 3.0, 3.0]
