"""The stages of a run: each reads the files of earlier ones, calls the library and writes its own files, atomically.

A stage that is killed continues when started again; `run_all` skips those whose settings and inputs have not changed.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.device import DeviceProfile
from nas.run.fitting import fit, predictor_digests
from nas.run.fronts import MERGED, Front
from nas.run.labelling import evaluator_of, label_by_supernet, label_conditions, train_supernet, training_settings
from nas.run.network_log import NetworkLog
from nas.run.objectives import exact_predictors, fitted_files, rating_file
from nas.run.profiling import DeviceProfiling, measure
from nas.run.rating import rate_blocks
from nas.run.recipe_search import label_by_training
from nas.run.records import RETRAINED, About, Images, Imported, Verification
from nas.run.retraining import retrain
from nas.run.reuse import refuse_trained, start_file, start_of, take_profile, take_supernet
from nas.run.run_folder import Run, digest
from nas.run.searching import looks_at_images, outside_digests, search_fronts
from search_spaces.base.errors import MismatchError
from search_spaces.base.folders import locked_folder, temporary_folder
from search_spaces.base.storage import set_aside, write_json
from search_spaces.metric import COUNTED

if TYPE_CHECKING:
    from nas.data import Data
    from nas.supernet import SupernetAccuracy
    from predictors import Predictor

log = logging.getLogger(__name__)

REFERENCES = 4
"""Networks of profiling that are measured again on verifying, to see whether the device has changed speed."""


# -- profile -----------------------------------------------------------------------------------------------------------


def profile(run: Run) -> None:
    """Measure the layers of the space, alone or inside networks, and whole networks on every device."""
    for device in run.devices:
        if not take_profile(run, device):
            folder, say = run.folder / "profile" / device.name, functools.partial(print, flush=True)
            measure(run.space, device, run.settings.profile, folder, run.settings.seed, say)


def announced(run: Run, device: DeviceProfile) -> list[str]:
    """Announcement of what is left to measure on a device, and about how long that takes, in words; nothing where it is
    taken from another run. The run folder is only read."""
    if run.settings.reuse.profile is not None:
        return []
    said: list[str] = []
    backend = device.open()
    try:
        with temporary_folder("plan") as folder:
            for file in (run.folder / "profile" / device.name).glob("*.jsonl"):
                shutil.copy(file, folder)
            DeviceProfiling(run.space, device, backend, run.settings.profile, folder, run.rng, said.append).announce()
    finally:
        backend.close()
    return said


# -- train -------------------------------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Train the supernet; imported weights, and those taken from another run, are kept."""
    take_supernet(run)
    settings, start = training_settings(run), None
    if run.settings.reuse.start is not None:
        start, line = start_of(run.space, run.settings.reuse.start, seed=settings.seed)
        print(line, flush=True)
    train_supernet(run.space, run.data, settings, run.folder / "train", start)


def import_weights(run: Run, checkpoint: Path) -> str:
    """Put published once-for-all weights where the later stages look for the supernet; `train` then keeps them.

    Returns:
        What a person wants to know about it.

    Raises:
        MismatchError: the folder holds a supernet that was trained there, or the weights do not fit the space.
    """
    from nas.supernet.once_for_all import import_ofa

    folder = run.folder / "train"
    refuse_trained(folder)
    imported = import_ofa(run.space, checkpoint)
    with locked_folder(run.folder, run.command):
        run.claim_folder()
        about = Imported(file=str(checkpoint), sha256=digest(checkpoint), unused=imported.unused)
        (run.folder / "stages" / "train.json").unlink(missing_ok=True)
        about.write(folder / "imported.json")  # first: a supernet without it counts as trained
        write_json(folder / "history.json", [])
        imported.supernet.save(folder / "supernet.pt")
    lines = [f"{imported.tensors} tensors of {checkpoint} imported", f"wrote {folder / 'supernet.pt'}"]
    if imported.unused:
        lines.insert(1, f"{len(imported.unused)} tensors have no place in the space: {', '.join(imported.unused)}")
    return "\n".join(lines)


# -- label -------------------------------------------------------------------------------------------------------------


def label(run: Run) -> None:
    """Rate the blocks of the supernet, and make accuracies of subnets, through it or by training them."""
    if run.settings.rates_blocks:
        rate_blocks(run)
    if _makes_labels(run):
        (label_by_training if run.settings.label.by == "training" else label_by_supernet)(run)


# -- export ------------------------------------------------------------------------------------------------------------


def export(run: Run) -> None:
    """Write chosen networks of every front as ONNX with trained weights, parity with the supernet checked.

    With `export.weights=random` nothing is trained or looked at.
    """
    from nas.run.export import export_device

    evaluator = evaluator_of(run) if _exports_trained(run) else None
    judge, asked = _judge(run, evaluator), run.settings.label.recalibration_images
    if evaluator is not None and evaluator.recalibration_images < asked:
        log.warning(
            "label.recalibration_images=%d: all %d training images are used", asked, evaluator.recalibration_images
        )
    for device in run.devices:
        path = run.folder / "search" / f"{device.name}.json"
        front = Front.read(path)
        _check_searcher(run, path, front.searcher)
        folder = run.folder / "export" / device.name
        partial = folder.with_name(f".{device.name}.partial")
        if (partial / "networks.json").exists():  # killed when it was whole, so what is not ours may be in it already
            _keep_others(partial, folder)
        shutil.rmtree(partial, ignore_errors=True)
        export_device(front, run.space, evaluator, judge, device, run.settings.export, partial)
        _keep_others(folder, partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def _keep_others(folder: Path, new: Path) -> None:
    """Move what no export has made from a folder to another one."""
    new.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir() if folder.is_dir() else ():
        made_here = entry.name == "networks.json" or (entry / "architecture.json").exists()
        if not made_here and not (new / entry.name).exists():
            entry.rename(new / entry.name)


def _judge(run: Run, evaluator: SupernetAccuracy | None) -> Predictor | None:
    """Accuracies through the supernet; each is kept, so that no other device and no later start evaluates it again."""
    if evaluator is None:
        return None
    from nas.core.evaluations import RecordedPredictor, recorded_conditions

    path, conditions = run.folder / "export" / "accuracy.jsonl", label_conditions(run)
    set_aside(path, recorded_conditions(run.space, evaluator, conditions))
    return RecordedPredictor(run.space, evaluator, path, conditions)


def _check_searcher(run: Run, path: Path, found: str) -> None:
    """Refuse a front that another searcher has found than the settings name; a merged front is anyone's."""
    if found not in (run.searcher_name, MERGED):
        raise MismatchError(
            f"{path} is the front of the last search here, by {found}, but `searcher` is {run.searcher_name}. Export "
            f"it with `searcher={found}`, or run `nas search searcher={run.searcher_name}` again."
        )


# -- finetune, train-alone ---------------------------------------------------------------------------------------------


def _retrained_files(run: Run, device: str) -> list[tuple[str, Path]]:
    """Stages that have trained the exported networks of a device alone, with the file that says which."""
    files = [(stage, run.folder / stage / device / "networks.json") for stage in RETRAINED]
    return [(stage, file) for stage, file in files if file.exists()]


def _of_retraining(stage: str, settings: Callable[[Run], Any], *, inherits: bool) -> Stage:
    """A stage that trains the exported networks alone.

    Args:
        stage: its name.
        settings: its own.
        inherits: whether it begins with the weights of the supernet.
    """
    return Stage(
        functools.partial(retrain, stage=stage),
        lambda run: [
            run.data.fingerprint,
            run.settings.training,
            dataclasses.asdict(settings(run)),
            run.settings.label.recalibration_images,
            [d.conditions() for d in run.devices],
        ],
        lambda run: [
            *([run.folder / "train" / "supernet.pt"] if inherits else []),
            *run.per_device("export/{}/networks.json"),
            *run.per_device("export/{}"),
        ],
        lambda run: [*run.per_device(f"{stage}/{{}}/networks.json"), *run.per_device(f"{stage}/{{}}")],
        uses_data=_always,
        uses_supernet=lambda run: inherits,
        sealed=True,
        asked=True,
    )


# -- verify, report ----------------------------------------------------------------------------------------------------


def verify(run: Run) -> None:
    """Measure the exported networks on their devices, and their accuracy on the test part, used here alone."""
    from nas.run.verify import verify_device

    data = run.data if _exports_trained(run) else None
    workers = 0 if data is None else training_settings(run).workers
    for device in run.devices:
        profiled = run.folder / "profile" / device.name / "networks.jsonl"
        rows = NetworkLog.read(profiled, run.space).rows("check") if profiled.exists() else {}
        references = dict(sorted(rows.items(), key=lambda row: row[1].is_disturbed)[:REFERENCES])
        folder, rng = run.folder / "export" / device.name, run.rng("verify", device.name)
        alone = {stage: file.parent for stage, file in _retrained_files(run, device.name)}
        exact = exact_predictors(run, device)
        result = verify_device(
            run.space, data, device, folder, references, rng, exact, workers=workers, retrained=alone
        )
        result.write(run.folder / "verify" / f"{device.name}.json")


def report(run: Run) -> None:
    """Write the report and its figures."""
    from nas.report.page import write_report

    tested = Verification.read(run.per_device("verify/{}.json")[0])
    if tested.is_trained:
        path = run.folder / "run.json"
        dataclasses.replace(About.read(path), data=_images(run.data)).write(path)
    exact = [*COUNTED, *(name for name, own in run.settings.own.items() if own.function is not None)]
    names, buffer = [device.name for device in run.devices], run.settings.buffer_kib
    write_report(run.folder, run.space, run.folder / "report", names, exact, buffer)


def _images(data: Data) -> Images:
    """Numbers of images of a run's data, in all and of each class."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test_part()}
    of_classes = getattr(data.task, "counts", None)  # which tasks without classes lack
    return Images(
        name=data.name,
        train=len(parts["train"]),
        validation=len(parts["validation"]),
        test=len(parts["test"]),
        kind=data.kind,
        names=getattr(data.task, "names", ()),
        per_class={} if of_classes is None else {name: of_classes(part) for name, part in parts.items()},
    )


# -- the stages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A stage with what it depends on, settings and files that it reads, and what it writes.

    Args:
        run: does it.
        depends_on: settings, JSON-able.
        reads: files, and folders for all files in them, that must be there.
        writes: files, and folders for all files in them; what is lost of them is made again.
        uses_data: whether it looks at the images, which depends on the settings.
        uses_supernet: whether it judges by the supernet, and so must see the images that this was trained on.
        sealed: whether later stages refuse files of it that were changed since.
        appends: whether its files are logs, of which only the damaged rows are made again; they are never removed.
        takes_part: whether it goes on with a part of what it reads.
        asked: whether `nas run` leaves it out until it was once run by itself.
    """

    run: Callable[[Run], None]
    depends_on: Callable[[Run], Any]
    reads: Callable[[Run], Sequence[Path]]
    writes: Callable[[Run], Sequence[Path]]
    uses_data: Callable[[Run], bool] = lambda run: False
    uses_supernet: Callable[[Run], bool] = lambda run: False
    appends: bool = False
    sealed: bool = False
    takes_part: bool = False
    asked: bool = False


def _always(run: Run) -> bool:
    return True


def _searched_by_supernet(run: Run) -> bool:
    return run.settings.search.accuracy == "supernet"


def _exports_trained(run: Run) -> bool:
    return run.settings.export.weights == "supernet"


def _profile_files(run: Run) -> list[Path]:
    return run.per_device("profile/{}/table.jsonl") + run.per_device("profile/{}/networks.jsonl")


def _buffer(run: Run) -> list[float]:
    """The on-chip buffer, where one is set: without it stages have the fingerprints that they had before there was
    one."""
    return [run.settings.buffer_kib] if run.settings.buffer_kib else []


def _start(run: Run) -> list[str]:
    """Digest of the weights that the training begins with, where there are some."""
    given = run.settings.reuse.start
    return [] if given is None else [digest(start_file(given))]


def _accuracy_files(run: Run) -> list[Path]:
    """The accuracy predictor that a search needs, or that there is."""
    file = run.folder / "fit" / "accuracy.npz"
    return [file] if file.exists() or (run.settings.needs_accuracy and not _searched_by_supernet(run)) else []


def _makes_labels(run: Run) -> bool:
    """True if labelling makes accuracies: unless the blocks alone are rated."""
    settings, there = run.settings, (run.folder / "label" / "accuracy.jsonl").exists()
    return settings.needs_labels or there or not settings.rates_blocks


def _labels_by_supernet(run: Run) -> bool:
    return run.settings.rates_blocks or run.settings.label.by == "supernet"


def _label_files(run: Run) -> list[Path]:
    files = [run.folder / "label" / "accuracy.jsonl"] if _makes_labels(run) else []
    return [*files, *([rating_file(run.folder)] if run.settings.rates_blocks else [])]


def unneeded(run: Run) -> set[str]:
    """Stages that `nas run` leaves out, as its objectives, limits and export do not need them.

    What the folder holds of them is kept up to date all the same.
    """
    folder, settings = run.folder, run.settings
    profile = "file" not in settings.latency or any(path.exists() for path in _profile_files(run))
    label = settings.needs_labels or settings.rates_blocks or (folder / "label" / "accuracy.jsonl").exists()
    looks = _searched_by_supernet(run) or settings.reuse.train is not None
    train = (label and _labels_by_supernet(run)) or looks or (folder / "train" / "supernet.pt").exists()
    needed = {"profile": profile, "train": train, "label": label}
    needed |= dict.fromkeys(("export", "verify", "report"), train or not _exports_trained(run))
    needed |= {name: (folder / name).exists() for name, stage in STAGES.items() if stage.asked}
    return {stage for stage, is_needed in needed.items() if not is_needed}


STAGES: dict[str, Stage] = {
    "profile": Stage(
        profile,
        lambda run: [[d.conditions() for d in run.devices], dataclasses.asdict(run.settings.profile)],
        lambda run: [],
        _profile_files,
        appends=True,
    ),
    "train": Stage(
        train,
        lambda run: [run.data.fingerprint, run.settings.training, *_start(run)],
        lambda run: [],
        lambda run: [run.folder / "train" / "supernet.pt", run.folder / "train" / "history.json"],
        uses_data=_always,
        sealed=True,
    ),
    "label": Stage(
        label,
        lambda run: [
            run.data.fingerprint,
            run.settings.label.identity(),
            *([] if run.settings.label.by == "supernet" else [run.settings.training, run.settings.train_alone.epochs]),
            *([run.settings.training] if run.settings.rates_blocks else []),
        ],
        lambda run: [run.folder / "train" / "supernet.pt"] if _labels_by_supernet(run) else [],
        _label_files,
        appends=True,
        uses_data=_always,
        uses_supernet=_labels_by_supernet,
    ),
    "fit": Stage(
        fit,
        lambda run: [
            [d.name for d in run.devices],
            run.settings.label.identity(),
            dataclasses.asdict(run.settings.profile),
            run.settings.accuracy,
            run.settings.latency,
            *predictor_digests(run),
        ],
        lambda run: [
            *([] if "label" in unneeded(run) or not _makes_labels(run) else [run.folder / "label" / "accuracy.jsonl"]),
            *([] if "profile" in unneeded(run) else _profile_files(run)),
        ],
        lambda run: [
            run.folder / "fit" / "quality.json",
            run.folder / "fit" / "accuracy.npz",
            *fitted_files(run),
        ],
        sealed=True,
        takes_part=True,
    ),
    "search": Stage(
        search_fronts,
        lambda run: [
            run.settings.searcher,
            dataclasses.asdict(run.settings.search),
            run.settings.limit,
            run.settings.metrics,
            outside_digests(run),
            [[d.conditions(), d.memory_limit_bytes] for d in run.devices],
            run.data.fingerprint if looks_at_images(run) else None,
            run.settings.label.recalibration_images if _searched_by_supernet(run) else None,
            *_buffer(run),
        ],
        lambda run: [
            *_accuracy_files(run),
            *([rating_file(run.folder)] if run.settings.rates_blocks else []),
            *run.per_device("fit/{}_latency.npz"),
            *filter(Path.exists, fitted_files(run)[len(run.devices) :]),  # others than latency
            *([run.folder / "train" / "supernet.pt"] if _searched_by_supernet(run) else []),
        ],
        lambda run: (
            run.per_device("search/{}.json")
            + run.per_device(f"search/{{}}/{run.searcher_name}.json")
            + run.per_device(f"search/{{}}/{run.searcher_name}.npz")
            + (run.per_device("search/{}/random.npz") if run.settings.search.baseline else [])
        ),
        uses_data=looks_at_images,
        uses_supernet=_searched_by_supernet,
    ),
    "export": Stage(
        export,
        lambda run: [
            {k: v for k, v in dataclasses.asdict(run.settings.export).items() if (k, v) != ("weights", "supernet")},
            run.settings.label.recalibration_images,
            run.data.fingerprint if _exports_trained(run) else None,
            [d.conditions() for d in run.devices],
        ],
        lambda run: [
            *([run.folder / "train" / "supernet.pt"] if _exports_trained(run) else []),
            *run.per_device("search/{}.json"),
        ],
        lambda run: [
            *run.per_device("export/{}/networks.json"),
            *run.per_device("export/{}"),
            run.folder / "export" / "accuracy.jsonl",
        ],
        uses_data=_exports_trained,
        uses_supernet=_exports_trained,
        sealed=True,
    ),
    "finetune": _of_retraining("finetune", lambda run: run.settings.finetune, inherits=True),
    "train-alone": _of_retraining("train-alone", lambda run: run.settings.train_alone, inherits=False),
    "verify": Stage(
        verify,
        lambda run: [
            *([run.data.fingerprint, run.data.test_fingerprint] if _exports_trained(run) else []),
            [d.conditions() for d in run.devices],
            *_buffer(run),
        ],
        lambda run: [
            *run.per_device("export/{}/networks.json"),
            *run.per_device("export/{}"),
            *filter(Path.exists, run.per_device("profile/{}/networks.jsonl")),
            *(file.parent for device in run.devices for _, file in _retrained_files(run, device.name)),
        ],
        lambda run: run.per_device("verify/{}.json"),
        uses_data=_exports_trained,
        uses_supernet=_exports_trained,
        sealed=True,
    ),
    "report": Stage(
        report,
        lambda run: [[d.name for d in run.devices], *_buffer(run)] if _buffer(run) else [d.name for d in run.devices],
        lambda run: [
            *filter(
                Path.exists,
                [
                    run.folder / "train" / "history.json",
                    run.folder / "label" / "recalibration.json",
                    *run.per_device("fit/{}_latency.npz"),
                ],
            ),
            run.folder / "fit" / "quality.json",
            *run.per_device("search/{}.json"),
            *run.per_device("verify/{}.json"),
        ],
        lambda run: [run.folder / "report"],
    ),
}
