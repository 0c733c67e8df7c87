"""Data of classes some of which are rare."""

from pathlib import Path

import numpy as np
import pytest

import nas.data
from nas.data import load_data
from nas.tasks import Classification
from search_spaces.base.errors import InvalidValueError


def test_rare_classes_count_as_frequent_ones(tmp_path: Path) -> None:
    labels = np.array([0] * 30 + [1] * 10)
    np.savez(tmp_path / "mine.npz", images=np.random.default_rng(0).random((40, 6, 6)), labels=labels)
    plain = nas.data.npz(str(tmp_path / "mine.npz"))
    data = nas.data.imbalanced(plain)
    assert isinstance(data.task, Classification) and data.task.metric.name == "macro_f1"
    assert data.task.weights[1] == pytest.approx(3 * data.task.weights[0], rel=0.01)
    assert data.train is plain.train and data.test_part() is plain.test_part()
    assert data.fingerprint != plain.fingerprint
    other = nas.data.imbalanced(plain, weights=[1, 2], judged_by="accuracy").task
    assert other == Classification(2, weights=(1.0, 2.0))
    assert load_data("imbalanced", of="digits").task.metric.title == "macro F1"


def test_data_of_another_task_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="of exclusive classes"):
        nas.data.imbalanced(nas.data.super_resolution("digits"))
