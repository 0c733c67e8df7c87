from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from search_spaces.base.checked import check, read_checked
from search_spaces.base.errors import DamagedFileError, InvalidValueError, StorageError
from search_spaces.base.storage import write_json


class Row(TypedDict):
    name: str
    ms: float
    runs: NotRequired[int]


@dataclass
class Thing:
    size: int
    good: bool = True


GOOD: list[tuple[Any, Any]] = [
    ({"name": "a", "ms": 1}, Row),
    ({"name": "a", "ms": 1.5, "runs": 2, "more": None}, Row),
    ({"size": 1}, Thing),
    ([1, 2.5], list[float]),
    ([1, 2.5], Sequence[float]),
    ({"a": [1]}, dict[str, list[int]]),
    ({"a": None}, Mapping[str, int | None]),
    ("max", Literal["max", "min"]),
    ("a", int | str),
    ([{}, 3], Any),
]
BAD: list[tuple[Any, Any, str]] = [
    (None, Row, "run.json should be a mapping, but is None"),
    (3, Row, "run.json should be a mapping, but is 3"),
    ({"name": "a"}, Row, "run.json has no `ms`"),
    ({"name": 1, "ms": 1}, Row, "run.json: name should be text, but is 1"),
    ({"name": "a", "ms": True}, Row, "run.json: ms should be a finite number, but is True"),
    ({"name": "a", "ms": math.nan}, Row, "ms should be a finite number, but is nan"),
    ({"name": "a", "ms": math.inf}, Row, "ms should be a finite number, but is inf"),
    ({"name": "a", "ms": 10**400}, Row, "ms should be a finite number"),
    ({"name": "a", "ms": 1, "runs": 1.0}, Row, "runs should be a whole number, but is 1.0"),
    ({"name": "a", "ms": 1, "runs": False}, Row, "runs should be a whole number, but is False"),
    ({}, Thing, "has no `size`"),
    ({"size": 1, "good": 1}, Thing, "good should be true or false, but is 1"),
    ([1, "a"], list[int], r"run.json\[1\] should be a whole number, but is 'a'"),
    ({"a": [None]}, dict[str, list[int]], r"run.json: a\[0\] should be"),
    ("big", Literal["max", "min"], "should be 'max' or 'min', but is 'big'"),
    (1.5, int | str, "should be text, but is 1.5"),
    ([1, "a"], tuple[int, int], r"run.json\[1\] should be a whole number, but is 'a'"),
    ([1], tuple[int, int], r"run.json should be a list of 2, but is \[1\]"),
    ([{"size": 1}, {}], tuple[Thing, ...], r"run.json\[1\] has no `size`"),
]


@pytest.mark.parametrize(("value", "kind"), GOOD)
def test_what_fits_is_accepted(value: Any, kind: Any) -> None:
    check(value, kind, "run.json", "")


@pytest.mark.parametrize(("value", "kind", "message"), BAD)
def test_what_does_not_fit_is_named(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(DamagedFileError, match=f"{message}.* Again\\.$"):
        check(value, kind, "run.json", "Again.")


@dataclass(frozen=True)
class Box:
    thing: Thing
    rows: Sequence[Row] = ()
    sizes: tuple[int, float] | None = None
    named: Mapping[str, Thing] = field(default_factory=dict)


def test_mappings_become_dataclasses_and_are_written_as_mappings(tmp_path: Path) -> None:
    path = tmp_path / "box.json"
    path.write_text('{"thing": {"size": 1, "colour": "red"}, "rows": [{"name": "a", "ms": 2}], "sizes": [1, 2]}')
    box = read_checked(path, Box, "")
    assert box == Box(Thing(1), [{"name": "a", "ms": 2}], (1, 2.0))
    box = dataclasses.replace(box, named={"a": Thing(3, False)})
    write_json(path, [box])
    assert read_checked(path, list[Box], "") == [box]
    with pytest.raises(TypeError, match="is not JSON"):
        write_json(path, {1, 2})


def test_what_a_dataclass_refuses_names_the_file(tmp_path: Path) -> None:
    @dataclass
    class Even:
        size: int

        def __post_init__(self) -> None:
            if self.size % 2:
                raise InvalidValueError("A size must be even.")

    path = tmp_path / "even.json"
    path.write_text('{"size": 3}')
    with pytest.raises(DamagedFileError, match=r"even.json: A size must be even. Make it again."):
        read_checked(path, Even, "Make it again.")


def test_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text('{"name": "a", "ms": 2}')
    assert read_checked(path, Row, "") == {"name": "a", "ms": 2}
    path.write_text('{"name": "a", "ms": 1e400}')
    with pytest.raises(DamagedFileError, match="row.json.*1e400 is too large"):
        read_checked(path, Row, "")
    with pytest.raises(StorageError, match="nothing.json"):
        read_checked(tmp_path / "nothing.json", Row, "")
