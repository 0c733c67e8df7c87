"""Run files: what is written is read again, older files are read, damaged ones are refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from nas.run.records import (
    About,
    Column,
    Evaluated,
    Exported,
    Exports,
    FineTuned,
    Fits,
    HeldOut,
    Images,
    Imported,
    LatencyQuality,
    LayerCounts,
    Marker,
    Measured,
    Point,
    Predicted,
    PredictorQuality,
    RecalibrationCost,
    Retrained,
    RunFile,
    Search,
    Searched,
    StageTime,
    Verification,
    VerifiedNetwork,
    judging,
    read_about,
    read_file,
    read_marker,
)
from predictors import Quality
from predictors.learning_curve import LearningCurve
from search_spaces.architecture import ArchitectureJson
from search_spaces.base.errors import DamagedFileError, StorageError
from search_spaces.base.storage import read_json, write_json
from search_spaces.metric import TASK_METRICS

METRICS = Quality(mape=0.1, within_5=0.5, within_10=0.75, kendall_tau=0.9, spearman=0.95, top_10_regret=None)
HELD_OUT = HeldOut(truth=[1.0, 2.0], predicted=[1.5, 2.5], std=None)
LEARNING = LearningCurve(networks=[10, 20, 40], kendall_tau=[0.5, 0.6, 0.7])
ACCURACY = PredictorQuality(
    predictor="Ridge", unit="1", trained_on=20, metrics=METRICS, within_2_std=0.9, held_out=HELD_OUT, learning=LEARNING
)
LATENCY = LatencyQuality(
    predictor="Lookup table",
    unit="ms",
    trained_on=8,
    metrics=METRICS,
    within_2_std=None,
    noise_floor=METRICS,
    baselines={"plain sum of layers": METRICS},
    held_out=HELD_OUT,
    doubts=["3 layers have passes that do not agree."],
    terms={"scale": 1.5},
    method="isolated",
    layers=LayerCounts(measured=40, failed=1, predicted=2, expected_error=0.05),
)
ARCHITECTURE = ArchitectureJson(space="toy", fingerprint="0123", choices={"depth": 2, "head": "wide"})
COLUMNS = [
    Column("accuracy", "1", "max", 0.9),
    Column("latency_ms", "ms", "min"),
    Column("margin", "1", None, 1.0, True),
    Column("memory_bytes", "bytes", None, 900.0),
]
VALUES = {"accuracy": 0.95, "latency_ms": 2.5, "memory_bytes": None}
EVALUATED = Evaluated(networks=9, evaluated=5, left=4)

RECORDS: dict[str, RunFile] = {
    "run.json": About(
        name="digits",
        command="nas run",
        seed=3,
        space="toy",
        fingerprint="0123",
        space_size="12",
        made_of={"space": {"_target_": "toy.Toy"}},
        versions={"torch": "2"},
        commit="abc",
        created="2026-01-02",
        data=Images(name="digits", train=10, validation=5, test=5),
    ),
    "marker.json": Marker(
        identity="ab", command="nas fit", seed=1, seconds=2.5, complete=True, made={"fit/a.npz": "cd"}
    ),
    "recalibration.json": RecalibrationCost(
        conditions="ab", subnets=4, images=[0, 128, 512], scores=[0.2, 0.5, None], seconds=[0.1, 0.15, 0.2]
    ),
    "imported.json": Imported(file="/runs/a/train/supernet.pt", sha256="ab", unused=["extra"]),
    "quality.json": Fits(
        commit=None,
        accuracy=ACCURACY,
        latency={"board": LATENCY},
        memory={},
        metrics={"board": {"energy_mj": ACCURACY}},
    ),
    "search.json": Search(
        device="board",
        joint=["board", "phone"],
        limits={"latency_ms": 3.0, "memory_bytes": None},
        objectives=COLUMNS,
        reference=[0.5, 9.0],
        baselines={"scaled": [Point(architecture=ARCHITECTURE, accuracy=0.9, latency_ms=2.0, values=VALUES)]},
        searchers={
            "nsga2": Searched(
                front=[Point(architecture=ARCHITECTURE, accuracy=0.95, latency_ms=2.5, values=VALUES)],
                hypervolume=1.5,
                evaluations=100,
                failed=2,
                stopped="stalled",
                seconds=0.5,
                history=[(50, 1.0), (100, 1.5)],
            )
        },
        without_front={"random": "No network keeps the limits."},
    ),
    "networks.json": Exports(
        device="board",
        objectives=COLUMNS,
        recalibration_images=32,
        front=EVALUATED,
        picked=True,
        networks=[
            Exported(
                label="knee",
                folder="knee",
                row=3,
                predicted=Predicted(accuracy=0.95, latency_ms=2.5, memory_bytes=None, values=VALUES),
                evaluated_accuracy=0.94,
                parity={"onnx": 1e-6},
            )
        ],
    ),
    "finetune.json": FineTuned(
        device="board",
        networks=[
            Retrained(
                folder="knee",
                row=3,
                method="tinytl",
                epochs=10,
                seconds=4.5,
                training_bytes=123456,
                validation_accuracy=0.96,
                inherited_accuracy=0.94,
                parity={"onnx": 1e-6},
            )
        ],
    ),
    "verify.json": Verification(
        device="board",
        title="A board",
        backend="onnxruntime",
        dtype="int8",
        threads=None,
        batch=1,
        estimates=False,
        environment={"cpu": "x", "cores": 2},
        drift=1.01,
        accuracy_of="float32 network.onnx",
        objectives=COLUMNS,
        validation_images=5,
        test_images=7,
        recalibration_images=32,
        front=EVALUATED,
        picked=True,
        networks=[
            VerifiedNetwork(
                label="fastest",
                exported_as="knee",
                dominated_by="network 3",
                folder="export/board/knee",
                row=3,
                architecture=ARCHITECTURE,
                macs=1000,
                params=10,
                predicted=Predicted(accuracy=0.95, latency_ms=2.5, memory_bytes=None, values=VALUES),
                evaluated_accuracy=0.94,
                measured=Measured(
                    latency_ms=2.0,
                    p10_ms=1.5,
                    p90_ms=2.5,
                    noise=1.01,
                    agreed=False,
                    validation_accuracy=0.93,
                    test_accuracy=0.92,
                    memory_bytes=None,
                ),
                parity=1e-6,
                violations=["latency 2 ms is above the limit 1.9 ms"],
            )
        ],
    ),
}


def changed(name: str, path: Path, change: Any) -> Path:
    """A record's file with another content."""
    RECORDS[name].write(path)
    content = read_json(path)
    change(content)
    write_json(path, content)
    return path


@pytest.mark.parametrize("name", list(RECORDS))
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    record = RECORDS[name]
    record.write(tmp_path / name)
    assert type(record).read(tmp_path / name) == record
    assert list(read_json(tmp_path / name)) == [field.name for field in dataclasses.fields(record)]  # type: ignore[arg-type]


def test_rows_are_read_again(tmp_path: Path) -> None:
    times = [StageTime(stage="fit", seconds=1.5, skipped=False)]
    write_json(tmp_path / "stages.json", times)
    assert read_file(tmp_path / "stages.json", list[StageTime], "run") == times


OLDER: list[tuple[str, tuple[str | int, ...]]] = [
    ("run.json", ("data",)),
    ("run.json", ("made_of",)),
    ("marker.json", ("made",)),
    ("marker.json", ("identity",)),
    ("quality.json", ("latency", "board", "doubts")),
    ("quality.json", ("latency", "board", "layers")),
    ("quality.json", ("accuracy", "learning")),
    ("quality.json", ("metrics",)),
    ("search.json", ("joint",)),
    ("search.json", ("objectives",)),
    ("search.json", ("objectives", 2, "at_least")),
    ("search.json", ("without_front",)),
    ("search.json", ("searchers", "nsga2", "stopped")),
    ("search.json", ("searchers", "nsga2", "front", 0, "values")),
    ("verify.json", ("test_images",)),
    ("verify.json", ("picked",)),
    ("verify.json", ("networks", 0, "measured", "agreed")),
    ("verify.json", ("networks", 0, "predicted", "values")),
]
"""What files of older versions lack."""


@pytest.mark.parametrize(("name", "field"), OLDER)
def test_a_file_of_an_older_version_is_read(name: str, field: tuple[str | int, ...], tmp_path: Path) -> None:
    def drop(content: Any) -> None:
        for key in field[:-1]:
            content = content[key]
        del content[field[-1]]

    older = type(RECORDS[name]).read(changed(name, tmp_path / name, drop))
    assert older != RECORDS[name]


def test_a_field_of_a_newer_version_is_passed_over(tmp_path: Path) -> None:
    path = changed("networks.json", tmp_path / "networks.json", lambda content: content.update(colour="red"))
    assert Exports.read(path) == RECORDS["networks.json"]


def test_which_limits_are_floors() -> None:
    """As is usual for the goal and the name where a file does not say it."""
    assert [column.at_least for column in COLUMNS] == [True, False, True, False]
    assert Column("accuracy", "1").at_least and not Column("accuracy_loss", "1").at_least


DAMAGED: list[tuple[str, Any, str]] = [
    ("run.json", {"space": 3}, "space should be text, but is 3. Delete it to have it made again"),
    ("quality.json", {"memory": []}, "memory should be a mapping, but is []. Run `nas fit` again."),
    ("quality.json", {"latency": {"board": {}}}, "latency: board has no `predictor`. Run `nas fit` again."),
    ("search.json", {"reference": [None]}, "reference[0] should be a finite number, but is None. Run `nas search`"),
    ("imported.json", {"file": None}, "file should be text, but is None. Delete it, and what is beside it, to have it"),
    ("networks.json", {"front": {"networks": 1.5}}, "front has no `evaluated`. Run `nas export` again."),
    ("networks.json", {"networks": [3]}, "networks[0] should be a mapping, but is 3. Run `nas export` again."),
    ("verify.json", {"drift": True}, "drift should be a finite number, but is True. Run `nas verify` again."),
]


@pytest.mark.parametrize(("name", "changes", "message"), DAMAGED)
def test_a_damaged_file_is_refused_with_its_field_and_the_way_out(
    name: str, changes: Any, message: str, tmp_path: Path
) -> None:
    path = changed(name, tmp_path / name, lambda content: content.update(changes))
    with pytest.raises(DamagedFileError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}") as caught:
        type(RECORDS[name]).read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in RECORDS if name not in ("run.json", "marker.json")])
def test_half_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    RECORDS[name].write(tmp_path / name)
    (tmp_path / name).write_text((tmp_path / name).read_text()[:50])
    with pytest.raises(DamagedFileError, match=f"{name} is not valid JSON"):
        type(RECORDS[name]).read(tmp_path / name)


def test_a_file_that_is_not_there_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"quality.json does not exist: run `nas fit` first"):
        Fits.read(tmp_path / "quality.json")


def test_a_folder_that_nobody_has_claimed(tmp_path: Path) -> None:
    assert read_about(tmp_path) is None
    write_json(tmp_path / "run.json", {"space": "toy", "fingerprint": "0123"})
    about = read_about(tmp_path)
    assert about is not None and (about.space, about.data, about.made_of) == ("toy", None, {})


def test_a_damaged_marker_is_none_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "fit.json"
    assert read_marker(path) == Marker()
    path.write_text(json.dumps({"identity": "ab", "seconds": "long"}))
    assert read_marker(path) == Marker()
    assert "fit.json: seconds should be a finite number, but is 'long'. It is made again." in caplog.text


def test_every_run_file_is_tried_here() -> None:
    assert {type(record) for record in RECORDS.values()} == set(RunFile.__subclasses__())


def test_a_field_that_says_nothing_is_left_out(tmp_path: Path) -> None:
    columns = [Column("accuracy", "1", "max"), Column("dice", "1", "max", of_task=True)]
    write_json(tmp_path / "columns.json", columns)
    plain, own = read_json(tmp_path / "columns.json")
    assert "of_task" not in plain and own["of_task"] is True
    assert read_file(tmp_path / "columns.json", list[Column], "search") == columns
    assert [column.judges for column in columns] == [True, True] and not Column("macs", "1", "min").judges
    assert judging([Column("macs", "1", "min"), columns[1]]) == columns[1] and judging([]).name == "accuracy"


def test_a_network_trained_alone_is_told_in_a_line() -> None:
    row = Retrained(
        folder="knee",
        row=3,
        method="all",
        epochs=2,
        seconds=12.34,
        training_bytes=3 * 2**20,
        validation_accuracy=0.925,
        inherited_accuracy=0.9,
        parity={},
    )
    assert row.sentence(TASK_METRICS["accuracy"]) == "knee: accuracy 90.0 % -> 92.5 %, training memory 3.0 MiB, 12.3 s"
    from_nothing = dataclasses.replace(row, inherited_accuracy=None, validation_accuracy=31.5)
    assert from_nothing.sentence(TASK_METRICS["psnr_db"]) == "knee: PSNR 31.5 dB, training memory 3.0 MiB, 12.3 s"
