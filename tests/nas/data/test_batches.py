"""Batches that worker processes load."""

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from nas.data import Batch, batches, in_order
from nas.data.base import Digest
from search_spaces.base.errors import InvalidValueError, NasError


@dataclass(frozen=True)
class Numbers:
    """Inputs that are their own numbers; one of them may be damaged, one may kill who takes it, one raise an error."""

    count: int
    damaged: int = -1
    deadly: int = -1
    faulty: int = -1
    in_memory = False

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, 2, 2)

    def take(self, rows: Tensor) -> Batch:
        if self.damaged in rows:
            raise InvalidValueError(f"cat {self.damaged} cannot be read. Delete it.")
        if self.deadly in rows:
            os._exit(7)
        if self.faulty in rows:
            raise RuntimeError("shapes do not match")
        return rows.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), rows

    def update(self, digest: Digest) -> None:
        digest.update(str(self.count).encode())


def test_workers_give_the_same_batches_in_the_same_order() -> None:
    here, there = (list(batches(Numbers(10), in_order(10, 3), workers=workers)) for workers in (0, 2))
    assert [len(rows) for _, rows in there] == [3, 3, 3, 1]
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_an_error_in_a_worker_is_the_one_that_it_would_be_here() -> None:
    with pytest.raises(InvalidValueError) as found:
        list(batches(Numbers(10, damaged=7), in_order(10, 3), workers=2))
    assert str(found.value) == "cat 7 cannot be read. Delete it."


def test_an_error_of_a_users_code_is_no_killed_worker() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match") as found:
        list(batches(Numbers(10, faulty=7), in_order(10, 3), workers=2))
    assert not isinstance(found.value, NasError)


def test_workers_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    list(batches(Numbers(10), in_order(10, 3), workers=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_killed_worker_is_told_with_the_way_out() -> None:
    with pytest.raises(NasError, match=r"was killed .*exited unexpectedly.* lower `training.workers=2`"):
        list(batches(Numbers(10, deadly=7), in_order(10, 3), workers=2))
