"""Standard errors of scores by the bootstrap."""

import numpy as np
import pytest

from nas.tasks.resampling import bootstrap_error, mean_error


def test_the_bootstrap_gives_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap_error(lambda counts: float(counts @ values / counts.sum()), len(values), draws=1000)
    assert found == pytest.approx(values.std() / 20, rel=0.1)
    assert found == bootstrap_error(lambda counts: float(counts @ values / counts.sum()), len(values), draws=1000)
    assert mean_error(values) == pytest.approx(values.std(ddof=1) / 20)


def test_a_single_sample_tells_no_error() -> None:
    assert bootstrap_error(lambda counts: 1.0, 1) is None
    assert mean_error(np.ones(1)) is None
