"""Predictors as files: npz of plain arrays with the kind and the space's fingerprint, no pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import predictors.ensemble
import predictors.mlp  # noqa: F401 - these two register the models that a `Regression` can hold
from predictors.base import Saved
from predictors.gaussian_process import GaussianProcess
from predictors.lookup import CorrectedLookup
from predictors.position_table import PositionTable
from predictors.regression import Regression
from predictors.transfer import TransferredLatency
from search_spaces.errors import DamagedFileError, MismatchError
from search_spaces.space import SearchSpace
from search_spaces.storage import read_arrays, write_arrays

KINDS: dict[str, type[Saved]] = {
    kind.__name__: kind for kind in (PositionTable, CorrectedLookup, GaussianProcess, Regression, TransferredLatency)
}


def save(predictor: Saved, space: SearchSpace, path: Path) -> None:
    """Write a fitted predictor atomically."""
    identity = {"kind": np.array(type(predictor).__name__), "space": np.array(space.fingerprint)}
    write_arrays(path, {**identity, **predictor.to_arrays()})


def load(path: Path, space: SearchSpace) -> Saved:
    """Read a predictor of this space.

    Raises:
        MismatchError: it was fitted on another space.
        DamagedFileError: the file is not a predictor.
    """
    arrays = read_arrays(path)
    kind = str(arrays.pop("kind", ""))
    fingerprint = str(arrays.pop("space", ""))
    if kind not in KINDS:
        raise DamagedFileError(f"{path} is not a saved predictor (kind {kind!r}). Run `nas fit` again.")
    if fingerprint != space.fingerprint:
        raise MismatchError(f"{path} was fitted on another space than {space.name!r}. Run `nas fit` again.")
    try:
        return KINDS[kind].from_arrays(space, arrays)
    except KeyError as error:
        raise DamagedFileError(f"{path} lacks {error}. Run `nas fit` again.") from error
