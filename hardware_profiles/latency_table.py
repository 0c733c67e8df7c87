"""Layer -> measurement on one device, kept in an append-only file that survives a kill at any moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hardware_profiles.measure import Measurement
from search_spaces.errors import MissingLayerError, NasError
from search_spaces.layers import Layer
from search_spaces.storage import RecordLog, read_records

log = logging.getLogger(__name__)


class LatencyTable(Mapping[Layer, Measurement]):
    """All layers measured on one device under one set of conditions.

    A layer that is absent raises `MissingLayerError`; a layer that the device cannot run is in `failed` with the
    reason. Neither ever counts as 0 ms.

    Args:
        path: the file; made on first use.
        device: name of the device, for messages.
        conditions: profile and environment; another file's rows are not mixed in.
    """

    def __init__(self, path: Path, device: str, conditions: Mapping[str, Any]) -> None:
        self.device = device
        self._log = RecordLog(path, {"device": device, **conditions})
        self._rows: dict[Layer, Measurement] = {}
        self.failed: dict[Layer, str] = {}
        for record in self._log.records:
            try:
                self._take(record)
            except (NasError, KeyError, TypeError) as error:
                log.warning("%s holds a row that cannot be read and was skipped (%s): %s", path, error, record)

    @staticmethod
    def read(path: Path) -> LatencyTable:
        """Open an existing table under the conditions that it states."""
        conditions, _ = read_records(path)
        device = str(conditions.pop("device", path.parent.name))
        return LatencyTable(path, device, conditions)

    @property
    def conditions(self) -> dict[str, Any]:
        """Under which all rows were measured."""
        return self._log.conditions

    def _take(self, record: Mapping[str, Any]) -> None:
        layer = Layer.from_json(record["layer"])
        if "error" in record:
            self.failed[layer] = str(record["error"])
            self._rows.pop(layer, None)
        else:
            self._rows[layer] = Measurement.from_json(record["measurement"])
            self.failed.pop(layer, None)

    def add(self, layer: Layer, measurement: Measurement) -> None:
        """Append one row durably; a later row of the same layer replaces the earlier one."""
        self._log.append({"layer": layer.to_json(), "measurement": measurement.to_json()})
        self._take(self._log.records[-1])

    def add_failure(self, layer: Layer, reason: str) -> None:
        """Note durably that the device cannot run the layer."""
        self._log.append({"layer": layer.to_json(), "error": reason})
        self._take(self._log.records[-1])

    def __getitem__(self, layer: Layer) -> Measurement:
        if layer not in self._rows:
            reason = f" It failed there: {self.failed[layer]}" if layer in self.failed else ""
            raise MissingLayerError(
                f"The latency table of {self.device!r} has no {layer}.{reason} Measure it with `nas profile`."
            )
        return self._rows[layer]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
