"""Recipes: phases, samplers, losses, averages, precision, several processes."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.checkpoint import read_checkpoint, write_checkpoint
from nas.data import Data
from nas.supernet import Epoch, Phase, Supernet, TrainingSettings, train
from nas.supernet.few_shot import GradientMatching
from nas.supernet.losses import Blockwise, FrozenBiggest, Labels, Lesson
from nas.supernet.losses.base import Teacher
from nas.supernet.region import Region
from nas.supernet.samplers import Attentive, Probe, Sandwich, SinglePath, State, SubnetAware
from nas.supernet.samplers.base import Memoryless
from nas.supernet.training import BEST, CHECKPOINT
from search_spaces import Architecture, MobileNetV3
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError
from tests.nas.conftest import first_digits
from tests.nas.supernet.conftest import make_space

QUICK = TrainingSettings(epochs=2, batch_size=32, sampler=Sandwich(1), evaluate_every=0, threads=1)


def states_equal(a: Supernet, b: Supernet) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@dataclass(frozen=True)
class Smallest(Memoryless):
    """Only the smallest network, whose losses are remembered."""

    @property
    def learns(self) -> bool:
        return True

    @property
    def per_step(self) -> float:
        return 1

    def init(self, region: Region) -> State:
        return {"losses": np.zeros(0)}

    def draw(self, region: Region, state: State, rng: np.random.Generator, probe: Probe) -> list[Architecture]:
        return [region.smallest]

    def tell(self, region: Region, state: State, drawn: Sequence[Architecture], losses: Sequence[float]) -> State:
        return {"losses": np.append(state["losses"], losses)}


@dataclass(frozen=True)
class FromBefore:
    """Learning from the biggest network as it was when the phase began."""

    def teacher(self, supernet: Supernet) -> Teacher:
        network = supernet.extract(supernet.space.biggest).eval()

        @torch.no_grad()
        def says(view: Any) -> torch.Tensor:
            outputs: torch.Tensor = network(view(12))
            return outputs

        return says

    def __call__(self, outputs: torch.Tensor, lesson: Lesson) -> torch.Tensor:
        return lesson.task.imitation(outputs, lesson.outside)


def test_a_phase_trains_only_what_it_may(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    phase = Phase(choices={"kernel*": [3], "depth*": [1], "expand*": [1], "resolution": [8]})
    before = Supernet(space, seed=0)
    settings = dataclasses.replace(QUICK, phases=(phase,), weight_decay=0.0, sampler=SinglePath())
    after = train(space, data, settings, tmp_path).supernet
    mine = set()
    for position, layer in space.lower(Region(space, phase.choices).biggest).items():
        mine |= {f"positions.{position}.body.{p.name}" for p in layer.program.parameters}
    changed = {name for name, value in after.named_parameters() if not torch.equal(value, before.state_dict()[name])}
    bodies = {name for name in changed if ".transforms." not in name}
    assert bodies and bodies <= mine


def test_a_region_keeps_to_its_values(space: MobileNetV3) -> None:
    region = Region(space, {"kernel*": [3, 5], "depth.2": [2]})
    genes = region.sample(200, np.random.default_rng(0))
    for name in (name for name in space.index if name.startswith("kernel")):
        values = {space.choices[space.index[name]].values[g] for g in genes[:, space.index[name]]}
        assert 7 not in values
    assert set(genes[:, space.index["depth.2"]].tolist()) == {1}
    assert np.array_equal(Region(space).sample(5, np.random.default_rng(1)), space.sample(5, np.random.default_rng(1)))
    assert Region(space).biggest == space.biggest and Region(space).smallest == space.smallest
    assert region.biggest.values["kernel.1.1"] == 5 and region.smallest.values["depth.2"] == 2
    with pytest.raises(InvalidValueError, match="'\\*colour'"):
        Region(space, {"*colour": [1]})
    with pytest.raises(InvalidValueError, match="can be .* but got 9"):
        Region(space, {"kernel*": [9]})


@pytest.mark.parametrize(
    "change",
    [
        {"phases": (Phase(), Phase(sampler=SinglePath(2), loss=Labels(), learning_rate=1e-3))},
        {"ema": 0.9},
        {"sampler": Smallest()},
        {"phases": (Phase(loss=Labels()), Phase(loss=FromBefore(), share=2.0))},
        {"schedule": "power", "power": 2.0, "accumulate": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_resumed_recipe_is_the_same_training(
    change: dict[str, Any], space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    settings = dataclasses.replace(QUICK, epochs=3, **change)
    whole = train(space, data, settings, tmp_path / "whole")

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(space, data, settings, tmp_path / "parts", on_epoch=stop)
    resumed = train(space, data, settings, tmp_path / "parts")
    assert states_equal(whole.supernet, resumed.supernet)
    contents = [read_checkpoint(tmp_path / folder / CHECKPOINT, space) for folder in ("whole", "parts")]
    for name, value in contents[0]["sampler"].items():
        assert torch.equal(value, contents[1]["sampler"][name])
    if "sampler" in change:
        assert len(contents[0]["sampler"]["losses"]) == 9  # 3 epochs of 3 steps


def test_a_training_goes_on_with_other_settings_that_no_weights_depend_on(
    space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    whole = train(space, data, QUICK, tmp_path / "whole")

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(space, data, QUICK, tmp_path / "parts", on_epoch=stop)
    other = dataclasses.replace(QUICK, workers=1, checkpoint_every=2, keep_checkpoints=2)
    epochs: list[int] = []
    resumed = train(space, data, other, tmp_path / "parts", on_epoch=lambda epoch: epochs.append(epoch.epoch))
    assert epochs == [2] and states_equal(resumed.supernet, whole.supernet)
    with pytest.raises(MismatchError, match=r"other settings \(batch_size\)"):
        train(space, data, dataclasses.replace(other, batch_size=16), tmp_path / "parts")


def test_parts_of_a_batch_give_the_gradient_of_the_whole(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    """But for BatchNorm, whose statistics are those of each part: with equal images in all parts there is no other."""
    images, labels = data.train.take(torch.arange(16).repeat(2))
    same = dataclasses.replace(
        data, train=type(data.train)(images, labels), test=data.test_part(), validation=data.validation
    )
    plain = dataclasses.replace(QUICK, epochs=1, augment=(), sampler=SinglePath(), optimiser="sgd")
    losses = [
        train(space, same, dataclasses.replace(plain, accumulate=n), tmp_path / str(n)).history[0].loss for n in (1, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_the_average_is_handed_on(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    plain = train(space, data, dataclasses.replace(QUICK, checkpoint_every=1), tmp_path / "plain").supernet
    averaged = train(space, data, dataclasses.replace(QUICK, ema=0.5), tmp_path / "averaged").supernet
    assert not states_equal(plain, averaged)
    content = read_checkpoint(tmp_path / "averaged" / CHECKPOINT, space)
    name = next(name for name, _ in plain.named_parameters())
    assert torch.equal(content["supernet"][name], plain.state_dict()[name])
    assert torch.equal(content["average"][f"module.{name}"], averaged.state_dict()[name])


def test_the_best_and_the_last_checkpoints_stay(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, epochs=4, evaluate_every=1, keep_checkpoints=2, hand_on="best")
    trained = train(space, data, settings, tmp_path)
    scores = [(e.smallest_accuracy or 0) + (e.biggest_accuracy or 0) for e in trained.history]
    assert states_equal(trained.supernet, Supernet.load(space, tmp_path / BEST))
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == [
        "checkpoint.pt",
        "checkpoint_0003.pt",
        "checkpoint_0004.pt",
    ]
    at = scores.index(max(scores)) + 1
    if (tmp_path / f"checkpoint_{at:04d}.pt").exists():
        kept = read_checkpoint(tmp_path / f"checkpoint_{at:04d}.pt", space)["supernet"]
        assert all(torch.equal(kept[name], value) for name, value in trained.supernet.state_dict().items())


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (Phase(sampler=SubnetAware(choice="colour")), "'colour'"),
        (Phase(sampler=Attentive(predictor="nowhere.npz")), "nowhere"),
        (Phase(loss=Blockwise(ends=("colour",))), "'colour'"),
        (Phase(loss=Blockwise()), "`choices`"),
        (Phase(loss=Blockwise(supernet="nowhere.pt"), choices={"resolution": [12]}), "nowhere"),
        (Phase(division=GradientMatching("colour*")), r"'colour\*'"),
        (Phase(choices={"colour": 1}), "'colour'"),
    ],
)
def test_a_later_phase_that_does_not_fit_is_refused_at_once(
    phase: Phase, words: str, space: MobileNetV3, data: Data, tmp_path: Path
) -> None:
    settings = dataclasses.replace(QUICK, phases=(Phase(), phase))
    with pytest.raises(NasError, match=words):
        train(space, data, settings, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains(precision: str, space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    if precision == "float16":
        pytest.importorskip("torch.cuda").is_available() or pytest.skip("float16 wants a GPU")
    settings = dataclasses.replace(QUICK, epochs=3, precision=precision)
    trained = train(space, data, settings, tmp_path)
    exact = train(space, data, dataclasses.replace(settings, precision="float32"), tmp_path / "exact")
    assert all(value.dtype != torch.bfloat16 for value in trained.supernet.state_dict().values())
    assert trained.history[-1].loss != exact.history[-1].loss
    assert trained.history[-1].loss == pytest.approx(exact.history[-1].loss, rel=0.05)


def test_scalars_for_tensorboard(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = train(space, data, dataclasses.replace(QUICK, evaluate_every=1, tensorboard=True), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([e.loss for e in trained.history])
    assert [event.step for event in events.Scalars("biggest")] == [1, 2]


def test_a_checkpoint_of_before_recipes_is_gone_on_with(space: MobileNetV3, data: Data, tmp_path: Path) -> None:
    whole = train(space, data, QUICK, tmp_path)
    content = read_checkpoint(tmp_path / CHECKPOINT, space)
    settings = content["identity"]["settings"]
    old = {name: settings[name] for name in settings if name not in ("sampler", "loss", "phases", "ema", "power")}
    old |= {"random_networks": 1, "distillation": True}
    kept = {name: content[name] for name in ("supernet", "optimiser", "history")}
    identity = {**content["identity"], "settings": old}
    write_checkpoint(tmp_path / CHECKPOINT, space, {**kept, "identity": identity})
    epochs: list[Epoch] = []
    again = train(space, data, QUICK, tmp_path, on_epoch=epochs.append)
    assert not epochs and states_equal(again.supernet, whole.supernet)


def trained(folder: Path, **settings: Any) -> None:
    """Train in as many processes as this one is started beside."""
    chosen = TrainingSettings(
        epochs=3,
        phases=(Phase(), Phase(loss=FrozenBiggest())),
        batch_size=96,
        sampler=Sandwich(1),
        evaluate_every=3,
        threads=1,
        **settings,
    )
    train(make_space(), first_digits(384, 240, 60), chosen, folder)


def history_of(folder: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((folder / "history.json").read_text())
    return found


WORKER = """
import json, pathlib, sys
from tests.nas.supernet.test_recipes import trained
trained(pathlib.Path(sys.argv[1]), **json.loads(sys.argv[2]))
"""


def launched(folder: Path, **settings: Any) -> list[dict[str, float]]:
    """History of a training in two processes, started by torchrun, which have nothing to warn of."""
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(folder / "worker.py"), str(folder), json.dumps(settings)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0 and "cannot compile" not in done.stderr, done.stderr[-3000:]
    return history_of(folder)


def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    one, two = history_of(tmp_path / "one"), launched(tmp_path / "two")
    assert [epoch["loss"] for epoch in two] == pytest.approx([epoch["loss"] for epoch in one], rel=2e-3)
    assert [epoch["learning_rate"] for epoch in two] == [epoch["learning_rate"] for epoch in one]
    assert abs(one[-1]["biggest_accuracy"] - two[-1]["biggest_accuracy"]) < 0.03


@pytest.mark.slow
def test_two_processes_that_compile_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    one, two = history_of(tmp_path / "one"), launched(tmp_path / "two", compile=True)
    assert [epoch["loss"] for epoch in two] == pytest.approx([epoch["loss"] for epoch in one], rel=2e-3)
