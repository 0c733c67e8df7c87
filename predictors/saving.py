"""Predictors as files: npz of plain arrays with the kind and the space's fingerprint, no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from predictors.base import Predictor, Saved, Uncertain, metric_of
from predictors.kinds import SAVED
from search_spaces.base import trust
from search_spaces.base.errors import DamagedFileError, MismatchError, UnknownNameError, UntrustedError
from search_spaces.base.storage import read_arrays, write_arrays
from search_spaces.metric import Direction, Metric
from search_spaces.space import SearchSpace

TRIED = 7
"""Random networks that a predictor is tried on when it is read."""


def save(predictor: Saved, space: SearchSpace, path: Path, direction: Direction | None = None) -> None:
    """Write a fitted predictor atomically.

    Args:
        predictor: to write.
        space: that it is of.
        path: of the npz file.
        direction: whether less or more of the metric is better; None: as the predictor states it.

    Raises:
        InvalidValueError: it is of a class that another process cannot find.
    """
    identity = {"kind": np.array(trust.path_of(type(predictor), SAVED)), "space": np.array(space.fingerprint)}
    stated = getattr(predictor, "direction", None)
    if direction is not None and direction != metric_of(cast(Predictor, predictor)).direction:
        stated = direction
    if stated is not None:
        identity["direction"] = np.array(stated)
    write_arrays(path, {**identity, **predictor.to_arrays()})


def load(path: Path, space: SearchSpace) -> Saved:
    """Read a predictor of this space; its ``direction`` is the one that was saved.

    Raises:
        MismatchError: it was fitted on another space.
        DamagedFileError: the file is not a predictor.
        InvalidValueError: it is of a class outside of hwnas that is neither imported nor trusted.
    """
    arrays = read_arrays(path)
    kind = str(arrays.pop("kind", ""))
    fingerprint = str(arrays.pop("space", ""))
    direction = str(arrays.pop("direction", ""))
    if kind not in SAVED and "." not in kind:
        raise DamagedFileError(f"{path} is not a saved predictor (kind {kind!r}). Run `nas fit` again.")
    made = saved_class(str(path), kind)
    if fingerprint != space.fingerprint:
        raise MismatchError(f"{path} was fitted on another space than {space.name!r}. Run `nas fit` again.")
    try:
        predictor = made.from_arrays(space, arrays)
        if direction not in ("", getattr(predictor, "direction", "")):  # it is otherwise that of the metric's name
            object.__setattr__(predictor, "direction", Metric("it", "1", cast(Direction, direction)).direction)
        values = _tried(predictor, space)
    except UntrustedError:
        raise
    except Exception as error:  # arrays of other shapes or types fail wherever they are used first
        what = f"lacks {error}" if type(error) is KeyError else f"has other contents than it should ({error})"
        raise DamagedFileError(f"{path} {what}. Run `nas fit` again.") from error
    if values.shape != (TRIED + 1,) or values.dtype.kind != "f" or np.isnan(values).any():
        raise DamagedFileError(f"{path} does not predict a number per network. Run `nas fit` again.")
    return predictor


def saved_predictor(space: SearchSpace, *, file: str | Path, seed: int = 0) -> Predictor:
    """A predictor that `save` has written, made as others are: from the space, with a seed that it has no use for."""
    return cast(Predictor, load(Path(file), space))


def saved_class(asker: str, name: str) -> type[Saved]:
    """The class of predictors that a file names.

    Raises:
        UnknownNameError: there is none.
        InvalidValueError: it is outside of hwnas and neither imported nor trusted.
    """
    found = trust.find_class(asker, name, SAVED)
    if not callable(getattr(found, "from_arrays", None)):
        raise UnknownNameError(f"{asker} is of kind {name!r}, which has no `from_arrays` to be read with.")
    return cast(type[Saved], found)


def _tried(predictor: Any, space: SearchSpace) -> NDArray[Any]:
    """Predictions of some networks, the smallest first."""
    genes = np.concatenate([space.smallest.genes[None], space.sample(TRIED, np.random.default_rng(0))])
    if isinstance(predictor, Uncertain):
        values, deviations = predictor.predict_with_std(genes)
        return np.asarray(values + 0 * np.asarray(deviations).reshape(np.shape(values)))
    return np.asarray(predictor.predict(genes))
