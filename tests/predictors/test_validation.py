import numpy as np
import pytest

from predictors.validation import checked_pairs
from search_spaces import MobileNetV3
from search_spaces.base.errors import InvalidValueError


def test_rows_come_back_canonical_and_values_as_float64(space: MobileNetV3, rng: np.random.Generator) -> None:
    raw = rng.integers(0, space.cardinalities, (20, len(space.choices)))
    assert (raw != space.canonical(raw.astype(np.int16))).any()
    genes, values = checked_pairs(space, raw.tolist(), list(range(20)), minimum=1)
    assert np.array_equal(genes, space.canonical(raw.astype(np.int16))) and genes.dtype == np.int16
    assert values.dtype == np.float64 and values.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(3), {}, r"one value per row of genes, but got \(3,\) for 4 rows"),
        (np.ones((4, 1)), {}, r"\(4, 1\) for 4 rows"),
        (np.float64(1), {}, r"\(\) for 4 rows"),
        (np.ones(4), {"minimum": 5}, "At least 5 measured networks are needed to fit, but got 4"),
        (np.array([1, 1, np.nan, 1]), {}, "must be finite, but row 2 is nan"),
        (np.array([1, 1, 1, -np.inf]), {}, "must be finite, but row 3 is -inf"),
        (np.array([1, 0, 1, 1]), {"positive": True}, "must be finite and positive, but row 1 is 0"),
    ],
)
def test_refusals(space: MobileNetV3, values: np.ndarray, options: dict[str, int], message: str) -> None:
    genes = space.sample(4, np.random.default_rng(0))
    with pytest.raises(InvalidValueError, match=message):
        checked_pairs(space, genes, values, **{"minimum": 1, **options})  # type: ignore[arg-type]


def test_negative_values_are_fine_unless_they_must_be_positive(space: MobileNetV3) -> None:
    genes = space.sample(2, np.random.default_rng(0))
    assert checked_pairs(space, genes, [-1.0, 0.0], minimum=2)[1].tolist() == [-1.0, 0.0]


def test_genes_are_validated(space: MobileNetV3) -> None:
    genes = space.sample(2, np.random.default_rng(0))
    with pytest.raises(InvalidValueError, match="shape"):
        checked_pairs(space, genes[:, 1:], [1.0, 2.0], minimum=1)
    with pytest.raises(InvalidValueError, match="integers"):
        checked_pairs(space, genes.astype(float), [1.0, 2.0], minimum=1)
    genes[1, 0] = 99
    with pytest.raises(InvalidValueError, match="'resolution' of row 1"):
        checked_pairs(space, genes, [1.0, 2.0], minimum=1)
