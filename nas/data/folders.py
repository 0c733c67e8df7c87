"""Images in class folders, ``cats/a.jpg`` or ``train/cats/a.jpg``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nas.data.base import Data
from nas.data.class_folders import Files, class_folders
from nas.data.pictures import ENDINGS, Picture
from nas.data.splits import FRACTIONS, parts_of
from nas.data.stored import stored_data
from nas.tasks import Classification
from search_spaces.layers import size_of


def folder(
    path: str,
    *,
    size: int | str | None = None,
    fit: Literal["crop", "stretch"] = "crop",
    channels: int = 3,
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
    links: bool = False,
    keep: bool = False,
    cache: str | None = None,
    name: str | None = None,
) -> Data:
    """Images in a folder for each class, decoded as they are used.

    Args:
        path: of a folder of class folders, or of folders ``train``, ``validation`` and ``test`` that hold them; a part
            that is not there is drawn from train.
        size: that all images are brought to: a number for squares, or height x width such as 96x128; null: they have
            one size.
        fit: ``crop`` takes the largest part in the middle that has the shape of ``size``, ``stretch`` the whole image.
        channels: 3 for colours, 1 for grey.
        seed: of the parts that are drawn.
        fractions: of train, validation and test, per class, where parts are drawn.
        links: whether symbolic links may lead out of the folder.
        keep: whether decoded images stay in memory, which suits small data.
        cache: folder for what a look at all images has shown, so that the next start decodes none; null: a folder of
            the run, or from Python none.
        name: what the data is called; the folder's name by default.

    Raises:
        StorageError: the folder or a file cannot be read.
        InvalidValueError: the folder breaks the rules above, or images are damaged.
    """
    root = Path(path)
    found = class_folders(root, ENDINGS, "image", links=links)
    title = name or root.resolve().name
    return stored_data(
        title,
        Files(root, found.files, Picture(channels, None if size is None else size_of(size), fit), "image", 255),
        found.labels,
        parts_of(found.labels, found.split, fractions, seed, title),
        Classification(len(found.names), found.names),
        cache=cache,
        keep=keep,
        notes=found.notes,
    )
