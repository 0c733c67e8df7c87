"""Somebody else's latency tables as hwnas's, and tables of one device as one.

    import_table("ofa", Path("operator_latency.csv"), Path("note10.jsonl"))

A row that cannot be used is refused by its place with the reason, and the others are read; a file in which there is
none is refused as a whole. Formats:

- ``ofa``: operator tables of once-for-all (Cai et al., ICLR 2020, arXiv:1908.09791;
  https://github.com/mit-han-lab/once-for-all, ``ofa/nas/efficiency_predictor/latency_lookup_table.py``), a YAML file
  per resolution or a CSV of several.
- ``fbnet``: tables of FBNet (Wu et al., CVPR 2019, arXiv:1812.03443, section 3.2), a JSON list of an entry per searched
  layer, as https://github.com/AnnaAraslanova/FBNet holds them (names of operations) and https://github.com/jh88/fbnet
  stores them (operations in order), in microseconds.
- ``csv``: a row per layer, in hwnas's own terms; this is the one to write by hand.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from hardware_profiles.latency_table import LatencyTable
from hardware_profiles.measure import LONGEST_MS, Measurement
from search_spaces.base.errors import InvalidValueError, MismatchError, NasError
from search_spaces.base.storage import (
    MIB,
    RecordLog,
    compose_yaml,
    loads,
    read_bytes,
    read_records,
    storage_errors,
)
from search_spaces.fbnet import BENCHMARK_ORDER, SKIP, FBNet
from search_spaces.graph import Activation
from search_spaces.layers import Classifier, Conv, Layer, LinearClassifier, MBConv, make_divisible

log = logging.getLogger(__name__)

FORMATS = ("ofa", "fbnet", "csv")
UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Unit of time -> milliseconds."""
STATED_IN = {"ofa": "ms", "fbnet": "us", "csv": "ms"}
"""Format -> the unit that its latencies should be in."""
USUAL = (1e8, 1e12)
"""Multiply-accumulates a second of phones, computers and their accelerators at small batches; a table beyond is most
likely in another unit than it should be. Small microcontrollers are slower, the largest GPUs are faster."""
LARGEST_TABLE = 256 * MIB
"""Bytes of a file to import."""


@dataclass(frozen=True)
class Row:
    """A layer with what its table says; None where it says nothing. ``runs`` is how many runs the latency is of."""

    layer: Layer
    latency_ms: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    runs: int = 1
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ms", "p10_ms", "p90_ms"):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        _check_positive("runs", self.runs)
        if self.memory_bytes is not None and self.memory_bytes < 0:
            raise InvalidValueError(f"`memory_bytes` must be >= 0, but got {self.memory_bytes}.")

    def times(self, factor: float) -> Row:
        """The row with all its times multiplied."""
        p10, p90 = (None if ms is None else ms * factor for ms in (self.p10_ms, self.p90_ms))
        return replace(self, latency_ms=self.latency_ms * factor, p10_ms=p10, p90_ms=p90)

    @property
    def measurement(self) -> Measurement:
        """Quantiles that the table does not state are the latency itself; repeatability is unknown, so noise is 1."""
        p10, p90 = (self.latency_ms if p is None else p for p in (self.p10_ms, self.p90_ms))
        return Measurement(
            self.latency_ms, self.latency_ms, p10, p90, self.runs, 1, 1.0, True, memory_bytes=self.memory_bytes
        )


@dataclass
class Imported:
    """What was read: rows of different layers, and why others were refused, each by its place."""

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


def import_table(
    format: str,
    source: Path,
    out: Path,
    *,
    device: str | None = None,
    conditions: Mapping[str, Any] | None = None,
    space: FBNet | None = None,
    unit: str | None = None,
) -> Imported:
    """Write somebody else's table as a new latency table, which the backend `table` measures with.

    Args:
        format: one of `FORMATS`.
        source: the file; for ``ofa`` also a folder of YAML files, one per resolution.
        out: file to write; it must not exist.
        device: whose numbers these are; of a CSV of several devices its rows are read. None: the name of `out`.
        conditions: what is known of how they were measured, such as dtype, batch and threads: tables are merged, and a
            device's profile is accepted, only where these agree.
        space: whose layers an ``fbnet`` table has.
        unit: that the source's latencies are in, one of `UNITS`. None: the one of its format, `STATED_IN`, which is
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
    if format == "ofa":
        imported = read_ofa(source, device)
    elif format == "csv":
        imported = read_csv(source)
    elif space is None:
        raise InvalidValueError("An FBNet table does not say what its layers are: name the space with `space=fbnet`.")
    else:
        imported = read_fbnet(source, space)
    for reason in imported.refused:
        log.warning("%s: %s", source, reason)
    if not imported.rows:
        reason = imported.refused[0] if imported.refused else "it is empty"
        raise InvalidValueError(f"{source} has no row that can be used as format {format!r}: {reason}")
    if unit is None:
        _check_speed(imported.rows, source, STATED_IN[format], int((conditions or {}).get("batch", 1)))
    else:
        factor = UNITS[unit] / UNITS[STATED_IN[format]]
        imported.rows = [row.times(factor) for row in imported.rows]
    unfinished = out.with_name(out.name + ".part")
    with storage_errors(out):
        unfinished.unlink(missing_ok=True)
        table = LatencyTable(unfinished, device, {"format": format, **(conditions or {})})
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


def _check_positive(name: str, value: float) -> None:
    if not 0 < value <= LONGEST_MS:  # false for NaN as well
        raise InvalidValueError(
            f"`{name}` must be a positive number, but got {value}. At most {LONGEST_MS:.0g} is taken."
        )


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidValueError(f"`{name}` must be a number, but got {text!r}.") from None


def _whole(name: str, text: str) -> int:
    number = _number(name, text)
    if not number.is_integer():
        raise InvalidValueError(f"`{name}` must be a whole number, but got {text!r}.")
    return int(number)


# -- plain CSV ---------------------------------------------------------------------------------------------------------

NUMBERS = ("latency_ms", "p10_ms", "p90_ms", "memory_bytes")


def read_csv(path: Path) -> Imported:
    """A row per layer: its latency in the column ``latency_ms`` and, where known, ``p10_ms``, ``p90_ms`` and
    ``memory_bytes``. The layer is in the column ``layer`` as hwnas's JSON, or in ``kind`` and a column per field, empty
    where the kind has no such field.

    Raises:
        InvalidValueError: not such a CSV.
    """
    imported = Imported()
    columns, rows = _csv(path, imported)
    if "latency_ms" not in columns or not {"layer", "kind"} & set(columns):
        raise InvalidValueError(
            f"{path} must have the columns `latency_ms` and `layer` (or `kind` and its fields), but has "
            f"{', '.join(columns) or 'none'}."
        )
    for place, cells in rows:
        imported.take(place, partial(_csv_row, cells))
    return imported


def _csv(path: Path, imported: Imported) -> tuple[Sequence[str], list[tuple[str, dict[str, str]]]]:
    """Columns, and place and cells by column of each row; cells that a row lacks are empty."""
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


def _csv_row(cells: Mapping[str, str]) -> Row:
    stated = {name: text for name, text in cells.items() if text != ""}
    if "latency_ms" not in stated:
        raise InvalidValueError("`latency_ms` is empty.")
    if "layer" in stated:
        try:
            data = loads(stated["layer"])
        except ValueError as error:
            raise InvalidValueError(f"`layer` is not JSON: {error}.") from error
    else:
        data = {name: _field(text) for name, text in stated.items() if name not in NUMBERS}
    return Row(
        Layer.from_json(data),
        _number("latency_ms", stated["latency_ms"]),
        p10_ms=_number("p10_ms", stated["p10_ms"]) if "p10_ms" in stated else None,
        p90_ms=_number("p90_ms", stated["p90_ms"]) if "p90_ms" in stated else None,
        memory_bytes=_whole("memory_bytes", stated["memory_bytes"]) if "memory_bytes" in stated else None,
    )


def _field(text: str) -> str | int | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


# -- once-for-all ------------------------------------------------------------------------------------------------------

_OFA_RULE = (
    "operators such as `Conv-input:224x224x3-output:112x112x16` and `expanded_conv-input:...-expand:..-kernel:..-"
    "stride:..-idskip:..`"
)
_OFA_KEY = re.compile(
    r"(?P<kind>\w+)-input:(?P<input>\d+x\d+x\d+)-output:(?P<output>(?:\d+x\d+x)?\d+)(?P<fields>(?:-[a-z]+:\d+)*)"
)
_OFA_END = ("AvgPool2D", "Conv_2", "Logits")
"""The operators of MobileNetV3's classifier, from input to output."""


@dataclass(frozen=True)
class _Operator:
    """A line of a once-for-all table; shapes are (size, channels)."""

    kind: str
    input: tuple[int, int]
    output: tuple[int, int]
    fields: Mapping[str, int]
    place: str
    ms: float
    runs: int


def read_ofa(source: Path, device: str) -> Imported:
    """The layers of once-for-all's operator tables, of MobileNetV3 (blocks with ``se`` and ``hs``) or ProxylessNAS.

    A classifier is the sum of their pooling, mixing and classifying operators. Each resolution has a table of its own;
    a layer that is in several has the mean, weighted by the number of runs.

    Args:
        source: a YAML file ``operator: {mean: ms, count: runs}``, a folder of such files, or a CSV with columns
            ``op_key``, ``mean_ms`` and, where known, ``device``, ``input_res`` and ``count``.
        device: whose rows of a CSV to read.

    Raises:
        InvalidValueError: not such a file, or a CSV without rows of the device.
    """
    imported = Imported()
    layers: dict[Layer, list[Row]] = {}
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix in (".yaml", ".yml"))
        if not files:
            raise InvalidValueError(f"{source} must hold once-for-all's YAML files, but has none.")
        tables = [list(_ofa_yaml(path)) for path in files]
    elif source.suffix == ".csv":
        tables = _ofa_csv(source, device, imported)
    else:
        tables = [list(_ofa_yaml(source))]
    for table in tables:
        part = _ofa_layers(table)
        imported.refused += part.refused
        for row in part.rows:
            layers.setdefault(row.layer, []).append(row)
    for layer, rows in layers.items():
        runs = sum(row.runs for row in rows)
        imported.rows.append(Row(layer, sum(row.latency_ms * row.runs for row in rows) / runs, runs=runs))
    return imported


def _ofa_yaml(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Place, operator, latency and runs as written, with duplicates, which a YAML loader drops without a word."""
    node = compose_yaml(path, LARGEST_TABLE)
    if not isinstance(node, yaml.MappingNode):
        raise InvalidValueError(f"{path} must map {_OFA_RULE} to `mean` and `count`, but is no mapping.")
    for key, value in node.value:
        figures = {k.value: v.value for k, v in value.value} if isinstance(value, yaml.MappingNode) else {}
        place = f"{path.name} line {key.start_mark.line + 1}"
        yield place, str(key.value), str(figures.get("mean", "")), str(figures.get("count", ""))


def _ofa_csv(path: Path, device: str, imported: Imported) -> list[list[tuple[str, str, str, str]]]:
    columns, rows = _csv(path, imported)
    if not {"op_key", "mean_ms"} <= set(columns):
        raise InvalidValueError(
            f"{path} must have the columns `op_key`, of {_OFA_RULE}, and `mean_ms`, but has "
            f"{', '.join(columns) or 'none'}."
        )
    tables: dict[str, list[tuple[str, str, str, str]]] = {}
    for place, cells in rows:
        if cells.get("device", device) == device:
            row = (place, cells["op_key"], cells["mean_ms"], cells.get("count", ""))
            tables.setdefault(cells.get("input_res", ""), []).append(row)
    if rows and not tables:
        devices = dict.fromkeys(cells["device"] for _, cells in rows)
        raise InvalidValueError(
            f"{path} has no rows of device {device!r}; there are {', '.join(devices)}. Name the table for one of them."
        )
    return list(tables.values())


def _ofa_layers(table: Iterable[tuple[str, str, str, str]]) -> Imported:
    """Layers of one resolution's operators."""
    imported = Imported()
    operators: dict[str, _Operator] = {}
    for place, key, mean, count in table:
        try:
            if key in operators:
                raise InvalidValueError(f"{key} is at {operators[key].place} already.")
            operators[key] = _operator(place, key, mean, count)
        except NasError as error:
            imported.refused.append(f"{place}: {error}")
    ends: dict[str, list[_Operator]] = {kind: [] for kind in _OFA_END}
    version3 = any(o.kind in ("AvgPool2D", "Conv_2") or "se" in o.fields for o in operators.values())
    activation: Activation = "h_swish" if version3 else "relu6"
    for operator in operators.values():
        if version3 and operator.kind in ends:
            ends[operator.kind].append(operator)
        else:
            imported.take(operator.place, partial(_ofa_row, operator, activation))
    fitting = [
        (pool, mix, logits)
        for pool, mix, logits in itertools.product(*ends.values())
        if pool.output == mix.input and mix.output == logits.input
    ]
    for parts in fitting:
        imported.take(parts[0].place, partial(_ofa_classifier, *parts))
    used = {part.place for parts in fitting for part in parts}
    for operator in itertools.chain(*ends.values()):
        if operator.place not in used:
            reason = f"there are no {' and '.join(_OFA_END)} beside it that make up a classifier."
            imported.refused.append(f"{operator.place}: {reason}")
    return imported


def _operator(place: str, key: str, mean: str, count: str) -> _Operator:
    match = _OFA_KEY.fullmatch(key)
    if match is None:
        raise InvalidValueError(f"{key!r} is none of {_OFA_RULE}.")
    size, width, inputs = (int(n) for n in match["input"].split("x"))
    *sizes, outputs = (int(n) for n in match["output"].split("x"))
    if size != width or (sizes and sizes[0] != sizes[1]):
        raise InvalidValueError(f"{key!r} must have square inputs and outputs.")
    fields = dict(pair.split(":") for pair in match["fields"].split("-")[1:])
    ms, runs = _number("mean", mean), _whole("count", count) if count else 1
    _check_positive("mean", ms)
    _check_positive("count", runs)
    return _Operator(
        kind=match["kind"],
        input=(size, inputs),
        output=(sizes[0] if sizes else 1, outputs),
        fields={name: int(value) for name, value in fields.items()},
        place=place,
        ms=ms,
        runs=runs,
    )


def _ofa_classifier(pool: _Operator, mix: _Operator, logits: _Operator) -> Row:
    (size, inputs), (_, features), (_, classes) = pool.input, mix.output, logits.output
    layer = Classifier(inputs, features, classes, "h_swish", size, mix_bias=False)
    return Row(layer, pool.ms + mix.ms + logits.ms, runs=min(pool.runs, mix.runs, logits.runs))


def _ofa_row(operator: _Operator, activation: Activation) -> Row:
    (size, inputs), (output_size, outputs) = operator.input, operator.output
    layer: Layer
    if operator.kind == "expanded_conv":
        layer = _ofa_block(operator)
    elif operator.fields:
        raise InvalidValueError(f"{operator.kind!r} has no {', '.join(operator.fields)}.")
    elif operator.kind == "Conv":
        layer = Conv(inputs, outputs, 3, 1 if output_size == size else 2, activation, size)
    elif operator.kind == "Conv_1":
        layer = Conv(inputs, outputs, 1, 1, activation, size)
    elif operator.kind == "Logits":
        layer = LinearClassifier(inputs, outputs, size)
    else:
        raise InvalidValueError(f"Operator {operator.kind!r} is not known.")
    if layer.output_shape not in ((outputs,), (outputs, output_size, output_size)):
        raise InvalidValueError(
            f"{layer} gives {layer.output_shape}, but the operator {outputs} of size {output_size}."
        )
    return Row(layer, operator.ms, runs=operator.runs)


def _ofa_block(operator: _Operator) -> MBConv:
    (size, inputs), (_, outputs), fields = operator.input, operator.output, operator.fields
    version3 = "se" in fields
    needed = ["expand", "kernel", "stride", "idskip", *(["se", "hs"] if version3 else [])]
    if list(fields) != needed:
        raise InvalidValueError(f"A block has {', '.join(needed)}, but this one {', '.join(fields) or 'none of them'}.")
    # MobileNetV3's tables state the hidden channels, ProxylessNAS's the ratio.
    hidden = fields["expand"] if version3 else inputs * fields["expand"]
    activation: Activation = "relu6" if not version3 else "h_swish" if fields["hs"] else "relu"
    squeeze = make_divisible(hidden // 4) if fields.get("se") else 0
    expands = hidden != inputs
    block = MBConv(inputs, outputs, hidden, expands, fields["kernel"], fields["stride"], squeeze, activation, size)
    if block.residual != bool(fields["idskip"]):
        raise InvalidValueError(
            f"{block} adds its input {'always' if block.residual else 'never'}, but the operator says "
            f"idskip:{fields['idskip']}."
        )
    return block


# -- FBNet -------------------------------------------------------------------------------------------------------------

_FBNET_NAMES = {name: name for name in BENCHMARK_ORDER} | {
    **{f"ir_{name}": name for name in BENCHMARK_ORDER},
    "ir_k3_s2": "k3_e1_g2",  # "s2": shuffled between two groups
    "ir_k5_s2": "k5_e1_g2",
}


def read_fbnet(path: Path, space: FBNet) -> Imported:
    """The layers of an FBNet table: a JSON list with an entry per searched layer, from input to output, of what each
    operation takes in microseconds.

    An entry is a mapping from names (the paper's, ``k3_e1``, ``k3_e1_g2``, or those of Facebook's code, ``ir_k3_e1``,
    ``ir_k3_s2``), or a list in the order of `BENCHMARK_ORDER`; null, for a layer that is not searched, is passed over.
    Layers that are equal, as most within a stage are, have their mean. "skip" is no layer where it keeps the shape, so
    its time there is left out. These tables lack the fixed layers (stem, last convolution, classifier): import those
    from a CSV under the same conditions and merge.

    Args:
        path: the file.
        space: says what the layers are; it has one resolution.

    Raises:
        InvalidValueError: not such a file, or not of this space.
    """
    content = read_bytes(path, LARGEST_TABLE)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{path} is not valid JSON: {error}.") from error
    count = sum(choice.name.startswith("op.") for choice in space.choices)
    entries = [entry for entry in data if entry is not None] if isinstance(data, list) else []
    if len(entries) != count or not all(isinstance(entry, dict | list) for entry in entries):
        raise InvalidValueError(
            f"{path} must be a JSON list of {count} mappings or lists of latencies, one per searched layer of space "
            f"{space.name!r}, but "
            + (f"has {len(entries)} entries." if isinstance(data, list) else f"is a {type(data).__name__}.")
        )
    if len(space.choices[0].values) != 1:
        raise InvalidValueError(f"An FBNet table is of one resolution, but space {space.name!r} has several.")
    imported = Imported()
    found: dict[Layer, list[float]] = {}
    for number, entry in enumerate(entries):
        operations = entry.items() if isinstance(entry, dict) else zip(BENCHMARK_ORDER, entry, strict=False)
        if len(entry) > len(BENCHMARK_ORDER):
            imported.refused.append(f"layer {number + 1}: there are {len(BENCHMARK_ORDER)} operations at most.")
        for name, microseconds in operations:
            try:
                layer = _fbnet_layer(space, count, number, name)
                if type(microseconds) not in (int, float):
                    raise InvalidValueError(f"a latency must be a number of microseconds, but got {microseconds!r}.")
                _check_positive("latency", microseconds)
                if layer is not None:
                    found.setdefault(layer, []).append(microseconds / 1e3)
            except NasError as error:
                imported.refused.append(f"layer {number + 1}, {name}: {error}")
    imported.rows = [Row(layer, sum(times) / len(times), runs=len(times)) for layer, times in found.items()]
    return imported


def _fbnet_layer(space: FBNet, count: int, number: int, name: str) -> Layer | None:
    """The layer that an operation is at a place; None for one that does nothing."""
    if name not in _FBNET_NAMES:
        raise InvalidValueError(f"an operation is one of {', '.join(_FBNET_NAMES)}.")
    operations: list[int | str] = ["k3_e1"] * count
    operations[number] = _FBNET_NAMES[name]
    _, *layers, _, _ = space.lower(space.of_operations(operations)).values()  # without the fixed ones
    if len(layers) < count:
        assert operations[number] == SKIP
        return None
    return layers[number]
