"""Metrics that are a plain function of the user's: of a whole network, of its layers, or of many networks at once."""

from __future__ import annotations

import functools
import hashlib
import inspect
import numbers
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from predictors.base import Predictor, Values
from predictors.position_table import PositionTable
from search_spaces.architecture import Architecture, Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.layers import Layer
from search_spaces.metric import Direction, Metric
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Function:
    """A metric that a plain function gives: ``Function("energy_mj", "mJ", f)``.

    ``f`` takes an `Architecture` and gives a number: finite, or inf for a network that cannot run.

    Args:
        name: of the metric, as settings and files have it.
        unit: of its values.
        f: the function; the same network always has the same value.
        direction: whether less or more is better.
        layers: ``f`` takes a `Layer`; the value of a network is the sum over its layers, with a known minimum.
        batched: ``f`` takes the genes of n networks, shape (n, choices), and gives values (n,).
    """

    name: str
    unit: str
    f: Callable[[Any], Any]
    direction: Direction = "min"
    layers: bool = False
    batched: bool = False

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise InvalidValueError(f"The metric {self.name} needs a function, but got {self.f!r}.")
        if self.layers and self.batched:
            raise InvalidValueError(f"The metric {self.name} is of layers or batched, not both.")
        self.metric  # noqa: B018 - checked

    @property
    def metric(self) -> Metric:
        """Metric that it gives."""
        return Metric(self.name, self.unit, self.direction, "sum" if self.layers else None)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when the function's name or source does."""
        text = repr([self.name, self.unit, self.direction, self.layers, self.batched, _source(self.f)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def predictor(self, space: SearchSpace) -> Predictor:
        """The values of a space's networks.

        Raises:
            InvalidValueError: the function fails for a layer, or gives no number for it.
        """
        if self.layers:
            return PositionTable.of_layers(space, self.name, self.unit, self._of_layer)
        return FunctionPredictor(space, self)

    def called(self, argument: Any, shown: Any) -> Any:
        """Values that the function gives.

        Raises:
            InvalidValueError: it fails.
        """
        try:
            return self.f(argument)
        except (Exception, SystemExit) as error:  # whatever a user's function raises
            raise InvalidValueError(f"{self.title} fails for {shown}: {type(error).__name__}: {error}.") from error

    @property
    def title(self) -> str:
        """Name of it in messages."""
        return f"The function {_name(self.f)} of the metric {self.name}"

    def checked(self, value: Any, shown: Any) -> float:
        """A value that the function gave.

        Raises:
            InvalidValueError: it is no finite number and not inf.
        """
        try:
            number = float(value) if not isinstance(value, bool) and isinstance(value, numbers.Real) else np.nan
        except OverflowError:  # an integer that no float can hold
            number = np.nan
        if np.isnan(number) or np.isneginf(number):
            raise InvalidValueError(
                f"{self.title} must give a finite number, or inf, but gave {_shown(value)} for {shown}."
            )
        return number

    def _of_layer(self, layer: Layer) -> float:
        return self.checked(self.called(layer, layer), layer)


@dataclass(frozen=True, eq=False)
class FunctionPredictor:
    """The values of a space's networks by a plain function; exact, so there is nothing to fit."""

    space: SearchSpace
    function: Function

    @property
    def metric(self) -> str:
        return self.function.name

    @property
    def unit(self) -> str:
        return self.function.unit

    @functools.cached_property
    def fingerprint(self) -> str:
        """See `Function.fingerprint`."""
        return self.function.fingerprint

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,).

        Raises:
            InvalidValueError: the function fails, or gives something else than a number per network.
        """
        function = self.function
        if not function.batched:
            rows = [Architecture(self.space, row) for row in genes]
            return np.array([function.checked(function.called(row, row.values), row.values) for row in rows], float)
        given = function.called(genes.copy(), f"{len(genes)} networks")
        try:
            values = np.asarray(given)
        except Exception as error:  # rows of other lengths, tensors that need gradients
            raise InvalidValueError(
                f"{function.title} must give an array of numbers, but gave a {type(given).__name__} that is none for "
                f"{len(genes)} networks ({error})."
            ) from error
        if values.shape != (len(genes),) or values.dtype.kind not in "fiu":
            raise InvalidValueError(
                f"{function.title} must give numbers of shape ({len(genes)},), but gave {values.dtype} of shape "
                f"{values.shape}."
            )
        wrong = np.isnan(values) | np.isneginf(values)
        if wrong.any():
            row = int(wrong.argmax())
            function.checked(values[row], Architecture(self.space, genes[row]).values)
        return values.astype(np.float64)


def _shown(value: Any) -> str:
    """A value in few words, whatever it is."""
    try:
        return reprlib.repr(value)
    except Exception:  # an integer of thousands of digits, or a class of the user's
        return f"a {type(value).__name__}"


def _name(f: Any) -> str:
    f = f.func if isinstance(f, functools.partial) else f
    return str(getattr(f, "__qualname__", type(f).__qualname__))


def _source(f: Any) -> str:
    """A function's name and text, or its code where there is no text."""
    if isinstance(f, functools.partial):
        return repr([_source(f.func), f.args, sorted(f.keywords.items())])
    target = f if inspect.isroutine(f) else type(f)
    try:
        return f"{_name(f)} {inspect.getsource(target)}"
    except (OSError, TypeError):
        code = getattr(f, "__code__", None)
        return f"{_name(f)} {'' if code is None else code.co_code.hex()} {'' if code is None else code.co_consts}"
