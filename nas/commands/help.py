"""Explanations of keys for `nas STAGE --help`: comments of config.yaml, and docstrings of what `_target_` names."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import yaml

from search_spaces.base import trust
from search_spaces.base.errors import NasError
from search_spaces.base.values import words_of
from search_spaces.loading import known_spaces

COLUMN, NARROWEST = 38, 30
"""Column where explanations begin, and the least width that they get."""

Path = tuple[str, ...]


def explained(shown: str) -> str:
    """A composed configuration, YAML, with an explanation beside each key that has one.

    Args:
        shown: as Hydra prints it, two spaces per level.
    """
    about = dict(_comments(resources.files("nas.conf").joinpath("config.yaml").read_text()))
    about |= dict(_documented(yaml.safe_load(shown), ()))
    width = max(shutil.get_terminal_size((120, 24)).columns - COLUMN - 4, NARROWEST)
    lines = []
    for line, path in _keys(shown):
        text = about.get(path, "")
        if not text:
            lines.append(line)
            continue
        first, *more = textwrap.wrap(text, width)
        lines.append(f"{line:{COLUMN}}  # {first}" if len(line) <= COLUMN else f"{line}\n{'':{COLUMN}}  # {first}")
        lines += [f"{'':{COLUMN}}  # {part}" for part in more]
    return "\n".join(lines) + "\n"


def with_spaces(groups: str) -> str:
    """Hydra's list of groups, a line for each, with hwnas's own spaces: Hydra lists what lies beside the configuration
    and in folders that a command names, no other search path."""
    lines = dict(re.findall(r"^(\w+): (.+)$", groups, re.MULTILINE))
    found = {*known_spaces(), *lines.pop("space", "").split(", ")} - {""}
    lines["space"] = ", ".join(sorted(found))
    return "".join(f"{name}: {options}\n" for name, options in sorted(lines.items()))


def _keys(text: str) -> Iterator[tuple[str, Path]]:
    """The lines of a YAML text in block style, each with the path of the key that it sets, if it does."""
    path: list[str] = []
    for line in text.splitlines():
        found = re.match(r"( *)([\w.]+):(?: |$)", line)
        if found:
            path = [*path[: len(found[1]) // 2], found[2]]
        yield line, tuple(path) if found else ()


def _comments(text: str) -> Iterator[tuple[Path, str]]:
    """The comments behind keys; one that goes on in the lines below is joined."""
    path: Path = ()
    comment = ""
    for line, key in _keys(text):
        rest = re.search(r" # (.*)", line)
        if key or not line.strip().startswith("#"):
            if comment:
                yield path, comment
            path, comment = key, rest[1] if rest else ""
        elif comment and rest:
            comment += " " + rest[1]
    if comment:
        yield path, comment


def _documented(settings: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Sentences of docstrings on the arguments of everything that is made from the settings, at any depth."""
    if not isinstance(settings, Mapping):
        return
    about = described(settings["_target_"]) if isinstance(settings.get("_target_"), str) else {}
    for key, value in settings.items():
        if key in about:
            yield (*path, key), about[key]
        yield from _documented(value, (*path, str(key)))


def described(target: str) -> dict[str, str]:
    """Sentences of docstrings on each argument of a function or class, the classes it derives from included; and as
    ``_target_`` the first sentence of its own, or of the module whose only content it is."""
    try:
        module_name, _, name = target.rpartition(".")
        if module_name in sys.modules:  # nothing is imported, nothing is called
            found = getattr(sys.modules[module_name], name)
        else:
            found = trust.find("help", target)
        module = sys.modules[found.__module__]
    except (NasError, ImportError, AttributeError, KeyError):  # help must come, whatever is wrong
        return {}
    about: dict[str, str] = {}
    for one in reversed(inspect.getmro(found)) if inspect.isclass(found) else [words_of(found), found]:
        about |= dict(_arguments(inspect.cleandoc(getattr(one, "__doc__", "") or "")))
    title = inspect.cleandoc(module.__doc__ or found.__doc__ or "").split("\n\n")[0]
    return {key: _plain(text) for key, text in {**about, "_target_": title}.items()}


def _plain(text: str) -> str:
    text = " ".join(text.split()).replace("``", "").replace("None", "null")
    return text.removesuffix(".") if ". " not in text else text


def _arguments(docstring: str) -> Iterator[tuple[str, str]]:
    block = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    yield from re.findall(r"^    (\w+): ((?:.*\n?)(?:      .*\n?)*)", block[1] if block else "", re.MULTILINE)
