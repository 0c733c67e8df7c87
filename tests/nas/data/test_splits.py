"""Parts that are given, parts that are drawn, and labels."""

import numpy as np
import pytest

from nas.data.splits import checked_labels, checked_names, numbered, parts_of
from search_spaces.base.errors import InvalidValueError

LABELS = np.repeat([0, 1], [20, 40])


def test_words_and_numbers_name_the_parts() -> None:
    words = np.array(["train", "val", "validation", "test", "training", "valid"])
    assert numbered(words, 6, "split").tolist() == [0, 1, 1, 2, 0, 1]
    assert numbered(np.array([0, 1, 2]), 3, "split").tolist() == [0, 1, 2]
    assert numbered(np.array([0, 1, 0], np.uint8), 3, "split").tolist() == [0, 2, 0]  # two parts: the other is test


@pytest.mark.parametrize(
    ("split", "got"),
    [
        (np.array(["train", "dev"]), "'dev' in shape"),
        (np.array([0, 3]), "3 in shape"),
        (np.array([-1, 0]), "-1 in shape"),
        (np.array([0.0, 1.0]), "0.0, 1.0 in shape"),
        (np.array(["train"]), r"'train' in shape \(1,\)"),
    ],
)
def test_other_splits_are_refused(split: np.ndarray, got: str) -> None:
    with pytest.raises(InvalidValueError, match=f"`split` must give each of 2 samples one of the words.*but got {got}"):
        numbered(split, 2, "`split`")


def test_parts_that_are_given_stay() -> None:
    given = np.arange(60) % 3
    parts = parts_of(LABELS, given, [0.8, 0.1, 0.1], 0, "mine")
    assert [rows.tolist() for rows in parts] == [list(range(first, 60, 3)) for first in range(3)]


def test_a_part_that_is_missing_is_drawn_from_train_class_by_class() -> None:
    given = np.where(np.arange(60) % 2, 2, 0)  # 10 and 20 to train, as many to test
    train, validation, test = parts_of(LABELS, given, [0.75, 0.25, 1e-9], 0, "mine")
    assert test.tolist() == list(range(1, 60, 2))
    assert sorted([*train, *validation]) == list(range(0, 60, 2))
    assert np.bincount(LABELS[validation]).tolist() == [2, 5]  # a quarter of 10, rounded to even, and of 20
    again = parts_of(LABELS, given, [0.75, 0.25, 1e-9], 0, "mine")
    other = parts_of(LABELS, given, [0.75, 0.25, 1e-9], 1, "mine")
    assert again[1].tolist() == validation.tolist() != other[1].tolist()


def test_all_parts_are_drawn_where_none_is_given() -> None:
    parts = parts_of(LABELS, None, [0.5, 0.25, 0.25], 0, "mine")
    assert [np.bincount(LABELS[rows]).tolist() for rows in parts] == [[10, 20], [5, 10], [5, 10]]
    assert sorted(np.concatenate(parts)) == list(range(60))


def test_one_image_per_class_cannot_be_cut_into_three_parts() -> None:
    with pytest.raises(InvalidValueError, match="of 3 they have train 3, validation 0, test 0. Give more images"):
        parts_of(np.arange(3), None, [0.8, 0.1, 0.1], 0, "mine")


def test_fractions_that_are_no_numbers_are_refused() -> None:
    for fractions in ([0.8, 0.1, float("nan")], [float("nan"), 0.5, 0.5]):
        with pytest.raises(InvalidValueError, match="three positive numbers that add up to 1"):
            parts_of(LABELS, None, fractions, 0, "mine")


def test_labels_and_names_are_checked() -> None:
    assert checked_labels(np.array([1, 0], np.uint8), 2, None, "Labels").dtype == np.int64
    assert checked_labels(np.array([5, 0]), 2, 6, "Labels").tolist() == [5, 0]
    for labels, classes, message in (
        ([0, 2], None, "without a gap, but got 2 different ones in 0..2. Renumber them"),
        ([0, -1], None, r"in -1..0. Renumber them, numpy.unique\(labels, return_inverse=True\)\[1\]\.$"),
        ([0, 2], 2, "must be in 0..1, as there are 2 classes, but got 0..2"),
        ([0], None, r"must be integers, shape \(2,\)"),
        ([0.0, 1.0], None, "must be integers"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            checked_labels(np.array(labels), 2, classes, "Labels")
    assert checked_names(["a", "b"], "Names") == ("a", "b")
    with pytest.raises(InvalidValueError, match="Names must be words"):
        checked_names(np.array([1, 2]), "Names")
