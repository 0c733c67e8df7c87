"""Tables of FBNet (Wu et al., CVPR 2019, arXiv:1812.03443, section 3.2), in microseconds: a JSON list of an entry per
searched layer, as https://github.com/AnnaAraslanova/FBNet holds them (names of operations) and
https://github.com/jh88/fbnet stores them (operations in order)."""

from __future__ import annotations

import json
from pathlib import Path

from hardware_profiles.formats.rows import LARGEST_TABLE, ImportedTable, Row, check_positive
from search_spaces.base.errors import InvalidValueError, NasError
from search_spaces.base.storage import read_bytes
from search_spaces.fbnet import BENCHMARK_ORDER, SKIP, FBNet
from search_spaces.layers import Layer

_NAMES = {name: name for name in BENCHMARK_ORDER} | {
    **{f"ir_{name}": name for name in BENCHMARK_ORDER},
    "ir_k3_s2": "k3_e1_g2",  # "s2": shuffled between two groups
    "ir_k5_s2": "k5_e1_g2",
}


def read_fbnet(path: Path, space: FBNet | None) -> ImportedTable:
    """The layers of an FBNet table: a JSON list with an entry per searched layer, from input to output, of what each
    operation takes in microseconds.

    An entry is a mapping from names (the paper's, ``k3_e1``, ``k3_e1_g2``, or those of Facebook's code, ``ir_k3_e1``,
    ``ir_k3_s2``), or a list in the order of `BENCHMARK_ORDER`; null, for a layer that is not searched, is passed over.
    Layers that are equal, as most within a stage are, have their mean. "skip" is no layer where it keeps the shape, so
    its time there is left out. These tables lack the fixed layers (stem, last convolution, classifier): import those
    from a CSV under the same conditions and merge.

    Args:
        path: the file.
        space: says what the layers are; it has one resolution.

    Raises:
        InvalidValueError: not such a file, or not of this space, or no space is named.
    """
    if space is None:
        raise InvalidValueError("An FBNet table does not say what its layers are: name the space with `space=fbnet`.")
    content = read_bytes(path, LARGEST_TABLE)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{path} is not valid JSON: {error}.") from error
    count = sum(choice.name.startswith("op.") for choice in space.choices)
    entries = [entry for entry in data if entry is not None] if isinstance(data, list) else []
    if len(entries) != count or not all(isinstance(entry, dict | list) for entry in entries):
        raise InvalidValueError(
            f"{path} must be a JSON list of {count} mappings or lists of latencies, one per searched layer of space "
            f"{space.name!r}, but "
            + (f"has {len(entries)} entries." if isinstance(data, list) else f"is a {type(data).__name__}.")
        )
    if len(space.choices[0].values) != 1:
        raise InvalidValueError(f"An FBNet table is of one resolution, but space {space.name!r} has several.")
    imported = ImportedTable()
    found: dict[Layer, list[float]] = {}
    for number, entry in enumerate(entries):
        operations = entry.items() if isinstance(entry, dict) else zip(BENCHMARK_ORDER, entry, strict=False)
        if len(entry) > len(BENCHMARK_ORDER):
            imported.refused.append(f"layer {number + 1}: there are {len(BENCHMARK_ORDER)} operations at most.")
        for name, microseconds in operations:
            try:
                layer = _layer(space, count, number, name)
                if type(microseconds) not in (int, float):
                    raise InvalidValueError(f"a latency must be a number of microseconds, but got {microseconds!r}.")
                check_positive("latency", microseconds)
                if layer is not None:
                    found.setdefault(layer, []).append(microseconds / 1e3)
            except NasError as error:
                imported.refused.append(f"layer {number + 1}, {name}: {error}")
    imported.rows = [Row(layer, sum(times) / len(times), runs=len(times)) for layer, times in found.items()]
    return imported


def _layer(space: FBNet, count: int, number: int, name: str) -> Layer | None:
    """The layer that an operation is at a place; None for one that does nothing."""
    if name not in _NAMES:
        raise InvalidValueError(f"an operation is one of {', '.join(_NAMES)}.")
    operations: list[int | str] = ["k3_e1"] * count
    operations[number] = _NAMES[name]
    _, *layers, _, _ = space.lower(space.of_operations(operations)).values()  # without the fixed ones
    if len(layers) < count:
        assert operations[number] == SKIP
        return None
    return layers[number]
