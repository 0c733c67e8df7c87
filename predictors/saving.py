"""Predictors as files: npz of plain arrays with the kind and the space's fingerprint, no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import predictors.ensemble
import predictors.mlp  # noqa: F401 - these two register the models that a `Regression` can hold
from predictors.base import Predictor, Saved, Uncertain
from predictors.gaussian_process import GaussianProcess
from predictors.kinds import name_of, of_name
from predictors.lookup import CorrectedLookup
from predictors.position_table import PositionTable
from predictors.regression import Regression
from predictors.transfer import TransferredLatency
from search_spaces.base.errors import DamagedFileError, MismatchError
from search_spaces.base.storage import read_arrays, write_arrays
from search_spaces.space import SearchSpace

KINDS: dict[str, type[Saved]] = {
    kind.__name__: kind for kind in (PositionTable, CorrectedLookup, GaussianProcess, Regression, TransferredLatency)
}
TRIED = 7
"""Random networks that a predictor is tried on when it is read."""


def save(predictor: Saved, space: SearchSpace, path: Path) -> None:
    """Write a fitted predictor atomically.

    Raises:
        InvalidValueError: it is of a class that another process cannot find.
    """
    identity = {"kind": np.array(name_of(type(predictor), KINDS)), "space": np.array(space.fingerprint)}
    write_arrays(path, {**identity, **predictor.to_arrays()})


def load(path: Path, space: SearchSpace) -> Saved:
    """Read a predictor of this space.

    Raises:
        MismatchError: it was fitted on another space.
        DamagedFileError: the file is not a predictor.
        InvalidValueError: it is of a class outside of hwnas that is neither imported nor trusted.
    """
    arrays = read_arrays(path)
    kind = str(arrays.pop("kind", ""))
    fingerprint = str(arrays.pop("space", ""))
    if kind not in KINDS and "." not in kind:
        raise DamagedFileError(f"{path} is not a saved predictor (kind {kind!r}). Run `nas fit` again.")
    made = of_name(kind, KINDS, str(path))
    if fingerprint != space.fingerprint:
        raise MismatchError(f"{path} was fitted on another space than {space.name!r}. Run `nas fit` again.")
    try:
        predictor = made.from_arrays(space, arrays)
        values = _tried(predictor, space)
    except Exception as error:  # arrays of other shapes or types fail wherever they are used first
        what = f"lacks {error}" if type(error) is KeyError else f"has other contents than it should ({error})"
        raise DamagedFileError(f"{path} {what}. Run `nas fit` again.") from error
    if values.shape != (TRIED + 1,) or values.dtype.kind != "f" or np.isnan(values).any():
        raise DamagedFileError(f"{path} does not predict a number per network. Run `nas fit` again.")
    return predictor


def saved_predictor(space: SearchSpace, *, file: str | Path, seed: int = 0) -> Predictor:
    """A predictor that `save` has written, made as others are: from the space, with a seed that it has no use for."""
    return cast(Predictor, load(Path(file), space))


def _tried(predictor: Any, space: SearchSpace) -> NDArray[Any]:
    """What a predictor says of some networks, the smallest first."""
    genes = np.concatenate([space.smallest.genes[None], space.sample(TRIED, np.random.default_rng(0))])
    if isinstance(predictor, Uncertain):
        values, deviations = predictor.predict_with_std(genes)
        return np.asarray(values + 0 * np.asarray(deviations).reshape(np.shape(values)))
    return np.asarray(predictor.predict(genes))
