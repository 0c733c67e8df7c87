"""What to measure on a device so that every network of a space can be predicted there, and measuring it.

Two ways. *In context*: random whole networks that together hold every layer at every position; the device's profiler
splits each one's time by position, so that fusion, caches and format conversions are in the numbers. *Isolated*: every
layer alone, and some whole networks to correct their sums. Both measure further networks, unseen by any fit, once at
the start and once at the end: they judge the predictor, and what differs between the two is the noise floor.

Where the time allowed is too short for all layers, those are measured that a model of layer latencies knows least
about, and the model fills in the others, as the report says.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.backends.base import Backend
from hardware_profiles.device import DeviceProfile
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import Journal, Measurement, Measurer
from hardware_profiles.model import Model
from nas.progress import duration, progress
from nas.settings import ProfileSettings, parse_duration
from predictors.layer_model import LayerModel, next_layers
from predictors.lookup import coverage
from search_spaces.architecture import Architecture, Genes
from search_spaces.errors import InvalidValueError, MeasurementError, MismatchError, MissingLayerError
from search_spaces.layers import Layer
from search_spaces.space import SearchSpace
from search_spaces.storage import RecordLog, read_records, take_records

log = logging.getLogger(__name__)

FEWEST_TO_FIT, FEWEST_TO_CHECK = 8, 2
FEWEST_LAYERS = 32
"""With fewer, a model of layer latencies is a rough guess."""
HONEST_SPLIT = 0.25
"""Time is split by position where the parts' sum is within this share of the whole; tiny networks cost too much to
look into."""
ROUNDS = 8
"""A chosen subset of layers is measured in about as many rounds, each chosen with the model of all before."""


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

    def judged(self) -> tuple[list[Architecture], NDArray[np.float64], NDArray[np.float64]]:
        """The networks that judge, and their milliseconds at the start and at the end.

        Raises:
            MismatchError: fewer than two of them were measured twice.
        """
        first, second = self.rows("check"), self.rows("check again")
        both = [architecture for architecture in first if architecture in second]
        if len(both) < FEWEST_TO_CHECK:
            raise MismatchError(
                f"{self._log.path} holds {len(both)} networks that were measured at the start and at the end, and "
                f"{FEWEST_TO_CHECK} are needed. Run `nas profile` to its end first."
            )
        latencies = [np.array([rows[a].latency_ms for a in both]) for rows in (first, second)]
        return both, latencies[0], latencies[1]


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
        best_ms = min((m.reference_ms for m in rows if m.reference_ms is not None), default=math.inf)
        # Processes that share the work go through it in orders of their own.
        self.rng = rng_of("profile", device.name, os.getpid())
        self.measurer = Measurer(backend, device, self.rng, best_ms=best_ms, journal=self.journal)
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
                whole = min(loaded.sample_ms(1) for _ in range(2 + self.device.runs))
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
        self._note_unknown()
        cover = self._cover() if self.in_context else []
        layers = [] if self.in_context else self._layers()
        rest_s, each_s = self._announce(cover, layers)

        self._measure_networks("check", self.to_check, self.settings.check_networks, "networks to judge by")
        if self.in_context:
            self._measure_cover(rest_s, each_s)
        else:
            self._measure_layers(layers, rest_s, each_s)
            self._measure_networks("fit", self.to_fit, self.settings.networks, "networks to fit on")
        judges = list(self.networks.rows("check"))
        self._measure_networks("check again", judges, len(judges), "networks to judge by, again")
        self._measure_slow_again()
        if self.in_context and self.backend.capabilities.memory:
            self._note_memory()
        self.journal.remove()

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

    def _announce(self, cover: Sequence[Architecture], layers: Sequence[Layer]) -> tuple[float, float]:
        """Say what is measured and how long it takes, before it starts.

        Returns:
            Seconds for what is measured besides the cover or the layers after them, and for each one of these.
        """
        check = self.settings.check_networks
        cover = [a for a in cover if not self.networks.has("fit", a)]
        judge = max(0, check - len(self.networks.rows("check")))
        again = max(0, check - len(self.networks.rows("check again")))
        fit = 0 if self.in_context else max(0, self.settings.networks - len(self.networks.rows("fit")))
        network_s = self._seconds([Model(self.space.lower(a)) for a in self.to_fit[:3]], self.in_context)
        alone = [layers[i] for i in np.linspace(0, len(layers) - 1, min(4, len(layers))).astype(int)]
        each_s = network_s if self.in_context else self._seconds([Model.of_layer(layer) for layer in alone], False)
        rest_s = (fit + again) * network_s
        items = len(cover) or len(layers)
        total = judge * network_s + items * each_s + rest_s
        least = judge * network_s + min(items, self.fewest if self.in_context else FEWEST_LAYERS) * each_s + rest_s
        if least > self.clock.budget_s:
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
        boards = f" on {len(self.measurer.boards)} boards" if len(self.measurer.boards) > 1 else ""
        if total > self.clock.budget_s:
            share = f"about {duration(total)} for all, so as much as {duration(self.clock.budget_s)} allow"
        else:
            share = f"about {duration(total)}"
        if items or judge or again or fit:
            self.say(f"{self.device.name}: {what}{boards}: {share}")
        return rest_s, each_s

    def _seconds(self, models: Sequence[Model], in_context: bool) -> float:
        """About how long it takes to measure one of such models."""
        device, seconds = self.device, []
        for model in models:
            try:
                started = time.perf_counter()
                loaded = self.measurer.boards[0].load(model)
                load_s = time.perf_counter() - started
                run_s = min(loaded.sample_ms(1), loaded.sample_ms(1)) / 1e3 if not self.backend.estimates else 0.0
                started = time.perf_counter()
                if in_context:
                    loaded.positions_ms(device.runs)
                split_s = time.perf_counter() - started
            except MeasurementError:
                continue
            sample_s = max(device.sample_ms / 1e3, run_s) if not self.backend.estimates else 0.0
            reference_s = 0.0 if self.backend.estimates else 2e-3
            pass_s = run_s * (1 + device.warm_up) + device.runs * sample_s + split_s + reference_s
            seconds.append(device.loads * load_s + device.passes * pass_s)
        return float(np.mean(seconds)) / len(self.measurer.boards) if seconds else 0.0

    def _affordable(self, rest_s: float, each_s: float) -> int:
        """How many items of a duration fit into the time that is left before the rest."""
        return max(0, int(min(1e9, (self.clock.left_s - rest_s) / max(each_s, 1e-6))))

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _measure_layers(self, layers: list[Layer], rest_s: float, each_s: float) -> None:
        """All of them, or those that tell most as long as the time lasts."""
        target = self.settings.target_error
        if target is None and len(layers) <= self._affordable(rest_s, each_s):
            self._measure_alone(layers, "")
            return
        size = max(FEWEST_LAYERS, min(len(layers), self._affordable(rest_s, each_s)) // ROUNDS)
        while layers:
            model = layer_model(self.table) if len(self.table) >= FEWEST_LAYERS else None
            if model is not None:
                if target is not None and model.expected_error(layers) <= target:
                    break
                size = min(size, self._affordable(rest_s, each_s))
                if size < 1:
                    break
            self._measure_alone(next_layers(model, layers, list(self.table), size, self.rng), "")
            layers = self._layers()

    def _measure_alone(self, layers: Sequence[Layer], purpose: str) -> None:
        def is_done(layer: Layer) -> bool:
            self.table.refresh()
            return not purpose and (layer in self.table or layer in self.failed)

        order = [layers[i] for i in self.rng.permutation(len(layers))]
        items = [(layer, Model.of_layer(layer)) for layer in order]
        with self._progress("layers", len(items), "layer") as progress:
            for layer, result in self.measurer.measure(items, purpose=f"layer {purpose}", is_done=is_done):
                if isinstance(result, MeasurementError):
                    self._fail(layer, result)
                else:
                    self.table.add(layer, result)
                progress.update()

    def _fail(self, layer: Layer, error: MeasurementError) -> None:
        log.warning("%s: %s cannot run there, and no network with it is feasible: %s", self.device.name, layer, error)
        self.table.add_failure(layer, str(error))

    def _measure_cover(self, rest_s: float, each_s: float) -> None:
        while True:  # until no more layers are found not to run, which another cover must do without
            todo = [a for a in self._cover() if not self.networks.has("fit", a)]
            have = len(self.networks.rows("fit"))
            affordable = max(self.fewest - have, self._affordable(rest_s, each_s))
            failures = len(self.failed) + len(self.networks.failed)
            self._measure_whole("fit", todo[:affordable], "networks in context")
            if len(self.failed) + len(self.networks.failed) == failures or len(todo) > affordable:
                break
        if len(self.networks.rows("fit")) < self.fewest:
            self._too_few("fit", self.fewest)

    def _measure_networks(self, role: str, wanted: Sequence[Architecture], n: int, title: str) -> None:
        while True:
            able = [a for a in wanted if self._runs(a)]
            if len(able) < n and role != "check again":
                able += self._spares(role, n - len(able))
            todo = [a for a in able[:n] if not self.networks.has(role, a)]
            if not todo:
                break
            self._measure_whole(role, todo, title)
        fewest = self.fewest if role == "fit" else FEWEST_TO_CHECK
        if len(able) < fewest:
            self._too_few(role, fewest)

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

    def _measure_whole(self, role: str, networks: Sequence[Architecture], title: str, purpose: str = "") -> None:
        in_context = self.in_context and role == "fit"
        items = [(a, Model(self.space.lower(a))) for a in networks]
        with self._progress(title, len(items), "network") as progress:
            results = self.measurer.measure(items, purpose=f"{role} {purpose}", in_context=in_context)
            for architecture, result in results:
                if isinstance(result, MeasurementError):
                    self._blame(architecture, result)
                else:
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
        layers = [layer for layer in self.space.distinct_layers if not has_memory(self.table, layer)]
        with self._progress("memory of layers", len(layers), "layer") as progress:
            for layer in layers:
                try:
                    memory = self.measurer.boards[0].load(Model.of_layer(layer)).memory_bytes
                except MeasurementError as error:
                    self._fail(layer, error)
                else:
                    self.table.add_memory(layer, memory or 0)
                progress.update()

    def _measure_slow_again(self) -> None:
        """What was measured while the device was slow is measured again."""
        slow = [layer for layer, m in self.table.items() if self.measurer.was_slow(m)]
        if slow:
            self._measure_alone(slow, "again")
        for role in ("fit", "check", "check again"):
            slow_ones = [a for a, m in self.networks.rows(role).items() if self.measurer.was_slow(m)]
            if slow_ones:
                self._measure_whole(role, slow_ones, "networks measured while the device was slow", "again")

    def _progress(self, title: str, total: int, unit: str) -> Any:
        return progress(f"{self.device.name}: {title}", total, unit)


def has_memory(table: LatencyTable, layer: Layer) -> bool:
    """Whether the memory of a layer is known, be it that it does not run at all."""
    try:
        return layer in table.failed or table.memory_bytes(layer) is not None
    except MissingLayerError:
        return False


def layer_model(table: LatencyTable) -> LayerModel:
    """A model of the layers that a table does not have, fitted on those that it has."""
    model = LayerModel()
    model.fit(list(table), np.array([measurement.latency_ms for measurement in table.values()]))
    return model
