"""Quantities that are a ratio of two sums over positions, such as multiply-accumulates per byte."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass

from predictors.base import Values
from predictors.position_table import PositionTable, macs, traffic
from search_spaces.architecture import Genes
from search_spaces.base.errors import InvalidValueError
from search_spaces.metric import INTENSITY, Direction, Metric
from search_spaces.space import SearchSpace


@dataclass(frozen=True, eq=False)
class Ratio:
    """A predictor that divides one sum over positions by another; it is none itself.

    Args:
        of: the metric, with its direction.
        numerator: a sum over positions.
        denominator: another one over the same space, above 0.
    """

    of: Metric
    numerator: PositionTable
    denominator: PositionTable

    def __post_init__(self) -> None:
        if self.numerator.space.fingerprint != self.denominator.space.fingerprint:
            raise InvalidValueError(
                f"Both sums of a ratio must be over one space, but got {self.numerator.space.name!r} and "
                f"{self.denominator.space.name!r}. Make them of the same."
            )

    @property
    def metric(self) -> str:
        return self.of.name

    @property
    def unit(self) -> str:
        return self.of.unit

    @property
    def direction(self) -> Direction:
        return self.of.direction

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell it from others."""
        tables = (self.numerator, self.denominator)
        content = b"".join(array.tobytes() for table in tables for array in table.to_arrays().values())
        return hashlib.sha256(content).hexdigest()[:16]

    def predict(self, genes: Genes) -> Values:
        """Values of canonical genes (n, choices), shape (n,)."""
        return self.numerator.predict(genes) / self.denominator.predict(genes)

    def minimum(self) -> tuple[Genes, float]:
        """The architecture of the smallest value and that value, exact over the whole space.

        Dinkelbach, "On nonlinear fractional programming", Management Science 13 (1967): the smallest ratio r is where
        the least of numerator - r * denominator, which is a sum over positions, is 0.
        """
        return self._extreme(1.0)

    def maximum(self) -> tuple[Genes, float]:
        """The architecture of the largest value and that value, exact over the whole space; see `minimum`."""
        return self._extreme(-1.0)

    def _extreme(self, sign: float) -> tuple[Genes, float]:
        best = self.numerator.space.smallest.genes
        value = float(self.predict(best[None])[0])
        while True:
            difference = sign * (self.numerator.values - value * self.denominator.values)
            genes, _ = dataclasses.replace(self.numerator, values=difference, constant=0.0).minimum()
            found = float(self.predict(genes[None])[0])
            if sign * found >= sign * value:
                return best, value
            best, value = genes, found


def intensity(space: SearchSpace, word_bytes: int = 4, buffer_words: int = 0) -> Ratio:
    """Exact arithmetic intensity: multiply-accumulates per byte of memory traffic.

    The operational intensity of the roofline model (Williams et al., CACM 52(4), 2009), in multiply-accumulates.

    Args:
        space: of the networks.
        word_bytes: of a number in the format that the device computes with.
        buffer_words: that the chip's buffer holds; see `traffic`.
    """
    words = traffic(space, buffer_words)
    moved = dataclasses.replace(words, values=words.values * word_bytes, unit="bytes")
    return Ratio(INTENSITY, macs(space), moved)
