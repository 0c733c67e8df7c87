"""Data of one's own as a `torch.utils.data.Dataset` that has a length and gives an input with its label by number."""

from __future__ import annotations

import functools
import hashlib
import math
import struct
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from nas.data.base import PARTS, Data
from nas.data.images import check_shape
from nas.data.manifest import Stamp
from nas.data.pictures import COLOURS
from nas.data.splits import FRACTIONS, checked_labels, checked_names, parts_of
from nas.data.stored import stored_data
from nas.tasks import Classification
from search_spaces.base.building import TARGET, build
from search_spaces.base.errors import InvalidValueError, NasError

TRIED = 4
"""First items of each data set that are taken twice."""
HEAD = ">?3i"
"""Layout of what stands before the values of an input: whether they are bytes, and their shape."""


class Items(Protocol):
    """Inputs with their labels by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: Any, /) -> Any:
        """An input and its label."""


def torch_dataset(
    train: Dataset | str,  # type: ignore[type-arg]
    *,
    validation: Dataset | str | None = None,  # type: ignore[type-arg]
    test: Dataset | str | None = None,  # type: ignore[type-arg]
    classes: int | None = None,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    keep: bool = False,
    cache: str | None = None,
    name: str | None = None,
) -> Data:
    """Data sets of one's own.

    An item is an input and its label, a whole number from 0. The input is an image of Pillow, or a tensor or an array
    of shape (C, H, W) or (H, W), all of them bytes (which are divided by 255) or all floating-point numbers of which 0
    is black. It is the same each time: random changes belong to the training. An attribute ``classes`` that is a list
    of names gives those of the classes, ``targets`` all labels without loading inputs, and ``fingerprint``, text that
    changes with the content, saves loading all inputs at each start.

    Args:
        train: import path of the class, which is made without arguments, or of a function that gives the data set; or a
            mapping with ``_target_`` and arguments; or, from Python, an object.
        validation: the same; null: it is drawn from train.
        test: the same; null: it is drawn from train.
        classes: how many there are, where some have no item and none has a name.
        seed: of the parts that are drawn.
        fractions: of train, validation and test, per class, where parts are drawn.
        keep: whether inputs stay in memory, which suits small data.
        cache: folder for what a look at all inputs has shown; null: a folder of the run, or from Python none.
        name: what the data is called; the name of the training set's class by default.

    Raises:
        InvalidValueError: an item breaks the rules above.
    """
    given = dict(zip(PARTS, (train, validation, test), strict=True))
    sets = {part: _made(part, one) for part, one in given.items() if one is not None}
    source = DatasetItems(tuple(sets.values()), tuple(sets))
    title = name or type(sets["train"]).__name__
    names = _names(sets)
    labels = np.concatenate([source.labels(number) for number in range(len(sets))])
    labels = checked_labels(labels, len(source), len(names) or classes, f"Labels of {title!r}")
    split = np.repeat([PARTS.index(part) for part in sets], [len(one) for one in sets.values()])
    return stored_data(
        title,
        source,
        labels,
        parts_of(labels, split, fractions, seed, title),
        Classification(len(names) or classes or int(labels.max()) + 1, names),
        cache=cache,
        keep=keep,
    )


def _made(part: str, given: Any) -> Items:
    """The data set of a part."""
    found = build(f"data.{part}", {TARGET: given}, Dataset) if isinstance(given, str) else given
    lacks = [method for method in ("__len__", "__getitem__") if not hasattr(found, method)]
    if lacks or not len(found):
        why = f"it has no `{lacks[0]}`" if lacks else "it is empty"
        raise InvalidValueError(
            f"`data.{part}` must give items by their numbers, as a map-style data set of torch does, but {why}."
        )
    return cast(Items, found)


def _names(sets: Mapping[str, Items]) -> tuple[str, ...]:
    """Names of the classes, where the training set has some.

    Raises:
        InvalidValueError: another part has other ones, so that its labels count other classes.
    """
    given = {part: tuple(names) for part, one in sets.items() if _are_words(names := getattr(one, "classes", ()))}
    names = given.get("train", ())
    for part, others in given.items():
        if names and others != names:
            raise InvalidValueError(
                f"Labels of all parts must count the same classes, but `classes` of `data.{part}` are "
                f"{', '.join(others[:5])} ({len(others)}) and those of `data.train` {', '.join(names[:5])} "
                f"({len(names)}). Give each part a data set of all classes."
            )
    return checked_names(names, "`classes` of the data set") if names else ()


def _are_words(names: Any) -> bool:
    return isinstance(names, list | tuple) and len(names) > 0 and all(isinstance(name, str) for name in names)


@dataclass(frozen=True)
class DatasetItems:
    """Source of the items of one data set or several.

    Args:
        sets: one behind the other.
        parts: what each of them is, for messages.
    """

    sets: tuple[Items, ...]
    parts: tuple[str, ...]
    kind = "image"
    parallel = False  # it is somebody's code, which may not be made for threads
    preparation = None

    def __post_init__(self) -> None:
        start = 0
        for one in self.sets:
            for number in range(start, start + min(TRIED, len(one))):
                if self.content(number) != self.content(number):
                    raise InvalidValueError(
                        f"{self.name(number)} is another one each time that it is taken. Leave random changes to "
                        "`training`, so that validation and fingerprints hold still."
                    )
            start += len(one)

    @property
    def place(self) -> str:
        return " ".join(f"{type(one).__module__}.{type(one).__qualname__}" for one in self.sets)

    @functools.cached_property
    def scale(self) -> float:
        return 255.0 if _is_of_bytes(self.content(0)) else 1.0

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def _found(self, number: int) -> tuple[int, int]:
        """Data set and number in it."""
        for which, one in enumerate(self.sets):
            if number < len(one):
                return which, number
            number -= len(one)
        raise IndexError(number)

    def _item(self, number: int) -> tuple[Any, Any]:
        which, inner = self._found(number)
        try:
            item = self.sets[which][inner]
        except NasError:
            raise
        except Exception as error:  # of somebody's code
            *_, at = traceback.extract_tb(error.__traceback__)
            raise InvalidValueError(
                f"{self.name(number)} cannot be taken: {type(error).__name__}: {error} ({at.filename}, line "
                f"{at.lineno})"
            ) from error
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise InvalidValueError(
                f"{self.name(number)} must be an input and its label, but is {type(item).__name__}."
            )
        return item[0], item[1]

    def labels(self, which: int) -> NDArray[np.int64]:
        """Labels of a data set, (N,)."""
        one = self.sets[which]
        given = getattr(one, "targets", None)
        start = sum(map(len, self.sets[:which]))
        if given is None or len(given) != len(one):
            given = [self._item(start + number)[1] for number in range(len(one))]
        labels = np.asarray(given if hasattr(given, "dtype") else [_number(label) for label in given])
        if labels.dtype.kind not in "ui":
            raise InvalidValueError(
                f"Labels of `data.{self.parts[which]}` must be whole numbers, but got {given[0]!r}."
            )
        return labels.astype(np.int64)

    def name(self, number: int) -> str:
        which, inner = self._found(number)
        return f"item {inner} of {self.parts[which]}"

    def stamp(self, number: int) -> Stamp | None:
        said = getattr(self.sets[self._found(number)[0]], "fingerprint", None)
        if not isinstance(said, str):
            return None
        first, second, third = struct.unpack_from(">3q", hashlib.sha256(said.encode()).digest())
        return first, second, third

    def content(self, number: int) -> bytes:
        given, _ = self._item(number)
        values = _array(given)
        if values is None or values.ndim != 3:
            what = type(given).__name__ if values is None else f"{values.dtype} {values.shape}"
            raise InvalidValueError(
                f"The input of {self.name(number)} must be an image of Pillow, or a tensor or an array of numbers of "
                f"shape (C, H, W) or (H, W), but is {what}."
            )
        check_shape(f"The input of {self.name(number)}, as one of many,", (1, *values.shape))
        head = struct.pack(HEAD, values.dtype == np.uint8, *values.shape)
        return head + np.ascontiguousarray(values).tobytes()

    def decode(self, content: bytes) -> NDArray[Any]:
        _, *shape = struct.unpack_from(HEAD, content)
        if _is_of_bytes(content) != (self.scale == 255):
            kinds = ("floating-point numbers", "bytes")
            raise InvalidValueError(
                f"it is of {kinds[_is_of_bytes(content)]}, but {self.name(0)} of {kinds[self.scale == 255]}; all must "
                "be of one kind"
            )
        values = np.frombuffer(content, np.uint8 if _is_of_bytes(content) else np.float32, offset=struct.calcsize(HEAD))
        return values.reshape(shape)


def _is_of_bytes(content: bytes) -> bool:
    return bool(content[0])


def _array(given: Any) -> NDArray[Any] | None:
    """An input as bytes or float32, (C, H, W) where it is one; None: it is none."""
    if isinstance(given, Image.Image) and given.mode.startswith(("I", "F")):
        given = np.asarray(given)  # (H, W), more than 8 bits
    if isinstance(given, Image.Image):
        given = np.asarray(given.convert(COLOURS[1 if given.mode in ("1", "L") else 3]))
        given = np.atleast_3d(given).transpose(2, 0, 1)  # (C, H, W)
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "uif":
        return None
    values = given if given.dtype == np.uint8 else given.astype(np.float32)
    return values[None] if values.ndim == 2 else values


def _number(label: Any) -> Any:
    """A label as a plain number, where it is a tensor or an array of one."""
    return label.item() if hasattr(label, "item") and math.prod(label.shape) == 1 else label
