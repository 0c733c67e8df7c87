"""Somebody else's latency tables as hwnas's, and tables of one device as one.

    import_table("ofa", Path("operator_latency.csv"), Path("note10.jsonl"))

A row that cannot be used is refused by its place with the reason, and the others are read; a file in which there is
none is refused as a whole. The formats are files beside this one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.formats.fbnet import read_fbnet
from hardware_profiles.formats.once_for_all import read_ofa
from hardware_profiles.formats.plain_csv import metric_of, read_csv
from hardware_profiles.formats.rows import ImportedTable, Row
from hardware_profiles.latency_table import LatencyTable, stated
from search_spaces.base.errors import InvalidValueError, MismatchError
from search_spaces.base.storage import RecordLog, read_records, storage_errors
from search_spaces.fbnet import FBNet
from search_spaces.layers import Layer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """A form of tables.

    Args:
        unit: that its latencies should be in, one of `UNITS`.
        read: a file, for a device, of a space (None where none is named).
    """

    unit: str
    read: Callable[[Path, str, FBNet | None], ImportedTable]


UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Unit of time -> milliseconds."""
FORMATS = {
    "ofa": Format("ms", lambda source, device, _: read_ofa(source, device)),
    "fbnet": Format("us", lambda source, _, space: read_fbnet(source, space)),
    "csv": Format("ms", lambda source, *_: read_csv(source)),
}
USUAL = (1e8, 1e12)
"""Multiply-accumulates a second of phones, computers and their accelerators at small batches; a table beyond is most
likely in another unit than it should be. Small microcontrollers are slower, the largest GPUs are faster."""


def import_table(
    format: str,
    source: Path,
    out: Path,
    *,
    device: str | None = None,
    conditions: Mapping[str, Any] | None = None,
    space: FBNet | None = None,
    unit: str | None = None,
) -> ImportedTable:
    """Write somebody else's table as a new latency table, which the backend `table` measures with.

    Args:
        format: one of `FORMATS`.
        source: the file; for ``ofa`` also a folder of YAML files, one per resolution.
        out: file to write; it must not exist.
        device: whose numbers these are; of a CSV of several devices its rows are read. None: the name of `out`.
        conditions: what is known of how they were measured, such as dtype, batch and threads: tables are merged, and a
            device's profile is accepted, only where these agree.
        space: whose layers an ``fbnet`` table has.
        unit: that the source's latencies are in, one of `UNITS`. None: the one of its format, which is
            refused where it makes the device faster or slower than usual (`USUAL`).

    Returns:
        The rows that were written and those that were refused; each of these is logged as a warning as well.

    Raises:
        InvalidValueError: the source is not of this format, holds no row that can be used, or `out` exists.
    """
    if format not in FORMATS:
        raise InvalidValueError(f"A latency table's format is one of {', '.join(FORMATS)}, but got {format!r}.")
    if unit is not None and unit not in UNITS:
        raise InvalidValueError(f"`unit` must be one of {', '.join(UNITS)}, but got {unit!r}.")
    _check_new(out)
    device = out.stem if device is None else device
    imported = FORMATS[format].read(source, device, space)
    for reason in imported.refused:
        log.warning("%s: %s", source, reason)
    if not imported.rows:
        reason = imported.refused[0] if imported.refused else "it is empty"
        raise InvalidValueError(f"{source} has no row that can be used as format {format!r}: {reason}")
    if unit is None:
        _check_speed(imported.rows, source, FORMATS[format].unit, int((conditions or {}).get("batch", 1)))
    else:
        factor = UNITS[unit] / UNITS[FORMATS[format].unit]
        imported.rows = [row.times(factor) for row in imported.rows]
    unfinished = out.with_name(out.name + ".part")
    with storage_errors(out):
        unfinished.unlink(missing_ok=True)
        names = dict.fromkeys(name for row in imported.rows for name in row.values)
        metrics = [metric for metric in map(metric_of, names) if metric is not None]
        table = LatencyTable(unfinished, device, {"format": format, **(conditions or {}), **stated(metrics)})
        for row in imported.rows:
            table.add(row.layer, row.measurement)
        unfinished.replace(out)
    return imported


def merge_tables(paths: Sequence[Path], out: Path) -> LatencyTable:
    """Write the rows of several tables as one new table.

    What was measured wins over a failure, and of two measurements of a layer alone the later one in this order.
    Rows that are equal, as of a table named twice, are taken once.

    Args:
        paths: of latency tables with equal conditions.
        out: file to write; it must not exist.

    Raises:
        MismatchError: the conditions differ; the message says where.
        InvalidValueError: no paths, or `out` exists.
    """
    if not paths:
        raise InvalidValueError("Merging needs the paths of one or more latency tables.")
    _check_new(out)
    read = [read_records(path) for path in paths]
    conditions = read[0][0]
    for path, (others, _) in zip(paths, read, strict=True):
        names = [k for k in {**conditions, **others} if conditions.get(k, ...) != others.get(k, ...)]
        if names:
            differences = "; ".join(f"{k}: {conditions.get(k)!r} and {others.get(k)!r}" for k in names)
            raise MismatchError(
                f"{paths[0]} and {path} were made under different conditions ({differences}), so their numbers cannot "
                "stand in one table. Keep them apart, as two devices."
            )
    records = {json.dumps(record, sort_keys=True): record for _, records in read for record in records}
    unfinished = out.with_name(out.name + ".part")
    with storage_errors(out):
        unfinished.unlink(missing_ok=True)
        merged = RecordLog(unfinished, conditions)
        for record in sorted(records.values(), key=lambda record: "error" not in record):
            merged.append(record)
        unfinished.replace(out)
    return LatencyTable.read(out)


def macs_per_second(pairs: Iterable[tuple[Layer, float]], batch: int = 1) -> float:
    """Multiply-accumulates a second over all layers, given with their ms; 0 where they have none."""
    known = list(pairs)
    return 1e3 * batch * sum(layer.macs for layer, _ in known) / sum(ms for _, ms in known)


def _check_speed(rows: Sequence[Row], source: Path, unit: str, batch: int) -> None:
    """Refuse latencies that are most likely in another unit.

    Raises:
        InvalidValueError: names the speed that the layers would have in each unit.
    """
    speed = macs_per_second([(row.layer, row.latency_ms) for row in rows], batch)
    if speed == 0 or USUAL[0] <= speed <= USUAL[1]:
        return
    others = ", ".join(f"{speed * UNITS[unit] / ms:.2g} in {name}" for name, ms in UNITS.items() if name != unit)
    raise InvalidValueError(
        f"The latencies of {source} would mean {speed:.2g} multiply-accumulates a second in {unit}, which is not usual "
        f"({USUAL[0]:.0g} to {USUAL[1]:.0g}); it would be {others}. Say which it is with `unit=` ({', '.join(UNITS)})."
    )


def _check_new(out: Path) -> None:
    if out.exists():
        raise InvalidValueError(
            f"{out} exists, and a latency table is never overwritten. Choose another, or delete it."
        )
