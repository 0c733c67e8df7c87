"""Sets of rows against Python's."""

import numpy as np
import pytest

from nas.core import seen
from nas.core.seen import Seen, among, row_keys
from search_spaces import Genes, MobileNetV3


def test_keys_are_equal_for_equal_rows_only(everything: Genes, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = row_keys(everything)
    assert len(set(keys.tolist())) == len(everything)
    monkeypatch.setattr(seen, "ROWS", 7)
    assert np.array_equal(row_keys(everything.copy()), keys)
    assert row_keys(everything[:0]).shape == (0,)


def test_among() -> None:
    known = np.array([2, 5, 2**63 + 1], np.uint64)
    keys = np.array([5, 0, 2**63 + 1, 2**64 - 1, 2, 3], np.uint64)
    assert among(keys, known).tolist() == [True, False, True, False, True, False]
    assert among(keys, known[:0]).tolist() == [False] * 6 and among(keys[:0], known).tolist() == []


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_each_row_is_new_once_in_the_order_asked(small_space: MobileNetV3, batch: int) -> None:
    rng = np.random.default_rng(batch)
    rows, known = Seen(), dict[bytes, None]()
    for _ in range(40):
        asked = small_space.sample(batch, rng)
        expected = [row for row in dict.fromkeys(row.tobytes() for row in asked) if row not in known]
        new = rows.new(asked)
        assert [row.tobytes() for row in new] == expected
        rows.add(new[: batch // 2 + 1])  # the rest is cut off by a budget
        known |= dict.fromkeys(expected[: batch // 2 + 1])
    assert not len(Seen(np.frombuffer(b"".join(known), np.int16).reshape(len(known), -1)).new(new[:1]))
