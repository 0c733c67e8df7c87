"""Labels: the same by several processes, none made twice, refused where they cannot be made."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.run.labelling import conditions_of, evaluated
from nas.run.records import RecalibrationCost
from nas.run.settings import LabelSettings
from predictors import Predictor, macs
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import ACCURACY
from search_spaces.mobilenet_v3 import MobileNetV3

CONDITIONS = {"supernet": "abc"}


class Share:
    """Accuracy that is a network's share of the MACs of the biggest; some cannot be evaluated."""

    metric, unit = "accuracy", "1"

    def __init__(self, space: MobileNetV3, failing: Genes | None = None) -> None:
        self.macs, self.failing, self.asked = macs(space), failing, 0
        (self.most,) = self.macs.predict(space.biggest.genes[None])

    def predict(self, genes: Genes) -> Any:
        self.asked += 1
        if self.failing is not None and (genes[0] == self.failing).all():
            raise RuntimeError("out of memory")
        return self.macs.predict(genes) / self.most


def label_all(space: MobileNetV3, judge: Predictor, path: Path) -> Any:
    return evaluated(space, [space.smallest, space.biggest], lambda: judge, path, CONDITIONS, ACCURACY)


def test_each_network_is_evaluated_once(small_space: MobileNetV3, tmp_path: Path) -> None:
    judge, path = Share(small_space), tmp_path / "accuracy.jsonl"
    values = label_all(small_space, judge, path)
    assert values[1] == 1 and values[0] == small_space.smallest.macs / small_space.biggest.macs
    assert np.array_equal(label_all(small_space, judge, path), values) and judge.asked == 2
    conditions, *rows = map(json.loads, path.read_text().splitlines())
    assert conditions == {"conditions": CONDITIONS} and [row["accuracy"] for row in rows] == values.tolist()


def test_what_cannot_be_evaluated_is_said_and_the_others_are_kept(small_space: MobileNetV3, tmp_path: Path) -> None:
    path, failing = tmp_path / "accuracy.jsonl", Share(small_space, small_space.smallest.genes)
    with pytest.raises(InvalidValueError, match="1 of 2 networks could not be evaluated"):
        label_all(small_space, failing, path)
    judge = Share(small_space)
    assert label_all(small_space, judge, path)[1] == 1 and judge.asked == 1


def test_a_value_that_there_is_not_is_evaluated_again(small_space: MobileNetV3, tmp_path: Path) -> None:
    judge, path = Share(small_space), tmp_path / "accuracy.jsonl"
    values = label_all(small_space, judge, path)
    path.write_text(path.read_text().replace('"accuracy": 1.0', '"accuracy": 1.5'))
    assert np.array_equal(label_all(small_space, judge, path), values) and judge.asked == 3


def test_only_what_changes_labels_is_in_their_identity(few_digits: Any, small_space: MobileNetV3) -> None:
    old = {"subnets": 320, "held_out": 64, "recalibration_images": 512}
    assert LabelSettings().identity() == old == LabelSettings(workers=4).identity()
    assert LabelSettings(device="cuda").identity() == {**old, "device": "cuda"}
    assert LabelSettings(by="training").identity() == {**old, "by": "training"}
    on_cpu, on_gpu = (conditions_of(small_space, "abc", few_digits, 64, device) for device in ("cpu", "cuda:1"))
    assert list(on_cpu) == ["space", "supernet", "data", "recalibration_images", "part"]
    assert on_gpu == {**on_cpu, "device": "cuda"}


def test_what_recalibration_costs_and_gains() -> None:
    cost = RecalibrationCost(
        conditions="abc", subnets=4, images=[0, 16, 64], scores=[None, 0.9, 0.95], seconds=[0.3, 0.35, 0.4]
    )
    assert cost.share == pytest.approx(0.25)
    assert cost.sentence(ACCURACY) == (
        "recalibration of BatchNorm takes 25 % of the labelling time; the mean accuracy of 4 subnets is no number "
        "without it, 0.900 with 16 images and 0.950 with all 64"
    )


def test_recalibration_is_weighed_once_and_shown(nas_command: Callable[..., Any], finished: Path) -> None:
    path, report = finished / "label" / "recalibration.json", finished / "report" / "report.html"
    cost = RecalibrationCost.read(path)
    assert (cost.subnets, cost.images) == (4, [0, 16, 64]) and all(0 <= (one or 0) <= 1 for one in cost.scores)
    assert "recalibration of BatchNorm takes" in report.read_text()
    before = path.read_bytes()
    assert nas_command("label", f"out={finished}").code == 0 and path.read_bytes() == before
    path.unlink()
    assert nas_command("label", f"out={finished}").code == 0
    assert RecalibrationCost.read(path).scores == cost.scores


def test_a_device_that_is_not_here_is_refused(nas_command: Callable[..., Any], finished: Path) -> None:
    outcome = nas_command("label", f"out={finished}", "label.device=nowhere")
    assert outcome.code == 2 and "`label.device=nowhere` cannot be used here" in outcome.err


@pytest.mark.slow
def test_workers_give_the_same_labels_and_go_on_from_those_that_are_there(
    nas_process: Callable[..., Any], finished: Path
) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    path = finished / "label" / "accuracy.jsonl"
    first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([first, *rows[:4], ""]))
    done = nas_process("label", finished, "label.workers=2")
    assert done.returncode == 0, done.stderr
    again, *more = path.read_text().splitlines()
    assert again == first and more[:4] == rows[:4] and sorted(more) == sorted(rows)
