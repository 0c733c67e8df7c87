import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.core import arrays, pareto
from nas.core.arrays import beside, check_device, lexsort, on_host, placed, sum_of_columns
from search_spaces.base.errors import InvalidValueError


def test_an_array_stays_where_it_is_on_the_processor(rng: np.random.Generator) -> None:
    costs = rng.random((5, 2))
    (same,) = placed("cpu", costs)
    assert same is costs and on_host(costs) is costs and beside(costs, costs) is costs


def test_a_tensor_comes_back_as_it_went(rng: np.random.Generator) -> None:
    costs = rng.random((5, 2))
    tensor = beside(torch.zeros(1), costs)
    assert isinstance(tensor, torch.Tensor) and np.array_equal(on_host(tensor), costs)


@pytest.mark.parametrize("device", ["gpu", "cuda:1", "", "numpy"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(InvalidValueError, match=f"`device` of NSGA2 must be cpu or cuda, but got '{device}'"):
        check_device("NSGA2", device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="`device` of NSGA2 is cuda, but torch sees no GPU here; set it to cpu"):
        check_device("NSGA2", "cuda")


few_numbers = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 3.0])
rows = st.tuples(st.integers(0, 14), st.integers(1, 5)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=few_numbers)
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(rows)
def test_keys_sort_alike(costs: np.ndarray) -> None:
    keys = list(costs.T)
    expected = np.lexsort(keys)
    assert lexsort(keys).tolist() == lexsort([torch.from_numpy(k.copy()) for k in keys]).tolist() == expected.tolist()


@pytest.mark.parametrize("cells", [1, 20, arrays.CELLS])
def test_ranks_are_the_same_however_few_pairs_fit_into_memory(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto, "CELLS", cells)

    @settings(derandomize=True, deadline=None, max_examples=200)
    @given(rows)
    def check(costs: np.ndarray) -> None:
        expected = pareto.ranks(costs).tolist()
        tensor = torch.from_numpy(costs)
        assert pareto.ranks(tensor).tolist() == expected
        assert pareto._ranks_of_pairs(tensor).tolist() == expected  # for few goals too
        assert pareto._ranks_of_pairs(costs).tolist() == expected  # written for both kinds

    check()


@pytest.mark.parametrize("goals", [1, 2, 3, 4, 6])
def test_ranks_and_crowding_of_many_rows_are_equal_to_the_last_bit(goals: int, rng: np.random.Generator) -> None:
    costs = rng.random((3000, goals)).round(2 if goals > 3 else 16)
    tensor = torch.from_numpy(costs)
    rank = pareto.ranks(costs)
    assert np.array_equal(pareto.ranks(tensor).numpy(), rank)
    for given_rank in (None, rank):
        there = pareto.crowding(tensor, None if given_rank is None else torch.from_numpy(rank))
        assert np.array_equal(there.numpy(), pareto.crowding(costs, given_rank))


def test_a_chain_of_thousands_is_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto, "CELLS", 500 * 2000)
    steps = np.random.default_rng(0).permutation(2000)
    costs = np.repeat(steps[:, None].astype(float), 4, axis=1)
    assert np.array_equal(pareto.ranks(torch.from_numpy(costs)).numpy(), steps)


@pytest.mark.parametrize("columns", range(1, 8))
def test_sums_are_rounded_alike(columns: int, rng: np.random.Generator) -> None:
    terms = rng.normal(size=(500, 3, columns))
    total = sum_of_columns(terms)
    assert np.array_equal(sum_of_columns(torch.from_numpy(terms)).numpy(), total)
    assert np.array_equal(total, [[sum(map(float, part), 0.0) for part in row] for row in terms])
