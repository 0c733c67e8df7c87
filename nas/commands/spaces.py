"""``nas spaces``: the known search spaces, what can be chosen in one, and its published networks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from search_spaces.base.errors import InvalidValueError
from search_spaces.loading import known_spaces, load_space
from search_spaces.space import SearchSpace

HELP = """nas spaces                             the known search spaces, and the published networks in them
nas spaces NAME|YAML                   what can be chosen in a space, MACs and parameters of its published networks
nas spaces export NAME|YAML NETWORK FOLDER [weights=RUN] [device=DEVICE]
                                       a published network as ONNX, with the weights of the supernet in a run
                                       folder, or random ones to take times of; device= adds the file that it takes
"""


def command(arguments: Sequence[str]) -> Iterator[str]:
    """Run ``nas spaces`` and give the lines that it prints.

    Raises:
        NasError: wrong arguments, or a space or a network that is not there.
    """
    word, *words = arguments or [""]
    if any(argument in ("-h", "--help") for argument in arguments):
        yield HELP.rstrip()
    elif word == "export":
        yield _export(words)
    elif words:
        raise InvalidValueError(
            f"`nas spaces` takes one space, by name or YAML file, but got {shlex.join(arguments)!r}."
        )
    elif word:
        yield from _described(load_space(word))
    else:
        spaces = [load_space(name) for name in known_spaces()]
        width = max(len(space.name) for space in spaces)
        for space in spaces:
            line = f"{space.name:{width}}  {Decimal(space.size):.1e} networks"
            yield f"{line}: {', '.join(space.members)}" if space.members else line


def _described(space: SearchSpace) -> Iterator[str]:
    """Lines on the choices and the published networks of a space."""
    yield f"{space.name}: {space.size:,} networks"
    for choice in space.choices:
        when = (
            f"   while {choice.active_when.choice} is {_listed(choice.active_when.values)}"
            if choice.active_when
            else ""
        )
        yield f"  {choice.name}: {_listed(choice.values)}{when}"
    if space.members:
        rows = [(name, space.member(name)) for name in space.members]
        title = "published network"
        width = max(len(title) - 2, *map(len, space.members))
        yield f"{title:{width + 2}}  {'MACs':>16}  {'parameters':>14}"
        yield from (f"  {name:{width}}  {network.macs:>16,}  {network.params:>14,}" for name, network in rows)
    for name, networks in space.baselines.items():
        yield f"drawn beside a front, {name}: {', '.join(networks)}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _export(words: Sequence[str]) -> str:
    from nas.run.export import export

    settings = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    if len(names) != 3 or set(settings) - {"weights", "device"}:
        raise InvalidValueError(
            f"`nas spaces export` takes a space, a network and a folder, `weights=` and `device=`, but got "
            f"{shlex.join(words)!r}."
        )
    architecture = load_space(names[0]).member(names[1])
    found = export(architecture, names[2], settings.get("weights", "random"), device=settings.get("device"))
    with_weights = "random weights" if "weights" not in settings else f"the weights of {settings['weights']}"
    parity = "".join(f"; {name} differs by {value:.1e} at most" for name, value in found.items())
    files = sorted(Path(names[2]).glob("network.*")) if "device" in settings else [Path("network.onnx")]
    written = " and ".join(f"{names[2]}/{file.name}" for file in files)
    return f"Wrote {written}: {names[1]} with {with_weights}{parity}"
