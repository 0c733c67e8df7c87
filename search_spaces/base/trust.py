"""Trust in code: hwnas's own may run, and what the user names.

Configurations, device profiles and run files are data. They name code by its import path, such as ``mine.layers.Wave``.
They may name code of hwnas, which is made for that. What they name outside of hwnas runs only after `trust`, which the
command line (``--trust NAME``) and Python code call, and no file: it cannot trust itself. Nothing is imported before it
is trusted, because importing runs code.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from search_spaces.base.errors import InvalidValueError, UnknownNameError, UntrustedError
from search_spaces.base.values import checked_arguments

OWN = ("search_spaces", "hardware_profiles", "predictors", "nas")
"""The packages of hwnas."""

_modules: set[str] = set()
_paths: set[Path] = set()


@checked_arguments
def trust(word: str) -> None:
    """Let a module's code run, or a program or library be used, wherever data names them.

    Args:
        word: the name of a module, which is imported now and may lie in the current folder; or a path.

    Raises:
        UnknownNameError: there is no such module or path.
        InvalidValueError: the module is Python's own, or importing it fails.
    """
    if os.sep in word or "/" in word:
        path = Path(word).expanduser()
        if not path.exists():
            raise UnknownNameError(f"`--trust {word}`: there is no such file or folder.")
        _paths.add(path.resolve())
        return
    name = word.removesuffix(".py").partition(".")[0]
    if not name.isidentifier():
        raise InvalidValueError(f"`--trust` takes the name of a module, or a path with a `/`, but got {word!r}.")
    if name in sys.stdlib_module_names:
        raise InvalidValueError(f"`--trust {word}`: {name} is Python's own; name a module of yours.")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that nothing installed is hidden by what lies here
    importlib.invalidate_caches()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise InvalidValueError(f"`--trust {word}`: importing {name} fails: {error}.") from error
        raise UnknownNameError(
            f"`--trust {word}`: there is no module {name!r}, neither in {here} nor in a folder of the environment "
            "variable PYTHONPATH. Go to its folder, or set PYTHONPATH to it."
        ) from None
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        at, why = (last.filename, last.lineno), str(error)
        if isinstance(error, SyntaxError) and error.filename is not None:
            at, why = (error.filename, error.lineno), error.msg
        raise InvalidValueError(
            f"`--trust {word}`: importing {name} fails in {at[0]}, line {at[1]}: {type(error).__name__}: {why}."
        ) from error
    _modules.add(name)


def words(*modules: str) -> tuple[str, ...]:
    """Words that have been trusted, for `trust` in another process, which goes on with code of these modules."""
    running = {module.partition(".")[0] for module in modules} - {*OWN, "__main__", "builtins"}
    return (*sorted(_modules | running), *sorted(map(str, _paths)))


def is_own(found: Any) -> bool:
    """True if a class, a function or a module is of hwnas."""
    return _package(found) in OWN


def is_trusted(package: str) -> bool:
    """True if code of a top-level module may run."""
    return package in OWN or package in _modules


def path_of(kind: type, short: Mapping[str, str], *, here: bool = False) -> str:
    """Name of a class in a file, so that `find` gives it back in another process: its import path or hwnas's own name.

    Args:
        kind: the class.
        short: hwnas's own short names, with the import paths that they stand for.
        here: a class of the script that runs will do, which this process alone can find.

    Raises:
        InvalidValueError: no other process could find it.
    """
    path, in_script = f"{kind.__module__}.{kind.__qualname__}", kind.__module__ == "__main__"
    if "<locals>" in path or (in_script and not here):
        raise InvalidValueError(
            f"A {kind.__name__} cannot be saved: another process could not find its class, which is defined "
            f"{'in a script' if in_script else 'inside a function'}. Define it in a module."
        )
    return kind.__name__ if short.get(kind.__name__) == path else path


def find_class(asker: str, name: object, short: Mapping[str, str]) -> type:
    """The class that a file of hwnas names, see `path_of`; it must be hwnas's own, trusted, or imported already.

    Raises:
        UnknownNameError: there is no such class.
        UntrustedError: it is outside of hwnas, neither trusted nor imported.
    """
    if not isinstance(name, str) or ("." not in name and name not in short):
        raise UnknownNameError(
            f"{asker} is of kind {name!r}, which is unknown; there are {', '.join(sorted(short))}, and your own by "
            "their import path, such as mine.layers.Wave."
        )
    found = find(asker, short.get(name, name), imported=True)
    if not inspect.isclass(found):
        raise UnknownNameError(
            f"{asker} is of kind {name!r}, which is no class; there are {', '.join(sorted(short))}, and your own."
        )
    return found


def find(asker: str, path: str, *, imported: bool = False) -> Any:
    """The class, function or module of an import path, without importing what is not trusted, and without calling
    anything.

    Args:
        asker: what names it, for messages.
        path: such as ``nas.data.npz``.
        imported: what a program has imported counts as trusted; the caller checks that it is of the kind it looks for.

    Raises:
        UntrustedError: it is outside of hwnas and not trusted.
        InvalidValueError: no dotted path.
        UnknownNameError: there is no such thing.
    """
    parts = path.split(".") if isinstance(path, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise InvalidValueError(f"{asker} must name code as module.name, but got {path!r}.")
    if imported and parts[0] not in OWN and (known := _imported(path)) is not None:
        return known
    if parts[0] == "__main__":
        raise UnknownNameError(
            f"{asker} names {path}, which was defined in a script, where no other process finds it. Define it in a "
            "module, and import it."
        )
    _check(asker, path, parts[0])
    if parts[0] in OWN and any(part.startswith("_") for part in parts):
        raise InvalidValueError(f"{asker} names {path}, which is private.")
    found: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], 2):
        inside, found = found, getattr(found, part, None)
        if found is None and isinstance(inside, ModuleType):
            found = _submodule(asker, ".".join(parts[:depth]))
        if found is None:
            raise UnknownNameError(
                f"{asker} names {path}, which does not exist: {'.'.join(parts[: depth - 1])} has no {part!r}."
            )
        if not callable(found) and not isinstance(found, ModuleType) and not hasattr(found, "__module__"):
            raise InvalidValueError(
                f"{asker} names {'.'.join(parts[:depth])}, which is {found!r}, no function or class."
            )
        _check(asker, path, _package(found))
    return found


def check_path(asker: str, path: str) -> None:
    """Refuse a program or a library that was not trusted, itself or a folder around it.

    Raises:
        UntrustedError: names it, and the way to allow it.
    """
    whole = Path(path).expanduser().resolve()
    if not any(known == whole or known in whole.parents for known in _paths):
        raise UntrustedError(f"{asker} names {path}, which would be run. If you trust it, {_way(str(whole))}.")


def _package(found: Any) -> str:
    module = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    return str(module).partition(".")[0]


def _imported(path: str) -> Any:
    """Object that an import path names if it is there without importing anything; else None."""
    module, _, name = path.rpartition(".")
    inside = sys.modules.get(module)
    return sys.modules.get(path) or (vars(inside).get(name) if inside else None)


def _check(asker: str, path: str, package: str) -> None:
    if not is_trusted(package):
        where = "" if path.startswith(f"{package}.") else f" ({package})"
        raise UntrustedError(
            f"{asker} names {path}{where}, which is code outside of hwnas, and runs only if you say so. If you trust "
            f"it, {_way(package)}."
        )


def _way(word: str) -> str:
    return f'add `--trust {word}`, or call `nas.trust("{word}")` from Python'


def _submodule(asker: str, name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise InvalidValueError(f"{asker} names {name}, which cannot be imported: {error}.") from error
