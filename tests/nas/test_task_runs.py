"""A whole run of each task on tiny data, from training to the report, by the task's own metric."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.nas.conftest import QUICK_DEVICE

LRASPP = (
    "space=mobilenet_v3_lraspp",
    "space.resolutions=['12x16']",
    "space.stem=8",
    "space.stages=[{channels: 8, stride: 2, squeeze: false, activation: relu},"
    "{channels: 16, stride: 2, squeeze: true, activation: relu}]",
    "space.depths=[1,2]",
    "space.expands=[2]",
    "space.last_channels=16",
    "space.head={kind: LRASPP, channels: [8,16], reads: [1]}",
)
SSDLITE = (
    "space=mobilenet_v3_ssdlite",
    *LRASPP[1:-1],
    "space.head={kind: SSDLite, reads: [1], extras: 1, anchors: 4, channels: [8,16], kernels: [3]}",
)
VECTOR = ("space=tiny", "space.resolutions=['12x16']", "space.in_channels=3")
SUPER = ("space=super_resolution", "space.resolutions=[4]", "space.in_channels=1", "space.widths=[4,8]")
SUPER = (*SUPER, "space.depths=[1,2]", "training.augment=[]")


def scenes(count: int = 48) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 3, 12, 16) with a brighter rectangle somewhere, and masks of where it is."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 60, (count, 3, 12, 16)), np.zeros((count, 12, 16), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        top, left = rng.integers(0, 6), rng.integers(0, 8)
        mask[top : top + 6, left : left + 8] = 1
        image[:, mask == 1] += 150
    masks[:, 0, 0] = 255
    return images.astype(np.uint8), masks


def arrays_of(task: str) -> dict[str, NDArray[Any]]:
    images, masks = scenes()
    inside = masks == 1
    match task:
        case "segmentation":
            targets: dict[str, NDArray[Any]] = {"masks": masks}
        case "detection":
            corners = [(mask[1:].any(0).argmax(), mask[1:].any(1).argmax() + 1) for mask in inside]
            boxes = np.array([[x, y, x + 8, y + (6 if y > 1 else 5)] for x, y in corners], np.float32)
            count = np.arange(len(images))
            targets = {"boxes": boxes, "box_labels": count % 2, "box_image": count}
        case "dense_regression":
            targets = {"maps": np.where(inside, 3.0, 1.0)}
        case "regression":
            targets = {"values": 10.0 * inside.argmax(2).max(1)}
        case _:
            targets = {"labels": np.stack([inside[:, :6].any((1, 2)), inside[:, :, 10:].any((1, 2))], 1).astype(int)}
    return {"images": images, **targets}


RUNS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "segmentation": ("miou", "max", "mIoU (%)", (*LRASPP, "space.classes=2")),
    "detection": ("ap50", "max", "AP50 (%)", (*SSDLITE, "space.classes=2", "data.largest=0.6")),
    "dense_regression": ("mae", "min", "mean absolute error (m)", (*LRASPP, "space.classes=1", "data.unit=m")),
    "regression": ("mae", "min", "mean absolute error (cm)", (*VECTOR, "space.classes=1", "data.unit=cm")),
    "multi_label": ("mean_average_precision", "max", "mean average precision (%)", (*VECTOR, "space.classes=2")),
    "super_resolution": ("psnr_db", "max", "PSNR (dB)", (*SUPER, "data.of=digits")),
}
"""Task -> name, direction and heading of its metric, and settings."""


@pytest.mark.parametrize(
    "task", ["segmentation", *(pytest.param(task, marks=pytest.mark.slow) for task in RUNS if task != "segmentation")]
)
def test_a_task_goes_through_a_whole_run(task: str, nas_command: Callable[..., Any], tmp_path: Path) -> None:
    name, direction, heading, settings = RUNS[task]
    (tmp_path / "quick.yaml").write_text(QUICK_DEVICE)
    given = [f"out={tmp_path / 'run'}", f"device={tmp_path / 'quick.yaml'}", f"data={task}", *settings]
    if task != "super_resolution":
        np.savez(tmp_path / "mine.npz", **arrays_of(task))
        given.append(f"data.path={tmp_path / 'mine.npz'}")
    small = ["training.batch_size=16", "search.evaluations=60", "search.objectives=[accuracy,macs]"]
    if task == "segmentation":
        small[-1] = "search.objectives=[miou,macs]"
    outcome = nas_command("run", *given, *small, "export.networks=2", "profile.networks=8")
    assert outcome.code == 0, outcome

    run = tmp_path / "run"
    conditions, *labels = [json.loads(line) for line in (run / "label" / "accuracy.jsonl").read_text().splitlines()]
    assert conditions and all(np.isfinite(row[name]) for row in labels)
    search = json.loads((run / "search" / "quick.json").read_text())
    column = next(column for column in search["objectives"] if column["name"] == name)
    assert column["goal"] == direction and name not in ("accuracy",)
    verified = json.loads((run / "verify" / "quick.json").read_text())
    assert verified["networks"]
    for network in verified["networks"]:
        measured = network["measured"]
        assert np.isfinite([measured["validation_accuracy"], measured["test_accuracy"]]).all()
        assert measured["test_error"] >= 0 and network["predicted"]["values"][name] is not None
        how = json.loads((run / network["folder"] / "preprocessing.json").read_text())
        if task == "detection":
            assert how["decoding"] and how["anchors"] and [one["shape"][0] for one in how["outputs"]] == [1] * 6
        else:
            assert how["output"]["meaning"] and how["output"]["shape"][0] == 1
    page = (run / "report" / "report.html").read_text()
    assert heading in page and "accuracy (%)" not in page


def test_a_metric_of_another_task_is_refused(nas_command: Callable[..., Any], tmp_path: Path) -> None:
    outcome = nas_command("run", f"out={tmp_path / 'run'}", "search.objectives=[miou,latency_ms]")
    assert outcome.code == 2
    assert "name miou, but the task of data 'digits' is judged by accuracy" in outcome.err


def test_a_limit_is_in_the_unit_of_the_metric(nas_command: Callable[..., Any], tmp_path: Path) -> None:
    given = [f"out={tmp_path / 'run'}", "data=super_resolution", "data.of=digits", *SUPER]
    outcome = nas_command("run", *given, "limit.accuracy=2000", "limit.macs=1")
    assert outcome.code == 2 and "a fraction" not in outcome.err
    outcome = nas_command("run", f"out={tmp_path / 'other'}", "limit.accuracy=20")
    assert outcome.code == 2 and "is a fraction, at most 1, but got 20. Did you mean 0.2?" in outcome.err
