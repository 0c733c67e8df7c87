"""Values read from files, compared with the type that they should have."""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, NotRequired, TypeVar, Union, cast, get_args, get_origin, is_typeddict

from search_spaces.base.errors import DamagedFileError
from search_spaces.base.storage import contents_of, read_json

T = TypeVar("T")

_NAMES = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a finite number"}
_NAMES |= {bool: "true or false", types.NoneType: "null"}


def read_checked(path: Path, kind: type[T], remedy: str) -> T:
    """The content of a JSON file of a known form.

    Args:
        path: of the file.
        kind: what it holds, see `check`.
        remedy: the sentence that says how to get a good one.

    Raises:
        StorageError: it cannot be opened.
        DamagedFileError: it is not JSON, or of another form; the message names the file and the field.
    """
    content = read_json(path)
    with contents_of(path, remedy):
        return cast(T, check(content, kind, str(path), remedy))


def check(value: Any, kind: Any, where: str, remedy: str) -> Any:
    """Compare a JSON value with a type.

    Args:
        value: as read.
        kind: a typed dict or a dataclass, both by their fields; ``dict[str, ...]``, ``list[...]``, ``tuple[...]``, a
            union, a ``Literal``, or a plain type. A number is finite, and a truth value is none. A field with a default
            may be absent, as in a file of an older version; one that is not known, as of a newer one, is passed over.
        where: the file and the field, for the message.
        remedy: the sentence that says how to get a good file.

    Returns:
        The value, with mappings and lists made into the dataclasses and tuples that they stand for.

    Raises:
        DamagedFileError: a field is missing, or a value is of another type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, Union):
        return _check_union(value, inner, where, remedy)
    if origin is NotRequired:
        return check(value, inner[0], where, remedy)
    if origin is Literal:
        return value if value in inner else _refuse(value, " or ".join(map(repr, inner)), where, remedy)
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _check_fields(value, kind, where, remedy)
    if origin in (list, tuple, Sequence):
        _expect(value, list, where, remedy)
        fixed = origin is tuple and inner[-1] is not ...
        if fixed and len(value) != len(inner):
            _refuse(value, f"a list of {len(inner)}", where, remedy)
        kinds = inner if fixed else inner[:1] * len(value)
        items = [check(item, k, f"{where}[{i}]", remedy) for i, (item, k) in enumerate(zip(value, kinds, strict=True))]
        return tuple(items) if origin is tuple else items
    if origin in (dict, Mapping):
        _expect(value, dict, where, remedy)
        return {name: check(item, inner[1], f"{where}: {name}", remedy) for name, item in value.items()}
    _expect(value, kind, where, remedy)
    return float(value) if kind is float else value


def _check_union(value: Any, kinds: tuple[Any, ...], where: str, remedy: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    for kind in kinds[:-1]:
        try:
            return check(value, kind, where, remedy)
        except DamagedFileError:
            continue
    return check(value, kinds[-1], where, remedy)


def _check_fields(value: Any, kind: Any, where: str, remedy: str) -> Any:
    _expect(value, dict, where, remedy)
    hints, required = _fields(kind)
    for name in required:
        if name not in value:
            raise DamagedFileError(f"{where} has no `{name}`. {remedy}")
    fields = {
        name: check(value[name], field, f"{where}: {name}", remedy) for name, field in hints.items() if name in value
    }
    return {**value, **fields} if is_typeddict(kind) else kind(**fields)


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Types by field, and the fields that must be there."""
    hints = typing.get_type_hints(kind)
    if is_typeddict(kind):
        extras = typing.get_type_hints(kind, include_extras=True)
        optional = {name for name, hint in extras.items() if get_origin(hint) is NotRequired}
        return hints, tuple(name for name in hints if name in kind.__required_keys__ and name not in optional)
    missing, fields = dataclasses.MISSING, dataclasses.fields(kind)
    needed = tuple(f.name for f in fields if f.default is missing and f.default_factory is missing)
    return {f.name: hints[f.name] for f in fields}, needed


def _expect(value: Any, kind: type, where: str, remedy: str) -> None:
    accepted: Any = (int, float) if kind is float else kind
    fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    if fits and kind is float:
        try:
            fits = math.isfinite(value)
        except OverflowError:  # a whole number that is too large for a float
            fits = False
    if not fits:
        _refuse(value, _NAMES.get(kind, kind.__name__), where, remedy)


def _refuse(value: Any, expected: str, where: str, remedy: str) -> NoReturn:
    raise DamagedFileError(f"{where} should be {expected}, but is {reprlib.repr(value)}. {remedy}")
