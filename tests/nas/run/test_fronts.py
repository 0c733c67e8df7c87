"""Fronts in files: read and checked, shown, chosen from, merged, exported and compared."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from nas.commands import front as front_command
from nas.commands.front import command
from nas.core import pareto
from nas.report.front_text import plot_text, round_numbers, summary_lines
from nas.run import fronts
from nas.run.fronts import Front, search_of
from nas.run.records import Column
from search_spaces import MobileNetV3
from search_spaces.architecture import Architecture
from search_spaces.base.errors import (
    DamagedFileError,
    InfeasibleError,
    InvalidValueError,
    MismatchError,
    StorageError,
    UnknownNameError,
)
from search_spaces.base.storage import write_json
from search_spaces.loading import load_space

OBJECTIVES = [
    {"name": "accuracy", "unit": "1", "goal": "max", "limit": None},
    {"name": "latency_ms", "unit": "ms", "goal": "min", "limit": 30.0},
    {"name": "macs", "unit": "1", "goal": "min", "limit": None},
    {"name": "memory_bytes", "unit": "bytes", "goal": None, "limit": 900.0},
]
THREE_GOALS = [(0.9, 10.0, 5e6, 400.0), (0.95, 20.0, 9e6, 600.0), (0.93, 25.0, 4e6, 800.0)]
TWO_GOALS = [(0.9, 10.0), (0.95, 20.0), (0.96, 30.0)]


def network(number: int) -> dict[str, Any]:
    """The architecture of a network, different for each number; the second choice matters for odd ones alone."""
    choices = {"depth": number, **({"kernel.2": 3} if number % 2 else {}), "head": "wide"}
    return {"space": "toy", "fingerprint": "0123", "choices": choices}


def old_content(points: list[tuple[float, float]], **changes: Any) -> dict[str, Any]:
    """A file of accuracy and latency that names no objectives."""
    found = [
        {"architecture": network(i), "accuracy": a, "latency_ms": ms, "memory_bytes": None}
        for i, (a, ms) in enumerate(points)
    ]
    searched = {"front": found, "hypervolume": 1.0, "evaluations": 100, "seconds": 2.0, "history": [[100, 1.0]]}
    return {
        "device": "board",
        "limits": {"latency_ms": 40.0, "memory_bytes": None},
        "reference": [0.5, 50.0],
        "searchers": {"nsga2": searched},
        **changes,
    }


def content(points: list[tuple[float, ...]] = THREE_GOALS, **changes: Any) -> dict[str, Any]:
    """A file with objectives."""
    names = [o["name"] for o in OBJECTIVES]
    found = [
        {"architecture": network(i), "values": dict(zip(names, values, strict=True))} for i, values in enumerate(points)
    ]
    searched = {"front": found, "hypervolume": 1.0, "evaluations": 100, "seconds": 2.0, "history": [[100, 1.0]]}
    return {
        "device": "board",
        "joint": None,
        "limits": {"latency_ms": 31.0, "memory_bytes": 900.0},
        "objectives": copy.deepcopy(OBJECTIVES),
        "reference": [0.5, 50.0, 1e7],
        "searchers": {"nsga2": searched},
        **changes,
    }


def written(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return written(tmp_path / "old.json", old_content(TWO_GOALS))


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return written(tmp_path / "three.json", content())


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_file_without_objectives_is_read_by_its_keys(old: Path) -> None:
    front = Front.read(old)
    assert (front.device, front.searcher, front.space, front.fingerprint) == ("board", "nsga2", "toy", "0123")
    assert (front.names, front.units) == (("accuracy", "latency_ms"), ("1", "ms"))
    assert front.values.tolist() == [list(point) for point in TWO_GOALS]
    assert front.costs.tolist() == [[-0.9, 10], [-0.95, 20], [-0.96, 30]]
    assert [column.limit for column in front.columns] == [None, 40]
    assert front.networks[1] == {"depth": 1, "kernel.2": 3, "head": "wide"}
    # 0.4 from 10 to 50 ms, 0.05 more from 20, 0.01 more from 30
    assert front.hypervolume == pytest.approx(0.4 * 40 + 0.05 * 30 + 0.01 * 20)


def test_memory_of_an_old_file_is_a_column_with_gaps(tmp_path: Path) -> None:
    data = old_content(TWO_GOALS, limits={"latency_ms": None, "memory_bytes": 500.0})
    data["searchers"]["nsga2"]["front"][1]["memory_bytes"] = 300
    front = Front.read(written(tmp_path / "f.json", data))
    assert front.names == ("accuracy", "latency_ms", "memory_bytes")
    assert front.columns[2].goal is None and front.columns[2].limit == 500
    np.testing.assert_array_equal(front.values[:, 2], [np.nan, 300, np.nan])
    assert front.known(0)["memory_bytes"] is None and front.known(1)["memory_bytes"] == 300
    assert "–" in "\n".join(summary_lines(front))


def test_objectives_and_values_go_before_the_old_keys(tmp_path: Path) -> None:
    data = content()
    for point in data["searchers"]["nsga2"]["front"]:
        point |= {"accuracy": 0.1, "latency_ms": 1.0, "memory_bytes": None}
    front = Front.read(written(tmp_path / "f.json", data))
    assert front.names == ("accuracy", "latency_ms", "macs", "memory_bytes")
    assert front.values.tolist() == [list(point) for point in THREE_GOALS]
    assert [goal.name for goal in front.goals] == ["accuracy", "latency_ms", "macs"]
    assert front.costs.tolist() == [[-a, ms, macs] for a, ms, macs, _ in THREE_GOALS]


def test_the_front_of_the_run_s_own_searcher_comes_first(tmp_path: Path) -> None:
    data = old_content(TWO_GOALS)
    data["searchers"]["random"] = {**data["searchers"]["nsga2"], "front": data["searchers"]["nsga2"]["front"][:1]}
    path = written(tmp_path / "f.json", data)
    assert (Front.read(path).searcher, len(Front.read(path))) == ("nsga2", 3)
    assert len(Front.read(path, "random")) == 1
    with pytest.raises(UnknownNameError, match=r"no front by 'nsga3'; it has those by nsga2, random"):
        Front.read(path, "nsga3")


def test_a_limit_without_a_goal_can_be_a_floor(tmp_path: Path) -> None:
    objectives = [
        {**OBJECTIVES[0], "goal": None, "limit": 0.9},
        *OBJECTIVES[1:3],
        {**OBJECTIVES[3], "name": "margin", "at_least": True},
    ]
    data = content(objectives=objectives, reference=[50.0, 1e7])
    for point in data["searchers"]["nsga2"]["front"]:
        point["values"]["margin"] = 1.0
    front = Front.read(written(tmp_path / "f.json", data))
    assert [column.at_least for column in front.columns] == [True, False, False, True]


def test_genes_are_those_of_the_space(small_space: MobileNetV3, tmp_path: Path) -> None:
    genes = small_space.canonical(small_space.sample(5, np.random.default_rng(0)))
    data = old_content([(0.9, 1.0)] * 5)
    for row, point in zip(genes, data["searchers"]["nsga2"]["front"], strict=True):
        point["architecture"] = Architecture(small_space, row).to_json()
    front = Front.read(written(tmp_path / "f.json", data))
    np.testing.assert_array_equal(front.genes(small_space), genes)
    with pytest.raises(MismatchError, match="belongs to space 'toy'"):
        Front.read(written(tmp_path / "g.json", old_content(TWO_GOALS))).genes(small_space)


def drop(*path: str | int) -> Any:
    """A change of a file's content: without the part that a path leads to."""

    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


def put(value: Any, *path: str | int) -> Any:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


POINT = ("searchers", "nsga2", "front", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("searchers"), "has no `searchers`"),
        (drop("device"), "has no `device`"),
        (drop("limits"), "has no `limits`"),
        (drop("reference"), "has no `reference`"),
        (put({}, "searchers"), "holds no searcher"),
        (put([], "searchers", "nsga2", "front"), "holds no network"),
        (drop("searchers", "nsga2", "evaluations"), "nsga2 has no `evaluations`"),
        (drop(*POINT, "architecture"), "front\\[1\\] has no `architecture`"),
        (drop(*POINT, "architecture", "choices"), "front\\[1\\]: architecture has no `choices`"),
        (drop(*POINT, "values"), "front\\[1\\] has no accuracy, which is a goal"),
        (drop(*POINT, "values", "macs"), "front\\[1\\] has no macs, which is a goal"),
        (put("fast", *POINT, "values", "latency_ms"), "latency_ms should be a finite number, but is 'fast'"),
        (put(True, *POINT, "values", "latency_ms"), "latency_ms should be a finite number, but is True"),
        (put("4567", *POINT, "architecture", "fingerprint"), "networks of several spaces"),
        (put(7, *POINT), "front\\[1\\] should be a mapping, but is 7"),
        (put([0.5], "reference"), "a number per goal, but has 1"),
        (put([0.5, None, 1.0], "reference"), "reference\\[1\\] should be a finite number, but is None"),
        (put("most", "objectives", 0, "goal"), "objectives\\[0\\]: goal should be 'max' or 'min', but is 'most'"),
        (drop("objectives", 0, "unit"), "objectives\\[0\\] has no `unit`"),
        (put([], "objectives"), "distinct names and a goal"),
        (put("macs", "objectives", 1, "name"), "distinct names"),
    ],
)
def test_what_lacks_something_is_named(change: Any, message: str, tmp_path: Path) -> None:
    data = content()
    change(data)
    path = written(tmp_path / "f.json", data)
    with pytest.raises(DamagedFileError, match=message) as caught:
        Front.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[1]", "should be a mapping"), ('"a"', "should be a mapping")]
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(DamagedFileError, match=message):
        Front.read(tmp_path / "f.json")


def test_an_absent_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"is a folder: give .*search/<device>.json"):
        Front.read(tmp_path)
    with pytest.raises(StorageError, match="does not exist"):
        Front.read(tmp_path / "none.json")


@pytest.mark.parametrize("data", [old_content(TWO_GOALS), content(), content(joint=["board", "other"])])
def test_writing_and_reading_again_gives_the_same_front(data: dict[str, Any], tmp_path: Path) -> None:
    front = Front.read(written(tmp_path / "f.json", data))
    write_json(tmp_path / "g.json", search_of([front]))
    again = Front.read(tmp_path / "g.json")
    for name in ("device", "searcher", "space", "fingerprint", "columns", "networks", "limits", "evaluations", "joint"):
        assert getattr(again, name) == getattr(front, name), name
    np.testing.assert_array_equal(again.values, front.values)
    np.testing.assert_array_equal(again.reference, front.reference)
    point = json.loads((tmp_path / "g.json").read_text())["searchers"]["nsga2"]["front"][0]
    assert (point["accuracy"], point["latency_ms"]) == (0.9, 10.0)
    assert point["memory_bytes"] == (400.0 if "memory_bytes" in front.names else None)


# -- choosing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "row"),
    [
        ({"latency_ms": 25}, 1),  # the most accurate in time
        ({"latency_ms": 10}, 0),  # a limit may be reached
        ({"accuracy": 0.93}, 1),  # the fastest of those accurate enough
        ({"accuracy": 0.91, "latency_ms": 26}, 2),  # of both limited, the goal that is left
        ({"memory_bytes": 500}, 0),
        ({"latency_ms": 30, "accuracy": 0.9, "macs": 1e7}, 1),  # all limited: by the first goal
        ({}, 1),
        ({"latency_ms": (15.0, None)}, 1),
        ({"latency_ms": (21.0, None)}, 2),
        ({"latency_ms": (None, 10.0)}, 0),
        ({"macs": (4e6, 4.5e6), "accuracy": (0.0, 1.0)}, 2),
    ],
)
def test_the_best_network_within_limits(three: Path, limits: dict[str, Any], row: int) -> None:
    assert fronts.choose(Front.read(three), limits) == row


def test_the_best_by_a_column(three: Path) -> None:
    front = Front.read(three)
    assert fronts.choose(front, {"latency_ms": 25}, "macs") == 2
    assert fronts.choose(front, {}, "memory_bytes") == 0
    with pytest.raises(UnknownNameError, match="no value 'energy'; it has accuracy, latency_ms, macs, memory_bytes"):
        fronts.choose(front, {}, "energy")


def test_ties_are_broken_by_the_other_goals(tmp_path: Path) -> None:
    points = [(0.9, 20.0, 2e6, 1.0), (0.9, 10.0, 3e6, 1.0), (0.9, 10.0, 2e6, 1.0)]
    assert fronts.choose(Front.read(written(tmp_path / "f.json", content(points))), {"memory_bytes": 2}) == 2


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"latency_ms": 5}, r"none with latency_ms ≤ 5: the least latency_ms is 10\. Set latency_ms=10\."),
        ({"accuracy": 0.99}, r"none with accuracy ≥ 0.99: the greatest accuracy is 0.95\. Set accuracy=0.95\."),
        (
            {"latency_ms": 15, "accuracy": 0.94},
            r"the least latency_ms with the other kept is 20 and the greatest accuracy with the other kept is 0.9\. "
            r"Set latency_ms=20 or accuracy=0.9\.",
        ),
        ({"latency_ms": 5, "accuracy": 0.94}, r"the least latency_ms with the other kept is 20\. Set latency_ms=20\."),
        ({"latency_ms": 5, "accuracy": 0.99}, r"The closest network needs latency_ms=10 and accuracy=0.9\."),
        (
            {"latency_ms": (11.0, 12.0)},
            r"none with latency_ms ≥ 11, latency_ms ≤ 12: .* Set latency_ms=10.. or latency_ms=..20\.",
        ),
    ],
)
def test_limits_that_cannot_be_kept_name_the_nearest(three: Path, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InfeasibleError, match=message):
        fronts.choose(Front.read(three), limits)


def test_an_unknown_value_keeps_no_limit(tmp_path: Path) -> None:
    data = content()
    for point in data["searchers"]["nsga2"]["front"][:2]:
        point["values"]["memory_bytes"] = None
    front = Front.read(written(tmp_path / "f.json", data))
    assert fronts.choose(front, {"memory_bytes": 1e9}) == 2
    data["searchers"]["nsga2"]["front"][2]["values"]["memory_bytes"] = None
    with pytest.raises(InfeasibleError, match="not all of these values are known"):
        fronts.choose(Front.read(written(tmp_path / "g.json", data)), {"memory_bytes": 1e9})


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(1e-9, 1e9)), min_size=1, max_size=8),
    st.sampled_from(["accuracy", "latency_ms"]),
)
def test_the_nearest_limit_can_be_kept(points: list[tuple[float, float]], name: str) -> None:
    front = made(points)
    with pytest.raises(InfeasibleError) as caught:
        fronts.choose(front, {name: 2.0 if name == "accuracy" else 1e-12})
    stated, value = str(caught.value).rsplit("Set ", 1)[1].rstrip(".").split("=")
    column = front.column(name)[1]
    row = fronts.choose(front, {stated: float(value)})
    assert column[row] == (column.max() if name == "accuracy" else column.min())
    assert float(value) == pytest.approx(column[row], rel=1e-3)


def made(points: list[tuple[float, float]], **changes: Any) -> Front:
    """A front that no file holds."""
    return Front(
        **{
            "source": "made",
            "device": "board",
            "searcher": "nsga2",
            "space": "toy",
            "fingerprint": "0123",
            "columns": (Column("accuracy", "1", "max", None, True), Column("latency_ms", "ms", "min")),
            "values": np.array(points, float),
            "networks": tuple(network(i)["choices"] for i in range(len(points))),
            "reference": np.array([0.0, 100.0]),
            "limits": {},
            "evaluations": 10,
            "seconds": 1.0,
            **changes,
        }
    )


# -- merging, exporting ------------------------------------------------------------------------------------------------


def test_the_union_is_what_no_network_of_any_front_dominates() -> None:
    first = made([(0.9, 10), (0.95, 20), (0.96, 30)])
    second = made([(0.94, 15), (0.955, 20), (0.96, 40)], reference=np.array([0.1, 90.0]))
    second = Front(**{**vars(second), "networks": tuple(network(10 + i)["choices"] for i in range(3))})
    union = fronts.merge([first, second])
    assert union.values.tolist() == [[0.9, 10], [0.94, 15], [0.955, 20], [0.96, 30]]
    assert [n["depth"] for n in union.networks] == [0, 10, 11, 2]
    assert union.reference.tolist() == [0.0, 100.0], "the worst of both"
    assert (union.searcher, union.evaluations, union.seconds) == ("merged", 20, 2.0)


def test_a_network_that_two_fronts_have_keeps_the_values_of_the_first() -> None:
    assert fronts.merge([made([(0.9, 10)]), made([(0.99, 1)])]).values.tolist() == [[0.9, 10]]


def test_the_strictest_limits_hold(tmp_path: Path) -> None:
    loose, strict = content(), content(limits={"latency_ms": 22.0, "memory_bytes": None})
    strict["objectives"] = [dict(o) for o in OBJECTIVES]
    strict["objectives"][1]["limit"], strict["objectives"][3]["limit"] = 21.0, None
    strict["objectives"][0]["limit"] = 0.5
    for point in strict["searchers"]["nsga2"]["front"]:
        point["architecture"]["choices"]["depth"] += 10
        point["values"]["accuracy"] -= 0.01
    files = [written(tmp_path / "a.json", loose), written(tmp_path / "b.json", strict)]
    union = fronts.merge([Front.read(path) for path in files])
    assert {c.name: c.limit for c in union.columns} == {
        "accuracy": 0.5,
        "latency_ms": 21.0,
        "macs": None,
        "memory_bytes": 900.0,
    }
    assert union.limits == {"latency_ms": 22.0, "memory_bytes": 900.0}
    assert union.column("latency_ms")[1].tolist() == [10.0, 20.0]  # sorted by the last goal, macs


def test_a_union_without_a_feasible_network_is_refused() -> None:
    columns = made([(0.9, 10)]).columns
    strict = made([(0.9, 10)], columns=(columns[0], Column("latency_ms", "ms", "min", 5.0)))
    with pytest.raises(InfeasibleError, match="latency_ms ≤ 5"):
        fronts.merge([made([(0.9, 10)]), strict])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "other"}, "of device other, but made of device board"),
        ({"space": "other"}, "of space other"),
        ({"fingerprint": "4567"}, "of space settings 4567"),
        ({"joint": ("board", "phone")}, "of device board and phone together, but made of device board"),
        ({"columns": (Column("accuracy", "1", "max"), Column("latency_ms", "ms", "max"))}, "the goals"),
        ({"columns": (Column("accuracy", "1", "max"), Column("macs", "1", "min"))}, "the goals"),
        (
            {
                "columns": (*made([(0.9, 1)]).columns, Column("macs", "1")),
                "values": np.array([[0.9, 10, 5.0]]),
            },
            "same values",
        ),
    ],
)
def test_fronts_that_do_not_belong_together_are_not_merged(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        fronts.merge([made([(0.9, 10)]), made([(0.9, 10)], **changes)])


def test_a_row_has_the_values_and_every_choice(three: Path) -> None:
    front = Front.read(three)
    rows = fronts.table(front)
    assert rows[1] == {
        "accuracy": 0.95,
        "latency_ms": 20.0,
        "macs": 9e6,
        "memory_bytes": 600.0,
        "depth": 1,
        "kernel.2": 3,
        "head": "wide",
    }
    assert list(rows[0])[-3:] == ["depth", "kernel.2", "head"], (
        "the first network lacks a choice, which keeps its place"
    )
    assert rows[0]["kernel.2"] is None
    read = list(csv.DictReader(io.StringIO(fronts.to_csv(front))))
    assert [float(row["macs"]) for row in read] == [5e6, 9e6, 4e6]
    assert [row["kernel.2"] for row in read] == ["", "3", ""]


# -- comparing ---------------------------------------------------------------------------------------------------------


def test_hypervolumes_have_one_reference_point() -> None:
    low, high = made([(0.5, 50)], reference=np.array([0.0, 100.0])), made([(0.4, 20)], reference=np.array([0.2, 60.0]))
    comparison = fronts.compare([("a", low), ("b", high)])
    assert comparison.reference.tolist() == [0.0, 100.0]
    assert comparison.hypervolumes == pytest.approx((25.0, 32.0))
    assert comparison.union == pytest.approx(25 + 0.4 * 30)
    with pytest.raises(MismatchError, match="of device other"):
        fronts.compare([("a", low), ("b", made([(0.4, 20)], device="other"))])


def test_attained_surfaces_of_each_searcher() -> None:
    runs = [made([(0.5, 50)]), made([(0.6, 50)]), made([(0.7, 60)]), made([(0.9, 90)], searcher="random")]
    found = fronts.attained(fronts.compare([(str(i), front) for i, front in enumerate(runs)]))
    surfaces = {name: found.natural(surface).tolist() for name, surface in found.surfaces["nsga2"].items()}
    # sorted by latency; the median is what two of three attain
    assert surfaces == {"best": [[0.6, 50], [0.7, 60]], "median": [[0.5, 50], [0.6, 60]], "worst": [[0.5, 60]]}
    assert all(found.natural(s).tolist() == [[0.9, 90]] for s in found.surfaces["random"].values())


def test_attainment_in_two_of_three_goals(three: Path) -> None:
    comparison = fronts.compare([("a", Front.read(three))])
    found = fronts.attained(comparison, x="macs")
    assert [goal.name for goal in found.goals] == ["accuracy", "macs"]
    # in these two goals the first network is dominated by the third
    assert found.natural(found.surfaces["nsga2"]["median"]).tolist() == [[0.93, 4e6], [0.95, 9e6]]
    assert found.union == pytest.approx(0.43 * 6e6 + 0.02 * 1e6)
    with pytest.raises(InvalidValueError, match="'memory_bytes' is no goal"):
        fronts.attained(comparison, x="memory_bytes")


# -- text --------------------------------------------------------------------------------------------------------------


def cells(lines: list[str], marks: str) -> list[tuple[int, int]]:
    """(line from below, column) of the marks in a plane."""
    plane = [line.split("│" if "│" in line else "┤", 1)[1] for line in lines if "│" in line or "┤" in line]
    return [
        (len(plane) - 1 - i, column)
        for i, line in enumerate(plane)
        for column, letter in enumerate(line)
        if letter in marks
    ]


def test_points_stand_where_their_values_are() -> None:
    x, y = np.array([0.0, 1.0, 2.0, np.nan]), np.array([0.0, 3.0, 4.0, 2.0])
    lines = plot_text(x, y, x_name="time", y_name="gain", marked=1, width=21, height=9)
    assert cells(lines, "•") == [(8, 20), (0, 0)] and cells(lines, "◆") == [(6, 10)]
    assert lines[0].split() == ["gain"] and lines[-1].split() == ["time"]
    assert len(lines) == 9 + 4


def test_ticks_stand_at_their_values() -> None:
    lines = plot_text(np.array([0.0, 2.0]), np.array([10.0, 14.0]), x_name="x", y_name="y", width=21, height=9)
    labelled = {int(line.split("┤")[0]): i for i, line in enumerate(lines) if "┤" in line}
    assert labelled == {14: 1, 12: 5, 10: 9}
    rule, texts = lines[10], lines[11]
    assert [i - rule.index("└") - 1 for i, letter in enumerate(rule) if letter == "┬"] == [0, 10, 20]
    assert texts.split() == ["0", "1", "2"]
    assert texts.index("1") == rule.index("└") + 11


def test_numbers_that_would_touch_are_left_out() -> None:
    x = np.array([1.00001, 1.00002, 1.00003])
    lines = plot_text(x, x, x_name="x", y_name="y", width=12, height=9)
    assert lines[11].split() == ["1.00001", "1.00003"] and lines[10].count("┬") == 2


def test_the_marked_point_is_not_covered_and_one_point_is_in_the_middle() -> None:
    same = np.array([5.0, 5.0, 5.0])
    lines = plot_text(same, same, x_name="x", y_name="y", marked=0, width=21, height=9)
    assert cells(lines, "◆") == [(4, 10)] and cells(lines, "•") == []
    assert plot_text(np.array([np.nan]), np.array([1.0]), x_name="x", y_name="y") == ["y over x: nothing to plot"]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_round_numbers_are_few_within_and_told_apart(low: float, span: float, most: int) -> None:
    high = low + max(span, 1e-6 * abs(low))
    found = round_numbers(low, high, most)
    assert 1 <= len(found) <= most
    tolerance = 1e-6 * (high - low)
    assert all(low - tolerance <= value <= high + tolerance for value, _ in found)
    assert len({text for _, text in found}) == len(found)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.021, 0.043, ["0.025", "0.030", "0.035", "0.040"]),
        (0, 4e6, ["0M", "1M", "2M", "3M", "4M"]),
        (1200, 5100, ["2,000", "3,000", "4,000", "5,000"]),
    ],
)
def test_round_numbers_as_text(low: float, high: float, texts: list[str]) -> None:
    assert [text for _, text in round_numbers(low, high, 5)] == texts


def test_a_summary_shows_the_ends_and_the_knee() -> None:
    points = [(0.5 + 0.4 * (1 - math.exp(-i / 3)), 10.0 + i) for i in range(40)]
    front = made(points)
    lines = summary_lines(front, plot=False)
    assert (
        lines[0]
        == "board, nsga2: 40 networks of toy on the front, 10 of them here (`nas front show FILE all=true` prints all)"
    )
    rows = [line for line in lines if line.startswith(("    ", "  ◆"))][1:]
    shown = [float(row.replace("◆", "").split()[2]) for row in rows]
    assert len(shown) == 10 and shown[0] == 10 and shown[-1] == 49 and shown == sorted(shown)
    (knee,) = [row for row in rows if row.endswith("knee")]
    assert float(knee.split()[3]) == points[pareto.knee(front.costs)][1]
    assert lines[-1].startswith(f"hypervolume {front.hypervolume:.4g} from the reference point")
    assert lines[-1].endswith("(accuracy 0, latency_ms 100); 10 evaluations in 1.0 s")
    more = summary_lines(front, plot=False, rows=40)
    assert more[0].endswith("40 networks of toy on the front")
    assert sum(line.startswith(("    ", "  ◆")) for line in more) == 41


def test_a_summary_says_the_limit_that_was_set_beside_the_one_searched_with() -> None:
    accuracy = Column("accuracy", "1", "max", None, True)
    columns = (accuracy, Column("latency_ms", "ms", "min", 19.0))
    front = made([(0.9, 10.0)], columns=columns, limits={"latency_ms": 20.0})
    assert "searched with latency_ms ≤ 19 (limit 20 less a margin)" in summary_lines(front, plot=False)
    front = made([(0.9, 10.0)], columns=columns, limits={"latency_ms": 19.0})
    assert "searched with latency_ms ≤ 19" in summary_lines(front, plot=False)


def test_a_front_with_one_value_has_no_plot() -> None:
    column = (Column("accuracy", "1", "max", 0.5, True),)
    front = made([(0.9, 1)], columns=column, values=np.array([[0.9]]), reference=np.array([0.5]))
    text = "\n".join(summary_lines(front))
    assert "│" not in text and "1 network of toy" in text and "searched with accuracy ≥ 0.5" in text


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["show", "-h"]])
def test_help_explains_every_word(arguments: list[str]) -> None:
    text = command(arguments)
    assert all(f"nas front {word}" in text for word in ("show", "choose", "merge", "export", "compare"))
    assert max(map(len, text.splitlines())) <= 120


def test_show(three: Path) -> None:
    text = command(["show", str(three)])
    assert "board, nsga2: 3 networks" in text and "latency_ms ≤ 30 (limit 31 less a margin), memory_bytes ≤ 900" in text
    lines = text.splitlines()
    assert lines[3].split() == ["no.", "accuracy", "latency_ms", "macs", "memory_bytes"]
    assert lines[5].split() == ["2", "0.9500", "20", "9,000,000", "600"]
    assert "macs" in command(["show", str(three), "x=macs"]).splitlines()[-3]
    with pytest.raises(UnknownNameError, match="no value 'energy'"):
        command(["show", str(three), "x=energy"])


def test_a_path_may_look_like_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "seed=0" / "f.json", content())
    monkeypatch.chdir(tmp_path)
    assert "3 networks" in command(["show", "seed=0/f.json"])


def test_a_terminal_without_these_letters_gets_others(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "ascii"

    monkeypatch.setattr("sys.stdout", Terminal())
    text = command(["show", str(three)])
    text.encode("ascii")
    assert "latency_ms <= 30" in text and "#" in text and "?" not in text


def test_choose_prints_json(three: Path) -> None:
    found = json.loads(command(["choose", str(three), "latency_ms=25"]))
    assert found["values"] == {"accuracy": 0.95, "latency_ms": 20.0, "macs": 9e6, "memory_bytes": 600.0}
    assert found["architecture"] == network(1)
    assert (found["row"], found["export"]) == (2, "export.pick=[2]")
    assert json.loads(command(["choose", str(three), "best=macs"]))["values"]["macs"] == 4e6
    assert json.loads(command(["choose", str(three), "macs=..5e6", "latency_ms=5..40"]))["row"] == 3
    assert json.loads(command(["choose", str(three), "macs=..5M", "memory_bytes=0..1KiB"]))["row"] == 3


def test_choose_gives_the_network_of_another_space_with_the_same_choices(tmp_path: Path) -> None:
    cifar, imagenet = load_space("darts_cifar"), load_space("darts_imagenet")
    data = content()
    data["searchers"]["nsga2"]["front"][1]["architecture"] = cifar.member("darts_v2").to_json()
    for i in (0, 2):
        data["searchers"]["nsga2"]["front"][i]["architecture"] = cifar.smallest.to_json()
    file = str(written(tmp_path / "cells.json", data))
    found = json.loads(command(["choose", file, "latency_ms=25", "space=darts_imagenet"]))["transferred"]
    assert (found["macs"], found["params"]) == (529_911_552, 4_718_752)
    assert Architecture.from_json(imagenet, found["architecture"]) == imagenet.member("darts_v2")
    with pytest.raises(MismatchError, match="of space 'darts_cifar' cannot be transferred to 'nasbench201'"):
        command(["choose", file, "latency_ms=25", "space=nasbench201"])


def test_the_knee_is_chosen_within_limits(three: Path) -> None:
    front = Front.read(three)
    assert json.loads(command(["choose", str(three), "best=knee"]))["row"] == front.knee + 1
    kept = np.flatnonzero(front.values[:, front.names.index("latency_ms")] <= 25)
    row = int(kept[pareto.knee(front.costs[kept])])
    assert json.loads(command(["choose", str(three), "best=knee", "latency_ms=25"]))["row"] == row + 1
    assert front.choose("knee").row == front.knee
    assert "no." in command(["show", str(three), "all=true"]) and "no." in command(["show", str(three), "rows=3"])
    with pytest.raises(InvalidValueError, match="`rows` must be a number >= 3, but got 'few'"):
        command(["show", str(three), "rows=few"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["latency_ms=25ms"], "`latency_ms` must be a number, in ms, or a range such as 2..3, but got '25ms'"),
        (["accuracy=nan"], "`accuracy` must be a number, or a range such as 2..3, but got 'nan'"),
        (["latency_ms=.."], "but got '..'"),
        (["latency_ms=3..x"], "but got '3..x'"),
        (["latency_ms=3..2"], "must be a range from less to more, but got '3..2'"),
        ([], "needs a limit on one of accuracy, latency_ms"),
        (["latency_ms="], "needs a value"),
        (["energy=3"], "has no value 'energy'"),
    ],
)
def test_choose_refuses(three: Path, settings: list[str], message: str) -> None:
    with pytest.raises((InvalidValueError, UnknownNameError), match=message):
        command(["choose", str(three), *settings])


def test_merge_writes_a_front(tmp_path: Path) -> None:
    data = content()
    weaker = json.loads(json.dumps(data["searchers"]["nsga2"]))
    for point in weaker["front"]:
        point["values"]["latency_ms"] -= 1
        point["values"]["accuracy"] -= 0.01
        point["architecture"]["choices"]["depth"] += 10
    data["searchers"]["random"] = weaker
    one, out = written(tmp_path / "seed=0" / "f.json", data), tmp_path / "out.json"
    text = command(["merge", str(out), str(one), "searcher=all"])
    assert f"3 networks of {one}, random" in text and "6 networks in the union" in text
    union = Front.read(out)
    assert len(union) == 6 and union.searcher == "merged"
    assert json.loads(out.read_text())["merged_from"] == [f"{one}: nsga2", f"{one}: random"]
    assert json.loads(out.read_text())["searchers"]["merged"]["front"][0].keys() >= {"accuracy", "latency_ms"}
    with pytest.raises(InvalidValueError, match="exists and is not overwritten"):
        command(["merge", str(out), str(one), "searcher=all"])
    with pytest.raises(InvalidValueError, match="two fronts or more, but got one"):
        command(["merge", str(tmp_path / "other.json"), str(one)])


def test_merge_and_compare_say_when_values_come_from_other_predictors(old: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.json", old_content(TWO_GOALS, reference=[0.4, 50.0]))
    limited = written(tmp_path / "limited.json", old_content(TWO_GOALS, limits={"latency_ms": 35.0}))
    assert "reference points differ" in command(["merge", str(tmp_path / "out.json"), str(old), str(other)])
    assert "reference points differ" in command(["compare", str(old), str(other)])
    assert "different limits" in command(["compare", str(old), str(limited)])
    copy = written(tmp_path / "copy.json", old_content(TWO_GOALS))
    assert "Note" not in command(["compare", str(old), str(copy)])


def test_export_writes_csv_and_json(three: Path, tmp_path: Path) -> None:
    assert "3 networks, 7 columns" in command(["export", str(three), str(tmp_path / "f.csv")])
    assert (tmp_path / "f.csv").read_text() == fronts.to_csv(Front.read(three))
    command(["export", str(three), str(tmp_path / "f.json")])
    assert json.loads((tmp_path / "f.json").read_text()) == fronts.table(Front.read(three))
    with pytest.raises(InvalidValueError, match="exists and is not overwritten"):
        command(["export", str(three), str(tmp_path / "f.json")])
    with pytest.raises(InvalidValueError, match=r"\*\.csv or \*\.json"):
        command(["export", str(three), str(tmp_path / "f.txt")])


def test_compare_shows_runs_and_what_they_attain(tmp_path: Path) -> None:
    files = []
    for seed, gain in enumerate([0.0, 0.01, 0.02]):
        points = [(accuracy - gain, ms) for accuracy, ms in TWO_GOALS]
        files.append(str(written(tmp_path / f"seed={seed}" / "search" / "board.json", old_content(points))))
    out = tmp_path / "plot.png"
    lines = command(["compare", *files, f"plot={out}"]).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(("seed=", "union"))}
    assert rows["seed=0"] == ["seed=0", "nsga2", "3", "17.70", "100.00", "%"]
    volume = 17.7 - 0.02 * 40
    assert rows["seed=2"][4] == f"{100 * volume / 17.7:.2f}"
    (attained,) = [line.split() for line in lines if line.startswith("nsga2") and "%" in line]
    assert attained[1:] == ["3", "100.00", "%", f"{100 * (17.7 - 0.4) / 17.7:.2f}", "%", rows["seed=2"][4], "%"]
    start = lines.index("accuracy that half of the runs attain at latency_ms of at most")
    assert lines[start + 1].split() == ["searcher", "10", "15", "20", "25", "30"]
    assert lines[start + 2].split() == ["nsga2", "0.8900", "0.8900", "0.9400", "0.9400", "0.9500"]
    assert imread(out).shape[1] > 1000


def test_compare_with_three_goals_and_with_one(three: Path, tmp_path: Path) -> None:
    text = command(["compare", str(three), "y=latency_ms", "x=macs"])
    assert "latency_ms that is attained at macs of at most" in text
    objectives = [dict(o) for o in OBJECTIVES]
    objectives[1]["goal"] = objectives[2]["goal"] = None
    one = written(tmp_path / "one.json", content(THREE_GOALS[1:2], objectives=objectives, reference=[0.5]))
    text = command(["compare", str(one)])
    assert "union" in text and "attained" not in text
    with pytest.raises(InvalidValueError, match="needs two goals"):
        command(["compare", str(one), f"plot={tmp_path / 'f.png'}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shw", "f"], "`nas front shw` does not exist; there are show, choose, merge, export, compare"),
        (["show"], "cannot work with 0 files"),
        (["show", "a.json", "b.json"], "cannot work with 2 files"),
        (["show", "a.json", "seed=1"], "has no setting 'seed'; it has searcher, x, y"),
        (["compare", "a.json", "plot=f.pdf"], r"a file \*.png"),
        (["compare", "a.json", "./a.json"], "given a file twice"),
        (["show", "runs/seed=1/a.json"], "runs/seed=1/a.json does not exist"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises((InvalidValueError, UnknownNameError, StorageError), match=message):
        command(arguments)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["runs/a/search/host.json", "runs/b/search/host.json"], ["a", "b"]),
        (["a.json", "b.json"], ["a", "b"]),
        (["/x/s=0/y/f.json", "/x/s=1/z/f.json"], ["s=0/y", "s=1/z"]),
        (["runs/a/f.json"], ["runs/a/f.json"]),
        (["f.json", "a/f.json"], ["f", "a/f"]),
    ],
)
def test_runs_are_called_by_what_tells_them_apart(paths: list[str], labels: list[str]) -> None:
    assert front_command._labels([Path(path) for path in paths]) == labels


def test_the_staircase_of_a_surface() -> None:
    surface = np.array([[5.0, 1.0], [3.0, 2.0]])  # (y, x) costs
    corners = front_command._staircase(surface, np.array([9.0, 8.0]))
    assert corners.tolist() == [[9, 1], [5, 1], [5, 2], [3, 2], [3, 8]]
