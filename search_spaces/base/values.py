"""Tests of plain data (of YAML, JSON) against annotations."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from search_spaces.base.errors import InvalidValueError
from search_spaces.base.names import closest

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Between:
    """Bounds of a number, as a part of its annotation: ``Annotated[int, Between(1, 9)]``. NaN is in none."""

    least: float
    most: float

    @property
    def text(self) -> str:
        """The bounds in words for a message."""
        return f"from {self.least:g} to {self.most:,}"


LARGEST, MANY, FEW = 2**24, 2**12, 2**10
"""The largest number of channels, the largest extent of a window or stride, and the largest number of parts in a row,
that layers and operators take: far beyond any network, and small enough that a slip of the pen is refused at once."""

Count = Annotated[int, Between(1, LARGEST)]
Window = Annotated[int, Between(1, MANY)]
Border = Annotated[int, Between(0, MANY)]
Parts = Annotated[int, Between(1, FEW)]
Percent = Annotated[float, Between(0, 100)]
Multiple = Annotated[float, Between(0.001, 10_000)]
Positive = Annotated[float, Between(sys.float_info.min, sys.float_info.max)]
Finite = Annotated[float, Between(-sys.float_info.max, sys.float_info.max)]

_PLAIN = (bool, int, float, str, list, dict, type(None))
_LISTS = (list, tuple, Sequence, Collection)


def hints_of(found: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function or of a class's constructor, by argument; ``return`` as well. What cannot be resolved
    is `Any`."""
    has_fields = not inspect.isclass(found) or dataclasses.is_dataclass(found) or typing.is_typeddict(found)
    asked: Any = found if has_fields else vars(found).get("__init__", found.__init__)
    unknown: dict[str, Any] = {}
    while True:
        try:
            hints = typing.get_type_hints(asked, localns=unknown or None, include_extras=True)
        except NameError as error:  # imported for type checkers alone
            if error.name is None or error.name in unknown:
                return {}
            unknown[error.name] = Any
        else:
            return {name: hint.type if isinstance(hint, dataclasses.InitVar) else hint for name, hint in hints.items()}


def words_of(found: Callable[..., Any]) -> type | None:
    """Typed dictionary of the further arguments that a function takes by name, ``**words: Unpack[Words]``; None: there
    is none."""
    unpacked = (
        typing.get_args(hint)[0] for hint in hints_of(found).values() if typing.get_origin(hint) is typing.Unpack
    )
    return next(unpacked, None)


def fits(value: Any, hint: Any) -> bool:
    """True if a value is of the annotated type. A whole number is a float too, a list a tuple or a sequence; a boolean
    is no number. Mappings pass for dataclasses, what numpy makes an array of for arrays, and for a protocol each object
    that has its methods."""
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [one for one in inner[1:] if isinstance(one, Between)]
        return fits(value, inner[0]) and all(one.least <= value <= one.most for one in bounds)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if hint is None or hint is type(None):
        return value is None
    kind = origin or hint
    if kind in (bool, int, str):
        return type(value) is kind
    if kind is float:
        return type(value) in (int, float)
    if isinstance(kind, type) and issubclass(kind, Path):
        return isinstance(value, str | Path)
    if kind in _LISTS:
        if not isinstance(value, list | tuple):
            return False
        if kind is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return not inner or all(fits(one, inner[0]) for one in value)
    if kind in (dict, Mapping):
        if not isinstance(value, Mapping):
            return False
        return not inner or all(fits(key, inner[0]) and fits(one, inner[1]) for key, one in value.items())
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return True
    if isinstance(value, _PLAIN) or not isinstance(kind, type):
        return not isinstance(value, _PLAIN)
    if kind is np.ndarray:
        return hasattr(value, "__array__")
    if is_protocol(kind):
        return not isinstance(value, type) and has_methods(value, kind)
    return isinstance(value, kind)


def is_protocol(kind: type) -> bool:
    """True if a class is a protocol."""
    return bool(getattr(kind, "_is_protocol", False))


def has_methods(found: Any, protocol: type) -> bool:
    """True if a class or an object has the methods of a protocol."""
    bases = [base for base in protocol.__mro__ if is_protocol(base) and base.__module__ != "typing"]
    methods = {name for base in bases for name, value in vars(base).items() if callable(value) and name[0] != "_"}
    return all(callable(getattr(found, name, None)) for name in methods)


def check_fields(owner: str, made: Any, examples: Mapping[str, str] | None = None) -> None:
    """Refuse values of a dataclass that are not of the annotated types; scalars of numpy count as numbers.

    Args:
        owner: whose fields they are, for messages.
        made: the dataclass.
        examples: of right values, by field, for messages.

    Raises:
        InvalidValueError: names the field, what it must be, and what it is.
    """
    for name, hint in hints_of(type(made)).items():
        value, example = getattr(made, name), (examples or {}).get(name)
        if not fits(plain(value), hint):
            such = "" if example is None else f", such as {example}"
            raise InvalidValueError(f"`{name}` of {owner} must be {described(hint)}{such}, but got {value!r}.")


class FieldRules:
    """Annotations that the fields of a dataclass must fit, where it is made thousands of times: each value is compared
    once.

    Args:
        kind: the dataclass, whose instances are hashable.
        changed: annotation in place of a field's own, given its name and that.
    """

    def __init__(self, kind: type, changed: Callable[[str, Any], Any]) -> None:
        hints = hints_of(kind)
        own = {field.name: changed(field.name, hints.get(field.name, Any)) for field in dataclasses.fields(kind)}
        self._name, self._hints = kind.__name__, {name: hint for name, hint in own.items() if hint is not Any}
        self._fits = functools.lru_cache(2**12, typed=True)(lambda name, value: fits(value, self._hints[name]))

    def check(self, made: Any) -> None:
        """Compare the fields of an instance.

        Raises:
            InvalidValueError: names the field, what it must be, and what it is.
        """
        for name, hint in self._hints.items():
            value = getattr(made, name)
            try:
                good = self._fits(name, value)
            except TypeError as error:
                raise InvalidValueError(
                    f"{self._name}.{name} must be hashable, such as a tuple in place of a list, but got {value!r}."
                ) from error
            if not good:
                raise InvalidValueError(f"{self._name}.{name} must be {described(hint)}, but got {value!r}.")


def check_settings(owner: str, given: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
    """Refuse settings that do not fit annotations.

    Args:
        owner: whose settings they are, for messages.
        given: values by name.
        rules: annotations by name; those that are not given are passed over.

    Raises:
        InvalidValueError: names the setting, what it must be, and what it is.
    """
    for name, hint in rules.items():
        value = given.get(name)
        plain_value = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        if name in given and not fits(plain_value, hint):
            raise InvalidValueError(f"`{name}` of {owner} must be {described(hint)}, but got {value!r}.")


def finite(hint: Any) -> Any:
    """The annotation, of which a plain number is to be finite."""
    return Finite if hint is float else hint


def decimal(text: str) -> float:
    """Number that a text states as Python writes it, such as ``12``, ``-0.5`` or ``1e-3``.

    Raises:
        ValueError: it does not; digits of other scripts and underscores, which Python reads, are no part of one.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def whole_number(text: str) -> int | None:
    """Number >= 0 that a text states in ASCII digits, without zeros in front; None: it does not."""
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,17}", text) else None


def plain(value: Any) -> Any:
    """The value, a scalar of numpy as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def real_numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Values as an array of real numbers.

    Raises:
        InvalidValueError: they are complex, or no numbers.
    """
    try:
        if not np.iscomplexobj(values):
            return np.asarray(values, np.float64)
        problem: Any = "complex ones lose their imaginary part"
    except (TypeError, ValueError) as error:
        problem = error
    raise InvalidValueError(f"{name} must be numbers: {problem}.")


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with arguments that are not of the annotated types refused; scalars of numpy count as numbers.

    Raises:
        InvalidValueError: names the argument, what it must be, and what it is; or one that the function does not have.
    """
    signature = inspect.signature(function)
    hints_once = functools.cache(lambda: hints_of(function))  # not before the first call: they may be defined later

    @functools.wraps(function)
    def checked(*args: P.args, **words: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **words)
        except TypeError as error:
            raise InvalidValueError(_misfit(function.__name__, signature, words, error)) from None
        hints = hints_once()
        for name, given in bound.arguments.items():
            is_words = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            words_of = {key: plain(value) for key, value in (given if is_words else {name: given}).items()}
            for key, value in words_of.items():
                if name in hints and not fits(value, hints[name]):
                    hint = f" Call it: {value.__name__}(...)." if isinstance(value, type) else ""
                    raise InvalidValueError(f"`{key}` must be {described(hints[name])}, but got {value!r}.{hint}")
            bound.arguments[name] = words_of if is_words else words_of[name]
        return function(*bound.args, **bound.kwargs)

    return checked


def _misfit(name: str, signature: inspect.Signature, words: Collection[str], error: TypeError) -> str:
    """Message about arguments that a function does not take."""
    known = [
        p.name
        for p in signature.parameters.values()
        if p.kind is not p.POSITIONAL_ONLY and p.name not in ("self", "cls")
    ]
    unknown = [word for word in words if word not in known]
    if not unknown:
        return f"`{name}` takes {', '.join(known)}: {error}."
    close = closest(unknown[0], known)
    hint = f"Did you mean `{close}`?" if close else f"It has {', '.join(known) or 'none'}."
    return f"`{name}` has no argument `{unknown[0]}`. {hint}"


def described(hint: Any) -> str:
    """An annotation in words for a message."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint == Finite:
        return "a finite number"
    if hint == Positive:
        return "a finite number > 0"
    if origin is Annotated:
        return " ".join([described(inner[0]), *(one.text for one in inner[1:] if isinstance(one, Between))])
    if origin in (Union, types.UnionType):
        return " or ".join(described(one) for one in inner)
    if origin is Literal:
        return " or ".join(str(one) for one in inner)
    if hint is None or hint is type(None):
        return "null"
    kind = origin or hint
    if kind in _LISTS:
        return f"a list of {described(inner[0])}" if inner and inner[0] is not Any else "a list"
    if kind in (dict, Mapping):
        return "a mapping"
    if isinstance(kind, type) and issubclass(kind, Path):
        return "a path"
    return {float: "a number"}.get(kind, getattr(kind, "__name__", str(kind)))
