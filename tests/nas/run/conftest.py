"""Data that networks are trained on in a moment."""

import pytest

from nas.data import Data, Part, digits
from nas.tasks import Classification


@pytest.fixture(scope="session")
def few_digits() -> Data:
    """The first digits."""
    whole = digits()
    train, validation, test = (
        Part(part.images[:n], part.labels[:n])
        for part, n in zip((whole.train, whole.validation, whole.test_part()), (96, 60, 60), strict=True)
    )
    return Data("few_digits", train, validation, test, task=Classification(10), mean=whole.mean, std=whole.std)
