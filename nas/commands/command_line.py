"""The words of a command as Hydra takes them: options, settings whose values need no quotes, and foreign files checked.

A folder that ``--config-dir`` names may be somebody else's. Its files may set everything that is hwnas's, but not
Hydra's own section, which can start programs.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import nas
from nas.run.settings import MARGIN, SHARE
from search_spaces.base import trust
from search_spaces.base.errors import InvalidValueError, NasError
from search_spaces.base.storage import read_bytes, read_yaml
from search_spaces.loading import FOLDER as SPACES
from search_spaces.metric import BUILT_IN

GROUPS = ("space", "data", "training", "accuracy", "latency", "searcher", "recipe")
"""Folders of the configuration, of which a command chooses one file each."""

PARTS = GROUPS[:-1]
"""Groups that name what to make."""

FLAGS = ("--help", "--hydra-help", "--resolve", "--run", "--multirun", "--shell-completion")
VALUED = ("--cfg", "--package", "--config-dir", "--info")
SHORT = {"-h": "--help", "-r": "--run", "-m": "--multirun", "-sc": "--shell-completion"}
SHORT |= {"-c": "--cfg", "-p": "--package", "-cd": "--config-dir", "-i": "--info"}

_KEY = re.compile(r"(?P<sign>\+\+?|~)?(?P<key>[A-Za-z_][\w./@:-]*)")
_LIMITS = "|".join([*BUILT_IN, SHARE, MARGIN])
_FREE = re.compile(rf"metrics\.|limit\.(?!({_LIMITS})$)|search\.weights\.|search(er)?\.fixed\.")
"""Keys of the user's own, which Hydra would have added with a ``+``."""
_MAPPING = re.compile(r"(metrics|limit|search(er)?\.fixed)=\{")
"""Mappings of such keys; what a recipe has of them stays."""
_ARGUMENT = re.compile(rf"({'|'.join(PARTS)})\.(?P<rest>[\w.]+)=")
_CHOICE = re.compile(rf"({'|'.join(GROUPS)})=")

LARGEST_NUMBER = 2**53
"""Larger whole numbers are no exact floats."""
LONGEST_NAME = 200
"""Bytes of the name of a sweep's folder."""

OTHER_NAMES = {"profile.from": "reuse.profile", "train.from": "reuse.train", "train.start": "reuse.start"}
"""Settings by how they read best, which is no name that a field can have."""

LISTS = ("search.objectives",)
"""Settings that are lists, of which a bare word is the only entry."""

_COMPUTED = {"overrides", "runtime", "searchpath"}
_COMPUTED_OF_JOB = {"name", "override_dirname", "id", "num", "config_name"}


@dataclass
class CommandLine:
    """A command without its first word."""

    options: dict[str, str | None] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)

    def for_hydra(self) -> list[str]:
        """Hydra takes no option between two settings."""
        options = [word for option, value in self.options.items() for word in (option, value) if word is not None]
        return [*options, *self.settings]


def trusted(arguments: Sequence[str]) -> list[str]:
    """The arguments without each ``--trust NAME``, whose module or path is trusted from now on."""
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--trust":
            rest.append(word)
            continue
        name = value if equals else next(words, "")
        if not name or name.startswith("-"):
            raise InvalidValueError(
                "`--trust` takes the name of a module, or the path of a program, such as --trust mine."
            )
        trust.trust(name)
    return rest


def read(arguments: Sequence[str]) -> CommandLine:
    """Options and settings, in any order.

    Raises:
        InvalidValueError: an unknown option, or what is no setting.
    """
    line = CommandLine()
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            line.settings += _of_import_path(word) or [_setting(word)]
            continue
        option, equals, value = word.partition("=")
        option = SHORT.get(option, option)
        if option in FLAGS and not equals:
            line.options[option] = None
        elif option == "--info" and not equals and (not words or "=" in words[0] or words[0].startswith("-")):
            line.options[option] = None
        elif option in VALUED and (equals or words):
            line.options[option] = value if equals else words.pop(0)
        else:
            known = [*FLAGS, *VALUED, "--trust"]
            close = difflib.get_close_matches(option, known, 1)
            hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(known)}."
            needs = "needs a value" if option in VALUED else "is unknown"
            raise InvalidValueError(f"The option {word} {needs}. {hint}")
    if "--resolve" in line.options and not {"--cfg", "--help"} & set(line.options):
        raise InvalidValueError("`--resolve` goes with `--cfg job`, which prints the settings.")
    return line


def _of_import_path(text: str) -> list[str]:
    """Settings in place of one that names a part by an import path, such as ``searcher=mine.searcher.Greedy``."""
    part, _, path = text.partition("=")
    names = path.split(".")
    if part not in PARTS or len(names) < 2 or names[-1] in ("yaml", "yml") or not all(map(str.isidentifier, names)):
        return []
    partial = [f"++{part}._partial_=true"] if part in ("accuracy", "latency") else []
    return [f"~{part}", f"++{part}._target_={path}", *partial]


def _setting(text: str) -> str:
    """A setting in Hydra's grammar, its value in quotes where it needs them."""
    name, equals, value = text.partition("=")
    name = OTHER_NAMES.get(name, name)
    text = f"{name}{equals}{value}"
    found = _KEY.fullmatch(name)
    if not found or not (equals or found["sign"] == "~"):
        raise InvalidValueError(
            f"{text!r} is no setting: settings are key=value, such as seed=1 (no spaces around `=`; a value with "
            "spaces in quotes). `nas run --help` lists all settings."
        )
    if found["key"] in LISTS and re.fullmatch(r"\w+", value):
        text = f"{name}=[{value}]"
    if found["sign"] is None and (_FREE.match(found["key"]) or _MAPPING.match(text)):
        text = f"++{text}"
    parser = OverridesParser.create()
    try:
        setting = parser.parse_override(text)
    except (HydraException, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        if value[:1] in ("[", "{", "'", '"'):
            raise InvalidValueError(
                f"`{found['key']}` has a malformed value: {value}. A list is [a,b], a mapping {{a: 1, b: 2}}; text "
                "with other characters than letters, digits and -_./ stands in 'quotes' there; and quotes around the "
                f'whole setting keep the shell away from it: "{name}=[a,b]".'
            ) from None
        escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
        setting = parser.parse_override(f"{text.partition('=')[0]}='{escaped}'")
        text = str(setting.input_line)
    if found["key"] in GROUPS and not setting.is_delete() and not setting.is_sweep_override():
        given = setting.value()
        if not isinstance(given, str | list) and not (found["key"] == "recipe" and given is None):
            raise InvalidValueError(
                f"`{found['key']}` must name one of its files, but got {value or given!r}; `nas run --help` lists them."
            )
    return text


def completed(line: CommandLine) -> list[str]:
    """The settings, with a ``++`` before those arguments of what a group names that its file does not state."""
    if not any(map(_ARGUMENT.match, line.settings)):
        return line.settings
    chosen = [text for text in line.settings if _CHOICE.match(text) or re.match(r"\+\+\w+\._target_=|~", text)]
    try:
        with initialize_config_module("nas.conf", version_base="1.3"):
            config = compose("config", [*_searchpath(line), *next(_runs(chosen))])
    except (HydraException, OmegaConfBaseException):  # which Hydra tells
        return line.settings
    known = set(_keys(OmegaConf.to_container(config, resolve=False), ""))
    new = [bool(_ARGUMENT.match(text)) and text.partition("=")[0] not in known for text in line.settings]
    return [f"++{text}" if added else text for text, added in zip(line.settings, new, strict=True)]


def _searchpath(line: CommandLine) -> list[str]:
    """Setting that makes the files of a folder of configurations known."""
    folder = line.options.get("--config-dir")
    return [f"hydra.searchpath=['pkg://search_spaces','file://{Path(folder).resolve()}']"] if folder else []


def arguments_set(settings: Sequence[str]) -> set[str]:
    """Groups with arguments that their file does not state."""
    return {found[1] for text in settings if (found := _ARGUMENT.match(text.removeprefix("++"))) and text[:2] == "++"}


def check_folder(line: CommandLine) -> None:
    """Refuse a folder of configurations with files that cannot be read safely.

    Raises:
        InvalidValueError: names the file.
    """
    folder = line.options.get("--config-dir")
    if folder and not Path(folder).is_dir():
        raise InvalidValueError(f"`--config-dir {folder}`: there is no such folder.")
    if folder:
        for group in GROUPS:
            for path in sorted((Path(folder) / group).rglob("*.yaml")):
                _check_yaml(path)
                _check_name(group, path.relative_to(Path(folder) / group), path)


def check_hydra(line: CommandLine) -> None:
    """Refuse files that set what is Hydra's.

    Raises:
        InvalidValueError: names the settings.
    """
    folder, foreign = line.options.get("--config-dir"), _searchpath(line)
    of_hydra = [text for text in line.settings if re.match(r"[+~]*hydra[./@]", text)]
    if not foreign and not any("searchpath" in text for text in of_hydra):
        return
    expected = _of_hydra(of_hydra) if of_hydra else _hydra_untouched()
    for settings in _runs(line.settings):
        found = _of_hydra([*foreign, *settings])
        wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        if wrong:
            raise InvalidValueError(
                f"A file of {folder or 'the search path'} sets {', '.join(f'`hydra.{key}`' for key in wrong)}. Hydra's "
                "own settings can run code, so they are taken from the command line alone: give them there."
            )


def _check_name(group: str, name: Path, path: Path) -> None:
    """Refuse a file that has the name of one of hwnas's own, which Hydra would take instead."""
    own = (SPACES if group == "space" else Path(nas.__file__).parent / "conf" / group) / name
    if own.is_file() and not own.samefile(path):
        raise InvalidValueError(
            f"{path} has the name of hwnas's own {own}, which `{group}={name.with_suffix('')}` would take instead. "
            "Rename yours."
        )


def _check_yaml(path: Path) -> None:
    """Refuse what Hydra would fail on without naming the file, or never end with."""
    try:
        read_bytes(path).decode()
        read_yaml(path)
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{path} must be UTF-8 text ({error}). Save it as UTF-8.") from error
    except InvalidValueError as error:
        if not isinstance(error.__cause__, yaml.YAMLError):  # which Hydra tells, if the file is used
            raise


def _runs(settings: list[str]) -> Iterator[list[str]]:
    """The settings of every job of a sweep, as far as they choose files."""
    parsed = OverridesParser.create().parse_overrides(settings)
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_sweep_override() else [text]
        for o, text in zip(parsed, settings, strict=True)
    ]
    longest = max(map(len, choices), default=1)
    for i in range(longest):  # each file at least once
        yield [texts[min(i, len(texts) - 1)] for texts in choices]


def of_sweep(settings: list[str]) -> list[str]:
    """Hydra's settings for a sweep: the folder of a job is named by the settings that differ between jobs, no others.

    Raises:
        InvalidValueError: such a name would be longer than a file system allows.
    """
    parsed = OverridesParser.create().parse_overrides(settings)
    swept = [o for o in parsed if o.is_sweep_override()]
    names, differing = ({o.get_key_element().lstrip("+~") for o in some} for some in (parsed, swept))
    same = sorted(names - differing)
    longest = sum(1 + max(len(f"{o.get_key_element()}={v}".encode()) for v in o.sweep_string_iterator()) for o in swept)
    if longest > LONGEST_NAME:
        raise InvalidValueError(
            f"The jobs of a sweep have folders named by what differs, at most {LONGEST_NAME} bytes, but got {longest}. "
            "Sweep over shorter values, such as names of files, or start the runs one by one with `out=`."
        )
    return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(same)}]"] if same else []


def _of_hydra(settings: list[str]) -> dict[str, Any]:
    with initialize_config_module("nas.conf", version_base="1.3"):
        config = compose("config", settings, return_hydra_config=True)
    section: Any = OmegaConf.to_container(config.hydra, resolve=False)
    job = {key: value for key, value in section.pop("job").items() if key not in _COMPUTED_OF_JOB}
    return {**{key: value for key, value in section.items() if key not in _COMPUTED}, "job": job}


@functools.cache
def _hydra_untouched() -> dict[str, Any]:
    """Hydra's section as the files of hwnas have it, which stay as they are."""
    return _of_hydra([])


def check_numbers(node: Any, key: str = "") -> None:
    """Refuse whole numbers that no computation takes exactly.

    Args:
        node: settings as plain data.
        key: where they stand.

    Raises:
        InvalidValueError: names the setting.
    """
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in parts:
        check_numbers(value, f"{key}.{name}" if key else str(name))
    if isinstance(node, int) and abs(node) > LARGEST_NUMBER:
        digits = int(node.bit_length() * 0.30103)  # of very long ones Python does not write them
        raise InvalidValueError(f"`{key}` must be at most 2**53, but got one of about {digits} digits.")


_KINDS = {
    "could not be converted to Integer": "be a whole number",
    "could not be converted to Float": "be a number",
    "not a valid bool": "be true or false",
    "is not a ListConfig, list or tuple": "be a list, such as [a,b]",
    "to string": "be text",
    "is not Optional": "have a value",
    "to Dict|to a? ?[Dd]ict|is not a DictConfig": "be a mapping, such as {a: 1}",
}
"""OmegaConf's words on a value of a wrong type, as a pattern, and what the value must be or have."""


def in_plain_words(error: HydraException | OmegaConfBaseException) -> str:
    """Message without the words of Hydra's grammar."""
    text = (
        str(error) if error.__cause__ is None or str(error.__cause__) in str(error) else f"{error}\n{error.__cause__}"
    )
    unknown = re.search(r"Could not override '([^']+)'\.", text)
    if unknown:
        key = unknown[1].lstrip("+~")
        return f"There is no setting `{key}`.{_close_to(key)}"
    missing = re.search(r"Could not find '([^/']+)/([^']+)'", text)
    if missing and (options := re.findall(r"^\t(\S+)$", text, re.MULTILINE)):
        part, name = missing.groups()
        close = difflib.get_close_matches(name, options, 1)
        hint = f" Did you mean `{part}={close[0]}`?" if close else ""
        if (file := Path(name)).suffix in (".yaml", ".yml"):
            hint = (
                f" A file of yours is put into a folder `conf/{part}` and named without its ending: "
                f"`--config-dir conf {part}={file.stem}`."
            )
        return f"There is no `{part}={name}`.{hint} There {'is' if len(options) == 1 else 'are'} {', '.join(options)}."
    if "Ambiguous value" in text and (found := re.search(r"argument '(.*?)=(.*)'", text)):
        return (
            f"`{found[1]}` has several values: {found[2]}. A list of them is {found[1]}=[{found[2]}]; one run for each "
            f"is `-m {found[1]}={found[2]}`."
        )
    merged = re.search(r"Error merging override [+~]*([^=\s]+)=(.*)", text)
    for words, kind in _KINDS.items():
        if merged and re.search(words, text):
            return f"`{merged[1]}` must {kind}, but got {merged[2]}."
    return "\n".join(line for line in text.splitlines() if not re.search(r"hydra\.cc|^ +(full_key|\w+_type)\b", line))


def _close_to(key: str) -> str:
    try:
        with initialize_config_module("nas.conf", version_base="1.3"):
            known = list(_keys(OmegaConf.to_container(compose("config"), resolve=False), ""))
    except (HydraException, OmegaConfBaseException, NasError):
        return ""
    before, _, last = key.rpartition(".")
    beside = [other for other in known if before and other.rpartition(".")[0] == before]
    close = (
        difflib.get_close_matches(key, beside, 1)
        or [other for other in known if other.rpartition(".")[2] == last]
        or difflib.get_close_matches(key, known, 1)
    )
    return f" Did you mean `{close[0]}`?" if close else ""


def _keys(node: Any, before: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{before}{key}"
        yield from _keys(value, f"{before}{key}.")
