"""Operator tables of once-for-all (Cai et al., ICLR 2020, arXiv:1908.09791; https://github.com/mit-han-lab/once-for-all,
``ofa/nas/efficiency_predictor/latency_lookup_table.py``): a YAML file per resolution, or a CSV of several."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from hardware_profiles.formats.rows import LARGEST_TABLE, ImportedTable, Row, check_positive, csv_cells, number, whole
from search_spaces.base.errors import InvalidValueError, NasError
from search_spaces.base.storage import compose_yaml
from search_spaces.layers import Classifier, Conv, Layer, LinearClassifier, MBConv, make_divisible
from search_spaces.ops.activation import Activation

_RULE = (
    "operators such as `Conv-input:224x224x3-output:112x112x16` and `expanded_conv-input:...-expand:..-kernel:..-"
    "stride:..-idskip:..`"
)
_KEY = re.compile(
    r"(?P<kind>\w+)-input:(?P<input>\d+x\d+x\d+)-output:(?P<output>(?:\d+x\d+x)?\d+)(?P<fields>(?:-[a-z]+:\d+)*)",
    re.ASCII,
)
_END = ("AvgPool2D", "Conv_2", "Logits")
"""The operators of MobileNetV3's classifier, from input to output."""


@dataclass(frozen=True)
class _TableOperator:
    """A line of a once-for-all table; shapes are (size, channels)."""

    kind: str
    input: tuple[int, int]
    output: tuple[int, int]
    fields: Mapping[str, int]
    place: str
    ms: float
    runs: int


def read_ofa(source: Path, device: str) -> ImportedTable:
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
    imported = ImportedTable()
    layers: dict[Layer, list[Row]] = {}
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix in (".yaml", ".yml"))
        if not files:
            raise InvalidValueError(f"{source} must hold once-for-all's YAML files, but has none.")
        tables = [list(_of_yaml(path)) for path in files]
    elif source.suffix == ".csv":
        tables = _of_csv(source, device, imported)
    else:
        tables = [list(_of_yaml(source))]
    for table in tables:
        part = _layers(table)
        imported.refused += part.refused
        for row in part.rows:
            layers.setdefault(row.layer, []).append(row)
    for layer, rows in layers.items():
        runs = sum(row.runs for row in rows)
        imported.rows.append(Row(layer, sum(row.latency_ms * row.runs for row in rows) / runs, runs=runs))
    return imported


def _of_yaml(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Place, operator, latency and runs as written, with duplicates, which a YAML loader drops without a word."""
    node = compose_yaml(path, LARGEST_TABLE)
    if not isinstance(node, yaml.MappingNode):
        raise InvalidValueError(f"{path} must map {_RULE} to `mean` and `count`, but is no mapping.")
    for key, value in node.value:
        figures = {k.value: v.value for k, v in value.value} if isinstance(value, yaml.MappingNode) else {}
        place = f"{path.name} line {key.start_mark.line + 1}"
        yield place, str(key.value), str(figures.get("mean", "")), str(figures.get("count", ""))


def _of_csv(path: Path, device: str, imported: ImportedTable) -> list[list[tuple[str, str, str, str]]]:
    columns, rows = csv_cells(path, imported)
    if not {"op_key", "mean_ms"} <= set(columns):
        raise InvalidValueError(
            f"{path} must have the columns `op_key`, of {_RULE}, and `mean_ms`, but has {', '.join(columns) or 'none'}."
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


def _layers(table: Iterable[tuple[str, str, str, str]]) -> ImportedTable:
    """Layers of one resolution's operators."""
    imported = ImportedTable()
    operators: dict[str, _TableOperator] = {}
    for place, key, mean, count in table:
        try:
            if key in operators:
                raise InvalidValueError(f"{key} is at {operators[key].place} already.")
            operators[key] = _operator(place, key, mean, count)
        except NasError as error:
            imported.refused.append(f"{place}: {error}")
    ends: dict[str, list[_TableOperator]] = {kind: [] for kind in _END}
    version3 = any(o.kind in ("AvgPool2D", "Conv_2") or "se" in o.fields for o in operators.values())
    activation: Activation = "h_swish" if version3 else "relu6"
    for operator in operators.values():
        if version3 and operator.kind in ends:
            ends[operator.kind].append(operator)
        else:
            imported.take(operator.place, partial(_row, operator, activation))
    fitting = [
        (pool, mix, logits)
        for pool, mix, logits in itertools.product(*ends.values())
        if pool.output == mix.input and mix.output == logits.input
    ]
    for parts in fitting:
        imported.take(parts[0].place, partial(_classifier, *parts))
    used = {part.place for parts in fitting for part in parts}
    for operator in itertools.chain(*ends.values()):
        if operator.place not in used:
            reason = f"there are no {' and '.join(_END)} beside it that make up a classifier."
            imported.refused.append(f"{operator.place}: {reason}")
    return imported


def _operator(place: str, key: str, mean: str, count: str) -> _TableOperator:
    match = _KEY.fullmatch(key)
    if match is None:
        raise InvalidValueError(f"{key!r} is none of {_RULE}.")
    size, width, inputs = (int(n) for n in match["input"].split("x"))
    *sizes, outputs = (int(n) for n in match["output"].split("x"))
    if size != width or (sizes and sizes[0] != sizes[1]):
        raise InvalidValueError(f"{key!r} must have square inputs and outputs.")
    fields = dict(pair.split(":") for pair in match["fields"].split("-")[1:])
    ms, runs = number("mean", mean), whole("count", count) if count else 1
    check_positive("mean", ms)
    check_positive("count", runs)
    return _TableOperator(
        kind=match["kind"],
        input=(size, inputs),
        output=(sizes[0] if sizes else 1, outputs),
        fields={name: int(value) for name, value in fields.items()},
        place=place,
        ms=ms,
        runs=runs,
    )


def _classifier(pool: _TableOperator, mix: _TableOperator, logits: _TableOperator) -> Row:
    (size, inputs), (_, features), (_, classes) = pool.input, mix.output, logits.output
    layer = Classifier(inputs, features, classes, "h_swish", size, mix_bias=False)
    return Row(layer, pool.ms + mix.ms + logits.ms, runs=min(pool.runs, mix.runs, logits.runs))


def _row(operator: _TableOperator, activation: Activation) -> Row:
    (size, inputs), (output_size, outputs) = operator.input, operator.output
    layer: Layer
    if operator.kind == "expanded_conv":
        layer = _block(operator)
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


def _block(operator: _TableOperator) -> MBConv:
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
