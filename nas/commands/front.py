"""The command ``nas front``: fronts looked at, chosen from, merged, exported and compared."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.run.fronts import (
    SHOWN,
    Attained,
    Comparison,
    Floats,
    Front,
    Limit,
    attained,
    choose,
    compare,
    merge,
    plural,
    read_fronts,
    search_of,
    table,
    to_csv,
)
from nas.run.records import Column
from search_spaces.base.errors import InvalidValueError, UnknownNameError
from search_spaces.base.storage import write_bytes, write_json, write_text
from search_spaces.base.values import decimal, whole_number
from search_spaces.loading import load_space
from search_spaces.metric import amount_of, amounts

if TYPE_CHECKING:
    from nas.report.figures import Surfaces
from nas.report.front_text import comparison_lines, summary_lines

USAGE = """nas front show FILE [searcher=NAME] [x=latency_ms y=accuracy] [rows=20 | all=true]
                             the front as a table and a plot, its knee and its hypervolume
nas front choose FILE LIMIT=NUMBER ... [best=NAME | best=knee] [searcher=NAME] [space=NAME]
                             the best network within limits, as JSON:  latency_ms=25 accuracy=0.9 params=200k..300k
                             space= adds the network of another space with the same choices: darts_imagenet, of cells
                             that were found in darts_cifar
nas front merge OUT.json FILE FILE ... [searcher=NAME]
                             the best of several fronts of one space and device, as one
nas front export FILE OUT.csv|OUT.json [searcher=NAME]
                             one row per network: its values, then a column per choice
nas front compare FILE FILE ... [searcher=NAME] [plot=OUT.png] [x=latency_ms y=accuracy]
                             runs of several seeds or searchers: hypervolume, and what half of the runs attain

FILE is a run's search/<device>.json. It holds the front of the run's searcher and, beside it, that of random search:
searcher= chooses one; without it, it is the run's own, and compare takes all of them. merge also takes searcher=all.
search/<device>/<searcher>.json is the same for each searcher that was tried.

Names and units are those of the file, as `nas front show` prints them: accuracy is a fraction, latency_ms is in ms.
A limit on what is maximised (accuracy) is a least value, every other one a greatest. Without best=, choose takes the
network that is best by the first goal that has no limit: latency_ms=25 gives the most accurate one within 25 ms,
accuracy=0.9 the fastest one that has it. best=knee takes the best compromise within the limits. A range has a least
value, a greatest or both: params=200k..300k, macs=1e6.. or latency_ms=..25. `nas export export.pick=[7]` exports the
network that show and choose number 7.

merge keeps the strictest of the limits that the searches had, and drops networks beyond it. compare measures
hypervolume from the worst of the files' reference points; on its figure, the line is what half of the runs of a
searcher attain, the band reaches from the best to the worst.
"""


def command(arguments: list[str]) -> str:
    """Run ``nas front`` and give what it prints.

    Raises:
        NasError: wrong arguments, a file that is missing or damaged, fronts that do not belong together, or limits
            that no network keeps.
    """
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        return _printable(USAGE.rstrip())
    word, *rest = arguments
    if word not in _COMMANDS:
        raise UnknownNameError(f"`nas front {word}` does not exist; there are {', '.join(_COMMANDS)}. {_HINT}")
    action, fewest, known = _COMMANDS[word]
    given = [argument for argument in rest if re.match(r"[\w.@-]+=", argument) and not Path(argument).exists()]
    settings = dict(argument.split("=", 1) for argument in given)
    files = [Path(argument) for argument in rest if argument not in given]
    if len(files) < fewest or (word in _EXACT and len(files) > fewest):
        raise InvalidValueError(f"`nas front {word}` cannot work with {plural(len(files), 'file')}. {_HINT}")
    for name, value in settings.items():
        if known is not None and name not in known:
            raise InvalidValueError(f"`nas front {word}` has no setting {name!r}; it has {', '.join(known)}.")
        if not value:
            raise InvalidValueError(f"`{name}=` needs a value. {_HINT}")
    return _printable(action(files, settings))


def _show(files: Sequence[Path], settings: dict[str, str]) -> str:
    front = Front.read(files[0], settings.get("searcher"))
    rows, everything = settings.get("rows", str(SHOWN)), settings.get("all", "false").lower()
    shown = whole_number(rows)
    if shown is None or shown < 3:
        raise InvalidValueError(f"`rows` must be a number >= 3, but got {rows!r}; `all=true` prints all networks.")
    if everything not in ("true", "false"):
        raise InvalidValueError(f"`all` must be true or false, but got {everything!r}.")
    most = len(front) if everything == "true" else shown
    return "\n".join(summary_lines(front, x=settings.get("x"), y=settings.get("y"), rows=most))


def _choose(files: Sequence[Path], settings: dict[str, str]) -> str:
    searcher, best, other = (settings.pop(name, None) for name in ("searcher", "best", "space"))
    front = Front.read(files[0], searcher)
    limits = {name: _limit(front.column(name)[0], text) for name, text in settings.items()}
    if not limits and best is None:
        raise InvalidValueError(f"`nas front choose` needs a limit on one of {', '.join(front.names)}. {_HINT}")
    row = choose(front, limits, best)
    found = {"device": front.device, "searcher": front.searcher, "row": row + 1, "values": front.known(row)}
    if searcher is None or searcher == next(iter(read_fronts(files[0]))):  # `nas export` takes the run's own front
        found["export"] = f"export.pick=[{row + 1}]"
    architecture = found["architecture"] = front.architecture(row)
    if other is not None:
        there = load_space(other).transferred(architecture)
        found["transferred"] = {"macs": there.macs, "params": there.params, "architecture": there.to_json()}
    return json.dumps(found, indent=1)


def _limit(column: Column, text: str) -> Limit:
    """A limit as it is written: 3, or a range 2..3, of which one end may be left out."""

    name = column.name.partition("@")[0]

    def number(part: str) -> float:
        try:
            amount = amount_of(name, part)
            value = decimal(amount) if isinstance(amount, str) else amount
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            unit = f", in {column.unit}" if column.unit not in ("", "1") else ""
            raise InvalidValueError(
                f"`{column.name}` must be a number{unit}{amounts(name)}, or a range such as 2..3, but got {text!r}."
            )
        return value

    low, dots, high = text.partition("..")
    if not dots or not (low or high):
        return number(text)
    ends = number(low) if low else None, number(high) if high else None
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise InvalidValueError(f"`{column.name}` must be a range from less to more, but got {text!r}.")
    return ends


def _merge(files: Sequence[Path], settings: dict[str, str]) -> str:
    out, *paths = files
    if out.exists():
        raise InvalidValueError(
            f"{out} exists and is not overwritten: the first file is where the union is written to."
        )
    fronts = [front for path in paths for front in _chosen(path, settings.get("searcher", _OWN))]
    if len(fronts) < 2:
        raise InvalidValueError(f"`nas front merge` needs two fronts or more, but got one. {_HINT}")
    union = merge(fronts)
    sources = [f"{front.source}: {front.searcher}" for front in fronts]
    write_json(out, {**vars(search_of([union])), "merged_from": sources})
    held = [f"{plural(len(front), 'network')} of {front.source}, {front.searcher}" for front in fronts]
    return "\n".join([*held, *_doubts(fronts), f"{plural(len(union), 'network')} in the union", f"wrote {out}"])


def _export(files: Sequence[Path], settings: dict[str, str]) -> str:
    path, out = files
    front = Front.read(path, settings.get("searcher"))
    if out.suffix == ".csv":
        write_text(out, to_csv(front))
    elif out.suffix == ".json":
        if out.exists():
            raise InvalidValueError(f"{out} exists and is not overwritten. Choose another name.")
        write_json(out, table(front))
    else:
        raise InvalidValueError(f"A front is exported to a file named *.csv or *.json, but got {out}.")
    return f"{plural(len(front), 'network')}, {plural(len(table(front)[0]), 'column')}\nwrote {out}"


def _compare(files: Sequence[Path], settings: dict[str, str]) -> str:
    out = Path(settings["plot"]) if "plot" in settings else None
    if out is not None and out.suffix != ".png":
        raise InvalidValueError(f"`plot` must name a file *.png, but got {out}.")
    if len({path.resolve() for path in files}) < len(files):
        raise InvalidValueError("`nas front compare` was given a file twice, which would count as two runs.")
    named = list(zip(_labels(files), files, strict=True))
    fronts = [(label, front) for label, path in named for front in _chosen(path, settings.get("searcher", _ALL))]
    comparison = compare(fronts)
    found = attained(comparison, x=settings.get("x"), y=settings.get("y"))
    lines = [*comparison_lines(comparison, found), *_doubts([front for _, front in fronts])]
    if out is not None:
        if len(found.goals) < 2:
            raise InvalidValueError("A figure needs two goals, but these fronts have one.")
        write_bytes(out, _figure(comparison, found))
        lines += ["", f"wrote {out}"]
    return "\n".join(lines)


_OWN, _ALL = "", "all"
_HINT = "`nas front --help` explains."
_Action = Callable[[Sequence[Path], dict[str, str]], str]
_COMMANDS: dict[str, tuple[_Action, int, tuple[str, ...] | None]] = {
    "show": (_show, 1, ("searcher", "x", "y", "rows", "all")),
    "choose": (_choose, 1, None),
    "merge": (_merge, 2, ("searcher",)),
    "export": (_export, 2, ("searcher",)),
    "compare": (_compare, 1, ("searcher", "plot", "x", "y")),
}
"""Word -> what it does, how many files it needs and its settings; None: any."""
_EXACT = ("show", "choose", "export")
"""Words that take no more files than they need."""


def _chosen(path: Path, searcher: str) -> list[Front]:
    """The fronts of a file by a searcher, by the run's own, or by all."""
    return list(read_fronts(path).values()) if searcher == _ALL else [Front.read(path, searcher or None)]


def _doubts(fronts: Sequence[Front]) -> list[str]:
    """Warnings on numbers of several fronts, in words."""
    first, found = fronts[0], []
    if any(front.fingerprint != first.fingerprint for front in fronts):
        found.append("Note: the fronts are of several spaces.")
    elif any(not np.allclose(front.reference, first.reference, rtol=1e-9, atol=0) for front in fronts):
        found.append(
            "Note: the searches' reference points differ, so their values come from predictors that were fitted "
            "differently and are only as comparable as these."
        )
    limits = [[column.limit for column in front.columns] for front in fronts]
    if any(limit != limits[0] for limit in limits):
        found.append("Note: the searches had different limits.")
    return found


def _labels(paths: Sequence[Path]) -> list[str]:
    """The parts of the paths that tell them apart."""
    parts = [path.with_suffix("").parts for path in paths]
    shared = next((i for i, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1), None)
    if shared is None:
        return [str(path) for path in paths]
    ends = [tuple(reversed(part)) for part in parts]
    after = next((i for i, column in enumerate(zip(*ends, strict=False)) if len(set(column)) > 1), 0)
    return [str(Path(*part[shared : max(len(part) - after, shared + 1)])) for part in parts]


def _figure(comparison: Comparison, attained: Attained) -> bytes:
    """The attainment surfaces as a PNG file."""
    from nas.report import figures  # matplotlib takes a second to import

    costs = np.concatenate([surface for found in attained.surfaces.values() for surface in found.values()])
    span = np.ptp(costs, axis=0)
    worst = costs.max(0) + 0.04 * np.where(span > 0, span, np.abs(costs).max(0))  # where the lines end
    natural = attained.natural(costs)
    first = comparison.fronts[0][1]
    (y_title, y_factor), (x_title, x_factor) = (
        figures.axis(_on_device(goal, first), goal.unit, values.tolist())
        for goal, values in zip(attained.goals, natural.T, strict=True)
    )

    def corners(surface: Floats) -> list[tuple[float, float]]:
        path = attained.natural(_staircase(surface, worst)) * [y_factor, x_factor]
        return [(float(along), float(up)) for up, along in path]

    drawn: list[Surfaces] = [
        figures.Surfaces(name, len(comparison.searchers[name]), **{key: corners(s) for key, s in found.items()})
        for name, found in attained.surfaces.items()
    ]
    return figures.png(figures.attainment(drawn, x_axis=x_title, y_axis=y_title))


def _on_device(column: Column, front: Front) -> str:
    """The name of a column with the device, where its values are of one."""
    of_device = column.unit in ("ms", "bytes") and "@" not in column.name and front.joint is None
    return f"{column.name}@{front.device}" if of_device else column.name


def _staircase(surface: Floats, worst: Floats) -> Floats:
    """The border of what a surface of two costs (m, 2), sorted by the last, attains, up to a worst point; corners."""
    y, x = surface.T
    along, up = np.repeat(x, 2), np.repeat(y, 2)
    return np.stack([[worst[0], *up], [*along, worst[1]]], axis=1)


def _printable(text: str) -> str:
    """The text in letters that the terminal has."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate({**str.maketrans("•◆│┤└─┬–", "*#||+-+-"), ord("≤"): "<=", ord("≥"): ">="})
        return plain.encode(encoding, "replace").decode(encoding)
    return text
