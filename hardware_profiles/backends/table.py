"""Somebody else's numbers as a device: a latency table in hwnas's format (`hardware_profiles.formats.tables` imports
others).

Nothing runs. A layer takes what its row says, and a network the sum of its layers' rows (of memory the largest), as
once-for-all's latency tables are used (Cai et al., ICLR 2020, arXiv:1908.09791): how far that is from the real network,
the table cannot tell. A layer without a row is an error, never 0 ms.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.backends.base import Backend, Capabilities, Loaded, Values
from hardware_profiles.device import DeviceProfile
from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.model import Model
from search_spaces.base.errors import DeviceUnavailableError, InvalidValueError, MeasurementError, MismatchError
from search_spaces.base.storage import fingerprint
from search_spaces.layers import Layer
from search_spaces.metric import Metric

FOLDER = Path(__file__).parents[1] / "tables"

CAPABILITIES = Capabilities(
    dtypes=("float32", "float16", "int8"),
    options={
        "path": "of the latency table: beside this YAML, else a bare name is a file in hardware_profiles/tables, and "
        "others start at the current folder",
    },
    required=("path",),
    paths=("path",),
    estimates=True,
    any_layer=False,
)


@dataclass(frozen=True)
class Sum(Loaded):
    """A model as the sum of rows; a `Loaded`."""

    latency_ms: float
    sums: Values

    def sample_ms(self, runs: int) -> float:
        return self.latency_ms

    def values(self, runs: int) -> Values:
        return self.sums


class TableBackend(Backend):
    """A latency table that answers for its device."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._name = profile.name
        self._path = table_path(profile)
        if not self._path.is_file():
            raise DeviceUnavailableError(
                f"Device {profile.name!r} needs the latency table {self._path}, which is not there. Import somebody's "
                f"numbers with `nas table import ofa <file or csv> {self._path}` (or fbnet, or csv, for ofa)."
            )
        self._table = LatencyTable.read(self._path)
        if not self._table:
            raise DeviceUnavailableError(f"Device {profile.name!r}: its latency table {self._path} has no rows.")
        self.capabilities = dataclasses.replace(CAPABILITIES, metrics=_metrics(self._table))
        self._values = {m.name: self._table.values_of(m.name) for m in self.capabilities.metrics}
        stated = {**self._table.conditions, **_mapping(self._table.conditions.get("profile"))}
        for name in ("dtype", "batch", "threads"):
            if stated.get(name, getattr(profile, name)) != getattr(profile, name):
                raise MismatchError(
                    f"Device {profile.name!r}: the profile says `{name}: {getattr(profile, name)}`, but its latency "
                    f"table {self._path} is of {stated[name]}. Write that into the profile."
                )

    @property
    def environment(self) -> dict[str, Any]:
        values = list(self._values.values())
        rows = [[layer.to_json(), m.latency_ms, *(of[layer] for of in values)] for layer, m in self._table.items()]
        return {
            "hwnas": importlib.metadata.version("hwnas"),
            "latency": "table of somebody else's numbers",
            "conditions": self._table.conditions,
            "layers": len(rows),
            "fingerprint": fingerprint(rows),
        }

    def known_layers(self) -> Collection[Layer]:
        return self._table

    def load(self, model: Model) -> Sum:
        for position, layer in model.layers.items():
            if layer not in self._table:
                failure = f" It failed there: {self._table.failed[layer]}" if layer in self._table.failed else ""
                raise MeasurementError(
                    f"Device {self._name!r}: the latency table {self._path} has no row for {position!r}, {layer}."
                    + failure
                )
        layers = model.layers.values()
        sums = {
            m.name: (sum if m.of_layers == "sum" else max)(self._values[m.name][layer] for layer in layers)
            for m in self.capabilities.metrics
        }
        return Sum(sum(self._table[layer].latency_ms for layer in layers), sums)


def _metrics(table: LatencyTable) -> tuple[Metric, ...]:
    """Metrics that the table has of every layer."""
    return tuple(metric for metric in table.metrics if metric.of_layers and table.has_values(metric.name, table))


def capabilities(profile: DeviceProfile) -> Capabilities:
    """Abilities of the backend with the table of a profile."""
    if "path" not in profile.options or not table_path(profile).is_file():
        return CAPABILITIES
    return dataclasses.replace(CAPABILITIES, metrics=_metrics(LatencyTable.read(table_path(profile))))


def table_path(profile: DeviceProfile) -> Path:
    """Path of the table of a profile.

    Raises:
        InvalidValueError: the option is not text.
    """
    path = profile.options["path"]
    if not isinstance(path, str) or not path:
        raise InvalidValueError(f"Device {profile.name!r}: option `path` must be text, but got {path!r}.")
    return FOLDER / path if Path(path).name == path else Path(path).expanduser()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def open_backend(profile: DeviceProfile) -> TableBackend:
    """See `hardware_profiles.backends.base`."""
    return TableBackend(profile)
