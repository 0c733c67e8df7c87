import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from search_spaces.base.threads import one_blas_thread, torch_threads


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_linear_algebra_takes_one_thread_and_then_as_many_as_before() -> None:
    before = blas_threads()
    with one_blas_thread():
        assert blas_threads() == {1}
    assert blas_threads() == before


def test_libraries_that_are_loaded_later_are_limited_too() -> None:
    code = """
import numpy
from threadpoolctl import threadpool_info
from search_spaces.base.threads import one_blas_thread
with one_blas_thread():
    import scipy.linalg, sklearn
    print({library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == "{1}"


@pytest.mark.parametrize(("count", "inside"), [(3, 3), (None, 2)])
def test_torch_takes_as_many_as_it_is_told(count: int | None, inside: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), torch_threads(count):
            assert torch.get_num_threads() == inside
            _ = 1 // int(np.zeros(1)[0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
