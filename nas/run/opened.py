"""A run folder as objects: its space, data, devices, predictors, fronts and exported networks."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_profiles.device import DeviceProfile, load_device
from nas.run.fronts import Front
from nas.run.judged import JudgedPredictor
from nas.run.objectives import task_metric_of
from nas.run.records import About, Exports, Fits, Measured, Verification
from nas.run.run_folder import made_of
from predictors.saving import saved_predictor
from search_spaces.architecture import Architecture
from search_spaces.base.building import build
from search_spaces.base.checked import check
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError, UnknownNameError
from search_spaces.base.storage import read_json, read_records
from search_spaces.base.values import checked_arguments
from search_spaces.loading import load_space
from search_spaces.metric import LATENCY, MEMORY, number_text
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.data import Data
    from nas.supernet import Supernet


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedNetwork:
    """A network that a run has exported.

    Args:
        label: how it compares with the others: by what was measured, once it is verified.
        folder: of its files.
        architecture: of it.
        predicted: values by name, as the search had them; None where one is not known.
        measured: on the device, once it is verified.
        violations: limits that it breaks by what was measured, in words.
    """

    label: str
    folder: Path
    architecture: Architecture
    predicted: Mapping[str, float | None]
    measured: Measured | None = None
    violations: tuple[str, ...] = ()

    def __repr__(self) -> str:
        known = ", ".join(f"{name} {number_text(value)}" for name, value in self.predicted.items() if value is not None)
        measured = "" if self.measured is None else f"; measured latency_ms {number_text(self.measured.latency_ms)}"
        return f"ExportedNetwork({self.label}, {self.folder}: predicted {known}{measured})"


@dataclass(frozen=True)
class OpenedRun:
    """A run folder, read when its parts are first looked at; nothing is written.

    Args:
        folder: of the run.
        space: of the run.
    """

    folder: Path
    space: SearchSpace

    @functools.cached_property
    def data(self) -> Data:
        """The images of the run.

        Raises:
            InvalidValueError: the folder does not say what they are.
        """
        from nas.data import data_of_run

        node = made_of(self.folder).get("data")
        if node is None:
            raise InvalidValueError(f"{self.folder} does not say what images it is of.")
        return data_of_run(node, self.folder)

    @functools.cached_property
    def supernet(self) -> Supernet:
        """The trained supernet."""
        from nas.run.labelling import supernet_of

        return supernet_of(self.space, self.folder)

    @functools.cached_property
    def devices(self) -> dict[str, DeviceProfile]:
        """The devices of the run by name, as far as they are known here and still as they were measured; a warning
        names each other one."""
        named, found = self._named_devices(), dict[str, DeviceProfile]()
        for path in sorted((self.folder / "profile").glob("*/table.jsonl")):
            name = path.parent.name
            try:
                device = named.get(name) or load_device(name)
            except NasError as error:
                log.warning("%s: device %r is left out: %s", self.folder, name, error)
                continue
            conditions, _ = read_records(path)
            if conditions.get("profile") == json.loads(json.dumps(device.conditions())):
                found[name] = device
            else:
                log.warning(
                    "%s: device %r is left out, as it was measured with other settings than its file has now.",
                    self.folder,
                    name,
                )
        return found

    def _named_devices(self) -> dict[str, DeviceProfile]:
        """Devices that the settings of the run named, by their own names; a warning names each that cannot be read."""
        found, names = {}, made_of(self.folder).get("device", [])
        check(names, list[str], f"{self.folder / 'run.json'}: made_of.device", About.again)
        for given in names:
            try:
                device = load_device(given)
                found[device.name] = device
            except NasError as error:
                log.warning("%s: device %r cannot be read: %s", self.folder, given, error)
        return found

    @functools.cached_property
    def predictors(self) -> dict[str, JudgedPredictor]:
        """The fitted predictors by metric; of several devices each is called ``latency_ms@<device>``."""
        found, fits = dict[str, JudgedPredictor](), Fits.read(self.folder / "fit" / "quality.json")
        accuracy = {} if fits.accuracy is None else {"": fits.accuracy}
        for key, metric, there in (
            ("accuracy", None, accuracy),
            ("latency", LATENCY, fits.latency),
            ("memory", MEMORY, fits.memory),
            *((metric.name, metric, there) for metric, there in fits.others()),
        ):
            for device, quality in there.items():
                path = self.folder / "fit" / (f"{device}_{key}.npz" if device else f"{key}.npz")
                predictor = saved_predictor(self.space, file=path)
                of = metric or task_metric_of(predictor)
                name = f"{of.name}@{device}" if len(there) > 1 else of.name
                found[name] = JudgedPredictor.of(predictor, self.space, of, quality, self.devices.get(device))
        for name, one in found.items():
            if one.metric == LATENCY:
                same = [other for other in found.values() if other.device == one.device and other.metric != LATENCY]
                beside = {other.metric.name: other for other in same if other.device is not None}
                found[name] = replace(one, beside=beside)
        return found

    @functools.cached_property
    def fronts(self) -> dict[str, Front]:
        """The front of the last search by device."""
        fronts = [Front.read(path) for path in sorted((self.folder / "search").glob("*.json"))]
        return {
            front.device: replace(front, made_by=self.space, profile=self.devices.get(front.device)) for front in fronts
        }

    @functools.cached_property
    def networks(self) -> dict[str, tuple[ExportedNetwork, ...]]:
        """The exported networks by device, with what was predicted and, once they are verified, measured."""
        found = {}
        for path in sorted((self.folder / "export").glob("*/networks.json")):
            device, verified = path.parent.name, self.folder / "verify" / f"{path.parent.name}.json"
            known = {n.folder: n for n in Verification.read(verified).networks} if verified.exists() else {}
            networks = []
            for one in Exports.read(path).networks:
                place, seen = path.parent / one.folder, known.get(f"export/{device}/{one.folder}")
                networks.append(
                    ExportedNetwork(
                        one.label if seen is None else seen.label,
                        place,
                        Architecture.from_json(self.space, read_json(place / "architecture.json")),
                        one.predicted.values,
                        None if seen is None else seen.measured,
                        () if seen is None else tuple(seen.violations),
                    )
                )
            found[device] = tuple(networks)
        return found


@checked_arguments
def open(folder: str | Path, space: SearchSpace | None = None) -> OpenedRun:
    """A run folder as objects.

    Args:
        folder: of a run.
        space: of the run, where the folder does not say what it is made of.

    Raises:
        InvalidValueError: there is no run, or its space is not known.
        MismatchError: it is of another space.
    """
    path = Path(folder)
    if not (path / "run.json").is_file():
        raise InvalidValueError(f"{path} is no run folder: it holds no run.json. `nas run out={path}` makes one.")
    about = About.read(path / "run.json")
    node = about.made_of.get("space")
    if space is None and node is not None:
        space = build(f"the space of {path}", node, SearchSpace)
    elif space is None:
        try:
            space = load_space(about.space)
        except UnknownNameError as error:
            raise InvalidValueError(f"{path} does not say what its space is made of: give `space`.") from error
    assert space is not None
    if space.fingerprint != about.fingerprint:
        raise MismatchError(
            f"{path} is of space {about.space!r} ({about.fingerprint}), but that of this name is "
            f"{space.name!r} ({space.fingerprint}). Give the space that it was made with as `space`."
        )
    return OpenedRun(path, space)
