"""Tables as CSV, a row per layer, in hwnas's own terms: the format to write by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hardware_profiles.formats.rows import ImportedTable, Row, csv_cells, number, whole
from search_spaces.base.errors import InvalidValueError
from search_spaces.base.storage import loads
from search_spaces.layers import Layer
from search_spaces.metric import MEMORY, NAME, Metric

NUMBERS = ("latency_ms", "p10_ms", "p90_ms")
UNITS = {"nj": "nJ", "uj": "µJ", "mj": "mJ", "j": "J", "bytes": "bytes"}
"""End of a column's name that makes it a metric -> its unit."""


def metric_of(column: str) -> Metric | None:
    """The metric that a column is of, such as ``energy_mj``; None: it is of none."""
    if column == MEMORY.name:
        return MEMORY
    unit = column.rpartition("_")[2]
    if unit not in UNITS or not re.fullmatch(NAME, column):
        return None
    return Metric(column, UNITS[unit], of_layers="sum", estimated=True)


def read_csv(path: Path) -> ImportedTable:
    """A row per layer: its latency in the column ``latency_ms`` and, where known, ``p10_ms`` and ``p90_ms``.

    The layer is in the column ``layer`` as hwnas's JSON, or in ``kind`` and a column per field, empty where the kind
    has no such field. Further metrics are columns by their names: ``memory_bytes``, and what ends in one of `UNITS`,
    such as ``energy_mj``, which adds up over layers.

    Raises:
        InvalidValueError: not such a CSV.
    """
    imported = ImportedTable()
    columns, rows = csv_cells(path, imported)
    if "latency_ms" not in columns or not {"layer", "kind"} & set(columns):
        raise InvalidValueError(
            f"{path} must have the columns `latency_ms` and `layer` (or `kind` and its fields), but has "
            f"{', '.join(columns) or 'none'}."
        )
    for place, cells in rows:
        imported.take(place, partial(_row, cells))
    return imported


def _row(cells: Mapping[str, str]) -> Row:
    stated = {name: text for name, text in cells.items() if text != ""}
    if "latency_ms" not in stated:
        raise InvalidValueError("`latency_ms` is empty.")
    if "layer" in stated:
        try:
            data = loads(stated["layer"])
        except ValueError as error:
            raise InvalidValueError(f"`layer` is not JSON: {error}.") from error
    else:
        data = {name: _field(text) for name, text in stated.items() if name not in NUMBERS and metric_of(name) is None}
    metrics = [metric for metric in map(metric_of, stated) if metric is not None]
    return Row(
        Layer.from_json(data),
        number("latency_ms", stated["latency_ms"]),
        p10_ms=number("p10_ms", stated["p10_ms"]) if "p10_ms" in stated else None,
        p90_ms=number("p90_ms", stated["p90_ms"]) if "p90_ms" in stated else None,
        values={m.name: (whole if m.unit == "bytes" else number)(m.name, stated[m.name]) for m in metrics},
    )


def _field(text: str) -> str | int | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text
