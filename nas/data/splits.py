"""Parts of data: those that are given, and those that are drawn, class by class; and checks of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.base import PARTS
from search_spaces.base.errors import InvalidValueError

WORDS = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2}
"""Words for the parts, with their numbers in the order of ``PARTS``."""
FRACTIONS = (0.8, 0.1, 0.1)
"""Fractions of train, validation and test."""


def numbered(split: NDArray[Any], count: int, where: str) -> NDArray[np.int64]:
    """Part of each sample as a number: 0 train, 1 validation, 2 test.

    Args:
        split: words, or these numbers; where no sample is of part 2, 1 is test, as in files that know two parts.
        count: samples that there are.
        where: names the split, for the message.

    Raises:
        InvalidValueError: it says something else.
    """
    values = np.unique(split).tolist()
    whole = split.dtype.kind in "ui"
    wrong = [value for value in values if value not in (range(len(PARTS)) if whole else WORDS)]
    if split.shape != (count,) or wrong:
        got = f"{', '.join(map(repr, wrong[:3] or values[:3]))} in shape {split.shape}"
        raise InvalidValueError(
            f"{where} must give each of {count} samples one of the words {', '.join(PARTS)}, or of the numbers 0 "
            f"(train), 1 (validation) and 2 (test), but got {got}."
        )
    if whole:
        return np.where((split == 1) & (2 not in values), 2, split).astype(np.int64)
    return np.array([WORDS[word] for word in split.tolist()], np.int64)


def parts_of(
    labels: NDArray[np.int64], given: NDArray[np.int64] | None, fractions: Sequence[float], seed: int, name: str
) -> list[NDArray[np.intp]]:
    """Indices of train, validation and test.

    Args:
        labels: of the samples, (N,).
        given: part of each, see `numbered`; None: none is given. Validation and test, where nothing is of them, are
            drawn from train.
        fractions: of train, validation and test, per class.
        seed: of the draw.
        name: of the data.

    Raises:
        InvalidValueError: the fractions are none, or a part is empty.
    """
    if len(fractions) != len(PARTS) or not (min(fractions) > 0 and abs(sum(fractions) - 1) <= 1e-6):
        raise InvalidValueError(f"`fractions` are three positive numbers that add up to 1, but got {list(fractions)}.")
    given = np.zeros(len(labels), np.int64) if given is None else given
    found = [np.flatnonzero(given == number) for number in range(len(PARTS))]
    drawn = [0, *(number for number in (1, 2) if not len(found[number]))]
    if len(drawn) > 1:
        shares = [fractions[number] for number in drawn]
        shares = shares if len(drawn) == len(PARTS) else [share / sum(shares) for share in shares]
        within = found[0]
        for number, rows in zip(drawn, _stratified(labels[within], shares, seed), strict=True):
            found[number] = within[rows]
    if not all(map(len, found)):
        counts = ", ".join(f"{name} {len(rows)}" for name, rows in zip(PARTS, found, strict=True))
        raise InvalidValueError(
            f"Each part of {name!r} needs an image, but of {len(labels)} they have {counts}. Give more images of each "
            "class, or other `fractions`."
        )
    return found


def _stratified(labels: NDArray[np.int64], fractions: Sequence[float], seed: int) -> list[NDArray[np.intp]]:
    """Indices of each part, in random order; every class is cut at the same fractions."""
    order = np.random.default_rng(seed).permutation(len(labels))
    part_of = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        cuts = np.round(np.cumsum(fractions)[:-1] * len(members)).astype(int)
        for number, chunk in enumerate(np.split(members, cuts)):
            part_of[chunk] = number
    return [order[part_of[order] == number] for number in range(len(fractions))]


def checked_labels(labels: NDArray[Any], count: int, classes: int | None, where: str) -> NDArray[np.int64]:
    """Labels that count classes from 0.

    Args:
        labels: whole numbers, (count,).
        count: samples that there are.
        classes: how many classes there are; None: each of 0 to the largest label has a sample.
        where: names the labels, for the message.

    Raises:
        InvalidValueError: they do not.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "ui":
        raise InvalidValueError(f"{where} must be integers, shape ({count},), but got {labels.dtype} {labels.shape}.")
    if not count:
        raise InvalidValueError(f"{where} are of no image.")
    found, low, high = np.unique(labels), int(labels.min()), int(labels.max())
    if classes is None and (low != 0 or len(found) != high + 1):
        raise InvalidValueError(
            f"{where} must count classes from 0 without a gap, but got {len(found)} different ones in {low}..{high}. "
            "Renumber them, numpy.unique(labels, return_inverse=True)[1]"
            + ("." if low < 0 else f", or say `data.classes={high + 1}` if some have no image on purpose.")
        )
    if classes is not None and not 0 <= low <= high < classes:
        raise InvalidValueError(
            f"{where} must be in 0..{classes - 1}, as there are {classes} classes, but got {low}..{high}."
        )
    return labels.astype(np.int64)


def checked_names(names: NDArray[Any] | Sequence[str], where: str) -> tuple[str, ...]:
    """Names of classes.

    Args:
        names: words, one for each class, in the order of the labels.
        where: says what they are of, for the message.

    Raises:
        InvalidValueError: they are no words.
    """
    words = np.asarray(names)
    if words.ndim != 1 or words.dtype.kind != "U":
        raise InvalidValueError(f"{where} must be words, one for each class, but got {words.dtype} {words.shape}.")
    return tuple(words.tolist())
