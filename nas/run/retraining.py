"""Training of networks alone: further from the weights that they inherit, or from nothing.

A network alone is the supernet of a space of one network (`search_spaces.one_network`), so that the loop, its settings
and its checkpoints are those of every training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.device import DeviceProfile
from nas.core.progress import each
from nas.run.export import export_network
from nas.run.labelling import evaluator_of, training_settings
from nas.run.records import RETRAINED, Exports, Retrained
from nas.run.run_folder import Run
from nas.run.settings import HEAD, METHODS_OF_TUNING, FinetuneSettings
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.base.names import closest
from search_spaces.base.storage import contents_of, fingerprint, read_json
from search_spaces.base.threads import torch_threads
from search_spaces.lite_residual import LiteResiduals
from search_spaces.network import Network
from search_spaces.one_network import OneNetwork
from search_spaces.with_recipe import Setting, WithRecipe

if TYPE_CHECKING:
    from nas.data import Data
    from nas.supernet import Supernet, SupernetAccuracy, TrainingSettings
    from nas.supernet.losses import Teacher
    from nas.supernet.memory import TrainingMemory
    from nas.supernet.training import Start
    from search_spaces.torch_program import StaticNetwork


@dataclass(frozen=True, repr=False)
class TrainedNetwork:
    """A network with weights of its own.

    Args:
        architecture: of the space that was searched.
        judge: gives its accuracy, and its weights as they are deployed.
        accuracy: on the validation part.
        inherited: accuracy with the weights of the supernet; None: there is none, as it was trained from nothing or on
            other data.
        seconds: of training.
        memory: that a step of the training holds.
    """

    architecture: Architecture
    judge: SupernetAccuracy
    accuracy: float
    inherited: float | None
    seconds: float
    memory: TrainingMemory

    @property
    def supernet(self) -> Supernet:
        """The weights, as the supernet of the space of this one network."""
        return self.judge.supernet

    def __repr__(self) -> str:
        before = "" if self.inherited is None else f", inherited {self.inherited:.4f}"
        held = f"training held {self.memory.total / 2**20:.1f} MiB"
        return f"TrainedNetwork(of {self.architecture.space.name}: accuracy {self.accuracy:.4f}{before}; {held})"

    def export(self, folder: str | Path, device: DeviceProfile | None = None) -> dict[str, float]:
        """Write the network as ONNX with how images become its input and what it is; see `nas.export`."""
        return export_network(self.judge.space.biggest, self.judge, Path(folder), device)


def fine_tuned(
    architecture: Architecture,
    judge: SupernetAccuracy,
    settings: TrainingSettings,
    folder: Path,
    *,
    method: str = "all",
) -> TrainedNetwork:
    """A network trained further from the weights that it inherits, BatchNorm statistics taken anew, with the largest
    network of the supernet as the teacher.

    Args:
        architecture: of the supernet's space.
        judge: of the supernet.
        settings: of the training.
        folder: takes a folder of the training, in which one that was stopped goes on.
        method: what is trained, one of `METHODS_OF_TUNING`.
    """
    from nas.supernet.losses.distillation import teaching
    from nas.supernet.supernet import input_resolution

    biggest, images = judge.space.biggest, judge.recalibration_images
    teacher = teaching(judge.deployed(biggest), input_resolution(judge.space, biggest))
    begun = [judge.supernet.digest, architecture.to_json(), images]
    target = _Target(architecture, method, settings, judge.data, images)
    inherited = float(judge.predict(architecture.genes[None])[0])
    return target.trained(folder, target.start(judge.deployed(architecture), begun, teacher), inherited)


def transferred(
    architecture: Architecture,
    supernet: Supernet,
    data: Data,
    settings: TrainingSettings,
    folder: Path,
    *,
    method: str = "all",
    recalibration_images: int = 512,
) -> TrainedNetwork:
    """A network trained further on other data than its supernet was, maybe of other classes; see `fine_tuned`."""
    from nas.supernet import recalibrate
    from nas.supernet.evaluation import calibration_images
    from nas.supernet.supernet import input_resolution

    target = _Target(architecture, method, settings, data, recalibration_images, other_classes(architecture, data))
    images = calibration_images(data, recalibration_images, input_resolution(supernet.space, architecture))
    network = supernet.extract(architecture)
    with torch_threads(settings.threads):
        recalibrate(network, images)
    begun = [supernet.digest, architecture.to_json(), recalibration_images]
    return target.trained(folder, target.start(network, begun, None), None)


def other_classes(architecture: Architecture, data: Data) -> int | None:
    """Number of the classes of data, where a network tells another number of them."""
    classes, told = getattr(data.task, "classes", None), list(architecture.layers.output_shapes.values())
    differs = classes is not None and len(told) == len(told[0]) == 1 and told != [(classes,)]
    return classes if differs else None


def trained_alone(
    architecture: Architecture, data: Data, settings: TrainingSettings, folder: Path, *, recalibration_images: int = 512
) -> TrainedNetwork:
    """A network trained from nothing, by its own recipe where its space has some.

    Args:
        architecture: of any space.
        data: to train on.
        settings: of the training, but for what its recipe says.
        folder: takes a folder of the training, in which one that was stopped goes on.
        recalibration_images: training images that BatchNorm statistics are taken from, as those of a supernet are.
    """
    network, recipe = architecture, dict[str, Setting]()
    if isinstance(architecture.space, WithRecipe):
        network, recipe = architecture.space.parts(architecture)
    target = _Target(network, "all", by_recipe(settings, recipe), data, recalibration_images)
    return target.trained(folder, None, None)


class _Target:
    """A network that is trained alone: the space of it, with what its method adds, and the settings of its training.

    Args:
        architecture: of the space that was searched.
        method: what is trained.
        settings: of the training, but for that.
        data: to train on.
        images: training images that BatchNorm statistics are taken from.
        classes: that the network shall tell instead of its own.
    """

    def __init__(
        self,
        architecture: Architecture,
        method: str,
        settings: TrainingSettings,
        data: Data,
        images: int,
        classes: int | None = None,
    ) -> None:
        self.architecture, self.data, self.images = architecture, data, images
        self.space, patterns = tuned_by(method, architecture, classes)
        self.settings = dataclasses.replace(settings, trained=patterns)

    def start(self, network: StaticNetwork, begun: Sequence[Any], teacher: Teacher | None) -> Start:
        """The weights of a network as those to begin with; what it lacks, or has of another size, is fresh."""
        from nas.supernet import Supernet
        from nas.supernet.training import Start

        weights, own = Supernet(self.space, seed=self.settings.seed).state_dict(), network.state_dict()
        for name in weights:
            position, _, rest = name.removeprefix("positions.").partition(".body.")
            given = own.get(f"{position}.{rest}")
            if given is not None and given.shape == weights[name].shape:
                weights[name] = given
        return Start(weights, fingerprint([*begun, self.space.fingerprint]), teacher)

    def trained(self, folder: Path, start: Start | None, inherited: float | None) -> TrainedNetwork:
        """The network after its training, which a part of the folder takes."""
        from nas.supernet import SupernetAccuracy, train
        from nas.supernet.memory import predicted_memory

        settings, begun = self.settings, None if start is None else start.identity
        what = fingerprint([self.space.fingerprint, self.data.fingerprint, repr(settings), begun])
        done = train(self.space, self.data, settings, folder / what[:8], start=start)
        judge = SupernetAccuracy(
            self.space,
            done.supernet,
            self.data,
            recalibration_images=self.images,
            threads=settings.threads,
            workers=settings.workers,
        )
        accuracy = float(judge.predict(self.space.network.genes[None])[0])
        seconds = sum(epoch.seconds for epoch in done.history)
        memory = predicted_memory(self.space, settings)
        return TrainedNetwork(self.architecture, judge, accuracy, inherited, seconds, memory)


def tuned_by(method: str, architecture: Architecture, classes: int | None = None) -> tuple[OneNetwork, tuple[str, ...]]:
    """The space of a network as a method of fine-tuning trains it, and the patterns of the parameters that it trains.

    Args:
        method: one of `METHODS_OF_TUNING`.
        architecture: of the network.
        classes: that it shall tell instead of its own.
    """
    space = OneNetwork.of(LiteResiduals.of(architecture) if method == "tinytl" else architecture, classes)
    heads = heads_of(space.network.layers)
    found = [one for given in METHODS_OF_TUNING[method] for one in (heads if given == HEAD else [given])]
    return space, tuple(found)


def heads_of(network: Network) -> list[str]:
    """Patterns of the names of the parameters that give the outputs of a network: those of the last operator that has
    some, at each position that gives one."""
    found = []
    for position in dict.fromkeys(network.outputs.values()):
        owned = [own for own in network[position].program.owned if own]
        found += [f"{position}.{own[0].name.rpartition('.')[0]}.*" for own in owned[-1:]]
    return found


def of_one_network(settings: TrainingSettings, *, epochs: int | None = None) -> TrainingSettings:
    """Settings of a supernet's training as those of a network alone: one network each step, which learns from labels.

    Args:
        settings: of the supernet's.
        epochs: instead of those of the supernet.
    """
    from nas.supernet.losses import Labels
    from nas.supernet.samplers import SinglePath

    epochs = settings.epochs if epochs is None else epochs
    return dataclasses.replace(settings, epochs=epochs, sampler=SinglePath(), loss=Labels(), phases=())


def of_fine_tuning(settings: TrainingSettings, given: FinetuneSettings) -> TrainingSettings:
    """Settings of a supernet's training as those of fine-tuning one of its networks."""
    from nas.supernet.losses import Distillation

    rate = settings.learning_rate / 10 if given.learning_rate is None else given.learning_rate
    alone = of_one_network(settings, epochs=given.epochs)
    return dataclasses.replace(alone, learning_rate=rate, loss=Distillation(given.distillation))


def by_recipe(settings: TrainingSettings, recipe: Mapping[str, Setting]) -> TrainingSettings:
    """Settings of a training with those of a recipe.

    Raises:
        UnknownNameError: the recipe names a setting that trainings do not have.
        InvalidValueError: a setting cannot have the value.
    """
    known = [field.name for field in dataclasses.fields(settings)]
    for name in recipe:
        if name not in known:
            close = closest(name, known)
            hint = f"Did you mean {close!r}?" if close else f"There are {', '.join(known)}."
            raise UnknownNameError(f"`recipe.{name}` is no setting of a training. {hint}")
    try:
        return dataclasses.replace(settings, **recipe)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidValueError(f"A recipe has a value of a wrong kind: {error}.") from error


# -- stages ------------------------------------------------------------------------------------------------------------


def retraining_settings(run: Run, stage: str) -> TrainingSettings:
    """Settings of the training of a stage's networks.

    Raises:
        InvalidValueError: a setting is wrong, or the device cannot be trained on here.
    """
    from nas.supernet import check_device

    training = training_settings(run)
    check_device(training)
    if stage == "finetune":
        return of_fine_tuning(training, run.settings.finetune)
    return of_one_network(training, epochs=run.settings.train_alone.epochs)


def retrain(run: Run, stage: str) -> None:
    """Train the exported networks of all devices alone, as a stage does, and export them as the others were; a network
    of several devices is trained once."""
    settings, images = retraining_settings(run, stage), run.settings.label.recalibration_images
    method = run.settings.finetune.method if stage == "finetune" else "all"
    judge = evaluator_of(run) if stage == "finetune" else None
    training = run.folder / stage / "training"
    for device in run.devices:
        rows, place = [], run.folder / "export" / device.name
        for entry in each(Exports.read(place / "networks.json").networks, f"{stage} {device.name}", "network"):
            with contents_of(place / entry.folder / "architecture.json", "Run `nas export` again."):
                stated = read_json(place / entry.folder / "architecture.json")
                architecture = Architecture.from_json(run.space, stated)
            if judge is None:
                found = trained_alone(architecture, run.data, settings, training, recalibration_images=images)
            else:
                found = fine_tuned(architecture, judge, settings, training, method=method)
            parity = found.export(run.folder / stage / device.name / entry.folder, device)
            rows.append(
                Retrained(
                    folder=entry.folder,
                    row=entry.row,
                    method=method,
                    epochs=settings.epochs,
                    seconds=found.seconds,
                    training_bytes=found.memory.total,
                    validation_accuracy=found.accuracy,
                    inherited_accuracy=found.inherited,
                    parity=parity,
                )
            )
            print(f"{device.name} {rows[-1].sentence(run.data.task.metric)}", flush=True)
        RETRAINED[stage](device=device.name, networks=rows).write(run.folder / stage / device.name / "networks.json")
