"""Threads of the CPU that compute.

Sums are taken in an order that depends on it, so only a fixed number gives the same result, bit for bit, on any number
of cores and whatever ``OMP_NUM_THREADS`` says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Torch computes with so many threads; None: with as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's and SciPy's linear algebra computes with one thread: what is solved here is small."""
    import scipy.linalg  # noqa: F401 - a library that is loaded later would not be limited

    with threadpool_limits(1, user_api="blas"):
        yield
