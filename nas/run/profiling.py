"""What to measure on a device so that every network of a space can be predicted there, and measuring it.

Two ways. *In context*: random whole networks that together hold every layer at every position; the device's profiler
splits each one's time by position, so that fusion, caches and format conversions are in the numbers. *Isolated*: every
layer alone, and some whole networks to correct their sums. Both measure further networks, unseen by any fit, once at
the start and once at the end: they judge the predictor, and what differs between the two is the noise floor.

Where the time allowed is too short for all layers, those are measured that a model of layer latencies knows least
about, and the model fills in the others, as the report says. The time holds for layers and whole networks together:
each part has its share of what is left when it begins.

At the end all that was measured is judged (`doubts`): what is doubtful is said, and what is hopeless refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.backends.base import Backend
from hardware_profiles.device import DeviceProfile
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Journal, Measurement, Measurer, reading_seconds
from hardware_profiles.model import Model
from nas.core.progress import duration, progress
from nas.run.settings import ProfileSettings, parse_duration
from predictors.layer_model import MINIMUM_ROWS, LayerModel, next_layers
from predictors.lookup import coverage
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError, MeasurementError, MismatchError, MissingLayerError
from search_spaces.base.storage import RecordLog, read_records, take_records
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace

log = logging.getLogger(__name__)

Key = TypeVar("Key")

FEWEST_TO_FIT, FEWEST_TO_CHECK = 8, 2
ROLES = ("fit", "check", "check again")
PARTS = ("check", "main", "fit", "check again", "memory", "doubtful")
"""Of a profiling, in order; the main one is layers, or networks in context."""
FEWEST_LAYERS = 32
"""With fewer, a model of layer latencies is a rough guess."""
HONEST_SPLIT = 0.25
"""Time is split by position where the parts' sum is within this share of the whole; tiny networks cost too much to
look into."""
ROUNDS = 8
"""A chosen subset of layers is measured in about as many rounds, each chosen with the model of all before."""
REPEATED = 1.2
"""Passes over an item on a quiet device, over those that the profile asks for: some do not agree at once."""
LOOKING = 0.1
"""Share of the budget after which no more than is needed is loaded to see how long all takes."""
LATE = 1.25
"""What takes this factor longer than announced is told."""
FEW = 0.5
"""Rows that other programs disturbed are measured again at once if no more than this share is; else later, by the same
command, when the computer is less busy."""


class NetworkLog:
    """Whole networks with their measurements, by role; a file that survives a kill."""

    def __init__(self, path: Path, space: SearchSpace, conditions: dict[str, Any]) -> None:
        self._log = RecordLog(path, {**conditions, "space": space.fingerprint})
        self._found: dict[tuple[str, Architecture], Measurement] = {}
        self.failed: dict[Architecture, str] = {}

        def take(record: Mapping[str, Any]) -> None:
            architecture = Architecture.from_json(space, record["architecture"])
            if "error" in record:
                self.failed[architecture] = str(record["error"])
            else:
                self._found[str(record["role"]), architecture] = Measurement.from_json(record["measurement"])

        take_records(path, self._log.records, take)

    @staticmethod
    def read(path: Path, space: SearchSpace) -> NetworkLog:
        """Open an existing log, whatever its conditions are."""
        conditions, _ = read_records(path)
        return NetworkLog(path, space, conditions)

    def has(self, role: str, architecture: Architecture) -> bool:
        """Whether a network was measured in a role."""
        return (role, architecture) in self._found

    def add(self, role: str, architecture: Architecture, measurement: Measurement) -> None:
        """Append a row durably; a later row of the same network and role replaces the earlier one."""
        self._log.append({"role": role, "architecture": architecture.to_json(), "measurement": measurement.to_json()})
        self._found[role, architecture] = measurement

    def forget(self, role: str, architecture: Architecture) -> None:
        """Leave a row out of account, so that the network is measured again."""
        del self._found[role, architecture]

    def add_failure(self, architecture: Architecture, reason: str) -> None:
        """Note durably that the device cannot run a network, though it can run each layer of it."""
        self._log.append({"architecture": architecture.to_json(), "error": reason})
        self.failed[architecture] = reason

    def rows(self, role: str) -> dict[Architecture, Measurement]:
        """Networks with their measurements in a role, in the same order whatever that of measuring was."""
        found = [architecture for have, architecture in self._found if have == role]
        return {a: self._found[role, a] for a in sorted(found, key=lambda a: a.genes.tobytes())}

    def _judges(self) -> tuple[list[Architecture], list[Architecture]]:
        """Networks that were measured at the start and at the end, and those of them that nothing disturbed."""
        first, second = self.rows("check"), self.rows("check again")
        both = [architecture for architecture in first if architecture in second]
        return both, [a for a in both if not (first[a].is_disturbed or second[a].is_disturbed)]

    def doubt_of_judges(self) -> str | None:
        """What is doubtful about the networks that judge."""
        both, calm = self._judges()
        if len(calm) == len(both):
            return None
        use = "are left out" if _enough(calm, both) else "judge all the same, as too few others are left"
        return (
            f"Other programs disturbed {len(both) - len(calm)} of the {len(both)} networks that judge a predictor: "
            f"these {use}."
        )

    def judged(self) -> tuple[list[Architecture], NDArray[np.float64], NDArray[np.float64]]:
        """The networks that judge, and their milliseconds at the start and at the end; without those that other
        programs disturbed where that leaves enough.

        Raises:
            MismatchError: fewer than two of them were measured twice.
        """
        first, second = self.rows("check"), self.rows("check again")
        both, calm = self._judges()
        both = calm if _enough(calm, both) else both
        if len(both) < FEWEST_TO_CHECK:
            raise MismatchError(
                f"{self._log.path} holds {len(both)} networks that were measured at the start and at the end, and "
                f"{FEWEST_TO_CHECK} are needed. Run `nas profile` to its end first."
            )
        latencies = [np.array([rows[a].latency_ms for a in both]) for rows in (first, second)]
        return both, latencies[0], latencies[1]


def _enough(calm: Sequence[Architecture], both: Sequence[Architecture]) -> bool:
    return len(calm) >= max(FEWEST_TO_CHECK, len(both) / 2)


def distinct_networks(space: SearchSpace, n: int, rng: np.random.Generator) -> list[Architecture]:
    """The smallest, the biggest and random networks, n in all, or the whole space if it has fewer."""
    found = dict.fromkeys([space.smallest, space.biggest])
    while len(found) < min(n, space.size):
        found.update(dict.fromkeys(Architecture(space, row) for row in space.sample(n, rng)))
    return list(found)[:n]


def split_networks(size: int, fit: int, check: int) -> tuple[int, int, bool]:
    """How many networks are fitted on and judged by, of those that a space of some size has.

    Returns:
        Networks to fit on, networks to judge by, and whether these are others: in a tiny space each does both.
    """
    if size >= fit + check:
        return fit, check, True
    judges = max(FEWEST_TO_CHECK, size * check // (fit + check))
    if size - judges >= FEWEST_TO_FIT:
        return size - judges, judges, True
    return size, min(check, size), False


def covering_networks(
    space: SearchSpace,
    repeats: int,
    rng: np.random.Generator,
    *,
    without: Iterable[Layer] = (),
    most: int | None = None,
) -> Genes:
    """Few random networks that hold every layer at every position so many times, or until there are ``most``.

    Each network is begun with a layer that is still needed most often; then every position, those first that are
    often empty, takes the layer most needed there that agrees with the choices made.

    Args:
        space: of the networks.
        repeats: how many networks hold a layer at a position.
        rng: draws all that is free.
        without: layers that no network may hold.
        most: networks.

    Returns:
        Canonical genes (n, choices), distinct, none with a layer of ``without``.
    """
    forbidden = set(without)
    pairs: dict[tuple[int, Layer | None], int] = {}
    pair_of = np.array(
        [pairs.setdefault((p, layer), len(pairs)) for p in range(len(space.positions)) for layer in space.layers_at(p)]
    )  # index of a position table -> number of the position with its layer
    bad = np.array([layer in forbidden for _, layer in pairs])
    needed = np.array([0 if layer is None or layer in forbidden else repeats for _, layer in pairs])
    columns = [np.array([space.index[name] for name in position.depends_on]) for position in space.positions]
    assignments = [
        np.stack(np.unravel_index(np.arange(end - start), space.cardinalities[genes]), axis=1)
        if len(genes)
        else np.zeros((1, 0), np.int64)
        for genes, start, end in zip(columns, space.offsets, space.offsets[1:], strict=False)
    ]
    tables = [pair_of[start:end] for start, end in zip(space.offsets, space.offsets[1:], strict=False)]
    rarity = np.array([np.mean(needed[table] > 0) for table in tables])
    found: dict[bytes, Genes] = {}

    def compose(wanted: int) -> Genes:
        genes, fixed = space.sample(1, rng)[0], np.zeros(len(space.choices), bool)

        def fix(column: int, value: int) -> None:
            genes[column], fixed[column] = value, True
            condition = space.choices[column].active_when
            if condition is not None and not fixed[space.index[condition.choice]]:
                parent = space.choices[space.index[condition.choice]]
                values = [v for v, name in enumerate(parent.values) if name in condition.values]
                fix(space.index[condition.choice], values[rng.integers(len(values))])

        def take(index: int) -> None:
            p = int(np.searchsorted(space.offsets, index, "right")) - 1
            for column, value in zip(columns[p], assignments[p][index - space.offsets[p]], strict=True):
                fix(int(column), int(value))

        take(int(rng.choice(np.flatnonzero(pair_of == wanted))))
        for p in np.lexsort((rng.random(len(rarity)), rarity)):
            possible = np.all(~fixed[columns[p]] | (assignments[p] == genes[columns[p]]), axis=1)
            need = np.where(possible, needed[tables[p]], 0)
            if need.any():
                take(int(space.offsets[p] + rng.choice(np.flatnonzero(need == need.max()))))
            elif forbidden and (possible := possible & ~bad[tables[p]]).any():
                take(int(space.offsets[p] + rng.choice(np.flatnonzero(possible))))
        return space.canonical(genes[None])

    while needed.any() and (most is None or len(found) < most):
        wanted = int(rng.choice(np.flatnonzero(needed == needed.max())))
        for _ in range(8):
            genes = compose(wanted)
            held = pair_of[space.position_index(genes)[0]]
            if wanted in held and not bad[held].any() and genes.tobytes() not in found:
                found[genes.tobytes()] = genes
                needed[held] = np.maximum(needed[held] - 1, 0)
                break
        else:
            needed[wanted] = 0  # no network has it, none without a forbidden layer, or all that have it were taken
    return np.concatenate(list(found.values())) if found else np.zeros((0, len(space.choices)), np.int16)


@dataclass
class _Clock:
    """The time allowed."""

    budget_s: float
    started: float = dataclasses.field(default_factory=time.perf_counter)

    @property
    def left_s(self) -> float:
        return self.budget_s - (time.perf_counter() - self.started)


@dataclass
class _Part:
    """Measurements of one kind, made one after the other.

    Args:
        items: how many.
        each_s: expected seconds for each.
        least_s: expected seconds for however few: their passes lie apart in time.
    """

    items: int
    each_s: float
    least_s: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.items * self.each_s, self.least_s) if self.items else 0.0


@dataclass(frozen=True)
class _Doubtful:
    """Rows to measure again."""

    layers: list[Layer]
    networks: list[tuple[str, Architecture]]

    def __len__(self) -> int:
        return len(self.layers) + len(self.networks)

    def common_with(self, other: _Doubtful) -> _Doubtful:
        layers, networks = set(other.layers), set(other.networks)
        return _Doubtful([x for x in self.layers if x in layers], [x for x in self.networks if x in networks])


def _is_no_worse(new: Measurement, old: Measurement) -> bool:
    """Whether a measurement may take the place of an earlier one: it was not disturbed more."""
    return (new.disturbed or 0.0) <= (old.disturbed or 0.0) or not new.is_disturbed


class DeviceProfiling:
    """Profiling of one space on one device; `run` does it.

    Args:
        space: whose networks are to be predicted.
        device: to measure on.
        backend: opened for the device.
        settings: how much to measure.
        folder: takes ``table.jsonl`` and ``networks.jsonl``; what they hold is not measured again.
        rng_of: a generator for a purpose.
        say: takes what a person should know before it starts.
    """

    def __init__(
        self,
        space: SearchSpace,
        device: DeviceProfile,
        backend: Backend,
        settings: ProfileSettings,
        folder: Path,
        rng_of: Callable[..., np.random.Generator],
        say: Callable[[str], None],
    ) -> None:
        fit, check, self.unseen = split_networks(space.size, settings.networks, settings.check_networks)
        if not self.unseen or (fit, check) != (settings.networks, settings.check_networks):
            say(
                f"{device.name}: the space has {space.size} networks: {fit} are fitted on and {check} "
                f"{'others judge' if self.unseen else 'of them judge as well'}"
            )
            settings = dataclasses.replace(settings, networks=fit, check_networks=check)
        self.space, self.device, self.backend, self.settings = space, device, backend, settings
        self.folder = folder
        self.fewest = min(FEWEST_TO_FIT, fit)
        self.say = say
        budget = math.inf if settings.budget is None else parse_duration("budget", settings.budget)
        self.clock = _Clock(budget)
        self.in_context = self._in_context(folder / "table.jsonl")
        method = "in context" if self.in_context else "isolated"
        conditions = {"profile": device.conditions(), "environment": backend.environment}
        self.table = LatencyTable(folder / "table.jsonl", device.name, {**conditions, "method": method})
        self.networks = NetworkLog(folder / "networks.jsonl", space, {"device": device.name, **conditions})
        self.journal = Journal(folder / "unfinished.jsonl", conditions)
        rows = [*self.table.values(), *self.networks.rows("fit").values(), *self.networks.rows("check").values()]
        quiet = [m.reference_ms for m in rows if m.reference_ms is not None and not m.is_disturbed]
        best_ms = min(quiet, default=math.inf)
        # Processes that share the work go through it in orders of their own.
        self.rng = rng_of("profile", device.name, os.getpid())
        self.measurer = Measurer(backend, device, self.rng, best_ms=best_ms, journal=self.journal)
        self.parts = dict.fromkeys(PARTS, _Part(0, 0.0))
        self._took = self._expected = 0.0  # seconds of the parts so far
        if self.in_context:
            self._complete_table()
        self._draw_networks(rng_of)

    def _complete_table(self) -> None:
        """Bring the table to what the log of networks holds: a kill came between the two, or the table was lost."""
        for architecture, measurement in self.networks.rows("fit").items():
            layers = self.space.lower(architecture)
            if self.table.has_network(layers):
                continue
            if measurement.positions_ms is None:
                self.networks.forget("fit", architecture)
            else:
                self.table.add_network(layers, measurement)

    def _in_context(self, path: Path) -> bool:
        """Whether networks are split by position: as was begun, as asked for, or where it is honest."""
        if path.exists():
            return bool(read_records(path)[0].get("method") == "in context")
        networks = path.with_name("networks.jsonl")
        if networks.exists():
            rows = [record.get("measurement") for record in read_records(networks)[1] if record.get("role") == "fit"]
            if rows:
                return any(isinstance(row, dict) and "positions_ms" in row for row in rows)
        able, method = self.backend.capabilities.in_context, self.settings.method
        if method == "in_context" and not able:
            raise InvalidValueError(
                f"`profile.method=in_context` needs a backend that can time inside a network, which "
                f"{self.device.backend} of device {self.device.name!r} cannot. Use `profile.method=isolated`."
            )
        if method != "auto" or not able:
            return method == "in_context"
        shares = []
        for architecture in (self.space.smallest, self.space.biggest):
            try:
                loaded = self.backend.load(Model(self.space.lower(architecture)))
                whole = min(loaded.sample(1).own_ms for _ in range(2 + self.device.runs))
                shares.append(sum(loaded.positions_ms(self.device.runs).values()) / whole)
            except MeasurementError:
                continue
        return bool(shares) and all(abs(share - 1) <= HONEST_SPLIT for share in shares)

    def _draw_networks(self, rng_of: Callable[..., np.random.Generator]) -> None:
        """Networks that judge, and networks to fit on; with spares in place of those that the device cannot run."""
        fit, check = self.settings.networks, self.settings.check_networks
        extremes = [self.space.smallest, self.space.biggest]
        drawn = distinct_networks(self.space, 4 * (fit + check), rng_of("networks"))
        others = [architecture for architecture in drawn if architecture not in extremes]
        judges = max(check, round(len(others) * check / (fit + check)))
        self.to_check, self.to_fit = others[:judges], [*extremes, *others[judges:]]
        if not self.unseen:
            self.to_check = self.to_fit = [*dict.fromkeys(extremes), *others]
        self.cover_rng = functools.partial(rng_of, "cover")
        self.spare_rng = functools.partial(rng_of, "spares")

    # -- what to measure -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Measure what is missing.

        Raises:
            InvalidValueError: the budget is too short for what is needed at least.
            MeasurementError: the device runs too few networks.
            DeviceUnavailableError: the device was lost; what was measured is kept.
        """
        layers, doubtful = self.announce()
        with self._part("check") as until:
            self._measure_networks("check", self.to_check, self.settings.check_networks, "networks to judge by", until)
        with self._part("main") as until:
            if self.in_context:
                self._measure_cover(until)
            else:
                self._measure_layers(layers, until)
        with self._part("fit") as until:
            if not self.in_context:
                self._measure_networks("fit", self.to_fit, self.settings.networks, "networks to fit on", until)
        with self._part("check again") as until:
            judges = list(self.networks.rows("check"))
            self._measure_networks("check again", judges, len(judges), "networks to judge by, again", until)
        with self._part("memory"):
            if self.in_context and self.backend.capabilities.memory:
                self._note_memory()
        with self._part("doubtful") as until:
            self._measure_doubtful_again(doubtful, until)
        self.journal.remove()
        self._judge()

    def announce(self) -> tuple[list[Layer], _Doubtful]:
        """Say what is to be measured and about how long it takes.

        Returns:
            Layers to measure alone, and what is to be measured again.

        Raises:
            InvalidValueError: the budget is too short for what is needed at least.
            MeasurementError: the device runs too few networks.
        """
        self._note_unknown()
        cover = self._cover() if self.in_context else []
        layers = [] if self.in_context else self._layers()
        doubtful = self._doubtful()
        self._announce(cover, layers, doubtful)
        return layers, doubtful

    def _note_unknown(self) -> None:
        """Note the layers that a device of somebody else's numbers has none of, in one message.

        Raises:
            MeasurementError: no network can do without them.
        """
        known, layers = self.backend.known_layers(), self.space.distinct_layers
        unknown = [] if known is None else [layer for layer in layers if layer not in known]
        if known is None or not unknown:
            return
        channels = self.space.lower(self.space.smallest)[self.space.positions[0].name].input_shape[0]
        theirs, ours = (
            ", ".join(map(str, sorted({layer.input_shape[1] for layer in some if layer.input_shape[0] == channels})))
            for some in (known, layers)
        )
        message = (
            f"{self.device.name}: its table has {len(layers) - len(unknown)} of the {len(layers)} layers of space "
            f"{self.space.name!r}; resolutions in it: {theirs or 'none'}, in the space: {ours}. "
        )
        lacking = set(unknown)
        if any(lacking.issuperset(self.space.layers_at(p)) for p in range(len(self.space.positions))):
            raise MeasurementError(
                f"{message}No network can do without the others. Choose the space that the table is of with `space=`, "
                "and resolutions that it has with `space.resolutions=`."
            )
        for layer in unknown:
            if layer not in self.failed:
                self.table.add_failure(layer, "the table has no row for it")
        log.warning("%sNo network with one of the others is feasible.", message)

    def _layers(self) -> list[Layer]:
        return list(coverage(self.space, self.table).absent)

    @property
    def failed(self) -> dict[Layer, str]:
        """Layers that the device cannot run."""
        return self.table.failed

    def _cover(self) -> list[Architecture]:
        genes = covering_networks(
            self.space, self.settings.repeats, self.cover_rng(), without=self.failed, most=self.settings.most_networks
        )
        cover = dict.fromkeys([*self.to_fit[:2], *(Architecture(self.space, row) for row in genes)])
        judges = {*self.to_check[: self.settings.check_networks], *self.networks.rows("check")}
        judges = judges if self.unseen else set()
        able = [a for a in cover if a not in judges and self._runs(a)]
        most = self.space.size - self.settings.check_networks if self.unseen else self.space.size
        fewest = max(self.fewest, min(self.settings.networks, most))
        if len(able) < fewest:  # a small space is covered by few
            able += [a for a in self.to_fit if a not in cover and self._runs(a)][: fewest - len(able)]
        if len(able) < fewest:
            able += [a for a in self._spares("fit", fewest) if a not in cover][: fewest - len(able)]
        return able

    def _runs(self, architecture: Architecture) -> bool:
        if architecture in self.networks.failed:
            return False
        return not self.failed or not any(layer in self.failed for layer in self.space.lower(architecture).values())

    # -- how long ------------------------------------------------------------------------------------------------------

    def _announce(self, cover: Sequence[Architecture], layers: Sequence[Layer], doubtful: _Doubtful) -> None:
        """Say what is measured and how long it takes, before it starts.

        Raises:
            InvalidValueError: the budget is too short for what is needed at least.
        """
        check = self.settings.check_networks
        cover = [a for a in cover if not self.networks.has("fit", a)]
        judge = max(0, check - len(self.networks.rows("check")))
        again = max(0, check - len(self.networks.rows("check again")))
        fit = 0 if self.in_context else max(0, self.settings.networks - len(self.networks.rows("fit")))
        models = [Model(self.space.lower(a)) for a in [*self.to_check[:1], *self.to_fit[:4]]]
        network_s = self._seconds(models, False)
        some = np.linspace(0, len(layers) - 1, min(6, len(layers))).astype(int)
        alone = [layers[i] for i in self.rng.permutation(some)]
        in_context = self.in_context and bool(cover)
        layer_s = self._seconds([Model.of_layer(layer) for layer in [*alone, *doubtful.layers[:2]]], False)
        each_s = self._seconds(models[:3], True) if in_context else layer_s
        passes_s = 0.0 if self.backend.estimates else self.device.passes * self.device.pass_seconds
        memory = self._without_memory() if self.in_context and self.backend.capabilities.memory else []
        items = len(cover) or len(layers)
        again_s = len(doubtful.layers) * layer_s + len(doubtful.networks) * network_s
        planned = (
            _Part(judge, network_s, passes_s),
            _Part(items, each_s, passes_s),
            _Part(fit, network_s, passes_s),
            _Part(again, network_s, passes_s),
            _Part(len(memory), self._load_seconds(memory[:: max(1, len(memory) // 3)][:3])),
            _Part(len(doubtful), again_s / max(1, len(doubtful)), passes_s),
        )
        self.parts = dict(zip(PARTS, planned, strict=True))
        total = sum(part.seconds for part in self.parts.values())
        rest = total - self.parts["main"].seconds
        fewest = _Part(min(items, self.fewest if self.in_context else FEWEST_LAYERS), each_s, passes_s)
        least, left = rest + fewest.seconds, self.clock.left_s
        if least > left:
            raise InvalidValueError(
                f"`budget={self.settings.budget}` is too short for {self.device.name!r}: {judge + again + fit} whole "
                f"networks and the fewest {'networks in context' if self.in_context else 'layers'} take about "
                f"{duration(least)}. Give more time, or fewer `profile.networks` and `profile.check_networks`."
            )
        what = (
            f"{len(cover)} networks in context, {judge + again} to judge by"
            if self.in_context
            else f"{len(layers)} layers, {fit + judge + again} whole networks"
        )
        if len(doubtful):
            what += f", {len(doubtful)} measured before, but doubtful"
        boards = f" on {len(self.measurer.boards)} boards" if len(self.measurer.boards) > 1 else ""
        if total > left:
            share = f"about {duration(total)} for all, so as much as {duration(self.clock.budget_s)} allow"
            affordable = int((left - rest) / each_s) if each_s > 0 else items
            self.parts["main"].items = min(items, max(fewest.items, affordable))
        else:
            share = f"about {duration(total)}"
        if any(part.items for part in self.parts.values()):
            self.say(f"{self.device.name}: {what}{boards}: {share}")

    def _seconds(self, models: Sequence[Model], in_context: bool) -> float:
        """About how long it takes to measure one of such models on a quiet device; the first alone tells where looking
        at more would take much of the budget."""
        device, seconds = self.device, list[float]()
        for model in models:
            if seconds and self.clock.left_s < (1 - LOOKING) * self.clock.budget_s:
                break
            try:
                started = time.perf_counter()
                loaded = self.measurer.boards[0].load(model)
                load_s = time.perf_counter() - started
                started = time.perf_counter()
                run_ms = min(loaded.sample(1).own_ms for _ in range(3))
                once_s = (time.perf_counter() - started) / 3 if self.backend.estimates else run_ms / 1e3
                started = time.perf_counter()
                if in_context:
                    loaded.positions_ms(device.runs)
                split_s = time.perf_counter() - started
            except MeasurementError:
                continue
            if self.backend.estimates:
                pass_s, passes = once_s * (2 + device.runs) + split_s, float(device.passes)
            else:
                sample_s = max(device.sample_ms / 1e3, once_s)
                reference_s = reading_seconds(max(device.sample_ms, run_ms))
                pass_s = once_s * (1 + device.warm_up) + device.runs * sample_s + split_s + reference_s
                passes = device.passes * REPEATED
            seconds.append(device.loads * load_s + passes * pass_s)
        return float(np.mean(seconds)) / len(self.measurer.boards) if seconds else 0.0

    def _load_seconds(self, layers: Sequence[Layer]) -> float:
        """About how long it takes to load one of such layers."""
        started, loaded = time.perf_counter(), 0
        for layer in layers:
            with contextlib.suppress(MeasurementError):
                self.measurer.boards[0].load(Model.of_layer(layer))
                loaded += 1
        return (time.perf_counter() - started) / max(1, loaded)

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[float]:
        """Time one part of the plan; gives until when it may take: its share of the time that is left."""
        names = list(self.parts)
        ahead = sum(self.parts[later].seconds for later in names[names.index(name) :])
        expected, started = self.parts[name].seconds, time.perf_counter()
        left = max(0.0, self.clock.left_s)
        yield started + (left * expected / ahead if ahead > 0 else left) if left < math.inf else math.inf
        took, later = time.perf_counter() - started, ahead - expected
        if took > 1 and expected > 0:
            self._took, self._expected = self._took + took, self._expected + expected
        if took > LATE * expected + 1 and later * self._slower > 1:
            more = min(later * self._slower, self.clock.left_s)
            self.say(
                f"{self.device.name}: took {duration(took)} in place of {duration(expected)} so far, because it is "
                f"busy or slow at times; about {duration(max(1.0, more))} more"
            )

    @property
    def _slower(self) -> float:
        """How much longer than expected it takes."""
        return max(1.0, self._took / self._expected) if self._expected > 0 else 1.0

    def _affordable(self) -> int:
        """How many items of the main part fit into the time that is left before the parts after it."""
        names = list(self.parts)
        rest_s = sum(self.parts[name].seconds for name in names[names.index("main") + 1 :])
        each_s = max(self.parts["main"].each_s * self._slower, 1e-6)
        return max(0, int(min(1e9, (self.clock.left_s - rest_s * self._slower) / each_s)))

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _measure_layers(self, layers: list[Layer], until: float) -> None:
        """All of them, or those that tell most as long as the time lasts."""
        target = self.settings.target_error
        if target is None and len(layers) <= self._affordable():
            self._measure_alone(layers, "", until)
            layers = self._layers()
        size = max(FEWEST_LAYERS, min(len(layers), self._affordable()) // ROUNDS)
        while layers and time.perf_counter() < until:
            model = layer_model(self.table) if len(self.table) >= FEWEST_LAYERS else None
            if model is not None:
                if target is not None and model.expected_error(layers) <= target:
                    break
                size = min(size, self._affordable())
                if size < 1:
                    break
            self._measure_alone(next_layers(model, layers, list(self.table), size, self.rng), "", until)
            layers = self._layers()
        if layers and len(self.table) < MINIMUM_ROWS:
            self._out_of_time(f"{len(self.table)} layers", MINIMUM_ROWS)

    def _measure_alone(self, layers: Sequence[Layer], purpose: str, until: float) -> None:
        def is_done(layer: Layer) -> bool:
            self.table.refresh()
            return not purpose and (layer in self.table or layer in self.failed)

        order = [layers[i] for i in self.rng.permutation(len(layers))]
        items = [(layer, Model.of_layer(layer)) for layer in order]
        with self._progress("layers", len(items), "layer") as progress:
            results = self.measurer.measure(items, purpose=f"layer {purpose}", is_done=is_done, until=until)
            for layer, result in results:
                if isinstance(result, MeasurementError) and purpose:
                    self._say_kept(result)
                elif isinstance(result, MeasurementError):
                    self._fail(layer, result)
                elif layer not in self.table or _is_no_worse(result, self.table[layer]):
                    self.table.add(layer, result)
                progress.update()

    def _say_kept(self, error: MeasurementError) -> None:
        """What ran before runs there: a process that was ended, or hung, on measuring it again says nothing else."""
        log.warning("%s: a doubtful measurement could not be made again, and stays: %s", self.device.name, error)

    def _fail(self, layer: Layer, error: MeasurementError) -> None:
        log.warning("%s: %s cannot run there, and no network with it is feasible: %s", self.device.name, layer, error)
        self.table.add_failure(layer, str(error))

    def _measure_cover(self, until: float) -> None:
        while True:  # until no more layers are found not to run, which another cover must do without
            todo = [a for a in self._cover() if not self.networks.has("fit", a)]
            have = len(self.networks.rows("fit"))
            affordable = max(self.fewest - have, self._affordable())
            failures = len(self.failed) + len(self.networks.failed)
            self._measure_whole("fit", todo[:affordable], "networks in context", until=until)
            changed = len(self.failed) + len(self.networks.failed) != failures
            if not changed or len(todo) > affordable or time.perf_counter() > until:
                break
        have = len(self.networks.rows("fit"))
        if have < self.fewest and time.perf_counter() > until:
            self._out_of_time(f"{have} networks in context", self.fewest)
        if have < self.fewest:
            self._too_few("fit", self.fewest)

    def _measure_networks(self, role: str, wanted: Sequence[Architecture], n: int, title: str, until: float) -> None:
        while True:
            able = [a for a in wanted if self._runs(a)]
            if len(able) < n and role != "check again":
                able += self._spares(role, n - len(able))
            todo = [a for a in able[:n] if not self.networks.has(role, a)]
            if not todo or time.perf_counter() > until:
                break
            self._measure_whole(role, todo, title, until=until)
        fewest = self.fewest if role == "fit" else FEWEST_TO_CHECK
        if len(able) < fewest:
            self._too_few(role, fewest)
        have = len(able[:n]) - len(todo)
        if have < min(n, fewest):
            self._out_of_time(f"{have} {title}", fewest)
        if todo:
            log.warning(
                "%s: in the time allowed %d of %d %s were measured", self.device.name, have, len(able[:n]), title
            )

    def _out_of_time(self, what: str, fewest: int) -> None:
        raise MeasurementError(
            f"Device {self.device.name!r}: `budget={self.settings.budget}` was over when {what} were measured, and "
            f"{fewest} are needed at least: it is slower than it seemed at the start, or busy. What was measured is "
            "kept. Run the same command again to continue, close other programs, or give more time."
        )

    def _spares(self, role: str, n: int) -> list[Architecture]:
        """Networks around the layers that do not run, where few of those drawn keep clear of them."""
        genes = covering_networks(self.space, 4 * n, self.spare_rng(role), without=self.failed, most=4 * n)
        taken = {
            *self.to_check,
            *self.to_fit,
            *(a for r in ("fit", "check") if r != role for a in self.networks.rows(r)),
        }
        return [a for a in (Architecture(self.space, row) for row in genes) if a not in taken and self._runs(a)]

    def _too_few(self, role: str, fewest: int) -> None:
        reasons = [*self.networks.failed.values(), *self.failed.values(), "the space has no others"]
        raise MeasurementError(
            f"Device {self.device.name!r} runs {len(self.networks.rows(role))} of the networks drawn, and {fewest} are "
            f"needed: {reasons[0]}"
        )

    def _measure_whole(
        self, role: str, networks: Sequence[Architecture], title: str, purpose: str = "", *, until: float
    ) -> None:
        in_context = self.in_context and role == "fit"
        items = [(a, Model(self.space.lower(a))) for a in networks]
        with self._progress(title, len(items), "network") as progress:
            results = self.measurer.measure(items, purpose=f"{role} {purpose}", in_context=in_context, until=until)
            for architecture, result in results:
                if isinstance(result, MeasurementError) and purpose:
                    self._say_kept(result)
                elif isinstance(result, MeasurementError):
                    self._blame(architecture, result)
                elif not purpose or _is_no_worse(result, self.networks.rows(role)[architecture]):
                    self.networks.add(role, architecture, result)
                    if in_context:
                        self.table.add_network(self.space.lower(architecture), result)
                progress.update()

    def _blame(self, architecture: Architecture, error: MeasurementError) -> None:
        """Find which layers of a network it is that the device cannot run; they are noted as failed."""
        found = False
        for layer in dict.fromkeys(self.space.lower(architecture).values()):
            if layer in self.failed:
                found = True
                continue
            try:
                self.measurer.boards[0].load(Model.of_layer(layer)).sample_ms(1)
            except MeasurementError as alone:
                self._fail(layer, alone)
                found = True
        if not found:
            log.warning("%s cannot run a network, though it runs each layer of it: %s", self.device.name, error)
            self.networks.add_failure(architecture, str(error))

    def _note_memory(self) -> None:
        """What each layer needs alone: inside a network it cannot be told apart."""
        layers = self._without_memory()
        with self._progress("memory of layers", len(layers), "layer") as progress:
            for layer in layers:
                try:
                    memory = self.measurer.boards[0].load(Model.of_layer(layer)).memory_bytes
                except MeasurementError as error:
                    self._fail(layer, error)
                else:
                    self.table.add_memory(layer, memory or 0)
                progress.update()

    def _without_memory(self) -> list[Layer]:
        return [layer for layer in self.space.distinct_layers if not has_memory(self.table, layer)]

    def _doubtful(self) -> _Doubtful:
        """What was measured while the device was slow, or other programs disturbed it, or in too few passes; and what
        did not agree, where so much did not that it is a doubt."""

        def is_doubtful(measurement: Measurement) -> bool:
            few = measurement.passes < self.device.passes and measurement.reference_ms is not None
            return self.measurer.was_slow(measurement) or measurement.is_disturbed or few

        def among(rows: Sequence[tuple[Key, Measurement]]) -> list[Key]:
            many = bool(_disagreement("", [m for _, m in rows]))
            return [key for key, m in rows if is_doubtful(m) or (many and not m.agreed)]

        return _Doubtful(
            among([] if self.in_context else list(self.table.items())),
            among([((role, a), m) for role in ROLES for a, m in self.networks.rows(role).items()]),
        )

    def _measure_doubtful_again(self, earlier: _Doubtful, until: float) -> None:
        """Measure doubtful rows again: those of earlier commands, and of this one if they are few."""
        now = self._doubtful()
        everything = len(self.table) + sum(len(self.networks.rows(role)) for role in ROLES)
        again = now if len(now) <= FEW * everything else now.common_with(earlier)
        more = len(again) - len(again.common_with(earlier))
        if more > 0:
            each_s = {kind: self.parts[name].each_s for kind, name in (("layers", "main"), ("networks", "check"))}
            takes_s = len(again.layers) * each_s["layers"] + len(again.networks) * each_s["networks"]
            takes_s = max(1.0, min(takes_s * self._slower, self.clock.left_s))
            doubtful = f"{more} doubtful measurement" + ("s are" if more > 1 else " is")
            self.say(f"{self.device.name}: {doubtful} made again: about {duration(takes_s)} more")
        if again.layers:
            self._measure_alone(again.layers, "again", until)
        for role in ROLES:
            networks = [a for r, a in again.networks if r == role]
            if networks:
                self._measure_whole(role, networks, "doubtful networks, again", "again", until=until)

    def _judge(self) -> None:
        """Say what is doubtful about all that was measured.

        Raises:
            MeasurementError: it is hopeless, and the settings do not accept that.
        """
        found = doubts(self.space, self.table, self.networks)
        for doubt in found:
            log.warning("%s: %s", self.device.name, doubt.text)
        hopeless = [doubt.text for doubt in found if doubt.is_hopeless]
        if hopeless and not self.settings.accept_disturbed:
            again = len(self._doubtful())
            way_out = (
                f"Close other programs and run the same command again, which makes {again} measurements again"
                if again
                else f"Each single measurement is as it should be: delete {self.folder} to make all of them anew"
            )
            raise MeasurementError(
                f"Device {self.device.name!r} cannot be predicted from what was measured: {' '.join(hopeless)} "
                f"{way_out}; or say `profile.accept_disturbed=true` to go on with it."
            )

    def _progress(self, title: str, total: int, unit: str) -> Any:
        return progress(f"{self.device.name}: {title}", total, unit)


@dataclass(frozen=True)
class Doubt:
    """Why what was measured on a device may be wrong.

    Args:
        text: sentences for a person.
        is_hopeless: a predictor made of it would be wrong.
    """

    text: str
    is_hopeless: bool


MANY, MOST = 0.1, 0.5
"""Shares of rows that do not agree, and differences between two measurements, that are doubtful and hopeless."""
LONGER, SEVERAL = 2.0, 4.0
"""Whole networks over the sum of their layers: doubtful and hopeless."""


def doubts(space: SearchSpace, table: LatencyTable, networks: NetworkLog) -> list[Doubt]:
    """What is doubtful about all that was measured of a space on a device; nothing on a quiet one."""
    whole = [m for role in ROLES for m in networks.rows(role).values()]
    alone = [] if table.conditions.get("method") == "in context" else list(table.values())
    found = [*_disagreement("layers", alone), *_disagreement("whole networks", whole)]
    first, second = networks.rows("check"), networks.rows("check again")
    apart = [_apart(first[a].latency_ms, second[a].latency_ms) for a in first if a in second]
    if apart and (typical := float(np.median(apart))) > MANY:
        found.append(
            Doubt(
                f"Two measurements of one network differ by {typical:.0%} (median of {len(apart)}, measured at the "
                "start and at the end), and no predictor can be better than that.",
                typical > MOST,
            )
        )
    shares = [sum(m.positions_ms.values()) / m.latency_ms for m in networks.rows("fit").values() if m.positions_ms]
    if shares and (typical := float(np.median([_apart(share, np.median(shares)) for share in shares]))) > HONEST_SPLIT:
        found.append(
            Doubt(
                "What the layers of a network take inside it adds up to another share of the network's time in each: "
                f"the shares differ by {typical:.0%} (median of {len(shares)}).",
                False,
            )
        )
    ratios = []
    for role in ROLES:
        for architecture, measurement in networks.rows(role).items():
            layers = list(space.lower(architecture).values())
            if all(layer in table for layer in layers):
                ratios.append(measurement.latency_ms / sum(table[layer].latency_ms for layer in layers))
    if ratios and (typical := float(np.median(ratios))) > LONGER:
        found.append(
            Doubt(
                f"Whole networks take {typical:.1f} times as long as their layers together (median of {len(ratios)}).",
                typical > SEVERAL,
            )
        )
    return found


def _disagreement(what: str, rows: Sequence[Measurement]) -> list[Doubt]:
    wrong, disturbed = sum(not m.agreed for m in rows), sum(m.is_disturbed for m in rows)
    if not rows or wrong / len(rows) <= MANY:
        return []
    why = f", {disturbed} of them because other programs took the CPU away" if disturbed else ""
    return [Doubt(f"{wrong} of {len(rows)} {what} have passes that do not agree{why}.", wrong / len(rows) > MOST)]


def _apart(a: float, b: float) -> float:
    """By how much of it the smaller of two numbers > 0 is below the larger."""
    return max(a, b) / min(a, b) - 1


def has_memory(table: LatencyTable, layer: Layer) -> bool:
    """Whether the memory of a layer is known, be it that it does not run at all."""
    try:
        return layer in table.failed or table.memory_bytes(layer) is not None
    except MissingLayerError:
        return False


def layer_model(table: LatencyTable) -> LayerModel:
    """A model of the layers that a table does not have, fitted on those that it has.

    Raises:
        MismatchError: these are too few.
    """
    if len(table) < MINIMUM_ROWS:
        raise MismatchError(
            f"{table.path} has {len(table)} measured layers, and {MINIMUM_ROWS} are needed to predict the others. Run "
            "`nas profile` to its end first."
        )
    model = LayerModel()
    model.fit(list(table), np.array([measurement.latency_ms for measurement in table.values()]))
    return model
