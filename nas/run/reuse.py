"""Latency tables and a supernet taken from the folder of another run, so that they are not made again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_profiles.device import DeviceProfile
from nas.core.history import Epoch
from nas.run.labelling import check_trained_on
from nas.run.records import About, Imported, Taken, read_file, read_marker
from nas.run.run_folder import Run, digest
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.storage import read_bytes, read_records, write_bytes, write_json
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.supernet import Supernet
    from nas.supernet.training import Start

log = logging.getLogger(__name__)

PROFILE_FILES = ("networks.jsonl", "table.jsonl")
TRAIN_FILES = ("history.json", "supernet.pt")


def check_reuse(run: Run) -> None:
    """Refuse folders that do not hold what is to be taken from them.

    Raises:
        InvalidValueError: a file is not there.
        MismatchError: it is the folder of another space, or its supernet was trained on other images.
    """
    reuse = run.settings.reuse
    if reuse.profile is not None:
        source = _source(run, "reuse.profile", reuse.profile)
        for device in run.devices:
            _expect(source, f"profile/{device.name}", PROFILE_FILES, "reuse.profile", "profile")
            conditions, _ = read_records(source / "profile" / device.name / "table.jsonl")
            if conditions.get("profile") != json.loads(json.dumps(device.conditions())):
                raise MismatchError(
                    f"`reuse.profile={source}`: device {device.name!r} was measured there with other settings of the "
                    "device. Give the same device file, or profile here."
                )
    if reuse.start is not None:
        start_of(run.space, reuse.start)
    if reuse.train is not None:
        source = _source(run, "reuse.train", reuse.train)
        _expect(source, "train", TRAIN_FILES, "reuse.train", "train")
        trained_on = read_marker(source / "stages" / "train.json").data
        check_trained_on(f"`reuse.train={reuse.train}`: that supernet", trained_on, run.data)


def check_taken(run: Run) -> None:
    """Refuse another run than the one that the measurements or the supernet in the folder come from.

    A folder that has moved, or a copy of it, is the same run.

    Raises:
        MismatchError: what is here was taken from elsewhere, or made here.
    """
    reuse = run.settings.reuse
    if reuse.profile is not None:
        for device in run.devices:
            place = f"profile/{device.name}"
            note = run.folder / place / "taken.json"
            taken = (
                Path(read_file(note, Taken, "profile", Imported.again)["from"]) if note.exists() else "measured here"
            )
            _check_taken(run, place, PROFILE_FILES, "reuse.profile", Path(reuse.profile), taken)
    if reuse.train is not None:
        note = run.folder / "train" / "imported.json"
        taken = Path(Imported.read(note).file).parent.parent if note.exists() else "trained here"
        _check_taken(run, "train", ("supernet.pt",), "reuse.train", Path(reuse.train), taken)


def _check_taken(run: Run, place: str, files: Sequence[str], name: str, source: Path, origin: Path | str) -> None:
    if isinstance(origin, Path) and origin.resolve() == source.resolve():
        return
    for file in files:
        here, there = run.folder / place / file, source / place / file
        if here.exists() and not (there.is_file() and digest(there) == digest(here)):
            was = f"taken from {origin}" if isinstance(origin, Path) else origin
            raise MismatchError(
                f"`{name}={source}`: {here} was {was} and is not overwritten. Leave the setting out, or choose "
                "another folder with `out=`."
            )


def _source(run: Run, name: str, given: str) -> Path:
    source = Path(given)
    if not (source / "run.json").is_file():
        raise InvalidValueError(f"`{name}` must name the folder of a run, but {given} holds no run.json.")
    there = About.read(source / "run.json")
    if there.fingerprint != run.space.fingerprint:
        raise MismatchError(
            f"`{name}={given}` is a run of space {there.space!r} ({there.fingerprint}), but this run's space is "
            f"{run.space.name!r} ({run.space.fingerprint}). Name a run of the same space."
        )
    return source


def _expect(source: Path, place: str, files: tuple[str, ...], name: str, stage: str) -> None:
    for file in files:
        if not (source / place / file).is_file():
            raise InvalidValueError(
                f"`{name}={source}`: {source / place / file} is not there. Run `nas {stage}` there first, with the "
                "same device."
            )


def take_profile(run: Run, device: DeviceProfile) -> bool:
    """Copy a device's measurements from the other run, where this one has none of its own.

    Returns:
        Whether this run has those of the other, to which nothing is added.
    """
    given = run.settings.reuse.profile
    here = run.folder / "profile" / device.name
    if given is None:
        return False
    lacking = [file for file in PROFILE_FILES if not (here / file).exists()]
    if not (here / "taken.json").exists():
        if len(lacking) < len(PROFILE_FILES):
            return False
        write_json(here / "taken.json", Taken({"from": given}))  # first: measurements without it are this run's own
    for file in lacking:
        write_bytes(here / file, read_bytes(Path(given) / "profile" / device.name / file))
    log.info("profile: the measurements on %s come from %s and are kept", device.name, given)
    return True


def take_supernet(run: Run) -> None:
    """Copy the supernet of the other run, where this one has none yet; `train` then keeps it.

    Raises:
        MismatchError: the folder holds a supernet that was trained there.
    """
    given, here = run.settings.reuse.train, run.folder / "train"
    if given is None or ((here / "imported.json").exists() and (here / "supernet.pt").exists()):
        return
    refuse_trained(here)
    source = Path(given) / "train"
    imported = Imported(file=str(source / "supernet.pt"), sha256=digest(source / "supernet.pt"))
    imported.write(here / "imported.json")  # first: a supernet without it counts as trained
    write_json(here / "history.json", read_file(source / "history.json", list[Epoch], "train"))
    write_bytes(here / "supernet.pt", read_bytes(source / "supernet.pt"))


def start_of(space: SearchSpace, given: Supernet | str | Path, *, seed: int = 0) -> tuple[Start, str]:
    """Weights of another supernet, trained or imported, for a training to begin with, and a line that says so.

    Args:
        space: to train; it may tell other classes.
        given: an object, its file or the run folder that it is in.
        seed: of what is made anew.

    Raises:
        StorageError: there is none.
        MismatchError: anything but the number of outputs differs.
    """
    from nas.supernet import Supernet
    from nas.supernet.supernet import read_weights, weights_for
    from nas.supernet.training import Start

    if isinstance(given, Supernet):
        weights, source, identity = dict(given.state_dict()), f"the supernet of {given.space.name!r}", given.digest
    else:
        path = start_file(given)
        weights, source, identity = read_weights(path), str(path), digest(path)
    found, anew = weights_for(space, weights, source, seed=seed)
    head = f"; made anew, as the number of outputs differs: {', '.join(anew)}" if anew else ""
    return Start(found, identity), f"train: begins with {len(found) - len(anew)} tensors of {source}{head}"


def start_file(given: str | Path) -> Path:
    """File of a supernet, given itself or the folder of its run."""
    path = Path(given)
    return path / "train" / "supernet.pt" if path.is_dir() else path


def refuse_trained(folder: Path) -> None:
    """Refuse to put other weights in place of a supernet that was trained here.

    Raises:
        MismatchError: there is one.
    """
    trained = [name for name in ("checkpoint.pt", "supernet.pt") if (folder / name).exists()]
    if trained and not (folder / "imported.json").exists():
        raise MismatchError(
            f"{folder / trained[0]} was trained here and is not overwritten. Choose another folder with `out=`."
        )
