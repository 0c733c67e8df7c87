from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from search_spaces.base.checked import check, read_checked
from search_spaces.base.errors import DamagedFileError, StorageError


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
    ({"size": 1, "colour": "red"}, Thing, "unknown field 'colour'"),
    ({}, Thing, "has no `size`"),
    ({"size": 1, "good": 1}, Thing, "good should be true or false, but is 1"),
    ([1, "a"], list[int], r"run.json\[1\] should be a whole number, but is 'a'"),
    ({"a": [None]}, dict[str, list[int]], r"run.json: a\[0\] should be"),
    ("big", Literal["max", "min"], "should be 'max' or 'min', but is 'big'"),
    (1.5, int | str, "should be text, but is 1.5"),
]


@pytest.mark.parametrize(("value", "kind"), GOOD)
def test_what_fits_is_accepted(value: Any, kind: Any) -> None:
    check(value, kind, "run.json", "")


@pytest.mark.parametrize(("value", "kind", "message"), BAD)
def test_what_does_not_fit_is_named(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(DamagedFileError, match=f"{message}.* Again\\.$"):
        check(value, kind, "run.json", "Again.")


def test_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text('{"name": "a", "ms": 2}')
    assert read_checked(path, Row, "") == {"name": "a", "ms": 2}
    path.write_text('{"name": "a", "ms": 1e400}')
    with pytest.raises(DamagedFileError, match="row.json.*1e400 is too large"):
        read_checked(path, Row, "")
    with pytest.raises(StorageError, match="nothing.json"):
        read_checked(tmp_path / "nothing.json", Row, "")
