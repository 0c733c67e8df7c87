"""Rows of somebody else's table: one per layer, and why others were refused."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hardware_profiles.backends.base import Values
from hardware_profiles.measure import LONGEST_MS, Measurement
from search_spaces.base.errors import InvalidValueError, NasError
from search_spaces.base.storage import MIB, read_bytes
from search_spaces.base.values import decimal
from search_spaces.layers import Layer

LARGEST_TABLE = 256 * MIB
"""Bytes of a file to import."""


@dataclass(frozen=True)
class Row:
    """A layer with what its table says; None where it says nothing.

    ``runs`` is how many runs the latency is of, ``values`` are those of other metrics by name.
    """

    layer: Layer
    latency_ms: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    runs: int = 1
    values: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("latency_ms", "p10_ms", "p90_ms"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_positive("runs", self.runs)
        for name, value in self.values.items():
            if not 0 <= value < math.inf:
                raise InvalidValueError(f"`{name}` must be >= 0 and finite, but got {value}.")

    def times(self, factor: float) -> Row:
        """The row with all its times multiplied."""
        p10, p90 = (None if ms is None else ms * factor for ms in (self.p10_ms, self.p90_ms))
        return replace(self, latency_ms=self.latency_ms * factor, p10_ms=p10, p90_ms=p90)

    @property
    def measurement(self) -> Measurement:
        """Quantiles that the table does not state are the latency itself; repeatability is unknown, so noise is 1."""
        p10, p90 = (self.latency_ms if p is None else p for p in (self.p10_ms, self.p90_ms))
        return Measurement(self.latency_ms, self.latency_ms, p10, p90, self.runs, 1, 1.0, True, values=self.values)


@dataclass
class ImportedTable:
    """Result of reading: rows of different layers, and why others were refused, each by its place."""

    rows: list[Row] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _layers: set[Layer] = field(default_factory=set, repr=False)

    def take(self, place: str, read: Callable[[], Row]) -> None:
        """Add the row that `read` makes; refused if it cannot, or if the layer is there already."""
        try:
            row = read()
            if row.layer in self._layers:
                raise InvalidValueError(f"{row.layer} is there already.")
        except NasError as error:
            self.refused.append(f"{place}: {error}")
        else:
            self.rows.append(row)
            self._layers.add(row.layer)


def csv_cells(path: Path, imported: ImportedTable) -> tuple[Sequence[str], list[tuple[str, dict[str, str]]]]:
    """Columns of a CSV, and place and cells by column of each row; cells that a row lacks are empty."""
    content = read_bytes(path, LARGEST_TABLE)
    rows = []
    try:
        reader = csv.DictReader(content.decode("utf-8-sig").splitlines(), restval="", strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        for cells in reader:
            place = f"line {reader.line_num}"
            if None in cells:
                imported.refused.append(f"{place}: it has more cells than there are columns; JSON needs quoting.")
            else:
                rows.append((place, {name.strip(): text.strip() for name, text in cells.items()}))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidValueError(f"{path} cannot be read as CSV: {error}.") from error
    return columns, rows


def check_positive(name: str, value: float) -> None:
    """Refuse what is no duration, and no count."""
    if not 0 < value <= LONGEST_MS:  # false for NaN as well
        raise InvalidValueError(
            f"`{name}` must be a positive number, but got {value}. At most {LONGEST_MS:.0g} is taken."
        )


def number(name: str, text: str) -> float:
    """A cell as a number."""
    try:
        return decimal(text)
    except ValueError:
        raise InvalidValueError(f"`{name}` must be a number, but got {text!r}.") from None


def whole(name: str, text: str) -> int:
    """A cell as a whole number."""
    value = number(name, text)
    if not value.is_integer():
        raise InvalidValueError(f"`{name}` must be a whole number, but got {text!r}.")
    return int(value)
