"""Architectures as rows of features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.position_table import PositionTable, macs, params
from search_spaces.architecture import Genes
from search_spaces.base.errors import MismatchError, UnknownNameError
from search_spaces.layers import size_of, size_text
from search_spaces.space import SearchSpace

Matrix = NDArray[np.floating[Any]]
"""Single precision where it holds the features exactly, double elsewhere."""

STAGES, BLOCKS, KERNELS, EXPANDS = 5, 4, (3, 5, 7), (3, 4, 6)
"""Once-for-all's MobileNetV3."""

RESOLUTIONS = tuple(range(112, 225, 16))
"""Once-for-all tells resolutions in steps of 16 pixels; one between two steps is a mixture of both."""


def encode(space: SearchSpace, genes: Genes, features: Sequence[str]) -> Matrix:
    """Features (n, f) of canonical genes (n, choices), by names of `FEATURES`, side by side.

    Raises:
        UnknownNameError: there are no features of that name.
        MismatchError: the space does not have such features.
    """
    unknown = [name for name in features if name not in FEATURES]
    if unknown or not features:
        raise UnknownNameError(f"Features are one or more of {sorted(FEATURES)}, but got {list(features)}.")
    parts = [FEATURES[name](space, genes) for name in features]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)


def one_hot(space: SearchSpace, genes: Genes) -> NDArray[np.float32]:
    """`SearchSpace.encode`: a column per value of each choice, zeros for genes that do not matter."""
    return space.encode(genes)


def statistics(space: SearchSpace, genes: Genes) -> NDArray[np.float64]:
    """Statistics that an architecture has for free, (n, 3): log(1 + x) of its MACs, parameters and number of layers."""
    return np.log1p(np.column_stack([table.predict(genes) for table in _statistics(space)]))


@functools.cache
def _statistics(space: SearchSpace) -> tuple[PositionTable, ...]:
    return macs(space), params(space), PositionTable.of_layers(space, "layers", "1", lambda layer: 1)


def once_for_all(space: SearchSpace, genes: Genes) -> NDArray[np.float32]:
    """Features of once-for-all's accuracy predictor, (n, 128): kernels one-hot 20 x 3, expand ratios one-hot 20 x 3,
    both zeros for absent blocks, and the resolution one-hot 8 (two neighbours share the 1 between steps of 16 pixels).

    Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791; `AccuracyPredictor.spec2feats` of its published code.

    Raises:
        MismatchError: the space is not once-for-all's MobileNetV3.
    """
    steps, starts, patterns, resolutions = _once_for_all_patterns(space)
    index = genes.astype(np.float32) @ steps  # BLAS, which has no integers
    index += starts
    blocks = patterns.take(index.astype(np.intp), 0)  # (n, 40, 3)
    sizes = resolutions.take(genes[:, space.index["resolution"]], 0)
    return np.concatenate([blocks.reshape(len(genes), -1), sizes], 1)


@functools.cache
def _once_for_all_patterns(space: SearchSpace) -> tuple[NDArray[np.float32], ...]:
    """Tables that `once_for_all` reads: ``steps``, ``starts``, ``patterns``, and the 8 features of each resolution.

    A row of genes times ``steps`` (choices, 40) plus ``starts`` (40,) points at the row of ``patterns`` (m, 3) with the
    features of each kernel and expand ratio, zeros for absent blocks.
    """
    blocks = [f"{s}.{b}" for s in range(1, STAGES + 1) for b in range(1, BLOCKS + 1)]
    names = [f"{kind}.{block}" for kind in ("kernel", "expand") for block in blocks]
    depths = [f"depth.{s}" for s in range(1, STAGES + 1)]
    if set(space.index) != {"resolution", *depths, *names}:
        raise MismatchError(
            f"Features 'once_for_all' are of {STAGES} stages of up to {BLOCKS} blocks, but space {space.name!r} has "
            "other choices. Choose 'one_hot'."
        )
    steps = np.zeros((len(space.choices), len(names)), np.float32)
    starts: list[int] = []
    patterns: list[list[bool]] = []
    for column, name in enumerate(names):
        known = KERNELS if name.startswith("kernel") else EXPANDS
        choice = space.choices[space.index[name]]
        unknown = [value for value in choice.values if value not in known]
        if unknown:
            raise MismatchError(f"Features 'once_for_all' know {known}, but {name!r} can be {unknown[0]!r}.")
        starts.append(len(patterns))
        steps[space.index[name], column] = 1
        present = [True]
        if choice.active_when is not None:
            depth = space.index[choice.active_when.choice]
            steps[depth, column] = len(choice.values)
            present = [value in choice.active_when.values for value in space.choices[depth].values]
        patterns += [[there and value == k for k in known] for there in present for value in choice.values]
    resolutions = [size_of(value) for value in space.choices[space.index["resolution"]].values]
    wide = [size_text(size) for size in resolutions if not isinstance(size, int)]
    if wide:
        raise MismatchError(f"Features 'once_for_all' know square images, but space {space.name!r} has {wide[0]}.")
    sizes = np.array(resolutions, np.float64)
    if sizes.min() < RESOLUTIONS[0] or sizes.max() > RESOLUTIONS[-1]:
        raise MismatchError(
            f"Features 'once_for_all' know resolutions {RESOLUTIONS[0]} to {RESOLUTIONS[-1]}, but space "
            f"{space.name!r} has {sizes.min():.0f} to {sizes.max():.0f}."
        )
    near = np.maximum(1 - np.abs(sizes[:, None] - RESOLUTIONS) / 16, 0)  # (resolutions, 8)
    return steps, np.array(starts, np.float32), np.array(patterns, np.float32), near.astype(np.float32)


FEATURES: dict[str, Callable[[SearchSpace, Genes], Matrix]] = {
    "one_hot": one_hot,
    "statistics": statistics,
    "once_for_all": once_for_all,
}
"""Features by name: functions of a space and canonical genes (n, choices) that give (n, f). More can be added."""
