"""Objects that a configuration names by ``_target_``.

A configuration is data. It may name classes and functions of hwnas that make what its place asks for; others run only
after ``--trust`` (see `search_spaces.base.trust`). Nothing is called before what it gives and its arguments are
checked.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError, NasError, UnknownNameError
from search_spaces.base.names import closest
from search_spaces.base.storage import read_yaml
from search_spaces.base.values import described, fits, has_methods, hints_of, is_protocol, words_of

_NEARLY = (".yam", ".ym", ".json", ".toml", ".txt")
"""Endings of files that are none of YAML, rather than names of a class or function."""

TARGET, PARTIAL = "_target_", "_partial_"
MISSING = "???"
"""Value of a YAML for what has to be given."""


def build(key: str, node: Any, kind: type, *, given: Collection[str] | None = None) -> Any:
    """Make the object that a part of the configuration names by ``_target_``, and those inside it.

    Args:
        key: of that part, for messages.
        node: plain data.
        kind: class that it must be of, or protocol whose methods it must have.
        given: arguments that the caller adds: ``_partial_: true`` then gives a partial of what it names. None: it may
            not be partial.

    Raises:
        InvalidValueError: it names nothing, nothing of this kind, or code that is not trusted; or its arguments do not
            fit.
    """
    check_named(key, node)
    made = trust.find(f"`{key}`", node[TARGET])
    _check_kind(key, node[TARGET], made, kind)
    arguments = {name: value for name, value in node.items() if name not in (TARGET, PARTIAL)}
    partial = node.get(PARTIAL, False)
    if not isinstance(partial, bool):
        raise InvalidValueError(f"`{key}.{PARTIAL}` must be true or false, but got {partial!r}.")
    if partial and given is None:
        raise InvalidValueError(f"`{key}` must not have `{PARTIAL}`: it is made as it stands.")
    hints, words = hints_of(made), {}
    for name, value in arguments.items():
        hint = _hint(key, node[TARGET], made, str(name), hints, (given or ()) if partial else ())
        words[str(name)] = _value(f"{key}.{name}", value, hint)
    if partial:
        return functools.partial(made, **words)
    missing = [p.name for p in inspect.signature(made).parameters.values() if _is_needed(p) and p.name not in words]
    if missing:
        raise InvalidValueError(f"`{key}` lacks `{missing[0]}`, which {node[TARGET]} needs.")
    try:
        result = made(**words)
    except NasError:
        raise
    except (TypeError, ValueError, LookupError) as error:
        if not trust.is_own(made):
            raise
        raise InvalidValueError(f"`{key}` cannot be made: {error}") from error
    if not is_protocol(kind) and not isinstance(result, kind):
        raise InvalidValueError(f"`{key}` must make {kind.__name__}, but {node[TARGET]} gave {type(result).__name__}.")
    return result


def named(key: str, name: str | Path, folder: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Node to `build` for a name: a YAML of a folder, one of the user's own by its path, or the dotted path of a
    class or function.

    Args:
        key: what is named, for messages.
        name: as the user gives it.
        folder: of the YAMLs that are known by name.
        changes: settings in place of those of the YAML.

    Raises:
        UnknownNameError: there is no such name or file.
        InvalidValueError: the file is malformed.
        StorageError: it cannot be read.
    """
    given, known = str(name), sorted(path.stem for path in folder.glob("*.yaml"))
    is_path = given.endswith((".yaml", ".yml"))
    if is_path or given in known:
        path = Path(given) if is_path else folder / f"{given}.yaml"
        node = read_yaml(path)
        check_named(str(path), node)
        whole = {**node, **changes}
        return {key: value for key, value in whole.items() if not (isinstance(value, str) and value == MISSING)}
    if os.sep in given or Path(given).suffix in _NEARLY or Path(given).is_file():
        there = "does not end in .yaml" if Path(given).is_file() else "does not exist"
        raise UnknownNameError(f"{given} {there}; a {key} of yours is a file that ends in .yaml.")
    if len(parts := given.split(".")) > 1 and all(part.isidentifier() for part in parts):
        return {TARGET: given, **changes}
    close = closest(given, known)
    hint = f" Did you mean {close!r}?" if close else ""
    raise UnknownNameError(
        f"There is no {key} {given!r}.{hint} There are {', '.join(known)}, and YAML files of your own."
    )


def check_named(key: str, node: Any) -> None:
    """Refuse a part of the configuration that names nothing to make.

    Raises:
        InvalidValueError: says which.
    """
    if not isinstance(node, Mapping) or TARGET not in node:
        found = sorted(map(str, node)) if isinstance(node, Mapping) else node
        raise InvalidValueError(f"`{key}` must name what to make with `{TARGET}`, but got {found!r}.")


def check_arguments(key: str, node: Mapping[str, Any]) -> None:
    """Refuse arguments that what a part of the configuration names does not have; nothing is made.

    Raises:
        InvalidValueError: names the argument and the one that was meant.
    """
    made = trust.find(f"`{key}`", node[TARGET])
    hints = hints_of(made)
    for name, value in node.items():
        if name not in (TARGET, PARTIAL):
            _hint(key, node[TARGET], made, str(name), hints, ())
            if isinstance(value, Mapping) and TARGET in value:
                check_arguments(f"{key}.{name}", value)


def _value(key: str, value: Any, hint: Any) -> Any:
    """A checked argument, with the objects in it made."""
    if isinstance(value, Mapping) and TARGET in value:
        kinds = [one for one in _classes(hint) if inspect.isclass(one)]
        if not kinds:
            raise InvalidValueError(f"`{key}` must be {described(hint)}, not an object that `{TARGET}` makes.")
        return build(key, value, kinds[0])
    if isinstance(value, list | tuple):
        inner = next((typing.get_args(one)[0] for one in _members(hint) if _is_list(one)), Any)
        value = [_value(f"{key}[{i}]", one, inner) for i, one in enumerate(value)]
        if any(typing.get_origin(one) is tuple for one in _members(hint)):
            value = tuple(value)
    elif isinstance(value, Mapping):
        _refuse_targets(key, value)
        for kind in _classes(hint):
            if dataclasses.is_dataclass(kind):
                hints = hints_of(kind)
                for name, one in value.items():
                    _value(f"{key}.{name}", one, _hint(key, kind.__name__, kind, str(name), hints, ()))
    if not fits(value, hint):
        raise InvalidValueError(f"`{key}` must be {described(hint)}, but got {value!r}.")
    return value


def _refuse_targets(key: str, value: Any) -> None:
    """An object is made only where an argument asks for one."""
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        if name == TARGET:
            raise InvalidValueError(f"`{key}` must be plain settings, without `{TARGET}`.")
        _refuse_targets(f"{key}.{name}", one)


def _hint(key: str, target: str, made: Any, name: str, hints: Mapping[str, Any], given: Collection[str]) -> Any:
    """Annotation that an argument must fit.

    Raises:
        InvalidValueError: there is no such argument, or the caller gives it.
    """
    parameters = inspect.signature(made).parameters
    if name in given:
        raise InvalidValueError(f"`{key}.{name}` is given by the stage; leave it out.")
    if name in parameters and parameters[name].kind is not inspect.Parameter.VAR_KEYWORD:
        return hints.get(name, Any)
    known = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if (words := words_of(made)) is not None:
        further = hints_of(words)
        if name in further:
            return further[name]
        known += further
    elif any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # passed on to what it returns
        result = hints.get("return")
        if not inspect.isclass(result):
            return Any
        more = inspect.signature(result).parameters
        if name in more:
            return hints_of(result).get(name, Any)
        known += [other for other in more if other not in known]
    known = [other for other in known if other not in given]
    if name.startswith("_") and name.endswith("_"):
        raise InvalidValueError(f"`{key}` has `{name}`; only `{TARGET}` and `{PARTIAL}` are known.")
    close = closest(name, known)
    hint = f"Did you mean `{close}`?" if close else f"It has {', '.join(known) or 'none'}."
    raise InvalidValueError(f"`{key}.{name}`: {target} has no setting {name!r}. {hint}")


def _check_kind(key: str, target: str, made: Any, kind: type) -> None:
    """Refuse what does not make this kind, as far as that is known before it is called."""
    name = kind.__name__
    if not callable(made):
        raise InvalidValueError(f"`{key}` must make {name}, but {target} is no class and no function.")
    result = made if inspect.isclass(made) else hints_of(made).get("return")
    if result is None and not trust.is_own(made):
        return  # somebody's function without annotations, which was trusted; its result is checked
    if not inspect.isclass(result) or not _is_of(result, kind):
        gives = getattr(result, "__name__", result)
        raise InvalidValueError(f"`{key}` must make {name}, but {target} makes {gives}.")
    if inspect.isabstract(result) and inspect.isclass(made):
        lacks = ", ".join(sorted(getattr(result, "__abstractmethods__", ())))
        raise InvalidValueError(f"`{key}`: {target} lacks {lacks}, so it cannot be made.")


def _is_of(found: type, kind: type) -> bool:
    """True if a class is of a kind: derived from a class, or with the methods of a protocol."""
    return has_methods(found, kind) if is_protocol(kind) else issubclass(found, kind)


def _is_needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.default is parameter.empty and not variadic


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _classes(hint: Any) -> Iterator[type]:
    """The classes of an annotation that are no plain data."""
    for one in _members(hint):
        if inspect.isclass(one) and one not in (bool, int, float, str, list, dict, tuple, type(None)):
            yield one


def _is_list(hint: Any) -> bool:
    return bool(typing.get_args(hint)) and fits([], hint)
