"""The command ``nas table``: other people's latency tables as ours, tables merged, a table looked at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hardware_profiles.formats.tables import FORMATS, import_table, macs_per_second, merge_tables
from hardware_profiles.latency_table import LatencyTable
from search_spaces.base.errors import InvalidValueError, StorageError
from search_spaces.base.values import whole_number
from search_spaces.fbnet import FBNet
from search_spaces.loading import load_space

*_FIRST, _LAST = FORMATS
USAGE = f"""nas table import FORMAT SOURCE OUT [device=NAME] [space=fbnet] [dtype=... batch=... threads=...]
                             [unit=s|ms|us|ns]
                             somebody else's table -> OUT; FORMAT is {", ".join(_FIRST)} or {_LAST}
nas table merge OUT TABLE TABLE ...
                             tables of one device, measured under the same conditions, as one
nas table show TABLE ...     whose it is, under which conditions, how many layers

An `ofa` table is a CSV, a YAML file or a folder of them, one per resolution; `device=` chooses among several in a CSV.
An `fbnet` table needs the space whose layers it has. A `csv` has a column `layer` (JSON) or `kind` and the layer's
fields, and `latency_ms`; `p10_ms`, `p90_ms`, `memory_bytes` and metrics that end in `_mj`, `_uj`, `_nj`, `_j` or
`_bytes`, such as `energy_mj`, are optional: a device with the table reports those that every row has. What is known of
how it was measured (dtype, batch, threads) is kept with the table, and a device profile that says otherwise is refused.
Latencies are in ms (`fbnet`: microseconds) unless `unit=` says otherwise; without it, a table that makes a device
unusually fast or slow is refused.
A table is used by a device whose YAML says `backend: table`, such as note10 (see `nas devices`).
"""


def command(arguments: list[str]) -> str:
    """Run ``nas table`` and give what it prints.

    Raises:
        InvalidValueError: wrong arguments, or a table that cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        return USAGE.rstrip()
    word, *rest = arguments
    given = [argument for argument in rest if "=" not in argument or Path(argument).exists()]
    settings = dict(argument.split("=", 1) for argument in rest if argument not in given)
    if word == "import" and len(given) == 3:
        return _import(given[0], Path(given[1]), Path(given[2]), settings)
    if settings:
        raise InvalidValueError(f"`nas table {word}` has no setting {next(iter(settings))!r}. {_usage()}")
    if word == "merge" and len(given) >= 2:
        merged = merge_tables([Path(path) for path in given[1:]], Path(given[0]))
        return f"{_described(merged)}\nwrote {given[0]}"
    if word == "show" and given:
        return "\n\n".join(_described(_opened(Path(path))) for path in given)
    raise InvalidValueError(f"Wrong arguments: `nas table {' '.join(arguments)}`. {_usage()}")


def _usage() -> str:
    return "`nas table --help` explains."


def _import(form: str, source: Path, out: Path, settings: dict[str, str]) -> str:
    known = ("device", "space", "dtype", "batch", "threads", "unit")
    for name in settings:
        if name not in known:
            raise InvalidValueError(f"`nas table import` has no setting {name!r}; it has {', '.join(known)}.")
    conditions: dict[str, str | int] = {key: settings[key] for key in ("dtype",) if key in settings}
    for name in ("batch", "threads"):
        if name in settings:
            number = whole_number(settings[name])
            if not number:
                raise InvalidValueError(f"`{name}` must be a number >= 1, but got {settings[name]!r}.")
            conditions[name] = number
    space = _fbnet(settings["space"]) if "space" in settings else None
    if not source.exists():
        raise StorageError(f"There is no {source} to import.")
    device, unit = settings.get("device"), settings.get("unit")
    read = import_table(form, source, out, device=device, conditions=conditions, space=space, unit=unit)
    refused = f", {len(read.refused)} rows refused" if read.refused else ""
    speed = macs_per_second([(row.layer, row.latency_ms) for row in read.rows], int(conditions.get("batch", 1)))
    return f"{len(read.rows)} layers{refused}\n{_speed(speed)}\nwrote {out}"


def _speed(macs: float) -> str:
    return f"{macs / 1e9:.3g} GMAC/s over all layers"


def _fbnet(name: str) -> FBNet:
    space = load_space(name)
    if not isinstance(space, FBNet):
        raise InvalidValueError(f"An FBNet table has the layers of fbnet or fbnet_cifar100, but got `space={name}`.")
    return space


def _opened(path: Path) -> LatencyTable:
    if not path.is_file():
        raise StorageError(f"There is no latency table {path}.")
    return LatencyTable.read(path)


def _described(table: LatencyTable) -> str:
    lines = [f"{table.device}: {len(table)} layers, {len(table.failed)} that the device cannot run"]
    for kind, count in Counter(type(layer).__name__ for layer in table).most_common():
        ms = sorted(m.latency_ms for layer, m in table.items() if type(layer).__name__ == kind)
        lines.append(f"  {count:5d} {kind:18} {ms[0]:.4g} to {ms[-1]:.4g} ms")
    if len(table):
        batch = table.conditions.get("batch", 1)
        pairs = [(layer, measurement.latency_ms) for layer, measurement in table.items()]
        lines.append(f"  {_speed(macs_per_second(pairs, batch if type(batch) is int else 1))}")
    for key, value in table.conditions.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        lines += [f"  {key}{'.' if name else ''}{name}: {part}" for name, part in parts if key != "device"]
    return "\n".join(lines)
