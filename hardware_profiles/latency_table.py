"""Layer -> measurement on one device, kept in an append-only file that survives a kill at any moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from hardware_profiles.backends.base import Values
from hardware_profiles.measure import LONGEST_MS, Measurement
from search_spaces.base.checked import check
from search_spaces.base.errors import InvalidValueError, MissingLayerError
from search_spaces.base.storage import RecordLog, read_records, take_records
from search_spaces.layers import Layer
from search_spaces.metric import LATENCY, MEMORY, Metric

SHORTEST_MS = 1e-6
"""Least latency that a layer counts, one that costs nothing inside a network, an identity say."""


REMEDY = "Measure again with `nas profile`."


class LatencyTable(Mapping[Layer, Measurement]):
    """All layers measured on one device under one set of conditions.

    A row is a layer measured alone (`add`), or a whole network with its time split by layer (`add_network`); what a
    layer took in several networks is pooled to its median, and its other values are noted apart (`add_values`).

    A layer that is absent raises `MissingLayerError`; a layer that the device cannot run is in `failed` with the
    reason. Neither ever counts as 0 ms.

    Args:
        path: the file; made on first use.
        device: name of the device, for messages.
        conditions: profile and environment; another file's rows are not mixed in.
    """

    def __init__(self, path: Path, device: str, conditions: Mapping[str, Any]) -> None:
        self.device = device
        self.failed: dict[Layer, str] = {}
        self._log = RecordLog(path, {"device": device, **conditions})
        self._alone: dict[Layer, Measurement] = {}
        self._within: dict[Layer, list[float]] = {}
        self._networks: dict[tuple[Layer, ...], list[float]] = {}
        self._pooled: dict[Layer, Measurement] = {}
        self._values: dict[Layer, Values] = {}
        self._taken = 0
        self._take_new()

    @staticmethod
    def read(path: Path) -> LatencyTable:
        """Open an existing table under the conditions that it states."""
        conditions, _ = read_records(path)
        device = str(conditions.pop("device", path.parent.name))
        return LatencyTable(path, device, conditions)

    @property
    def path(self) -> Path:
        """The file."""
        return self._log.path

    @property
    def conditions(self) -> dict[str, Any]:
        """Conditions under which all rows were measured."""
        return self._log.conditions

    def refresh(self) -> None:
        """Take up rows that other processes have added."""
        self._log.refresh()
        self._take_new()

    def add(self, layer: Layer, measurement: Measurement) -> None:
        """Append one row durably; a later row of the same layer replaces the earlier one."""
        self._append({"layer": layer.to_json(), "measurement": measurement.to_json()})

    def add_network(self, layers: Mapping[str, Layer], measurement: Measurement) -> None:
        """Append durably what each layer of a network took in it; a later row of the same network replaces the earlier.

        Args:
            layers: by position.
            measurement: of the network, its time split by these positions.
        """
        split = measurement.positions_ms or {}
        if self._networks.get(tuple(layers.values())) == [max(split[position], SHORTEST_MS) for position in layers]:
            return  # measured again, with the same result
        rows = [{"layer": layer.to_json(), "ms": split[position]} for position, layer in layers.items()]
        self._append({"network": rows})

    def has_network(self, layers: Mapping[str, Layer]) -> bool:
        """True if the table has a row of this network, its layers given by position."""
        return tuple(layers.values()) in self._networks

    def add_values(self, layer: Layer, values: Values) -> None:
        """Note durably what a layer has of metrics beside the latency when it is alone on the device."""
        self._append({"layer": layer.to_json(), **values})

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that rows may have values of beside the latency; where that is not stated, of memory."""
        return metrics_of(self.conditions, self.path)

    def values_of(self, metric: str) -> dict[Layer, float]:
        """Values known of a metric: the values of the layers by themselves, or of the latency as the table has it."""
        if metric == LATENCY.name:
            return {layer: measurement.latency_ms for layer, measurement in self.items()}
        rows = ((layer, measurement.values) for layer, measurement in self.items())
        return {layer: values[metric] for layer, values in (*rows, *self._values.items()) if metric in values}

    def value(self, layer: Layer, metric: str) -> float:
        """Value that `values_of` has of a layer.

        Raises:
            MissingLayerError: the table does not have the layer, or not this of it.
        """
        values = {**(self[layer].values if layer in self else {}), **self._values.get(layer, {})}
        if metric in values:
            return values[metric]
        measurement = self[layer]
        if metric != LATENCY.name:
            raise MissingLayerError(
                f"The latency table of {self.device!r} has no {metric} of {layer}. Measure it with `nas profile`."
            )
        return measurement.latency_ms

    def has_values(self, metric: str, layers: Iterable[Layer]) -> bool:
        """True if a metric is known of layers, be it that they do not run at all."""
        return {*self.values_of(metric), *self.failed}.issuperset(layers)

    def add_failure(self, layer: Layer, reason: str) -> None:
        """Note durably that the device cannot run the layer."""
        self._append({"layer": layer.to_json(), "error": reason})

    def within(self, layer: Layer) -> Sequence[float]:
        """Latencies of the layer inside networks, in ms, once for each time that it was measured there."""
        return tuple(self._within.get(layer, ()))

    def sum_without(self, layers: Sequence[Layer]) -> float:
        """Sum of the latencies of a network's layers in ms, by all rows but those of that very network; a layer that no
        other row has counts what the table says.

        Raises:
            MissingLayerError: the table does not have a layer.
        """
        own = {layer: list[float]() for layer in layers}
        for layer, ms in zip(layers, self._networks.get(tuple(layers), ()), strict=False):
            own[layer].append(ms)
        total = 0.0
        for layer in layers:
            others = [] if layer in self._alone else list(self.within(layer))
            for ms in own[layer] if others else ():
                others.remove(ms)
            total += float(np.median(others)) if others else self[layer].latency_ms
        return total

    def _append(self, record: dict[str, Any]) -> None:
        self._log.append(record)
        self._take_new()

    def _take_new(self) -> None:
        take_records(self._log.path, self._log.records[self._taken :], self._take)
        self._taken = len(self._log.records)

    def _take(self, record: Mapping[str, Any]) -> None:
        if "network" in record:
            layers = tuple(Layer.from_json(row["layer"]) for row in record["network"])
            split = [max(_ms(row["ms"]), SHORTEST_MS) for row in record["network"]]
            for layer, ms in zip(layers, self._networks.get(layers, ()), strict=False):
                self._within[layer].remove(ms)
            for layer, ms in zip(layers, split, strict=True):
                self._within.setdefault(layer, []).append(ms)
                self._pooled.pop(layer, None)
            self._networks[layers] = split
            return
        layer = Layer.from_json(record["layer"])
        if "error" in record:
            self.failed[layer] = str(record["error"])
            self._alone.pop(layer, None)
        elif "measurement" in record:
            self._alone[layer] = Measurement.from_json(record["measurement"])
            self.failed.pop(layer, None)
        else:
            values = {name: value for name, value in record.items() if name != "layer"}
            self._values[layer] = check(values, Values, "values", REMEDY)

    def __getitem__(self, layer: Layer) -> Measurement:
        if layer in self._alone:
            return self._alone[layer]
        if layer in self._within:
            if layer not in self._pooled:
                self._pooled[layer] = _pooled(self._within[layer])
            return self._pooled[layer]
        reason = f" It failed there: {self.failed[layer]}" if layer in self.failed else ""
        raise MissingLayerError(
            f"The latency table of {self.device!r} has no {layer}.{reason} Measure it with `nas profile`."
        )

    def __iter__(self) -> Iterator[Layer]:
        return iter({**self._alone, **self._within})

    def __len__(self) -> int:
        return len({**self._alone, **self._within})


def stated(metrics: Sequence[Metric]) -> dict[str, Any]:
    """The part of a table's conditions that says of which metrics rows have values; memory alone needs no saying."""
    return {} if set(metrics) <= {MEMORY} else {"metrics": [asdict(metric) for metric in metrics]}


def metrics_of(conditions: Mapping[str, Any], path: Path) -> tuple[Metric, ...]:
    """Metrics that the conditions of a file state (`stated`)."""
    named = conditions.get("metrics")
    if named is None:
        return (MEMORY,)
    return cast(tuple[Metric, ...], check(named, tuple[Metric, ...], f"{path}: metrics", REMEDY))


def _ms(value: Any) -> float:
    check(value, float, "ms", REMEDY)
    if not 0 <= value <= LONGEST_MS:
        raise InvalidValueError(f"A layer takes from 0 to {LONGEST_MS:.0g} ms, but got {value}.")
    return float(value)


def _pooled(ms: Sequence[float]) -> Measurement:
    """Median of several networks; noise is how far it moves with every other network left out."""
    p10, median, p90 = np.quantile(ms, [0.1, 0.5, 0.9]).tolist()
    halves = [float(np.median(ms[start::2])) for start in range(min(2, len(ms)))]
    noise = max(halves) / min(halves)
    return Measurement(median, median, p10, p90, runs=len(ms), passes=len(ms), noise=noise, agreed=len(ms) > 1)
