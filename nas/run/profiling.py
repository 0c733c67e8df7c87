"""Profiling: what to measure on a device so that every network of a space can be predicted there.

Two ways. *In context*: random whole networks that together hold every layer at every position; the device's profiler
splits each one's time by position, so that fusion, caches and format conversions are in the numbers. *Isolated*: every
layer alone, and some whole networks to correct their sums. Both measure further networks, unseen by any fit, once at
the start and once at the end: they judge the predictor, and what differs between the two is the noise floor.

Where the time allowed is too short for all layers, those are measured that a model of layer latencies knows least
about, and the model fills in the others, as the report says. The time holds for layers and whole networks together:
each part has its share of what is left when it begins.

At the end all that was measured is judged (`nas.run.doubts`): what is doubtful is said, and what is hopeless refused.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hardware_profiles.backends.base import Backend, Loaded, Values, reported_values
from hardware_profiles.device import DeviceProfile
from hardware_profiles.latency_table import LatencyTable, stated
from hardware_profiles.measure import Journal, Measurement, Measurer, reading_seconds, typical_values
from hardware_profiles.model import Model
from nas.core.progress import duration, progress
from nas.run.budget import PARTS, BudgetPart, ProfilingBudget
from nas.run.doubts import HONEST_SPLIT, disagreement, doubts
from nas.run.network_log import ROLES, NetworkLog
from nas.run.networks import FEWEST_TO_CHECK, FEWEST_TO_FIT, covering_networks, distinct_networks, split_networks
from nas.run.run_folder import generator
from nas.run.settings import ProfileSettings, parse_duration
from predictors.layer_model import MINIMUM_ROWS, LayerModel, next_layers
from predictors.lookup import coverage
from search_spaces.architecture import Architecture
from search_spaces.base.errors import InvalidValueError, MeasurementError
from search_spaces.base.storage import read_records
from search_spaces.layers import Layer, image_size, size_text
from search_spaces.metric import Metric
from search_spaces.space import SearchSpace

log = logging.getLogger(__name__)

Key = TypeVar("Key")

SPLITS = 3
"""Times that a network is split by position to see whether that is honest: what disturbs only adds, so the least
counts."""
FEWEST_LAYERS = 32
"""Layers below which a model of layer latencies is a rough guess."""
ROUNDS = 8
"""A chosen subset of layers is measured in about as many rounds, each chosen with the model of all before."""
REPEATED = 1.2
"""Passes over an item on a quiet device, over those that the profile asks for: some do not agree at once."""
LOOKING = 0.1
"""Share of the budget after which no more than is needed is loaded to see how long all takes."""
FEW = 0.5
"""Rows that other programs disturbed are measured again at once if no more than this share is; else later, by the same
command, when the computer is less busy."""


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
    """True if a measurement may take the place of an earlier one: it was not disturbed more."""
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
        self.space, self.device, self.backend, self.settings = space, device, backend, settings
        self.folder = folder
        self.fit, self.check = fit, check
        self.fewest = min(FEWEST_TO_FIT, fit)
        self.say = say
        budget_s = math.inf if settings.budget is None else parse_duration("budget", settings.budget)
        self.budget = ProfilingBudget(budget_s, device.name, say, "this computer" if backend.estimates else "it")
        self.in_context = self._in_context(folder / "table.jsonl")
        method = "in context" if self.in_context else "isolated"
        reported = stated(backend.capabilities.metrics)
        conditions = {"profile": device.conditions(), "environment": backend.environment, **reported}
        self.table = LatencyTable(folder / "table.jsonl", device.name, {**conditions, "method": method})
        self.networks = NetworkLog(folder / "networks.jsonl", space, {"device": device.name, **conditions})
        self.journal = Journal(folder / "unfinished.jsonl", conditions)
        rows = [*self.table.values(), *self.networks.rows("fit").values(), *self.networks.rows("check").values()]
        quiet = [m.reference_ms for m in rows if m.reference_ms is not None and not m.is_disturbed]
        best_ms = min(quiet, default=math.inf)
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
        """True if networks are split by position: as was begun, as asked for, or where it is honest."""
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
                split = min(sum(loaded.positions_ms(self.device.runs).values()) for _ in range(SPLITS))
                shares.append(split / whole)
            except MeasurementError:
                continue
        return bool(shares) and all(abs(share - 1) <= HONEST_SPLIT for share in shares)

    def _draw_networks(self, rng_of: Callable[..., np.random.Generator]) -> None:
        """Networks that judge, and networks to fit on; with spares in place of those that the device cannot run."""
        fit, check = self.fit, self.check
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
        with self.budget.share("check") as until:
            self._measure_networks("check", self.to_check, self.check, "networks to judge by", until)
        with self.budget.share("main") as until:
            if self.in_context:
                self._measure_cover(until)
            else:
                self._measure_layers(layers, until)
        with self.budget.share("fit") as until:
            if not self.in_context:
                self._measure_networks("fit", self.to_fit, self.fit, "networks to fit on", until)
        with self.budget.share("check again") as until:
            judges = list(self.networks.rows("check"))
            self._measure_networks("check again", judges, len(judges), "networks to judge by, again", until)
        with self.budget.share("values"):
            if self.in_context and self.metrics_of_layers:
                self._note_values()
        with self.budget.share("doubtful") as until:
            self._measure_doubtful_again(doubtful, until)
        self.journal.remove()
        self._judge()
        self._say_what_is_left()

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
            ", ".join(
                size_text(image_size(shape)) for shape in sorted(found) if len(shape) == 3 and shape[0] == channels
            )
            for found in ({layer.input_shape for layer in some} for some in (known, layers))
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
        judges = {*self.to_check[: self.check], *self.networks.rows("check")}
        judges = judges if self.unseen else set()
        able = [a for a in cover if a not in judges and self._runs(a)]
        most = self.space.size - self.check if self.unseen else self.space.size
        fewest = max(self.fewest, min(self.fit, most))
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
        check = self.check
        cover = [a for a in cover if not self.networks.has("fit", a)]
        judge = max(0, check - len(self.networks.rows("check")))
        again = max(0, check - len(self.networks.rows("check again")))
        fit = 0 if self.in_context else max(0, self.fit - len(self.networks.rows("fit")))
        models = [Model(self.space.lower(a)) for a in [*self.to_check[:1], *self.to_fit[:4]]]
        network_s = self._seconds(models, False)
        some = np.linspace(0, len(layers) - 1, min(6, len(layers))).astype(int)
        alone = [layers[i] for i in self.rng.permutation(some)]
        in_context = self.in_context and bool(cover)
        layer_s = self._seconds([Model.of_layer(layer) for layer in [*alone, *doubtful.layers[:2]]], False)
        each_s = self._seconds(models[:3], True) if in_context else layer_s
        passes_s = 0.0 if self.backend.estimates else self.device.passes * self.device.pass_seconds
        bare = self._without_values() if self.in_context else []
        items = len(cover) or len(layers)
        again_s = len(doubtful.layers) * layer_s + len(doubtful.networks) * network_s
        planned = (
            BudgetPart(judge, network_s, passes_s),
            BudgetPart(items, each_s, passes_s),
            BudgetPart(fit, network_s, passes_s),
            BudgetPart(again, network_s, passes_s),
            BudgetPart(len(bare), self._load_seconds(bare[:: max(1, len(bare) // 3)][:3])),
            BudgetPart(len(doubtful), again_s / max(1, len(doubtful)), passes_s),
        )
        self.budget.parts = dict(zip(PARTS, planned, strict=True))
        total = sum(part.seconds for part in self.budget.parts.values())
        rest = total - self.budget.parts["main"].seconds
        fewest = BudgetPart(min(items, self.fewest if self.in_context else FEWEST_LAYERS), each_s, passes_s)
        least, left = rest + fewest.seconds, self.budget.left_s
        if least > left:
            raise InvalidValueError(
                f"`budget={self.settings.budget}` is too short for {self.device.name!r}: {judge + again + fit} whole "
                f"networks and the fewest {'networks in context' if self.in_context else 'layers'} take about "
                f"{duration(least)}. Give more time, or fewer `profile.networks` and `profile.check_networks`."
            )
        fitted = [f"{len(cover)} networks in context"] if self.in_context else [f"{len(layers)} layers"]
        fitted += [f"{fit} whole networks to fit on"] if fit else []
        what = " and ".join([", ".join(fitted), *_to_judge(judge, again)])
        if len(doubtful):
            what += f", {len(doubtful)} measured before, but doubtful"
        boards = f" on {len(self.measurer.boards)} boards" if len(self.measurer.boards) > 1 else ""
        if total > left:
            share = f"about {duration(total)} for all, so as much as {duration(self.budget.seconds)} allow"
            affordable = int((left - rest) / each_s) if each_s > 0 else items
            self.budget.parts["main"].items = min(items, max(fewest.items, affordable))
        else:
            share = f"about {duration(total)}"
        if any(part.items for part in self.budget.parts.values()):
            self.say(f"{self.device.name}: {what}{boards}: {share}")

    def _seconds(self, models: Sequence[Model], in_context: bool) -> float:
        """Seconds, about, to measure one of such models on a quiet device; the first alone tells where looking
        at more would take much of the budget."""
        device, seconds = self.device, list[float]()
        for model in models:
            if seconds and self.budget.left_s < (1 - LOOKING) * self.budget.seconds:
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
                if self.backend.capabilities.metrics:
                    loaded.values(device.runs)
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
        """Seconds, about, to load one of such layers."""
        started, loaded = time.perf_counter(), 0
        for layer in layers:
            with contextlib.suppress(MeasurementError):
                self.measurer.boards[0].load(Model.of_layer(layer))
                loaded += 1
        return (time.perf_counter() - started) / max(1, loaded)

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _measure_layers(self, layers: list[Layer], until: float) -> None:
        """All of them, or those that tell most as long as the time lasts."""
        target = self.settings.target_error
        if target is None and len(layers) <= self.budget.affordable():
            self._measure_alone(layers, "", until)
            layers = self._layers()
        size = max(FEWEST_LAYERS, min(len(layers), self.budget.affordable()) // ROUNDS)
        while layers and time.perf_counter() < until:
            model = LayerModel.of_table(self.table) if len(self.table) >= FEWEST_LAYERS else None
            if model is not None:
                if target is not None and model.expected_error(layers) <= target:
                    break
                size = min(size, self.budget.affordable())
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
        """Warn that an earlier measurement stays: what ran before runs there, and a process that was ended, or hung, on
        measuring it again says nothing else."""
        log.warning("%s: a doubtful measurement could not be made again, and stays: %s", self.device.name, error)

    def _fail(self, layer: Layer, error: MeasurementError) -> None:
        positions = [p.name for i, p in enumerate(self.space.positions) if layer in self.space.layers_at(i)]
        more = f" and {len(positions) - 1} more" if len(positions) > 1 else ""
        log.warning(
            "%s: %s (position %r%s) cannot run there, and no network with it is feasible: %s",
            *(self.device.name, layer, positions[0], more, error),
        )
        self.table.add_failure(layer, str(error))

    def _measure_cover(self, until: float) -> None:
        while True:  # until no more layers are found not to run, which another cover must do without
            todo = [a for a in self._cover() if not self.networks.has("fit", a)]
            have = len(self.networks.rows("fit"))
            affordable = max(self.fewest - have, self.budget.affordable())
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

    def _note_values(self) -> None:
        """Values of each layer alone of metrics beside the latency: inside a network it cannot be told apart."""
        layers = self._without_values()
        titles = " and ".join(metric.title for metric in self.metrics_of_layers)
        with self._progress(f"{titles} of layers", len(layers), "layer") as progress:
            for layer in layers:
                try:
                    loaded = self.measurer.boards[0].load(Model.of_layer(layer))
                    values = self._values(loaded)
                except MeasurementError as error:
                    self._fail(layer, error)
                else:
                    self.table.add_values(layer, {m.name: values[m.name] for m in self.metrics_of_layers})
                progress.update()

    def _values(self, loaded: Loaded) -> Values:
        """Values of a model of metrics beside the latency, typical of as many takes as there are passes."""
        metrics = self.backend.capabilities.metrics
        takes = range(self.device.passes if metrics else 0)
        return typical_values([reported_values(loaded, self.device.runs, metrics) for _ in takes])

    @property
    def metrics_of_layers(self) -> list[Metric]:
        """Metrics beside the latency of which layers have values."""
        return [metric for metric in self.backend.capabilities.metrics if metric.of_layers]

    def _without_values(self) -> list[Layer]:
        known = [{*self.table.values_of(metric.name), *self.table.failed} for metric in self.metrics_of_layers]
        return [layer for layer in self.space.distinct_layers if not all(layer in layers for layers in known)]

    def _doubtful(self) -> _Doubtful:
        """Rows that were measured while the device was slow, or other programs disturbed it, or in too few passes; and
        what did not agree, where so much did not that it is a doubt."""

        def is_doubtful(measurement: Measurement) -> bool:
            few = measurement.passes < self.device.passes and measurement.reference_ms is not None
            return self.measurer.was_slow(measurement) or measurement.is_disturbed or few

        def among(rows: Sequence[tuple[Key, Measurement]]) -> list[Key]:
            many = bool(disagreement("", [m for _, m in rows]))
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
            each_s = {
                kind: self.budget.parts[name].each_s for kind, name in (("layers", "main"), ("networks", "check"))
            }
            takes_s = len(again.layers) * each_s["layers"] + len(again.networks) * each_s["networks"]
            takes_s = max(1.0, min(takes_s * self.budget.slower, self.budget.left_s))
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

    def _say_what_is_left(self) -> None:
        """Say how many layers a model predicts, in place of measurements."""
        known = coverage(self.space, self.table)
        if not known.absent:
            return
        error = LayerModel.of_table(self.table).expected_error(known.absent)
        target = self.settings.target_error
        enough = target is not None and error <= target
        more = "; the same command with a larger budget continues" if self.settings.budget and not enough else ""
        self.say(
            f"{self.device.name}: {len(known.measured)} of {len(known.measured) + len(known.absent)} layers measured, "
            f"{len(known.absent)} predicted by a model (expected error {error:.1%}){more}"
        )

    def _progress(self, title: str, total: int, unit: str) -> Any:
        return progress(f"{self.device.name}: {title}", total, unit)


def _to_judge(first: int, again: int) -> list[str]:
    """Words for networks that judge, each measured at the start and again at the end; empty without any."""
    if first == again:
        return [f"{first} networks, twice, to judge"] if first else []
    return [f"{' and '.join(text for n, text in ((first, f'{first}'), (again, f'{again} again')) if n)} to judge"]


def measure(
    space: SearchSpace,
    device: DeviceProfile,
    settings: ProfileSettings,
    folder: Path,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Measure on a device what its predictors are fitted to, as far as the folder has it not yet; see
    `DeviceProfiling`."""
    backend = device.open()
    try:
        DeviceProfiling(space, device, backend, settings, folder, functools.partial(generator, seed), say).run()
    finally:
        backend.close()
